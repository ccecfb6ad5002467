"""Requests that wait: one signal pauses uWSGI and wakes it up, so a run that is repeated must not send it twice."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

#: Stand for programs. Each is a step of the script: at its turn it kills the script, before or after its work.
PROGRAMS = """
step() {
  local left
  read -r left <"$STATE/steps"; echo $((left - 1)) >"$STATE/steps"
  if [ "$left" = 0 ] && [ ! -e "$STATE/after" ]; then kill -KILL $$; fi
  "$@"
  if [ "$left" = 0 ]; then kill -KILL $$; fi
}
ask() {
  case $1 in
    show) cat "$STATE/process" ;;
    kill) if [ -e "$STATE/awake" ]; then command rm "$STATE/awake"; else : >"$STATE/awake"; fi ;;
    restart) echo 8 >"$STATE/process"; : >"$STATE/awake" ;;
  esac
}
systemctl() { step ask "$@"; }
mv() { step command mv "$@"; }
rm() { step command rm "$@"; }
"""


class Web:
    """A uWSGI that a signal pauses, and the next one wakes up."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.program, self.folder, self.mark = root / "playbooks/files/pause-web", folder, folder / "mark"
        (folder / "programs").write_text(PROGRAMS)
        self.starts_as(7)

    def starts_as(self, process: int) -> None:
        (self.folder / "process").write_text(f"{process}\n")
        (self.folder / "awake").touch()

    @property
    def paused(self) -> bool:
        return not (self.folder / "awake").exists()

    def run(self, verb: str, steps: int = -1, *, after: bool = False) -> subprocess.CompletedProcess[str]:
        """Call the program; at one of its steps it is killed, before or after that has been done."""
        (self.folder / "steps").write_text(f"{steps}\n")
        (self.folder / "after").unlink(missing_ok=True)
        if after:
            (self.folder / "after").touch()
        environment = {
            "PATH": os.environ["PATH"],
            "BASH_ENV": str(self.folder / "programs"),
            "STATE": str(self.folder),
            "PAUSE_WEB_MARK": str(self.mark),
        }
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


#: Programs that each way calls: show, then mv, systemctl, and mv or rm.
STEPS = 4


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("then", ["pause", "resume"])
@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_killed_at_any_step_the_next_call_does_what_it_says(
    web: Web, verb: str, then: str, step: int, after: bool
) -> None:
    """Whatever the signal has done or not: requests wait when they are to wait, and wait for nobody afterwards."""
    if verb == "resume":
        web.run("pause")
    assert web.run(verb, step, after=after).returncode == -9
    assert web.run(then).returncode == 0
    assert [web.paused, web.mark.exists()] == [then == "pause"] * 2
    # And so does the one after that: the mark says what is.
    assert web.run("pause").returncode == 0
    assert web.paused
    web.run("resume")
    assert [web.paused, web.mark.exists()] == [False, False]


def test_the_steps_are_all(web: Web) -> None:
    for verb in ("pause", "resume"):
        assert web.run(verb, STEPS).returncode == 0


def test_where_all_is_known_nothing_starts_anew(web: Web) -> None:
    for verb in ("pause", "pause", "resume", "resume"):
        web.run(verb)
        assert (web.folder / "process").read_text() == "7\n"
