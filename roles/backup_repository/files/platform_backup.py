#!/usr/bin/python3
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
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

SETTINGS: Final = Path("/etc/pgbackrest/backup.json")
#: Snapshots of this program; others on the same dataset are left alone.
SNAPSHOT_PREFIX: Final = "backup-"


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


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step: nobody ever reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(name).chmod(mode)
    Path(name).replace(path)


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
    """Return this program's snapshots whose backup is gone, of full names such as tank/media@backup-..."""
    return [name for name in snapshots if name.partition("@")[2].startswith(SNAPSHOT_PREFIX) and name not in kept]


def sha256(path: Path) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def keep_releases(source: Path, target: Path, keep: int, current: str | None) -> list[str]:
    """Copy the newest packed releases, and the current one whatever its age; answers the names of those kept."""
    found = sorted(source.glob("*.tar.zst"), key=lambda path: path.stat().st_mtime, reverse=True)
    chosen = [path for path in found if current is not None and path.name == f"{current}.tar.zst"]
    chosen += [path for path in found if path not in chosen]
    chosen = chosen[:keep]
    for path in chosen:
        copy = target / path.name
        if copy.exists() and copy.stat().st_size == path.stat().st_size:
            continue
        partial = target / f".{path.name}.partial"
        shutil.copyfile(path, partial)
        os.utime(partial, (path.stat().st_atime, path.stat().st_mtime))
        digest = sha256(partial)
        partial.replace(copy)
        write_whole(target / f"{path.name}.sha256", f"{digest}  {path.name}\n")
    # Only what was copied from here is bounded: as many as are kept, the newest.
    copies = sorted(target.glob("*.tar.zst"), key=lambda path: path.stat().st_mtime, reverse=True)
    names = [path.name for path in chosen]
    spare = [path for path in copies if path.name not in names][max(0, keep - len(names)) :]
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
    run("pgbackrest", f"--stanza={stanza}", f"--type={kind}", "--log-level-console=warn", "backup", user=user)
    info = run("pgbackrest", f"--stanza={stanza}", "--output=json", "info", user=user)
    backup = newest_backup(info, stanza)

    snapshot = ""
    if settings["dataset"]:
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        snapshot = f"{settings['dataset']}@{SNAPSHOT_PREFIX}{moment}"
        run("zfs", "snapshot", snapshot)
    # Waits until the log of changes up to now has arrived.
    run("pgbackrest", f"--stanza={stanza}", "check", user=user)

    releases: list[str] = []
    if settings["releases"]:
        releases = keep_releases(Path(settings["releases"]), root / "releases", int(settings["keep_releases"]), release)
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
    _forget(root / "records", backup_labels(info, stanza), settings["dataset"])
    return record


def _forget(records: Path, labels: set[str], dataset: str) -> None:
    """Remove records and snapshots whose backup pgBackRest has removed by its age."""
    kept = set()
    for path in records.glob("*.json"):
        if path.stem in labels:
            kept.add(json.loads(path.read_text())["media_snapshot"])
        else:
            path.unlink()
    if dataset:
        snapshots = run("zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-d", "1", dataset).split()
        for name in superfluous_snapshots(snapshots, kept):
            run("zfs", "destroy", name)


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
    except (BackupError, OSError) as error:
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
    write_whole(state_path, json.dumps(state) + "\n")
    write_whole(Path(settings["metrics"]), metrics(state))
    return status


if __name__ == "__main__":
    sys.exit(main())
