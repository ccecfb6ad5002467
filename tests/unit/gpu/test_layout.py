"""The files of a node: its layout, and what it remembers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.gpu_partition.cards import DEFAULT_TRAINING_MEMORY
from module_utils.gpu_partition.layout import DRAIN_TIMEOUT_S, Layout, LayoutError, Memory, read_layout
from module_utils.gpu_partition.placement import Slice

if TYPE_CHECKING:
    from pathlib import Path


def written(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "layout.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def problems(tmp_path: Path, value: object) -> tuple[str, ...]:
    with pytest.raises(LayoutError) as refused:
        read_layout(written(tmp_path, value))
    assert str(tmp_path) in str(refused.value)
    return refused.value.problems


def test_a_whole_layout(tmp_path: Path) -> None:
    layout = read_layout(
        written(
            tmp_path,
            {
                "cards": [{"model": "A100-40GB", "index": 0, "backend": "mig", "slices": {"1g.5gb": 7}}],
                "training_memory_mib": {"recognition": 4000, "segmentation": 9000},
                "slice_units": ["worker@{slice}.service"],
                "card_units": ["mps@{card}.service"],
                "driver_clients": ["dcgm.service"],
                "drain_timeout_s": 5,
            },
        )
    )
    (card,) = layout.cards
    assert card.slices == {"1g.5gb": 7}
    assert layout.training_memory == {"recognition": 4000, "segmentation": 9000}
    assert layout.slice_units == ("worker@{slice}.service",)
    assert layout.card_units == ("mps@{card}.service",)
    assert layout.driver_clients == ("dcgm.service",)
    assert layout.drain_timeout_s == 5


def test_what_is_not_given_has_defaults(tmp_path: Path) -> None:
    assert read_layout(written(tmp_path, {})) == Layout()
    assert Layout().training_memory == DEFAULT_TRAINING_MEMORY
    assert Layout().drain_timeout_s == DRAIN_TIMEOUT_S


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{", "is no JSON"),
        ([], "must be a mapping"),
        ({"card": []}, "unknown key 'card'"),
        ({"slice_units": ["worker.service"]}, "slice_units: must be a list of names of units, each with {slice}"),
        ({"slice_units": "worker@{slice}.service"}, "slice_units: must be a list"),
        ({"card_units": [3]}, "card_units: must be a list of names of units, each with {card}"),
        ({"driver_clients": {}}, "driver_clients: must be a list of names of units"),
        ({"drain_timeout_s": -1}, "drain_timeout_s: must be a number of seconds from 0"),
        ({"drain_timeout_s": True}, "drain_timeout_s: must be a number"),
        ({"training_memory_mib": {"recognition": 0, "segmentation": 1}}, "training_memory_mib.recognition"),
        ({"cards": [{"model": "A100-40GB"}]}, "gpu_partition_cards[0]: found no address"),
    ],
)
def test_a_wrong_layout(tmp_path: Path, value: object, problem: str) -> None:
    (found,) = problems(tmp_path, value)
    assert problem in found


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"card": 1, "drain_timeout_s": "60", "cards": [{"model": "A100", "index": 0}]}
    assert len(problems(tmp_path, wrong)) == 3


def test_a_layout_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_layout(tmp_path / "none.json")


def test_placements_of_other_cards_are_kept(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "var", tmp_path / "run")
    assert memory.placements() == {}
    one, two = (Slice(0, "2g.10gb", 2), Slice(2, "1g.5gb", 1)), (Slice(4, "3g.20gb", 4),)
    memory.remember_placements({"GPU-1": one})
    memory.remember_placements({"GPU-2": two})
    assert memory.placements() == {"GPU-1": one, "GPU-2": two}
    memory.remember_placements({"GPU-1": two})
    assert memory.placements() == {"GPU-1": two, "GPU-2": two}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"GPU-1": [[0]]}', '{"GPU-1": 3}', '{"GPU-1": [["a", "b", "c"]]}'])
def test_broken_placements_count_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "placements.json").write_text(text)
    assert Memory(tmp_path, tmp_path).placements() == {}


def test_a_file_that_stays_the_same_is_not_written_again(tmp_path: Path) -> None:
    memory = Memory(tmp_path, tmp_path)
    memory.remember_slices({"gpu0-1g.5gb-0": "MIG-1"})
    first = (tmp_path / "slices.json").stat().st_ino
    memory.remember_slices({"gpu0-1g.5gb-0": "MIG-1"})
    assert (tmp_path / "slices.json").stat().st_ino == first
    memory.remember_slices({"gpu0-1g.5gb-0": "MIG-2"})
    assert (tmp_path / "slices.json").stat().st_ino != first
    assert memory.slices() == {"gpu0-1g.5gb-0": "MIG-2"}
    assert [path.name for path in tmp_path.iterdir()] == ["slices.json"]


def test_stopped_units_are_forgotten_when_there_are_none(tmp_path: Path) -> None:
    memory = Memory(tmp_path, tmp_path)
    memory.remember_stopped_units([])
    assert list(tmp_path.iterdir()) == []
    memory.remember_stopped_units(["b.service", "a.service", "a.service"])
    assert memory.stopped_units() == ("a.service", "b.service")
    memory.remember_stopped_units([])
    assert memory.stopped_units() == ()
    assert list(tmp_path.iterdir()) == []
