"""Daphne with bounds on what a page may send: ``python -m escriptorium_cluster.websocket_server ARGUMENTS OF DAPHNE``.

daphne 3.0.2 collects frames of any size in memory (CVE-2026-44545, fixed in 4.2.2, which the pinned channels does not
go with), and has no argument for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daphne.cli import CommandLineInterface
from daphne.server import Server

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


if __name__ == "__main__":
    BoundedInterface.entrypoint()
