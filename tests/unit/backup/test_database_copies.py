"""Copies of the database's backups, made and brought back by the real restic: whole, apart, and proved."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from module_utils.backup_programs import ages, media_backup, proofs, rebuild, reports, work
from module_utils.backup_programs.files import MediaError
from module_utils.backup_programs.locks import InUseError, backups_held
from module_utils.backup_programs.rebuild import bring_database, occupied, read_note
from module_utils.backup_programs.restic import DATABASE, HOST, Node, Restic
from tests.unit.backup.copies import TREE, Site, needs_restic, target, tree

FULL = "pgbackrest/backup/main/20261129-010000F"
REPOSITORY = {
    f"{FULL}/backup.manifest": "what is in it",
    f"{FULL}/bundle/1": "rows",
    "pgbackrest/backup/main/backup.info": "one full backup",
    "pgbackrest/archive/main/archive.info": "one cluster",
    "pgbackrest/archive/main/15-1/0000000100000000/000000010000000000000001.zst": "changes",
    "records/20261129-010000F.json": "{}",
    "releases/1-a.tar.zst": "a release",
    "secrets/secrets.yml": "$ANSIBLE_VAULT",
}


class Pair(Site):
    """A site whose first target lies elsewhere."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "elsewhere")
        self.settings["targets"][0]["database"] = True
        self.backups = tree(folder / "backups", REPOSITORY)
        self.settings["scratch"] = str(self.scratch)
        self.reports = folder / "reports"
        self.reports.mkdir()

    def bring(self, moment: float | None = None) -> dict[str, Any]:
        return bring_database(self.settings, self.restics[0], self.reports, moment or time.time())

    def lose_all(self) -> None:
        """A new host, as the roles leave it: empty folders."""
        shutil.rmtree(self.backups)
        shutil.rmtree(self.media)
        shutil.rmtree(self.state)
        self.state.mkdir()
        self.media.mkdir()
        for name in ("pgbackrest", "records", "releases", "secrets"):
            (self.backups / name).mkdir(parents=True)

    def found(self) -> dict[str, str]:
        files = [path for path in self.backups.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.backups)): path.read_text() for path in files}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


# --- what is copied ---------------------------------------------------------------------------------------------------


@needs_restic
def test_both_are_copied_apart_the_database_first(pair: Pair) -> None:
    done = pair.backup()
    assert pair.names(kind=DATABASE) == set(REPOSITORY)
    assert pair.names() == set(TREE)
    assert (done["database_files"], done["files"]) == (len(REPOSITORY), len(TREE))
    assert done["database_copied"] <= done["media_copied"]
    (first,), (then,) = (pair.restics[0].snapshots(kind) for kind in (DATABASE, "media"))
    assert first.made < then.made, "each file that a database names is in the media"
    assert pair.copies().restore(time.time(), dry_run=True)["there"] == len(TREE), "a restore of media takes media"
    stored = b"".join(path.read_bytes() for path in (pair.folder / "elsewhere").rglob("*") if path.is_file())
    assert b"one full backup" not in stored


@needs_restic
def test_each_kind_is_forgotten_by_bounds_of_its_own(pair: Pair) -> None:
    pair.settings |= {"keep": {"last": 1}, "keep_database": {"last": 2}}
    restic = pair.restics[0]
    pair.work().open()
    restic.ask("backup", "--host", HOST, str(pair.media))  # by an earlier version, without a tag
    for number in range(3):
        tree(pair.backups, {"pgbackrest/archive/main/archive.info": f"state {number}"}, written=2000 + number)
        pair.backup()
    done = pair.work().prune()
    assert (done["copies"], done["database_copies"]) == (1, 2)


