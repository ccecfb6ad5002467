"""What waits for a person on a host, from what Debian's own programs say."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from roles.base.files import show_waiting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NEEDRESTART = """NEEDRESTART-VER: 3.6
NEEDRESTART-KCUR: 6.1.0-30-amd64
NEEDRESTART-KEXP: 6.1.0-31-amd64
NEEDRESTART-KSTA: 3
NEEDRESTART-SVC: escriptorium-worker@gpu.service
NEEDRESTART-SVC: cron.service
NEEDRESTART-SESS: root @ session #1
"""
SIMULATED = """Reading package lists...
The following packages will be upgraded:
  postgresql-15 tzdata
Inst postgresql-15 [15.6-0+deb12u1] (15.8-0+deb12u1 Debian-Security:12/oldstable-security [amd64]) []
Inst tzdata [2024a-0+deb12u1] (2024b-0+deb12u1 Debian:12.9/stable, Debian:12/stable-updates [all])
Inst libfoo (1.0 Debian-Security:12/stable-security [amd64])
Conf postgresql-15 (15.8-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
"""
ACTIVE = "ActiveState=active\n\nActiveState=active\n"


def answers(needrestart: str = "NEEDRESTART-VER: 3.6\n", simulated: str = "", timers: str = ACTIVE) -> show_waiting.Run:
    known = {"needrestart": needrestart, "apt-get": simulated, "systemctl": timers}

    def run(words: Sequence[str]) -> str:
        return known[words[0]]

    return run


def test_nothing_waits(tmp_path: Path) -> None:
    assert show_waiting.waiting(answers(), tmp_path / "none") == []
    well = "NEEDRESTART-KCUR: 6.1.0-31-amd64\nNEEDRESTART-KSTA: 1\n"
    assert show_waiting.waiting(answers(well), tmp_path / "none") == []


def test_restarts_and_the_kernel_are_named(tmp_path: Path) -> None:
    assert show_waiting.waiting(answers(NEEDRESTART), tmp_path / "none") == [
        "wait for a restart: cron.service escriptorium-worker@gpu.service",
        "waits for a reboot: kernel 6.1.0-31-amd64 is installed, 6.1.0-30-amd64 runs",
    ]


def test_packages_that_ask_for_a_reboot_are_named(tmp_path: Path) -> None:
    flag = tmp_path / "reboot-required"
    flag.touch()
    assert show_waiting.waiting(answers(), flag) == ["waits for a reboot: a package asks for it"]
    (tmp_path / "reboot-required.pkgs").write_text("libc6\ndbus\nlibc6\n")
    assert show_waiting.waiting(answers(), flag) == ["waits for a reboot: dbus libc6 asks for it"]


def test_only_security_upgrades_of_installed_packages_are_named(tmp_path: Path) -> None:
    """Others come when a person upgrades; a package that only a new one pulls in is no news."""
    found = show_waiting.waiting(answers(simulated=SIMULATED), tmp_path / "none")
    assert found == ["security upgrades that are not installed: postgresql-15"]


@pytest.mark.parametrize(
    ("states", "named"),
    [
        ("ActiveState=active\n\nActiveState=inactive\n", "apt-daily-upgrade.timer not active"),
        ("ActiveState=inactive\n\nActiveState=failed\n", "apt-daily.timer and apt-daily-upgrade.timer not active"),
    ],
)
def test_upgrades_that_never_come_are_told(states: str, named: str, tmp_path: Path) -> None:
    run = answers(timers=states)
    (line,) = show_waiting.waiting(run, tmp_path / "none")
    assert line == f"security upgrades do not come by themselves: {named}"
    assert show_waiting.waiting(run, tmp_path / "none", upgraded=False) == []


def test_a_question_without_an_answer_is_no_all_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: Sequence[str], **_: object) -> None:
        raise subprocess.CalledProcessError(100, list(words))

    monkeypatch.setattr(subprocess, "run", fail)
    assert show_waiting.main() == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "needrestart" in shown.err
