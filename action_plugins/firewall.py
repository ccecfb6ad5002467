"""Action `firewall`: `host_config`, and then rules that have changed are put in force, proved, or taken back.

    - name: Let in what the inventory needs, and nothing else
      firewall:
        rules: /etc/escriptorium-firewall/rules.nft
        seconds: 60
        files: [...]

Takes what `host_config` takes, without handlers, and ``rules``, the file whose change counts. The host loads it with a
timer that takes it back after ``seconds`` (roles/firewall/files/escriptorium_firewall.py). A connection that is kept
open would go on under any rules, so it is ended first: only a new one proves that ssh is answered, and stops the timer.
In one task, since a run that ends between two would leave rules without a proof. Where Ansible runs on the host itself
there is no connection, and nothing to prove.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

PROGRAM = "/usr/local/sbin/escriptorium-firewall"
REFUSED = "the new rules of the firewall are not kept"
ADVICE = (
    "firewall_admin_networks has to hold the address from which the host sees this computer, or the one that Ansible "
    "jumps through"
)
#: Part of the time before rules are taken back in which a new connection may come.
SHARE = 0.7
#: Seconds between two tries.
PAUSE = 2.0
#: Seconds beyond the timer in which a host that took rules back has to answer.
AFTER = 30.0


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks the host once where nothing has changed."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make files and units what they are meant to be, and prove new rules."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        arguments = dict(self._task.args)
        rules, seconds = str(arguments.pop("rules")), int(arguments.pop("seconds"))
        result.update(self._host_config(arguments, variables))
        concerned = [*(result.get("changed_files") or ()), *(result.get("unapplied") or ())]
        if result.get("failed") or self._task.check_mode or rules not in concerned:
            return result
        answer = self._low_level_execute_command(f"{PROGRAM} apply {seconds}")
        if answer["rc"] != 0:
            raise AnsibleActionFail(f"the firewall is as it was: {answer['stderr'] or answer['stdout']}")
        self._prove(seconds)
        return result

    def _host_config(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        task = self._task.copy()
        task.args = arguments
        action = self._shared_loader_obj.action_loader.get(
            "host_config",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        answer: dict[str, Any] = action.run(task_vars=variables)
        return answer

    def _prove(self, seconds: int) -> None:
        """Confirm the rules by a new connection; where none comes in time, wait until the host has taken them back."""
        began = time.monotonic()
        while time.monotonic() < began + SHARE * seconds:
            answer = self._new_connection(f"{PROGRAM} confirm")
            if answer is not None and answer["rc"] == 0:
                return
            if answer is not None:
                raise AnsibleActionFail(f"{REFUSED}: {(answer['stderr'] or answer['stdout']).strip()}. {ADVICE}")
            time.sleep(PAUSE)
        while time.monotonic() < began + seconds + AFTER:
            if time.monotonic() > began + seconds and self._new_connection("true") is not None:
                raise AnsibleActionFail(f"{REFUSED}: ssh was not answered, and the host has taken them back. {ADVICE}")
            time.sleep(PAUSE)
        raise AnsibleConnectionFailure(f"{REFUSED}, and the host has not answered since, though it takes them back")

    def _new_connection(self, command: str) -> dict[str, Any] | None:
        """Run a command by a connection of its own; None where the host does not answer."""
        try:
            if self._connection.transport != "local":
                self._connection.reset()
            answer: dict[str, Any] = self._low_level_execute_command(command)
        except AnsibleConnectionFailure:
            return None
        return answer
