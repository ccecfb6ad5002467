"""`make demo` goes on with what it was told first: the real script, without an engine, hosts and a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

#: Stands in place of what the script calls until the application is chosen; then the demo stops.
STUBS = {
    "molecule/resources/docker-engine": "exit 0",
    "molecule/resources/node-image": "exit 0",
    "molecule/resources/front-dist": 'echo "packed $1"',
    ".venv/bin/ansible-playbook": "echo 'no hosts here' >&2; exit 1",
    ".venv/bin/git": "exit ${UPSTREAM:-1}",
}
UPSTREAM = "https://upstream.test/escriptorium.git"


class Demo:
    """A checkout with the script and what it reads."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.generated = folder / "inventories/demo/group_vars/all/generated.yml"
        for name, text in STUBS.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"#!/bin/bash\n{text}\n")
            file.chmod(0o755)
        # Not a link: Python would not find the packages of its environment.
        python = folder / ".venv/bin/python"
        python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        shutil.copy(root / "molecule/resources/demo", folder / "molecule/resources/demo")
        (folder / "molecule/stand_in").mkdir()
        (folder / "molecule/stand_in/make_repository.py").write_text("print('c0ffee')\n")
        defaults = folder / "roles/escriptorium/defaults/main.yml"
        defaults.parent.mkdir(parents=True)
        defaults.write_text(f"escriptorium_repo: {UPSTREAM}\n")

    def up(self, answers: str = "no", **told: str) -> dict[str, str]:
        """Start the demo; answers what it deploys."""
        environment = {"PATH": os.environ["PATH"], "UPSTREAM": "0" if answers == "yes" else "1", **told}
        done = subprocess.run(
            [str(self.folder / "molecule/resources/demo"), "up"],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert "The demo stopped in step 4 of 6" in done.stderr, done.stdout + done.stderr
        chosen: dict[str, str] = yaml.safe_load(self.generated.read_text())
        return chosen


@pytest.fixture
def demo(root: Path, tmp_path: Path) -> Demo:
    return Demo(root, tmp_path)


def test_the_next_run_goes_on_with_what_the_first_was_told(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "source = of mine").mkdir()
    (tmp_path / "dist").mkdir()
    told = {"ESCRIPTORIUM_REPO": str(tmp_path / "source = of mine"), "ESCRIPTORIUM_VERSION": "v1"}
    first = demo.up(**told, ESCRIPTORIUM_DIST=str(tmp_path / "dist"))
    assert first == {
        "escriptorium_repo": str(tmp_path / "source = of mine"),
        "escriptorium_version": "v1",
        "escriptorium_front_dist": f"packed {tmp_path}/dist",
    }
    assert demo.up() == first
    assert demo.up(ESCRIPTORIUM_VERSION="v2") == first | {"escriptorium_version": "v2"}
    assert demo.up() == first | {"escriptorium_version": "v2"}


def test_another_application_is_told_as_a_whole(demo: Demo, tmp_path: Path) -> None:
    demo.up(ESCRIPTORIUM_REPO="https://a.test/one.git", ESCRIPTORIUM_VERSION="v1")
    assert demo.up(ESCRIPTORIUM_REPO="https://a.test/two.git") == {"escriptorium_repo": "https://a.test/two.git"}
    stand_in = demo.up(DEMO_APPLICATION="stand-in")
    assert stand_in["escriptorium_repo"] == f"{tmp_path}/.cache/stand-in/source"
    assert demo.up("yes") == stand_in
    assert demo.up(ESCRIPTORIUM_REPO="https://a.test/two.git") == {"escriptorium_repo": "https://a.test/two.git"}


@pytest.mark.parametrize(("first", "then"), [("yes", "no"), ("no", "yes")])
def test_what_the_first_run_found_out_counts_for_the_next(demo: Demo, first: str, then: str) -> None:
    """Whether upstream answers."""
    chosen = demo.up(first)
    assert (chosen["escriptorium_repo"] == UPSTREAM) is (first == "yes")
    assert demo.up(then) == chosen


def test_a_demo_that_was_destroyed_begins_anew(demo: Demo) -> None:
    demo.up(ESCRIPTORIUM_REPO="https://a.test/one.git")
    demo.generated.unlink()
    assert demo.up("yes") == {"escriptorium_repo": UPSTREAM}
