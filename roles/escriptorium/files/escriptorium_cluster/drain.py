"""Says which workers of a host have not ended, and what they still do. Needs no Django.

    python -m escriptorium_cluster.drain --node compute1
    python -m escriptorium_cluster.drain --node compute1 --stop "stopped for a new fan"
    python -m escriptorium_cluster.drain --node compute1 --settle

The first prints one JSON line: ``left``, names of the units; ``lines``, the same with their jobs for a person; ``key``,
which is another one when anything but the time has changed. A broker that does not answer leaves the jobs out and is no
error: the units are what counts.

The second comes before the workers are killed: it notes that their jobs are to end as failed, for the reason given, and
prints a line for each (see ``stopping``). It ends with status 68 where nobody has ever heard of the host. The third
comes after that, and again wherever it was broken off: jobs that were to end and whose workers are gone are marked and
taken out of the queue, with a line for each; those whose workers still run go on.

Exit status 75: broker or database do not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from escriptorium_cluster.config import ConfigError
from escriptorium_cluster.jobs import Job, duration, open_broker, read_jobs
from escriptorium_cluster.lease import DEAD, host_of
from escriptorium_cluster.reaper import NO_HOST, NOT_NOW, mark_with_django, unknown_host
from escriptorium_cluster.stopping import finish, note_orders, take_back

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from escriptorium_cluster.lease import Note
    from escriptorium_cluster.stopping import Stopped

_UNIT = re.compile(r"escriptorium-worker@(\S+)\.service (\S+) ")
#: States of a unit in which its processes may run.
RUNNING = frozenset({"active", "activating", "deactivating", "reloading"})


class MarkError(RuntimeError):
    """Jobs could not be marked as failed; the message is for people."""


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


def settle(redis: Any, node: str, units: Mapping[str, str]) -> list[Stopped]:
    """End the jobs of a host that were to end and whose workers are gone; those whose workers run go on.

    :param units: the workers of the host that run.
    :returns: the jobs that ended.
    :raises MarkError: the database does not answer; nothing was taken out of the queue.
    """
    dead = {lease.decode() for lease in redis.hkeys(DEAD)}

    def own(note: Note) -> bool:
        return host_of(note.node) == node

    def gone(note: Note) -> bool:
        # A worker of the same name may have started since: it has declared its forerunner dead.
        return own(note) and (note.node not in units or note.lease in dead)

    stopped = finish(redis, gone, _mark)
    take_back(redis, own)
    return stopped


def _mark(jobs: Sequence[str], models: Sequence[int], reason: str) -> None:
    try:
        mark_with_django(jobs, models, reason)
    except Exception as error:  # whatever database and application raise
        raise MarkError(f"{len(jobs)} jobs could not be marked as failed: {type(error).__name__}: {error}") from error


def _told(job: Note | Stopped) -> str:
    return f"{job.node}: {job.task} after {duration(max(0.0, time.time() - job.since))} ({job.id})"


def _listed() -> str:
    """Return the lines of the program ``show-units``."""
    program = "/usr/local/lib/escriptorium/show-units"
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout


def _left(redis: Any, units: Mapping[str, str]) -> str:
    """Return what is left, as one JSON line."""
    from redis import RedisError

    trouble = []
    try:
        own = [job for job in read_jobs(redis, time.time()) if job.worker in units]
    except RedisError as error:
        own, trouble = [], [f"the broker does not answer: {error}"]
    lines = describe(units, own) + trouble
    key = [f"{worker} {state}" for worker, state in sorted(units.items())] + sorted(job.id for job in own)
    return json.dumps({"left": sorted(units), "lines": lines, "key": key})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="escriptorium_cluster.drain", description="Show what is left on a host.")
    parser.add_argument("--node", required=True, help="name of this host in the names of its workers")
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--stop", metavar="REASON", help="note that its jobs are to end as failed, for users to read")
    does.add_argument("--settle", action="store_true", help="end such jobs whose workers are gone; others go on")
    options = parser.parse_args(arguments)
    try:
        redis = open_broker(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1

    from redis import RedisError

    try:
        if options.stop and (unknown := unknown_host(redis, options.node)):
            print(unknown, file=sys.stderr)
            return NO_HOST
        if options.stop:
            jobs = note_orders(redis, lambda note: host_of(note.node) == options.node, options.stop)
            print("".join(f"{_told(job)}\n" for job in jobs), end="")
            return 0
        units = units_left(_listed(), options.node)
        if options.settle:
            print("".join(f"{_told(job)}\n" for job in settle(redis, options.node, units)), end="")
        else:
            print(_left(redis, units))
    except RedisError as error:
        print(f"the broker does not answer: {error}", file=sys.stderr)
        return NOT_NOW
    except MarkError as error:
        print(error, file=sys.stderr)
        return NOT_NOW
    return 0


if __name__ == "__main__":
    sys.exit(main())
