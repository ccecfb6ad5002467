"""The table and the picture that operators see, and the same for programs."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils.gpu_partition.card import Card
from module_utils.gpu_partition.cards import DEFAULT_TRAINING_MEMORY, parse_cards
from module_utils.gpu_partition.models import Model, find_model, models
from module_utils.gpu_partition.placement import Slice, legal_layouts, place
from module_utils.gpu_partition.report import (
    as_dict,
    becomes,
    compute_slices_used,
    gigabytes,
    memory_lost_mib,
    picture,
    table,
    trainings_at_once,
)

MEMORY = DEFAULT_TRAINING_MEMORY
CREMMA = """
- {model: A100-40GB, pci_address: "0000:17:00.0", backend: mig, slices: {2g.10gb: 1, 1g.5gb: 5}}
- {model: A100-40GB, pci_address: "0000:65:00.0", backend: mig, slices: {2g.10gb: 1, 1g.5gb: 5}}
- {model: RTX-6000-24GB, pci_address: "0000:ca:00.0", backend: none}
"""
OTHERS = """
- {model: RTX-A6000-48GB, index: 0, workers: 4, sharing: mps}
- {model: L40S-48GB, index: 1, workers: 2}
- {model: A100-40GB, index: 2, backend: vgpu, vgpu_type: 472, vgpu_count: 4}
- {model: H100-80GB, index: 3, backend: mig, slices: {3g.40gb: 2}}
"""
LAYOUTS = [(model, counts) for model in models().values() if model.supports_mig for counts in legal_layouts(model)]


def cards(text: str) -> tuple[Card, ...]:
    found, problems = parse_cards(yaml.safe_load(text), MEMORY)
    assert problems == ()
    return found


def mig(model: str, counts: dict[str, int]) -> Card:
    return Card("gpu0", find_model(model), "index", "0", "mig", counts)


def test_the_table_of_cremma() -> None:
    assert (
        table(cards(CREMMA), MEMORY)
        == """\
card  model          address       backend  becomes               lost        workers  recognition  segmentation
----  -------------  ------------  -------  --------------------  ----------  -------  -----------  ------------
gpu0  A100-40GB      0000:17:00.0  mig      2g.10gb + 5x 1g.5gb   5 of 40 GB  6        6            1
gpu1  A100-40GB      0000:65:00.0  mig      2g.10gb + 5x 1g.5gb   5 of 40 GB  6        6            1
gpu2  RTX-6000-24GB  0000:ca:00.0  none     whole card, 1 worker  0 of 24 GB  1        1            1
all                                                                           13       13           3
"""
    )


def test_a_table_of_one_card_has_no_sums() -> None:
    assert [line.split()[0] for line in table(cards(CREMMA)[:1], MEMORY).splitlines()] == ["card", "----", "gpu0"]


def test_the_picture_of_cremma() -> None:
    assert (
        picture(cards(CREMMA)[0])
        == """\
gpu0: A100-40GB, pci_address 0000:17:00.0, backend mig
  +-----------------+--------+--------+--------+--------+--------+--------+
  |     2g.10gb     | 1g.5gb | 1g.5gb | 1g.5gb | 1g.5gb | 1g.5gb |//lost//|
  +-----------------+--------+--------+--------+--------+--------+--------+
       0        1        2        3        4        5        6        7  memory slices
  35 of 40 GB in slices, 5 GB lost; 7 of 7 compute slices in use
"""
    )


def test_a_picture_of_slices_as_they_are() -> None:
    card = mig("A30-24GB", {"2g.12gb": 1, "1g.6gb+me": 1})
    assert (
        picture(card, {"gpu0": [Slice(3, "1g.6gb+me", 1), Slice(0, "2g.12gb", 2)]})
        == """\
gpu0: A30-24GB, index 0, backend mig
  +-----------------------+-----------+-----------+
  |        2g.12gb        |////lost///| 1g.6gb+me |
  +-----------------------+-----------+-----------+
        0           1           2           3  memory slices
  18 of 24 GB in slices, 6 GB lost; 3 of 4 compute slices in use
"""
    )


def test_a_picture_of_few_large_slices_is_not_squeezed() -> None:
    card = mig("H100-80GB", {"3g.40gb": 2})
    expected = """\
