"""The workers of a host's cards: their number, names, memory and what they can train."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils.gpu_partition.card import Card
from module_utils.gpu_partition.cards import DEFAULT_TRAINING_MEMORY, parse_cards
from module_utils.gpu_partition.models import find_model, models
from module_utils.gpu_partition.placement import IllegalLayoutError, Slice, legal_layouts, place
from module_utils.gpu_partition.workers import GpuWorker, fitting_trainings, gpu_workers, slice_name

MEMORY = DEFAULT_TRAINING_MEMORY
BOTH = ("recognition", "segmentation")
A100: dict[str, object] = {"model": "A100-40GB", "backend": "mig", "slices": {"2g.10gb": 1, "1g.5gb": 5}}
LAYOUTS = [(model, counts) for model in models().values() if model.supports_mig for counts in legal_layouts(model)]


def cards(*raw: dict[str, object]) -> tuple[Card, ...]:
    found, problems = parse_cards([{"index": number, **card} for number, card in enumerate(raw)], MEMORY)
    assert problems == ()
    return found


def test_two_a100_of_cremma_give_twelve_workers() -> None:
    workers = gpu_workers(cards(A100, A100), MEMORY)
    assert workers == tuple(
        worker
        for card in ("gpu0", "gpu1")
        for worker in (
            GpuWorker(f"{card}-2g.10gb-0", card, "2g.10gb", 0, 9856, BOTH),
            *(
                GpuWorker(f"{card}-1g.5gb-{start}", card, "1g.5gb", start, 4864, ("recognition",))
                for start in range(2, 7)
            ),
        )
    )


def test_workers_lie_where_the_slices_are() -> None:
    placed = {"gpu1": [Slice(6, "1g.5gb", 1), Slice(4, "2g.10gb", 2)]}
    workers = gpu_workers(cards(A100, A100), MEMORY, placed)
    assert [worker.name for worker in workers[:2]] == ["gpu0-2g.10gb-0", "gpu0-1g.5gb-2"]
    assert [(worker.name, worker.start) for worker in workers[6:]] == [("gpu1-2g.10gb-4", 4), ("gpu1-1g.5gb-6", 6)]
    assert gpu_workers(cards(A100), MEMORY, {"gpu0": []}) == ()


def test_a_profile_the_card_does_not_have_is_no_worker() -> None:
    with pytest.raises(KeyError):
        gpu_workers(cards(A100), MEMORY, {"gpu0": [Slice(0, "1g.6gb", 1)]})
    with pytest.raises(IllegalLayoutError):
        gpu_workers([Card("gpu0", find_model("A100-40GB"), "index", "0", "mig", {"1g.5gb": 8})], MEMORY)


def test_whole_and_shared_cards() -> None:
    workers = gpu_workers(
        cards(
            {"model": "RTX-6000-24GB"},
            {"model": "RTX-6000-24GB", "workers": 3},
            {"model": "RTX-A6000-48GB", "workers": 4, "sharing": "mps", "mps_memory_mib": 9000, "name": "big"},
            {"model": "A100-40GB", "backend": "vgpu", "vgpu_type": "A100-10C"},
        ),
        MEMORY,
    )
    assert workers == (
        GpuWorker("gpu0-0", "gpu0", "", None, 24576, BOTH),
        *(GpuWorker(f"gpu1-{number}", "gpu1", "", None, 8192, ("recognition",)) for number in range(3)),
        *(GpuWorker(f"big-{number}", "big", "", None, 9000, ("recognition",)) for number in range(4)),
    )


def test_media_extensions_are_written_without_a_plus_sign() -> None:
    assert slice_name("gpu0", Slice(6, "1g.5gb+me", 1)) == "gpu0-1g.5gb.me-6"


@pytest.mark.parametrize(
    ("memory", "kinds"), [(4799, ()), (4800, ("recognition",)), (9799, ("recognition",)), (9800, BOTH)]
)
def test_what_fits(memory: int, kinds: tuple[str, ...]) -> None:
    assert fitting_trainings(memory, MEMORY) == kinds


def test_segmentation_may_be_the_smaller_one() -> None:
    assert fitting_trainings(5000, {"recognition": 6000, "segmentation": 5000}) == ("segmentation",)


@given(st.lists(st.sampled_from(LAYOUTS), max_size=3))
@settings(max_examples=60, deadline=None)
def test_one_worker_for_each_slice_with_a_name_of_its_own(layouts: list[tuple[object, dict[str, int]]]) -> None:
    found = [
        Card(f"gpu{number}", model, "index", str(number), "mig", counts)  # type: ignore[arg-type]
        for number, (model, counts) in enumerate(layouts)
    ]
    workers = gpu_workers(found, MEMORY)
    assert len(workers) == sum(sum(card.slices.values()) for card in found)
    names = {worker.name for worker in workers}
    assert len(names) == len(workers)
    # Names of systemd units: letters, digits, and these.
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in names)
    assert names == {slice_name(card.name, piece) for card in found for piece in place(card.model, card.slices)}
    for worker in workers:
        card = next(card for card in found if card.name == worker.card)
        assert worker.name.rsplit("-", 1)[1] == str(worker.start)
        assert worker.memory_mib == card.model.profiles[worker.profile].memory_mib
