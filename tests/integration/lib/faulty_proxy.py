"""Servers that stand before a real one and misbehave: away, slow, silent, cut off, or with an error for an answer.

A ``Wire`` passes bytes on, whatever they mean, so that ssh goes through it as well as HTTP. A ``Desk`` understands HTTP
and answers by itself where it is told to. Both count what was sent to the server.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import socketserver
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes that are passed on at a time.
PIECE: Final = 1 << 16
#: Headers that are for one connection, and not passed on.
OWN: Final = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})
#: Closes a connection as a cut cable does: the other side is told that it is gone, and gets nothing more.
ABRUPT: Final = struct.pack("ii", 1, 0)


class _Quiet(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    wire: Wire


class Wire:
    """Passes bytes to a port of this computer and back.

    ``rate`` is how many bytes a second it passes on to the server (0: all), ``cut_after`` after how many bytes it cuts
    each connection and takes no other one until it is mended, ``silent`` whether it takes bytes and answers nothing.
    """

    def __init__(self, port: int) -> None:
        self.upstream, self.sent, self.rate, self.cut_after = port, 0, 0, 0
        self.silent = threading.Event()
        self.cut = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        wire = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                wire._serve(self.request)

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._server.shutdown()
        self._server.server_close()

    def end(self) -> None:
        """Cut all connections."""
        with self._lock:
            for one in self._open:
                # The thread that waits for it wakes up; it may be closed already.
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Pass everything on from now on."""
        self.rate = self.cut_after = 0
        self.silent.clear()
        self.cut.clear()

    def _serve(self, client: socket.socket) -> None:
        if self.cut.is_set():
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)
            return
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            with self._lock:
                self._open |= {client, server}
            back = threading.Thread(target=self._pass, args=(server, client, None), daemon=True)
            back.start()
            self._pass(client, server, self._count)
            back.join()
            with self._lock:
                self._open -= {client, server}

    def _count(self, size: int) -> None:
        with self._lock:
            self.sent += size
        if self.rate:
            time.sleep(size / self.rate)
        if self.cut_after and self.sent >= self.cut_after:
            self.cut.set()
            self.end()

    def _pass(self, source: socket.socket, target: socket.socket, count: Callable[[int], None] | None) -> None:
        try:
            while piece := source.recv(PIECE):
                while self.silent.is_set():
                    time.sleep(0.05)
                if count:
                    count(len(piece))
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # One end is gone: so is the other one.
            for one in (source, target):
                one.close()


class Desk:
    """Passes requests to a server of HTTP at a port of this computer.

    From ``budget`` uploaded bytes on (-1: never) it answers uploads with ``status``, ``times`` times (-1: always), as a
    server does whose disk is full (507), or that has a fault (500). ``seen`` are the statuses of all answers.
    """

    def __init__(self, port: int) -> None:
        self.sent, self.budget, self.status, self.times = 0, -1, 500, -1
        self.seen: list[int] = []
        self._lock = threading.Lock()
        desk = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            upstream: ClassVar[int] = port

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._answer
                raise AttributeError(name)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upload = self.command in ("POST", "PUT")
                if upload and desk._refuses(len(body)):
                    phrase = f"{desk.status} {http.HTTPStatus(desk.status).phrase}"
                    self._reply(desk.status, {"Content-Type": "text/plain"}, phrase.encode())
                    return
                server = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "connection":
                        server.putheader(name, value)
                server.endheaders(body or None)
                answer = server.getresponse()
                content = answer.read()
                headers = {name: value for name, value in answer.getheaders() if name.lower() not in OWN}
                if self.command == "HEAD":
                    headers["Content-Length"] = answer.getheader("Content-Length") or "0"
                self._reply(answer.status, headers, content)
                server.close()

            def _reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
                desk.seen.append(status)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def mend(self) -> None:
        """Pass everything on from now on."""
        self.budget = -1

    def _refuses(self, size: int) -> bool:
        with self._lock:
            self.sent += size
            if self.budget < 0 or self.sent <= self.budget or not self.times:
                return False
            self.times -= 1
            return True
