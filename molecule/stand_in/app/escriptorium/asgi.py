"""ASGI entry point: HTTP and the notifications' WebSocket."""

import os
from importlib import import_module

import django
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "escriptorium.settings")
django.setup()

# Imported by name: the folder of the applications is on the path only once the settings are loaded.
routing = import_module("users.routing")

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(routing.websocket_urlpatterns))),
    }
)
