"""Exports a project, verifies the export against the database, and removes the project. Needs Django.

The order is what keeps the data: an export is written under a name of its own, read again and compared with database
and images, and only then gets its final name. Rows go in one transaction, which first looks whether the project is
still the one that was exported; files go after it, so that a removal that fails leaves everything as it was.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.conf import settings
from django.core import serializers
from django.db import models, transaction
from django.db.models import Count, F, Func, Q, Sum, TextField, Value
from django.db.models.functions import Cast, Coalesce, Concat
from django.db.models.signals import pre_delete
from django.utils.text import slugify

from escriptorium_cluster.export_check import (
    SUMS,
    ExpectedPage,
    batches,
    check_archive,
    check_sums,
    path_sum,
    write_sums,
)
from escriptorium_cluster.space import Named, human, walk
from escriptorium_cluster.space_survey import shared_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: Pages of one archive: bounds memory and lets an operator fetch a large project piece by piece.
PAGES_PER_ARCHIVE = 200
#: Rows that are read at once.
ROWS = 500
#: Jobs that a refusal names.
SHOWN = 10
#: What an operator is told the numbers of.
COUNTED: Final = {
    "documents": "core.Document",
    "pages": "core.DocumentPart",
    "regions": "core.Block",
    "lines": "core.Line",
    "transcriptions": "core.Transcription",
    "texts": "core.LineTranscription",
}
#: What stands for a column without a value, which is another thing than an empty text.
NOTHING: Final = "\x1e"
#: Format of the manifest.
FORMAT: Final = 1
MANIFEST = "manifest.json"
ROW_FILE = "rows.jsonl.gz"
PARTIAL = ".partial-"
#: Bytes an export needs for each line, in XML and rows, at most (measured: 1 to 2 KB with positions of characters).
LINE_BYTES = 4096
#: Room that has to be left on the disk of the exports.
FREE_BYTES = 1 << 30


class RefusedError(RuntimeError):
    """The project was not touched; the text says why, one line for each reason."""


def get(label: str) -> Any:
    """Return a model class of the application."""
    return apps.get_model(label)


def find(named: Named) -> Any:
    """Return the project of this number and name.

    :raises RefusedError: when there is none, or another one has the number.
    """
    project = get("core.Project").objects.filter(pk=named.pk).first()
    if project is None:
        raise RefusedError(f"project {named.pk}: there is none")
    if project.name != named.name:
        raise RefusedError(f"project {named.pk}: its name is '{project.name}', not '{named.name}'")
    return project


def obstacles(project: Any) -> list[str]:
    """Return what stands against a removal: jobs that run or wait, others who use it."""
    reports, imports, documents = get("reporting.TaskReport"), get("imports.DocumentImport"), get("core.Document")
    of_project = (
        Q(document__project=project) | Q(document_part__document__project=project) | Q(group__document__project=project)
    )
    states = {reports.WORKFLOW_STATE_QUEUED: "waits", reports.WORKFLOW_STATE_STARTED: "runs"}
    jobs = reports.objects.filter(of_project, workflow_state__in=states).order_by("pk").distinct()[:SHOWN]
    running = imports.objects.filter(document__project=project, workflow_state=imports.WORKFLOW_STATE_STARTED)
    training = get("core.OcrModel").objects.filter(training=True, documents__project=project).distinct()
    found = [f"job {row.method} {states[row.workflow_state]} (report {row.pk})" for row in jobs]
    found += [f"an import into document {row.document_id} runs" for row in running]
    found += [f"model {row.pk}:{row.name} is being trained on it" for row in training]
    # The application removes the image of a page with the page, whoever else names it.
    pages = get("core.DocumentPart").objects
    own = pages.filter(document__project=project).order_by().values("image")
    others = pages.exclude(document__project=project).filter(image__in=own).order_by("pk")[:SHOWN]
    found += [f"page {row.pk} of document {row.document_id} of another project has the same image" for row in others]
    users = shared_with(project, *documents.objects.filter(project=project))
    if users:
        found.append(f"it is shared with {', '.join(sorted(users))}: end the sharing in the application first")
    return found


def hashed(*columns: str) -> Sum:
    """Return a checksum over the rows of a query, whatever their order: the sum of PostgreSQL's hash of each row."""
    # Django 5 joins texts of one kind only.
    nothing, end = (Value(text, output_field=TextField()) for text in (NOTHING, "\x1f"))
    separated = [part for column in columns for part in (Coalesce(Cast(F(column), TextField()), nothing), end)]
    number = Func(Concat(*separated), Value(0), function="hashtextextended", output_field=models.BigIntegerField())
    return Sum(number, output_field=models.DecimalField(max_digits=40, decimal_places=0))


