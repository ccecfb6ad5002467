"""Action `prove`: a change that might shut out whoever makes it is in force for a while, and kept if they come in anew.

    - name: Let in what the inventory needs, and nothing else
      prove:
        what: the new rules of the firewall
        unit: escriptorium-firewall-back
        seconds: 60
        command: escriptorium-firewall apply
        back: escriptorium-firewall back
        keep: escriptorium-firewall confirm
        config: {files: [...]}
        of: /etc/escriptorium-firewall/rules.nft

``command``, ``back`` and ``keep`` are texts for the host's shell (``back`` without ``$``: systemd reads it first). A
timer of systemd takes the change ``back`` after ``seconds``, also where this run ends. A connection that Ansible keeps
would go on whatever has changed, so it is ended: only a new one proves anything, and stops the timer. Where Ansible
runs on the host itself there is none, and nothing to prove. ``config`` is given to `host_config` before, and all else
happens only where the file ``of`` has changed or waits since an earlier run: in one task, since a run that ends between
two would leave a change without a proof. Where others are reached through a host, steps of all (``step``: begin, keep)
come one after the other, with `wait_for_connection` between them.
"""

from __future__ import annotations

import shlex
import time
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

#: Part of the time before a change is taken back in which a new connection may come.
SHARE = 0.7
#: Seconds beyond the timer in which a host that took a change back has to answer.
AFTER = 30

ARGUMENTS: dict[str, Any] = {
    **{name: {"type": "str", "required": True} for name in ("what", "unit")},
    **{name: {"type": "str", "default": ""} for name in ("command", "back", "keep", "advice", "of")},
    "seconds": {"type": "int", "default": 0},
    "step": {"type": "str", "choices": ["all", "begin", "keep"], "default": "all"},
    "config": {"type": "dict"},
}


def beginning(given: dict[str, Any]) -> str:
    """Return what the host's shell does to put a change in force, with its way back before it."""
    timer = f"{given['unit']}.timer"
    # One of an earlier run must not end in the middle of this one.
    return (
        f"if systemctl --quiet is-active {timer}; then systemctl stop {timer}; fi\n"
        f"systemd-run --quiet --collect --unit={given['unit']} --on-active={given['seconds']}"
        f" --timer-property=AccuracySec=1s sh -c {shlex.quote(given['back'])} || exit\n"
        f"( {given['command']} ) || {{ systemctl stop {timer}; exit 1; }}"
    )


def ending(given: dict[str, Any]) -> str:
    """Return what the host's shell does to keep a change that was proved."""
    timer = f"{given['unit']}.timer"
    late = shlex.quote(f"the new connection came too late: {given['what']} were taken back. Run it again")
    return (
        f"systemctl --quiet is-active {timer} || {{ echo {late} >&2; exit 1; }}\n"
        f"( {given['keep']} ) && systemctl stop {timer}"
    )


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks the host once where nothing has changed."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make files and units what they are meant to be; begin, come in by a new connection, keep."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, given = self.validate_argument_spec(argument_spec=ARGUMENTS)
        if given["config"] is not None:
            result.update(self._other("host_config", given["config"], variables))
            concerned = [*(result.get("changed_files") or ()), *(result.get("unapplied") or ())]
            if result.get("failed") or given["of"] not in concerned:
                return result
        if self._task.check_mode:
            return result
        refused = f"{given['what']} are not kept"
        if given["step"] != "keep":
            self._succeed(beginning(given), f"{given['what']} are not in force", "")
        if given["step"] == "all" and not self._comes_in(int(SHARE * given["seconds"]), variables):
            time.sleep((1 - SHARE) * given["seconds"])
            if self._comes_in(AFTER, variables):
                why = "ssh was not answered, and the host has taken them back"
                raise AnsibleActionFail(f"{refused}: {why}. {given['advice']}")
            raise AnsibleConnectionFailure(f"{refused}: the host has not answered since, though it takes them back")
        if given["step"] != "begin":
            self._succeed(ending(given), refused, given["advice"])
        return {**result, "changed": True}

    def _succeed(self, text: str, failure: str, advice: str) -> None:
        answer = self._low_level_execute_command(text)
        if answer["rc"] != 0:
            # Where ssh gives a terminal all is in stdout, and stderr says that the connection has ended.
            said = (answer["stdout"] or answer["stderr"]).strip()
            raise AnsibleActionFail(f"{failure}: {said}. {advice}".rstrip())

    def _comes_in(self, seconds: int, variables: dict[str, Any]) -> bool:
        """Tell whether the host answers a new connection within some time."""
        answer = self._other("ansible.builtin.wait_for_connection", {"timeout": seconds, "sleep": 2}, variables)
        return not answer.get("failed")

    def _other(self, name: str, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        task = self._task.copy()
        task.args = arguments
        action = self._shared_loader_obj.action_loader.get(
            name,
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        answer: dict[str, Any] = action.run(task_vars=variables)
        return answer
