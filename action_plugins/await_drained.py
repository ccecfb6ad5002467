"""Action `await_drained`: wait until the workers of a host have ended, and show what they still do.

Arguments: ``node`` (name of the host in the names of its workers), ``timeout`` (s; negative: as long as it takes) and
``interval`` (s between two looks). Returns ``left``, the names of the units that have not ended. Changes nothing.
"""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

PROGRAM = ("/usr/local/lib/escriptorium/run-as-service", "python", "-m", "escriptorium_cluster.drain", "--node")
#: Seconds after which what has not changed is shown again, so that nobody takes the wait for a hang.
REPEAT_SECONDS = 300.0


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks the host from time to time; what it shows goes by as it happens, which no module can do."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return when nothing is left, or when the time is up."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "node": {"type": "str", "required": True},
                "timeout": {"type": "float", "default": -1},
                "interval": {"type": "float", "default": 5},
            }
        )
        started = time.monotonic()
        shown: list[str] = []
        shown_at = started
        while True:
            state = self._look(arguments["node"])
            now = time.monotonic()
            if state["key"] != shown or (state["left"] and now > shown_at + REPEAT_SECONDS):
                for line in state["lines"]:
                    self._display.display(f"{variables['inventory_hostname']}: {line}")
                shown, shown_at = state["key"], now
            if not state["left"] or 0 <= arguments["timeout"] <= now - started:
                result.update(changed=False, left=state["left"], waited=round(now - started))
                return result
            time.sleep(arguments["interval"])

    def _look(self, node: str) -> dict[str, Any]:
        answer = self._low_level_execute_command(shlex.join([*PROGRAM, node]))
        if answer["rc"] != 0:
            raise AnsibleActionFail(f"cannot see what the workers do: {answer['stderr'] or answer['stdout']}")
        state: dict[str, Any] = json.loads(answer["stdout"].strip().splitlines()[-1])
        return state
