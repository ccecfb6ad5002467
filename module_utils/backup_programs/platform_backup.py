"""Makes a backup of the platform: database, a snapshot of the media where they lie on ZFS, and the packed releases.

    platform-backup full|diff|incr [--release NAME]

The database comes first and the media after it, so that each file that a restored database names is there. Then the
log of changes is switched: from that moment on, both can be restored together. A record of what belongs together is
kept beside the backups (records/LABEL.json), and monitoring finds the result in a text file. Runs as root, needs
nothing but Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, Final

from .files import write_whole
from .locks import InUseError, backups_held

SETTINGS: Final = Path("/etc/pgbackrest/backup.json")
#: Snapshots of this program; others on the same dataset are left alone.
SNAPSHOT_PREFIX: Final = "backup-"
#: A packed release is no larger; its bytes are those of some 3 GB. Unit: bytes
LARGEST_RELEASE: Final = 20 << 30


class BackupError(Exception):
    """No backup could be made; the message says why."""


def run(*arguments: str, user: str | None = None) -> str:
    """Run a program, answer what it prints.

    Raises:
        BackupError: it failed, with the end of what it said.

    """
    command = [*(("runuser", "-u", user, "--") if user else ()), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
    if done.returncode != 0:
        said = (done.stderr.strip() + "\n" + done.stdout.strip()).strip()
        raise BackupError(f"{' '.join(arguments[:4])} failed ({done.returncode}):\n{said[-3000:]}")
    return done.stdout


def newest_backup(info: str, stanza: str) -> dict[str, Any]:
    """Return the newest backup of an answer of `pgbackrest info --output=json`.

    Raises:
        BackupError: there is none.

    """
    backups: list[dict[str, Any]] = [
        backup for cluster in json.loads(info) if cluster["name"] == stanza for backup in cluster.get("backup", ())
    ]
    if not backups:
        raise BackupError(f"there is no backup of {stanza}")
    return max(backups, key=lambda backup: int(backup["timestamp"]["stop"]))


def backup_labels(info: str, stanza: str) -> set[str]:
    """Return the names of all backups that are there."""
    return {
        str(backup["label"])
        for cluster in json.loads(info)
        if cluster["name"] == stanza
        for backup in cluster.get("backup", ())
    }


def metrics(state: dict[str, Any]) -> str:
    """Return the result as text for Prometheus."""
    rows = (
        ("escriptorium_backup_success", "Whether the last try to make a backup went well.", int(state["success"])),
        ("escriptorium_backup_last_try_timestamp_seconds", "When the last try ended.", state["ended"]),
        ("escriptorium_backup_last_success_timestamp_seconds", "When a backup was last made.", state["last_success"]),
        ("escriptorium_backup_seconds", "How long the last backup took.", state["seconds"]),
        ("escriptorium_backup_database_bytes", "Size of the database in the last backup.", state["database_bytes"]),
        ("escriptorium_backup_repository_bytes", "What that backup added.", state["repository_bytes"]),
    )
    return "".join(f"# HELP {name} {text}\n# TYPE {name} gauge\n{name} {value}\n" for name, text, value in rows)


def superfluous_snapshots(snapshots: list[str], kept: set[str]) -> list[str]:
    """Return this program's snapshots whose backup is gone, of full names such as tank/media@backup-...

    What precedes the @ says nothing: a pool that was renamed has other names than the records.
    """
    names = {name.partition("@")[2] for name in kept}
    found = ((full, full.partition("@")[2]) for full in snapshots)
    return [full for full, name in found if name.startswith(SNAPSHOT_PREFIX) and name not in names]


def is_release(status: os.stat_result, owner: int) -> bool:
    """Whether a file in the shared tree may be a packed release: no link, pipe or device, no file of others."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == owner and status.st_size <= LARGEST_RELEASE


def packed_releases(folder: int) -> list[str]:
    """Return the names of packed releases in an open folder, the newest first."""
    owner, found = os.fstat(folder).st_uid, []
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if entry.name.endswith(".tar.zst") and is_release(status, owner):
                found.append((status.st_mtime, entry.name))
    return [name for _, name in sorted(found, reverse=True)]


def copy_stream(source: IO[bytes], target: IO[bytes], size: int) -> str:
    """Copy so many bytes at most; answers their SHA-256."""
    digest = hashlib.sha256()
    while size > 0 and (block := source.read(min(size, 1 << 20))):
        digest.update(block)
        target.write(block)
        size -= len(block)
    return digest.hexdigest()


def keep_release(folder: int, name: str, target: Path) -> None:
    """Copy a packed release, for root alone, unless it is there.

    Raises:
        OSError: it cannot be copied, or its name leads to something else by now.

    """
    copy, partial = target / name, target / f".{name}.partial"
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(handle, "rb") as source:
        status = os.fstat(handle)
        if not is_release(status, os.fstat(folder).st_uid):
            raise OSError(f"{name} is no packed release any more")
        if copy.exists() and copy.stat().st_size == status.st_size:
            copy.chmod(0o600)
            return
        partial.unlink(missing_ok=True)
        try:
            with partial.open("xb") as stream:
                os.fchmod(stream.fileno(), 0o600)
                digest = copy_stream(source, stream, status.st_size)
            os.utime(partial, (status.st_atime, status.st_mtime))
            partial.replace(copy)
        finally:
            partial.unlink(missing_ok=True)
    write_whole(target / f"{name}.sha256", f"{digest}  {name}\n")


