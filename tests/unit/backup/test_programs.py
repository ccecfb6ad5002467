"""Programs of the backups: what counts as a difference, what is kept and what monitoring reads."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from roles.backup.files import backup_drill
from roles.backup_repository.files import platform_backup

ROOT = Path(__file__).resolve().parents[3]


def table(rows: int, newest: str = "9", total: str = "x") -> dict[str, Any]:
    return {"name": "t", "rows": rows, "newest": newest, "sum": total}


@pytest.mark.parametrize(
    ("before", "after", "restored", "changes", "problem"),
    [
        (table(10), table(10), table(10), 0, None),
        (table(10), table(10), table(9), 0, "t has 9 rows instead of 10"),
        (table(10), table(10), table(10, total="y"), 0, "t has other newest rows"),
        (table(10), table(14), table(12), 4, None),
        (table(10), table(10), table(12, "11"), 4, None),
        (table(10), table(10), table(15, "11"), 4, "t has 15 rows instead of 6 to 14"),
        (table(10), table(10), None, 0, "t is missing"),
    ],
)
def test_restored_tables_are_compared_with_the_live_ones(
    before: dict[str, Any], after: dict[str, Any], restored: dict[str, Any] | None, changes: int, problem: str | None
) -> None:
    found = backup_drill.compare(
        {"t": before}, {"t": after}, {"t": restored} if restored else {}, {"t": changes} if changes else {}
    )
    assert bool(found) == bool(problem)
    assert (problem or "") in "".join(found)


def test_tables_that_came_or_went_meanwhile_are_no_difference() -> None:
    assert backup_drill.compare({"t": table(1)}, {}, {"t": table(1)}, {}) == []
    assert backup_drill.compare({}, {"t": table(1)}, {}, {}) == []


def test_failed_trial_is_seen_by_monitoring() -> None:
    text = backup_drill.metrics({"success": False, "started": 100, "ended": 160, "bytes": 5}, last_success=40)
    values = dict(line.split() for line in text.splitlines() if not line.startswith("#"))
    assert values["escriptorium_backup_drill_success"] == "0"
    assert values["escriptorium_backup_drill_seconds"] == "60"
    assert values["escriptorium_backup_drill_last_success_timestamp_seconds"] == "40"


def info(*labels: str) -> str:
    backups = [{"label": label, "timestamp": {"stop": number}} for number, label in enumerate(labels)]
    return json.dumps([{"name": "other"}, {"name": "main", "backup": backups}])


def test_newest_backup_and_all_labels() -> None:
    assert platform_backup.newest_backup(info("a", "b"), "main")["label"] == "b"
    assert platform_backup.backup_labels(info("a", "b"), "main") == {"a", "b"}
    with pytest.raises(platform_backup.BackupError, match="no backup of main"):
        platform_backup.newest_backup(info(), "main")


def test_snapshots_of_others_stay() -> None:
    names = ["m@backup-1", "m@backup-2", "m@autosnap_daily", "m@by-hand"]
    assert platform_backup.superfluous_snapshots(names, {"m@backup-2"}) == ["m@backup-1"]


def release(folder: Path, name: str, age: int) -> None:
    path = folder / f"{name}.tar.zst"
    path.write_text(name)
    os.utime(path, (10_000 - age, 10_000 - age))


def test_current_release_is_kept_even_if_it_is_old(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    target.mkdir()
    for age, name in enumerate(["new", "middle", "old"]):
        release(source, name, age)
    assert platform_backup.keep_releases(source, target, 2, "old") == ["new.tar.zst", "old.tar.zst"]
    assert (target / "old.tar.zst").read_text() == "old"
    assert "  old.tar.zst" in (target / "old.tar.zst.sha256").read_text()
    # Another one is current: the oldest copy makes room.
    assert platform_backup.keep_releases(source, target, 2, "middle") == ["middle.tar.zst", "new.tar.zst"]
    assert sorted(path.name for path in target.iterdir() if path.name.startswith(("old", "."))) == []


@pytest.mark.parametrize("role", ["backup", "backup_repository"])
@pytest.mark.parametrize(
    "command",
    ["", "id", "pgbackrest", "pgbackrest info", "pgbackrest stanza-delete", "sh -c id:remote", "/bin/sh x:local"],
)
def test_forced_command_refuses_all_but_the_counterpart(role: str, command: str) -> None:
    done = subprocess.run(
        [ROOT / "roles" / role / "files/serve"],
        env={"SSH_ORIGINAL_COMMAND": command, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "this key is for pgBackRest only\n")


@pytest.mark.parametrize("name", ["serve", "connect", "pgbackrest.conf.j2"])
def test_both_roles_have_the_same_connection(name: str) -> None:
    """On one machine both write these files; a difference would make each run change them back and forth."""
    folder = "templates" if name.endswith(".j2") else "files"
    one, other = (ROOT / "roles" / role / folder / name for role in ("backup", "backup_repository"))
    assert one.read_text() == other.read_text()
