"""The subcommand plan, as a person and as a program call it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.gpu_partition import plan
from module_utils.gpu_partition.models import models
from module_utils.gpu_partition.placement import legal_layouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Answer = tuple[int, str, str]

CREMMA = {
    "cards": [
        {"model": "A100-40GB", "pci_address": "0000:17:00.0", "backend": "mig", "slices": {"2g.10gb": 1, "1g.5gb": 5}},
        {"model": "RTX-6000-24GB", "pci_address": "0000:ca:00.0", "backend": "none"},
    ],
    "training_memory_mib": {"recognition": 4800, "segmentation": 9800},
}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def run(*arguments: str) -> Answer:
        parser = argparse.ArgumentParser(prog="gpu-partition plan")
        plan.add_arguments(parser)
        status = plan.run(parser.parse_args(arguments))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def answer(call: Callable[..., Answer]) -> Callable[..., tuple[int, Any]]:
    """Call with --json: the status and what was printed."""

    def run(*arguments: str) -> tuple[int, Any]:
        status, out, err = call(*arguments, "--json")
        assert err == ""
        return status, json.loads(out)

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["--slices", "2g.10gb:1,1g.5gb:5"],
        ["--slices", " 1g.5gb: 5, 2g.10gb :1"],
        ["--want", "segmentation_trainings:1,recognition_trainings:max"],
    ],
)
def test_a_legal_layout(answer: Callable[..., tuple[int, Any]], arguments: list[str]) -> None:
    assert answer("--model", "A100-40GB", *arguments) == (
        0,
        {
            "legal": True,
            "model": "A100-40GB",
            "placements": [
                {"profile": "2g.10gb", "start": 0, "size": 2, "memory_mib": 9856},
                *({"profile": "1g.5gb", "start": start, "size": 1, "memory_mib": 4864} for start in range(2, 7)),
            ],
            "memory_lost_mib": 5120,
            "trainings": {"recognition": 6, "segmentation": 1},
        },
    )


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        (["--slices", "4g.20gb:1,1g.5gb:4"], ["4g.20gb + 4x 1g.5gb needs 8 of 7 compute slices"]),
        (
            ["--slices", "4g.20gb:2"],
            ["2x 4g.20gb: one A100-40GB takes at most 1", "2x 4g.20gb needs 8 of 7 compute slices"],
        ),
        (
            ["--want", "segmentation_trainings:5"],
            ["5 segmentation trainings at once do not fit on one A100-40GB: at most 4 do"],
        ),
        (["--slices", "1g.5gb"], ["--slices: '1g.5gb' must be a name, a colon and a whole number"]),
        (["--slices", "1g.5gb:-1"], ["--slices: '1g.5gb:-1' must be a name, a colon and a whole number"]),
        (["--slices", "1g.5gb:max"], ["--slices: '1g.5gb:max' must be a name, a colon and a whole number"]),
        (["--slices", "1g.5gb:1,"], ["--slices: '' must be a name, a colon and a whole number"]),
        (["--slices", "1g.5gb:1,1g.5gb:2"], ["--slices: 1g.5gb is given twice"]),
        ([], ["--model needs --slices or --want"]),
        (
            ["--slices", "1g.5gb:1", "--training-memory", "other:1,recognition:0"],
            [
                (
                    "--training-memory: the key 'other', wanted only recognition and segmentation; "
                    "--training-memory.recognition: 0, wanted a whole number of MiB from 1"
                )
            ],
        ),
    ],
)
def test_a_refusal_has_its_reasons(
    answer: Callable[..., tuple[int, Any]], arguments: list[str], reasons: list[str]
) -> None:
    assert answer("--model", "A100-40GB", *arguments) == (2, {"legal": False, "reasons": reasons})


def test_unknown_model(answer: Callable[..., tuple[int, Any]]) -> None:
    assert answer("--model", "A100", "--slices", "1g.5gb:1") == (
        2,
        {"legal": False, "reasons": ["unknown model A100: did you mean A100-80GB?"]},
    )


def test_a_card_without_mig(answer: Callable[..., tuple[int, Any]]) -> None:
    reasons = ["RTX-6000-24GB has no MIG: it cannot be cut into slices"]
    assert answer("--model", "RTX-6000-24GB", "--slices", "1g.5gb:1") == (2, {"legal": False, "reasons": reasons})


def test_slices_and_want_exclude_each_other(call: Callable[..., Answer], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        call("--model", "A30-24GB", "--slices", "1g.6gb:1", "--want", "segmentation_trainings:1")
    assert left.value.code == 2
    assert "not allowed with argument --slices" in capsys.readouterr().err


def test_other_memory_per_training(answer: Callable[..., tuple[int, Any]]) -> None:
    status, found = answer(
        "--model", "A100-40GB", "--slices", "2g.10gb:1,1g.5gb:5", "--training-memory", "segmentation:4000"
    )
    assert (status, found["trainings"]) == (0, {"recognition": 6, "segmentation": 6})


def test_for_people(call: Callable[..., Answer]) -> None:
    status, out, err = call("--model", "A100-40GB", "--slices", "2g.10gb:1,1g.5gb:5")
    assert (status, err) == (0, "")
    assert (
        out
        == """\
