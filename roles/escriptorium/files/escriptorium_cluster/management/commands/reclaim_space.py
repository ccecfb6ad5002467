"""Removes what the request names: one project, after a verified export, or files that the report shows as removable.

    manage.py reclaim_space < request.json

Standard input: ``project`` (``NUMBER:NAME``) or ``items`` (names of ``report_space``); ``exports`` (folder);
``export_only``; ``confirm``. Without ``confirm`` nothing is written or removed. It has to repeat the project's
``NUMBER:NAME``, or for items the word that the dry run prints. The last line of standard output is JSON:
``{"changed": ..., "lines": [...], ...}``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction

from escriptorium_cluster.project_removal import (
    RefusedError,
    counts,
    find,
    get,
    make_export,
    needed_bytes,
    obstacles,
    remove,
    verified_export,
)
from escriptorium_cluster.space import NamingError, Removable, confirmation, human, parse_named
from escriptorium_cluster.space_survey import safe_path, survey, version_files

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Number of the database lock that keeps two runs apart.
LOCK_NUMBER = 5220191015
KEYS = {"project", "items", "exports", "export_only", "confirm"} | {
    "idle_days",
    "export_days",
    "version_days",
    "finished_tags",
}


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Keep a second run out for as long as this one works.

    :raises CommandError: when another one is working.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_NUMBER])
        if not cursor.fetchone()[0]:
            raise CommandError("another removal is running on this database")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK_NUMBER])


class Command(BaseCommand):
    """The management command."""

    help = "Remove a project after a verified export, or files that nobody needs (request on standard input)."

    def handle(self, *args: Any, **options: Any) -> None:
        """Do the work; prints one JSON line.

        :raises CommandError: when the request is refused; nothing was removed then.
        """
        request = self._request()
        # What models and exporters print must not mix with the answer.
        with contextlib.redirect_stdout(sys.stderr), lock():
            try:
                answer = self._project(request) if request.get("project") else self._items(request)
            except (RefusedError, NamingError) as error:
                raise CommandError(f"refused: {error}") from None
        self.stdout.write(json.dumps(answer))

    def _request(self) -> dict[str, Any]:
        try:
            request = json.loads(sys.stdin.read())
        except ValueError as error:
            raise CommandError(f"request: {error}") from None
        if not isinstance(request, dict) or set(request) - KEYS:
            raise CommandError(f"request: wanted an object with some of {', '.join(sorted(KEYS))}")
        if bool(request.get("project")) == bool(request.get("items")):
            raise CommandError("request: name one project, or items of the report, and not both")
        return request

    def _say(self, text: str) -> None:
        self.stderr.write(text)

    # --- One project ---------------------------------------------------------------------------------------------

    def _project(self, request: dict[str, Any]) -> dict[str, Any]:
        named = parse_named(str(request["project"]))
        project = find(named)
        confirm = str(request.get("confirm") or "")
        if confirm and confirm != str(named):
            raise RefusedError(f"the confirmation says '{confirm}', the project is '{named}'")
        export_only = bool(request.get("export_only"))
        reasons = [] if export_only else obstacles(project)
        numbers = counts(project)
        models = get("core.OcrModel").objects.filter(documents__project=project).distinct().order_by("pk")
        lines = [
            f"project {named}: " + ", ".join(f"{number} {name}" for name, number in numbers.items()),
            f"an export needs up to {human(needed_bytes(project))}",
            *(f"model {model.pk}:{model.name} was trained or used on it and stays" for model in models),
        ]
        if reasons:
            raise RefusedError("\n".join([f"project {named} stays:", *reasons]))
        if not (confirm or export_only):
            lines.append(f"nothing was done. To export and remove it, confirm with '{named}'")
            return {"changed": False, "lines": lines}
        exports = Path(str(request.get("exports") or ""))
        if not exports.is_absolute() or not exports.is_dir():
            raise RefusedError(f"the folder for exports, '{exports}', is not there")
        if exports.resolve().is_relative_to(Path(settings.MEDIA_ROOT).resolve()):
            raise RefusedError(f"{exports} lies in the media folder, which the web server shows to everybody")
        folder = verified_export(project, exports)
        made = folder is None
        if folder is None:
            folder = make_export(project, exports, self._say)
        lines.append(f"{'verified export' if made else 'verified export of before'}: {folder}")
        if not confirm:
            return {"changed": made, "export": str(folder), "lines": lines}
        gone = remove(project, folder)
        lines.append(f"removed: all rows, {gone['files']} files, {human(gone['bytes'])}")
        return {"changed": True, "export": str(folder), "lines": lines, **gone}

    # --- Files and versions --------------------------------------------------------------------------------------

    def _items(self, request: dict[str, Any]) -> dict[str, Any]:
        names = [str(name) for name in request["items"]]
        known = {item.name: item for item in survey(time.time(), request).removable}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise RefusedError("\n".join(f"'{name}' is not in the report as something that can go" for name in unknown))
        items = [known[name] for name in dict.fromkeys(names)]
        word = confirmation(items)
        lines = [f"{item.kind} {item.name}: {human(item.size)}, {item.reason}" for item in items]
        size = sum(item.size for item in items)
        if not request.get("confirm"):
            lines.append(f"nothing was done. To remove these {len(items)}, {human(size)}, confirm with '{word}'")
            return {"changed": False, "confirm": word, "lines": lines}
        if request["confirm"] != word:
            raise RefusedError(f"the confirmation says '{request['confirm']}', for what is there now it is '{word}'")
        # Versions first: they alone can still be refused, when a training has begun meanwhile.
        for item in sorted(items, key=lambda item: item.kind != "versions"):
            self._remove(item)
        lines.append(f"removed: {len(items)}, {human(size)}")
        return {"changed": True, "lines": lines, "files": len(items), "bytes": size}

    def _remove(self, item: Removable) -> None:
        if item.kind == "versions":
            with transaction.atomic():
                model = get("core.OcrModel").objects.select_for_update(of=("self",)).get(pk=parse_named(item.name).pk)
                if model.training:
                    raise RefusedError(f"model {item.name} is being trained")
                for revision, _ in version_files(model):
                    model.delete_revision(revision)
                # Only this column: the date of the model's last change stays.
                model.save(update_fields=["versions"])
            return
        path = safe_path(item.name)
        if path is None:
            raise RefusedError(f"{item.name} does not lie in the media folder")
        path.unlink(missing_ok=True)
