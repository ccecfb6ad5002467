"""Waits until every expected Celery worker answers. Needs no Django: it only talks to the broker.

    python -m escriptorium_cluster.workers --expect default@compute1,gpu@compute1 --timeout 90 [--json]

Exit status 0: all answered. 1: some are silent (they are named), or the broker does not answer. 2: wrong usage.
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
from dataclasses import dataclass

from escriptorium_cluster.config import BrokerConfig, ConfigError, load_broker

#: Seconds that one round of questions waits for answers.
ROUND_SECONDS = 3.0

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


def celery_ping(broker: BrokerConfig) -> Ping:
    """Return a function that pings workers through Celery's remote control."""
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

    def ping(names: Sequence[str], seconds: float) -> Iterable[str]:
        replies = app.control.ping(destination=list(names), timeout=seconds, limit=len(names))
        return [name for reply in replies or [] for name in reply]

    return ping


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
    answer = wait_for_workers(expected, options.timeout, celery_ping(broker))
    if options.json:
        print(
            json.dumps(
                {
                    "ok": answer.ok,
                    "answered": answer.answered,
                    "silent": answer.silent,
                    "seconds": answer.seconds,
                    "trouble": answer.trouble,
                }
            )
        )
    else:
        print(explain(answer), file=sys.stdout if answer.ok else sys.stderr)
    return 0 if answer.ok else 1


if __name__ == "__main__":
    sys.exit(main())
