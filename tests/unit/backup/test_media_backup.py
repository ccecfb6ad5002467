"""Copies of the media, made and brought back by the real restic: what is in them, what comes back, what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.backup_programs import ages, media_backup, reports, work
from module_utils.backup_programs.bring import Copies
from module_utils.backup_programs.files import Account, MediaError
from module_utils.backup_programs.locks import InUseError, only_one
from module_utils.backup_programs.restic import (
    BATCH_FILES,
    HOST,
    SHOWN,
    Node,
    Restic,
    Snapshot,
    batches,
    in_order,
    not_read,
)
from tests.unit.backup.copies import MODEL, PAGE, TREE, Site, needs_restic, target, tree

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- what is copied ---------------------------------------------------------------------------------------------------


@needs_restic
def test_all_but_what_is_made_again_is_copied(site: Site) -> None:
    tree(
        site.media,
        {
            "documents/12/page.png.180x180_q85_crop-smart.png": "thumbnail",
            "documents/12/.recover-abc": "unfinished",
            "documents/12/scan.png.300x300_q90.png": "an image that somebody has given such a name",
            "documents/12/a b $HOME.png.50x50_q85.jpg": "another one",
            "users/3/export_doc12_a_alto_20260101120000.zip": "export",
        },
    )
    done = site.backup()
    kept = {"documents/12/scan.png.300x300_q90.png", "documents/12/a b $HOME.png.50x50_q85.jpg"}
    assert site.names() == {*TREE, *kept, "users/3/export_doc12_a_alto_20260101120000.zip"}
    assert done["files"] == 6
    assert done["bytes"] > 0
    stored = b"".join(path.read_bytes() for path in (site.folder / "local").rglob("*") if path.is_file())
    assert b"epoch" not in stored, "it is encrypted"
    assert site.backup()["added_bytes"] < 2000, "what is there is not stored again"


@needs_restic
def test_a_link_among_the_media_leads_nowhere(site: Site) -> None:
    secret = tree(site.folder / "root", {"key": "of root"})
    (site.media / "documents/folder").symlink_to(secret)
    (site.media / "documents/file.png").symlink_to(secret / "key")
    site.backup()
    assert site.names() == set(TREE)


@needs_restic
def test_a_copy_that_was_cut_off_is_gone_on_with(site: Site) -> None:
    noise = os.urandom(24 << 20)
    (site.media / "large.bin").write_bytes(noise)
    site.work().open()
    first = subprocess.Popen(
        # So slowly that it is at its second pack for two seconds after its first.
        site.restics[0].command("--limit-upload", "4000", "backup", "--host", HOST, "."),
        cwd=site.media,
        env={**site.restics[0].environment(), "GOMAXPROCS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    data = site.folder / "local/data"
    deadline = time.monotonic() + 60
    while not any(
        path.stat().st_size > 1 << 20 for path in data.rglob("*") if path.is_file() and "tmp" not in path.name
    ):
        assert first.poll() is None, "it was too fast to be cut off"
        assert time.monotonic() < deadline
    first.kill()
    first.wait()
    assert list((site.folder / "local/locks").iterdir()), "it had no time to take its lock away"
    done = site.backup()
    assert done["files"] == len(TREE) + 1
    assert not list((site.folder / "local/locks").iterdir()), "the lock of a process that is gone"
    assert site.work().prune()["copies"] == 1
    assert site.drill()["compared"] == len(TREE), "the sample is bounded: the large file is not in it"


def test_files_that_go_meanwhile_cost_no_copy(tmp_path: Path) -> None:
    gone = json.dumps({"message_type": "error", "error": {"Op": "lstat", "Path": "/m/a", "Err": 2}, "item": "/m/a"})
    newer = json.dumps({"message_type": "error", "error": {"message": "lstat /m/b: no such file or directory"}})
    broken = json.dumps({"message_type": "error", "error": {"Op": "read", "Path": "/m/c", "Err": 5}, "item": "/m/c"})
    assert not_read(f"{gone}\n{newer}\nwords\n", tmp_path) == ([], 2)
    unread, count = not_read(f"{gone}\n{broken}", tmp_path)
    assert (len(unread), count) == (1, 1)
    assert unread[0].startswith("/m/c")
    silent = json.dumps({"message_type": "error", "error": {}, "item": "page.png"})
    assert not_read(silent, tmp_path) == ([], 1)
    (tmp_path / "page.png").touch()
    assert not_read(silent, tmp_path) == (["page.png: {}"], 0)


@needs_restic
def test_an_empty_folder_replaces_no_copy(site: Site) -> None:
    site.backup()
    shutil.rmtree(site.media)
    site.media.mkdir()
    with pytest.raises(MediaError, match="is empty, and there are copies: is it mounted"):
        site.backup()
    for path in site.state.iterdir():
        path.unlink()
    with pytest.raises(MediaError, match="is empty, and there are copies"):
        site.backup()  # on a new host
    assert site.copies().restore(time.time())["copied"] == len(TREE)
    assert site.backup()["files"] == len(TREE)


@needs_restic
def test_the_first_day_of_a_platform_is_no_failure(site: Site) -> None:
    shutil.rmtree(site.media)
    site.media.mkdir()
    assert site.backup()["files"] == 0
    assert site.work().drill()["compared"] == 0
    assert site.work().prune()["copies"] == 0
    tree(site.media, TREE)
    assert site.work().drill()["problem"] == "there is no copy of the media yet"
    assert site.backup()["files"] == len(TREE)
    assert site.work().drill()["compared"] == len(TREE)


@needs_restic
def test_a_target_that_is_away_is_not_begun_anew(site: Site) -> None:
    site.backup()
    place = site.folder / "local"
    place.rename(site.folder / "unplugged")
    place.mkdir()
    with pytest.raises(MediaError, match="cannot be opened, and there were some"):
        site.backup()
    assert not list(place.iterdir())
    subprocess.run(site.restics[0].command("init"), env=site.restics[0].environment(), check=True, capture_output=True)
    with pytest.raises(MediaError, match=r"are others \(.{8}\) than before"):
        site.backup()
    shutil.rmtree(place)
    (site.folder / "unplugged").rename(place)
    assert site.backup()["files"] == len(TREE)


@needs_restic
def test_nothing_is_removed_where_copies_are_only_added(site: Site) -> None:
    site.settings["targets"][0]["append_only"] = True
    site.backup()
    with pytest.raises(MediaError, match="local is append_only"):
        site.work().prune()


@needs_restic
def test_old_copies_go(site: Site) -> None:
    site.settings["keep"] = {"hourly": 1}
    for number in range(3):
        tree(site.media, {PAGE: f"state {number}"}, written=2000 + number)
        site.backup()
    assert len(site.restics[0].snapshots()) == 3
    done = site.work().prune()
    assert done["copies"] == 1
    assert done["target_bytes"] > 0
    assert site.names() == set(TREE)


@needs_restic
def test_two_at_once_are_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with only_one(site.state, "local"), only_one(site.state, "other"):
        with pytest.raises(InUseError), only_one(site.state, "local", patience=1):
            pass
        assert time.monotonic() - began >= 1, "weekly work waits for the hourly one"
        assert work.work(site.settings, "backup", site.restics[0], site.state) == work.IN_USE
    assert "another one is at work on local" in capsys.readouterr().err
    assert not (site.state / "local.backup.json").exists(), "what became of the other one is not overwritten"
    assert work.work(site.settings, "backup", site.restics[0], site.state) == 0
    assert json.loads((site.state / "local.backup.json").read_text())["success"] is True


def test_no_secret_is_among_the_words_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("of-the-copies")
    for name in "ab":
        (tmp_path / f"{name}.login").write_text(json.dumps({"user": "plat:form", "password": "of/the@server"}))
    rest = Restic(target("a", tmp_path, type="rest", repository="rest:https://b.example.org/x/", login=True), tmp_path)
    s3 = Restic(
        target("b", tmp_path, type="s3", repository="s3:https://s.example.org/b", region="eu", login=True), tmp_path
    )
    sftp = {"type": "sftp", "repository": "sftp:u@h:/p", "host": "h", "user": "u", "port": 2222, "limit_upload": 500}
    ssh = Restic(target("c", tmp_path, **sftp), tmp_path)
    for restic in (rest, s3, ssh):
        words = " ".join(restic.command("backup"))
        for secret in ("of-the-copies", "of/the@server", "of%2Fthe"):
            assert secret not in words
    assert rest.environment()["RESTIC_REPOSITORY"] == "rest:https://plat%3Aform:of%2Fthe%40server@b.example.org/x/"
    assert s3.environment()["AWS_SECRET_ACCESS_KEY"] == "of/the@server"
    assert s3.environment()["RESTIC_REPOSITORY"] == "s3:https://s.example.org/b"
    assert "StrictHostKeyChecking=yes" in " ".join(ssh.command())
    assert "-p 2222" in " ".join(ssh.command())
    assert ssh.command()[2:4] == ["--limit-upload", "500"]


# --- trials -----------------------------------------------------------------------------------------------------------


@needs_restic
def test_a_trial_reads_each_part_in_turn_and_compares_a_sample(site: Site) -> None:
    site.settings["check_parts"] = 2
    site.backup()
    tree(site.media, {PAGE: "written anew"}, written=3000)
    assert [site.drill()["part"] for _ in range(3)] == ["1/2", "2/2", "1/2"]
    done = site.drill()
    assert (done["sample"], done["compared"]) == (3, 2), "what was changed since is not compared"
    assert not list(site.state.glob("drill-*"))


@needs_restic
def test_a_damaged_pack_is_found_and_named(site: Site) -> None:
    site.backup()
    packs = site.spoil_packs()
    with pytest.raises(MediaError, match="part 1 of 1 is damaged") as found:
        site.drill()
    assert any(name[:8] in str(found.value) for name in packs)


@needs_restic
def test_a_live_file_that_is_otherwise_is_named(site: Site) -> None:
    """As by a disk that forgets: same size, same time."""
    site.backup()
    tree(site.media, {PAGE: "paqe"})
    with pytest.raises(MediaError, match=f"{PAGE} came back otherwise than it is"):
        site.drill()


# --- what comes back --------------------------------------------------------------------------------------------------


@needs_restic
@pytest.mark.parametrize("dry_run", [True, False])
def test_deleted_files_come_back_as_they_were(site: Site, dry_run: bool) -> None:
    site.backup()
    modes = {name: (site.media / name).stat().st_mode for name in TREE}
    shutil.rmtree(site.media / "documents")
    (site.media / MODEL).write_text("today")
    outcome = site.copies().bring([*TREE, "never.png"], time.time(), dry_run=dry_run)
    assert (outcome.copied, outcome.bytes, outcome.there, outcome.missing) == (2, 11, 1, ["never.png"])
    assert [key.split()[0] for key in outcome.sources] == ["local"]
    assert (site.media / MODEL).read_text() == "today", "a file that is there is never touched"
    for name in TREE.keys() - {MODEL}:
        assert (site.media / name).exists() is not dry_run
        if not dry_run:
            assert (site.media / name).read_text() == TREE[name]
            assert (site.media / name).stat().st_mtime == 1000
            assert (site.media / name).stat().st_mode == modes[name]
    assert not list(site.scratch.iterdir())
    assert not list(site.media.glob("**/.recover-*"))


@needs_restic
def test_files_come_from_the_copy_at_the_moment(site: Site) -> None:
    moments = []
    for number in range(3):
        tree(site.media, {PAGE: f"state {number}"}, written=2000 + number)
        site.backup()
        moments.append(time.time())
        time.sleep(0.05)
    (site.media / PAGE).unlink()
    for moment, text in ((moments[1], "state 1"), (moments[2], "state 2"), (0, "state 0")):
        assert site.copies().bring([PAGE], moment).missing == []
        assert (site.media / PAGE).read_text() == text
        (site.media / PAGE).unlink()


def test_copies_are_asked_from_the_moment_backwards_and_then_onwards() -> None:
    made = [Snapshot(name, name, moment) for name, moment in (("b", 200), ("a", 100), ("d", 400), ("c", 300))]
    for moment, order in ((250, "bacd"), (300, "cbad"), (50, "abcd"), (900, "dcba")):
        assert "".join(one.name for one in in_order(made, moment)) == order


@needs_restic
def test_what_one_target_has_damaged_comes_from_another_one(tmp_path: Path) -> None:
    site = Site(tmp_path, "local", "elsewhere")
    site.backup(0)
    site.backup(1)
    site.spoil_packs(0)
    (site.media / PAGE).unlink()
    outcome = site.copies().bring([PAGE], time.time())
    assert (site.media / PAGE).read_text() == "page"
    assert [key.split()[0] for key in outcome.sources] == ["elsewhere"]
    assert outcome.problems
    assert outcome.problems[0].startswith("local: ")
    # Not there at all: the other one is asked.
    (tmp_path / "local").rename(tmp_path / "unplugged")
    (site.media / PAGE).unlink()
    assert site.copies().bring([PAGE], time.time()).missing == []


@needs_restic
def test_a_file_that_cannot_be_read_is_never_taken_for_whole(site: Site) -> None:
    site.backup()
    site.spoil_packs()
    shutil.rmtree(site.media / "documents")
    outcome = site.copies().bring([PAGE], time.time())
    assert (outcome.copied, outcome.missing) == (0, [PAGE])
    assert not (site.media / PAGE).exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "documents/../../secret", "", "."])
def test_names_that_lead_out_of_the_media_are_refused(site: Site, name: str) -> None:
    with pytest.raises(MediaError, match="no name of a file"):
        site.copies().bring([name], 0)


@needs_restic
def test_files_are_written_as_the_owner_of_the_media(shared_path: Path) -> None:
    """A link that the owner has put in the way leads nowhere that the owner may not go."""
    site = Site(shared_path)
    for path in (site.media, *site.media.rglob("*")):
        os.chown(path, 12345, 12345)
    site.backup()
    kept = shared_path / "of-root"
    kept.mkdir(mode=0o755)
    shutil.rmtree(site.media / "documents")
    copies = Copies(site.settings, site.restics, site.scratch, Account(12345, 12345))
    (site.media / "documents").symlink_to(kept)
    with pytest.raises(MediaError, match="Permission denied"):
        copies.bring([PAGE], time.time())
    (site.media / "documents").unlink()
    assert copies.bring([PAGE], time.time()).copied == 1
    assert (site.media / PAGE).stat().st_uid == 12345
    assert (site.media / "documents").stat().st_uid == 12345
    assert not list(kept.iterdir())


@needs_restic
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another account")
def test_root_asks_targets_as_the_account_of_the_copies(shared_path: Path) -> None:
    site = Site(shared_path)
    account = Account(12346, 12346)
    for path in (site.secrets, site.secrets / "passphrase"):
        os.chown(path, *vars(account).values())
    (site.secrets / "passphrase").chmod(0o400)
    site.scratch.chmod(0o711)
    (shared_path / "local").mkdir()
    os.chown(shared_path / "local", account.uid, account.gid)
    site.restics = [Restic(site.settings["targets"][0], site.secrets, account)]
    site.backup()
    assert {path.stat().st_uid for path in (shared_path / "local").rglob("*")} == {account.uid}
    (site.media / PAGE).unlink()
    assert site.copies().bring([PAGE], time.time()).copied == 1
    assert (site.media / PAGE).stat().st_uid == 0, "the owner of the media, here root"


@needs_restic
def test_all_media_go_back_to_a_moment(site: Site) -> None:
    tree(site.media, {"documents/12/kept.png": "kept"})
    site.backup()
    tree(
        site.media, {"documents/12/between.png": "between", "documents/12/kept.png": "newer than the copy"}, time.time()
    )
    moment = time.time()
    time.sleep(1.1)
    (site.media / MODEL).unlink()
    (site.media / PAGE).write_text("after the moment")
    (site.media / "documents/12/later.png").write_text("later")
    before = {path: path.read_text() for path in site.media.rglob("*") if path.is_file()}

    dry = site.copies().restore(moment, dry_run=True)
    assert (dry["copied"], dry["moved"]) == (2, 1)
    assert {path: path.read_text() for path in site.media.rglob("*") if path.is_file()} == before

    done = site.copies().restore(moment)
    assert (done["copied"], done["moved"], done["kept"], done["there"], done["missing"]) == (2, 1, 1, 1, [])
    assert done["target"] == "local"
    assert done["made"] <= moment
    assert (site.media / PAGE).read_text() == "page"
    assert (Path(done["before"]) / PAGE).read_text() == "after the moment", "nothing is lost"
    assert (site.media / MODEL).read_text() == "epoch"
    assert (site.media / "documents/12/between.png").read_text() == "between"
    assert (site.media / "documents/12/kept.png").read_text() == "newer than the copy"
    assert (site.media / "documents/12/later.png").read_text() == "later"
    again = site.copies().restore(moment)
    assert (again["copied"], again["moved"], again["before"]) == (0, 0, "")


@needs_restic
def test_a_restore_that_was_cut_off_is_finished(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backup()
    moment = time.time()
    time.sleep(1.1)
    for name in TREE:
        (site.media / name).write_text("after the moment")

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Copies, "_write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            site.copies().restore(moment)
    assert not list(site.scratch.iterdir())
    assert site.copies().restore(moment)["missing"] == []
    assert {name: (site.media / name).read_text() for name in TREE} == TREE


@needs_restic
def test_a_moment_before_all_copies_is_refused(site: Site) -> None:
    site.backup()
    with pytest.raises(MediaError, match="no copy of the media from before that moment"):
        site.copies().restore(1000)
    assert site.copies().nearest(1000, []) is None


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.fixture
def told(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Report a unit as its ExecStopPost= does; mails go to ``mails`` of the site."""
    (site.folder / "reports").mkdir()
    monkeypatch.setattr(reports, "REPORTS", site.folder / "reports")
    monkeypatch.setattr(reports, "STATE", site.state)

    def mail(text: str) -> bool:
        site.mails.append(text)
        return True

    def report(left: dict[str, Any] | None, now: float, verb: str = "backup", **environment: str) -> dict[str, Any]:
        if left is not None:
            (site.state / f"local.{verb}.json").write_text(json.dumps(left))
        for name in ("INVOCATION_ID", "SERVICE_RESULT", "EXIT_STATUS"):
            monkeypatch.setenv(name, environment.get(name, ""))
        reports.report(site.settings, "local", verb, now, mail)
        path = site.folder / f"reports/local.{verb}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    return report


