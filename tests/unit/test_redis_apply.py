"""The broker takes over settings and certificates while it runs, and keeps a port open that somebody uses."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.platform_certificates import renew
from roles.redis.files import redis_apply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = Path(redis_apply.__file__)
PASSWORD = 'it\'s "a" b\\c'
CLIENTS = (
    "id=3 addr=10.0.0.2:5000 laddr=10.0.0.1:6379 fd=8 name=\n"
    "id=4 addr=10.0.0.2:5001 laddr=10.0.0.1:6379 fd=9 name=\n"
    "id=5 addr=10.0.0.3:5000 laddr=10.0.0.1:6380 fd=10 name=\n"
    "id=6 addr=127.0.0.1:5000 laddr=127.0.0.1:6379 fd=11 name=\n"
)


def test_users_of_a_port_are_told_once_and_without_oneself() -> None:
    assert redis_apply.users_of(6379, CLIENTS, 6) == ["10.0.0.2"]
    assert redis_apply.users_of(6379, CLIENTS, 9) == ["10.0.0.2", "127.0.0.1"]
    assert redis_apply.users_of(6380, CLIENTS, 6) == ["10.0.0.3"]
    assert redis_apply.users_of(379, CLIENTS, 6) == []


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [("256mb", "268435456", True), ("1k", "1000", True), ("256mb", "256000000", False), ("yes", "yes", True)],
)
def test_sizes_are_compared_as_redis_reads_them(one: str, other: str, equal: bool) -> None:
    assert redis_apply.same(one, other) == equal


def test_the_role_s_own_file_is_read(render: Callable[..., str]) -> None:
    text = render(
        "redis", "redis.conf.j2",
        redis_listen_address="10.0.0.1", redis_password=PASSWORD, redis_memory_mb=256,
        redis_tls_certificate="x", redis_tls_required=True,
    )  # fmt: skip
    found = redis_apply.read_settings(text)
    assert found["requirepass"] == PASSWORD
    assert (found["bind"], found["maxmemory"]) == ("127.0.0.1 10.0.0.1", "256mb")
    assert (found["port"], found["tls-port"], found["tls-auth-clients"]) == ("0", "6380", "no")
    assert found["tls-protocols"] == "TLSv1.2 TLSv1.3"


class Broker:
    """A Redis of this test, and a file of the settings that it should have."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int, tls_port: int) -> None:
        self.folder, self.process, self.port, self.tls_port = folder, process, port, tls_port
        self.file = folder / "wanted.conf"

    def certify(self) -> None:
        """Make a certificate, or another one."""
        (self.folder / "server.crt").unlink(missing_ok=True)
        renew(self.folder, ["127.0.0.1"], datetime.now(UTC), write=True)

    def want(self, *lines: str, clear: bool = False) -> None:
        """Write what is wanted."""
        text = json.dumps(PASSWORD)
        common = (
            f"requirepass {text}", f"port {self.port if clear else 0}", f"tls-port {self.tls_port}",
            f"tls-cert-file {self.folder}/server.crt", f"tls-key-file {self.folder}/server.key", "tls-auth-clients no",
        )  # fmt: skip
        self.file.write_text("\n".join((*common, *lines)) + "\n")

    def run(self, *words: str) -> str:
        """Run the program."""
        command = ["python3", str(PROGRAM), "--port", str(self.port), *words, str(self.file)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 0, result.stderr
        assert PASSWORD not in result.stdout + result.stderr
        return result.stdout

    def ask(self, *words: str) -> Any:
        """Ask the server itself."""
        server = redis_apply.find_server(redis_apply.read_settings(self.file.read_text()), self.port)
        try:
            server.ask("AUTH", PASSWORD)
            return server.ask(*words)
        finally:
            server.close()

    def shown(self) -> str:
        """Return the certificate that the server shows, to those who trust the authority."""
        context = ssl.create_default_context(cafile=self.folder / "ca.crt")
        with (
            socket.create_connection(("127.0.0.1", self.tls_port), timeout=10) as stream,
            context.wrap_socket(stream, server_hostname="127.0.0.1") as shielded,
        ):
            return ssl.DER_cert_to_PEM_cert(shielded.getpeercert(binary_form=True) or b"")

    def open(self, port: int) -> bool:
        """Whether somebody listens."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def free_ports() -> Iterator[tuple[int, int]]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    yield ports


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """Give a Redis as a site has it that knows no TLS yet."""
    if not shutil.which("redis-server"):
        pytest.skip("the broker itself takes its settings here")
    with free_ports() as (port, tls_port):
        text = json.dumps(PASSWORD)
        (tmp_path / "start.conf").write_text(f'requirepass {text}\nport {port}\nbind 127.0.0.1\nsave ""\n')
        process = subprocess.Popen(["redis-server", "start.conf"], cwd=tmp_path, stdout=subprocess.DEVNULL)
        made = Broker(tmp_path, process, port, tls_port)
        try:
            deadline = time.monotonic() + 20
            while not made.open(port) and time.monotonic() < deadline:
                time.sleep(0.05)
            made.certify()
            yield made
        finally:
            process.kill()
            process.wait(10)


def test_tls_is_switched_on_and_the_clear_port_off_without_a_restart(broker: Broker) -> None:
    broker.want("maxmemory 64mb")
    waits = broker.run("--waits")
    assert all(name in waits for name in ("port", "tls-port", "tls-cert-file", "maxmemory"))
    assert broker.open(broker.port), "it only says so"
    broker.run()
    assert not broker.open(broker.port)
    assert broker.ask("CONFIG", "GET", "maxmemory") == ["maxmemory", str(64 << 20)]
    assert broker.shown() == (broker.folder / "server.crt").read_text()
    assert broker.run("--waits") == ""
    assert broker.process.poll() is None


def test_a_port_that_somebody_uses_stays_open(broker: Broker) -> None:
    broker.want()
    with socket.create_connection(("127.0.0.1", broker.port)):
        assert f"port {broker.port} stays open for 127.0.0.1" in broker.run()
        assert broker.open(broker.port)
        assert broker.open(broker.tls_port)
        assert broker.run("--waits") == f"port {broker.port} stays open for 127.0.0.1\n", "each run says so"
    deadline = time.monotonic() + 10
    while "stays" in broker.run("--waits") and time.monotonic() < deadline:
        time.sleep(0.1)
    broker.run()
    assert not broker.open(broker.port)


def test_a_renewed_certificate_is_shown_at_once(broker: Broker) -> None:
    broker.want()
    broker.run()
    before = broker.shown()
    broker.certify()
    assert broker.shown() == before
    assert broker.run("--waits") == "settings: tls-cert-file tls-key-file\n"
    broker.run()
    assert broker.shown() == (broker.folder / "server.crt").read_text() != before
    assert broker.run("--waits") == ""


def test_the_clear_port_comes_back(broker: Broker) -> None:
    broker.want()
    broker.run()
    broker.want(clear=True)
    broker.run()
    assert broker.open(broker.port)
    assert broker.open(broker.tls_port), "for those who came by it"


def test_what_cannot_be_taken_over_is_told(broker: Broker) -> None:
    broker.want()
    broker.file.write_text(broker.file.read_text().replace("requirepass", 'requirepass "another"\n#'))
    assert broker.run("--waits") == "refused: WRONGPASS\n"
