"""Folders of a host, found without following a link that a lesser account may have put there.

Runs on hosts, as root, with the standard library. What lies in a folder of another account may change its name, or
become a link, between two looks. So each folder is opened from the one above it, and what lies in it is reached by the
open folder from then on. A link counts where only root can have put it: /var/run, or what an administrator has moved.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

#: Links on the way to one folder, as the kernel bounds them.
MOST_LINKS = 40


class PlaceError(RuntimeError):
    """A folder cannot be reached; the text is for people."""


class Places:
    """Folders that are open, by their paths."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def folder(self, path: str) -> int | None:
        """Return a folder, or None where it is missing.

        Raises:
            PlaceError: something else stands there, or a link on the way may be of another account.

        """
        if path not in self._open:
            handle = _walk(path, make=False)
            if handle is None:
                return None
            self._open[path] = handle
        return self._open[path]

    def made_folder(self, path: str) -> int:
        """Return a folder; it, and those above it, are made where they are missing.

        Raises:
            PlaceError: as for ``folder``.

        """
        if path not in self._open:
            handle = _walk(path, make=True)
            if handle is None:
                raise PlaceError(f"{path} is gone while it was made")
            self._open[path] = handle
        return self._open[path]

    def entry(self, path: str) -> str | None:
        """Return a name for what lies in a folder that means the same whatever becomes of the folders' names.

        None where the folder is missing. Programs that this process starts as root can use the name too.
        """
        place = PurePosixPath(path)
        handle = self.folder(str(place.parent))
        return None if handle is None else f"/proc/{os.getpid()}/fd/{handle}/{place.name}"


def _walk(path: str, *, make: bool) -> int | None:
    """Open a folder from the root of the tree downwards."""
    names, links, handle = deque(PurePosixPath(path).parts), 0, -1
    with contextlib.ExitStack() as opened:
        while names:
            name = names.popleft()
            found = None if name == "/" else _entry(name, handle)
            if found is not None and stat.S_ISLNK(found.st_mode):
                links += 1
                names.extendleft(reversed(_target(path, name, handle, links)))
                continue
            if found is None and name != "/":
                if not make:
                    return None
                os.mkdir(name, 0o755, dir_fd=handle)
            handle = _open(path, name, handle)
            opened.callback(os.close, handle)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)


def _open(path: str, name: str, folder: int) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError as error:
        raise PlaceError(f"{path} is not a folder, and one is wanted there") from error


def _target(path: str, name: str, folder: int, links: int) -> tuple[str, ...]:
    """Return the names that a link stands for; with the root of the tree before them where it is absolute."""
    if links > MOST_LINKS or not _is_ours(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(folder)):
        raise PlaceError(f"{path}: {name} on the way is a link that another account may have put there")
    return PurePosixPath(os.readlink(name, dir_fd=folder)).parts


def _entry(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_ours(link: os.stat_result, folder: os.stat_result) -> bool:
    """Whether nobody but root, or who runs this, can have put a link where it is."""
    trusted = {0, os.geteuid()}
    return link.st_uid in trusted and folder.st_uid in trusted and not folder.st_mode & 0o022
