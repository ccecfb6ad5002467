"""The consumer of pages' WebSockets: upstream's, which lets nobody into the room of a document that is not theirs.

Upstream joins the room that a page names, without a question, and takes the size and kind of what it receives for
granted. A share that ends while a page is open is noticed within a minute: before an event of the room goes out, the
right is asked for again where it was asked for longer ago.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from asgiref.sync import async_to_sync
from users.consumers import NotificationConsumer

from escriptorium_cluster.gate.rights import RIGHTS, Scope

logger = logging.getLogger(__name__)

#: Seconds for which the answer to a question of rights is good.
SECONDS = 60.0
#: The only kind of object whose rooms upstream's pages join.
KIND = "document"


class GuardedConsumer(NotificationConsumer):
    """One open page."""

    room: str | None = None
    document: int | None = None
    asked = 0.0

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Pass what a page may send on to upstream's consumer."""
        try:
            message = json.loads(text_data or "")
        except ValueError:
            message = None
        if not isinstance(message, dict):
            # Upstream's pages send JSON and nothing else.
            self.close(code=1003)
        elif message.get("type") == "join-room":
            self._join(message)
        else:
            super().receive(text_data=text_data)

    def _join(self, message: dict[str, Any]) -> None:
        key = message.get("object_pk")
        if message.get("object_cls") != KIND or type(key) is not int or not self._may_hear(key):
            logger.warning("refused the room of %s %.40r to user %s", KIND, key, self.scope["user"].pk)
            return
        self._leave()
        self.document = key
        super().receive(text_data=json.dumps({"type": "join-room", "object_cls": KIND, "object_pk": key}))

    def _may_hear(self, key: int) -> bool:
        self.asked = time.monotonic()
        return RIGHTS[KIND].admits(Scope(self.scope["user"]), {key})

    def _leave(self) -> None:
        """Leave the room of before; upstream would go on to hear both."""
        if self.room:
            async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)
        self.room = self.document = None

    def notification_event(self, event: dict[str, Any]) -> None:
        """Pass an event of the room on, as long as the document is the user's."""
        if self.document is None:
            return
        if time.monotonic() - self.asked > SECONDS and not self._may_hear(self.document):
            self._leave()
            return
        super().notification_event(event)