gpu0: H100-80GB, index 0, backend mig
  +---------------------------+---------------------------+
  |          3g.40gb          |          3g.40gb          |
  +---------------------------+---------------------------+
      0      1      2      3      4      5      6      7  memory slices
  79.6 of 79.6 GB in slices, 0 GB lost; 6 of 7 compute slices in use
"""
    assert picture(card) == expected


def test_a_picture_of_a_card_that_is_not_cut() -> None:
    assert (
        picture(cards(CREMMA)[2])
        == """\
gpu2: RTX-6000-24GB, pci_address 0000:ca:00.0, backend none
  +-----------------------------+
  | whole card, 1 worker; 24 GB |
  +-----------------------------+
"""
    )


def test_what_becomes_of_a_card_in_words() -> None:
    assert [becomes(card) for card in cards(OTHERS)] == [
        "4 workers at once (MPS), each 12285 MiB and 25 % of threads",
        "2 workers by turns, each 23034 MiB",
        "4 vGPU of type nvidia-472",
        "2x 3g.40gb",
    ]


@pytest.mark.parametrize(
    ("mib", "text"), [(0, "0"), (5120, "5"), (81559, "79.6"), (9856, "9.6"), (1000, "1"), (1048576, "1024")]
)
def test_gigabytes(mib: int, text: str) -> None:
    assert gigabytes(mib) == text


def test_memory_lost_and_compute_used() -> None:
    model = find_model("A100-40GB")
    assert memory_lost_mib(model, place(model, {"2g.10gb": 1, "1g.5gb": 5})) == 5120
    assert memory_lost_mib(model, place(model, {"3g.20gb": 2})) == 0
    assert compute_slices_used(model, place(model, {"3g.20gb": 2})) == 6
    assert memory_lost_mib(model, ()) == 40960


def test_for_programs() -> None:
    report = as_dict(cards(CREMMA), MEMORY)
    assert report[0] == {
        "name": "gpu0",
        "model": "A100-40GB",
        "address": "0000:17:00.0",
        "backend": "mig",
        "memory_mib": 40960,
        "slices": [
            {"name": "gpu0-2g.10gb-0", "profile": "2g.10gb", "start": 0, "size": 2, "memory_mib": 9856},
            *(
                {"name": f"gpu0-1g.5gb-{start}", "profile": "1g.5gb", "start": start, "size": 1, "memory_mib": 4864}
                for start in range(2, 7)
            ),
        ],
        "memory_lost_mib": 5120,
        "workers": 6,
        "trainings": {"recognition": 6, "segmentation": 1},
    }
    assert (report[2]["slices"], report[2]["memory_lost_mib"]) == ([], 0)
    assert report[2]["trainings"] == {"recognition": 1, "segmentation": 1}
    assert json.loads(json.dumps(report)) == report
    assert trainings_at_once(cards(CREMMA), MEMORY) == {"recognition": 13, "segmentation": 3}


def test_for_programs_with_slices_as_they_are() -> None:
    placed = {"gpu0": [Slice(4, "2g.10gb", 2)]}
    (entry,) = as_dict(cards(CREMMA)[:1], MEMORY, placed)
    assert [found["name"] for found in entry["slices"]] == ["gpu0-2g.10gb-4"]
    assert (entry["memory_lost_mib"], entry["workers"]) == (40960 * 6 // 8, 1)


@given(st.sampled_from(LAYOUTS))
@settings(max_examples=100, deadline=None)
def test_a_picture_shows_every_slice_at_its_place(layout: tuple[Model, dict[str, int]]) -> None:
    model, counts = layout
    card = Card("gpu0", model, "index", "0", "mig", counts)
    lines = picture(card).splitlines()
    border, cells = lines[1], lines[2]
    assert lines[3] == border
    assert len(border) == len(cells)
    width = (len(border) - 3) // model.memory_slices
    shown = set()
    for piece in place(model, counts):
        begin = 2 + piece.start * width
        end = begin + piece.size * width
        assert cells[begin] == cells[end] == "|"
        assert border[begin] == border[end] == "+"
        assert cells[begin + 1 : end].strip() == piece.profile
        assert cells[begin + 1] == cells[end - 1] == " "
        shown |= set(range(piece.start, piece.start + piece.size))
    lost = set(range(model.memory_slices)) - shown
    assert cells.count("lost") == len(lost)
    for position in lost:
        assert cells[2 + position * width + 1 : 2 + (position + 1) * width].strip("/") == "lost"
    assert max(map(len, lines)) < 130
