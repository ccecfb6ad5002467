"""What migrations mean for the release before them, and whether they can be taken back."""

from __future__ import annotations

from typing import Any

import pytest
from escriptorium_cluster.migration_plan import Change, decide_back, harm, loss, pin_problems, reasons


def change(kind: str, **facts: Any) -> Change:
    return Change(kind, "core.Page.title", **facts)


@pytest.mark.parametrize(
    "found",
    [
        change("CreateModel"),
        change("AddField"),
        change("AddIndexConcurrently"),
        change("RemoveConstraint"),
        change("AlterField", widens=True),
        change("AlterField", in_database=False),
        change("RenameField", in_database=False),
        change("AlterModelOptions"),
        change("TrigramExtension"),
    ],
)
def test_changes_that_leave_room_for_the_release_before(found: Change) -> None:
    assert harm(found) is None


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (change("AddField", required=True), "has to have a value"),
        (change("AlterField"), "takes other values"),
        (change("RemoveField"), "goes"),
        (change("DeleteModel"), "goes"),
        (change("RenameField"), "another name"),
        (change("AlterUniqueTogether"), "may be refused"),
        (change("RunPython"), "code of its own (RunPython)"),
        (change("RunSQL", reversible=False), "code of its own (RunSQL)"),
        (change("FromElsewhere"), "FromElsewhere is not known here"),
    ],
)
def test_changes_that_the_release_before_runs_into(found: Change, text: str) -> None:
    assert text in str(harm(found))
    assert "core.Page.title" in str(harm(found))


@pytest.mark.parametrize(
    ("found", "lost"),
    [
        (change("CreateModel"), False),
        (change("CreateModel", holds_data=True), True),
        (change("AddField", required=True), False),
        (change("AddField", required=True, holds_data=True), True),
        (change("AlterField"), True),
        (change("AlterField", in_database=False), False),
        (change("RenameField"), False),
        (change("RemoveField"), True),
        (change("DeleteModel"), True),
        (change("AddConstraint"), False),
        (change("RunPython"), True),
        (change("RunPython", reversible=False), True),
        (change("RunPython", idle_back=True), False),
        (change("FromElsewhere"), True),
        (change("TrigramExtension"), False),
    ],
)
def test_what_the_way_back_loses(found: Change, lost: bool) -> None:
    assert (loss(found) is not None) is lost


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ([], "nothing"),
        ([change("CreateModel", holds_data=True), change("AddField")], "stays"),
        ([change("CreateModel"), change("AddField", required=True)], "back"),
        ([change("CreateModel", holds_data=True), change("AddField", required=True)], "restore"),
        ([change("RenameModel")], "back"),
        ([change("RemoveField")], "restore"),
    ],
)
def test_how_the_release_before_can_run_again(changes: list[Change], decision: str) -> None:
    found, why = decide_back(changes)
    assert found == decision
    assert bool(why) is (decision in {"back", "restore"})


NOTES = {"holds_data": True, "table": "core_note"}


@pytest.mark.parametrize(
    ("changes", "decision", "reason"),
    [
        ([change("CreateModel", **NOTES, links=frozenset({"core_line"}))], "restore", "core_line"),
        # Nobody but the newer release knows these rows, and each that has to go takes its own along.
        ([change("CreateModel", **NOTES), change("CreateModel", links=frozenset({"core_note"}))], "stays", ""),
        ([change("AddField", links=frozenset({"users_user", "core_note"}))], "back", "core_note, users_user"),
        ([change("AddField", holds_data=True, links=frozenset({"users_user"}))], "restore", "users_user"),
    ],
)
def test_rows_that_link_to_tables_of_the_release_before_keep_it_from_deleting(
    changes: list[Change], decision: str, reason: str
) -> None:
    found, why = decide_back(changes)
    assert found == decision
    text = f"core.Page.title has rows that link to {reason}: the release before cannot delete what they link to"
    assert why[-1:] == [text] * bool(reason)


def test_a_reason_is_given_once() -> None:
    assert reasons(["b", None, "a", "b"]) == ["b", "a"]


def test_packages_are_those_of_the_constraints() -> None:
    pins = ["# made by uv", "Django==4.2.30", "uwsgi==2.0.31 ; sys_platform == 'linux'", "ruff==1", "a.b_C==1 # via d"]
    installed = {"django": "4.2.29", "uwsgi": "2.0.31", "a-b-c": "2"}
    assert pin_problems(pins, installed) == [
        "Django is 4.2.29, and constraints.txt says 4.2.30",
        "a.b_C is 2, and constraints.txt says 1",
    ]
