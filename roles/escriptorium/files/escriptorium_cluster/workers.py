"""Waits until every expected Celery worker answers. Needs no Django: it only talks to the broker.

    python -m escriptorium_cluster.workers --expect default@compute1,gpu@compute1 --timeout 90 [--probe new] [--json]

Exit status 0: all answered. 1: some are silent (they are named), or the broker does not answer. 2: wrong usage.
With --probe new each worker that was not proven since its start gets a probe job too (probe.py), and one that lacks
what a job needs makes the status 1 as well; with --probe all each gets one.
With --json the answer is one line: that of ``Answer`` with ``ok``, ``lines`` (the same for a person), ``proofs``,
``unheard`` (no probe job ended) and, with --node NAME, ``units``: how the units of silent workers of this host are.
A worker that was started while the broker was down can stay deaf for ever although its process lives: it answers no
ping, so it is found here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from escriptorium_cluster.config import BrokerConfig, ConfigError, load_broker
from escriptorium_cluster.probe import PROBE_COMMAND, PROBE_TASK, PROVEN_KEY, Proof, decode, queue_of, unproven
from escriptorium_cluster.units import unit_states

if TYPE_CHECKING:
    from celery import Celery
    from redis import Redis

#: Seconds that one round of questions waits for answers.
ROUND_SECONDS = 3.0
#: Seconds after which a worker that has not begun its probe job is asked whether it is busy.
BUSY_SECONDS = 4.0

#: Asks the named nodes and returns those that answered within the seconds given.
Ping = Callable[[Sequence[str], float], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answered and who did not, sorted by name, and the last trouble with the broker if there was one."""

    answered: tuple[str, ...]
    silent: tuple[str, ...]
    seconds: float
    trouble: str = ""

    @property
    def ok(self) -> bool:
        """True when nobody is silent."""
        return not self.silent


def parse_expected(text: str) -> tuple[str, ...]:
    """Return the node names of a comma separated list, sorted, each once.

    :raises ValueError: when the list is empty or a name is not of the form QUEUE@HOST.
    """
    names = sorted({part.strip() for part in text.split(",") if part.strip()})
    if not names:
        raise ValueError("no worker named")
    for name in names:
        queue, at, host = name.partition("@")
        if not (queue and at and host) or "@" in host or any(character.isspace() for character in name):
            raise ValueError(f"'{name}' is not of the form QUEUE@HOST")
    return tuple(names)


