"""From an intent to slices: CREMMA's case, examples, and properties against a search over every way to use a card."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils.gpu_partition.cards import DEFAULT_TRAINING_MEMORY
from module_utils.gpu_partition.intent import plan_intent
from module_utils.gpu_partition.models import Model, Profile, find_model, models
from module_utils.gpu_partition.placement import IllegalLayoutError, reasons_against

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Want = dict[str, int | str]

CUT = [model for model in models().values() if model.supports_mig]
# Twice the memory of the smallest slice, and no more compute.
MUCH_MEMORY = {
    "A100-40GB": "1g.10gb",
    "A100-80GB": "1g.20gb",
    "H100-80GB": "1g.20gb",
    "H100-94GB": "1g.24gb",
    "H200-141GB": "1g.35gb",
    "B200-180GB": "1g.45gb",
}


def want(segmentation: int | str | None = None, recognition: int | str | None = None) -> Want:
    wanted = {"segmentation_trainings": segmentation, "recognition_trainings": recognition}
    return {kind: number for kind, number in wanted.items() if number is not None}


def test_cremma() -> None:
    model = find_model("A100-40GB")
    counts = plan_intent(model, want(1, "max"), DEFAULT_TRAINING_MEMORY)
    assert counts == {"2g.10gb": 1, "1g.5gb": 5}
    used = sum(model.profiles[name].size * number for name, number in counts.items())
    assert 40 * used / model.memory_slices == 35


@pytest.mark.parametrize(
    ("model", "wanted", "counts"),
    [
        ("A100-40GB", want(None, "max"), {"1g.5gb": 7}),
        # Three trainings either way; this one leaves no memory.
        ("A100-40GB", want("max"), {"3g.20gb": 1, "2g.10gb": 2}),
        # As even as possible: 2 and 3.
        ("A100-40GB", want("max", "max"), {"2g.10gb": 2, "1g.5gb": 3}),
        # Of those that leave no memory and serve three, the largest slice for segmentation.
        ("A100-40GB", want(1, 2), {"3g.20gb": 1, "2g.10gb": 2}),
        ("A100-40GB", want(1), {"7g.40gb": 1}),
        ("A100-40GB", want(1, 1), {"4g.20gb": 1, "3g.20gb": 1}),
        # Just one is left for recognition.
        ("A100-40GB", want(3, "max"), {"2g.10gb": 3, "1g.5gb": 1}),
        # As many slices as two 3g.20gb, and one of them larger.
        ("A100-40GB", want(None, 2), {"4g.20gb": 1, "3g.20gb": 1}),
        ("A100-40GB", want(2, 3), {"2g.10gb": 2, "1g.5gb": 3}),
        # Not without the slices of much memory and little compute.
        ("A100-40GB", want(4), {"2g.10gb": 3, "1g.10gb": 1}),
        ("A100-40GB", want(1, 6), {"1g.10gb": 1, "1g.5gb": 6}),
        ("A100-80GB", want(1, "max"), {"2g.20gb": 1, "1g.10gb": 5}),
        # The smallest slice of an H100 is big enough for segmentation.
        ("H100-80GB", want(1, "max"), {"1g.10gb": 7}),
        ("A30-24GB", want(1, "max"), {"2g.12gb": 1, "1g.6gb": 2}),
        ("RTX-PRO-6000-96GB", want(1, "max"), {"1g.24gb": 4}),
        ("RTX-PRO-6000-96GB", want(0, 1), {"4g.96gb": 1}),
    ],
)
def test_examples(model: str, wanted: Want, counts: dict[str, int]) -> None:
    assert plan_intent(find_model(model), wanted, DEFAULT_TRAINING_MEMORY) == counts


def beside(recognition: int, segmentation: int, most_recognition: int, most_segmentation: int) -> str:
    return (
        f"{recognition} recognition and {segmentation} segmentation trainings at once do not fit on one A100-40GB: "
        f"beside {segmentation} for segmentation at most {most_recognition} for recognition; "
        f"beside {recognition} for recognition at most {most_segmentation} for segmentation"
    )


@pytest.mark.parametrize(
    ("model", "wanted", "reasons"),
    [
        ("A100-40GB", want(5), ("5 segmentation trainings at once do not fit on one A100-40GB: at most 4 do",)),
        (
            "A100-40GB",
            want(5, 8),
            (
                "8 recognition trainings at once do not fit on one A100-40GB: at most 7 do",
                "5 segmentation trainings at once do not fit on one A100-40GB: at most 4 do",
            ),
        ),
        (
            "A100-40GB",
            want(3, 4),
            (beside(4, 3, 2, 2),),
        ),
        (
            "A100-40GB",
            want("max", 7),
            (beside(7, 1, 6, 0),),
        ),
        ("T4-16GB", want(1), ("T4-16GB has no MIG: it cannot be cut into slices",)),
        (
            "A30-24GB",
            {"training": 1, "segmentation_trainings": "all", "recognition_trainings": True},
            (
                "unknown kind of training training; known are recognition_trainings and segmentation_trainings",
                "segmentation_trainings must be a whole number from 0 or max, not 'all'",
                "recognition_trainings must be a whole number from 0 or max, not True",
            ),
        ),
        ("A30-24GB", want(-1), ("segmentation_trainings must be a whole number from 0 or max, not -1",)),
        (
            "A30-24GB",
            want(0),
            ("no training is wanted: give a number or max to recognition_trainings or segmentation_trainings",),
        ),
    ],
)
def test_refusals_say_what_would_fit(model: str, wanted: Want, reasons: tuple[str, ...]) -> None:
    with pytest.raises(IllegalLayoutError) as refusal:
        plan_intent(find_model(model), wanted, DEFAULT_TRAINING_MEMORY)
    assert refusal.value.reasons == reasons


def test_trainings_too_large_for_any_slice() -> None:
    memory = {"recognition": 4800, "segmentation": 50000}
    with pytest.raises(IllegalLayoutError) as refusal:
        plan_intent(find_model("A100-40GB"), want(1, "max"), memory)
    assert refusal.value.reasons == ("no slice of A100-40GB has the 50000 MiB that a segmentation training takes",)


def test_no_training_fits_on_any_slice() -> None:
    memory = {"recognition": 50000, "segmentation": 60000}
    with pytest.raises(IllegalLayoutError) as refusal:
        plan_intent(find_model("A100-40GB"), want("max", 1), memory)
    assert refusal.value.reasons == (
        "no slice of A100-40GB has the 50000 MiB that a recognition training takes",
        "no slice of A100-40GB has the 60000 MiB that a segmentation training takes",
    )


def test_a_larger_slice_for_segmentation_counts_more_than_fewer_slices() -> None:
    profiles = {
        f"{size}g.{size}gb": Profile(f"{size}g.{size}gb", size, size, 1000 * size, 2, starts, media=False)
        for size, starts in ((4, (0,)), (3, (0, 3)), (1, (4, 5)))
    }
    model = Model("ODD", (), 6100, 6, 6, profiles, "reset", mode_survives_reboot=True, sources=())
    memory = {"recognition": 1000, "segmentation": 3000}
    assert plan_intent(model, want(1, 1), memory) == {"4g.4gb": 1, "1g.1gb": 2}
    assert plan_intent(model, want(2), memory) == {"3g.3gb": 2}


def test_media_extensions_are_never_planned() -> None:
    profiles = {
        name: Profile(name, 1, 1, 1000, 1, (0, 1), media=name.endswith("+me")) for name in ("1g.1gb", "1g.1gb+me")
    }
    model = Model("ODD", (), 2100, 2, 2, profiles, "reset", mode_survives_reboot=True, sources=())
    memory = {"recognition": 1000, "segmentation": 1000}
    assert plan_intent(model, want(None, "max"), memory) == {"1g.1gb": 1}


def test_every_planned_slice_is_of_use() -> None:
    # 1g.5gb is too small for either: what a 2g.10gb leaves stays empty.
    memory = {"recognition": 6000, "segmentation": 9800}
    assert plan_intent(find_model("A100-40GB"), want(None, "max"), memory) == {"3g.20gb": 1, "2g.10gb": 2}


def layouts(model: Model, memory: Mapping[str, int], names: list[str]) -> Iterator[list[str]]:
    """Yield every legal layout of some profiles, as a list with one name per slice."""
    for numbers in itertools.product(*(range(model.profiles[name].limit + 1) for name in names)):
        counts = dict(zip(names, numbers, strict=True))
        slices = [name for name, number in counts.items() for _ in range(number)]
        too_small = any(model.profiles[name].memory_mib < min(memory.values()) for name in slices)
        if slices and not too_small and not reasons_against(model, counts):
            yield slices


def uses(model: Model, memory: Mapping[str, int], slices: list[str]) -> set[tuple[int, int]]:
    """Return (recognition, segmentation) of every way to give each slice to one kind of training that fits on it."""
    kinds = [
        [kind for kind in ("recognition", "segmentation") if memory[kind] <= model.profiles[name].memory_mib]
        for name in slices
    ]
    ways = itertools.product(*kinds)
    return {(way.count("recognition"), way.count("segmentation")) for way in ways}


def achieved(wanted: Want, way: tuple[int, int]) -> tuple[int, ...] | None:
    """Return what is to be maximised, or None where this way does not fulfil the intent."""
    numbers = (wanted.get("recognition_trainings", 0), wanted.get("segmentation_trainings", 0))
    for have, number in zip(way, numbers, strict=True):
        if have < (1 if number == "max" else int(number)):
            return None
    if numbers == ("max", "max"):
        return min(way), sum(way)
    return tuple(have for have, number in zip(way, numbers, strict=True) if number == "max")


def merits(model: Model, memory: Mapping[str, int], wanted: Want, slices: list[str]) -> list[tuple[object, int]]:
    """Return for each way to use a layout that fulfils the intent: what it achieves, and the memory slices in use."""
    used = sum(model.profiles[name].size for name in slices)
    found = (achieved(wanted, way) for way in uses(model, memory, slices))
    return [(value, used) for value in found if value is not None]


numbers = st.one_of(st.integers(0, 7), st.just("max"))


@given(
    st.sampled_from(CUT),
    st.builds(want, numbers, numbers),
    st.integers(3000, 25000),
    st.integers(3000, 45000),
)
@settings(max_examples=80, deadline=None)
def test_no_other_layout_is_better(model: Model, wanted: Want, recognition: int, segmentation: int) -> None:
    memory = {"recognition": recognition, "segmentation": segmentation}
    plain = [name for name in model.profiles if not name.endswith("+me")]
    usual = [name for name in plain if name != MUCH_MEMORY.get(model.name)]
    best: list[tuple[object, int]] = []
    for names in (usual, plain):
        if not best and any(wanted.values()):
            best = [
                merit for slices in layouts(model, memory, names) for merit in merits(model, memory, wanted, slices)
            ]
    if not best:
        with pytest.raises(IllegalLayoutError):
            plan_intent(model, wanted, memory)
        return
    counts = plan_intent(model, wanted, memory)
    assert reasons_against(model, counts) == ()
    slices = [name for name, number in counts.items() for _ in range(number)]
    assert max(merits(model, memory, wanted, slices)) == max(best)
    assert plan_intent(model, dict(reversed(wanted.items())), dict(reversed(memory.items()))) == counts
