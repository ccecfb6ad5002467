"""Says which workers of a host have not ended, and what they still do. Needs no Django.

    python -m escriptorium_cluster.drain --node compute1

Prints one JSON line: ``left``, names of the units; ``lines``, the same with their jobs for a person; ``key``, which is
another one when anything but the time has changed. A broker that does not answer leaves the jobs out and is no error:
the units are what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from escriptorium_cluster.config import ConfigError, load_broker
from escriptorium_cluster.jobs import Job, duration, read_jobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UNIT = re.compile(r"escriptorium-worker@(\S+)\.service (\S+) ")
#: States of a unit in which its processes may run.
RUNNING = frozenset({"active", "activating", "deactivating", "reloading"})


def units_left(listed: str, node: str) -> dict[str, str]:
    """Return name and state of the workers that run, from the lines of the program ``show-units``."""
    return {f"{name}@{node}": state for name, state in _UNIT.findall(listed) if state in RUNNING}


def describe(units: Mapping[str, str], jobs: Sequence[Job]) -> list[str]:
    """Return a line for each worker: what it still has to do, and for how long it has been doing that."""
    lines = []
    for worker, state in sorted(units.items()):
        own = [job for job in jobs if job.worker == worker]
        doing = ", ".join(f"{job.task} for {duration(job.seconds)} ({job.id})" for job in own) or "no job that is known"
        lines.append(f"{worker} {'ends' if state == 'deactivating' else 'is ' + state}: {doing}")
    return lines or ["no worker runs"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="escriptorium_cluster.drain", description="Show what is left on a host.")
    parser.add_argument("--node", required=True, help="name of this host in the names of its workers")
    options = parser.parse_args(arguments)
    try:
        broker = load_broker(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    listed = subprocess.run(["/usr/local/lib/escriptorium/show-units"], check=True, capture_output=True, text=True)
    units = units_left(listed.stdout, options.node)
    jobs, trouble = read_jobs(broker, time.time()) if units else ([], "")
    own = [job for job in jobs if job.worker in units]
    lines = describe(units, own) + ([f"the broker does not answer: {trouble}"] if trouble else [])
    key = [f"{worker} {state}" for worker, state in sorted(units.items())] + sorted(job.id for job in own)
    print(json.dumps({"left": sorted(units), "lines": lines, "key": key}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
