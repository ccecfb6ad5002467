"""Media on ZFS go back to a moment: which snapshot, which files, and in which order the datasets change places."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from module_utils.backup_programs import restore_media
from module_utils.backup_programs.files import MediaError
from module_utils.backup_programs.restore_media import Change, Snapshot

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
    assert restore_media.copy_changes(changes, old, new, 200) == {"copied": 1, "stay_older": 1, "left_out": 0}
    assert (new / "documents/7/between.png").read_text() == "between"
    assert (new / "documents/7/between.png").stat().st_mtime == 150
    assert not (new / "late.png").exists()
    assert (new / "model").read_text() == "as in the snapshot"


def media_of(owner: int, folder: Path) -> tuple[Path, Path]:
    """The media and a clone of their snapshot, both of an account."""
    old, new = folder / "media", folder / "clone"
    for tree in (old, new):
        tree.mkdir()
        os.chown(tree, owner, owner)
    return old, new


@pytest.mark.parametrize("where", ["documents/7/page.png", "page.png"])
def test_links_that_a_snapshot_holds_lead_nowhere(shared_path: Path, where: str) -> None:
    """As the service account could have made them, long before the restore."""
    old, new = media_of(2000, shared_path)
    outside = shared_path / "etc"
    outside.mkdir()
    (outside / "page.png").write_text("root's")
    write(old / where, "evil", 150)
    for path in (old / where).parents:
        os.chown(path, 2000, 2000) if path.is_relative_to(old) else None
    os.chown(old / where, 2000, 2000)
    if where == "page.png":
        (new / where).symlink_to(outside / "page.png")
        counts = {"copied": 1, "stay_older": 0, "left_out": 0}
    else:
        (new / "documents").mkdir()
        (new / "documents/7").symlink_to(outside)
        counts = {"copied": 0, "stay_older": 0, "left_out": 1}
    for path in [new, *new.rglob("*")]:
        os.chown(path, 2000, 2000, follow_symlinks=False)
    assert restore_media.copy_changes([Change(0, "+", str(old / where))], old, new, 200) == counts
    assert (outside / "page.png").read_text() == "root's"
    assert os.geteuid() == 0


def test_nothing_is_read_that_the_owner_of_the_media_may_not_read(shared_path: Path) -> None:
    old, new = media_of(2000, shared_path)
    secret = shared_path / "secret"
    secret.mkdir()
    write(secret / "key", "root's", 150)
    (old / "documents").symlink_to(secret)
    write(old / "key", "root's", 150)
    (old / "key").chmod(0o600)
    changes = [Change(0, "+", str(old / name)) for name in ("documents/key", "key")]
    assert restore_media.copy_changes(changes, old, new, 200) == {"copied": 0, "stay_older": 0, "left_out": 2}
    assert not any(new.iterdir())


def test_files_and_folders_come_as_they_were(shared_path: Path) -> None:
    old, new = media_of(2000, shared_path)
    write(old / "documents/7/page.png", "page", 150)
    (old / "documents").chmod(0o750)
    (old / "documents/7/page.png").chmod(0o640)
    for path in old.rglob("*"):
        os.chown(path, 2000, 2000)
    restore_media.copy_changes([Change(0, "+", str(old / "documents/7/page.png"))], old, new, 200)
    found = {str(path.relative_to(new)): path.stat() for path in new.rglob("*")}
    assert {name: (status.st_uid, oct(status.st_mode & 0o777)) for name, status in found.items()} == {
        "documents": (2000, "0o750"),
        "documents/7": (2000, "0o755"),
        "documents/7/page.png": (2000, "0o640"),
    }


def test_a_full_disk_is_no_file_that_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = media_of(os.geteuid(), tmp_path)
    write(old / "page.png", "page", 150)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        restore_media.copy_changes([Change(0, "+", str(old / "page.png"))], old, new, 200)
    assert not any(new.iterdir())


class Killed(BaseException):
    """The program is killed here."""


class Zfs:
    """Answers and acts as zfs does, and notes what it is told.

    Attributes:
        told: what would change something.
        datasets: properties by name; ``@`` lists the snapshots, ``mounted`` is a property as well.

    """

    def __init__(self, place: Path, fails: str = "", kill_after: int = 99) -> None:
        self.place = place
        self.fails = fails
        self.kill_after = kill_after
        self.told: list[str] = []
        own = {"origin": "-", "mounted": "yes", "@": "a b"}
        self.datasets: dict[str, dict[str, str]] = {"tank/escriptorium": {}, DATASET: own}

    def __call__(self, *arguments: str) -> str:
        command = " ".join(arguments)
        verb, name = arguments[1], arguments[-1]
        if verb in {"list", "get", "diff"}:
            return self.answer(command, name)
        if self.fails and self.fails in command:
            raise MediaError(f"{command} failed: busy")
        assert verb in {"rename", "clone"} or name == "-a" or name in self.datasets, command
        self.told.append(command)
        getattr(self, verb)(*arguments[2:])
        if len(self.told) == self.kill_after:
            raise Killed
        return ""

    def answer(self, command: str, name: str) -> str:
        if "-t filesystem" in command:
            return "".join(f"{one}\t{values.get(restore_media.MARK, '-')}\n" for one, values in self.datasets.items())
        found = self.datasets[name]
        if "-t snapshot" in command:
            return "".join(f"{name}@{one}\t{100 if one == 'a' else 300}\n" for one in found["@"].split())
        if "value,source mountpoint" in command:
            return f"{self.place}\tinherited from tank/escriptorium\n"
        if " all " in command:
            return "recordsize\t1048576\nquota\t30000\nmountpoint\t/x\ncom.example:a b\tc d\n"
        if "diff" in command:
            assert found["mounted"] == "yes"
            return f"150\t+\tF\t{self.place}/between.png\n"
        return f"{self.place}\n" if "mountpoint" in command else f"{found[command.split()[5]]}\n"

    def clone(self, *words: str) -> None:
        options = dict(word.split("=", 1) for word in words if "=" in word)
        self.datasets[words[-1]] = {"origin": words[-2], "mounted": "yes", "@": "", **options}
        Path(options["mountpoint"]).mkdir()

    def rename(self, old: str, new: str) -> None:
        assert new not in self.datasets
        assert self.datasets[old]["mounted"] == "no"
        self.datasets[new] = self.datasets.pop(old)
        for values in self.datasets.values():
            values["origin"] = values.get("origin", "-").replace(f"{old}@", f"{new}@")

    def promote(self, name: str) -> None:
        origin, _, snapshot = self.datasets[name]["origin"].partition("@")
        self.datasets[name] |= {"origin": "-", "@": snapshot}
        self.datasets[origin] |= {"origin": f"{name}@{snapshot}", "@": "b"}

    def set(self, option: str, name: str) -> None:
        self.datasets[name] |= dict([option.split("=")])

    def inherit(self, key: str, name: str) -> None:
        self.datasets[name].pop(key, None)

    def mount(self, name: str) -> None:
        if name != "-a":
            assert self.datasets[name]["mounted"] == "no"
            self.datasets[name]["mounted"] = "yes"

    def unmount(self, name: str) -> None:
        assert self.datasets[name]["mounted"] == "yes"
        self.datasets[name]["mounted"] = "no"

    def destroy(self, name: str) -> None:
        assert name.startswith(f"{DATASET}-restored-")
        shutil.rmtree(self.datasets.pop(name)["mountpoint"])


NEW, BEFORE = f"{DATASET}-restored-19700101T000640Z", f"{DATASET}-before-19700101T000640Z"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("shutil.which", lambda _: None)
    folder = tmp_path / "media"
    write(folder / "between.png", "between", 150)
    return folder


def test_old_dataset_stays_under_another_name(place: Path) -> None:
    zfs = Zfs(place)
    result = restore_media.restore(DATASET, 200, now=400, run=zfs)
    options = "-o recordsize=1048576 -o quota=30000 -o com.example:a b=c d"
    mark = "escriptorium:restoring=200 19700101T000640Z"
    assert zfs.told == [
        f"zfs clone {options} -o {mark} -o mountpoint={place}-restored-19700101T000640Z {DATASET}@a {NEW}",
        f"zfs unmount {DATASET}",
        f"zfs set canmount=noauto {DATASET}",
        f"zfs rename {DATASET} {BEFORE}",
        f"zfs unmount {NEW}",
        f"zfs rename {NEW} {DATASET}",
        f"zfs inherit mountpoint {DATASET}",
        f"zfs promote {DATASET}",
        f"zfs mount {DATASET}",
        f"zfs inherit escriptorium:restoring {DATASET}",
    ]
    counts = {"finished": False, "copied": 1, "stay_older": 0, "left_out": 0}
    assert result == {"snapshot": f"{DATASET}@a", "created": 100, "before": BEFORE, **counts}


@pytest.mark.parametrize("steps", range(1, 10))
@pytest.mark.parametrize("moment", [200, 250], ids=["the same moment", "another moment"])
def test_what_was_cut_off_is_finished_by_the_next_run(place: Path, steps: int, moment: float) -> None:
    zfs = Zfs(place, kill_after=steps)
    with pytest.raises(Killed):
        restore_media.restore(DATASET, 200, now=400, run=zfs)
    result = restore_media.restore(DATASET, moment, now=500, run=zfs)
    found = zfs.datasets[DATASET]
    assert (found["origin"], found["mounted"]) == ("-", "yes")
    assert result["finished"] == (moment == 200 and steps > 3)
    assert found.get("canmount", "on") == "on"
    assert not {"mountpoint", restore_media.MARK} & {*found}
    assert zfs.datasets[result["before"]]["mounted"] == "no"
    olds = [name for name in zfs.datasets if "-before-" in name]
    assert not [name for name in zfs.datasets if "-restored-" in name]
    # Places were changed once for one moment: what users had is in one dataset more, and not in two.
    assert len(olds) == (1 if moment == 200 or steps <= 3 else 2), olds


def test_a_dataset_that_is_not_there_or_not_mounted_is_refused(place: Path) -> None:
    zfs = Zfs(place)
    zfs.datasets[DATASET]["mounted"] = "no"
    with pytest.raises(MediaError, match=f"{DATASET} is not mounted: zfs mount {DATASET}"):
        restore_media.restore(DATASET, 200, now=400, run=zfs)
    del zfs.datasets[DATASET]
    with pytest.raises(MediaError, match=f"there is no dataset {DATASET}"):
        restore_media.restore(DATASET, 200, now=400, run=zfs)
    assert zfs.told == []


def test_busy_dataset_stays_as_it_is(place: Path) -> None:
    zfs = Zfs(place, fails=f"unmount {DATASET}")
    with pytest.raises(MediaError, match="the media are as they were"):
        restore_media.restore(DATASET, 200, now=400, run=zfs)
    assert zfs.told[-2:] == [f"zfs destroy {NEW}", "zfs mount -a"]
    assert not any("rename" in command for command in zfs.told)


def test_dry_run_changes_nothing(place: Path) -> None:
    zfs = Zfs(place)
    assert restore_media.restore(DATASET, 200, now=400, dry_run=True, run=zfs)["snapshot"] == f"{DATASET}@a"
    assert zfs.told == []