def state(project: Any) -> dict[str, Any]:
    """Return what the project holds, so exactly that two equal answers mean the same content.

    All that an export holds is in it: each column of each row, what is linked to it, and the images, which the
    application crops in place without a word in any row.
    """
    found: dict[str, str] = {}
    for model, query in owned_rows(project):
        columns = [field.attname for field in model._meta.concrete_fields]  # noqa: SLF001 - Django documents it
        found[model._meta.label] = _sum(query, columns)  # noqa: SLF001 - as above
        for field in model._meta.local_many_to_many:  # noqa: SLF001 - as above
            through = field.remote_field.through
            # Others have a model of their own, which is owned.
            if through._meta.auto_created:  # noqa: SLF001 - as above
                links = through._base_manager.filter(**{f"{field.m2m_field_name()}__in": query})  # noqa: SLF001 - as above
                columns = [column.attname for column in through._meta.concrete_fields]  # noqa: SLF001 - as above
                found[through._meta.label] = _sum(links, columns)  # noqa: SLF001 - as above
    return {"project": project.name, "rows": found, "images": _images(project)}


def _sum(query: Any, columns: Sequence[str]) -> str:
    answer = query.order_by().aggregate(count=Count("pk"), sum=hashed(*columns))
    return f"{answer['count']}/{answer['sum'] or 0}"


def _images(project: Any) -> str:
    """Return a checksum over name, size and time of all images; one that is lost has neither."""
    found = hashlib.sha256()
    pages = get("core.DocumentPart").objects.filter(document__project=project).order_by("pk")
    for name in pages.values_list("image", flat=True).iterator(chunk_size=ROWS):
        try:
            about = (Path(settings.MEDIA_ROOT) / str(name)).stat()
            found.update(f"{name}\x1f{about.st_size}\x1f{about.st_mtime_ns}\x1e".encode())
        except OSError:
            found.update(f"{name}\x1e".encode())
    return found.hexdigest()


def counts(project: Any) -> dict[str, int]:
    """Return the numbers of an operator's interest."""
    found = {model._meta.label: query for model, query in owned_rows(project)}  # noqa: SLF001 - Django documents it
    return {name: found[label].count() for name, label in COUNTED.items()}


# --- Export ------------------------------------------------------------------------------------------------------


@dataclass
class Messages:
    """Takes the place of a task report: an exporter writes there which pages it has left out."""

    lines: list[str]

    def append(self, text: str, *_: Any) -> None:
        """Keep one message."""
        self.lines.append(text)


def owned_rows(project: Any) -> Iterator[tuple[Any, Any]]:
    """Give each model of which rows go with the project, with the query for these rows; the project's own first.

    Found from the models themselves: a newer version's tables are in it too.
    """
    start = type(project)
    paths: dict[Any, str] = {start: "pk"}
    queue = deque([start])
    while queue:
        model = queue.popleft()
        prefix = "" if model is start else f"__{paths[model]}"
        related = [item for item in model._meta.related_objects if item.on_delete is models.CASCADE]  # noqa: SLF001 - Django documents it
        # Rows with a value in every link first: a link that may be empty would leave rows out.
        for item in sorted(related, key=lambda item: item.field.null):
            if item.related_model not in paths:
                paths[item.related_model] = f"{item.field.name}{prefix}"
                queue.append(item.related_model)
    for model, path in paths.items():
        yield model, model._base_manager.filter(**{path: project.pk}).order_by("pk")  # noqa: SLF001 - Django documents it


def write_rows(project: Any, path: Path) -> dict[str, int]:
    """Write all rows of the project as JSON lines, and return their number by table.

    ALTO and PAGE hold no comments, tags, annotations, history and positions of characters; these lines do.
    """
    found = {}
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=3) as stream:
        for model, query in owned_rows(project):
            # One object at a time: Django's own writer of many keeps the last one open for its comma.
            number = 0
            for row in query.iterator(chunk_size=ROWS):
                stream.write(serializers.serialize("jsonl", [row]))
                number += 1
            found[model._meta.label] = number  # noqa: SLF001 - Django documents it
    return found


