"""Which combinations of slices a card can take, and where each slice comes to lie.

The rule is NVIDIA's: each instance begins at one of the start positions of its profile, instances do not overlap, the
card's compute slices suffice, each profile keeps to its maximum per card, and at most one instance has the media
extensions (+me). Source: MIG User Guide, sections Supported MIG Profiles and Getting Started with MIG (``-lgipp``).
On an empty card of today's models the limits and sums happen to decide alone; start positions decide which memory
slices are lost, and which slices can stay where they are when a layout changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from .models import Model, Profile


@dataclass(frozen=True, order=True)
class Slice:
    """One slice of a card: the memory slice it starts at, its profile, and how many memory slices it takes."""

    start: int
    profile: str
    size: int


class IllegalLayoutError(ValueError):
    """A layout that a card cannot take; ``reasons`` says why, in words."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def by_size(model: Model) -> tuple[Profile, ...]:
    """Return the profiles of a model, largest first; plain ones before those with media extensions."""
    return tuple(
        sorted(model.profiles.values(), key=lambda found: (-found.size, -found.compute, found.media, found.name))
    )


def describe(model: Model, counts: Mapping[str, int]) -> str:
    """Return a combination in words, largest slice first: ``4g.20gb + 4x 1g.5gb``."""
    order = [profile.name for profile in by_size(model) if profile.name in counts]
    order += sorted(name for name in counts if name not in model.profiles)
    return " + ".join(name if counts[name] == 1 else f"{counts[name]}x {name}" for name in order if counts[name])


def _placements(
    wanted: tuple[tuple[Profile, int], ...], taken: frozenset[int] = frozenset(), after: int = -1
) -> Iterator[tuple[Slice, ...]]:
    """Yield every placement. The first is the canonical one: largest profile first, each at its lowest free start."""
    if not wanted:
        yield ()
        return
    (profile, count), *rest = wanted
    for start in profile.starts:
        covered = frozenset(range(start, start + profile.size))
        # Slices of one profile are alike: each combination of their starts is tried once, in rising order.
        if start <= after or covered & taken:
            continue
        last = count == 1
        remaining = tuple(rest) if last else ((profile, count - 1), *rest)
        for others in _placements(remaining, taken | covered, -1 if last else start):
            yield (Slice(start, profile.name, profile.size), *others)


def _wanted(model: Model, counts: Mapping[str, int]) -> tuple[tuple[Profile, int], ...]:
    return tuple((profile, counts[profile.name]) for profile in by_size(model) if counts.get(profile.name, 0))


def _wrong_counts(model: Model, counts: Mapping[str, int]) -> Iterator[str]:
    for name, count in counts.items():
        if name not in model.profiles:
            yield f"{model.name} has no profile {name}; it has {', '.join(model.profiles)}"
        elif not isinstance(count, int) or isinstance(count, bool) or count < 0:
            yield f"{name}: the number of slices must be a whole number from 0, not {count!r}"


def _over_the_limits(model: Model, counts: Mapping[str, int]) -> Iterator[str]:
    layout = describe(model, counts)
    chosen = _wanted(model, counts)
    for profile, count in chosen:
        if count > profile.limit:
            yield f"{count}x {profile.name}: one {model.name} takes at most {profile.limit}"
    compute = sum(profile.compute * count for profile, count in chosen)
    if compute > model.compute_slices:
        yield f"{layout} needs {compute} of {model.compute_slices} compute slices"
    memory = sum(profile.size * count for profile, count in chosen)
    if memory > model.memory_slices:
        yield f"{layout} needs {memory} of {model.memory_slices} memory slices"
    media = {profile.name: count for profile, count in chosen if profile.media}
    if sum(media.values()) > 1:
        yield f"{describe(model, media)}: at most one slice of a card has media extensions (+me)"


def reasons_against(model: Model, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return every reason, in words, why a card cannot be cut into these slices; empty where it can.

    ``counts`` maps names of profiles to how many of each are wanted; zero is as good as not named. The empty
    combination is legal: it is a card in MIG mode without slices.
    """
    if not model.supports_mig:
        return (f"{model.name} has no MIG: it cannot be cut into slices",)
    wrong = tuple(_wrong_counts(model, counts))
    if wrong:
        return wrong
    over = tuple(_over_the_limits(model, counts))
    if over:
        return over
    wanted = _wanted(model, counts)
    if next(_placements(wanted), None) is None:
        starts = "; ".join(f"{profile.name} starts at {', '.join(map(str, profile.starts))}" for profile, _ in wanted)
        return (f"{describe(model, counts)} cannot lie side by side without overlap ({starts})",)
    return ()


def place(
    model: Model,
    counts: Mapping[str, int],
    *,
    present: Collection[Slice] = (),
    remembered: Collection[Slice] = (),
) -> tuple[Slice, ...]:
    """Return where the slices of a layout come to lie, sorted by start.

    Of all legal placements, one that keeps as many slices of ``present`` as possible (they need not be touched), among
    those one that has as many of ``remembered`` as possible (so that names come back), among those the canonical one:
    largest profile first, each at its lowest free start. The order of the arguments does not matter.

    Raises ``IllegalLayoutError`` where the card cannot take the layout.
    """
    reasons = reasons_against(model, counts)
    if reasons:
        raise IllegalLayoutError(*reasons)
    kept, known = frozenset(present), frozenset(remembered)
    # max() returns the first of several best ones, which is the canonical one among them.
    best = max(
        _placements(_wanted(model, counts)),
        key=lambda found: (len(kept.intersection(found)), len(known.intersection(found))),
    )
    return tuple(sorted(best))


def _within_the_sums(profiles: Sequence[Profile], compute: int, memory: int, media: int) -> Iterator[dict[str, int]]:
    """Yield the combinations that keep to the limits, to this much compute and memory, and to so many +me."""
    if not profiles:
        yield {}
        return
    profile, *rest = profiles
    most = min(profile.limit, compute // profile.compute, memory // profile.size)
    for count in range((min(most, media) if profile.media else most) + 1):
        chosen = {profile.name: count} if count else {}
        left = media - count if profile.media else media
        for others in _within_the_sums(rest, compute - count * profile.compute, memory - count * profile.size, left):
            yield chosen | others


def legal_layouts(model: Model) -> Iterator[dict[str, int]]:
    """Yield every combination of slices that a card can take, each once, without the empty one."""
    if model.supports_mig:
        for counts in _within_the_sums(by_size(model), model.compute_slices, model.memory_slices, 1):
            if counts and next(_placements(_wanted(model, counts)), None) is not None:
                yield counts
