"""Folders that hosts get as they are: which files these are, what names their content, and how they are written."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Hexadecimal digits of a name by content.
ID_DIGITS = 12
#: Where root's shell and units find programs.
PROGRAMS = "/usr/local/sbin"


def files_below(root: str, folders: Sequence[str]) -> list[str]:
    """Return all files below folders of ``root``, by their paths from there, sorted; not what Python compiled.

    Raises:
        ValueError: a folder has no file.

    """
    found = []
    for folder in folders:
        names = [
            path.relative_to(root).as_posix()
            for path in Path(root, folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
        if not names:
            raise ValueError(f"{root}/{folder} has no files")
        found += names
    return sorted(found)


def content_id(root: str, names: Sequence[str]) -> str:
    """Return a name for the content of files: another one where any of them, its path or its right to run, differs."""
    digest = hashlib.sha256()
    for name in names:
        path = Path(root, name)
        for part in (name.encode(), _mode(path).encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:ID_DIGITS]


def entries(root: str, names: Sequence[str], target: str) -> list[dict[str, Any]]:
    """Return the files as the action ``host_config`` takes them, with the folders that they need before them."""
    folders = {PurePosixPath(target)}
    for name in names:
        folders |= {PurePosixPath(target, parent) for parent in PurePosixPath(name).parents}
    return [
        *({"path": str(folder), "state": "directory", "mode": "0755"} for folder in sorted(folders)),
        *(
            {"path": f"{target}/{name}", "source": str(Path(root, name)), "mode": _mode(Path(root, name))}
            for name in names
        ),
    ]


def programs(root: str, names: Sequence[str], target: str) -> list[dict[str, Any]]:
    """Return programs of ``root`` beside the packages that they import, and the links by which a shell finds them."""
    found: list[dict[str, Any]] = []
    for name in names:
        found.append({"path": f"{target}/{name}", "source": str(Path(root, name)), "mode": "0755"})
        found.append({"path": f"{PROGRAMS}/{name}", "state": "link", "target": f"{target}/{name}"})
    return found


def _mode(path: Path) -> str:
    return "0755" if path.stat().st_mode & 0o100 else "0644"
