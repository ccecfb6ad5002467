"""What a report of space says, and what of the media folder can go. Pure: no Django, nothing is removed here."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

#: Seconds of a day.
DAY = 86400.0
#: Lines of one list that the text shows; JSON has all of them.
SHOWN = 20
#: eScriptorium's name of an export: the document's number stands in it.
_EXPORT = re.compile(r"export_doc(\d+)_")


class NamingError(ValueError):
    """A project or model is not named as NUMBER:NAME."""


@dataclass(frozen=True, slots=True)
class Named:
    """A project or model as the operator names it: number and name, so that a slip of one digit is noticed."""

    pk: int
    name: str

    def __str__(self) -> str:
        return f"{self.pk}:{self.name}"


def parse_named(text: str) -> Named:
    """Return number and name of ``12:Charters of 1348``.

    :raises NamingError: when it has another form.
    """
    number, colon, name = text.partition(":")
    if not (colon and name and number.isascii() and number.isdigit()):
        raise NamingError(f"found '{text}', wanted NUMBER:NAME as the report shows it, for example 12:Charters of 1348")
    return Named(int(number), name)


@dataclass(frozen=True, slots=True)
class File:
    """A file below the media folder: name from there, bytes, seconds since 1970 of its last change."""

    name: str
    size: int
    changed: float


@dataclass(frozen=True, slots=True)
class Removable:
    """A file or the versions of a model that can go, and why."""

    kind: str
    name: str
    size: int
    days: int
    reason: str


def walk(root: Path, below: str = "") -> Iterator[File]:
    """Give all files of a folder, one at a time. Links are not followed; what vanishes meanwhile is left out."""
    folders = [below]
    while folders:
        folder = folders.pop()
        try:
            entries = os.scandir(root / folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield File(name, status.st_size, status.st_mtime)


def kind_in_document(name: str, images: Collection[str]) -> str:
    """Return what a file of a document's folder is: ``images``, ``thumbnails`` or ``orphans``.

    :param name: the file's name without its folder.
    :param images: the names of the document's images, without the folder.
    """
    if name in images:
        return "images"
    # easy-thumbnails adds size and options to the image's name: page.jpg -> page.jpg.180x180_q85_crop.jpg
    stem = name
    while "." in stem:
        stem = stem.rpartition(".")[0]
        if stem in images:
            return "thumbnails"
    return "orphans"


def exported_document(name: str) -> int | None:
    """Return the number of the document that an export of a user's folder is of, or None when it is no export."""
    found = _EXPORT.match(PurePosixPath(name).name)
    return int(found.group(1)) if found else None


def days_since(then: float, now: float) -> int:
    """Return whole days."""
    return max(0, int((now - then) // DAY))


@dataclass(slots=True)
class ProjectSpace:
    """What one project takes, in bytes, and when somebody last worked on it."""

    pk: int
    name: str
    owner: str = ""
    shared: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    documents: int = 0
    pages: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    activity: float = 0.0
    finished: str = ""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.bytes.values())

    def add(self, kind: str, size: int) -> None:
        """Count a file."""
        self.bytes[kind] = self.bytes.get(kind, 0) + size


def finished_because(project: ProjectSpace, now: float, idle_days: int, tags: Collection[str]) -> str:
    """Return why a project counts as finished; empty when it does not.

    A tag that says so goes before the age: a project that was tagged yesterday is finished.
    """
    found = sorted({tag.casefold() for tag in project.tags} & {tag.casefold() for tag in tags})
    if found:
        return f"tag '{found[0]}'"
    idle = days_since(project.activity, now)
    return f"no activity for {idle} days" if idle >= idle_days else ""


def confirmation(items: Iterable[Removable]) -> str:
    """Return the word that confirms the removal of just these files, as large as they are now.

    It comes from the dry run, so that nothing is removed that the operator has not been shown.
    """
    found = sorted({(item.kind, item.name, item.size) for item in items})
    text = "\n".join(f"{kind}\t{name}\t{size}" for kind, name, size in found)
    return f"{len(found)}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def human(size: int) -> str:
    """Return bytes in words, with 1000 as the step as disks are sold: ``3.2 GB``."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:  # noqa: PLR2004 - the step of the units
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def day(seconds: float) -> str:
    """Return the date (UTC) of a moment; ``never`` for 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d") if seconds else "never"


def explain(projects: Sequence[ProjectSpace], removable: Sequence[Removable], totals: dict[str, int]) -> list[str]:
    """Return the report as lines for a person, the largest first."""
    lines = [f"media: {human(sum(totals.values()))} in all"]
    lines += [f"  {kind:<12} {human(size):>10}" for kind, size in sorted(totals.items(), key=lambda item: -item[1])]
    lines += ["", f"projects ({len(projects)}), the largest first"]
    for project in sorted(projects, key=lambda project: (-project.total, project.pk)):
        parts = ", ".join(f"{kind} {human(size)}" for kind, size in sorted(project.bytes.items()) if size)
        notes = [
            f"{project.documents} documents, {project.pages} pages",
            f"last activity {day(project.activity)}",
            f"owner {project.owner or 'nobody'}",
            *([f"shared with {', '.join(project.shared)}"] if project.shared else []),
        ]
        mark = f"  FINISHED: {project.finished}" if project.finished else ""
        lines += [f"  {project.pk}:{project.name}  {human(project.total)}{mark}", f"      {'; '.join(notes)}"]
        lines += [f"      {parts}"] if parts else []
    for kind, title in (
        ("versions", "old versions of models that can go"),
        ("export", "exports that can go"),
        ("orphan", "files that no row of the database knows"),
    ):
        found = sorted((item for item in removable if item.kind == kind), key=lambda item: (-item.size, item.name))
        lines += ["", f"{title}: {len(found)}, {human(sum(item.size for item in found))}"]
        lines += [f"  {item.name}  {human(item.size)}, {item.days} days, {item.reason}" for item in found[:SHOWN]]
        lines += [f"  ... and {len(found) - SHOWN} more: see the JSON"] if len(found) > SHOWN else []
    return lines
