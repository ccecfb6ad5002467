"""Says what takes space and what can go. Changes nothing.

    manage.py report_space [--json] < request.json

Standard input: ``{}`` or some of ``idle_days``, ``export_days``, ``version_days`` (days), ``finished_tags`` (names).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError

from escriptorium_cluster.space import explain
from escriptorium_cluster.space_survey import survey

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """The management command."""

    help = "Report what takes space, by project, and what can go (request on standard input)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare ``--json``."""
        parser.add_argument("--json", action="store_true", help="print one JSON line instead of text")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the report.

        :raises CommandError: when the request is none.
        """
        try:
            request = json.loads(sys.stdin.read() or "{}")
            found = survey(time.time(), request)
        except (ValueError, TypeError, AttributeError) as error:
            raise CommandError(f"request: {error}") from None
        projects = sorted(found.projects.values(), key=lambda project: (-project.total, project.pk))
        text = explain(projects, found.removable, dict(found.totals))
        if options["json"]:
            report = {
                "totals": dict(found.totals),
                "projects": [asdict(project) | {"total": project.total} for project in projects],
                "removable": [asdict(item) for item in found.removable],
                "text": text,
            }
            self.stdout.write(json.dumps(report))
        else:
            self.stdout.write("\n".join(text))