card  model      address  backend  becomes              lost        workers  recognition  segmentation
----  ---------  -------  -------  -------------------  ----------  -------  -----------  ------------
plan  A100-40GB           mig      2g.10gb + 5x 1g.5gb  5 of 40 GB  6        6            1

plan: A100-40GB, backend mig
  +-----------------+--------+--------+--------+--------+--------+--------+
  |     2g.10gb     | 1g.5gb | 1g.5gb | 1g.5gb | 1g.5gb | 1g.5gb |//lost//|
  +-----------------+--------+--------+--------+--------+--------+--------+
       0        1        2        3        4        5        6        7  memory slices
  35 of 40 GB in slices, 5 GB lost; 7 of 7 compute slices in use
"""
    )


def test_a_refusal_for_people(call: Callable[..., Answer]) -> None:
    assert call("--model", "A100-40GB", "--slices", "4g.20gb:2") == (
        2,
        "",
        "2x 4g.20gb: one A100-40GB takes at most 1\n2x 4g.20gb needs 8 of 7 compute slices\n",
    )


def test_the_layout_of_a_node(call: Callable[..., Answer], tmp_path: Path) -> None:
    layout = tmp_path / "layout.json"
    layout.write_text(json.dumps(CREMMA))
    status, out, _ = call("--layout", str(layout), "--json")
    found = json.loads(out)
    assert (status, found["legal"]) == (0, True)
    assert [(card["name"], card["trainings"]) for card in found["cards"]] == [
        ("gpu0", {"recognition": 6, "segmentation": 1}),
        ("gpu1", {"recognition": 1, "segmentation": 1}),
    ]
    status, out, _ = call("--layout", str(layout), "--training-memory", "segmentation:4864")
    assert status == 0
    assert out.count("gpu0: A100-40GB, pci_address 0000:17:00.0") == 1
    assert "whole card, 1 worker" in out
    assert [line.split()[-2:] for line in out.splitlines()[2:5]] == [["6", "6"], ["1", "1"], ["7", "7"]]


def test_a_layout_of_a_node_that_cannot_be(answer: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    layout = tmp_path / "layout.json"
    card = {"model": "A100-40GB", "index": 0, "backend": "mig", "slices": {"4g.20gb": 1, "1g.5gb": 4}}
    layout.write_text(json.dumps({**CREMMA, "cards": [card, {"model": "T4-16GB"}]}))
    status, found = answer("--layout", str(layout))
    assert (status, found["legal"], len(found["reasons"])) == (2, False, 2)
    assert "4g.20gb + 4x 1g.5gb needs 8 of 7 compute slices" in found["reasons"][0]
    layout.write_text("{")
    assert answer("--layout", str(layout))[0] == 2


def test_a_layout_file_that_is_missing(answer: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    path = tmp_path / "layout.json"
    assert answer("--layout", str(path)) == (
        1,
        {"legal": False, "reasons": [f"cannot read {path}: No such file or directory"]},
    )


def test_slices_without_a_model(answer: Callable[..., tuple[int, Any]]) -> None:
    assert answer("--slices", "1g.5gb:1") == (2, {"legal": False, "reasons": ["--slices and --want need --model"]})


@pytest.mark.parametrize("name", [name for name, model in models().items() if model.supports_mig])
def test_every_legal_layout_is_planned(answer: Callable[..., tuple[int, Any]], name: str) -> None:
    model = models()[name]
    for counts in list(legal_layouts(model))[::7]:
        status, found = answer("--model", name, "--slices", ",".join(f"{key}:{value}" for key, value in counts.items()))
        assert (status, found["legal"]) == (0, True)
        assert len(found["placements"]) == sum(counts.values())
