"""Waiting for services, against sockets on this machine."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from escriptorium_cluster.config import BrokerConfig, ConfigError, DatabaseConfig
from escriptorium_cluster.wait import (
    encode_command,
    main,
    probe_broker,
    probe_database,
    probe_directory,
    probes,
    wait_for,
)

from module_utils.platform_certificates import renew

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def server(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Answer each message with the next text; yields the port and what was received."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed without a visitor
                return
            with connection:
                for answer in answers:
                    data = connection.recv(4096)
                    received.append(data)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            listener.close()
            thread.join(5)


@pytest.mark.parametrize("names", [("127.0.0.1",), ("10.10.0.99",), ()])
def test_the_broker_shows_a_certificate_of_the_site_for_its_address(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Asked before the password is sent. Without names: another authority's."""
    for folder in ("own", "other"):
        renew(tmp_path / folder, names or ("127.0.0.1",), datetime.now(UTC), write=True)
    own = tmp_path / ("own" if names else "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own / "server.crt", own / "server.key")
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as shielded:
                for answer in (b"+OK\r\n", b"+PONG\r\n"):
                    received.append(shielded.recv(4096))
                    shielded.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        broker = BrokerConfig("127.0.0.1", listener.getsockname()[1], "pass", authority=str(tmp_path / "own/ca.crt"))
        if names == ("127.0.0.1",):
            probe_broker(broker)
        else:
            with pytest.raises(OSError, match="certificate verify failed"):
                probe_broker(broker)
        thread.join(5)
    assert ([b"pass" in data for data in received] == [True, False]) == (names == ("127.0.0.1",))
    assert not any(b"pass" in data for data in received) or names == ("127.0.0.1",)


def test_commands_are_counted_in_bytes() -> None:
    assert encode_command("AUTH", "pä s") == b"*2\r\n$4\r\nAUTH\r\n$5\r\np\xc3\xa4 s\r\n"


def test_broker_that_answers() -> None:
    with server(b"+OK\r\n", b"+PONG\r\n") as (port, received):
        probe_broker(BrokerConfig("127.0.0.1", port, "secret"))
    assert received == [encode_command("AUTH", "secret"), encode_command("PING")]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((b"-WRONGPASS invalid password\r\n",), "AUTH was answered with '-WRONGPASS"),
        ((b"+OK\r\n", b"-LOADING Redis is loading\r\n"), "PING was answered with '-LOADING"),
        ((b"",), "AUTH was answered with 'nothing'"),
    ],
)
def test_broker_that_is_not_ready(answers: tuple[bytes, ...], message: str) -> None:
    with server(*answers) as (port, _), pytest.raises(OSError, match=message) as caught:
        probe_broker(BrokerConfig("127.0.0.1", port, "secret"))
    assert "secret" not in str(caught.value)


def test_database_is_asked_to_let_this_host_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """psycopg2 is not here: what is asked of it, and what becomes of its answers."""
    asked: list[dict[str, object]] = []
    refusals = ['FATAL:  no pg_hba.conf entry for host "10.0.0.9"\n']

    class OperationalError(Exception):
        pass

    def connect(**arguments: object) -> SimpleNamespace:
        asked.append(arguments)
        if refusals:
            raise OperationalError(refusals.pop())
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setitem(sys.modules, "psycopg2", SimpleNamespace(connect=connect, OperationalError=OperationalError))
    database = DatabaseConfig("10.0.0.1", 5432, "base", "user", "secret")
    with pytest.raises(OSError, match=r"^FATAL: no pg_hba.conf entry for host"):
        probe_database(database)
    probe_database(database)
    wanted = {"host": "10.0.0.1", "port": 5432, "dbname": "base", "user": "user", "password": "secret"}
    assert asked == [wanted | {"connect_timeout": 3}] * 2


def test_directories(tmp_path: Path) -> None:
    probe_directory(str(tmp_path))
    with pytest.raises(OSError, match="is not a directory"):
        probe_directory(str(tmp_path / "media"))


def test_what_to_wait_for(environment: dict[str, str]) -> None:
    assert list(probes(environment)) == ["broker", "database", "media"]
    with pytest.raises(ConfigError, match="SQL_HOST is not set; SQL_PORT is 'x'"):
        probes({key: value for key, value in environment.items() if key != "SQL_HOST"} | {"SQL_PORT": "x"})


def test_each_service_is_tried_until_it_is_there_once() -> None:
    times = [0.0]
    tries = {"soon": 0, "late": 0, "never": 0}

    def probe(name: str, ready_at: float) -> None:
        tries[name] += 1
        if times[0] < ready_at:
            raise OSError(f"{name} at {times[0]:g} s")

    def sleep(seconds: float) -> None:
        times[0] += seconds

    missing = wait_for(
        {
            "soon": lambda: probe("soon", 0),
            "late": lambda: probe("late", 3),
            "never": lambda: probe("never", 1e9),
        },
        5,
        lambda: times[0],
        sleep,
    )
    assert missing == {"never": "never at 5 s"}
    assert tries == {"soon": 1, "late": 4, "never": 6}


def test_the_program_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with server(b"+OK\r\n", b"+PONG\r\n") as (port, _):
        values = {
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(port),
            "CLUSTER_REDIS_PASSWORD": "secret",
            "SQL_HOST": "127.0.0.1",
            "POSTGRES_DB": "base",
            "POSTGRES_USER": "user",
            "POSTGRES_PASSWORD": "secret",
            "CLUSTER_MEDIA_ROOT": str(tmp_path / "media"),
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("escriptorium_cluster.wait.probe_database", lambda _: None)
        assert main(["--timeout", "0"]) == 1
    said = f"media is not there after 0 s: {tmp_path}/media is not a directory\n"
    assert capsys.readouterr().err == said
