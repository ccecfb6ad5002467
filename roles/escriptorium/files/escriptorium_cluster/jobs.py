"""Lists the jobs that run and counts those that wait. Needs no Django: it only talks to the broker.

    python -m escriptorium_cluster.jobs [--json]

Exit status 0; 1 when the broker does not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from escriptorium_cluster.config import QUEUES, ConfigError, load_broker
from escriptorium_cluster.lease import ANSWER_SECONDS, NOTES, UNACKED, parse_note

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Job:
    """One running job; ``seconds`` since it started."""

    worker: str
    task: str
    id: str
    seconds: float


def held_jobs(notes: Mapping[str, str], unacknowledged: Collection[str], now: float) -> list[Job]:
    """Return the jobs that workers hold, the oldest first: also those of workers that answer no question any more.

    :param notes: what workers note about each message they fetch, by its delivery tag (see ``lease``).
    :param unacknowledged: delivery tags of the messages whose jobs have not ended.
    :param now: seconds since 1970.
    """
    held = [note for tag, text in notes.items() if tag in unacknowledged and (note := parse_note(text))]
    jobs = [Job(note.node, note.task, note.id, round(max(0.0, now - note.since), 1)) for note in held]
    return sorted(jobs, key=lambda job: (-job.seconds, job.worker, job.id))


def open_broker(environment: Mapping[str, str]) -> Any:
    """Return a connection to the broker; each answer may take ``ANSWER_SECONDS``.

    :raises ConfigError: where the environment does not say where the broker is.
    """
    broker = load_broker(environment)

    from redis import Redis

    return Redis.from_url(broker.url(0), socket_connect_timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS)


def read_jobs(redis: Any, now: float) -> list[Job]:
    """Ask the broker for the jobs that workers hold."""
    notes = {tag.decode(): text.decode() for tag, text in redis.hgetall(NOTES).items()}
    return held_jobs(notes, {tag.decode() for tag in redis.hkeys(UNACKED)}, now)


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3 h 5 min."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def explain(jobs: Sequence[Job], waiting: Mapping[str, int]) -> str:
    """Return the state as lines for a person."""
    lines = [f"{len(jobs)} running"]
    lines += [f"  {job.worker}  {job.task}  for {duration(job.seconds)}  ({job.id})" for job in jobs]
    lines.append("waiting: " + (", ".join(f"{queue} {count}" for queue, count in waiting.items() if count) or "none"))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="escriptorium_cluster.jobs", description="Show running and waiting jobs.")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of text")
    options = parser.parse_args(arguments)
    try:
        redis = open_broker(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1

    from redis import RedisError

    try:
        waiting = {queue: int(redis.llen(queue)) for queue in QUEUES}
        jobs = read_jobs(redis, time.time())
    except RedisError as error:
        print(f"the broker does not answer: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"running": [asdict(job) for job in jobs], "waiting": waiting}))
    else:
        print(explain(jobs, waiting))
    return 0


if __name__ == "__main__":
    sys.exit(main())
