"""Programs of the backups: what counts as a difference, what is kept and what monitoring reads."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from module_utils.backup_programs import platform_backup
from module_utils.backup_programs.files import write_whole
from roles.backup.files import backup_drill

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


@pytest.fixture
def scratch(shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> backup_drill.Scratch:
    """A folder of trials that belongs to the account of PostgreSQL, as whom every number will do here."""
    programs, place = shared_path / "bin", shared_path / "postgresql"
    for folder in (programs, place, place / "drill"):
        folder.mkdir()
    for folder in (place, place / "drill"):
        os.chown(folder, 2000, 2000)
    (programs / "pg_ctl").write_text("#!/bin/sh\necho it does not start >&2\nexit 1\n")
    (programs / "pg_ctl").chmod(0o755)
    run = subprocess.run

    def as_other(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert words[:4] == ["runuser", "-u", "postgres", "--"]
        return run(["setpriv", "--reuid=2000", "--regid=2000", "--clear-groups", *words[4:]], **options)

    monkeypatch.setattr("subprocess.run", as_other)
    return backup_drill.Scratch({"programs": str(programs)}, str(place / "drill"), 5499)


def test_a_folder_of_trials_that_became_a_link_costs_nobody_else_his_files(scratch: backup_drill.Scratch) -> None:
    scratch.data.mkdir()
    os.chown(scratch.data, 2000, 2000)
    (scratch.folder / "drill.conf").touch()
    scratch.clean()
    assert not any(scratch.folder.iterdir())

    valuable = scratch.folder.parent.parent / "root"
    (valuable / "data").mkdir(parents=True)
    (valuable / "data/key").touch()
    scratch.folder.rename(scratch.folder.with_name("moved"))
    scratch.folder.symlink_to(valuable)
    with pytest.raises(backup_drill.DrillError, match="cannot be emptied"):
        scratch.clean()
    assert (valuable / "data/key").exists()


def test_a_log_that_became_a_link_shows_nothing_that_only_root_reads(scratch: backup_drill.Scratch) -> None:
    secret = scratch.folder.parent.parent / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (scratch.folder / "drill.log").symlink_to(secret)

    class Live(backup_drill.Database):
        def ask(self, database: str, query: str) -> str:  # noqa: ARG002
            return "1"

    with pytest.raises(backup_drill.DrillError) as said:
        scratch.start(Live("", 0), deadline=0)
    assert "root's" not in str(said.value)
    assert "it does not start" in str(said.value)


def test_one_trial_at_a_time_and_only_root_can_hold_others_up(tmp_path: Path) -> None:
    settings = {"result": str(tmp_path / "drill.json")}
    with backup_drill.only_one(settings, "drill") as first, backup_drill.only_one(settings, "drill") as second:
        assert (first, second) == (True, False)
        assert (tmp_path / "drill.lock").stat().st_mode & 0o077 == 0
    with backup_drill.only_one(settings, "drill") as again:
        assert again


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


def test_a_pool_that_was_renamed_keeps_the_snapshots_of_its_backups() -> None:
    names = ["new/m@backup-1", "new/m@backup-2"]
    assert platform_backup.superfluous_snapshots(names, {"old/m@backup-2"}) == ["new/m@backup-1"]


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


@pytest.fixture
def releases(tmp_path: Path) -> tuple[Path, Path]:
    """Folder of packed releases in the shared tree, and that of their copies."""
    source, target = tmp_path / "from", tmp_path / "to"
    for folder in (source, target):
        folder.mkdir()
    return source, target


def test_copies_are_for_root_alone_and_no_link_is_followed(releases: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = releases
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    release(source, "good", 5)
    (source / "secret.tar.zst").symlink_to(secret)
    (source / "dangling.tar.zst").symlink_to("nowhere")
    (source / "endless.tar.zst").symlink_to("/dev/zero")
    os.mkfifo(source / "pipe.tar.zst")
    (source / "folder.tar.zst").mkdir()
    assert platform_backup.keep_releases(source, target, 9, "secret") == ["good.tar.zst"]
    assert (target / "good.tar.zst").stat().st_mode & 0o777 == 0o600
    source.rename(tmp_path / "moved")
    source.symlink_to(tmp_path / "moved")
    with pytest.raises(OSError, match="Not a directory"):
        platform_backup.keep_releases(source, target, 9, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_account_is_no_release(releases: tuple[Path, Path]) -> None:
    source, target = releases
    release(source, "linked", 5)  # a hard link, as an NFS server makes them, to what its maker cannot read
    os.chown(source, 2000, 2000)
    assert platform_backup.keep_releases(source, target, 9, None) == []


def test_a_release_is_bounded(releases: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = releases
    monkeypatch.setattr(platform_backup, "LARGEST_RELEASE", 3)
    release(source, "one", 5)
    release(source, "large", 6)
    assert platform_backup.keep_releases(source, target, 9, None) == ["one.tar.zst"]
    with (source / "one.tar.zst").open("rb") as growing, (target / "copy").open("wb") as stream:
        platform_backup.copy_stream(growing, stream, 2)
    assert (target / "copy").read_text() == "on"


class Backup:
    """The program in a folder, with pgBackRest and ZFS that answer as they do."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in ("pgbackrest", "records", "releases", "shared", "metrics"):
            (folder / name).mkdir()
        self.settings = {
            "stanza": "main",
            "user": "postgres",
            "path": str(folder),
            "dataset": "tank/media",
            "releases": str(folder / "shared"),
            "patience": 5,
            "keep_releases": 2,
            "metrics": str(folder / "metrics/backup.prom"),
        }
        (folder / "backup.json").write_text(json.dumps(self.settings))
        self.told: list[str] = []
        self.busy = ""
        monkeypatch.setattr(platform_backup, "SETTINGS", folder / "backup.json")
        monkeypatch.setattr(platform_backup, "run", self.answer)
        monkeypatch.setattr("sys.argv", ["platform-backup", "full"])

    def answer(self, *words: str, user: str | None = None) -> str:
        command = " ".join(words)
        self.told.append(command)
        if words[-1] == "info":
            backup = {
                "label": "20261129F",
                "type": "full",
                "timestamp": {"stop": 1},
                "info": {"size": 5, "repository": {"delta": 3}},
                "archive": {"start": "1", "stop": "2"},
            }
            return json.dumps([{"name": "main", "backup": [backup]}]) if user == "postgres" else ""
        if command.startswith("zfs list"):
            return "tank/media@backup-1\ntank/media@backup-2\n"
        if self.busy and command == f"zfs destroy {self.busy}":
            raise platform_backup.BackupError("snapshot has dependent clones")
        return ""

    def metric(self, name: str) -> float:
        lines = (self.folder / "metrics/backup.prom").read_text().splitlines()
        return float(dict(line.split() for line in lines if not line.startswith("#"))[f"escriptorium_backup_{name}"])


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backup:
    return Backup(tmp_path, monkeypatch)


