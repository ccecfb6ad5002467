"""Action `await_workers`: wait until the workers of a host answer, and show how they start.

Arguments: ``node`` (name of the host in the names of its workers), ``queues`` (the other part of these names) and
``interval`` (s that one look waits for answers). It waits as long as starts make progress
(module_utils/platform_workers.py), and then has each worker that was not proven since its start run a probe job.
Returns ``stdout_lines``, what was found; fails with the same where a worker does not answer, or lacks what a job needs.
Changes nothing.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

try:
    from ansible.module_utils import platform_workers
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_workers

PROGRAM = ("/usr/local/lib/escriptorium/run-as-service", "python", "-m", "escriptorium_cluster.workers", "--json")
#: Seconds that a worker has for its probe job, and seconds between two lines of a wait.
PROBE_SECONDS, SHOW_SECONDS = 120, 30.0


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks the host from time to time; what it shows goes by as it happens, which no module can do."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return when all workers answer, or when no start makes progress any more."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "node": {"type": "str", "required": True},
                "queues": {"type": "list", "elements": "str", "required": True},
                "interval": {"type": "float", "default": 20},
            }
        )
        workers = [f"{queue}@{arguments['node']}" for queue in arguments["queues"]]
        wait = platform_workers.Wait(time.monotonic())
        shown = wait.since - SHOW_SECONDS
        while True:
            found = self._look(workers, arguments["node"], arguments["interval"])
            now = time.monotonic()
            go_on = wait.goes_on(found["silent"], found["units"], now)
            doing = platform_workers.describe(found["silent"], found["units"], wait)
            if not go_on:
                break
            if now >= shown + SHOW_SECONDS:
                self._display.display(f"{variables['inventory_hostname']} waits: {'; '.join(doing)}")
                shown = now
        lines = [*found["lines"], *doing]
        result.update(changed=False, stdout_lines=lines)
        if not found["ok"]:
            result.update(failed=True, msg="\n".join(lines))
        return result

    def _look(self, workers: list[str], node: str, seconds: float) -> dict[str, Any]:
        options = [f"--timeout={seconds:g}", "--probe=new", f"--probe-timeout={PROBE_SECONDS}", f"--node={node}"]
        answer = self._low_level_execute_command(shlex.join([*PROGRAM, *options, f"--expect={','.join(workers)}"]))
        try:
            found: dict[str, Any] = json.loads(answer["stdout"].strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise AnsibleActionFail(
                f"the workers cannot be asked: {answer['stderr'] or answer['stdout'] or answer['rc']}"
            ) from None
        return found
