"""The backup that a restore begins with is one of its timeline."""

from __future__ import annotations

from typing import Any

import pytest

from module_utils.platform_restore import choose, end_of, newest_timeline

HISTORY = "1\t0/5000000\tbefore 2026-11-01 10:00:00+00\n"


def backup(label: str, timeline: int, stop: int, lsn: str) -> dict[str, Any]:
    return {
        "label": label,
        "archive": {"start": f"{timeline:08X}0000000000000003", "stop": f"{timeline:08X}0000000000000003"},
        "lsn": {"start": "0/1000028", "stop": lsn},
        "timestamp": {"start": stop - 5, "stop": stop},
    }


#: Timeline 2 leaves timeline 1 at 0/5000000.
INFO = [
    {
        "archive": [{"id": "15-1", "min": "000000010000000000000001", "max": "000000020000000000000009"}],
        "backup": [
            backup("shared", 1, 100, "0/3000100"),
            backup("left", 1, 200, "0/7000100"),
            backup("new", 2, 300, "0/8000100"),
        ],
    }
]


def test_a_backup_of_an_older_pgbackrest_ends_at_most_with_its_segment() -> None:
    assert end_of(backup("a", 1, 1, "0/3000100")) == 0x3000100
    assert end_of({"archive": {"stop": "000000010000000200000003"}}) == 0x2_0400_0000


def test_the_newest_timeline() -> None:
    assert newest_timeline(INFO) == 2
    assert newest_timeline([{"archive": [{"max": None}]}, {}]) == 1


@pytest.mark.parametrize(
    ("timeline", "moment", "history", "label"),
    [
        (2, 0, HISTORY, "new"),
        (2, 250, HISTORY, "shared"),
        (2, 100, HISTORY, "shared"),
        (1, 0, "", "left"),
        (1, 350, "", "left"),
        (1, 150, "", "shared"),
        (2, 0, "", "new"),
        (2, 250, "", ""),
    ],
)
def test_a_backup_from_which_the_timeline_can_be_followed(timeline: int, moment: int, history: str, label: str) -> None:
    found = choose(INFO, timeline, moment, history)
    assert (found.label, found.refusal) == (label, "")


@pytest.mark.parametrize(
    ("timeline", "moment", "history"), [(1, 99, ""), (2, 99, HISTORY), (3, 0, "2\t0/6000000\tx\n")]
)
def test_where_there_is_none_nothing_is_replaced(timeline: int, moment: int, history: str) -> None:
    found = choose(INFO, timeline, moment, history)
    assert found.label == ""
    assert f"on timeline {timeline}" in found.refusal
