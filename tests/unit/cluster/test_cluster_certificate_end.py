"""Somebody is told days before a certificate ends: of database, broker, their authority, and of the site."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster import certificate_end
from escriptorium_cluster.certificate_end import ASK_FOR_TLS, MEND, SITE_MEND, SITE_TELL_DAYS, TELL_DAYS

from module_utils.platform_certificates import CA_DAYS, DAYS, renew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: An hour before days are full: a day that has begun is not counted.
HOUR = 3600
NAMES = {"the broker": "REDIS", "the database": "SQL"}


@contextmanager
def server(certificate: Path, key: Path, question: bytes = b"") -> Iterator[int]:
    """Show each visitor a certificate, those of a database after its question; yields the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection = listener.accept()[0]
                if question:
                    assert connection.recv(len(question)) == question
                    connection.sendall(b"S")
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(1)


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Of a site whose services are on this computer, and encrypted."""
    here = {"REDIS_HOST": "127.0.0.1", "SQL_HOST": "127.0.0.1"}
    return {**environment, **here, "CLUSTER_SERVICES_CA": str(tmp_path / "ca.crt")}


def told(environment: dict[str, str], folder: Path, age: int, later: float = 0, old: int = 800) -> list[str]:
    """Return what is said where the services show a certificate of an age in days, at a time in s from now."""
    now = datetime.now(UTC)
    renew(folder, ["10.0.0.1"], now - timedelta(days=old), write=True)
    renew(folder, ["127.0.0.1"], now - timedelta(days=age), write=True)
    shown = folder / "server.crt", folder / "server.key"
    with server(*shown) as broker, server(*shown, ASK_FOR_TLS) as database:
        ports = {"REDIS_PORT": str(broker), "SQL_PORT": str(database)}
        found = certificate_end.warnings(list(certificate_end.looks({**environment, **ports})), now.timestamp() + later)
    assert found[1] == []
    return found[0]


@pytest.mark.parametrize("left", [DAYS, 61, TELL_DAYS + 1])
def test_nothing_is_said_while_there_is_time(environment: dict[str, str], tmp_path: Path, left: int) -> None:
    assert told(environment, tmp_path, DAYS - left) == []


@pytest.mark.parametrize("left", [TELL_DAYS - 1, 3])
def test_its_end_is_told_before(environment: dict[str, str], tmp_path: Path, left: int) -> None:
    day = (datetime.now(UTC) + timedelta(days=left)).strftime("%Y-%m-%d")
    assert told(environment, tmp_path, DAYS - left, -HOUR) == [
        f"The certificate of {name} ends in {left} days ({day}). {MEND}" for name in NAMES
    ]


def test_a_clock_a_year_ahead(environment: dict[str, str], tmp_path: Path) -> None:
    found = told(environment, tmp_path, 0, timedelta(days=DAYS - 10).total_seconds() - HOUR)
    assert ["ends in 10 days" in line for line in found] == [True, True]


def test_one_that_has_ended_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    found = told(environment, tmp_path, DAYS + 5)
    assert [line.partition(". ")[0] for line in found] == [
        f"The certificate of {name} is refused: certificate has expired" for name in NAMES
    ]


def test_the_end_of_the_authority_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    *servers, authority = told(environment, tmp_path, 0, -HOUR, old=CA_DAYS - 20)
    assert len(servers) == 2, "none lasts longer than who has signed it"
    assert authority.startswith("The certificate of the authority inside ends in 20 days")


def test_a_site_in_clear_is_not_asked(environment: dict[str, str]) -> None:
    assert list(certificate_end.looks({**environment, "CLUSTER_SERVICES_CA": ""})) == []


def test_what_does_not_answer_hides_no_other(environment: dict[str, str], tmp_path: Path) -> None:
    renew(tmp_path, ["127.0.0.1"], datetime.now(UTC) - timedelta(days=DAYS - 7), write=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    with server(tmp_path / "server.crt", tmp_path / "server.key", ASK_FOR_TLS) as database:
        wanted = certificate_end.looks({**environment, "REDIS_PORT": port, "SQL_PORT": str(database)})
        found, unknown = certificate_end.warnings(list(wanted), datetime.now(UTC).timestamp())
    assert "the database ends in" in found[0]
    assert [line.partition(": ")[0] for line in unknown] == ["The certificate of the broker could not be looked at"]


@pytest.mark.parametrize(
    ("left", "said"), [(SITE_TELL_DAYS + 1, False), (SITE_TELL_DAYS, False), (20, True), (-3, True)]
)
def test_the_end_of_the_sites_own_is_told(
    environment: dict[str, str], tmp_path: Path, left: int, *, said: bool
) -> None:
    """Whoever has signed it: of this one nobody knows the authority."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-noenc", "-days", "365", "-subj", "/CN=htr.example.org",
         "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    now = (datetime.now(UTC) + timedelta(days=365 - left, hours=-1)).timestamp()
    with server(tmp_path / "certificate", tmp_path / "key") as port:
        address = {"CLUSTER_SERVICES_CA": "", certificate_end.SITE_VARIABLE: f"127.0.0.1:{port}"}
        found = certificate_end.warnings(list(certificate_end.looks({**environment, **address})), now)
    assert found[1] == []
    assert [f"The certificate of the site ends in {left} days" in line and SITE_MEND in line for line in found[0]] == (
        [True] if said else []
    )


def test_an_operator_sees_what_ends_soon(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(certificate_end, "warnings", lambda *_: (["ends soon"], ["away"]))
    assert certificate_end.main() == 0
    assert capsys.readouterr().out == "ends soon\naway\n"
    monkeypatch.delenv("REDIS_HOST")
    assert certificate_end.main() == 1
    assert "REDIS_HOST" in capsys.readouterr().err


@pytest.fixture
def command(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("escriptorium_cluster.management.commands.check_certificates")
    monkeypatch.setattr(module, "looks", lambda _: [])
    return module


def test_the_administrators_get_a_mail(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(command, "mail_admins", lambda *words: sent.append(words))
    command.Command().handle()
    monkeypatch.setattr(command, "warnings", lambda *_: ([], ["the broker is away"]))
    with pytest.raises(command.CommandError, match="away"):
        command.Command().handle()
    assert sent == []
    monkeypatch.setattr(command, "warnings", lambda *_: (["one ends soon", "another too"], ["the broker is away"]))
    with pytest.raises(command.CommandError, match="ends soon\nanother too\nthe broker is away"):
        command.Command().handle()
    assert [text for _, text in sent] == ["one ends soon\n\nanother too"]


def test_a_mail_that_fails_hides_nothing(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(command, "mail_admins", refuse)
    monkeypatch.setattr(command, "warnings", lambda *_: (["ends soon"], []))
    with pytest.raises(command.CommandError, match="ends soon"):
        command.Command().handle()
