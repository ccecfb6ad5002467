"""Brings database, site name, administrator and static files to what this release needs, and says what it changed.

    manage.py prepare_site [--dry-run] < settings.json

Standard input: ``{"admin_name", "admin_email", "admin_password", "domain", "site_name"}``, all texts. It comes on
standard input because arguments and environment of a process can be read by others. The last line of standard output
is ``{"changed": [...]}``; everything else goes to standard error. Nothing is done that is not needed, so that a second
run changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from escriptorium_cluster.site_request import (
    DEFAULT_ADMIN,
    LOCK_NUMBER,
    RequestError,
    SiteRequest,
    fingerprint,
    parse_request,
    replace_files,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator

#: Holds the fingerprint of what the static files were made from. It names no path: the folder is public.
STAMP_NAME = ".collected"


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the body only (set after the start, they do not show in the process list)."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Command(BaseCommand):
    """The management command."""

    help = "Prepare database, site name, administrator and static files of this release (request on standard input)."
    # Django's own checks open the database; migrations may still be missing here.
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare ``--dry-run``."""
        parser.add_argument("--dry-run", action="store_true", help="change nothing, say what would be changed")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do the work; prints one JSON line."""
        try:
            request = parse_request(sys.stdin.read())
        except RequestError as error:
            raise CommandError(str(error)) from None
        dry_run: bool = options["dry_run"]
        # Migrations and commands of others print: standard output belongs to the JSON line alone.
        with contextlib.redirect_stdout(sys.stderr), self._lock():
            plan = self._migration_plan()
            changed = self._migrate(plan, request, dry_run)
            if plan and dry_run:
                changed += ["site", "administrator (after the migrations)"]
            else:
                changed += self._set_site(request, dry_run)
                changed += self._secure_administrator(request, dry_run)
            changed += self._collect_static(dry_run)
        self.stdout.write(json.dumps({"changed": changed}))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep a second run out for as long as this one works.

        :raises CommandError: when another one is working.
        """
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_NUMBER])
            if not cursor.fetchone()[0]:
                raise CommandError("another prepare_site is running on this database")
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK_NUMBER])

    def _migration_plan(self) -> list[Any]:
        """Return the migrations that the database lacks, in order."""
        executor = MigrationExecutor(connection)
        plan: list[Any] = executor.migration_plan(executor.loader.graph.leaf_nodes())
        return plan

    def _migrate(self, plan: list[Any], request: SiteRequest, dry_run: bool) -> list[str]:
        """Apply the missing migrations, with the administrator in the environment, where upstream's migrations look."""
        if not plan:
            return []
        if not dry_run:
            with environment(
                {
                    "DJANGO_SU_NAME": request.admin_name,
                    "DJANGO_SU_EMAIL": request.admin_email,
                    "DJANGO_SU_PASSWORD": request.admin_password,
                    "DOMAIN": request.domain,
                    "SITE_NAME": request.site_name,
                }
            ):
                call_command("migrate", interactive=False, verbosity=1, stdout=self.stderr, stderr=self.stderr)
        return [f"migrations ({len(plan)})"]

    def _set_site(self, request: SiteRequest, dry_run: bool) -> list[str]:
        """Give the Site row the real domain: upstream's migration does that before the row exists."""
        from django.contrib.sites.models import Site

        wanted = {"domain": request.domain, "name": request.site_name[:50]}
        site = Site.objects.filter(pk=settings.SITE_ID).first()
        if site is not None and (site.domain, site.name) == (wanted["domain"], wanted["name"]):
            return []
        if not dry_run:
            Site.objects.update_or_create(pk=settings.SITE_ID, defaults=wanted)
        return ["site"]

    def _secure_administrator(self, request: SiteRequest, dry_run: bool) -> list[str]:
        """Make sure that the administrator exists and that nobody can log in as admin with the password admin.

        The password of an existing administrator is left alone: it may have been changed in the application.

        :raises CommandError: when an ordinary account has the administrator's name.
        """
        changed = []
        users = get_user_model().objects
        administrator = users.filter(username=request.admin_name).first()
        if administrator is None:
            if not dry_run:
                users.create_superuser(request.admin_name, request.admin_email, request.admin_password)
            changed.append("administrator")
        elif not administrator.is_superuser:
            raise CommandError(
                f"the account '{request.admin_name}' exists and is no administrator: choose another name"
            )
        default = users.filter(username=DEFAULT_ADMIN).first()
        if default is not None and default.check_password(DEFAULT_ADMIN):
            if not dry_run:
                default.set_password(request.admin_password)
                default.save(update_fields=["password"])
            changed.append("password of the account 'admin' (it was 'admin')")
        return changed

    def _collect_static(self, dry_run: bool) -> list[str]:
        """Collect the static files when this release's differ from those collected last.

        Pages of the former release are still open in browsers and asked for while this runs: each file takes the place
        of the older one in one step, and one that this release lacks goes with the release after it.
        """
        root = Path(settings.STATIC_ROOT)
        stamp = root / STAMP_NAME
        wanted = fingerprint(Path(settings.BASE_DIR), Path(settings.FRONTEND_DIR))
        if stamp.is_file() and stamp.read_text().strip() == wanted:
            return []
        if not dry_run:
            from django.contrib.staticfiles.management.commands import collectstatic
            from django.contrib.staticfiles.storage import staticfiles_storage

            root.mkdir(exist_ok=True)
            stamp.unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(dir=root.parent, prefix=f"{root.name}-") as temporary:
                fresh = Path(temporary)
                collector = collectstatic.Command(stdout=self.stderr, stderr=self.stderr)
                collector.storage = staticfiles_storage.__class__(location=temporary)
                call_command(collector, interactive=False, verbosity=0)
                replace_files(fresh, root)
            stamp.write_text(wanted + "\n")
        return ["static files"]
