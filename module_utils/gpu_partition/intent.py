"""From an intent (so many trainings of each kind at once) to the slices of a card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .placement import IllegalLayoutError, by_size, legal_layouts
from .workers import KINDS, fitting_trainings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .card import TrainingMemory
    from .models import Model, Profile

MAX: Final = "max"
# Kinds of training as `want` names them.
WANTED: Final = {f"{kind}_trainings": kind for kind in KINDS}


@dataclass(frozen=True)
class _Fit:
    """How many slices of a layout can run each kind, and how many there are; some can run either."""

    recognition: int
    segmentation: int
    total: int

    def most(self, kind: str, reserved: int) -> int:
        """Return how many slices run this kind when ``reserved`` run the other; negative where those do not fit."""
        of_kind, of_other = self.recognition, self.segmentation
        if kind == "segmentation":
            of_kind, of_other = of_other, of_kind
        return -1 if reserved > of_other else min(of_kind, self.total - reserved)


def _fit(model: Model, counts: Mapping[str, int], training_memory: TrainingMemory) -> _Fit | None:
    """Count the slices of a layout by what they can run; ``None`` where one of them can run nothing."""
    found = dict.fromkeys(KINDS, 0)
    for name, count in counts.items():
        kinds = fitting_trainings(model.profiles[name].memory_mib, training_memory)
        if not kinds:
            return None
        for kind in kinds:
            found[kind] += count
    return _Fit(found["recognition"], found["segmentation"], sum(counts.values()))


def _numbers(want: Mapping[str, int | str]) -> dict[str, int | str]:
    """Return how many trainings of each kind are wanted; kinds that are not named are not wanted.

    Raises ``IllegalLayoutError`` where a name or a number cannot be meant.
    """
    numbers: dict[str, int | str] = dict.fromkeys(KINDS, 0)
    reasons = []
    for name, number in want.items():
        if name not in WANTED:
            reasons.append(f"unknown kind of training {name}; known are {' and '.join(WANTED)}")
        elif number != MAX and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
            reasons.append(f"{name} must be a whole number from 0 or {MAX}, not {number!r}")
        else:
            numbers[WANTED[name]] = number
    if reasons:
        raise IllegalLayoutError(*reasons)
    if not any(numbers.values()):
        raise IllegalLayoutError(f"no training is wanted: give a number or {MAX} to {' or '.join(WANTED)}")
    return numbers


def _is_balanced(model: Model, profile: Profile) -> bool:
    """Return True where a profile's share of memory is at most one and a half times its share of compute.

    Not so a 1g.10gb of an A100 with 40 GB: two of eight memory slices, one of seven compute slices.
    """
    return 2 * profile.size * model.compute_slices <= 3 * profile.compute * model.memory_slices


def _candidates(model: Model, training_memory: TrainingMemory) -> list[tuple[dict[str, int], _Fit]]:
    """Return the layouts an intent may become: legal, no media extensions, every slice of use for some training."""
    found = []
    for counts in legal_layouts(model):
        fit = _fit(model, counts, training_memory)
        if fit is not None and not any(model.profiles[name].media for name in counts):
            found.append((counts, fit))
    return found


def _reservations(fit: _Fit, numbers: Mapping[str, int | str]) -> Iterator[tuple[int, int]]:
    """Yield how many slices of a layout run recognition and segmentation; none where the wanted numbers do not fit."""
    recognition, segmentation = numbers["recognition"], numbers["segmentation"]
    for reserved in range(1, fit.total + 1) if isinstance(segmentation, str) else (segmentation,):
        most = fit.most("recognition", reserved)
        if isinstance(recognition, str):
            if most >= 1:
                yield most, reserved
        elif most >= recognition:
            yield recognition, reserved


def _achieved(numbers: Mapping[str, int | str], recognition: int, segmentation: int) -> tuple[int, ...]:
    """Return what is to be as large as possible: the kinds wanted as `max`; with two of them the smaller one first."""
    if numbers["recognition"] == numbers["segmentation"] == MAX:
        return min(recognition, segmentation), recognition + segmentation
    return tuple(
        value for kind, value in (("recognition", recognition), ("segmentation", segmentation)) if numbers[kind] == MAX
    )


def _best(
    model: Model,
    candidates: list[tuple[dict[str, int], _Fit]],
    numbers: Mapping[str, int | str],
    training_memory: TrainingMemory,
) -> dict[str, int] | None:
    order = by_size(model)
    best_key: tuple[object, ...] = ()
    best = None
    for counts, fit in candidates:
        used = sum(model.profiles[name].size * count for name, count in counts.items())
        big_enough = [
            (profile.memory_mib, profile.compute)
            for profile in order
            if "segmentation" in fitting_trainings(profile.memory_mib, training_memory)
            for _ in range(counts.get(profile.name, 0))
        ]
        big_enough.sort(reverse=True)
        as_counts = tuple(counts.get(profile.name, 0) for profile in order)
        for recognition, segmentation in _reservations(fit, numbers):
            achieved = _achieved(numbers, recognition, segmentation)
            key = (achieved, used, big_enough[:segmentation], -fit.total, as_counts)
            if best is None or key > best_key:
                best, best_key = counts, key
    return best


def _refusal(
    model: Model,
    candidates: list[tuple[dict[str, int], _Fit]],
    numbers: Mapping[str, int | str],
    training_memory: TrainingMemory,
) -> Iterator[str]:
    """Say why the wanted numbers do not fit, and what would."""
    # `max` is at least one.
    least = {kind: 1 if number == MAX else int(number) for kind, number in numbers.items()}
    fits = [fit for _, fit in candidates]
    alone = {kind: max((fit.most(kind, 0) for fit in fits), default=0) for kind in KINDS}
    too_many = [kind for kind in KINDS if least[kind] > alone[kind]]
    for kind in too_many:
        if alone[kind]:
            yield f"{least[kind]} {kind} trainings at once do not fit on one {model.name}: at most {alone[kind]} do"
        else:
            yield f"no slice of {model.name} has the {training_memory[kind]} MiB that a {kind} training takes"
    if not too_many:
        rest = [
            f"beside {least[other]} for {other} at most {max(fit.most(kind, least[other]) for fit in fits)} for {kind}"
            for kind, other in (KINDS, KINDS[::-1])
        ]
        wanted = " and ".join(f"{least[kind]} {kind}" for kind in KINDS)
        yield f"{wanted} trainings at once do not fit on one {model.name}: {'; '.join(rest)}"


def plan_intent(model: Model, want: Mapping[str, int | str], training_memory: TrainingMemory) -> dict[str, int]:
    """Return the slices (profile: count) that fulfil an intent best.

    ``want`` maps ``recognition_trainings`` and ``segmentation_trainings`` to a number or ``max``; what is not named is
    0. The numbers are reservations. Each slice is one worker that does one training at a time, and it counts for one
    kind only: ``segmentation_trainings: 1`` asks for at least one slice that is big enough for segmentation, and
    ``recognition_trainings: max`` for as many further slices as possible. (When it comes to running, the slice kept
    for segmentation may train recognition while no segmentation waits.) ``max`` means at least one.

    Of all legal layouts on which every slice is of use, one that fulfils the fixed numbers; among those the one with
    the most for `max` (with two `max`, as even as possible, then as many as possible); then the least memory lost; then
    the largest slices for segmentation; then the fewest slices; then the larger profiles. Profiles with much memory
    and little compute (1g.10gb on an A100 with 40 GB: twice the memory of a 1g.5gb, but no more compute, so half the
    speed of a 2g.10gb) are used only where nothing else fulfils the intent; who prefers them names them as slices.
    Media extensions are never used: no training needs them.

    Raises ``IllegalLayoutError`` where the wanted numbers do not fit on one card, and says what would fit.
    """
    numbers = _numbers(want)
    if not model.supports_mig:
        raise IllegalLayoutError(f"{model.name} has no MIG: it cannot be cut into slices")
    candidates = _candidates(model, training_memory)
    balanced = [
        (counts, fit) for counts, fit in candidates if all(_is_balanced(model, model.profiles[name]) for name in counts)
    ]
    for group in (balanced, candidates):
        found = _best(model, group, numbers, training_memory)
        if found is not None:
            return found
    raise IllegalLayoutError(*_refusal(model, candidates, numbers, training_memory))
