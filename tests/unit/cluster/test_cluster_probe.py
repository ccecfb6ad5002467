"""escriptorium_cluster.probe and needs: who is asked, what is told, and what a job needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from escriptorium_cluster import needs, probe
from escriptorium_cluster.checks import CheckResult

if TYPE_CHECKING:
    from pathlib import Path

RIGHT = CheckResult(ok=True, detail="answers")
WRONG = CheckResult(ok=False, detail="OSError: read-only")


@pytest.mark.parametrize(
    ("age", "proven", "asked"),
    [
        pytest.param(100, {}, True, id="never proven"),
        pytest.param(100, {"a@h": 950}, False, id="proven since its start"),
        pytest.param(100, {"a@h": 850}, True, id="proven before its start"),
        pytest.param(100, {"a@h": 901}, True, id="within the error of its age"),
        pytest.param(0, {"a@h": 990}, True, id="just started"),
    ],
)
def test_only_workers_without_a_proof_since_their_start_are_asked(
    age: float, proven: dict[str, float], asked: bool
) -> None:
    assert probe.unproven({"a@h": age}, proven, 1000) == (("a@h",) if asked else ())


def test_proof_survives_its_way() -> None:
    proof = probe.decode(probe.encode("gpu@h", probe.JOB, 0.26, {"media": RIGHT}))
    assert (proof.worker, proof.how, proof.seconds, proof.ok) == ("gpu@h", "job", 0.3, True)
    assert proof.text() == "gpu@h ran a probe job (0.3 s): media answers"


def test_what_is_wrong_comes_first() -> None:
    proof = probe.decode(probe.encode("gpu@h", probe.BESIDE, 1, {"database": RIGHT, "media": WRONG}))
    assert not proof.ok
    assert "NOT RIGHT: media OSError: read-only, database answers" in proof.text()
    assert "busy" in proof.text()


def test_proof_of_nothing_is_none() -> None:
    assert not probe.decode(probe.encode("gpu@h", probe.JOB, 1, {})).ok


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"worker": "a"}'])
def test_other_texts_are_no_proofs(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        probe.decode(text)


def group(root: Path, path: str, name: str, value: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    (root / path / name).write_text(value)


def test_least_bound_of_all_groups_counts(tmp_path: Path) -> None:
    group(tmp_path, "system.slice/worker", "memory.max", "max\n")
    group(tmp_path, "system.slice", "memory.max", "8589934592\n")
    assert needs.memory_bound("0::/system.slice/worker\n", tmp_path) == 8 << 30


def test_a_group_with_more_than_the_one_above_it_does_not_count(tmp_path: Path) -> None:
    group(tmp_path, "system.slice/worker", "memory.max", "8589934592\n")
    group(tmp_path, "system.slice", "memory.max", "4294967296\n")
    assert needs.memory_bound("0::/system.slice/worker\n", tmp_path) == 4 << 30


def test_older_groups_are_read_too(tmp_path: Path) -> None:
    group(tmp_path, "memory/worker", "memory.limit_in_bytes", "4294967296\n")
    group(tmp_path, "memory", "memory.limit_in_bytes", "9223372036854771712\n")
    assert needs.memory_bound("5:memory:/worker\n4:cpu,cpuacct:/worker\n1:name=systemd:/worker\n", tmp_path) == 4 << 30


def test_memory_without_groups_is_not_bounded(tmp_path: Path) -> None:
    assert needs.memory_bound("0::/../elsewhere\n", tmp_path) is None


def test_worker_for_a_card_needs_one() -> None:
    with pytest.raises(needs.NeedError, match="CUDA_VISIBLE_DEVICES"):
        needs.check_slice({})


def test_reasons_are_told() -> None:
    def broken() -> str:
        raise OSError("read-only")

    results = needs.with_reasons({"media": broken, "memory": lambda: "1 GiB"}, 5)
    assert results == {
        "media": CheckResult(ok=False, detail="OSError: read-only"),
        "memory": CheckResult(ok=True, detail="1 GiB"),
    }
