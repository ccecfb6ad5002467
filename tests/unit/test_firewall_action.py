"""The action `prove`: what it does when rules of the firewall have changed; the connection answers as a test says."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from action_plugins import prove

PROGRAM = "/usr/local/sbin/escriptorium-firewall"
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

    def __init__(self, clock: Clock, *, shut: bool = False, dead: bool = False, local: bool = False) -> None:
        self.clock, self.shut, self.dead, self.local = clock, shut, dead, local
        self.commands: list[str] = []
        self.kept = True
        self.applied: float | None = None
        self.armed = ""

    def wait_for_connection(self, timeout: int, sleep: int) -> dict[str, Any]:
        """As Ansible's action of this name: the connection that is kept ends first."""
        end = self.clock.now + timeout
        while self.clock.now < end:
            self.kept = self.local
            try:
                self.execute("ping")
            except AnsibleConnectionFailure:
                self.clock.sleep(sleep)
            else:
                return {}
        return {"failed": True}

    def execute(self, command: str) -> dict[str, Any]:
        taken_back = self.applied is not None and self.clock.now > self.applied + 60
        if not self.kept and (self.dead or (self.shut and not taken_back)):
            self.clock.now += 10
            raise AnsibleConnectionFailure("timed out")
        steps = [step for step in ("apply", "confirm") if f"{PROGRAM} {step} )" in command]
        self.commands.append(*(steps or [command]))
        if steps == ["apply"]:
            self.applied = self.clock.now
            self.armed = command.partition(f"{PROGRAM} apply")[0]
        return DONE


class Task:
    """Of Ansible's task what the action looks at."""

    def __init__(self, *, check_mode: bool = False, **more: Any) -> None:
        self.check_mode, self.diff, self.async_val = check_mode, False, 0
        steps = {"command": f"{PROGRAM} apply", "back": f"{PROGRAM} back", "keep": f"{PROGRAM} confirm"}
        what = {"what": "the new rules of the firewall", "unit": "escriptorium-firewall-back", "seconds": 60}
        self.args: dict[str, Any] = {**what, **steps, "config": {"files": []}, "of": RULES, **more}


def action(
    host: Host, monkeypatch: pytest.MonkeyPatch, changed: list[str], task: Task | None = None, **answer: Any
) -> prove.ActionModule:
    made = prove.ActionModule.__new__(prove.ActionModule)
    made._task = task or Task()
    made._connection = host
    asked = {"changed": bool(changed), "changed_files": changed, "unapplied": [], **answer}

    def other(_: Any, name: str, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        del variables
        return asked if name == "host_config" else host.wait_for_connection(**arguments)

    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    monkeypatch.setattr(ActionBase, "_low_level_execute_command", lambda _, command: host.execute(command))
    monkeypatch.setattr(prove.ActionModule, "_other", other)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(prove, "time", made)
    return made


def test_new_rules_are_proved_by_a_new_connection(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(clock)
    assert action(host, monkeypatch, [RULES]).run()["changed"] is True
    assert host.commands == ["apply", "ping", "confirm"]
    assert not host.kept, "the connection that was open would go on under any rules"
    assert "--unit=escriptorium-firewall-back --on-active=60 " in host.armed, "the way back is there before the rules"
    assert f"sh -c '{PROGRAM} back' ||" in host.armed


def test_rules_of_a_run_that_was_broken_off_are_proved_by_the_next(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(clock)
    action(host, monkeypatch, [], unapplied=[RULES]).run()
    assert host.commands == ["apply", "ping", "confirm"]


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
    assert host.commands == ["apply", "ping"]


def test_a_host_that_never_answers_again_is_unreachable(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="has not answered since"):
        action(Host(clock, dead=True), monkeypatch, [RULES]).run()


def test_on_the_host_itself_there_is_no_connection_to_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(clock, local=True)
    action(host, monkeypatch, [RULES]).run()
    assert (host.commands, host.kept) == (["apply", "ping", "confirm"], True)


def test_a_step_does_its_part_only(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for ssh: nothing is kept before each host of a run has come in, which is a step of its own."""
    host = Host(clock)
    for step, commands in (("begin", ["apply"]), ("keep", ["apply", "confirm"])):
        assert action(host, monkeypatch, [], Task(step=step, config=None)).run()["changed"]
        assert (host.commands, host.kept) == (commands, True)


def test_what_the_host_says_of_a_refusal_is_shown(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = action(Host(clock), monkeypatch, [RULES])
    ended = {"rc": 1, "stdout": "nftables refuses the rules\r\n", "stderr": "Shared connection to h closed.\r\n"}
    monkeypatch.setattr(ActionBase, "_low_level_execute_command", lambda *_: ended)
    with pytest.raises(AnsibleActionFail, match="are not in force: nftables refuses the rules"):
        made.run()