def check_rows(path: Path, wanted: Mapping[str, int]) -> list[str]:
    """Return where the written rows differ in number from the database's."""
    found: dict[str, int] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                label = json.loads(line)["model"]
                found[label] = found.get(label, 0) + 1
    except (OSError, EOFError, ValueError) as error:
        return [f"{path.name}: cannot be read: {error}"]
    return [
        f"{path.name}: {label} has {found.get(label.lower(), 0)} rows, the database {number}"
        for label, number in wanted.items()
        if found.get(label.lower(), 0) != number
    ]


def expected_pages(parts: Sequence[Any], sums: Mapping[int, str], transcription: Any) -> list[ExpectedPage]:
    """Return what an archive of these pages has to hold."""
    keys = [part.pk for part in parts]
    texts = dict(
        get("core.LineTranscription")
        .objects.filter(transcription=transcription, line__document_part__in=keys)
        .values_list("line_id", "content")
    )
    lines: dict[int, list[tuple[str, str]]] = {key: [] for key in keys}
    rows = get("core.Line").objects.filter(document_part__in=keys).order_by()
    for pk, part, identifier in rows.values_list("pk", "document_part_id", "external_id"):
        lines[part].append((str(identifier), texts.get(pk) or ""))
    regions = get("core.Block").objects.filter(document_part__in=keys).order_by().values("document_part_id")
    numbers = dict(regions.annotate(found=Count("pk")).values_list("document_part_id", "found"))
    return [
        ExpectedPage(part.filename, sums.get(part.pk, ""), numbers.get(part.pk, 0), tuple(lines[part.pk]))
        for part in parts
    ]


@dataclass(frozen=True)
class Pages:
    """The pages of one archive, with the checksums of their images."""

    document: Any
    parts: list[Any]
    sums: Mapping[int, str]


