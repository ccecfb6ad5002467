"""Requests that wait: one signal pauses uWSGI and wakes it up, so a run that is repeated must not send it twice."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SYSTEMCTL = """#!/bin/sh
cd "$STATE"
if [ "$1" = show ]; then cat process; elif [ -e paused ]; then rm paused; else touch paused; fi
"""


class Web:
    """A uWSGI that a signal pauses, and the next one wakes up."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.program, self.folder, self.mark = root / "playbooks/files/pause-web", folder, folder / "mark"
        (folder / "systemctl").write_text(SYSTEMCTL)
        (folder / "systemctl").chmod(0o755)
        self.starts_as(7)

    def starts_as(self, process: int) -> None:
        (self.folder / "process").write_text(f"{process}\n")
        (self.folder / "paused").unlink(missing_ok=True)

    @property
    def paused(self) -> bool:
        return (self.folder / "paused").exists()

    def run(self, verb: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}:{os.environ['PATH']}"
        environment = {"PATH": path, "STATE": str(self.folder), "PAUSE_WEB_MARK": str(self.mark)}
        return subprocess.run(
            ["bash", self.program, verb], env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def web(root: Path, tmp_path: Path) -> Web:
    return Web(root, tmp_path)


def test_a_second_pause_wakes_nobody_up(web: Web) -> None:
    assert [web.run("pause").stdout, web.paused] == ["paused\n", True]
    assert [web.run("pause").stdout, web.paused] == ["", True]
    assert [web.run("resume").stdout, web.paused, web.mark.exists()] == ["resumed\n", False, False]
    assert [web.run("resume").stdout, web.paused] == ["", False]


def test_a_mark_of_a_process_that_is_gone_says_nothing(web: Web) -> None:
    web.run("pause")
    web.starts_as(8)
    assert [web.run("pause").stdout, web.paused, web.mark.read_text()] == ["paused\n", True, "8\n"]
    web.starts_as(9)
    assert [web.run("resume").stdout, web.paused, web.mark.exists()] == ["resumed\n", False, False]


def test_a_web_application_that_does_not_run_is_not_paused(web: Web) -> None:
    web.starts_as(0)
    done = web.run("pause")
    assert done.returncode == 1
    assert "does not run" in done.stderr
    assert not web.mark.exists()
