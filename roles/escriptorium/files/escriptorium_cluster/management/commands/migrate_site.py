"""Migrates the database to what this release knows, or applications to the migrations named. One run at a time.

    manage.py migrate_site [core=0004_sharing ...]

A run of Ansible that is broken off does not end it: the repeated one waits for that, here and in check_release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection

from escriptorium_cluster.site_request import LOCK_NUMBER

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """The management command."""

    help = "Migrate the database, while no other run does."
    # Django's own checks open the database; migrations may still be missing here.
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the targets."""
        parser.add_argument("targets", nargs="*", metavar="APPLICATION=MIGRATION", help="where to go back to")

    def handle(self, *args: Any, **options: Any) -> None:
        """Wait for the lock, which the end of this process gives back, and migrate."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK_NUMBER])
        for target in options["targets"] or [""]:
            words = target.split("=") if target else []
            call_command("migrate", *words, interactive=False, verbosity=1)
