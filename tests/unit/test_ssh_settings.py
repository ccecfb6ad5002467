"""Settings of ssh that might lock people out: in force for two minutes, and kept where a new connection came in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from action_plugins import prove

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("ansible_plugins")

Call = Callable[..., subprocess.CompletedProcess[str]]

#: A systemd with one timer, which is a file; what it is asked for is written down.
SYSTEMD = """#!/bin/sh
echo "${0##*/} $*" >>"$STATE/calls"
case "${0##*/} $*" in
  systemctl*is-active*) test -e "$STATE/timer" ;;
  systemctl*stop*) rm "$STATE/timer" ;;
  systemd-run*) touch "$STATE/timer" ;;
  sshd*) printf 'port 22\\npasswordauthentication %s\\nx11forwarding no\\n' "$PASSWORDS" ;;
esac
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    for name in ("systemctl", "systemd-run", "sshd"):
        (tmp_path / name).write_text(SYSTEMD)
        (tmp_path / name).chmod(0o755)
    file = tmp_path / "00-escriptorium.conf"
    file.write_text("PasswordAuthentication no\n")
    return file


@pytest.fixture
def call(root: Path, settings: Path, resolve: Callable[..., Any]) -> Call:
    """Do on this computer what the handler of a step has the host do."""
    handlers = yaml.safe_load((root / "roles/base/handlers/main.yml").read_text())
    steps = {handler["prove"]["step"]: handler["prove"] for handler in handlers if "prove" in handler}
    folder = str(settings.parent)
    places = {"__base_ssh_file": str(settings), "__base_ssh_proved": f"{folder}/proved"}

    def called(step: str, passwords: str = "no") -> subprocess.CompletedProcess[str]:
        given = {name: resolve("base", str(value), **places) for name, value in steps[step].items()}
        text = {"begin": prove.beginning, "keep": prove.ending}[step](given)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "STATE": folder, "PASSWORDS": passwords}
        return subprocess.run(
            ["sh", "-c", text], env=environment, capture_output=True, text=True, check=False, timeout=30
        )

    return called


def calls(file: Path) -> list[str]:
    return (file.parent / "calls").read_text().splitlines()


def test_the_way_back_is_there_before_the_settings_are_in_force(call: Call, settings: Path) -> None:
    assert call("begin").returncode == 0
    names = [line.split()[0] for line in calls(settings)]
    assert names == ["systemctl", "systemd-run", "sshd", "systemctl"]
    armed = calls(settings)[1]
    assert "--on-active=120" in armed
    assert f"rm -f {settings}; systemctl try-reload-or-restart ssh.service" in armed
    assert calls(settings)[-1] == "systemctl try-reload-or-restart ssh.service"
    assert settings.exists()


def test_settings_that_sshd_does_not_read_are_told_and_taken_away(call: Call, settings: Path) -> None:
    done = call("begin", passwords="yes")
    assert done.returncode == 1
    assert "Include /etc/ssh/sshd_config.d/*.conf" in done.stderr
    assert not settings.exists()
    assert not (settings.parent / "timer").exists(), "nothing is left to take back"


def test_settings_that_are_given_up_are_applied_too(call: Call, settings: Path) -> None:
    settings.unlink()
    assert call("begin", passwords="yes").returncode == 0
    assert calls(settings)[-1] == "systemctl try-reload-or-restart ssh.service"


def test_an_earlier_way_back_gives_way(call: Call, settings: Path) -> None:
    (settings.parent / "timer").touch()
    assert call("begin").returncode == 0
    assert calls(settings)[1] == "systemctl stop escriptorium-ssh-back.timer"
    assert (settings.parent / "timer").exists()


def test_kept_settings_stay_and_are_known_as_proved(call: Call, settings: Path) -> None:
    proved = settings.parent / "proved"
    call("begin")
    assert call("keep").returncode == 0
    assert not (settings.parent / "timer").exists()
    assert proved.exists()


def test_a_connection_that_comes_too_late_proves_nothing(call: Call, settings: Path) -> None:
    proved = settings.parent / "proved"
    done = call("keep")
    assert done.returncode == 1
    assert "taken back" in done.stderr
    assert not proved.exists()
