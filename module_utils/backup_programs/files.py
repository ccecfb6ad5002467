"""Files that backups read, and that come back: no link leads root anywhere, and no file is seen before it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: What a folder gets whose own mode is not known.
FOLDER_MODE: Final = 0o755


class MediaError(Exception):
    """Files cannot be copied or brought back; the message says why."""


@dataclass(frozen=True)
class Account:
    """An account by its numbers."""

    uid: int
    gid: int


def run(*arguments: str) -> str:
    """Run a program, answer what it prints.

    Raises:
        MediaError: it failed.

    """
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd="/")
    if done.returncode != 0:
        raise MediaError(f"{' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


def day(moment: float) -> str:
    """Return a moment (seconds since 1970) as people read it; 0 is never."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment)) if moment else "never"


def clean_name(name: str) -> str:
    """Return the name of a file below the media.

    Raises:
        MediaError: it leads out of them.

    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise MediaError(f"{name!r} is no name of a file below the media folder")
    return str(path)


@contextlib.contextmanager
def open_folder(tree: Path, names: Sequence[str], like: int | None = None) -> Iterator[int]:
    """Open a folder below a tree without following a link; with ``like``, another tree, make what is missing."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    with contextlib.ExitStack() as opened:
        folder = os.open(tree, flags)
        opened.callback(os.close, folder)
        for name in names:
            if like is not None:
                like = os.open(name, flags, dir_fd=like)
                opened.callback(os.close, like)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
                    os.chmod(name, stat.S_IMODE(os.fstat(like).st_mode), dir_fd=folder)
            folder = os.open(name, flags, dir_fd=folder)
            opened.callback(os.close, folder)
        yield folder


def open_below(folder: Path, name: str) -> BinaryIO | None:
    """Open a plain file below a folder; None where there is none, or a link is on the way, which may lead elsewhere."""
    *parents, last = PurePosixPath(name).parts
    with contextlib.suppress(OSError), open_folder(folder, parents) as place:
        handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
    return None


def digest_of(content: BinaryIO) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step: nobody ever reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink()
        raise


@contextlib.contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Act as another account: a link that it has put somewhere leads no further than it may go itself."""
    before, groups = Account(os.geteuid(), os.getegid()), os.getgroups()
    if before == account:
        yield
        return
    os.setgroups([])
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(before.uid)
        os.setegid(before.gid)
        os.setgroups(groups)


def missing_folders(target: Path, source: Path, media: Path) -> list[tuple[Path, int]]:
    """Return the folders that a file needs and that are not there, the outermost first, with the modes they had."""
    found = []
    while target != media and not target.is_dir():
        known = source.is_dir() and not source.is_symlink()
        found.append((target, stat.S_IMODE(source.stat().st_mode) if known else FOLDER_MODE))
        target, source = target.parent, source.parent
    return found[::-1]


def write_new(content: BinaryIO, target: Path, folders: Sequence[tuple[Path, int]], owner: Account) -> None:
    """Write one file, which is open, to where there is none, as its owner; ``folders`` are made with these modes.

    It gets its name when it is whole, and only if nobody has made one of that name meanwhile.
    """
    status = os.fstat(content.fileno())
    with acting_as(owner):
        for folder, mode in folders:
            folder.mkdir(exist_ok=True)
            folder.chmod(mode | 0o700)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".recover-")
        try:
            with os.fdopen(handle, "wb") as stream:
                shutil.copyfileobj(content, stream, 1 << 20)
                stream.flush()
                os.fchmod(stream.fileno(), stat.S_IMODE(status.st_mode) & 0o777)
                os.fsync(stream.fileno())
            os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.link(partial, target)
        finally:
            os.unlink(partial)  # noqa: PTH108 - a name, not a path object
