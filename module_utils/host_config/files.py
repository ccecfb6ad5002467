"""Files, folders and links of a host: what differs from what is wanted, and how it becomes so.

Runs on hosts, with the standard library. A file is written beside its place, with its owner and mode from the start,
and renamed into place: no reader ever sees half of it, or a secret with the mode of another file. All files of a role
are written and validated before the first is renamed: where one cannot be, none has changed. Folders are found as
places.py says: an account whose folder is on the way leads root nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import shlex
import stat
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .places import PlaceError, Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    # Runs a command: words in, (status, output, errors) out.
    Run = Callable[[list[str]], tuple[int, str, str]]

#: Bytes of a file that a difference still shows.
SHOWN_BYTES = 1 << 20

#: Modes by state where none is named.
MODES = {"directory": "0755", "made": "0600"}

#: States of a file whose other lines stay, with its owner and its mode.
LINES = frozenset({"line", "without", "block"})


class FileError(RuntimeError):
    """A path cannot become what is wanted; the text is for people."""


@dataclass(frozen=True)
class WantedFile:
    """One path as it is wanted.

    Attributes:
        path: absolute.
        state: ``file``, ``directory``, ``link``, ``absent``; ``line``: a file that has ``content`` as a line;
            ``without``: a file that, where it is there, has no line that ``replaces`` finds; ``block``: a file that has
            ``content`` between two comments that ``replaces`` names; ``made``: a file that ``command`` makes where it
            is missing, or valid no more.
        content: text of a file; of a line without its end.
        replaces: text of lines that a line takes the place of; for ``without``, a regular expression; for ``block``,
            what its first and last line say behind ``# BEGIN`` and ``# END``.
        command: words of the command that makes the file.
        valid: words of a command that ends with 0 while what was made is valid; it changes nothing.
        target: where a link points to.
        owner: name or number. Default: root; for a line, that of the file.
        group: name or number. Default: root; for a line, that of the file.
        mode: octal, as text. Default: 0644; 0755 for a folder, 0600 for what a command makes; for a line, that of the
            file.
        secret: whether a difference hides the content.
        validate: command, with ``%s`` for the new file, that ends with 0 where the file is right.
        once: a file that is there stays as it is.
        existing: a folder that is missing stays so; a file whose folder is missing is not written.
        at: where it is reached, by the open folder that it lies in; found here.
        since: units and paths of which one is younger than this path once its handlers have run.
        pending: words of a command that prints what the units of ``since`` have not taken over of this path; it changes
            nothing, and one that fails says nothing.

    """

    path: str
    state: str = "file"
    content: str = ""
    replaces: str = ""
    command: Sequence[str] = ()
    valid: Sequence[str] = ()
    target: str = ""
    owner: str = ""
    group: str = ""
    mode: str = ""
    secret: bool = False
    validate: str = ""
    once: bool = False
    existing: bool = False
    at: str = ""
    since: Sequence[str] = ()
    pending: Sequence[str] = ()


@dataclass
class Change:
    """What became, or would become, of one path; ``before`` and ``after`` are for people."""

    path: str
    before: str = ""
    after: str = ""
    notes: list[str] = field(default_factory=list)
    #: The last step, which puts it in force.
    commit: Callable[[], object] = field(default=lambda: None, repr=False, compare=False)
    #: What was written beside it until then.
    beside: str = ""

    def diff(self) -> dict[str, Any]:
        """Return it as Ansible shows differences."""
        heads = "\n".join(self.notes)
        before, after = (f"{heads}\n" if heads and not self.after else ""), ""
        shown = {"before_header": self.path, "after_header": self.path}
        if self.before or self.after:
            return {**shown, "before": self.before, "after": self.after}
        return {**shown, "before": "", "after": before or after}


def account(name: str, table: Callable[[str], Any], key: str) -> int | None:
    """Return the number of a user or group, or None where the host does not know its name (yet)."""
    if name.isdigit():
        return int(name)
    try:
        return int(getattr(table(name), key))
    except KeyError:
        return None


def apply_all(wanted: Iterable[WantedFile], *, check: bool, run: Run) -> list[Change]:
    """Make paths what is wanted, in their order; with ``check`` only look. Answers what changes.

    Folders and what commands make come at once; files, links and removals once all of them are written and validated.

    Raises:
        FileError: a folder stands where a file is wanted or the other way round, the owner is unknown, the folder of a
            file is missing, a path is named twice, a command fails, or the validation refuses the new content.

    """
    changes: list[Change] = []
    seen = set()
    with Places() as places:
        try:
            for one in wanted:
                if one.path in seen:
                    raise FileError(f"{one.path} is named twice")
                seen.add(one.path)
                with _named(one.path):
                    change = prepare(one, places, check=check, run=run)
                if change is not None:
                    changes.append(change)
            for change in changes:
                with _named(change.path):
                    change.commit()
        except PlaceError as error:
            raise FileError(str(error)) from error
        finally:
            for change in changes:
                if change.beside:
                    Path(change.beside).unlink(missing_ok=True)
    return changes


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Say of an error of the system which path it is about, and not by which open folder it was reached."""
    try:
        yield
    except OSError as error:
        about = "" if "/proc/" in str(error) else f" ({error})"
        raise FileError(f"{path}: {error.strerror}{about}") from error


