"""WebSocket addresses."""

from django.urls import re_path

from users.consumers import NotificationConsumer

websocket_urlpatterns = [re_path(r"^ws/notif/$", NotificationConsumer.as_asgi())]
