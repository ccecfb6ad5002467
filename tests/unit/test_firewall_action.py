"""The action `firewall`: what it does when rules have changed, with a connection that answers as a test says."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from action_plugins import firewall

RULES = "/etc/escriptorium-firewall/rules.nft"
DONE = {"rc": 0, "stdout": "", "stderr": ""}


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Host:
    """A host that loads rules, and takes them back: ``shut`` says whether they shut out ssh."""

    transport = "ssh"

    def __init__(self, clock: Clock, *, shut: bool = False, dead: bool = False) -> None:
        self.clock, self.shut, self.dead = clock, shut, dead
        self.commands: list[str] = []
        self.kept = True
        self.applied: float | None = None

    def reset(self) -> None:
        self.kept = False

    def execute(self, command: str) -> dict[str, Any]:
        taken_back = self.applied is not None and self.clock.now > self.applied + 60
        if not self.kept and (self.dead or (self.shut and not taken_back)):
            self.clock.now += 10
            raise AnsibleConnectionFailure("timed out")
        self.commands.append(command.removeprefix(f"{firewall.PROGRAM} "))
        if command.endswith("apply 60"):
            self.applied = self.clock.now
        return DONE


class Task:
    """Of Ansible's task what the action looks at."""

    def __init__(self, *, check_mode: bool = False) -> None:
        self.check_mode, self.diff, self.async_val = check_mode, False, 0
        self.args: dict[str, Any] = {"rules": RULES, "seconds": 60, "files": []}


def action(
    host: Host, monkeypatch: pytest.MonkeyPatch, changed: list[str], task: Task | None = None, **answer: Any
) -> firewall.ActionModule:
    made = firewall.ActionModule.__new__(firewall.ActionModule)
    made._task = task or Task()
    made._connection = host
    asked = {"changed": bool(changed), "changed_files": changed, "unapplied": [], **answer}
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    monkeypatch.setattr(firewall.ActionModule, "_host_config", lambda *_: asked)
    monkeypatch.setattr(firewall.ActionModule, "_low_level_execute_command", lambda _, command: host.execute(command))
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(firewall, "time", made)
    return made


def test_new_rules_are_proved_by_a_new_connection(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(clock)
    assert action(host, monkeypatch, [RULES]).run()["changed"] is True
    assert host.commands == ["apply 60", "confirm"]
    assert not host.kept, "the connection that was open would go on under any rules"


def test_rules_of_a_run_that_was_broken_off_are_proved_by_the_next(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(clock)
    action(host, monkeypatch, [], unapplied=[RULES]).run()
    assert host.commands == ["apply 60", "confirm"]


@pytest.mark.parametrize(
    ("changed", "task", "answer"),
    [
        ([], Task(), {}),
        (["/usr/local/sbin/escriptorium-firewall"], Task(), {}),
        ([RULES], Task(check_mode=True), {}),
        ([RULES], Task(), {"failed": True}),
    ],
)
def test_nothing_is_loaded_where_nothing_has_changed(
    changed: list[str], task: Task, answer: dict[str, Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(clock)
    action(host, monkeypatch, changed, task, **answer).run()
    assert (host.commands, host.kept) == ([], True)


def test_rules_that_shut_out_ssh_are_never_confirmed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(clock, shut=True)
    with pytest.raises(AnsibleActionFail, match="the host has taken them back"):
        action(host, monkeypatch, [RULES]).run()
    assert host.commands == ["apply 60", "true"]


def test_a_host_that_never_answers_again_is_unreachable(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="has not answered since"):
        action(Host(clock, dead=True), monkeypatch, [RULES]).run()


def test_on_the_host_itself_there_is_no_connection_to_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(clock)
    host.transport = "local"
    action(host, monkeypatch, [RULES]).run()
    assert (host.commands, host.kept) == (["apply 60", "confirm"], True)
