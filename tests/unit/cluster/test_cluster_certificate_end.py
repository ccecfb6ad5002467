"""Somebody is told days before the certificate of database and broker ends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster.certificate_end import MEND, TELL_DAYS, warning
from escriptorium_cluster.config import BrokerConfig

from module_utils.platform_certificates import DAYS, renew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def shown(folder: Path, age: int = 0) -> Iterator[BrokerConfig]:
    """Show one visitor a certificate of some age in days; the authority is older than that."""
    now = datetime.now(UTC)
    renew(folder, ["10.0.0.1"], now - timedelta(days=800), write=True)
    renew(folder, ["127.0.0.1"], now - timedelta(days=age), write=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                context.wrap_socket(listener.accept()[0], server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield BrokerConfig("127.0.0.1", listener.getsockname()[1], "pass", authority=str(folder / "ca.crt"))
        thread.join(5)


@pytest.mark.parametrize("left", [DAYS, 61, TELL_DAYS + 1])
def test_nothing_is_said_while_there_is_time(tmp_path: Path, left: int) -> None:
    with shown(tmp_path, DAYS - left) as broker:
        assert warning(broker, datetime.now(UTC).timestamp()) == ""


@pytest.mark.parametrize("left", [TELL_DAYS - 1, 3])
def test_its_end_is_told_before(tmp_path: Path, left: int) -> None:
    with shown(tmp_path, DAYS - left) as broker:
        told = warning(broker, datetime.now(UTC).timestamp() - 3600)
    assert told == f"The certificate of database and broker ends in {left} days. {MEND}"


def test_a_clock_a_year_ahead(tmp_path: Path) -> None:
    with shown(tmp_path) as broker:
        told = warning(broker, (datetime.now(UTC) + timedelta(days=DAYS - 10)).timestamp() - 3600)
    assert "ends in 10 days" in told


def test_one_that_has_ended_is_told(tmp_path: Path) -> None:
    with shown(tmp_path, DAYS + 5) as broker:
        assert "is refused: certificate has expired" in warning(broker, datetime.now(UTC).timestamp())


def test_a_site_in_clear_is_not_asked() -> None:
    assert warning(BrokerConfig("127.0.0.1", 1, "pass"), 0) == ""


@pytest.fixture
def command(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("escriptorium_cluster.management.commands.check_certificates")
    monkeypatch.setattr(module, "load_broker", lambda _: None)
    return module


def test_the_administrators_get_a_mail(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(command, "mail_admins", lambda *words: sent.append(words))
    monkeypatch.setattr(command, "warning", lambda *_: "")
    command.Command().handle()
    assert sent == []
    monkeypatch.setattr(command, "warning", lambda *_: "ends soon")
    with pytest.raises(command.CommandError, match="ends soon"):
        command.Command().handle()
    assert [text for _, text in sent] == ["ends soon"]


def test_a_mail_that_fails_hides_nothing(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(command, "mail_admins", refuse)
    monkeypatch.setattr(command, "warning", lambda *_: "ends soon")
    with pytest.raises(command.CommandError, match="ends soon"):
        command.Command().handle()