def test_results_reach_monitoring_and_operators(site: Site, told: Callable[..., dict[str, Any]]) -> None:
    good = {"run": "a", "success": True, "ended": 5000, "seconds": 2.5, "files": 7, "bytes": 9_000_000_000}
    assert told(good, 5001, INVOCATION_ID="a")["last_success"] == 5000
    state = told({"run": "b", "success": False, "ended": 9000, "problem": "no\nroom"}, 9001, INVOCATION_ID="b")
    assert (state["last_success"], state["problem"], state["bytes"]) == (5000, "no room", 9_000_000_000)
    text = (site.folder / "media.prom").read_text()
    rows = dict(re.findall(r"^escriptorium_media_backup_(\w+)\{.*\} (\S+)$", text, re.MULTILINE))
    assert (rows["success"], rows["last_success_timestamp_seconds"], rows["bytes"]) == ("0", "5000", "9000000000")
    lines = reports.status_lines(site.settings, reports.read_reports(site.settings, site.folder / "reports"), 9001)
    assert lines[0].startswith("media at local: backup 1970-01-01 01:23 UTC, 7 files, 9.0 GB (FAILED ")
    assert "drill never" in lines[0]


def test_a_unit_that_was_killed_counts_as_failed(told: Callable[..., dict[str, Any]]) -> None:
    told({"run": "a", "success": True, "ended": 5000}, 5001, INVOCATION_ID="a")
    state = told(None, 6000, INVOCATION_ID="b", SERVICE_RESULT="oom-kill")
    assert state["success"] is False
    assert "oom-kill" in state["problem"]
    assert state["last_success"] == 5000