def prepare(wanted: WantedFile, places: Places, *, check: bool, run: Run) -> Change | None:
    """Write what a path is to become beside it; its ``commit`` puts that in force. None where all is right."""
    if wanted.state == "directory":
        return _folder(_with_defaults(wanted), places, check)
    at = places.entry(wanted.path)
    if at is None and (wanted.state in {"absent", "without"} or wanted.existing):
        return None
    if at is None and not check:
        folder = Path(wanted.path).parent
        raise FileError(f"{folder} is missing, so {wanted.path} cannot be written: name the folder before its files")
    wanted = _with_defaults(replace(wanted, at=at or wanted.path))
    if wanted.state == "absent":
        return _remove(wanted, check)
    if wanted.state == "link":
        return _link(wanted, check)
    if wanted.state == "made":
        return _made(wanted, check, run)
    return _file(wanted, check, run)


def _with_defaults(wanted: WantedFile) -> WantedFile:
    owner, group, mode = "root", "root", MODES.get(wanted.state, "0644")
    if wanted.state in LINES and (found := _status(wanted.at)) is not None:
        if not stat.S_ISREG(found.st_mode):
            raise FileError(f"{wanted.path} is no plain file, and its lines are looked at")
        owner, group, mode = str(found.st_uid), str(found.st_gid), f"{stat.S_IMODE(found.st_mode):04o}"
    return replace(wanted, owner=wanted.owner or owner, group=wanted.group or group, mode=wanted.mode or mode)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _remove(wanted: WantedFile, check: bool) -> Change | None:
    found = _status(wanted.at)
    if found is None:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise FileError(f"{wanted.path} is a folder and is not removed: only files and links are")
    change = Change(wanted.path, notes=["removed"])
    if not check:
        change.commit = Path(wanted.at).unlink
    return change


def _link(wanted: WantedFile, check: bool) -> Change | None:
    found = _status(wanted.at)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise FileError(f"{wanted.path} is a folder, and a link to {wanted.target} is wanted there")
    before = str(Path(wanted.at).readlink()) if found is not None and stat.S_ISLNK(found.st_mode) else ""
    if before == wanted.target:
        return None
    change = Change(wanted.path, f"-> {before}\n" if before else "", f"-> {wanted.target}\n")
    if not check:
        beside = Path(f"{wanted.at}.ansible-new")
        beside.unlink(missing_ok=True)
        beside.symlink_to(wanted.target)
        change.beside = str(beside)
        change.commit = lambda: beside.replace(wanted.at)
    return change


def _numbers(wanted: WantedFile, check: bool) -> tuple[int | None, int | None]:
    uid = account(wanted.owner, pwd.getpwnam, "pw_uid")
    gid = account(wanted.group, grp.getgrnam, "gr_gid")
    if not check:
        for name, number in ((wanted.owner, uid), (wanted.group, gid)):
            if number is None:
                raise FileError(f"{wanted.path} is meant to belong to {name}, whom this host does not know")
    return uid, gid


def _rights(wanted: WantedFile, found: os.stat_result | None, numbers: tuple[int | None, int | None]) -> list[str]:
    """Name what differs of owner, group and mode."""
    if found is None:
        return []
    uid, gid = numbers
    notes = []
    if uid is None or found.st_uid != uid:
        notes.append(f"owner {found.st_uid} -> {wanted.owner}")
    if gid is None or found.st_gid != gid:
        notes.append(f"group {found.st_gid} -> {wanted.group}")
    if stat.S_IMODE(found.st_mode) != int(wanted.mode, 8):
        notes.append(f"mode {stat.S_IMODE(found.st_mode):04o} -> {wanted.mode}")
    return notes


def _folder(wanted: WantedFile, places: Places, check: bool) -> Change | None:
    handle = places.folder(wanted.path)
    if handle is None and wanted.existing:
        return None
    numbers = _numbers(wanted, check)
    notes = _rights(wanted, os.fstat(handle), numbers) if handle is not None else []
    if handle is not None and not notes:
        return None
    if not check:
        # Those above it as well, with the system's rights for them.
        _give_open(places.made_folder(wanted.path), wanted, numbers)
    return Change(wanted.path, notes=notes or ["folder made"])


