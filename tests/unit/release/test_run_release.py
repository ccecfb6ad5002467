"""Processes of a release, and the folders of their account, in which root makes nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STARTERS = [*ROOT.glob("roles/*/templates/*.service.j2"), ROOT / "roles/escriptorium/files/bin/run-as-service"]


@pytest.mark.parametrize("starter", STARTERS, ids=lambda path: path.name)
def test_systemd_makes_no_folder_in_one_that_belongs_to_an_account(starter: Path) -> None:
    """It would do so as root, by a name that the account can make a link."""
    named = re.findall(
        r'(?:State|Runtime|Cache|Logs)Directory="?([^"\n]+?)["\s\\]*$', starter.read_text(), re.MULTILINE
    )
    folders = [folder for words in named for folder in words.split()]
    assert not [folder for folder in folders if any(folder.startswith(f"{other}/") for other in folders)]


def test_a_process_makes_the_folder_of_its_temporary_files(tmp_path: Path) -> None:
    programs, release = tmp_path / "cluster/bin", tmp_path / "release"
    programs.mkdir(parents=True)
    shutil.copy(ROOT / "roles/escriptorium/files/bin/run-release", programs)
    (release / "venv/bin").mkdir(parents=True)
    (release / "app").mkdir()
    (release / "venv/bin/show").write_text('#!/bin/sh\npwd\necho "$PYTHONPATH"\n')
    (release / "venv/bin/show").chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "ESCRIPTORIUM_RELEASE": str(release), "TMPDIR": str(tmp_path / "own/tmp")}
    said = subprocess.check_output([programs / "run-release", "show"], env=environment, text=True)
    assert said.splitlines() == [f"{release}/app", f"{release}/app:{tmp_path}/cluster"]
    assert (tmp_path / "own/tmp").is_dir()
