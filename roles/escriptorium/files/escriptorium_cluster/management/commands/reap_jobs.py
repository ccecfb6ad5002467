"""Looks after the jobs of workers that are gone, and prints one JSON line: see ``reaper``.

    manage.py reap_jobs [--dead HOST]

The timer on the frontend runs ``python -m escriptorium_cluster.reaper`` instead, which does the same and loads
eScriptorium only where there is something to mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError

from escriptorium_cluster.reaper import main

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """The management command."""

    help = "Give the jobs of lost workers to others, and end jobs that no message knows any more."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare ``--dead``."""
        parser.add_argument("--dead", metavar="HOST", help="declare the workers of this host dead now")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run once.

        :raises CommandError: when broker or database do not answer.
        """
        status = main(["--json", *(["--dead", options["dead"]] if options["dead"] else [])])
        if status:
            raise CommandError("not all of it could be done", returncode=status)
