"""Names images and models that rows name and that are not there, as JSON: ["documents/12/page.png"]. Changes nothing.

manage.py missing_files
"""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand

from escriptorium_cluster.row_files import missing


class Command(BaseCommand):
    """The management command."""

    help = "Name images and models that rows name and that are not there, as JSON."

    def handle(self, *_: Any, **__: Any) -> None:
        """Print the names."""
        self.stdout.write(json.dumps(missing()))
