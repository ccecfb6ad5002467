"""Files of a host: what is written, in which order, and what stays as it is when something cannot be."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from module_utils.host_config.files import Change, FileError, WantedFile, apply_all

ME, MINE = str(os.getuid()), str(os.getgid())


def run(words: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def wanted(path: Path, **others: Any) -> WantedFile:
    return WantedFile(str(path), **{"owner": ME, "group": MINE, **others})


def apply(*files: WantedFile, check: bool = False) -> list[Change]:
    return apply_all(files, check=check, run=run)


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):04o}"


def test_a_tree_is_made_in_order_and_is_right_the_second_time(tmp_path: Path) -> None:
    tree = [
        wanted(tmp_path / "a/b", state="directory"),
        wanted(tmp_path / "a/b/text", content="x\n", mode="0640"),
        wanted(tmp_path / "a/link", state="link", target="b/text"),
        wanted(tmp_path / "a/b/key", state="made", command=["sh", "-c", f"echo k > {tmp_path}/a/b/key"]),
    ]
    looked = apply(*tree, check=True)
    assert list(tmp_path.iterdir()) == []
    assert [change.path for change in apply(*tree)] == [file.path for file in tree]
    assert [change.path for change in looked] == [file.path for file in tree]
    assert (tmp_path / "a/link").read_text() == "x\n"
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/text", "a/b/key")] == ["0755", "0755", "0640", "0600"]
    assert apply(*tree) == []


def test_only_what_differs_is_written_and_named(tmp_path: Path) -> None:
    same, other, rights = (tmp_path / name for name in ("same", "other", "rights"))
    for path in (same, other, rights):
        path.write_text("old\n")
        path.chmod(0o644)
    before = same.stat().st_ino
    changes = apply(
        wanted(same, content="old\n"), wanted(other, content="new\n"), wanted(rights, content="old\n", mode="0600")
    )
    assert [(change.path, change.notes) for change in changes] == [
        (str(other), []),
        (str(rights), ["mode 0644 -> 0600"]),
    ]
    assert changes[0].diff() == {
        "before_header": str(other),
        "after_header": str(other),
        "before": "old\n",
        "after": "new\n",
    }
    assert same.stat().st_ino == before
    assert mode(rights) == "0600"
    assert other.read_text() == "new\n"


def test_a_secret_is_in_no_difference_and_in_no_reason(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter1\n")
    (change,) = apply(wanted(path, content="hunter2\n", secret=True, mode="0600"))
    assert "hunter" not in str(change.diff())
    assert "content changed" in change.diff()["after"]
    assert mode(path) == "0600"
    with pytest.raises(FileError, match="may hold the secret") as refused:
        apply(wanted(path, content="hunter3\n", secret=True, validate="sh -c 'cat %s; exit 1'"))
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("check", [False, True])
def test_one_file_that_is_refused_keeps_all_as_they_are(tmp_path: Path, check: bool) -> None:
    first, gone, second = tmp_path / "first", tmp_path / "gone", tmp_path / "second"
    first.write_text("old\n")
    gone.write_text("stays\n")
    with pytest.raises(FileError, match=f"{second} stays as it is: grep refuses"):
        apply(
            wanted(first, content="new\n"),
            wanted(gone, state="absent"),
            wanted(second, content="bad\n", validate="grep -q good %s"),
            check=check,
        )
    assert first.read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "gone"], "nothing is left beside them"


def test_a_validation_sees_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    apply(wanted(path, content="good\n", validate="grep -q good %s"))
    assert path.read_text() == "good\n"
    (tmp_path / "other").write_text("")
    assert len(apply(wanted(tmp_path / "bare", content="x\n", validate="/no/such/program %s"), check=True)) == 1


@pytest.mark.parametrize(
    ("before", "replaces", "after"),
    [
        ("", "", "include x\n"),
        ("a\nb", "", "a\nb\ninclude x\n"),
        ("a\ninclude x\nb\n", "include", "a\ninclude x\nb\n"),
        ("a\ninclude y\nb\ninclude z\n", "include", "a\ninclude x\nb\n"),
        ("include x\ninclude y\n", "include", "include x\n"),
    ],
)
def test_a_line(tmp_path: Path, before: str, replaces: str, after: str) -> None:
    path = tmp_path / "file"
    path.write_text(before)
    path.chmod(0o640)
    line = WantedFile(str(path), state="line", content="include x", replaces=replaces)
    assert len(apply(line)) == (before != after)
    assert (path.read_text(), mode(path)) == (after, "0640")
    assert apply(line) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "# BEGIN x\na\nb\n# END x\n"),
        ("127.0.0.1 localhost\n", "127.0.0.1 localhost\n# BEGIN x\na\nb\n# END x\n"),
        ("1\n# BEGIN x\nold\n# END x\n2\n", "1\n# BEGIN x\na\nb\n# END x\n2\n"),
        ("1\n# BEGIN x\na\nb\n# END x\n2\n", "1\n# BEGIN x\na\nb\n# END x\n2\n"),
    ],
)
def test_a_block(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(before)
    path.chmod(0o640)
    block = WantedFile(str(path), state="block", content="a\nb", replaces="x")
    assert len(apply(block)) == (before != after)
    assert (path.read_text(), mode(path)) == (after, "0640")
    assert apply(block) == []


@pytest.mark.parametrize("left", ["# BEGIN x\na\n", "a\n# END x\n", "# END x\na\n# BEGIN x\n"])
def test_half_a_block_is_left_to_a_person(tmp_path: Path, left: str) -> None:
    (tmp_path / "hosts").write_text(left)
    with pytest.raises(FileError, match="has only one of the lines '# BEGIN x' and '# END x'"):
        apply(wanted(tmp_path / "hosts", state="block", content="b", replaces="x"))
    assert (tmp_path / "hosts").read_text() == left


def test_a_file_that_is_a_mount_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    path.write_text("1\n")
    inode = path.stat().st_ino

    def busy(_: Path, __: str) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    assert len(apply(wanted(path, state="block", content="a", replaces="x"))) == 1
    assert (path.read_text(), path.stat().st_ino) == ("1\n# BEGIN x\na\n# END x\n", inode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["hosts"]


KEYS = 'restrict,from="10.0.0.1" a\nrestrict,from="10.0.0.10" b\nssh-ed25519 c\n'


@pytest.mark.parametrize(
    ("replaces", "after"),
    [
        (r'^(?!restrict,from="(10\.0\.0\.1|10\.0\.0\.2)" )', 'restrict,from="10.0.0.1" a\n'),
        ('^(?!restrict,from="()" )', ""),
        ("nothing", KEYS),
    ],
)
def test_lines_go(tmp_path: Path, replaces: str, after: str) -> None:
    path = tmp_path / "keys"
    path.write_text(KEYS)
    path.chmod(0o640)
    gone = WantedFile(str(path), state="without", replaces=replaces)
    assert len(apply(gone)) == (after != KEYS)
    assert (path.read_text(), mode(path)) == (after, "0640")
    assert apply(gone) == []
    assert apply(wanted(tmp_path / "none", state="without", replaces="x")) == []
    assert apply(wanted(tmp_path / "none/none", state="without", replaces="x")) == []


def test_a_folder_that_is_only_looked_after_is_not_made(tmp_path: Path) -> None:
    folder = wanted(tmp_path / "home", state="directory", existing=True)
    assert apply(folder, check=True) == apply(folder) == []
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o777)
    assert len(apply(folder)) == 1
    assert mode(tmp_path / "home") == "0755"


def test_a_file_that_is_only_looked_after_is_not_written_where_its_folder_is_missing(tmp_path: Path) -> None:
    file = wanted(tmp_path / "folder" / "file", content="a\n", existing=True)
    assert apply(file, check=True) == apply(file) == []
    (tmp_path / "folder").mkdir()
    assert len(apply(file)) == 1
    assert (tmp_path / "folder" / "file").read_text() == "a\n"


def test_a_line_does_not_take_the_place_of_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("a\n")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(FileError, match="no plain file"):
        apply(wanted(tmp_path / "link", state="line", content="b"))


def test_what_is_made_once_stays(tmp_path: Path) -> None:
    path = tmp_path / "once"
    path.write_text("of a person\n")
    path.chmod(0o600)
    changes = apply(wanted(path, content="ours\n", once=True))
    assert [change.notes for change in changes] == [["mode 0600 -> 0644"]]
    assert path.read_text() == "of a person\n"


def test_what_is_valid_no_more_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    make = ["sh", "-c", f"echo new > {path}"]
    key = wanted(path, state="made", command=make, valid=["grep", "-q", "new", str(path)])
    assert len(apply(key)) == 1
    assert apply(key) == []
    path.write_text("old\n")
    assert len(apply(key, check=True)) == 1
    assert path.read_text() == "old\n"
    assert [change.notes for change in apply(key)] == [["made by sh"]]
    assert (path.read_text(), mode(path)) == ("new\n", "0600")


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is not made: sh says no entropy"):
        apply(wanted(tmp_path / "key", state="made", command=["sh", "-c", "echo no entropy >&2; exit 1"]))


def test_removals_and_kinds_that_do_not_fit(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("")
    folder.mkdir()
    assert apply(wanted(tmp_path / "nothing", state="absent")) == []
    for one in (
        wanted(folder, state="absent"),
        wanted(folder, content=""),
        wanted(folder, state="link", target="x"),
        wanted(file, state="directory"),
        wanted(folder, state="made"),
        wanted(tmp_path / "none/file", content=""),
    ):
        with pytest.raises(FileError):
            apply(one)
    with pytest.raises(FileError, match="named twice"):
        apply(wanted(file, state="absent"), wanted(file, content="x"))
    assert [change.notes for change in apply(wanted(file, state="absent"))] == [["removed"]]
    assert not file.exists()


def test_a_link_is_replaced_and_what_it_led_to_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept\n")
    (tmp_path / "file").symlink_to("kept")
    (tmp_path / "link").symlink_to("kept")
    apply(wanted(tmp_path / "file", content="new\n"), wanted(tmp_path / "link", state="link", target="other"))
    assert (tmp_path / "kept").read_text() == "kept\n"
    assert not (tmp_path / "file").is_symlink()
    assert str((tmp_path / "link").readlink()) == "other"


def test_an_owner_that_is_not_there_yet_is_a_change_in_a_dry_run_and_an_error_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    one = wanted(path, content="x\n", owner="no-such-user")
    assert len(apply(one, check=True)) == 1
    with pytest.raises(FileError, match="no-such-user"):
        apply(one)
    assert not path.exists()


def test_bytes_that_are_no_text_are_compared_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\n")
    apply(wanted(path, state="line", content="more"))
    assert path.read_bytes() == b"\xff\nmore\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of an account that is not root, beside what only root may change."""
    if os.geteuid() != 0:
        pytest.skip("only root can act for others")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/keys").write_text("root's\n")
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", 2000, 2000)
    return tmp_path / "home"


