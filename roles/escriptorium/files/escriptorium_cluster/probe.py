"""Proves that a worker can work: a job that it alone gets looks at all that a job needs.

A worker that answers a ping has reached the broker; whether its jobs find their slice, the database and the media is
not said by that. ``escriptorium_cluster.workers --probe new`` sends each worker that was not proven since its start one
job through a queue of its own. A worker that is in the middle of a long job cannot take another: its main process then
looks beside that job, in the same unit with the same memory and the same slice.

    python -m escriptorium_cluster.probe --worker default@compute1 --reply-to KEY

does the latter. Pure but for ``deliver`` and ``main``; what is looked at is in needs.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from escriptorium_cluster.checks import CheckResult

#: The job's name, and that of the command by which a busy worker looks beside its job.
PROBE_TASK = "escriptorium_cluster.probe"
PROBE_COMMAND = "cluster_probe"
#: Hash in Redis: worker's name -> second (of Redis' own clock) at which it was proven last.
PROVEN_KEY = "cluster:proven"
#: Seconds that a reply waits for the one who asked.
REPLY_SECONDS = 600
#: Seconds by which a worker's own account of its age may be off: it is rounded.
AGE_ERROR = 1.0

JOB, BESIDE = "job", "beside"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a worker found, in ``seconds``; ``how`` is JOB, or BESIDE where it looked beside a running job."""

    worker: str
    how: str
    seconds: float
    checks: Mapping[str, Mapping[str, Any]]

    @property
    def ok(self) -> bool:
        """True when the worker has all that a job needs."""
        return bool(self.checks) and all(check["ok"] for check in self.checks.values())

    def text(self) -> str:
        """Return the proof as one line for a person; what is wrong comes first."""
        found = sorted(self.checks.items(), key=lambda item: bool(item[1]["ok"]))
        details = ", ".join(f"{name} {check['detail']}" for name, check in found)
        did = "ran a probe job" if self.how == JOB else "is busy with a job, and looked beside it"
        return f"{self.worker} {did} ({self.seconds:g} s): {'' if self.ok else 'NOT RIGHT: '}{details}"


def queue_of(worker: str) -> str:
    """Return the queue from which one worker takes its probe job."""
    return f"probe.{worker}"


def unproven(ages: Mapping[str, float], proven: Mapping[str, float], now: float) -> tuple[str, ...]:
    """Return the workers that were not proven since their process started, sorted.

    :param ages: seconds since each worker's start.
    :param proven: when each worker was proven last.
    :param now: on the clock of ``proven``; those of the hosts may differ.
    """
    return tuple(sorted(name for name, age in ages.items() if proven.get(name, 0.0) <= now - age + AGE_ERROR))


def encode(worker: str, how: str, seconds: float, results: Mapping[str, CheckResult]) -> str:
    """Return a proof as one line of JSON."""
    return json.dumps(asdict(Proof(worker, how, round(seconds, 1), {name: asdict(r) for name, r in results.items()})))


def decode(text: str | bytes) -> Proof:
    """Return the proof of such a line.

    :raises ValueError: when it is none.
    """
    try:
        return Proof(**json.loads(text))
    except TypeError as error:
        raise ValueError(f"no proof: {text!r}") from error


def deliver(worker: str, how: str, reply_to: str) -> bool:
    """Look at what a job needs, answer the one who asked, note a worker that is right; return whether it is."""
    import time

    from django.conf import settings
    from redis import Redis

    from escriptorium_cluster import needs

    begin = time.monotonic()
    results = needs.look()
    text = encode(worker, how, time.monotonic() - begin, results)
    with Redis.from_url(settings.CELERY_BROKER_URL, socket_connect_timeout=10, socket_timeout=10) as client:
        right = decode(text).ok
        with client.pipeline() as pipeline:
            if right:
                pipeline.hset(PROVEN_KEY, worker, int(client.time()[0]))
            pipeline.rpush(reply_to, text)
            pipeline.expire(reply_to, REPLY_SECONDS)
            pipeline.execute()
    return right


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="escriptorium_cluster.probe", description="Look at what a job needs.")
    parser.add_argument("--worker", required=True, metavar="QUEUE@HOST", help="the worker that looks")
    parser.add_argument("--reply-to", required=True, metavar="KEY", help="list in Redis that takes the answer")
    options = parser.parse_args(arguments)

    import django

    django.setup()
    return 0 if deliver(options.worker, BESIDE, options.reply_to) else 1


if __name__ == "__main__":
    sys.exit(main())
