"""Takes the media of eScriptorium back to a moment, where they lie on a ZFS dataset. Nothing is destroyed.

    restore-media DATASET SECONDS [--dry-run]

SECONDS is the moment, since 1970. The newest snapshot that is not younger becomes a new dataset in the place of the
old one, which stays under another name (DATASET-before-<time>) and is not mounted. Files that were written after the
snapshot and not after the moment are copied from it, as the owner of the media, and no link is followed on the way. A
run that was cut off while the datasets changed places is finished by the next one, before anything else; for the same
moment nothing more is done then. Prints the result as JSON. Runs as root, needs nothing but Python.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Final

from .files import Account, MediaError, acting_as, open_folder, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Run = Callable[..., str]

#: Property of the new dataset until it is in its place: the moment, and what the names of this restore end with.
MARK: Final = "escriptorium:restoring"
#: Own properties of a dataset that a clone gets otherwise, or must not have at first.
NOT_COPIED: Final = frozenset({"mountpoint", "canmount", MARK})
#: What a file says that cannot be copied because of what it is, or of what stands in its way.
IN_THE_WAY: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOENT})


@dataclass(frozen=True)
class Snapshot:
    """A snapshot: full name, and when it was made (seconds since 1970)."""

    name: str
    created: int


@dataclass(frozen=True)
class Change:
    """One line of `zfs diff`: when, what (+ new, M modified, - removed, R renamed) and the path it has now."""

    moment: float
    kind: str
    path: str


def parse_snapshots(listed: str) -> list[Snapshot]:
    """Return the snapshots of `zfs list -Hp -t snapshot -o name,creation`, the oldest first."""
    rows = (line.split("\t") for line in listed.splitlines() if line)
    return sorted((Snapshot(name, int(created)) for name, created in rows), key=lambda snapshot: snapshot.created)


def choose(snapshots: Iterable[Snapshot], moment: float) -> Snapshot:
    """Return the newest snapshot that is not younger than a moment.

    Raises:
        MediaError: there is none.

    """
    old_enough = [snapshot for snapshot in snapshots if snapshot.created <= moment]
    if not old_enough:
        raise MediaError(
            "there is no snapshot of the media from before that moment: they can stay as they are "
            "(restore_media=false), or take another moment"
        )
    return max(old_enough, key=lambda snapshot: snapshot.created)


def unescape(path: str) -> str:
    """Return the path that `zfs diff` wrote: bytes beyond printable ASCII are a backslash and octal digits there."""
    raw = re.sub(rb"\\0?([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path.encode())
    return os.fsdecode(raw)


def parse_diff(shown: str) -> Iterator[Change]:
    """Yield what `zfs diff -FHt` tells about files; folders and links are no media."""
    for line in shown.splitlines():
        moment, kind, sort, path, *renamed = line.split("\t")
        if sort == "F":
            yield Change(float(moment), kind, unescape(renamed[0] if renamed else path))


def copy_changes(changes: Iterable[Change], source: Path, target: Path, moment: float) -> dict[str, int]:
    """Copy files that were written up to a moment from the old tree into the new one, as the owner of the old one.

    Returns how many were ``copied``; how many ``stay_older``: the snapshot has an older state of them, and what they
    were at the moment is overwritten since; and how many were ``left_out``: their owner may not read or write them, or
    a link is in the way.
    """
    counts = {"copied": 0, "stay_older": 0, "left_out": 0}
    owner = source.stat()
    with acting_as(Account(owner.st_uid, owner.st_gid)):
        for change in changes:
            if change.kind == "-":
                continue
            try:
                done = _copy_change(PurePosixPath(change.path).relative_to(source).parts, source, target, moment)
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise
                done = "left_out"
            if done:
                counts[done] += 1
    return counts


def _copy_change(names: tuple[str, ...], source: Path, target: Path, moment: float) -> str:
    """Copy one file; answers what was done, nothing where it is none any more."""
    *folders, name = names
    with open_folder(source, folders) as old, open_folder(source, ()) as top:
        if not stat.S_ISREG(os.stat(name, dir_fd=old, follow_symlinks=False).st_mode):
            return ""
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=old)
        with os.fdopen(handle, "rb") as content:
            status = os.fstat(handle)
            # The time of the content: other changes of a file (its mode, its links) have no say.
            if status.st_mtime > moment:
                return "stay_older" if _is_there(target, names) else ""
            with open_folder(target, folders, like=top) as new:
                _write(content, status, new, name)
    return "copied"


def _is_there(tree: Path, names: tuple[str, ...]) -> bool:
    """Whether a tree has a file of this name."""
    *folders, name = names
    try:
        with open_folder(tree, folders) as folder:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _write(content: IO[bytes], status: os.stat_result, folder: int, name: str) -> None:
    """Write a file beside its place, with its mode and its times, and put it there."""
    beside = f".restored-{os.getpid()}"
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            shutil.copyfileobj(content, stream, 1 << 20)
            stream.flush()
            os.fchmod(handle, stat.S_IMODE(status.st_mode) & 0o777)
            os.utime(handle, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(beside, dir_fd=folder)
        raise


def own_properties(shown: str) -> list[str]:
    """Return the properties of `zfs get -Hp -s local,received -o property,value all` as options of `zfs clone`."""
    rows = (line.split("\t", 1) for line in shown.splitlines() if line)
    options = []
    for name, value in rows:
        if name not in NOT_COPIED and "@" not in name:
            options += ["-o", f"{name}={value}"]
    return options


def is_mounted(dataset: str, run: Run) -> bool:
    """Whether a dataset is where its files are seen."""
    return run("zfs", "get", "-H", "-o", "value", "mounted", dataset).strip() == "yes"


def marked(dataset: str, run: Run) -> dict[str, str]:
    """Return the marks of a dataset and of those beside it, by name; empty ones of those without."""
    listed = run("zfs", "list", "-H", "-t", "filesystem", "-o", f"name,{MARK}", "-d", "1", dataset.rpartition("/")[0])
    rows = (line.split("\t") for line in listed.splitlines())
    return {name: "" if mark == "-" else mark for name, mark in rows}


def finish(dataset: str, run: Run) -> tuple[float, str] | None:
    """Finish what a run that was cut off has begun; answers its moment and the end of its names, None where none was.

    Where the datasets had not begun to change places the old one is there, and the new one goes: it was never in use.

    Raises:
        MediaError: a step fails, or the dataset is not there.

    """
    marks = marked(dataset, run)
    begun = {name: mark for name, mark in marks.items() if mark and name.startswith(f"{dataset}-restored-")}
    if dataset in marks:
        for name in begun:
            run("zfs", "destroy", name)
            run("zfs", "set", "canmount=on", dataset)
            if not is_mounted(dataset, run):
                run("zfs", "mount", dataset)
        begun = {dataset: marks[dataset]}
        if not marks[dataset]:
            return None
    if not begun:
        raise MediaError(f"there is no dataset {dataset}")
    moment, stamp = begun.popitem()[1].split()
    change_places(dataset, stamp, run)
    return float(moment), stamp


def change_places(dataset: str, stamp: str, run: Run) -> None:
    """Put the new dataset in the place of the old one. A run that was cut off at any step is finished the same way.

    Raises:
        MediaError: a step fails, and says which; nothing is lost.

    """
    new, before = f"{dataset}-restored-{stamp}", f"{dataset}-before-{stamp}"
    names = marked(dataset, run)
    if before not in names:
        run("zfs", "set", "canmount=noauto", dataset)
        run("zfs", "rename", dataset, before)
    if new in names:
        if is_mounted(new, run):
            run("zfs", "unmount", new)
        run("zfs", "rename", new, dataset)
    place, source = run("zfs", "get", "-Hp", "-o", "value,source", "mountpoint", before).strip().split("\t")
    if source == "local":
        run("zfs", "set", f"mountpoint={place}", dataset)
    else:
        run("zfs", "inherit", "mountpoint", dataset)
    # So that the old one depends on the new one, and can go one day.
    if run("zfs", "get", "-H", "-o", "value", "origin", dataset).strip() != "-":
        run("zfs", "promote", dataset)
    if not is_mounted(dataset, run):
        run("zfs", "mount", dataset)
    run("zfs", "inherit", MARK, dataset)


def restore(dataset: str, moment: float, *, dry_run: bool = False, now: float, run: Run = run) -> dict[str, Any]:
    """Put the state of a moment in the place of a dataset; answers what was done.

    Raises:
        MediaError: it cannot be done; the dataset is in its place then, or the next run puts it there.

    """
    finished = None if dry_run else finish(dataset, run)
    again = finished is not None and finished[0] == moment
    listed = run("zfs", "list", "-Hp", "-t", "snapshot", "-o", "name,creation", "-d", "1", dataset)
    snapshot = choose(parse_snapshots(listed), moment)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    if finished and again:
        stamp = finished[1]
    before = f"{dataset}-before-{stamp}"
    result: dict[str, Any] = {"snapshot": snapshot.name, "created": snapshot.created, "before": before}
    if dry_run:
        return result
    result |= {"finished": again, "copied": 0, "stay_older": 0, "left_out": 0}
    if not again:
        result |= _fill(dataset, stamp, snapshot, moment, run)
        change_places(dataset, stamp, run)
    if shutil.which("exportfs"):
        run("exportfs", "-ra")
    return result


def _fill(dataset: str, stamp: str, snapshot: Snapshot, moment: float, run: Run) -> dict[str, int]:
    """Make the new dataset with what it is to hold, and unmount the old one; answers what was copied.

    Raises:
        MediaError: it cannot be done; the old dataset is as it was, and the new one is gone.

    """
    if not is_mounted(dataset, run):
        raise MediaError(f"{dataset} is not mounted: zfs mount {dataset}")
    place = run("zfs", "get", "-Hp", "-o", "value", "mountpoint", dataset).strip()
    new, scratch = f"{dataset}-restored-{stamp}", f"{place}-restored-{stamp}"
    options = own_properties(run("zfs", "get", "-Hp", "-s", "local,received", "-o", "property,value", "all", dataset))
    run("zfs", "clone", *options, "-o", f"{MARK}={moment} {stamp}", "-o", f"mountpoint={scratch}", snapshot.name, new)
    try:
        changes = parse_diff(run("zfs", "diff", "-FHt", snapshot.name, dataset))
        counts = copy_changes(changes, Path(place), Path(scratch), moment)
        # The kernel's NFS server keeps the dataset busy by what it remembers of its clients.
        if shutil.which("exportfs"):
            run("exportfs", "-f")
        run("zfs", "unmount", dataset)
    except (MediaError, OSError) as error:
        run("zfs", "destroy", new)
        run("zfs", "mount", "-a")
        raise MediaError(f"the media are as they were: {error}") from error
    return counts


def main() -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="restore-media", description="Take the media back to a moment.")
    parser.add_argument("dataset", help="for instance tank/escriptorium/media")
    parser.add_argument("moment", type=float, help="seconds since 1970")
    parser.add_argument("--dry-run", action="store_true", help="only say which snapshot it would be")
    options = parser.parse_args()
    try:
        result = restore(options.dataset, options.moment, dry_run=options.dry_run, now=time.time())
    except (MediaError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0