@pytest.mark.parametrize(
    "file",
    [
        {"state": "directory", "owner": "2000", "mode": "0700"},
        {"name": "more", "state": "directory"},
        {"name": "keys", "state": "line", "content": "evil"},
        {"name": "keys", "content": "evil\n"},
        {"name": "keys", "state": "absent"},
        {"name": "keys", "state": "link", "target": "evil"},
        {"name": "new", "state": "made", "command": ["touch", "new"]},
    ],
    ids=lambda file: f"{file.get('state', 'file')} {file.get('name', '')}",
)
@pytest.mark.parametrize("check", [False, True])
def test_a_link_that_another_account_has_put_there_is_refused(home: Path, file: dict[str, Any], check: bool) -> None:
    (home / ".ssh").symlink_to(home.parent / "root")
    os.chown(home / ".ssh", 2000, 2000, follow_symlinks=False)
    before = (home.parent / "root").stat()
    name = file.pop("name", "")
    with pytest.raises(FileError, match=r"\.ssh on the way is a link that another account may have put there"):
        apply(wanted(home / ".ssh" / name, **file), check=check)
    after = (home.parent / "root").stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)
    assert [path.name for path in (home.parent / "root").iterdir()] == ["keys"]
    assert (home.parent / "root/keys").read_text() == "root's\n"
    file["name"] = name