class Export:
    """One export of a project into a folder.

    :param say: told what is done, for a log.
    """

    def __init__(self, project: Any, folder: Path, say: Callable[[str], None]) -> None:
        self.project, self.folder, self.say = project, folder, say
        self.problems: list[str] = []
        self.documents: list[dict[str, Any]] = []

    def write(self) -> None:
        """Write archives, rows and manifest; what is wrong with them is in ``problems`` afterwards."""
        before = state(self.project)
        for document in get("core.Document").objects.filter(project=self.project).order_by("pk"):
            self._document(document)
        rows = write_rows(self.project, self.folder / ROW_FILE)
        self.problems += check_rows(self.folder / ROW_FILE, rows)
        self._compare(rows)
        if state(self.project) != before:
            self.problems.append("somebody worked on the project meanwhile")
        manifest = {
            "format": FORMAT,
            "project": {"id": self.project.pk, "name": self.project.name},
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": before,
            "rows": rows,
            "documents": self.documents,
            "files": write_sums(self.folder, [path.name for path in self.folder.iterdir() if path.is_file()]),
        }
        (self.folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")

    def _compare(self, rows: Mapping[str, int]) -> None:
        """Compare the sums of what was exported with the database, apart from the single pages."""
        texts = get("core.LineTranscription").objects.filter(
            transcription__document__project=self.project, line__isnull=False
        )
        wanted = {
            "pages": rows["core.DocumentPart"],
            "lines": rows["core.Line"],
            "texts": texts.exclude(content="").count(),
        }
        for name, number in wanted.items():
            exported = sum(document[name] for document in self.documents)
            if exported != number:
                self.problems.append(f"{exported} {name} were exported, the database has {number}")

    def _document(self, document: Any) -> None:
        parts = get("core.DocumentPart").objects.filter(document=document).order_by("order", "pk")
        names = {part.pk: part.filename for part in parts.iterator(chunk_size=ROWS)}
        texts = get("core.LineTranscription").objects.filter(transcription__document=document).exclude(content="")
        used = set(texts.order_by().values_list("transcription_id", flat=True).distinct())
        transcriptions = list(document.transcriptions.order_by("pk"))
        # The first archive of each series has the images; a transcription without any text needs none of its own.
        series = [row for row in transcriptions if row.pk in used] or transcriptions[:1] or [None]
        about: dict[str, Any] = {
            "id": document.pk,
            "name": document.name,
            "transcriptions": [{"id": row.pk, "name": row.name} for row in transcriptions],
            "pages": 0,
            "lines": 0,
            "texts": 0,
            "archives": [],
        }
        groups = batches(names, PAGES_PER_ARCHIVE)
        for number, keys in enumerate(groups, start=1):
            self.say(f"document {document.pk}: archive {number} of {len(groups)}")
            rows = list(parts.filter(pk__in=keys))
            pages = Pages(document, rows, self._image_sums(rows))
            for place, transcription in enumerate(series):
                name = f"document-{document.pk}-{number:04d}-{_label(transcription)}.zip"
                expected = self._archive(name, pages, transcription, images=place == 0)
                about["archives"].append(name)
                about["texts"] += sum(bool(text) for page in expected for _, text in page.lines)
                if place == 0:
                    about["pages"] += len(expected)
                    about["lines"] += sum(len(page.lines) for page in expected)
        self.documents.append(about)

    def _image_sums(self, parts: Sequence[Any]) -> dict[int, str]:
        found = {}
        for part in parts:
            try:
                found[part.pk] = path_sum(Path(part.image.path))
            except (OSError, ValueError) as error:
                self.problems.append(f"page {part.pk} of document {part.document_id}: no image can be read: {error}")
        return found

    def _archive(self, name: str, pages: Pages, transcription: Any, *, images: bool) -> list[ExpectedPage]:
        """Write one archive, verify it, and return what is in it; nothing when it could not be written."""
        keys = [part.pk for part in pages.parts]
        blocks = get("core.Block").objects.filter(document_part__in=keys, typology__isnull=False).order_by()
        messages = Messages([])
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            exporter = import_module("imports.export").ENABLED_EXPORTERS["pagexml"]["class"](
                keys,
                # Those that are used, not those that the document allows: regions of another type would be left out.
                # The exporter takes words out of the list: each gets its own.
                [*blocks.values_list("typology_id", flat=True).distinct(), "Undefined", "Orphan"],
                images,
                False,  # noqa: FBT003 - upstream's order: no single characters, these are in the rows
                SimpleNamespace(get_document_store_path=lambda: work),
                pages.document,
                messages,
                transcription,
            )
            try:
                exporter.render()
            except Exception as error:  # whatever the application meets, the export is not whole
                self.problems.append(f"{name}: the exporter gave up: {type(error).__name__}: {error}")
                return []
            Path(exporter.filepath).rename(self.folder / name)
        self.problems += [f"{name}: {line}" for line in messages.lines]
        expected = expected_pages(pages.parts, pages.sums, transcription)
        self.problems += check_archive(self.folder / name, expected, images=images)
        return expected


def _label(transcription: Any) -> str:
    """Return the part of an archive's name that tells its transcription."""
    return f"{transcription.pk}-{slugify(transcription.name)[:40] or 'text'}" if transcription else "without-text"


def sync(folder: Path) -> None:
    """Bring a folder and its files to the disk: the project goes in a moment."""
    for path in [*folder.iterdir(), folder, folder.parent]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def needed_bytes(project: Any) -> int:
    """Return how much room an export needs: images once, texts for each transcription and in the rows."""
    images = (
        get("core.DocumentPart").objects.filter(document__project=project).aggregate(sum=Sum("image_file_size"))["sum"]
    )
    found = counts(project)
    return int(images or 0) + LINE_BYTES * (found["lines"] + 2 * found["texts"])


def make_export(project: Any, exports: Path, say: Callable[[str], None]) -> Path:
    """Write and verify an export; returns its folder.

    :raises RefusedError: when the disk is too full, or the export is not what the database holds. The faulty one stays
        under its working name, to be looked at; the next run for the project takes it away.
    """
    for old in exports.glob(f"{PARTIAL}{project.pk}-*"):
        shutil.rmtree(old)
    needed, free = needed_bytes(project), shutil.disk_usage(exports).free
    if needed + FREE_BYTES > free:
        raise RefusedError(f"{exports}: the export needs {human(needed + FREE_BYTES)}, {human(free)} are free")
    name = f"{project.pk}-{slugify(project.name)[:40] or 'project'}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    working = exports / f"{PARTIAL}{name}"
    working.mkdir(mode=0o700)
    export = Export(project, working, say)
    export.write()
    sync(working)
    manifest = json.loads((working / MANIFEST).read_text())
    problems = [*export.problems, *check_sums(working, manifest["files"])]
    if problems:
        raise RefusedError("\n".join(["the export is not whole, nothing was removed:", *problems, f"see {working}"]))
    working.rename(exports / name)
    sync(exports / name)
    return exports / name


def verified_export(project: Any, exports: Path) -> Path | None:
    """Return the newest export of the project as it is now, read again from the disk; None when there is none."""
    now = state(project)
    for folder in sorted(exports.glob(f"{project.pk}-*"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except (OSError, ValueError):
            continue
        about = manifest.get("project", {})
        same = manifest.get("format") == FORMAT and about.get("id") == project.pk and manifest.get("state") == now
        if same and (folder / SUMS).is_file() and not check_sums(folder, manifest["files"]):
            return folder
    return None


# --- Removal -----------------------------------------------------------------------------------------------------


def remove(project: Any, export: Path) -> dict[str, int]:
    """Remove the rows of a project in one transaction, then its files; returns bytes and files that are gone.

    :param export: a verified export: the project has to be what its manifest says.
    :raises RefusedError: when somebody or something uses the project, or has changed it since the export.
    """
    documents = list(get("core.Document").objects.filter(project=project).values_list("pk", flat=True))
    wanted = json.loads((export / MANIFEST).read_text())["state"]
    before = _files(documents)
    # Upstream removes the image of a page before the page's row: a removal that is undone would lose the images.
    page = get("core.DocumentPart")
    # This process ends soon, and the folder goes below: nobody misses the signal.
    pre_delete.disconnect(sender=page, dispatch_uid="thumbnails_delete_signal")
    with transaction.atomic():
        _lock(project)
        reasons = obstacles(project)
        if state(project) != wanted:
            reasons.append("it was changed after the export")
        if reasons:
            raise RefusedError("\n".join(reasons))
        _forget_thumbnails(documents)
        for document in documents:
            # Page by page: Django reads all rows into memory that one deletion takes along.
            for pk in list(page.objects.filter(document_id=document).order_by("pk").values_list("pk", flat=True)):
                page.objects.filter(pk=pk).delete()
            get("core.Document").objects.filter(pk=document).delete()
        type(project).objects.filter(pk=project.pk).delete()
    # Counted from outside: the application removes images itself when the rows have gone, but no thumbnails.
    _remove_files(documents)
    after = _files(documents)
    gone = [size for name, size in before.items() if name not in after]
    return {"files": len(gone), "bytes": sum(gone)}


def _lock(project: Any) -> None:
    """Keep others from adding to the project while it goes: a row with a link to a locked one has to wait."""
    for label, condition in (
        ("core.Project", {"pk": project.pk}),
        ("core.Document", {"project": project}),
        ("core.DocumentPart", {"document__project": project}),
        ("core.Transcription", {"document__project": project}),
    ):
        query = get(label).objects.select_for_update(of=("self",)).filter(**condition).order_by("pk")
        deque(query.values_list("pk", flat=True).iterator(chunk_size=ROWS), maxlen=0)


def _forget_thumbnails(documents: Sequence[int]) -> None:
    """Remove the rows in which easy-thumbnails notes what it has made; the files go with their folder."""
    if apps.is_installed("easy_thumbnails"):
        for document in documents:
            get("easy_thumbnails.Source").objects.filter(name__startswith=f"documents/{document}/").delete()


def _folders(documents: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    """Give the folders of documents, each with the table and column that names its files."""
    for document in documents:
        yield f"documents/{document}", "core.DocumentPart", "image"
        yield f"import_src/{document}", "imports.DocumentImport", "import_file"


def _files(documents: Sequence[int]) -> dict[str, int]:
    """Return the sizes of all files of documents, by name."""
    root = Path(settings.MEDIA_ROOT)
    return {file.name: file.size for folder, _, _ in _folders(documents) for file in walk(root, folder)}


def _remove_files(documents: Sequence[int]) -> None:
    """Remove the folders of documents that have no row any more, apart from files that another row names."""
    root = Path(settings.MEDIA_ROOT)
    left = set(get("core.Document").objects.filter(pk__in=documents).values_list("pk", flat=True))
    for folder, label, column in _folders([document for document in documents if document not in left]):
        query = get(label).objects.filter(**{f"{column}__startswith": f"{folder}/"})
        used = set(query.values_list(column, flat=True))
        for file in list(walk(root, folder)):
            if file.name not in used:
                (root / file.name).unlink(missing_ok=True)
        for path, _, _ in os.walk(root / folder, topdown=False):
            if not any(Path(path).iterdir()):
                Path(path).rmdir()
