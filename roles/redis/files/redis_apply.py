#!/usr/bin/python3
"""Gives a Redis that runs the settings of a file, without a restart: those that differ, and a certificate that is new.

    redis-apply [--waits] [--port PORT] FILE

A port that the file closes stays open as long as somebody uses it: a worker that trains for hours was started when it
was the only one, and could not come back. Who does is printed. Where Redis refuses a setting, or the password that the
file has, it is restarted; clients come back by themselves.

With --waits nothing is changed; prints what the server has not taken over, and nothing where it has all of it. PORT:
where a server listens that does not know the file yet. Exit status 0; 1 where the server does not answer. Values are
never printed. Runs as root, needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import ssl
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

UNIT = "redis-server.service"
#: The server itself, on every host that runs one.
HOST = "127.0.0.1"
#: Seconds that an answer may take.
TIMEOUT = 10.0
PORTS = ("port", "tls-port")
CERTIFICATE = "tls-cert-file"
KEY = "tls-key-file"
END = "-----END CERTIFICATE-----"
#: As Redis reads sizes: kb is 1024, k is 1000.
UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}


class RefusedError(Exception):
    """Redis answers with an error."""


def read_settings(text: str) -> dict[str, str]:
    """Return the settings of a configuration file as the role writes it: a quoted value is JSON, the last line wins."""
    settings = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            settings[name.lower()] = str(json.loads(value)) if value.startswith('"') else value
    return settings


def same(one: str, other: str) -> bool:
    """Whether two texts mean one value: Redis answers sizes in bytes."""

    def plain(text: str) -> str:
        size = re.fullmatch(r"(\d+)([kmg]?b?)", text.lower())
        return str(int(size[1]) * UNITS[size[2]]) if size else text

    return plain(one) == plain(other)


def users_of(port: int, clients: str, own: int) -> list[str]:
    """Return the addresses that are connected to a port, of Redis' list of clients; without one connection."""
    found: set[str] = set()
    for line in clients.splitlines():
        values = dict(word.partition("=")[::2] for word in line.split())
        if values.get("laddr", "").endswith(f":{port}") and values.get("id") != str(own):
            found.add(values["addr"].rpartition(":")[0])
    return sorted(found)


@dataclass
class Server:
    """A connection to Redis on this host; ``certificate`` is what it has shown, empty without TLS."""

    stream: socket.socket
    answers: BinaryIO
    certificate: bytes = b""

    def ask(self, *words: str) -> Any:
        """Give a command and return the answer.

        :raises RefusedError: where it is an error; of its text only the first word, which is no value.
        :raises OSError: where none comes.
        """
        parts = [word.encode() for word in words]
        lines = [b"*%d" % len(parts)] + [line for part in parts for line in (b"$%d" % len(part), part)]
        self.stream.sendall(b"\r\n".join(lines) + b"\r\n")
        return self._answer()

    def _answer(self) -> Any:
        line = self.answers.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("Redis has closed the connection")
        kind, text = line[:1], line[1:-2].decode(errors="replace")
        if kind == b"-":
            raise RefusedError(text.split(" ")[0])
        if kind == b"$":
            return self.answers.read(int(text) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return [self._answer() for _ in range(int(text))]
        return int(text) if kind == b":" else text

    def close(self) -> None:
        """End the connection."""
        self.answers.close()
        self.stream.close()


def open_port(port: int, *, tls: bool) -> Server:
    """Connect to a port of this host.

    :raises OSError: where nobody answers there as is expected.
    """
    stream = socket.create_connection((HOST, port), timeout=TIMEOUT)
    try:
        if not tls:
            return Server(stream, stream.makefile("rb"))
        # It is this host's own server, and its certificate may be the one before: that is what is looked at here.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        shielded = context.wrap_socket(stream)
        return Server(shielded, shielded.makefile("rb"), shielded.getpeercert(binary_form=True) or b"")
    except OSError:
        stream.close()
        raise


def find_server(settings: Mapping[str, str], former: int) -> Server:
    """Connect to the server: where the file says, or else where one listens that does not know the file.

    :raises OSError: where none answers.
    """
    wanted = [(int(settings.get("tls-port", 0)), True), (int(settings.get("port", 0)), False), (former, False)]
    reason = OSError("no port is open")
    for port, tls in dict.fromkeys(wanted):
        try:
            if port:
                return open_port(port, tls=tls)
        except OSError as error:
            reason = error
    raise reason


def is_new(certificate: str, shown: bytes) -> bool:
    """Whether a file holds another certificate than the one that was shown."""
    first, _, _ = Path(certificate).read_text(encoding="utf-8").partition(END)
    return ssl.PEM_cert_to_DER_cert(f"{first}{END}\n") != shown


@dataclass(frozen=True)
class Plan:
    """Settings that have to be given, and ports that stay open, with the addresses that use them."""

    changes: Mapping[str, str]
    kept: Mapping[int, Sequence[str]]

    def lines(self) -> Iterator[str]:
        """Say what there is to do, without values."""
        if self.changes:
            yield f"settings: {' '.join(sorted(self.changes))}"
        for port, users in self.kept.items():
            yield f"port {port} stays open for {' '.join(users)}"


def plan(settings: Mapping[str, str], server: Server) -> Plan:
    """Compare a server with what it should be.

    :raises RefusedError: where it does not let anybody in with the file's password, or does not know a setting.
    """
    server.ask("AUTH", settings["requirepass"])
    own = server.ask("CLIENT", "ID")
    changes, kept = {}, {}
    for name, value in settings.items():
        answer = server.ask("CONFIG", "GET", name)
        if not answer:
            raise RefusedError(name)
        if same(answer[1], value):
            continue
        if name in PORTS and value == "0" and (users := users_of(int(answer[1]), server.ask("CLIENT", "LIST"), own)):
            kept[int(answer[1])] = users
        else:
            changes[name] = value
    if CERTIFICATE in settings and "tls-port" not in changes and is_new(settings[CERTIFICATE], server.certificate):
        changes |= {name: settings[name] for name in (CERTIFICATE, KEY)}
    return Plan(changes, kept)


def main() -> int:
    """Apply, or say what waits."""
    parser = argparse.ArgumentParser(description="Gives Redis its settings without a restart.")
    parser.add_argument("--waits", action="store_true", help="change nothing, and print what is not taken over")
    parser.add_argument("--port", type=int, default=6379, help="where a server listens that does not know the file")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    settings = read_settings(options.file.read_text(encoding="utf-8"))
    try:
        with closing(find_server(settings, options.port)) as server:
            found = plan(settings, server)
            if found.changes and not options.waits:
                # All at once: each of them may need the others, as a certificate needs its key.
                server.ask("CONFIG", "SET", *(word for change in found.changes.items() for word in change))
    except RefusedError as error:
        if options.waits:
            print(f"refused: {error}")
            return 0
        subprocess.run(["/usr/bin/systemctl", "restart", UNIT], check=True)
        print(f"restarted, since it refused: {error}")
        return 0
    except OSError as error:
        print(f"Redis does not answer: {error}", file=sys.stderr)
        return 1
    for line in found.lines():
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
