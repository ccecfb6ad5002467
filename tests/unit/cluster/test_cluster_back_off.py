"""How long a worker waits before its next start: no systemd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from escriptorium_cluster.back_off import FILE, FOLDER_VARIABLE, count, forget, main, pause

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

UNIT = "escriptorium-worker@gpu.service"


def start(folder: Path, *, by_itself: bool) -> float:
    """Start once; answer the seconds that it waits."""
    slept: list[float] = []
    assert main([UNIT], {FOLDER_VARIABLE: str(folder)}, lambda unit: by_itself and unit == UNIT, slept.append) == 0
    return sum(slept)


def test_each_failure_waits_longer_up_to_two_minutes() -> None:
    assert [pause(failures) for failures in range(9)] == [0, 0, 5, 10, 20, 40, 80, 120, 120]
    assert pause(10**9) == 120


def test_starts_in_a_row_are_counted(tmp_path: Path) -> None:
    assert start(tmp_path, by_itself=False) == 0
    assert [start(tmp_path, by_itself=True) for _ in range(4)] == [0, 5, 10, 20]


def test_a_start_by_hand_does_not_wait_and_begins_from_nothing(tmp_path: Path) -> None:
    for _ in range(5):
        start(tmp_path, by_itself=True)
    assert start(tmp_path, by_itself=False) == 0
    assert start(tmp_path, by_itself=True) == 0


def test_a_worker_that_has_worked_for_a_while_is_back_at_once(tmp_path: Path) -> None:
    for _ in range(5):
        start(tmp_path, by_itself=True)
    forget({FOLDER_VARIABLE: str(tmp_path)})
    assert [start(tmp_path, by_itself=True) for _ in range(2)] == [0, 5]


def test_a_count_that_cannot_be_read_begins_from_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("many\n")
    assert count(tmp_path / FILE, by_itself=True) == 1


def test_whatever_goes_wrong_the_worker_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(_unit: str) -> bool:
        raise OSError("no bus")

    assert main([UNIT], {FOLDER_VARIABLE: str(tmp_path)}, refuses) == 0
    assert main([UNIT], {}, lambda _: True) == 0
    assert main([], {FOLDER_VARIABLE: str(tmp_path)}) == 0
    assert main([UNIT], {FOLDER_VARIABLE: str(tmp_path / "gone")}, lambda _: True) == 0
    assert capsys.readouterr().err.count("could not be counted") == 4
    forget({})
    forget({FOLDER_VARIABLE: str(tmp_path / "gone")})
    (tmp_path / FILE).mkdir()
    forget({FOLDER_VARIABLE: str(tmp_path)})
    assert "go on being counted" in capsys.readouterr().err