def test_a_link_of_another_account_stays_one_when_the_folder_is_roots_again(home: Path) -> None:
    (home / ".ssh").symlink_to(home.parent / "root")
    os.chown(home / ".ssh", 2000, 2000, follow_symlinks=False)
    with pytest.raises(FileError, match="another account"):
        apply(wanted(home, state="directory"), wanted(home / ".ssh", state="directory"))
    assert home.stat().st_uid == 0


def test_names_that_change_after_a_folder_was_opened_lead_nowhere(home: Path) -> None:
    """The validation is a moment between the look and the write, at which the account is at work."""
    (home / ".ssh").mkdir()
    attack = f"sh -c 'mv {home}/.ssh {home}/moved && ln -s {home.parent}/root {home}/.ssh'"
    apply(wanted(home / ".ssh/keys", content="theirs\n", owner="2000", validate=attack))
    assert (home.parent / "root/keys").read_text() == "root's\n"
    assert (home / "moved/keys").read_text() == "theirs\n"


def test_links_of_root_are_followed_and_rings_of_them_are_not(tmp_path: Path) -> None:
    (tmp_path / "run/deep").mkdir(parents=True)
    (tmp_path / "var").symlink_to(tmp_path / "run")
    (tmp_path / "near").symlink_to("run/../var")
    apply(wanted(tmp_path / "near/deep", state="directory"), wanted(tmp_path / "near/deep/file", content="x\n"))
    assert (tmp_path / "run/deep/file").read_text() == "x\n"
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(FileError, match="ring on the way"):
        apply(wanted(tmp_path / "ring/file", content="x\n"))


def test_an_error_of_the_system_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=f"{tmp_path}/x: File name too long$") as said:
        apply(wanted(tmp_path / "x", state="link", target="t" * 5000))
    assert "/proc/" not in str(said.value)
    with pytest.raises(FileError, match="no/such/program"):
        apply(wanted(tmp_path / "x", content="", validate="/no/such/program"))


def test_no_folder_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    apply(wanted(tmp_path / "a/b", state="directory"), wanted(tmp_path / "a/b/file", content="x\n"))
    with pytest.raises(FileError):
        apply(wanted(tmp_path / "a", content="x\n"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
