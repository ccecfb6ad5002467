"""Files that come back from snapshots: which one is asked, and what is never touched."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.backup_programs import recover_files
from module_utils.backup_programs.files import MediaError, missing_folders
from module_utils.backup_programs.recover_files import Source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PAGE = "documents/12/page.png"
LISTED = "tank/media@b\t200\ntank/media@a\t100\ntank/media@d\t400\ntank/media@c\t300\n"


def tree(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1000, 1000))
    folder.mkdir(exist_ok=True)
    return folder


def recover(media: Path, sources: list[Source], *names: str, **settings: Any) -> dict[str, Any]:
    request = {"media": str(media), "files": list(names), "uid": os.geteuid(), "gid": os.getegid()}
    return recover_files.recover(request | settings, sources)


@pytest.mark.parametrize(
    ("moment", "order"),
    [(250, "bacd"), (300, "cbad"), (50, "abcd"), (900, "dcba")],
    ids=["between", "at a snapshot's second", "before all", "after all"],
)
def test_snapshots_are_asked_from_the_moment_backwards_and_then_onwards(moment: float, order: str) -> None:
    assert "".join(recover_files.in_order(LISTED, moment)) == order


def test_each_file_comes_from_the_first_snapshot_that_has_it(tmp_path: Path) -> None:
    media = tree(tmp_path / "media", {"kept.png": "today"})
    snapshots = {
        "b": {PAGE: "page of b", "kept.png": "then"},
        "a": {PAGE: "page of a", "models/x/old.mlmodel": "epoch"},
        "d": {"late.png": "written after the moment"},
    }
    for name, files in snapshots.items():
        tree(media / ".zfs/snapshot" / name, files)
    listed = {"list": LISTED, "get": f"{media}\n"}
    sources = recover_files.snapshots("tank/media", 250, lambda *words: listed[words[1]])
    (tmp_path / "media/.zfs/snapshot/b/documents/12").chmod(0o750)
    done = recover(media, sources, PAGE, "models/x/old.mlmodel", "late.png", "kept.png", "never.png", PAGE)
    assert (media / PAGE).read_text() == "page of b"
    assert (media / PAGE).stat().st_mtime == 1000
    assert (media / PAGE).parent.stat().st_mode & 0o777 == 0o750
    assert (media / "models/x/old.mlmodel").read_text() == "epoch"
    assert (media / "kept.png").read_text() == "today"
    assert done == {
        "copied": 3,
        "bytes": 9 + 5 + 24,
        "there": 1,
        "missing": ["never.png"],
        "sources": {"b": 1, "a": 1, "d": 1},
    }
    assert not list(media.glob("**/.recover-*"))


@pytest.mark.parametrize("folder", ["", "copy"], ids=["from snapshots", "from a copy"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_nothing_is_looked_for_while_the_dataset_is_not_mounted(tmp_path: Path, folder: str, dry_run: bool) -> None:
    """Its place is an empty folder then: what is written there keeps the dataset from being mounted ever again."""
    media, copy = tree(tmp_path / "media", {}), tree(tmp_path / "copy", {PAGE: "page"})
    request = {"media": str(media), "dataset": "tank/media", "moment": 250, "dry_run": dry_run, "files": [PAGE]}
    request["folder"] = str(copy) if folder else ""
    mounted = "no\n"

    def run(*words: str) -> str:
        if words[:2] == ("zfs", "list"):
            return LISTED
        return {"mounted": mounted, "mountpoint": f"{media}\n"}[words[-2]]

    with pytest.raises(MediaError, match="tank/media is not mounted, nothing was changed: zfs mount tank/media"):
        recover_files.sources_of(request, run)
    mounted = "yes\n"
    assert [source.name for source in recover_files.sources_of(request, run)] == ([str(copy)] if folder else [*"bacd"])


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    media, copy = tree(tmp_path / "media", {}), tree(tmp_path / "copy", {PAGE: "page"})
    done = recover(media, [Source("copy", copy)], PAGE, dry_run=True)
    assert (done["copied"], done["bytes"]) == (1, 4)
    assert not any(media.iterdir())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "documents/../../secret", "", "."])
def test_names_that_lead_out_of_the_media_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MediaError, match="no name of a file"):
        recover(tree(tmp_path / "media", {}), [], name)


def test_links_in_a_copy_lead_nowhere(tmp_path: Path) -> None:
    media, copy = tree(tmp_path / "media", {}), tree(tmp_path / "copy", {})
    secret = tree(tmp_path / "secret", {"key": "k"})
    (copy / "file").symlink_to(secret / "key")
    (copy / "folder").symlink_to(secret)
    done = recover(media, [Source("copy", copy)], "file", "folder/key")
    assert done["missing"] == ["file", "folder/key"]


def test_files_get_the_owner_of_the_media_and_links_there_lead_no_further_than_the_owner_may_go(
    shared_path: Path,
) -> None:
    media = tree(shared_path / "media", {})
    os.chown(media, 2000, 2000)
    # A copy that only root can read.
    copy = tree(shared_path / "copy", {PAGE: "page", "trap/page.png": "page"})
    copy.chmod(0o700)
    outside = tree(shared_path / "outside", {})
    (media / "trap").symlink_to(outside)
    sources = [Source("copy", copy)]
    recover(media, sources, PAGE, uid=2000, gid=2000)
    for path in (media / PAGE, (media / PAGE).parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (2000, 2000)
    with pytest.raises(MediaError, match="Permission denied"):
        recover(media, sources, "trap/page.png", uid=2000, gid=2000)
    assert not any(outside.iterdir())
    assert os.geteuid() == 0


def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media, copy = tree(tmp_path / "media", {}), tree(tmp_path / "copy", {PAGE: "page"})

    def full(*_: Any) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(MediaError, match=f"{PAGE}: Disk quota exceeded"):
        recover(media, [Source("copy", copy)], PAGE)
    assert not [path for path in media.glob("**/*") if path.is_file()]


def test_command_says_what_it_did_or_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    media = tree(tmp_path / "media", {})
    request = {"media": str(media), "files": [PAGE], "uid": os.geteuid(), "gid": os.getegid()}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    assert recover_files.main() == 0
    assert json.loads(capsys.readouterr().out)["missing"] == [PAGE]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request | {"folder": "/nowhere"})))
    assert recover_files.main() == 1
    assert "the folder /nowhere (recover_files_from) is not there" in capsys.readouterr().err


def test_a_file_that_became_a_link_after_it_was_found_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the media may lie where others write."""
    media, copy = tree(tmp_path / "media", {}), tree(tmp_path / "copy", {"d/key": "theirs"})
    secret = tree(tmp_path / "secret", {"key": "root's"})
    found = missing_folders

    def attack(target: Path, source: Path, top: Path) -> list[tuple[Path, int]]:
        folders = found(target, source, top)
        (copy / "d").rename(copy / "moved")
        (copy / "d").symlink_to(secret)
        return folders

    monkeypatch.setattr(recover_files, "missing_folders", attack)
    assert recover(media, [Source("copy", copy)], "d/key")["copied"] == 1
    assert (media / "d/key").read_text() == "theirs"


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_nowhere_else_is_asked_of_the_copies(tmp_path: Path, dry_run: bool) -> None:
    media, copy = tree(tmp_path / "media", {}), tree(tmp_path / "copy", {PAGE: "page"})
    request: dict[str, Any] = {"media": str(media), "uid": os.geteuid(), "gid": os.getegid(), "dry_run": dry_run}
    request |= {"files": [PAGE, "a.png", "b.png"], "copies": True, "moment": "250"}
    asked = []

    def ask(text: str) -> str:
        asked.append(json.loads(text))
        counts = {"copied": 1, "bytes": 7, "there": 0, "sources": {"local of today": 1}}
        return json.dumps({**counts, "missing": ["b.png"], "problems": ["elsewhere: away"], "kept": 0})

    done = recover_files.recover_from_copies(request, recover_files.recover(request, [Source("copy", copy)]), ask)
    assert asked == [{"files": ["a.png", "b.png"], "moment": "250", "dry_run": dry_run}]
    assert done == {
        "copied": 2,
        "bytes": 11,
        "there": 0,
        "missing": ["b.png"],
        "sources": {"copy": 1, "local of today": 1},
        "problems": ["elsewhere: away"],
    }
    found = recover_files.recover({**request, "files": [PAGE]}, [Source("copy", copy)])
    assert recover_files.recover_from_copies(request, found, ask)["missing"] == []
    found = recover_files.recover({**request, "files": ["a.png"]}, [])
    assert recover_files.recover_from_copies({**request, "copies": False}, found, ask)["missing"] == ["a.png"]
    assert len(asked) == 1, "only what is missing, and only where there are copies"


def test_copies_that_cannot_be_asked_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover_files, "COPIES", ("sh", "-c", "cat >&2; exit 1"))
    with pytest.raises(MediaError, match="the copies of the media give nothing: a request"):
        recover_files.ask_copies("a request")