@needs_restic
def test_a_target_beside_the_backups_takes_media_only(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.settings["targets"][0]["database"] = False
    assert "database_copied" not in pair.backup()
    assert pair.restics[0].snapshots(DATABASE) == []
    assert "database_proved" not in pair.drill()


@needs_restic
def test_one_kind_that_fails_costs_the_other_one_nothing(pair: Pair) -> None:
    shutil.rmtree(pair.media)
    done = pair.work().backup()
    assert "is not there: is it mounted?" in done["problem"]
    assert pair.names(kind=DATABASE) == set(REPOSITORY)
    assert work.work(pair.settings, "backup", pair.restics[0], pair.state) == 1
    left = json.loads((pair.state / "elsewhere.backup.json").read_text())
    assert (left["success"], left["database_files"]) == (False, len(REPOSITORY))


@needs_restic
def test_no_copy_of_nothing_becomes_the_newest(pair: Pair) -> None:
    """As on a new host whose repository was just made."""
    pair.backup()
    shutil.rmtree(pair.backups / FULL)
    done = pair.work().backup()
    assert "holds no backup, and there are copies" in done["problem"]
    assert "rebuild_from=elsewhere" in done["problem"]
    assert len(pair.restics[0].snapshots(DATABASE)) == 1
    (pair.folder / "elsewhere").rename(pair.folder / "unplugged")
    (pair.state / "elsewhere.json").unlink()
    assert pair.backup()["database_waits"] == "there is no backup yet", "a site that begins"


# --- while backups are made -------------------------------------------------------------------------------------------


@needs_restic
def test_a_copy_never_names_a_backup_whose_files_it_lacks(pair: Pair) -> None:
    """While copies are made, backups come and go as pgBackRest does it: the list last, files after the list."""
    over = threading.Event()
    folder = pair.backups / "pgbackrest/backup/main"

    def change(number: int) -> None:
        made = f"20261130-{number:06d}F"
        with backups_held(pair.backups, 60, changes=True):
            tree(folder, {f"{made}/bundle/{part:02d}": os.urandom(1 << 18).hex() for part in range(20)})
            tree(folder, {f"{made}/backup.manifest": made})
            gone = [path for path in folder.iterdir() if path.is_dir() and path.name != made]
            (folder / "backup.info").write_text(made)
            for path in gone:
                shutil.rmtree(path)

    def run() -> None:
        number = 0
        while not over.is_set():
            change(number := number + 1)

    change(0)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(3):
            assert pair.backup()["database_waits"] == ""
    finally:
        over.set()
        thread.join()
    restic = pair.restics[0]
    for snapshot in restic.snapshots(DATABASE):
        listed = restic.ask("--no-lock", "dump", snapshot.name, "/pgbackrest/backup/main/backup.info")
        names = {node.name for node in restic.files(snapshot)}
        assert f"pgbackrest/backup/main/{listed}/backup.manifest" in names
        assert sum(name.startswith(f"pgbackrest/backup/main/{listed}/bundle/") for name in names) == 20


@needs_restic
def test_a_copy_waits_for_a_backup_and_leaves_it_to_the_next_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PATIENCE_FOR_BACKUPS", 1)
    with backups_held(pair.backups, 0, changes=True):
        done = pair.backup()
    assert done["database_waits"] == "backups of the database were made all the time for 1 s"
    assert done["files"] == len(TREE), "the media do not wait"
    assert "database_copied" not in done


def test_a_backup_is_not_kept_waiting_by_copies_one_after_the_other(pair: Pair) -> None:
    order = []
    begun = threading.Event()

    def backup() -> None:
        begun.set()
        with backups_held(pair.backups, 30, changes=True):
            order.append("backup")

    def copy() -> None:
        with backups_held(pair.backups, 30, changes=False):
            order.append("second copy")

    with backups_held(pair.backups, 0, changes=False):
        with (
            backups_held(pair.backups, 0, changes=False),
            pytest.raises(InUseError, match="copied elsewhere"),
            backups_held(pair.backups, 1, changes=True),
        ):
            pass
        first = threading.Thread(target=backup)
        first.start()
        begun.wait()
        time.sleep(1)
        second = threading.Thread(target=copy)
        second.start()
        time.sleep(1)
        assert order == []
    first.join()
    second.join()
    assert order == ["backup", "second copy"]


@needs_restic
def test_a_copy_that_takes_too_long_is_gone_on_with(pair: Pair) -> None:
    pair.work().open()
    tree(pair.backups, {f"{FULL}/bundle/{number}": os.urandom(4 << 20).hex() for number in range(2, 10)})
    pair.restics[0].target["limit_upload"] = 4000  # type: ignore[index]
    pair.settings["database_seconds"] = 4
    done = pair.work().backup()
    assert done["database_waits"] == "it took longer than 4 s"
    assert pair.restics[0].snapshots(DATABASE) == []
    pair.restics[0].target["limit_upload"] = 0  # type: ignore[index]
    pair.settings["database_seconds"] = 60
    assert pair.backup()["database_files"] == len(REPOSITORY) + 8


# --- trials -----------------------------------------------------------------------------------------------------------


@needs_restic
def test_a_trial_proves_both_kinds(pair: Pair) -> None:
    pair.backup()
    done = pair.drill()
    assert done["database_compared"] == len(REPOSITORY)
    assert done["compared"] == len(TREE)
    made = [round(pair.restics[0].snapshots(kind)[0].made) for kind in (DATABASE, "media")]
    assert [done["database_proved"], done["media_proved"]] == made


@needs_restic
def test_a_trial_names_what_a_copy_lacks_or_has_otherwise(pair: Pair) -> None:
    pair.work().open()
    time.sleep(0.1)
    pair.restics[0].copy(DATABASE, pair.backups, ["pgbackrest"], "--exclude", "bundle")
    pair.restics[0].copy("media", pair.media, ["."])
    done = pair.work().drill()
    assert f"of the database's backups lacks 1 files: {FULL}/bundle/1" in done["problem"]
    assert "database_proved" not in done
    assert done["compared"] == len(TREE), "the other kind is proved all the same"
    pair.backup()
    tree(pair.backups, {f"{FULL}/bundle/1": "roWs"})
    assert f"{FULL}/bundle/1 came back otherwise than it is" in pair.work().drill()["problem"]


def test_what_came_after_a_copy_is_missing_there_for_nobody(pair: Pair) -> None:
    before = proofs.settled(pair.backups, time.time() + 1)
    assert set(before) == {name for name in REPOSITORY if name.startswith("pgbackrest/")}
    moment = time.time()
    time.sleep(0.1)
    tree(pair.backups, {"pgbackrest/archive/main/new": "x", "pgbackrest/archive/main/half.pgbackrest.tmp": "x"})
    assert proofs.settled(pair.backups, moment) == before
    assert "pgbackrest/archive/main/half.pgbackrest.tmp" not in proofs.settled(pair.backups, time.time() + 1)


def test_a_sample_has_the_lists_and_is_bounded() -> None:
    nodes = [Node(f"file{number}", 10, 0) for number in range(100)] + [Node("backup.info", 10, 0)]
    assert proofs.sample(nodes, 5, 1000, first=".info")[0].name == "backup.info"
    assert len(proofs.sample(nodes, 5, 1000)) == 5
    assert len(proofs.sample(nodes, 50, 25)) == 2
    drawn = {node.name for _ in range(600) for node in proofs.sample(nodes, 5, 1000)}
    assert drawn > {"file0", "file99"}, "the first and the last, which 600 samples miss once in 10^12 runs"


# --- on new hardware --------------------------------------------------------------------------------------------------


@needs_restic
def test_a_new_host_gets_all_back_as_it_was(pair: Pair) -> None:
    (pair.backups / "pgbackrest/backup/main/latest").symlink_to("20261129-010000F")
    (pair.backups / FULL).chmod(0o750)
    (pair.backups / "secrets/secrets.yml").chmod(0o600)
    pair.backup()
    pair.lose_all()
    assert pair.work().backup()["problem"].count("there are copies") == 2, "a unit that comes in between copies nothing"
    done = pair.bring()
    assert (done["target"], done["again"], done["bytes"]) == ("elsewhere", False, sum(map(len, REPOSITORY.values())))
    assert {name: text for name, text in pair.found().items() if "latest" not in name} == REPOSITORY
    assert (pair.backups / "pgbackrest/backup/main/latest").readlink() == Path("20261129-010000F")
    assert (pair.backups / FULL).stat().st_mode & 0o777 == 0o750
    assert (pair.backups / "secrets/secrets.yml").stat().st_mode & 0o777 == 0o600
    assert not list(pair.scratch.iterdir())
    assert pair.copies().restore(time.time())["copied"] == len(TREE)
    assert {name: (pair.media / name).read_text() for name in TREE} == TREE
    assert pair.bring()["again"] is True, "a repeated command goes on"
    assert pair.backup()["database_waits"] == ""


@needs_restic
def test_an_account_gets_what_is_its_own(shared_path: Path) -> None:
    pair = Pair(shared_path)
    pair.backup()
    pair.lose_all()
    os.chown(pair.backups / "pgbackrest", 12347, 12347)
    pair.bring()
    assert {path.lstat().st_uid for path in (pair.backups / "pgbackrest").rglob("*")} == {12347}
    assert (pair.backups / "pgbackrest").stat().st_uid == 12347
    assert (pair.backups / "secrets/secrets.yml").stat().st_uid == 0


@needs_restic
def test_a_run_that_was_cut_off_is_gone_on_with(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.backup()
    pair.lose_all()

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    for place in ("_give", "_put"):
        with monkeypatch.context() as patched:
            patched.setattr(rebuild, place, cut_off)
            with pytest.raises(KeyboardInterrupt):
                pair.bring()
        assert read_note(pair.reports)["target"] == "elsewhere"
        assert not (pair.backups / "pgbackrest/backup").exists()
    assert pair.bring()["again"] is False
    assert pair.found() == REPOSITORY


def test_a_host_that_has_something_is_refused_with_its_name(pair: Pair) -> None:
    with pytest.raises(
        MediaError, match=r"backups in .*pgbackrest and files in .*media, such as .*nothing was changed"
    ):
        pair.bring()
    assert pair.found() == REPOSITORY
    assert read_note(pair.reports) == {}
    shutil.rmtree(pair.backups / FULL)
    assert [words.split()[0] for words in occupied(pair.backups, pair.media)] == ["files"]
    shutil.rmtree(pair.media)
    (pair.media / "documents/12").mkdir(parents=True)
    assert occupied(pair.backups, pair.media) == [], "folders are nothing"


@needs_restic
def test_the_copy_of_a_moment_is_taken(pair: Pair) -> None:
    moments = []
    for number in range(2):
        tree(pair.backups, {"pgbackrest/archive/main/archive.info": f"state {number}"}, written=2000 + number)
        pair.backup()
        moments.append(time.time())
        time.sleep(0.05)
    pair.lose_all()
    with pytest.raises(
        MediaError, match=r"no copy of the database's backups at elsewhere of before 1970-01-01 .* oldest"
    ):
        pair.bring(1000)
    pair.bring(moments[0])
    assert pair.found()["pgbackrest/archive/main/archive.info"] == "state 0"


@needs_restic
def test_a_key_that_is_not_let_in_is_shown(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("x")
    (tmp_path / "far.key.pub").write_text("ssh-ed25519 AAAA media-backup-far\n")
    sftp = {"type": "sftp", "repository": "sftp:u@127.0.0.1:/p", "host": "127.0.0.1", "user": "u", "port": 1}
    words = rebuild.unreached(Restic(target("far", tmp_path, **sftp), tmp_path))
    assert "the copies at far cannot be opened" in words
    assert "at u@127.0.0.1, in .ssh/authorized_keys: restrict ssh-ed25519 AAAA media-backup-far Then repeat" in words


# --- what is told -----------------------------------------------------------------------------------------------------


DAY = 86400.0


def state(copied: float, proved: float) -> dict[str, dict[str, dict[str, Any]]]:
    kinds = ("database", "media")
    backup = {f"{kind}_copied": copied for kind in kinds} | {"success": True, "last_success": copied, "bytes": 5}
    drill = {f"{kind}_proved": proved for kind in kinds} | {"success": True, "last_success": proved}
    return {"elsewhere": {"backup": backup, "drill": drill}}


@pytest.mark.parametrize(
    ("proved", "since", "late"),
    [(100, 0, False), (91.5, 0, False), (90.9, 0, True), (0, 99, False), (0, 90.9, True), (91.5, 50, False)],
    ids=["new", "within", "too old", "a new target has its time", "never proved", "long known"],
)
def test_a_proved_copy_that_is_too_old_is_late(pair: Pair, proved: float, since: float, late: bool) -> None:
    known = {f"elsewhere/{kind}": since * DAY for kind in ("database", "media")}
    found = ages.ages(pair.settings, state(100 * DAY, proved * DAY), known, 100 * DAY)
    assert [(one.kind, one.late) for one in found] == [("database", late), ("media", late)]
    never = ages.ages(pair.settings | {"max_age_days": 0}, state(0, 0), known, 900 * DAY)
    assert not any(one.late for one in never)


def test_copies_that_are_too_old_are_told_once_a_day(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "REPORTS", pair.reports)
    known = state(100 * DAY, 90 * DAY)

    def mail(text: str) -> bool:
        pair.mails.append(text)
        return True

    for now in (98.0, 99.5, 99.6, 100.6):
        found = ages.watch(pair.settings, known, pair.reports, now * DAY, mail)
    assert len(pair.mails) == 2
    assert "proved copies are older than 9 days" in pair.mails[0]
    assert "the newest proved copy of the database at elsewhere is that of: 1970-04-01" in pair.mails[0]
    lines = reports.status_lines(pair.settings, known, 100 * DAY)
    assert lines[-2].startswith("ATTENTION: the newest proved copy of the database at elsewhere is that of: 1970-04-01")
    assert "database at elsewhere: copied 1970-04-11 00:00 UTC; proved 1970-04-01 00:00 UTC" in lines
    text = reports.metrics(pair.settings, known, found)
    assert 'escriptorium_media_backup_late{target="elsewhere",kind="database"} 1' in text
    assert 'escriptorium_media_backup_proved_timestamp_seconds{target="elsewhere",kind="media"} 7776000' in text
    ages.watch(pair.settings, state(100 * DAY, 100 * DAY), pair.reports, 101 * DAY, mail)
    ages.watch(pair.settings, known, pair.reports, 101.1 * DAY, mail)
    assert len(pair.mails) == 3, "it was well in between"


def test_why_a_copy_waits_is_shown_until_the_next_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "REPORTS", pair.reports)
    waits = {"run": "a", "success": True, "ended": 5000, "database_waits": "it took longer than 4 s"}
    before = reports.reported({"database_copied": 1000, "database_bytes": 3e9}, waits, "a", "", 5000)
    (line,) = (
        line for line in reports.status_lines(pair.settings, {"elsewhere": {"backup": before}}, 5000) if "WAITS" in line
    )
    assert line.startswith(
        "database at elsewhere: copied 1970-01-01 00:16 UTC, 3.0 GB (WAITS: it took longer than 4 s)"
    )
    after = reports.reported(before, {"run": "b", "success": True, "ended": 9000}, "b", "", 9000)
    assert "database_waits" not in after


@needs_restic
def test_a_site_without_images_comes_back_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_backup, "as_root", lambda _: pair.restics)
    monkeypatch.setattr(media_backup, "REPORTS", pair.reports)
    pair.settings |= {"uid": os.geteuid(), "gid": os.getegid()}
    shutil.rmtree(pair.media)
    pair.media.mkdir()
    pair.backup()
    pair.lose_all()
    options = media_backup.arguments().parse_args(["rebuild", "elsewhere"])
    assert media_backup.answer(pair.settings, options)["media"] is False
    assert pair.found() == REPOSITORY
    tree(pair.media, TREE)
    pair.backup()
    again = media_backup.answer(pair.settings, options)
    assert (again["again"], again["media"]) == (True, True)


def test_a_target_that_is_not_there_is_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_backup, "as_root", lambda _: pair.restics)
    pair.settings |= {"uid": os.geteuid(), "gid": os.getegid()}
    options = media_backup.arguments().parse_args(["rebuild", "elsewere"])
    with pytest.raises(MediaError, match="there is no target elsewere; the targets: elsewhere"):
        media_backup.answer(pair.settings, options)
    options = media_backup.arguments().parse_args(["restore", "5", "--from", "nowhere"])
    with pytest.raises(MediaError, match="no target nowhere"):
        media_backup.answer(pair.settings, options)
