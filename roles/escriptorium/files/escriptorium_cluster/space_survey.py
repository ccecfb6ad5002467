"""Looks at database and media folder for the report of space. Changes nothing; needs Django."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.db.models import Count, F, Max, TextField, Value
from django.db.models.functions import Cast, Concat

from escriptorium_cluster.space import (
    File,
    ProjectSpace,
    Removable,
    days_since,
    exported_document,
    finished_because,
    kind_in_document,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

#: Days after which a file without a row counts as forgotten: an upload or a training may still be writing it.
ORPHAN_DAYS = 2


def shared_with(*rows: Any) -> set[str]:
    """Return who else may use projects or documents: names of users and groups, without the owner."""
    found: set[str] = set()
    for row in rows:
        found |= {user.username for user in row.shared_with_users.all() if user.pk != row.owner_id}
        found |= {f"group {group.name}" for group in row.shared_with_groups.all()}
    return found


def version_files(model: Any) -> list[tuple[str, str]]:
    """Return revision and file of the old versions of a model that are no model's own file.

    A version made without a file of its own names the model's current file, and upstream's clean-up would take that.
    """
    own = set(
        apps.get_model("core", "OcrModel")
        .objects.filter(file__in=[version["data"]["file"] for version in model.versions if version["data"].get("file")])
        .values_list("file", flat=True)
    )
    return [
        (version["revision"], version["data"]["file"])
        for version in model.versions
        if version["data"].get("file") and version["data"]["file"] not in own
    ]


def safe_path(name: str) -> Path | None:
    """Return a file of the media folder; None for a name that leads out of it. A link stands for itself."""
    root = Path(settings.MEDIA_ROOT).resolve()
    path = root / name
    folder = path.parent.resolve()
    return folder / path.name if folder.is_relative_to(root) and path.name not in {"", ".."} else None


class Survey:
    """One look at everything.

    :param now: seconds since 1970.
    """

    def __init__(self, now: float, idle_days: int, export_days: int, version_days: int, tags: list[str]) -> None:
        self.now, self.idle_days, self.tags = now, idle_days, tags
        self.export_days, self.version_days = export_days, version_days
        self.root = Path(settings.MEDIA_ROOT)
        self.totals: Counter[str] = Counter()
        self.removable: list[Removable] = []
        self.projects = self._projects()
        self.project_of = dict(apps.get_model("core", "Document").objects.values_list("pk", "project_id"))
        self._documents()
        self._imports()
        self._models()
        self._users()
        self._others()
        for project in self.projects.values():
            project.finished = finished_because(project, now, idle_days, tags)

    def _projects(self) -> dict[int, ProjectSpace]:
        Project = apps.get_model("core", "Project")
        projects = {}
        for row in Project.objects.select_related("owner").prefetch_related("documents").iterator(chunk_size=500):
            projects[row.pk] = ProjectSpace(
                row.pk,
                row.name,
                owner=row.owner.username if row.owner else "",
                shared=tuple(sorted(shared_with(row, *row.documents.all()))),
                tags=tuple(sorted(tag.name for tag in row.tags.all())) if hasattr(row, "tags") else (),
                documents=len(row.documents.all()),
                activity=row.updated_at.timestamp(),
            )
        pages = Project.objects.order_by().values("pk").annotate(found=Count("documents__parts"))
        for pk, count in pages.values_list("pk", "found"):
            if pk in projects:
                projects[pk].pages = count
        for pk, moment in self._activity():
            if moment and pk in projects:
                projects[pk].activity = max(projects[pk].activity, moment.timestamp())
        return projects

    def _activity(self) -> Iterator[tuple[int, datetime | None]]:
        """Give the last changes of projects. Jobs do not touch a project's own date: their reports and rows tell."""
        for model, project, moments in (
            ("core.Document", "project_id", ("updated_at",)),
            ("core.DocumentPart", "document__project_id", ("updated_at",)),
            ("core.LineTranscription", "transcription__document__project_id", ("version_updated_at",)),
            ("reporting.TaskReport", "document__project_id", ("queued_at", "done_at")),
        ):
            for moment in moments:
                rows = apps.get_model(model).objects.order_by().values(project).annotate(last=Max(moment))
                yield from rows.values_list(project, "last")

    def _count(self, kind: str, size: int, document: int | None = None) -> None:
        self.totals[kind] += size
        project = self.projects.get(self.project_of.get(document, 0)) if document else None
        if project:
            project.add(kind, size)

    def _orphan(self, file: File, reason: str = "no row knows it") -> None:
        """Count a file without a row; a fresh one may belong to something that is still being written."""
        self.totals["orphans"] += file.size
        days = days_since(file.changed, self.now)
        if days >= ORPHAN_DAYS:
            self.removable.append(Removable("orphan", file.name, file.size, days, reason))

    def _documents(self) -> None:
        parts = apps.get_model("core", "DocumentPart").objects
        # Images that lie elsewhere than in the folder of their document; there should be none.
        before, after = (Value(text, output_field=TextField()) for text in ("documents/", "/"))
        home = Concat(before, Cast(F("document_id"), TextField()), after)
        strays = defaultdict(set)
        for name in parts.exclude(image__startswith=home).values_list("image", flat=True).iterator():
            path = PurePosixPath(name)
            strays[str(path.parent)].add(path.name)
        base = self.root / "documents"
        for folder in sorted(base.iterdir()) if base.is_dir() else []:
            document = int(folder.name) if folder.name.isdigit() else 0
            images = {
                PurePosixPath(name).name for name in parts.filter(document_id=document).values_list("image", flat=True)
            }
            images |= strays[f"documents/{folder.name}"]
            for file in walk(self.root, f"documents/{folder.name}"):
                kind = kind_in_document(PurePosixPath(file.name).name, images)
                if kind == "orphans":
                    gone = document not in self.project_of
                    self._orphan(file, f"document {folder.name} is gone" if gone else "no page has it")
                else:
                    self._count(kind, file.size, document)

    def _imports(self) -> None:
        known = set(apps.get_model("imports", "DocumentImport").objects.values_list("import_file", flat=True))
        for file in walk(self.root, "import_src"):
            folder = PurePosixPath(file.name).parent.name
            if file.name in known:
                self._count("imports", file.size, int(folder) if folder.isdigit() else None)
            else:
                self._orphan(file, "no import has it")

    def _models(self) -> None:
        sizes = {file.name: file for file in walk(self.root, "models")}
        known = set()
        models = apps.get_model("core", "OcrModel").objects
        in_training = set()
        for model in models.order_by("pk").iterator(chunk_size=100):
            known.add(model.file.name)
            if model.training and model.file:
                in_training.add(str(PurePosixPath(model.file.name).parent))
            named = {version["data"].get("file") for version in model.versions}
            old = {name for _, name in version_files(model)} & sizes.keys()
            known |= named
            days = days_since(model.version_updated_at.timestamp(), self.now)
            size = sum(sizes[name].size for name in old)
            if old and not model.training and days >= self.version_days:
                reason = f"{len(old)} versions, the model itself stays"
                self.removable.append(Removable("versions", f"{model.pk}:{model.name}", size, days, reason))
            self._count("versions", size)
            self._count("models", sizes[model.file.name].size if model.file and model.file.name in sizes else 0)
        for name, file in sizes.items():
            if name not in known:
                if str(PurePosixPath(name).parent) in in_training:
                    self._count("versions", file.size)
                else:
                    self._orphan(file, "no model has it")

    def _users(self) -> None:
        for file in walk(self.root, "users"):
            document = exported_document(file.name)
            if document is None:
                self._count("users", file.size)
                continue
            self._count("exports", file.size, document)
            days = days_since(file.changed, self.now)
            if document not in self.project_of:
                self.removable.append(Removable("export", file.name, file.size, days, f"document {document} is gone"))
            elif days >= self.export_days:
                self.removable.append(Removable("export", file.name, file.size, days, f"of document {document}"))

    def _others(self) -> None:
        """Count what the other folders hold; nothing is known of it, so that nothing of it is said to be removable."""
        seen = {"documents", "import_src", "models", "users"}
        for entry in sorted(self.root.iterdir()):
            if entry.is_dir() and not entry.is_symlink() and entry.name not in seen:
                self._count("other", sum(file.size for file in walk(self.root, entry.name)))
            elif entry.is_file():
                self._count("other", entry.stat().st_size)


def survey(now: float, request: dict[str, Any]) -> Survey:
    """Return the survey that a request asks for; see the defaults below."""
    return Survey(
        now,
        idle_days=int(request.get("idle_days", 365)),
        export_days=int(request.get("export_days", 30)),
        version_days=int(request.get("version_days", 30)),
        tags=[str(tag) for tag in request.get("finished_tags", [])],
    )