def wait_for_workers(
    expected: Sequence[str],
    timeout: float,
    ping: Ping,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Ask until all expected workers have answered once or ``timeout`` seconds are over.

    :param ping: see ``Ping``; an exception of it counts as a round without answers.
    """
    start = now()
    answered: set[str] = set()
    trouble = ""
    while True:
        missing = [name for name in expected if name not in answered]
        remaining = start + timeout - now()
        if not missing or remaining <= 0:
            return Answer(tuple(sorted(answered)), tuple(sorted(missing)), round(now() - start, 1), trouble)
        round_start = now()
        try:
            answered |= set(ping(missing, min(ROUND_SECONDS, remaining))) & set(expected)
            trouble = ""
        except Exception as error:  # whatever the broker's client raises: the next round may succeed
            trouble = f"{type(error).__name__}: {error}"
        # A refused connection fails at once; do not ask more often than once a second.
        pause = min(1.0 - (now() - round_start), start + timeout - now())
        if pause > 0 and not set(expected) <= answered:
            sleep(pause)


def celery_app(broker: BrokerConfig) -> Celery:
    """Return Celery's client, which knows the broker and nothing of the application."""
    from celery import Celery

    app = Celery("escriptorium_cluster.workers", broker=broker.url(0), set_as_current=False)
    app.conf.update(
        # Without this, asking would hand out running jobs a second time: see BrokerConfig.transport_options.
        broker_transport_options={
            **broker.transport_options(),
            "socket_connect_timeout": ROUND_SECONDS,
            "socket_timeout": ROUND_SECONDS,
            "max_retries": 1,
        },
        broker_connection_timeout=ROUND_SECONDS,
    )
    return app


def celery_ping(app: Celery) -> Ping:
    """Return a function that pings workers through Celery's remote control."""

    def ping(names: Sequence[str], seconds: float) -> Iterable[str]:
        replies = app.control.ping(destination=list(names), timeout=seconds, limit=len(names))
        return [name for reply in replies or [] for name in reply]

    return ping


def probe(
    app: Celery, broker: BrokerConfig, names: Sequence[str], timeout: float, *, every: bool
) -> tuple[list[Proof], list[str]]:
    """Send a probe job to workers; return their proofs, and the names of those that sent none in time.

    :param every: also to workers that were proven since their start.
    :param timeout: seconds.
    """
    from redis import Redis

    redis = Redis.from_url(broker.url(0), socket_connect_timeout=ROUND_SECONDS, socket_timeout=timeout + ROUND_SECONDS)
    asked = list(names)
    if not every:
        told = app.control.inspect(destination=asked, timeout=ROUND_SECONDS, limit=len(asked)).stats() or {}
        # One that does not tell its age is asked.
        ages = {name: float(told.get(name, {}).get("uptime", 0)) for name in asked}
        proven = {name.decode(): float(second) for name, second in redis.hgetall(PROVEN_KEY).items()}
        asked = list(unproven(ages, proven, float(redis.time()[0])))
    if not asked:
        return [], []
    replies = f"cluster:proofs:{uuid4().hex}"
    for name in asked:
        queue = queue_of(name)
        app.control.add_consumer(queue, destination=[name], reply=True, timeout=ROUND_SECONDS, limit=1)
        app.send_task(PROBE_TASK, kwargs={"reply_to": replies}, queue=queue, expires=timeout, ignore_result=True)
    try:
        return _collect(app, redis, replies, asked, timeout)
    finally:
        for name in asked:
            queue = queue_of(name)
            app.control.cancel_consumer(queue, destination=[name])
            redis.delete(queue, f"_kombu.binding.{queue}")
        redis.delete(replies)


def _collect(
    app: Celery, redis: Redis, replies: str, asked: Sequence[str], timeout: float
) -> tuple[list[Proof], list[str]]:
    """Wait for the proofs of all workers asked; those that are busy are told to look beside their jobs."""
    proofs: dict[str, Proof] = {}
    end = time.monotonic() + timeout
    pause = BUSY_SECONDS
    beside: set[str] = set()
    while (missing := [name for name in asked if name not in proofs]) and (left := end - time.monotonic()) > 0:
        reply = redis.blpop([replies], timeout=max(1, round(min(pause, left))))
        if reply:
            found = decode(reply[1])
            proofs.setdefault(found.worker, found)
            continue
        pause = ROUND_SECONDS
        waiting = [name for name in missing if name not in beside]
        if waiting:
            active = app.control.inspect(destination=waiting, timeout=ROUND_SECONDS, limit=len(waiting)).active() or {}
            busy = [name for name, jobs in active.items() if any(job["name"] != PROBE_TASK for job in jobs)]
            if busy:
                app.control.broadcast(PROBE_COMMAND, arguments={"reply_to": replies}, destination=busy)
                beside.update(busy)
    return [proofs[name] for name in asked if name in proofs], [name for name in asked if name not in proofs]


def explain(answer: Answer) -> str:
    """Return the outcome as lines for a person."""
    if answer.ok:
        return f"all {len(answer.answered)} workers answered within {answer.seconds:g} s"
    lines = [f"{len(answer.silent)} of {len(answer.silent) + len(answer.answered)} workers did not answer:"]
    lines += [f"  {name}" for name in answer.silent]
    if answer.trouble:
        lines.append(f"the broker: {answer.trouble}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="escriptorium_cluster.workers", description="Wait for Celery workers.")
    parser.add_argument("--expect", required=True, metavar="QUEUE@HOST,...", help="node names of the workers")
    parser.add_argument("--timeout", type=float, default=90.0, metavar="SECONDS", help="how long to wait (90)")
    parser.add_argument("--probe", choices=("none", "new", "all"), default="none", help="who gets a probe job (none)")
    parser.add_argument(
        "--probe-timeout", type=float, metavar="SECONDS", help="how long to wait for that (as --timeout)"
    )
    parser.add_argument("--node", default="", help="name of this host: say how the units of its silent workers are")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of text")
    options = parser.parse_args(arguments)
    try:
        expected = parse_expected(options.expect)
    except ValueError as error:
        parser.error(str(error))
    try:
        broker = load_broker(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    app = celery_app(broker)
    answer = wait_for_workers(expected, options.timeout, celery_ping(app))
    proofs: list[Proof] = []
    unheard: list[str] = []
    patience = options.timeout if options.probe_timeout is None else options.probe_timeout
    if answer.ok and options.probe != "none":
        proofs, unheard = probe(app, broker, expected, patience, every=options.probe == "all")
    right = answer.ok and not unheard and all(proof.ok for proof in proofs)
    lines = [explain(answer), *(proof.text() for proof in proofs)]
    lines += [f"{name} answers, and has not ended its probe job within {patience:g} s" for name in unheard]
    if options.json:
        told = {**asdict(answer), "ok": right, "proofs": [asdict(proof) for proof in proofs], "unheard": unheard}
        told |= {"lines": lines, "units": unit_states(answer.silent, options.node) if options.node else {}}
        print(json.dumps(told))
    else:
        print("\n".join(lines), file=sys.stdout if right else sys.stderr)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
