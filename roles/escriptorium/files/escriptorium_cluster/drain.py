"""Says which workers of a host have not ended, and what they still do. Needs no Django.

    python -m escriptorium_cluster.drain --node compute1
    python -m escriptorium_cluster.drain --node compute1 --fail "stopped for a new fan"

The first prints one JSON line: ``left``, names of the units; ``lines``, the same with their jobs for a person; ``key``,
which is another one when anything but the time has changed. A broker that does not answer leaves the jobs out and is no
error: the units are what counts. The second marks the jobs of workers that were killed as failed, for the reason given,
takes them out of the queue, and prints a line for each; it ends with status 68 where nobody has ever heard of the host.
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
from escriptorium_cluster.lease import NOTES, UNACKED, UNACKED_INDEX, host_of, parse_note
from escriptorium_cluster.reaper import NO_HOST, mark_with_django, unknown_host

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UNIT = re.compile(r"escriptorium-worker@(\S+)\.service (\S+) ")
# KEYS: notes, unacked, its index. ARGV: tag, note.
# Answers 0 when the message was acknowledged, or belongs to another worker by now.
GIVE_UP = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
"""
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


def give_up(redis: Any, node: str, reason: str) -> list[Job]:
    """Mark the jobs that the workers of a host hold as failed, and drop their messages; returns these jobs.

    Meant for workers whose processes are gone: one that lives would go on.
    """
    own = []
    for tag, text in redis.hgetall(NOTES).items():
        note = parse_note(text.decode())
        if note is None or host_of(note.node) != node:
            continue
        if redis.eval(GIVE_UP, 3, NOTES, UNACKED, UNACKED_INDEX, tag, text):
            own.append(Job(note.node, note.task, note.id, max(0.0, time.time() - note.since)))
    mark_with_django([job.id for job in own], [], reason)
    return own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="escriptorium_cluster.drain", description="Show what is left on a host.")
    parser.add_argument("--node", required=True, help="name of this host in the names of its workers")
    parser.add_argument("--fail", metavar="REASON", help="mark the jobs of killed workers as failed, for users to read")
    options = parser.parse_args(arguments)
    try:
        redis = open_broker(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1

    from redis import RedisError

    if options.fail:
        if unknown := unknown_host(redis, options.node):
            print(unknown, file=sys.stderr)
            return NO_HOST
        for job in give_up(redis, options.node, options.fail):
            print(f"{job.worker}: {job.task} after {duration(job.seconds)} ({job.id})")
        return 0
    listed = subprocess.run(["/usr/local/lib/escriptorium/show-units"], check=True, capture_output=True, text=True)
    units = units_left(listed.stdout, options.node)
    trouble = []
    try:
        own = [job for job in read_jobs(redis, time.time()) if job.worker in units]
    except RedisError as error:
        own, trouble = [], [f"the broker does not answer: {error}"]
    lines = describe(units, own) + trouble
    key = [f"{worker} {state}" for worker, state in sorted(units.items())] + sorted(job.id for job in own)
    print(json.dumps({"left": sorted(units), "lines": lines, "key": key}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
