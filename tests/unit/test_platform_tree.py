"""Folders that hosts get as they are: every file counts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from module_utils.platform_tree import content_id, entries, files_below, programs

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "roles/escriptorium/files"
FOLDERS = ["bin", "escriptorium_cluster"]


def test_a_change_of_any_file_of_the_cluster_package_is_another_name(tmp_path: Path) -> None:
    copy = tmp_path / "files"
    for folder in FOLDERS:
        shutil.copytree(FILES / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    names = files_below(str(copy), FOLDERS)
    assert {"bin/run-release", "escriptorium_cluster/database/base.py"} < set(names)
    assert len(names) == sum(path.is_file() for path in copy.rglob("*"))
    seen = {content_id(str(copy), names)}
    for name in names:
        path = copy / name
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        seen.add(content_id(str(copy), names))
        path.write_bytes(before)
    assert len(seen) == len(names) + 1
    assert content_id(str(copy), names) in seen


def test_a_name_and_a_right_to_run_count_too(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = tmp_path / "one/a"
    first.write_text("x")
    before = content_id(str(tmp_path), ["one/a"])
    first.chmod(0o755)
    runs = content_id(str(tmp_path), ["one/a"])
    first.rename(tmp_path / "one/b")
    assert len({before, runs, content_id(str(tmp_path), ["one/b"])}) == 3


def test_what_python_compiled_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "one/__pycache__").mkdir(parents=True)
    (tmp_path / "one/__pycache__/a.pyc").write_text("")
    with pytest.raises(ValueError, match="one has no files"):
        files_below(str(tmp_path), ["one"])
    (tmp_path / "one/a.py").write_text("")
    assert files_below(str(tmp_path), ["one"]) == ["one/a.py"]


def test_folders_come_before_their_files() -> None:
    found = entries(str(FILES), ["bin/prune", "escriptorium_cluster/database/base.py"], "/opt/x")
    assert [entry["path"] for entry in found] == [
        "/opt/x",
        "/opt/x/bin",
        "/opt/x/escriptorium_cluster",
        "/opt/x/escriptorium_cluster/database",
        "/opt/x/bin/prune",
        "/opt/x/escriptorium_cluster/database/base.py",
    ]
    assert [entry["mode"] for entry in found] == ["0755"] * 5 + ["0644"]
    assert found[-1]["source"] == str(FILES / "escriptorium_cluster/database/base.py")


def test_programs_find_the_package_beside_them_behind_their_link(tmp_path: Path) -> None:
    """As on hosts: in a folder that is in no path of Python's."""
    home, modules = tmp_path / "home", ROOT / "module_utils"
    wanted = entries(str(modules), files_below(str(modules), ["backup_programs"]), str(home))
    for role, names in (
        ("media_backup", ["media-backup"]),
        ("backup_repository", ["platform-backup", "recover-files"]),
    ):
        wanted += programs(str(ROOT / f"roles/{role}/files"), names, str(home))
    (tmp_path / "sbin").mkdir()
    for entry in wanted:
        path = Path(entry["path"].replace("/usr/local/sbin", str(tmp_path / "sbin")))
        if entry.get("state") == "directory":
            path.mkdir(parents=True, exist_ok=True)
        elif entry.get("state") == "link":
            path.symlink_to(entry["target"])
        else:
            shutil.copy(entry["source"], path)
            path.chmod(int(entry["mode"], 8))
    for name in ("media-backup", "platform-backup"):
        said = subprocess.run(
            [tmp_path / "sbin" / name, "--help"], capture_output=True, text=True, cwd="/", check=False
        )
        assert said.returncode == 0, said.stderr
        assert f"usage: {name}" in said.stdout
