"""Units of a host: each is enabled, started or restarted where it has to be, and no other."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.host_config.units import (
    Steps,
    UnitState,
    WantedUnit,
    is_unit_name,
    moment_of,
    parse_show,
    pending,
    plan,
    strays,
    time_of,
    unapplied,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RUNS = UnitState(loaded=True, active="active", enabled=True, process=7)
UNIT = "/etc/systemd/system/a.service"


def steps(*wanted: WantedUnit, changed: tuple[str, ...] = (), held: bool = False, **states: UnitState) -> Steps:
    known = {f"{name}.service": state for name, state in states.items()}
    environment = {"RELEASE": "old"}
    return plan(wanted, known, changed, environment=lambda _: environment, held=lambda _: held)


def test_what_runs_as_wanted_needs_nothing() -> None:
    assert steps(WantedUnit("a.service"), changed=("/etc/other",), a=RUNS) == Steps()


def test_a_new_unit_is_enabled_and_started() -> None:
    found = steps(WantedUnit("a.service"), changed=(UNIT,))
    assert found == Steps(reload=True, enable=["a.service"], start=["a.service"])
    assert found.commands() == [
        ["systemctl", "daemon-reload"],
        ["systemctl", "--quiet", "enable", "a.service"],
        ["systemctl", "start", "a.service"],
    ]


@pytest.mark.parametrize(
    ("unit", "changed", "restarted", "handled"),
    [
        ({}, (UNIT,), True, False),
        ({"restart": "no"}, (UNIT,), False, False),
        ({"restart": "handler"}, (UNIT,), False, True),
        ({"restart_on": ("/etc/a.conf",)}, ("/etc/a.conf",), True, False),
        ({}, ("/etc/a.conf",), False, False),
        ({"environment": {"RELEASE": "new"}}, (), True, False),
        ({"environment": {"RELEASE": "old"}}, (), False, False),
        ({"environment": {"ANOTHER": "new"}}, (), False, False),
        ({"environment": {"RELEASE": "new"}, "restart": "handler"}, (), False, True),
    ],
)
def test_a_unit_that_runs_from_something_older(
    unit: dict[str, Any], changed: tuple[str, ...], restarted: bool, handled: bool
) -> None:
    found = steps(WantedUnit("a.service", **unit), WantedUnit("b.service"), changed=changed, a=RUNS, b=RUNS)
    assert (found.restart, found.handled) == (["a.service"] * restarted, ["a.service"] * handled)
    assert (found.start, found.stop, found.enable) == ([], [], [])


def test_a_drop_in_is_read_and_restarts_nothing() -> None:
    assert steps(WantedUnit("a.service"), changed=(f"{UNIT}.d/x.conf",), a=RUNS) == Steps(reload=True)


def test_a_unit_that_ended_is_started_not_restarted() -> None:
    ended = UnitState(loaded=True, active="failed", enabled=True)
    assert steps(WantedUnit("a.service"), changed=(UNIT,), a=ended) == Steps(reload=True, start=["a.service"])


def test_nobody_waits_for_the_quiet_ones() -> None:
    found = steps(WantedUnit("a.service", wait=False), WantedUnit("b.service"))
    assert found.commands()[1:] == [
        ["systemctl", "start", "b.service"],
        ["systemctl", "start", "--no-block", "a.service"],
    ]


def test_a_folder_that_holds_something_keeps_a_unit_at_rest() -> None:
    unit = WantedUnit("a.service", unless="/run/rests")
    stopped = UnitState(loaded=True, enabled=True)
    assert steps(unit, held=True, a=stopped) == Steps()
    assert steps(unit, held=True, changed=(UNIT,), a=RUNS) == Steps(reload=True)
    assert steps(unit, held=False, a=stopped).start == ["a.service"]


@pytest.mark.parametrize(
    ("state", "stop", "disable"), [("stopped", True, True), ("absent", True, True), ("described", False, False)]
)
def test_units_that_are_not_to_run(state: str, stop: bool, disable: bool) -> None:
    found = steps(WantedUnit("a.service", state=state), a=RUNS)
    assert found == Steps(stop=["a.service"] * stop, disable=["a.service"] * disable)
    assert steps(WantedUnit("a.service", state=state)) == Steps(), "one that is not there"


@pytest.mark.parametrize("kind", ["static", "alias", "indirect", "generated", "enabled", "enabled-runtime"])
@pytest.mark.parametrize("state", ["stopped", "absent"])
def test_a_unit_that_only_others_start_cannot_be_disabled(kind: str, state: str) -> None:
    shown = f"Names=a.service\nLoadState=loaded\nActiveState=active\nUnitFileState={kind}\n"
    found = steps(WantedUnit("a.service", state=state), a=parse_show(shown)["a.service"])
    assert found == Steps(stop=["a.service"], disable=["a.service"] * kind.startswith("enabled"))


def test_enabled_is_no_start() -> None:
    assert steps(WantedUnit("a.service", state="enabled")) == Steps(enable=["a.service"])


def test_what_systemd_says_is_found_by_each_name() -> None:
    shown = (
        "Names=redis.service redis-server.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"
        "MainPID=12\nNeedDaemonReload=no\n\n"
        "Names=nope.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\nMainPID=0\n"
        "NeedDaemonReload=no\n"
    )
    running = UnitState(loaded=True, active="active", enabled=True, process=12)
    assert parse_show(shown) == {
        "redis.service": running,
        "redis-server.service": running,
        "nope.service": UnitState(),
    }


def test_strays_are_units_of_ours_that_nobody_wants(tmp_path: Path) -> None:
    for name, text in {"w@a.service": "ours", "w@b.service": "ours", "w@c.service": "another's", "x": "ours"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "w@d.service").symlink_to("w@b.service")
    assert strays("w@*.service", "ours", ["w@a.service"], tmp_path) == ["w@b.service"]


@pytest.mark.parametrize("name", ["a", "../a.service", "a b.service", "a.conf", ""])
def test_names_that_are_no_units(name: str) -> None:
    assert not is_unit_name(name)
    assert is_unit_name(r"dev-disk-by\x2did.mount")
    assert is_unit_name("w@gpu0-2g.10gb-0.service")


def test_a_service_makes_room_for_its_socket_first() -> None:
    wanted = (WantedUnit("a.socket", restart="no"), WantedUnit("a.service"))
    found = steps(*wanted, a=RUNS)
    assert (found.stop, found.start, found.restart) == (["a.service"], ["a.socket", "a.service"], [])
    both = {"a.socket": RUNS, "a.service": RUNS}
    assert plan(wanted, both, (), environment=lambda _: {}, held=lambda _: False) == Steps()


@pytest.mark.parametrize(
    ("shown", "moment"), [("Sat 2026-11-28 10:00:01 UTC", 1795860001), ("", 0), ("Thu 1970-01-01 00:00:07 UTC", 7)]
)
def test_a_time_of_systemd_is_read(shown: str, moment: int) -> None:
    assert moment_of(shown) == moment


def test_what_is_gone_is_as_old_as_its_folder_and_a_time_to_come_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.utime(file, (100, 100.9))
    assert time_of(str(file)) == 100
    assert time_of(str(file), now=99) == 0
    os.utime(tmp_path, (200, 200))
    assert time_of(str(tmp_path / "gone")) == 200
    assert time_of(str(tmp_path / "nowhere/gone")) == 0


@pytest.mark.parametrize(
    ("written", "since", "restarted"),
    [(101, 100, True), (100, 100, False), (99, 100, False), (101, 0, False)],
)
def test_a_restart_that_a_broken_run_left_out_is_made_up_for(written: int, since: int, restarted: bool) -> None:
    wanted = [WantedUnit("a.service", restart_on=("/etc/a.conf",)), WantedUnit("b.service")]
    states = dict.fromkeys(("a.service", "b.service"), replace(RUNS, since=since))
    found = plan(wanted, states, [], age=lambda _: written, held=lambda _: False)
    assert found.restart == ["a.service"] * restarted


@pytest.mark.parametrize(
    ("unit", "state", "changed", "written", "told"),
    [
        ({}, RUNS, ("/etc/a.conf",), 0, True),
        ({"state": "described"}, RUNS, ("/etc/a.conf",), 0, True),
        ({}, RUNS, (), 101, True),  # a run was broken off before it
        ({}, RUNS, (), 100, False),
        ({}, RUNS, ("/etc/other",), 0, False),
        ({}, replace(RUNS, active="inactive"), ("/etc/a.conf",), 0, False),  # it is started
        ({"state": "described"}, replace(RUNS, active="inactive"), ("/etc/a.conf",), 0, False),
        ({"state": "absent"}, RUNS, ("/etc/a.conf",), 0, False),
        ({}, RUNS, (UNIT, "/etc/a.conf"), 0, False),  # it is restarted
    ],
)
def test_a_unit_that_runs_is_told_of_a_file(
    unit: dict[str, Any], state: UnitState, changed: tuple[str, ...], written: int, told: bool
) -> None:
    wanted = WantedUnit("a.service", reload_on=("/etc/a.conf",), **unit)
    states = {"a.service": replace(state, since=100)}
    found = plan([wanted], states, changed, age=lambda _: written, held=lambda _: False)
    assert found.refresh == ["a.service"] * told
    assert (["systemctl", "reload", "a.service"] in found.commands()) is told
    assert "a.service" not in found.restart or UNIT in changed


@pytest.mark.parametrize(
    ("witnesses", "ages", "left"),
    [
        (["a.service"], {"/f": 101}, True),
        (["a.service"], {"/f": 100}, False),
        (["a.service", "/mark"], {"/f": 101, "/mark": 102}, False),
        (["a.service", "/mark"], {"/f": 103, "/mark": 102}, True),
        (["a.service", "/mark"], {"/f": 101}, True),
        (["b.service"], {"/f": 101}, False),
        (["/mark"], {"/f": 101}, False),
        (["unknown.service"], {"/f": 101}, False),
    ],
)
def test_a_file_is_older_than_what_its_handlers_did(witnesses: list[str], ages: dict[str, int], left: bool) -> None:
    states = {"a.service": replace(RUNS, since=100), "b.service": UnitState(loaded=True, since=50)}
    assert unapplied({"/f": witnesses}, states, age=lambda path: ages.get(path, 0)) == ["/f"] * left


def test_a_service_that_runs_is_asked_what_it_has_not_taken_over() -> None:
    starting = replace(RUNS, active="activating")
    states = {"a.service": replace(RUNS, since=100), "b.service": UnitState(loaded=True), "d.service": starting}
    said = {"waits": "max_connections\nport\n", "done": "\n", "fails": ""}
    asked: list[str] = []

    def ask(words: Sequence[str]) -> str:
        asked.append(words[0])
        return said[words[0]]

    found = pending(
        {
            "/waits": (["a.service"], ["waits"]),
            "/done": (["a.service", "/mark"], ["done"]),
            "/fails": (["a.service"], ["fails"]),
            "/stopped": (["a.service", "b.service"], ["waits"]),
            "/unknown": (["c.service"], ["waits"]),
            "/starting": (["d.service"], ["waits"]),
        },
        states,
        ask,
    )
    assert found == {"/waits": "max_connections port"}
    assert asked == ["waits", "done", "fails"], "nobody asks a service that does not run"
