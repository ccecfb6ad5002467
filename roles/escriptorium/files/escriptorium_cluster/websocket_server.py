"""Daphne with bounds on what a page may send: ``python -m escriptorium_cluster.websocket_server ARGUMENTS OF DAPHNE``.

daphne 3.0.2 collects frames of any size in memory (CVE-2026-44545, fixed in 4.2.2, which the pinned channels does not
go with), and has no argument for it. Twisted opens each UNIX socket to everybody on the host (mode 0666), and at the
end shuts it and takes it away: also one of systemd's, which says who may connect, and in which requests wait then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daphne.cli import CommandLineInterface
from daphne.server import Server
from twisted.internet import unix

if TYPE_CHECKING:
    from daphne.ws_protocol import WebSocketFactory

#: Bytes of one frame, and of one message of several. Upstream's pages send 60.
FRAME_BYTES = MESSAGE_BYTES = 64 * 1024


class BoundedServer(Server):
    """Closes a connection that sends more (status 1009)."""

    _factory: WebSocketFactory

    @property
    def ws_factory(self) -> WebSocketFactory:
        """What makes the connections; Daphne sets it when it starts."""
        return self._factory

    @ws_factory.setter
    def ws_factory(self, made: WebSocketFactory) -> None:
        made.setProtocolOptions(maxFramePayloadSize=FRAME_BYTES, maxMessagePayloadSize=MESSAGE_BYTES)
        self._factory = made


class BoundedInterface(CommandLineInterface):
    """Daphne's command line."""

    server_class: Any = BoundedServer


def leave_sockets_alone() -> None:
    """Have Twisted change neither mode nor name of a UNIX socket, and not shut it for the process that comes next.

    Seen in Twisted 26.10: ``Port.startListening``, ``Port.connectionLost``, ``tcp._SocketCloser``.

    :raises RuntimeError: when Twisted decides that elsewhere.
    """
    if not (hasattr(unix, "_inFilesystemNamespace") and hasattr(unix.Port, "_shouldShutdown")):
        raise RuntimeError("this Twisted decides elsewhere what it does with a socket of systemd's")
    unix._inFilesystemNamespace = lambda _: False  # noqa: SLF001 - there is no other way in
    unix.Port._shouldShutdown = False  # noqa: SLF001 - as above


if __name__ == "__main__":
    leave_sockets_alone()
    BoundedInterface.entrypoint()
