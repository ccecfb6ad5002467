"""How long the end of a run waits for workers, and what it shows meanwhile: no host, no clock."""

from __future__ import annotations

import importlib
import json
import shlex
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ansible.errors import AnsibleActionFail

from module_utils.platform_workers import FAILED_STARTS, QUIET_SECONDS, Wait, describe

if TYPE_CHECKING:
    from collections.abc import Callable

WORKER = "default@c1"


def unit(active: str = "activating", sub: str = "start", restarts: int = 0, status: str = "") -> dict[str, Any]:
    return {"active": active, "sub": sub, "restarts": restarts, "status": status}


def test_a_start_is_waited_for_as_long_as_it_takes() -> None:
    wait = Wait(0)
    for minute in range(60):
        assert wait.goes_on([WORKER], {WORKER: unit(status="starts")}, 60.0 * minute)
    assert not wait.goes_on([], {}, 3600)


@pytest.mark.parametrize(
    ("active", "sub"),
    [("active", "running"), ("activating", "auto-restart"), ("failed", "failed"), ("inactive", "dead")],
)
def test_one_that_does_not_start_and_is_silent_is_given_up(active: str, sub: str) -> None:
    wait = Wait(0)
    assert wait.goes_on([WORKER], {WORKER: unit(active, sub)}, QUIET_SECONDS - 1)
    assert not wait.goes_on([WORKER], {WORKER: unit(active, sub)}, QUIET_SECONDS)
    assert not Wait(0).goes_on([WORKER], {}, QUIET_SECONDS), "nobody knows how it is"


def test_time_counts_from_the_last_progress() -> None:
    wait = Wait(0)
    assert wait.goes_on([WORKER], {WORKER: unit()}, 500)
    assert wait.goes_on([WORKER], {WORKER: unit("active", "running")}, 500 + QUIET_SECONDS - 1)
    assert not wait.goes_on([WORKER], {WORKER: unit("active", "running")}, 500 + QUIET_SECONDS)
    wait = Wait(0)
    assert wait.goes_on([WORKER, "live@c1"], {}, QUIET_SECONDS - 1)
    assert wait.goes_on([WORKER], {}, QUIET_SECONDS + 1), "another one has answered"


def test_starts_that_fail_again_and_again_are_no_progress() -> None:
    wait = Wait(0)
    for failed in range(FAILED_STARTS + 1):
        # It had failed before this run, too.
        assert wait.goes_on([WORKER], {WORKER: unit(restarts=7 + failed)}, 100.0 * failed)
    last = 100.0 * FAILED_STARTS
    bad = unit(restarts=8 + FAILED_STARTS)
    assert wait.goes_on([WORKER], {WORKER: bad}, last + QUIET_SECONDS - 1)
    assert not wait.goes_on([WORKER], {WORKER: bad}, last + QUIET_SECONDS)
    assert describe([WORKER], {WORKER: bad}, wait) == [
        f"{WORKER} begins to start; {FAILED_STARTS + 1} of its starts failed"
    ]
    assert wait.goes_on([WORKER], {WORKER: unit(restarts=0)}, 9999), "somebody has started it anew"


def test_each_silent_worker_has_a_line() -> None:
    units = {
        "a@c1": unit(status="starts, 34 s of a processor so far"),
        "b@c1": unit(sub="start-pre"),
        "c@c1": unit("active", "running", status="takes jobs"),
        "d@c1": unit("failed", "failed"),
    }
    assert describe(["d@c1", "c@c1", "b@c1", "a@c1", "e@c1"], units, Wait(0)) == [
        "a@c1 starts, 34 s of a processor so far",
        "b@c1 waits for database, broker and media, or after a start that failed",
        "c@c1 runs, and does not answer",
        "d@c1 is failed (failed)",
        "e@c1 does not answer",
    ]


# --- the action --------------------------------------------------------------------------------------------------


class Clock:
    """A clock that goes on where somebody waits."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time


class Host:
    """A host whose workers start, one look after the other."""

    def __init__(self, clock: Clock, *looks: dict[str, Any] | str) -> None:
        self.clock, self.looks, self.asked = clock, list(looks), list[list[str]]()

    def execute(self, command: str) -> dict[str, Any]:
        self.asked.append(shlex.split(command))
        self.clock.time += 20
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(found, str):
            return {"rc": 1, "stdout": "", "stderr": found}
        answer = {"ok": False, "silent": [], "units": {}, "lines": [], **found}
        return {"rc": 0 if answer["ok"] else 1, "stdout": f"a warning\n{json.dumps(answer)}\n", "stderr": ""}


@pytest.fixture
def run(
    ansible_plugins: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, Any], list[str], Host]]:
    """Run the action on a host; answers its result, what it has shown, and the host."""
    assert ansible_plugins is None
    module = importlib.import_module("action_plugins.await_workers")

    def ran(*looks: dict[str, Any] | str) -> tuple[dict[str, Any], list[str], Host]:
        clock, shown = Clock(), list[str]()
        host = Host(clock, *looks)
        monkeypatch.setattr(module, "time", clock)
        action = module.ActionModule.__new__(module.ActionModule)
        given = {"node": "c1", "queues": ["default", "live"], "interval": 20.0}
        action.validate_argument_spec = lambda **_: (None, given)
        action._low_level_execute_command = host.execute
        action._display = SimpleNamespace(display=shown.append)
        monkeypatch.setattr(module.ActionBase, "run", lambda *_: {})
        return action.run(None, {"inventory_hostname": "compute1"}), shown, host

    return ran


def test_workers_that_answer_are_asked_once(run: Callable[..., Any]) -> None:
    result, shown, host = run({"ok": True, "lines": ["all 2 workers answered within 0.1 s"]})
    assert result == {"changed": False, "stdout_lines": ["all 2 workers answered within 0.1 s"]}
    assert shown == []
    (words,) = host.asked
    assert {"--json", "--probe=new", "--node=c1", "--expect=default@c1,live@c1"} <= set(words)


def test_a_start_is_shown_and_waited_for(run: Callable[..., Any]) -> None:
    starts = {"silent": ["live@c1"], "units": {"live@c1": unit(status="starts, 9 s of a processor so far")}}
    result, shown, host = run(*[starts] * 30, {"ok": True, "lines": ["all"]})
    assert result["stdout_lines"] == ["all"]
    assert len(host.asked) == 31
    assert shown[0] == "compute1 waits: live@c1 starts, 9 s of a processor so far"
    assert 10 < len(shown) < 20, "about every 40 s"


def test_who_does_not_start_fails_with_what_it_does(run: Callable[..., Any]) -> None:
    lines = ["1 of 2 workers did not answer:\n  live@c1"]
    result, _, host = run({"silent": ["live@c1"], "units": {"live@c1": unit("failed", "failed")}, "lines": lines})
    assert result["failed"]
    assert result["msg"].splitlines()[-1] == "live@c1 is failed (failed)"
    assert len(host.asked) == QUIET_SECONDS / 20


def test_a_probe_that_fails_is_not_waited_for(run: Callable[..., Any]) -> None:
    result, _, host = run({"lines": ["live@c1 ran a probe job (1 s): NOT RIGHT: media is away"]})
    assert result["failed"]
    assert len(host.asked) == 1


def test_a_host_that_cannot_ask_says_why(run: Callable[..., Any]) -> None:
    with pytest.raises(AnsibleActionFail, match="no such release"):
        run("no such release")
