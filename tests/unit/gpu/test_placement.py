"""Legality and placement of slices, against a search that was written another way and against NVIDIA's transcripts."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils.gpu_partition.models import Model, Profile, find_model, models
from module_utils.gpu_partition.placement import (
    IllegalLayoutError,
    Slice,
    by_size,
    describe,
    legal_layouts,
    place,
    reasons_against,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Arrangement = frozenset[tuple[int, str, int]]
Counts = frozenset[tuple[str, int]]

CUT = [model for model in models().values() if model.supports_mig]
BY_NAME = {model.name: model for model in CUT}


def fill(model: Model, position: int) -> Iterator[list[tuple[int, str, int]]]:
    """Walk over the memory slices: each stays empty, or something begins there."""
    if position >= model.memory_slices:
        yield []
        return
    yield from fill(model, position + 1)
    for profile in model.profiles.values():
        if position in profile.starts and position + profile.size <= model.memory_slices:
            for rest in fill(model, position + profile.size):
                yield [(position, profile.name, profile.size), *rest]


def allowed(model: Model, arrangement: Iterable[tuple[int, str, int]]) -> bool:
    numbers = Counter(name for _, name, _ in arrangement)
    compute = sum(model.profiles[name].compute * number for name, number in numbers.items())
    media = sum(number for name, number in numbers.items() if name.endswith("+me"))
    within = all(number <= model.profiles[name].limit for name, number in numbers.items())
    return within and compute <= model.compute_slices and media <= 1


def search(model: Model) -> dict[Counts, list[Arrangement]]:
    """Return every legal combination with all of its arrangements on the card, by walking over the whole card."""
    found: dict[Counts, list[Arrangement]] = defaultdict(list)
    for arrangement in fill(model, 0):
        if allowed(model, arrangement):
            found[frozenset(Counter(name for _, name, _ in arrangement).items())].append(frozenset(arrangement))
    return dict(found)


@cache
def oracle(name: str) -> dict[Counts, list[Arrangement]]:
    return search(BY_NAME[name])


def plain(slices: Iterable[Slice]) -> Arrangement:
    return frozenset((found.start, found.profile, found.size) for found in slices)


def rank(model: Model, arrangement: Arrangement) -> list[tuple[int, int, bool, str, int]]:
    """Order of arrangements of one combination: the largest slices lie lowest."""
    keys = []
    for start, name, size in arrangement:
        keys.append((-size, -model.profiles[name].compute, name.endswith("+me"), name, start))
    return sorted(keys)


@pytest.mark.parametrize("model", CUT, ids=lambda model: model.name)
def test_every_combination_is_accepted_or_refused_rightly(model: Model) -> None:
    legal = oracle(model.name)
    names = list(model.profiles)
    tried = accepted = 0
    for numbers in itertools.product(*(range(model.profiles[name].limit + 2) for name in names)):
        counts = dict(zip(names, numbers, strict=True))
        verdict = not reasons_against(model, counts)
        assert verdict == (frozenset((name, number) for name, number in counts.items() if number) in legal), counts
        tried += 1
        accepted += verdict
    assert tried == math.prod(found.limit + 2 for found in model.profiles.values())
    assert accepted == len(legal)


@pytest.mark.parametrize("model", CUT, ids=lambda model: model.name)
def test_legal_layouts_are_all_of_them_once(model: Model) -> None:
    found = [frozenset(counts.items()) for counts in legal_layouts(model)]
    assert len(found) == len(set(found))
    assert set(found) == set(oracle(model.name)) - {frozenset()}


@pytest.mark.parametrize("model", CUT, ids=lambda model: model.name)
def test_every_legal_combination_is_placed_canonically(model: Model) -> None:
    for counts, arrangements in oracle(model.name).items():
        placed = place(model, dict(counts))
        assert list(placed) == sorted(placed)
        assert plain(placed) == min(arrangements, key=lambda found: rank(model, found)), counts


# Profile IDs of the A100 (nvidia-smi mig -lgip), so that transcripts can stand here as they were printed.
A100_IDS = {0: "7g.40gb", 5: "4g.20gb", 9: "3g.20gb", 14: "2g.10gb", 15: "1g.10gb", 19: "1g.5gb", 20: "1g.5gb+me"}


def of_ids(ids: Iterable[int]) -> dict[str, int]:
    return dict(Counter(A100_IDS[number] for number in ids))


@pytest.mark.parametrize(
    "ids",
    [
        # MIG User Guide, Getting Started with MIG, nvidia-smi mig -cgi: examples 1 to 3 and others of that section.
        [5, 14, 19],
        [9, 14, 19, 19],
        [14, 19, 19, 19, 19, 19],
        [9, 9],
        [14, 14, 14, 19],
        [19] * 7,
        [15] * 4,
        [19, 19, 14, 9],
        [20, *[19] * 6],
        [0],
    ],
)
def test_layouts_of_the_guide_are_legal(ids: list[int]) -> None:
    assert reasons_against(find_model("A100-40GB"), of_ids(ids)) == ()


@pytest.mark.parametrize(
    ("ids", "reasons"),
    [
        ([14, *[19] * 6], ("2g.10gb + 6x 1g.5gb needs 8 of 7 compute slices",)),
        (
            [5, 5],
            ("2x 4g.20gb: one A100-40GB takes at most 1", "2x 4g.20gb needs 8 of 7 compute slices"),
        ),
        (
            [14] * 4,
            ("4x 2g.10gb: one A100-40GB takes at most 3", "4x 2g.10gb needs 8 of 7 compute slices"),
        ),
        (
            [9, 14, 14, 19],
            (
                "3g.20gb + 2x 2g.10gb + 1g.5gb needs 8 of 7 compute slices",
                "3g.20gb + 2x 2g.10gb + 1g.5gb needs 9 of 8 memory slices",
            ),
        ),
        (
            [20, 20],
            (
                "2x 1g.5gb+me: one A100-40GB takes at most 1",
                "2x 1g.5gb+me: at most one slice of a card has media extensions (+me)",
            ),
        ),
        ([9, 9, 19], ("2x 3g.20gb + 1g.5gb needs 9 of 8 memory slices",)),
        ([5, *[19] * 4], ("4g.20gb + 4x 1g.5gb needs 8 of 7 compute slices",)),
    ],
)
def test_layouts_that_a_driver_refuses_are_illegal(ids: list[int], reasons: tuple[str, ...]) -> None:
    model = find_model("A100-40GB")
    assert reasons_against(model, of_ids(ids)) == reasons
    with pytest.raises(IllegalLayoutError) as refusal:
        place(model, of_ids(ids))
    assert refusal.value.reasons == reasons_against(model, of_ids(ids))


@pytest.mark.parametrize(
    "counts",
    [
        # stackhpc/ansible-slurm-appliance docs/mig.md, the example for an H100.
        {"4g.40gb": 1, "1g.10gb": 4},
        # NVIDIA/deepops config.example/nvidia-mig-config.yml, label all-7g.80gb.
        {"7g.80gb": 2},
    ],
)
@pytest.mark.parametrize("model", ["A100-80GB", "H100-80GB"])
def test_impossible_published_examples_are_refused(model: str, counts: dict[str, int]) -> None:
    assert reasons_against(find_model(model), counts)
    assert frozenset(counts.items()) not in oracle(model)


# NVIDIA/mig-parted deployments/systemd/config-default.yaml @bd7160f4: the labels all-<profile>.
LARGEST_OF_EIGHT = (7, 1, 4, 3, 2, 1, 1)
LARGEST = {
    "A30-24GB": {"1g.6gb": 4, "1g.6gb+me": 1, "2g.12gb": 2, "2g.12gb+me": 1, "4g.24gb": 1},
    "RTX-PRO-6000-96GB": {"2g.48gb": 2, "4g.96gb": 1},
} | {
    model: dict(zip(names.split(), LARGEST_OF_EIGHT, strict=True))
    for model, names in {
        "A100-40GB": "1g.5gb 1g.5gb+me 1g.10gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb",
        "A100-80GB": "1g.10gb 1g.10gb+me 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb",
        "H100-80GB": "1g.10gb 1g.10gb+me 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb",
        "H100-94GB": "1g.12gb 1g.12gb+me 1g.24gb 2g.24gb 3g.47gb 4g.47gb 7g.94gb",
        "H200-141GB": "1g.18gb 1g.18gb+me 1g.35gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb",
        "B200-180GB": "1g.23gb 1g.23gb+me 1g.45gb 2g.45gb 3g.90gb 4g.90gb 7g.180gb",
    }.items()
}
BALANCED = {
    "A30-24GB": {"1g.6gb": 2, "2g.12gb": 1},
    "A100-40GB": {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1},
    "A100-80GB": {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1},
    "H100-80GB": {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1},
    "H100-94GB": {"1g.12gb": 2, "2g.24gb": 1, "3g.47gb": 1},
    "H200-141GB": {"1g.18gb": 2, "2g.35gb": 1, "3g.71gb": 1},
    "B200-180GB": {"1g.23gb": 2, "2g.45gb": 1, "3g.90gb": 1},
    "RTX-PRO-6000-96GB": {"1g.24gb": 2, "2g.48gb": 1},
}


@pytest.mark.parametrize("model", CUT, ids=lambda model: model.name)
def test_the_layouts_nvidia_ships_are_the_largest(model: Model) -> None:
    for profile, number in LARGEST[model.name].items():
        assert reasons_against(model, {profile: number}) == ()
        assert reasons_against(model, {profile: number + 1}) != ()
    assert reasons_against(model, BALANCED[model.name]) == ()


def test_placement_of_cremma() -> None:
    placed = place(find_model("A100-40GB"), {"1g.5gb": 5, "2g.10gb": 1})
    assert placed == (Slice(0, "2g.10gb", 2), *(Slice(start, "1g.5gb", 1) for start in range(2, 7)))


def test_one_slice_more_moves_nothing() -> None:
    model = find_model("A100-40GB")
    # As the guide's third example lies: the driver put the 2g.10gb at 4.
    present = (Slice(4, "2g.10gb", 2), *(Slice(start, "1g.5gb", 1) for start in (0, 1, 2, 3)))
    expected = tuple(sorted((*present, Slice(6, "1g.5gb", 1))))
    assert place(model, {"2g.10gb": 1, "1g.5gb": 5}, present=present) == expected


def test_what_is_remembered_comes_back_where_nothing_is_present() -> None:
    model = find_model("A100-40GB")
    remembered = (Slice(4, "2g.10gb", 2), *(Slice(start, "1g.5gb", 1) for start in (0, 1, 2, 3, 6)))
    assert place(model, {"2g.10gb": 1, "1g.5gb": 5}, remembered=remembered) == tuple(sorted(remembered))


def test_what_is_present_counts_more_than_what_is_remembered() -> None:
    model = find_model("A30-24GB")
    counts = {"2g.12gb": 1, "1g.6gb": 2}
    remembered = (Slice(2, "2g.12gb", 2), Slice(0, "1g.6gb", 1), Slice(1, "1g.6gb", 1))
    placed = place(model, counts, present=[Slice(3, "1g.6gb", 1)], remembered=remembered)
    assert placed == (Slice(0, "2g.12gb", 2), Slice(2, "1g.6gb", 1), Slice(3, "1g.6gb", 1))


def test_no_slices_is_a_legal_layout_without_a_placement() -> None:
    assert reasons_against(find_model("A30-24GB"), {"1g.6gb": 0}) == ()
    assert place(find_model("A30-24GB"), {}, present=[Slice(0, "1g.6gb", 1)]) == ()


@pytest.mark.parametrize(
    ("model", "counts", "reasons"),
    [
        (
            "A30-24GB",
            {"1g.5gb": 1, "2g.12gb": -1},
            (
                "A30-24GB has no profile 1g.5gb; it has 4g.24gb, 2g.12gb, 2g.12gb+me, 1g.6gb, 1g.6gb+me",
                "2g.12gb: the number of slices must be a whole number from 0, not -1",
            ),
        ),
        ("A30-24GB", {"2g.12gb": True}, ("2g.12gb: the number of slices must be a whole number from 0, not True",)),
        ("A30-24GB", {"2g.12gb": "2"}, ("2g.12gb: the number of slices must be a whole number from 0, not '2'",)),
        (
            "A30-24GB",
            {"2g.12gb+me": 1, "1g.6gb+me": 1},
            ("2g.12gb+me + 1g.6gb+me: at most one slice of a card has media extensions (+me)",),
        ),
        ("T4-16GB", {}, ("T4-16GB has no MIG: it cannot be cut into slices",)),
    ],
)
def test_reasons_in_words(model: str, counts: dict[str, int], reasons: tuple[str, ...]) -> None:
    assert reasons_against(find_model(model), counts) == reasons


def odd_model(profiles: Iterable[Profile], slices: int = 8, compute: int = 7) -> Model:
    """Return a card that nobody sells, to try the rule where the sums would allow more than the positions."""
    named = {profile.name: profile for profile in profiles}
    return Model("ODD", (), 1000, compute, slices, named, "reset", mode_survives_reboot=True, sources=())


def profile(name: str, compute: int, size: int, limit: int, starts: Iterable[int]) -> Profile:
    return Profile(name, compute, size, 100 * size, limit, tuple(starts), name.endswith("+me"))


def test_positions_decide_where_sums_would_allow_it() -> None:
    model = odd_model([profile("2g.2gb", 2, 2, 3, (0, 3)), profile("1g.1gb", 1, 1, 7, (0, 1, 5))], slices=6)
    assert reasons_against(model, {"2g.2gb": 2, "1g.1gb": 1}) == ()
    assert reasons_against(model, {"2g.2gb": 2, "1g.1gb": 2}) == (
        (
            "2x 2g.2gb + 2x 1g.1gb cannot lie side by side without overlap "
            "(2g.2gb starts at 0, 3; 1g.1gb starts at 0, 1, 5)"
        ),
    )


def test_words_for_a_combination() -> None:
    model = find_model("A100-40GB")
    assert describe(model, {"1g.5gb": 4, "1g.5gb+me": 1, "4g.20gb": 1, "1g.10gb": 0, "2g.10gb": 1, "9g.9gb": 2}) == (
        "4g.20gb + 2g.10gb + 4x 1g.5gb + 1g.5gb+me + 2x 9g.9gb"
    )
    assert [found.name for found in by_size(model)] == [
        "7g.40gb",
        "4g.20gb",
        "3g.20gb",
        "2g.10gb",
        "1g.10gb",
        "1g.5gb",
        "1g.5gb+me",
    ]


@st.composite
def odd_models(draw: st.DrawFn) -> Model:
    slices = draw(st.integers(2, 6))
    profiles = []
    for number, media in enumerate(draw(st.lists(st.booleans(), min_size=1, max_size=3))):
        size = draw(st.integers(1, min(3, slices)))
        starts = draw(st.sets(st.integers(0, slices - size), min_size=1))
        compute, limit = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        name = f"{compute}g.{number}gb{'+me' if media else ''}"
        profiles.append(profile(name, compute, size, limit, sorted(starts)))
    return odd_model(profiles, slices, draw(st.integers(1, 7)))


@given(odd_models())
@settings(max_examples=60, deadline=None)
def test_the_rule_holds_for_cards_nobody_sells(model: Model) -> None:
    legal = search(model)
    for numbers in itertools.product(*(range(found.limit + 2) for found in model.profiles.values())):
        counts = {name: number for name, number in zip(model.profiles, numbers, strict=True) if number}
        assert (not reasons_against(model, counts)) == (frozenset(counts.items()) in legal)
    assert {frozenset(counts.items()) for counts in legal_layouts(model)} == set(legal) - {frozenset()}


@st.composite
def situations(draw: st.DrawFn) -> tuple[Model, dict[str, int], list[Slice], list[Slice]]:
    """A legal layout, and what may be found and remembered: real arrangements with pieces missing, and nonsense."""
    model = draw(st.sampled_from(CUT))
    legal = sorted(oracle(model.name), key=sorted)
    counts = dict(draw(st.sampled_from(legal)))
    anything = [Slice(start, found.name, found.size) for found in model.profiles.values() for start in found.starts] + [
        Slice(1, "3g.11gb", 3)
    ]

    def some() -> list[Slice]:
        arrangements = oracle(model.name)[draw(st.sampled_from(legal))]
        real = sorted(Slice(*found) for found in draw(st.sampled_from(arrangements)))
        kept = [found for found in real if draw(st.integers(0, 3))]
        return kept + draw(st.lists(st.sampled_from(anything), max_size=2))

    return model, counts, some(), some()


@given(situations(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_placement_keeps_as_much_as_any_search_finds(
    situation: tuple[Model, dict[str, int], list[Slice], list[Slice]], chance: object
) -> None:
    model, counts, present, remembered = situation
    placed = place(model, counts, present=present, remembered=remembered)
    arrangements = oracle(model.name)[frozenset(counts.items())]
    assert plain(placed) in arrangements

    def merit(found: Arrangement) -> tuple[int, int]:
        return len(found & plain(present)), len(found & plain(remembered))

    best = max(map(merit, arrangements))
    assert merit(plain(placed)) == best
    assert plain(placed) == min(
        (found for found in arrangements if merit(found) == best), key=lambda found: rank(model, found)
    )

    shuffled: list[list[Slice]] = [list(present), list(remembered)]
    for slices in shuffled:
        chance.shuffle(slices)  # type: ignore[attr-defined]
    backwards: Mapping[str, int] = dict(reversed(counts.items()))
    assert place(model, backwards, present=shuffled[0], remembered=set(shuffled[1])) == placed


@given(situations())
@settings(max_examples=100, deadline=None)
def test_a_placement_stays_where_it_is(situation: tuple[Model, dict[str, int], list[Slice], list[Slice]]) -> None:
    model, counts, present, remembered = situation
    placed = place(model, counts, present=present, remembered=remembered)
    assert place(model, counts, present=placed) == placed
    assert place(model, counts, remembered=placed) == placed
