"""What the WebSocket's server runs: pages' WebSockets and nothing else.

Upstream's own ``escriptorium.asgi`` answers every page too, to whoever reaches the socket; pages come from uWSGI here.
"""

import os
from importlib import import_module
from typing import Any

import django
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "escriptorium_cluster.settings")
django.setup()

# Reads upstream's models, which are there only now.
websocket = import_module("escriptorium_cluster.websocket")


async def no_pages(_: dict[str, Any], __: Any, send: Any) -> None:
    """Answer 404 to what is no WebSocket."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


application = ProtocolTypeRouter(
    {
        "http": no_pages,
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter([re_path(r"^ws/notif/$", websocket.GuardedConsumer.as_asgi())]))
        ),
    }
)
