"""Notifications over the WebSocket /ws/notif/."""

import json
import logging
from typing import Any

from asgiref.sync import async_to_sync
from channels.generic.websocket import WebsocketConsumer
from channels.layers import get_channel_layer

logger = logging.getLogger(__name__)


def _send(group: str, event: dict[str, Any]) -> None:
    """Send to a group; a job must not fail because nobody can be told about it."""
    try:
        async_to_sync(get_channel_layer().group_send)(group, event)
    except Exception:
        logger.exception("could not send a notification")


def send_event(kind: str, pk: int, name: str, data: dict[str, Any]) -> None:
    """Tell the pages that show an object what happened to it."""
    _send(f"room-{kind}-{pk}", {"type": "notification_event", "name": name, "data": data})


def send_notification(user_pk: int, text: str, id: str | None = None, level: str = "info", links: Any = None) -> None:
    """Send a message to one user's pages."""
    _send(
        f"notif-{user_pk}",
        {"type": "notification_message", "id": id, "level": level, "text": text, "links": links or []},
    )


class NotificationConsumer(WebsocketConsumer):
    """One open page. Without a login it is neither accepted nor closed, as in eScriptorium."""

    room: str | None = None

    def connect(self) -> None:
        """Accept a logged-in user's page."""
        user = self.scope["user"]
        if user.is_authenticated:
            async_to_sync(self.channel_layer.group_add)(f"notif-{user.pk}", self.channel_name)
            self.accept()

    def disconnect(self, code: int) -> None:
        """Leave the groups."""
        if self.scope["user"].is_authenticated:
            async_to_sync(self.channel_layer.group_discard)(f"notif-{self.scope['user'].pk}", self.channel_name)
        if self.room:
            async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Join the room of an object: ``{"type": "join-room", "object_cls": "document", "object_pk": 1}``."""
        message = json.loads(text_data or "{}")
        if message.get("type") == "join-room":
            self.room = f"room-{message['object_cls']}-{message['object_pk']}"
            async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)

    def notification_message(self, event: dict[str, Any]) -> None:
        """Pass a message on."""
        self.send(json.dumps({"type": "message", **{key: event[key] for key in ("id", "level", "text", "links")}}))

    def notification_event(self, event: dict[str, Any]) -> None:
        """Pass an event on."""
        self.send(json.dumps({"type": "event", "name": event["name"], "data": event["data"]}))
