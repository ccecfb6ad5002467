"""Commands that workers take beside their jobs, by Celery's remote control. Imported in workers only."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

from celery.worker.control import control_command

from escriptorium_cluster.probe import PROBE_COMMAND

#: Seconds after which a look that hangs, as on a lost storage host, is given up.
LIMIT = 120.0


@control_command(name=PROBE_COMMAND, args=[("reply_to", str)], signature="<key>")  # type: ignore[untyped-decorator]
def cluster_probe(state: Any, reply_to: str) -> dict[str, str]:
    """Look at what a job needs, in a process beside the worker's jobs; the worker's own loop waits for nothing."""
    command = [sys.executable, "-m", "escriptorium_cluster.probe", "--worker", state.hostname, "--reply-to", reply_to]

    def run() -> None:
        try:
            subprocess.run(command, check=False, timeout=LIMIT, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            return  # who asked hears nothing, and says so

    threading.Thread(target=run, name="probe", daemon=True).start()
    return {"ok": "looking"}