def keep_releases(source: Path, target: Path, keep: int, current: str | None) -> list[str]:
    """Copy the newest packed releases, and the current one whatever its age; answers the names of those kept.

    Whoever writes in the source is no more than a guest here: nothing there is trusted to stay what it was.
    """
    folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        names = packed_releases(folder)
        chosen = [name for name in names if current is not None and name == f"{current}.tar.zst"]
        chosen += [name for name in names if name not in chosen]
        chosen = chosen[:keep]
        for name in chosen:
            keep_release(folder, name, target)
    finally:
        os.close(folder)
    # Only what was copied from here is bounded: as many as are kept, the newest.
    copies = sorted(target.glob("*.tar.zst"), key=lambda path: path.stat().st_mtime, reverse=True)
    spare = [path for path in copies if path.name not in chosen][max(0, keep - len(chosen)) :]
    for path in spare:
        path.unlink()
        (target / f"{path.name}.sha256").unlink(missing_ok=True)
    return sorted(path.name for path in target.glob("*.tar.zst"))


def make_backup(settings: dict[str, Any], kind: str, release: str | None) -> dict[str, Any]:
    """Make a backup of everything; answers its record.

    Raises:
        BackupError: a part of it failed.

    """
    stanza, user, root = settings["stanza"], settings["user"], Path(settings["path"])
    started = time.time()
    # It removes old ones too. What copies them elsewhere meanwhile would have a list of backups without their files.
    try:
        with backups_held(root, float(settings["patience"]), changes=True):
            run("pgbackrest", f"--stanza={stanza}", f"--type={kind}", "--log-level-console=warn", "backup", user=user)
    except InUseError as error:
        raise BackupError(f"{error}: media-backup status, journalctl -u 'media-backup@*'") from error
    info = run("pgbackrest", f"--stanza={stanza}", "--output=json", "info", user=user)
    backup = newest_backup(info, stanza)

    snapshot = ""
    if settings["dataset"]:
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        snapshot = f"{settings['dataset']}@{SNAPSHOT_PREFIX}{moment}"
        run("zfs", "snapshot", snapshot)
    # Waits until the log of changes up to now has arrived.
    run("pgbackrest", f"--stanza={stanza}", "check", user=user)

    releases, warnings = _try_to_keep_releases(settings, release)
    record = {
        "label": backup["label"],
        "type": backup["type"],
        "started": round(started),
        "ended": round(time.time()),
        "database_bytes": backup["info"]["size"],
        "repository_bytes": backup["info"]["repository"]["delta"],
        "wal_start": backup["archive"]["start"],
        "wal_stop": backup["archive"]["stop"],
        "media_snapshot": snapshot,
        "release": release or "",
        "releases": releases,
    }
    write_whole(root / "records" / f"{backup['label']}.json", json.dumps(record, indent=2) + "\n")
    warnings += _forget(root / "records", backup_labels(info, stanza), settings["dataset"])
    return record | {"warnings": warnings}


def _try_to_keep_releases(settings: dict[str, Any], current: str | None) -> tuple[list[str], list[str]]:
    """Copy packed releases; answers the names of those kept, and what went wrong, which costs no backup."""
    if not settings["releases"]:
        return [], []
    target = Path(settings["path"], "releases")
    try:
        return keep_releases(Path(settings["releases"]), target, int(settings["keep_releases"]), current), []
    except OSError as error:
        return sorted(path.name for path in target.glob("*.tar.zst")), [f"no release was kept: {error}"]


def _forget(records: Path, labels: set[str], dataset: str) -> list[str]:
    """Remove records and snapshots whose backup pgBackRest has removed by its age; answers what could not go.

    A snapshot that media were restored from carries them until what was there before is destroyed.
    """
    kept = set()
    for path in records.glob("*.json"):
        if path.stem in labels:
            kept.add(json.loads(path.read_text())["media_snapshot"])
        else:
            path.unlink()
    left = []
    if dataset:
        snapshots = run("zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-d", "1", dataset).split()
        for name in superfluous_snapshots(snapshots, kept):
            try:
                run("zfs", "destroy", name)
            except BackupError as error:
                left.append(f"{name} stays: {error}")
    return left


def main() -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="platform-backup", description="Make a backup of the platform.")
    parser.add_argument("type", choices=("full", "diff", "incr"), help="what the database's part holds")
    parser.add_argument("--release", help="name of the release that runs, for the record")
    options = parser.parse_args()
    settings: dict[str, Any] = json.loads(SETTINGS.read_text())
    state_path = Path(settings["path"], "state.json")
    state: dict[str, Any] = {"last_success": 0, "seconds": 0, "database_bytes": 0, "repository_bytes": 0}
    if state_path.exists():
        state |= json.loads(state_path.read_text())
    status = 0
    try:
        record = make_backup(settings, options.type, options.release)
    except (BackupError, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"no backup was made: {error}\n")
        state |= {"success": False, "ended": round(time.time())}
        status = 1
    else:
        state |= {
            "success": True,
            "ended": record["ended"],
            "last_success": record["ended"],
            "seconds": record["ended"] - record["started"],
            "database_bytes": record["database_bytes"],
            "repository_bytes": record["repository_bytes"],
        }
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stderr.writelines(f"WARNING: {warning}\n" for warning in record["warnings"])
    # First what monitoring reads: the disk of the backups may be full.
    write_whole(Path(settings["metrics"]), metrics(state))
    try:
        write_whole(state_path, json.dumps(state) + "\n")
    except OSError as error:
        sys.stderr.write(f"the state of the backups is not kept: {error}\n")
        status = 1
    return status