def test_one_that_made_way_says_nothing(told: Callable[..., dict[str, Any]]) -> None:
    assert told(None, 6000, INVOCATION_ID="b", EXIT_STATUS="75") == {}


def test_failures_are_mailed_once_a_day(site: Site, told: Callable[..., dict[str, Any]]) -> None:
    day = ages.MAIL_PAUSE
    bad = {"success": False, "problem": "no room", "ended": 1}
    for number, now in enumerate((day * 9, day * 9 + 3600, day * 10 + 3700)):
        told(bad | {"run": str(number)}, now, INVOCATION_ID=str(number))
    assert len(site.mails) == 2
    assert "the backup at local failed" in site.mails[0]
    assert "no room" in site.mails[0]
    told({"run": "g", "success": True, "ended": day * 10 + 4000}, day * 10 + 4000, INVOCATION_ID="g")
    told(bad | {"run": "h"}, day * 10 + 5000, INVOCATION_ID="h")
    assert len(site.mails) == 3, "it went well in between"


def test_root_takes_numbers_and_words_of_the_account_and_no_more(site: Site) -> None:
    path = site.state / "local.backup.json"
    path.write_text(json.dumps({"success": True, "bytes": 3, "problem": "a\x1b[31m\nb" * 1000, "more": {"x": 1}}))
    left = reports.left_result(site.state, "local", "backup")
    assert left.keys() == {"success", "bytes", "problem"}
    assert "\x1b" not in left["problem"]
    assert len(left["problem"]) <= SHOWN
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert reports.left_result(site.state, "local", "backup") == {}
    path.unlink()
    os.mkfifo(path)
    assert reports.left_result(site.state, "local", "backup") == {}


def test_only_a_unit_does_the_work_of_a_unit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root or a person starts by hand would leave files that the account of the copies may not read."""
    options = media_backup.arguments().parse_args(["backup", "local"])
    for uid, run in ((0, "a"), (1000, "")):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        monkeypatch.setenv("INVOCATION_ID", run)
        if not run:
            monkeypatch.delenv("INVOCATION_ID")
        with pytest.raises(MediaError, match="systemctl start media-backup@TARGET does it; the targets: local"):
            media_backup.run_unit(site.settings, options)
    assert not list(site.state.iterdir())


def test_batches_are_bounded() -> None:
    nodes = [Node(str(number), 3 << 29, 0) for number in range(5)]
    assert [len(batch) for batch in batches(nodes)] == [1, 1, 1, 1, 1]
    small = [Node(str(number), 1, 0) for number in range(BATCH_FILES + 1)]
    assert [len(batch) for batch in batches(small)] == [BATCH_FILES, 1]
