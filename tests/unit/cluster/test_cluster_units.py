"""How units of workers are, from what systemd says: no systemd."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from escriptorium_cluster.units import parse, unit_states

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = """Id=escriptorium-worker@default.service
ActiveState=activating
SubState=start
NRestarts=2
StatusText=starts, 3 s of a processor = so far

StatusText=
NRestarts=0
Id=escriptorium-worker@gpu0-2g.10gb-0.service
SubState=auto-restart
ActiveState=activating
"""


def test_each_unit_is_told_apart() -> None:
    assert parse(SHOWN) == {
        "escriptorium-worker@default.service": {
            "active": "activating", "sub": "start", "restarts": 2, "status": "starts, 3 s of a processor = so far"
        },
        "escriptorium-worker@gpu0-2g.10gb-0.service": {
            "active": "activating", "sub": "auto-restart", "restarts": 0, "status": ""
        },
    }  # fmt: skip
    assert parse("") == {}
    assert parse("Id=a.service\nActiveState=active\n") == {}


def test_only_workers_of_this_host_are_asked_for() -> None:
    asked: list[Sequence[str]] = []

    def ask(units: Sequence[str]) -> str:
        asked.append(units)
        return SHOWN

    found = unit_states(["default@c1", "gpu0-2g.10gb-0@c1", "default@c2", "live@c1"], "c1", ask)
    assert sorted(found) == ["default@c1", "gpu0-2g.10gb-0@c1"]
    assert found["default@c1"]["restarts"] == 2
    assert list(asked[0])[-1] == "escriptorium-worker@live.service"
    assert unit_states(["default@c2"], "c1", ask) == {}
    assert len(asked) == 1


def test_where_systemd_does_not_answer_nobody_knows() -> None:
    def ask(_: Sequence[str]) -> str:
        raise subprocess.TimeoutExpired("systemctl", 30)

    assert unit_states(["default@c1"], "c1", ask) == {}
