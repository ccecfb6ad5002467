"""What a new storage host gets from a target elsewhere: the backups of the database, packed releases and secrets.

A host that has backups or media is refused. What was begun is noted, so that a run that was cut off is gone on with;
the note goes when all is restored (playbooks/rebuild.yml).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .files import MediaError, day, write_whole
from .locks import REPOSITORY
from .restic import DATABASE, Restic, Snapshot, in_order
from .work import has_backups

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Name of the note, among the reports.
NOTE: Final = "rebuild.json"
#: Room beside what comes back that has to stay free. Unit: bytes
SPARE: Final = 1 << 30


def occupied(backups: Path, media: Path) -> list[str]:
    """Return what a host has that nothing may be brought beside: backups of a database, files of media."""
    found = [f"backups in {backups / REPOSITORY}"] if has_backups(backups) else []
    for folder, _, names in os.walk(media):
        if names:
            return [*found, f"files in {media}, such as {Path(folder, names[0]).relative_to(media)}"]
    return found


def read_note(reports: Path) -> dict[str, Any]:
    """Return what an unfinished run has noted; nothing where there was none."""
    path = reports / NOTE
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def unreached(restic: Restic) -> str:
    """Return why a target cannot be opened, with what helps; empty where it can."""
    found, said = restic.identity()
    if found:
        return ""
    name, key = restic.target["name"], restic.secret("key.pub")
    words = f"the copies at {name} cannot be opened: {said[-500:]}"
    if restic.target["type"] == "sftp" and key.exists():
        place = f"{restic.target['user']}@{restic.target['host']}"
        words += f" This host has a new key. Let it in at {place}, in .ssh/authorized_keys: restrict {key.read_text()}"
        words = f"{words.strip()} Then repeat the same command"
    return words


def chosen(restic: Restic, moment: float) -> Snapshot:
    """Return the newest copy of the database's backups that is not younger than a moment.

    Raises:
        MediaError: there is none.

    """
    every = restic.snapshots(DATABASE)
    found = [one for one in in_order(every, moment) if one.made <= moment]
    if not found:
        oldest = day(min((one.made for one in every), default=0))
        raise MediaError(
            f"there is no copy of the database's backups at {restic.target['name']} of before {day(moment)}; "
            f"the oldest: {oldest}"
        )
    return found[0]


def bring_database(settings: Mapping[str, Any], restic: Restic, reports: Path, moment: float) -> dict[str, Any]:
    """Bring the backups of the database and what lies with them to where there are none; answers what was done.

    Raises:
        MediaError: there are some already, the target cannot be opened, or has none, or there is no room.

    """
    backups, media, target = Path(settings["backups"]), Path(settings["media"]), restic.target["name"]
    note = read_note(reports)
    if note.get("brought"):
        return {**note, "again": True}
    there = [] if note else occupied(backups, media)
    if there:
        raise MediaError(f"this host has {' and '.join(there)}: nothing was changed")
    if problem := unreached(restic):
        raise MediaError(problem)
    snapshot = chosen(restic, moment)
    began = time.time()
    note = {"target": target, "snapshot": snapshot.name[:8], "made": round(snapshot.made)}
    write_whole(reports / NOTE, json.dumps(note) + "\n")
    size = int(json.loads(restic.ask("--no-lock", "stats", "--json", snapshot.name))["total_size"])
    with _room(restic, Path(settings["scratch"])) as place:
        free = shutil.disk_usage(place).free
        if free < size + SPARE:
            raise MediaError(f"{backups} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB come back")
        restic.ask("--no-lock", "restore", snapshot.name, "--target", str(place), "--verify")
        # From here on it is root's: who has read the target changes nothing any more.
        os.chown(place, os.geteuid(), os.getegid())
        _put(place, backups)
    took = time.time() - began
    note |= {"brought": True, "bytes": size, "seconds": round(took, 1)}
    write_whole(reports / NOTE, json.dumps(note) + "\n")
    return {**note, "again": False}


@contextlib.contextmanager
def _room(restic: Restic, scratch: Path) -> Iterator[Path]:
    """Yield a new folder of the account's, on the disk of the backups, and take it away with all that is left there."""
    place = scratch / "rebuild"
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(mode=0o700)
    try:
        restic.give(place)
        yield place
    finally:
        shutil.rmtree(place)


def _put(place: Path, backups: Path) -> None:
    """Put what came back in its places. The repository comes last: where it is, all is. Nothing that is there goes."""
    for part in sorted(place.iterdir(), key=lambda path: path.name == REPOSITORY):
        target = backups / part.name
        owner = target.stat()
        _give(part, owner.st_uid, owner.st_gid)
        if part.name != REPOSITORY:
            for entry in part.iterdir():
                if not os.path.lexists(target / entry.name):
                    entry.rename(target / entry.name)
            continue
        if any(target.iterdir()):
            target.rename(target.with_name(f"{REPOSITORY}-before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"))
        part.rename(target)


def _give(tree: Path, uid: int, gid: int) -> None:
    """Give a tree to an account; links themselves, and not what they lead to."""
    for _, folders, names, handle in os.fwalk(tree):
        for name in (*folders, *names):
            os.chown(name, uid, gid, dir_fd=handle, follow_symlinks=False)
        os.fchown(handle, uid, gid)