def _give(wanted: WantedFile, numbers: tuple[int | None, int | None]) -> None:
    """Set owner, group and mode of a file, and not of what a link leads to."""
    handle = os.open(wanted.at, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        _give_open(handle, wanted, numbers)
    finally:
        os.close(handle)


def _give_open(handle: int, wanted: WantedFile, numbers: tuple[int | None, int | None]) -> None:
    uid, gid = numbers
    os.fchown(handle, -1 if uid is None else uid, -1 if gid is None else gid)
    os.fchmod(handle, int(wanted.mode, 8))


def _made(wanted: WantedFile, check: bool, run: Run) -> Change | None:
    found = _status(wanted.at)
    numbers = _numbers(wanted, check)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise FileError(f"{wanted.path} is no file, and one is wanted there")
    wrong = found is None or (bool(wanted.valid) and run(list(wanted.valid))[0] != 0)
    notes = [f"made by {wanted.command[0]}"] if wrong else _rights(wanted, found, numbers)
    if not notes:
        return None
    if not check:
        if wrong:
            status, output, errors = run(list(wanted.command))
            if status != 0:
                raise FileError(f"{wanted.path} is not made: {wanted.command[0]} says {(errors or output).strip()}")
        _give(wanted, numbers)
    return Change(wanted.path, notes=notes)


def _read(at: str) -> str:
    handle = os.open(at, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(handle, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _text(wanted: WantedFile, before: str) -> str:
    if wanted.state not in LINES:
        return wanted.content
    lines = before.splitlines()
    if wanted.state == "block":
        return _with_block(wanted, lines)
    if wanted.state == "without":
        kept = [line for line in lines if not re.search(wanted.replaces, line)]
        return before if kept == lines else "".join(f"{line}\n" for line in kept)
    kept = [line for line in lines if line == wanted.content or not wanted.replaces or wanted.replaces not in line]
    if kept == lines and wanted.content in lines:
        return before
    if wanted.content not in kept:
        # In the place of the first that it replaces, or else at the end.
        place = next((number for number, line in enumerate(lines) if line not in kept), len(kept))
        kept.insert(place, wanted.content)
    return "\n".join(kept) + "\n"


def _with_block(wanted: WantedFile, lines: list[str]) -> str:
    """Return a file with its block, in the place of the one that is there, or at the end.

    Raises:
        FileError: one of its two comments is missing.

    """
    first, last = f"# BEGIN {wanted.replaces}", f"# END {wanted.replaces}"
    start = end = len(lines)
    if first in lines or last in lines:
        try:
            start = lines.index(first)
            end = lines.index(last, start) + 1
        except ValueError:
            raise FileError(
                f"{wanted.path} has only one of the lines '{first}' and '{last}': take it out with what is its own"
            ) from None
    return "\n".join([*lines[:start], first, *wanted.content.splitlines(), last, *lines[end:]]) + "\n"


def _put(beside: str, at: str) -> None:
    """Put a file in force by one step, or, where its place is a mount (/etc/hosts of a container), by writing to it."""
    try:
        Path(beside).replace(at)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        Path(at).write_bytes(Path(beside).read_bytes())


def _file(wanted: WantedFile, check: bool, run: Run) -> Change | None:
    found = _status(wanted.at)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise FileError(f"{wanted.path} is a folder, and a file is wanted there")
    if found is None and wanted.state == "without":
        return None
    plain = found is not None and stat.S_ISREG(found.st_mode)
    before = _read(wanted.at) if plain else ""
    after = before if plain and wanted.once else _text(wanted, before)
    numbers = _numbers(wanted, check)
    notes = _rights(wanted, found, numbers) if plain else []
    if plain and before == after and not notes:
        return None
    change = Change(wanted.path, notes=notes)
    if not plain or before != after:
        beside = _write(wanted, after, numbers, check, run)
        if beside:
            change.beside = beside
            change.commit = lambda: _put(beside, wanted.at)
    elif not check:
        change.commit = lambda: _give(wanted, numbers)
    if before != after or not plain:
        if wanted.secret:
            change.notes.append("content changed (it holds a secret)")
        elif max(len(before), len(after)) > SHOWN_BYTES:
            change.notes.append("content changed (too long to show)")
        else:
            change.before, change.after = before, after
            if not after:
                change.notes.append("emptied" if before else "empty file made")
    return change


def _write(
    wanted: WantedFile,
    text: str,
    numbers: tuple[int | None, int | None],
    check: bool,
    run: Run,
) -> str:
    """Write and validate a file beside its place; answers where, or nothing where it is not to be put in force."""
    if check and not wanted.validate:
        return ""
    # Beside the file, so that the renaming is one step; of a dry run nothing stays on the host.
    handle, beside = tempfile.mkstemp(prefix=".ansible-", dir=None if check else Path(wanted.at).parent)
    ready = False
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            if not check:
                _give_open(handle, wanted, numbers)
        if wanted.validate:
            _validate(wanted, beside, check, run)
        ready = not check
    finally:
        if not ready:
            Path(beside).unlink(missing_ok=True)
    return beside if ready else ""


def _validate(wanted: WantedFile, beside: str, check: bool, run: Run) -> None:
    words = [word.replace("%s", beside) for word in shlex.split(wanted.validate)]
    try:
        status, output, errors = run(words)
    except FileNotFoundError:
        if check:
            return  # a bare host has no such program yet
        raise
    if status != 0:
        reason = "its words may hold the secret" if wanted.secret else (errors or output).strip()
        raise FileError(f"{wanted.path} stays as it is: {words[0]} refuses the new one: {reason}")
