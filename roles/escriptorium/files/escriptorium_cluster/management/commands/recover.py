"""Brings back one deleted document, project or model, from a copy of the database as it was before.

    manage.py recover < request.json

Standard input: ``kind`` (``document``, ``project`` or ``model``), ``named`` (``NUMBER:NAME`` as it was then),
``server`` (``host``, ``port``, ... of the copy) and ``bring``. Without ``bring`` nothing is written. The last line of
standard output is JSON: ``{"changed": ..., "lines": [...], "rows": {TABLE: NUMBER}, "files": [...]}``; the files are
those that the rows name, below the media folder.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from escriptorium_cluster.project_removal import RefusedError
from escriptorium_cluster.recovery import KINDS, Recovery, connect, find
from escriptorium_cluster.space import NamingError, parse_named

KEYS = {"kind", "named", "server", "bring"}


class Command(BaseCommand):
    """The management command."""

    help = "Bring back one deleted document, project or model (request on standard input)."

    def handle(self, *args: Any, **options: Any) -> None:
        """Do the work; prints one JSON line.

        :raises CommandError: when the request is refused; nothing was changed then.
        """
        request = self._request()
        # What models print must not mix with the answer.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                named = parse_named(str(request["named"]))
                connect(request["server"])
                recovery = Recovery(request["kind"], find(request["kind"], named))
                answer = {
                    "changed": bool(request.get("bring")),
                    "lines": recovery.lines(),
                    "rows": recovery.numbers(),
                    "files": recovery.files(),
                }
                if request.get("bring"):
                    recovery.bring()
            except (RefusedError, NamingError) as error:
                raise CommandError(f"refused: {error}") from None
        self.stdout.write(json.dumps(answer))

    def _request(self) -> dict[str, Any]:
        try:
            request = json.loads(sys.stdin.read())
        except ValueError as error:
            raise CommandError(f"request: {error}") from None
        if not isinstance(request, dict) or set(request) - KEYS or not isinstance(request.get("server"), dict):
            raise CommandError(f"request: wanted an object with {', '.join(sorted(KEYS))}")
        if request.get("kind") not in KINDS:
            raise CommandError(f"request: kind is '{request.get('kind')}', wanted one of {', '.join(KINDS)}")
        return request