def test_trouble_with_releases_costs_no_backup(backup: Backup, capsys: pytest.CaptureFixture[str]) -> None:
    (backup.folder / "shared").rmdir()
    (backup.folder / "shared").symlink_to("nowhere")
    assert platform_backup.main() == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["label"] == "20261129F"
    assert "no release was kept" in said.err
    assert backup.metric("success") == 1
    assert "zfs destroy tank/media@backup-2" in backup.told


def test_a_snapshot_that_media_were_restored_from_stays_and_the_others_go(
    backup: Backup, capsys: pytest.CaptureFixture[str]
) -> None:
    backup.busy = "tank/media@backup-1"
    assert platform_backup.main() == 0
    assert "tank/media@backup-1 stays: snapshot has dependent clones" in capsys.readouterr().err
    assert backup.told[-1] == "zfs destroy tank/media@backup-2"
    assert backup.metric("success") == 1


def test_a_full_disk_of_the_backups_is_seen_by_monitoring(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform_backup.main() == 0

    def full(path: Path, text: str, mode: int = 0o644) -> None:
        if path.parent.name != "metrics":
            raise OSError(28, "No space left on device")
        write_whole(path, text, mode)

    monkeypatch.setattr(platform_backup, "write_whole", full)
    assert platform_backup.main() == 1
    assert backup.metric("success") == 0


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "state", "x")
    assert not any(tmp_path.iterdir())


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
