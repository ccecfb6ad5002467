"""The stand-in's git repository: the same content gives the same commit, and no other folder is ever replaced."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "molecule" / "stand_in" / "make_repository.py"


def make(target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(target)], capture_output=True, text=True, check=False)


def git(target: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=target, capture_output=True, text=True, check=True).stdout.strip()


def test_same_content_same_commit(tmp_path: Path) -> None:
    first, second = make(tmp_path / "one"), make(tmp_path / "deeper" / "two")
    assert re.fullmatch(r"[0-9a-f]{40}\n", first.stdout), first.stderr
    assert second.stdout == first.stdout
    assert git(tmp_path / "one", "rev-parse", "main") == first.stdout.strip()
    assert git(tmp_path / "one", "status", "--short") == ""
    assert (tmp_path / "one" / "app" / "manage.py").stat().st_mode & 0o777 == 0o755
    assert not list((tmp_path / "one").rglob("__pycache__"))


def test_repeating_leaves_the_repository_alone_and_restores_a_changed_one(tmp_path: Path) -> None:
    target = tmp_path / "repository"
    commit = make(target).stdout
    before = target.stat().st_ino
    assert make(target).stdout == commit
    assert target.stat().st_ino == before
    (target / "app" / "manage.py").write_text("changed")
    git(target, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "--all", "--message", "x")
    assert make(target).stdout == commit
    assert git(target, "rev-parse", "HEAD") == commit.strip()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository"]


def test_a_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    result = make(tmp_path)
    assert result.returncode == 1
    assert "was not made by this program" in result.stderr
    assert (tmp_path / "precious").read_text() == "data"
