"""Waits until the services that a process needs are there. No Django and no Celery, so that it starts at once.

    python -m escriptorium_cluster.wait --timeout 60

Exit status 0: the broker answers a PING with the password, the database lets this host in, the media folder is there.
1: something still is not; the reason is printed. Units run this first: a Celery worker that starts while the broker is
down can stay deaf for ever, one that starts before the media folder is mounted writes to the wrong disk, and one whose
host is no part of the platform any more would fail one job after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from escriptorium_cluster.config import BrokerConfig, ConfigError, DatabaseConfig, load_services

#: Seconds that one attempt may take.
ATTEMPT_SECONDS = 3.0
#: Seconds between two attempts.
PAUSE_SECONDS = 1.0

#: Returns nothing when the service is there and raises OSError with the reason when it is not.
Probe = Callable[[], None]


def encode_command(*words: str) -> bytes:
    """Return one command in Redis' wire format (an array of bulk strings)."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts += [f"${len(data)}\r\n".encode(), data, b"\r\n"]
    return b"".join(parts)


def probe_broker(broker: BrokerConfig) -> None:
    """Log in to Redis and send a PING.

    :raises OSError: when Redis does not answer, refuses the password, or is still loading its data.
    """
    tls = broker.tls()
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((broker.host, broker.port), timeout=ATTEMPT_SECONDS))
        connection.settimeout(ATTEMPT_SECONDS)
        if tls:
            connection = stack.enter_context(tls.wrap_socket(connection, server_hostname=broker.host))
        with connection.makefile("rb") as answers:
            for words in (("AUTH", broker.password), ("PING",)):
                connection.sendall(encode_command(*words))
                answer = answers.readline(1024).decode(errors="replace").strip()
                if answer not in ("+OK", "+PONG"):
                    # The answer is Redis' own error text; it never repeats the password.
                    raise OSError(f"{words[0]} was answered with '{answer or 'nothing'}'")


def probe_database(database: DatabaseConfig) -> None:
    """Log in to PostgreSQL, and out again.

    :raises OSError: when the server does not answer, or does not let this host in.
    """
    import psycopg2

    try:
        psycopg2.connect(**database.arguments(), connect_timeout=math.ceil(ATTEMPT_SECONDS)).close()
    except psycopg2.OperationalError as error:
        # The server's own words; they never repeat the password.
        raise OSError(" ".join(str(error).split())) from None


def probe_directory(path: str) -> None:
    """Look whether a directory is there, in a thread: a lost NFS server would hold the question for ever.

    :raises OSError: when it is not there or nothing is known after ``ATTEMPT_SECONDS``.
    """
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(Path(path).is_dir()), daemon=True)
    thread.start()
    thread.join(ATTEMPT_SECONDS)
    if not found:
        raise OSError(f"{path} does not answer")
    if not found[0]:
        raise OSError(f"{path} is not a directory")


def probes(environment: Mapping[str, str]) -> dict[str, Probe]:
    """Return what to wait for, by name.

    :raises ConfigError: when the environment does not say where the services are.
    """
    services = load_services(environment)
    return {
        "broker": lambda: probe_broker(services.broker),
        "database": lambda: probe_database(services.database),
        "media": lambda: probe_directory(services.media_root),
    }


def wait_for(
    wanted: Mapping[str, Probe],
    timeout: float,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """Try each probe until it succeeds once; return the reasons of those that had not after ``timeout`` seconds."""
    end = now() + timeout
    missing = dict.fromkeys(wanted, "")
    while True:
        for name in list(missing):
            try:
                wanted[name]()
            except OSError as error:
                missing[name] = str(error) or type(error).__name__
            else:
                del missing[name]
        if not missing or now() >= end:
            return missing
        sleep(min(PAUSE_SECONDS, max(end - now(), 0)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="escriptorium_cluster.wait", description="Wait for the platform's services.")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait (60)")
    options = parser.parse_args(arguments)
    try:
        wanted = probes(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    missing = wait_for(wanted, options.timeout)
    for name, reason in missing.items():
        print(f"{name} is not there after {options.timeout:g} s: {reason}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
