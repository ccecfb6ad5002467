#!/usr/bin/python3
"""Takes the media of eScriptorium back to a moment, where they lie on a ZFS dataset. Nothing is destroyed.

    restore-media DATASET SECONDS [--dry-run]

SECONDS is the moment, since 1970. The newest snapshot that is not younger becomes a new dataset in the place of the
old one, which stays under another name (DATASET-before-<time>) and is not mounted. Files that were written after the
snapshot and not after the moment are copied from it. Prints the result as JSON. Runs as root, needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Run = Callable[..., str]

#: Own properties of a dataset that a clone gets otherwise, or must not have at first.
NOT_COPIED: Final = frozenset({"mountpoint", "canmount"})


class MediaError(Exception):
    """The media cannot be taken back; the message says why."""


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


def run(*arguments: str) -> str:
    """Run a program, answer what it prints.

    Raises:
        MediaError: it failed.

    """
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd="/")
    if done.returncode != 0:
        raise MediaError(f"{' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


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
    """Copy files that were written up to a moment from the old tree into the new one.

    Returns how many were ``copied``, and how many ``stay_older``: the snapshot has an older state of them, and what
    they were at the moment is overwritten since.
    """
    counts = {"copied": 0, "stay_older": 0}
    for change in changes:
        if change.kind == "-":
            continue
        old = Path(change.path)
        # The time of the content: other changes of a file (its mode, its links) have no say.
        if not old.is_file() or old.is_symlink():
            continue
        new = target / old.relative_to(source)
        if old.stat().st_mtime > moment:
            counts["stay_older"] += new.exists()
            continue
        _make_folders(old.parent, new.parent)
        shutil.copy2(old, new)
        os.chown(new, old.stat().st_uid, old.stat().st_gid)
        counts["copied"] += 1
    return counts


def _make_folders(old: Path, new: Path) -> None:
    """Make a folder with the owner and the mode that it has in the old tree, and those above it."""
    if new.is_dir():
        return
    _make_folders(old.parent, new.parent)
    status = old.stat()
    new.mkdir(mode=status.st_mode & 0o7777)
    os.chown(new, status.st_uid, status.st_gid)


def own_properties(shown: str) -> list[str]:
    """Return the properties of `zfs get -Hp -s local,received -o property,value all` as options of `zfs clone`."""
    rows = (line.split("\t", 1) for line in shown.splitlines() if line)
    options = []
    for name, value in rows:
        if name not in NOT_COPIED and "@" not in name:
            options += ["-o", f"{name}={value}"]
    return options


def restore(dataset: str, moment: float, *, dry_run: bool = False, now: float, run: Run = run) -> dict[str, Any]:
    """Put the state of a moment in the place of a dataset; answers what was done.

    Raises:
        MediaError: it cannot be done; the dataset is in its place then.

    """
    listed = run("zfs", "list", "-Hp", "-t", "snapshot", "-o", "name,creation", "-d", "1", dataset)
    snapshot = choose(parse_snapshots(listed), moment)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    new, before = f"{dataset}-restored-{stamp}", f"{dataset}-before-{stamp}"
    result: dict[str, Any] = {"snapshot": snapshot.name, "created": snapshot.created, "before": before}
    if dry_run:
        return result
    place, source = run("zfs", "get", "-Hp", "-o", "value,source", "mountpoint", dataset).strip().split("\t")
    scratch = f"{place}-restored-{stamp}"
    options = own_properties(run("zfs", "get", "-Hp", "-s", "local,received", "-o", "property,value", "all", dataset))
    run("zfs", "clone", *options, "-o", f"mountpoint={scratch}", snapshot.name, new)
    try:
        changes = parse_diff(run("zfs", "diff", "-FHt", snapshot.name, dataset))
        result |= copy_changes(changes, Path(place), Path(scratch), moment)
        # The kernel's NFS server keeps the dataset busy by what it remembers of its clients.
        if shutil.which("exportfs"):
            run("exportfs", "-f")
        run("zfs", "unmount", dataset)
    except (MediaError, OSError) as error:
        run("zfs", "destroy", new)
        run("zfs", "mount", "-a")
        raise MediaError(f"the media are as they were: {error}") from error
    # From here on a step that fails says which one it was; nothing is lost, and `zfs rename` puts all back.
    run("zfs", "set", "canmount=noauto", dataset)
    run("zfs", "rename", dataset, before)
    run("zfs", "unmount", new)
    run("zfs", "rename", new, dataset)
    if source == "local":
        run("zfs", "set", f"mountpoint={place}", dataset)
    else:
        run("zfs", "inherit", "mountpoint", dataset)
    # So that the old one depends on the new one, and can go one day.
    run("zfs", "promote", dataset)
    if not os.path.ismount(place):
        run("zfs", "mount", dataset)
    if shutil.which("exportfs"):
        run("exportfs", "-ra")
    return result


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


if __name__ == "__main__":
    sys.exit(main())
