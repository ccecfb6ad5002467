"""``/health/``: whether this host reaches the database and the broker, and can use the shared media folder.

Answers 200 or 503 with ``{"ok": bool, "checks": {NAME: {"ok": bool, "detail": str}}}``. The details are short and
fixed (the page may be public); the reason of a failure goes to the log.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import connections
from django.http import HttpRequest, JsonResponse
from redis import Redis

from escriptorium_cluster.checks import Prober, report

if TYPE_CHECKING:
    from escriptorium_cluster.checks import Check

#: Seconds that all checks together may take.
TIME_LIMIT = 5.0


def check_database() -> str:
    """Ask the database for a number, on a connection of this thread that is closed again."""
    connection = connections["default"]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    finally:
        connection.close()
    return "answers"


def check_broker() -> str:
    """Write one short-lived key: a full Redis or one that cannot save still answers a PING, but takes no jobs."""
    with Redis.from_url(
        settings.CELERY_BROKER_URL, socket_connect_timeout=TIME_LIMIT, socket_timeout=TIME_LIMIT
    ) as client:
        client.set(f"cluster:health:{socket.gethostname()}", "1", ex=60)
    return "takes writes"


def check_media() -> str:
    """Write, read and delete a marker file in the media folder."""
    marker = Path(settings.MEDIA_ROOT) / f".health-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
    text = uuid.uuid4().hex
    try:
        marker.write_text(text)
        if marker.read_text() != text:
            raise OSError("the marker file holds something else than what was written")
    finally:
        marker.unlink(missing_ok=True)
    return "readable and writable"


CHECKS: dict[str, Check] = {"database": check_database, "broker": check_broker, "media": check_media}

prober = Prober(CHECKS, TIME_LIMIT)


def health(request: HttpRequest) -> JsonResponse:
    """Answer the probe: no login, no session, no cache."""
    content = report(prober.probe())
    return JsonResponse(content, status=200 if content["ok"] else 503, headers={"Cache-Control": "no-store"})
