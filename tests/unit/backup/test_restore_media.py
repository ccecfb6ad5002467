"""Media on ZFS go back to a moment: which snapshot, which files, and in which order the datasets change places."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roles.backup_repository.files import restore_media
from roles.backup_repository.files.restore_media import Change, MediaError, Snapshot

DATASET = "tank/escriptorium/media"
SNAPSHOTS = [Snapshot(f"{DATASET}@a", 100), Snapshot(f"{DATASET}@b", 200), Snapshot(f"{DATASET}@c", 300)]


@pytest.mark.parametrize(("moment", "wanted"), [(100, "a"), (199.9, "a"), (200, "b"), (10_000, "c")])
def test_newest_snapshot_that_is_not_younger(moment: float, wanted: str) -> None:
    assert restore_media.choose(SNAPSHOTS, moment).name == f"{DATASET}@{wanted}"


def test_no_snapshot_is_old_enough() -> None:
    with pytest.raises(MediaError, match="no snapshot of the media from before"):
        restore_media.choose(SNAPSHOTS, 99)


def test_snapshots_are_listed_by_age() -> None:
    listed = f"{DATASET}@new\t300\n{DATASET}@old\t100\n"
    assert [snapshot.created for snapshot in restore_media.parse_snapshots(listed)] == [100, 300]


def test_differences_between_snapshot_and_dataset() -> None:
    shown = (
        "1700000000.5\t+\tF\t/srv/media/d/\\0303\\0251t\\0303\\0251.png\n"
        "1700000001.0\tM\t/\t/srv/media/d/\n"
        "1700000002.0\tR\tF\t/srv/media/old\t/srv/media/new name\n"
        "1700000003.0\t-\tF\t/srv/media/gone\n"
    )
    assert list(restore_media.parse_diff(shown)) == [
        Change(1700000000.5, "+", "/srv/media/d/été.png"),
        Change(1700000002.0, "R", "/srv/media/new name"),
        Change(1700000003.0, "-", "/srv/media/gone"),
    ]


def write(path: Path, text: str, moment: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (moment, moment))


def test_only_files_of_the_time_between_are_copied(tmp_path: Path) -> None:
    old, new = tmp_path / "media", tmp_path / "clone"
    new.mkdir()
    write(old / "documents/7/between.png", "between", 150)
    write(old / "late.png", "late", 250)
    write(old / "model", "trained again", 250)
    write(new / "model", "as in the snapshot", 90)
    changes = [
        Change(0, kind, str(old / name))
        for kind, name in (("+", "documents/7/between.png"), ("+", "late.png"), ("M", "model"), ("-", "gone"))
    ]
    assert restore_media.copy_changes(changes, old, new, 200) == {"copied": 1, "stay_older": 1}
    assert (new / "documents/7/between.png").read_text() == "between"
    assert (new / "documents/7/between.png").stat().st_mtime == 150
    assert not (new / "late.png").exists()
    assert (new / "model").read_text() == "as in the snapshot"


class Zfs:
    """Answers as zfs does, and notes what it is told."""

    def __init__(self, place: Path, fails: str = "") -> None:
        self.place = place
        self.fails = fails
        self.told: list[str] = []

    def __call__(self, *arguments: str) -> str:
        command = " ".join(arguments)
        if arguments[:2] == ("zfs", "list"):
            return f"{DATASET}@a\t100\n{DATASET}@b\t300\n"
        if command.startswith("zfs get -Hp -o value,source mountpoint"):
            return f"{self.place}\tinherited from tank/escriptorium\n"
        if command.startswith("zfs get"):
            return "recordsize\t1048576\nquota\t30000\nmountpoint\t/x\ncom.example:a b\tc d\n"
        if arguments[1] == "diff":
            return f"150\t+\tF\t{self.place}/between.png\n"
        if arguments[1] == "clone":
            Path(f"{self.place}-restored-19700101T000640Z").mkdir()
        self.told.append(command)
        if self.fails and self.fails in command:
            raise MediaError(f"{command} failed: busy")
        return ""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("shutil.which", lambda _: None)
    folder = tmp_path / "media"
    write(folder / "between.png", "between", 150)
    return folder


def test_old_dataset_stays_under_another_name(place: Path) -> None:
    zfs = Zfs(place)
    result = restore_media.restore(DATASET, 200, now=400, run=zfs)
    new, before = f"{DATASET}-restored-19700101T000640Z", f"{DATASET}-before-19700101T000640Z"
    options = "-o recordsize=1048576 -o quota=30000 -o com.example:a b=c d"
    assert zfs.told == [
        f"zfs clone {options} -o mountpoint={place}-restored-19700101T000640Z {DATASET}@a {new}",
        f"zfs unmount {DATASET}",
        f"zfs set canmount=noauto {DATASET}",
        f"zfs rename {DATASET} {before}",
        f"zfs unmount {new}",
        f"zfs rename {new} {DATASET}",
        f"zfs inherit mountpoint {DATASET}",
        f"zfs promote {DATASET}",
        f"zfs mount {DATASET}",
    ]
    assert result == {"snapshot": f"{DATASET}@a", "created": 100, "before": before, "copied": 1, "stay_older": 0}


def test_busy_dataset_stays_as_it_is(place: Path) -> None:
    zfs = Zfs(place, fails=f"unmount {DATASET}")
    with pytest.raises(MediaError, match="the media are as they were"):
        restore_media.restore(DATASET, 200, now=400, run=zfs)
    assert zfs.told[-2:] == [f"zfs destroy {DATASET}-restored-19700101T000640Z", "zfs mount -a"]
    assert not any("rename" in command for command in zfs.told)


def test_dry_run_changes_nothing(place: Path) -> None:
    zfs = Zfs(place)
    assert restore_media.restore(DATASET, 200, now=400, dry_run=True, run=zfs)["snapshot"] == f"{DATASET}@a"
    assert zfs.told == []
