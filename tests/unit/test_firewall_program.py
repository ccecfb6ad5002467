"""The host's program of the firewall: rules come for a while, stay once they are proved, and go back by themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from roles.firewall.files import escriptorium_firewall as firewall

if TYPE_CHECKING:
    from pathlib import Path

SSHD = "port 22\nport 2222\naddressfamily any\nlistenaddress [::]:2222\nlistenaddress 0.0.0.0:22\nx11displayoffset 10\n"
SOCKET = "Listen=0.0.0.0:2022 (Stream)\nListen=[::]:2023 (Stream)\nActiveState=active\n"


class Host:
    """Stands in for nft, systemd and sshd: notes what is run, and answers as told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refuses = ""
        self.active: set[str] = set()
        self.loaded = False

    def run(self, *words: str, stdin: str = "") -> tuple[int, str]:
        assert not stdin
        self.calls.append(" ".join(words))
        match words:
            case ["sshd", "-T"]:
                return 0, SSHD
            case ["systemctl", "show", *_]:
                return 0, "Listen=\nActiveState=inactive\n"
            case ["systemctl", "--quiet", "is-active", unit]:
                return (0 if unit in self.active else 3), ""
            case ["systemctl", "stop", unit]:
                self.active.discard(unit)
            case ["systemctl", "start", unit]:
                self.active.add(unit)
            case ["systemd-run", *_]:
                self.active.add(f"{firewall.BACK}.timer")
            case ["nft", "list", *_]:
                return (0 if self.loaded else 1), ""
            case ["nft", "--file", _]:
                if self.refuses:
                    return 1, self.refuses
                self.loaded = True
        return 0, ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(firewall, "FOLDER", tmp_path)
    (tmp_path / "rules.nft").write_text("new\n")
    return tmp_path


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    monkeypatch.setattr(firewall, "run", made.run)
    return made


def test_ports_of_sshd_and_of_its_socket_are_read() -> None:
    assert firewall.ports_of(SSHD) == [22, 2222]
    assert firewall.ports_of(SOCKET) == [2022, 2023]
    assert firewall.ports_of("Listen=\n") == []


def test_the_timer_is_set_before_rules_are_loaded(host: Host, folder: Path) -> None:
    assert firewall.main(["apply", "60"]) == 0
    armed = next(
        number for number, call in enumerate(host.calls) if call.startswith("systemd-run --quiet --on-active=60")
    )
    assert host.calls.index(f"nft --file {folder}/rules.nft") > armed
    assert (folder / "back.nft").read_text() == firewall.NONE, "there were none before"
    assert "{ 22, 2222 }" in (folder / "ssh-ports.nft").read_text()
    assert not (folder / "proven.nft").exists(), "at boot nothing is loaded that was not proved"


def test_rules_go_back_to_those_that_were_proved_last(host: Host, folder: Path) -> None:
    (folder / "proven.nft").write_text("old\n")
    assert firewall.main(["apply", "60"]) == 0
    # Another run, whose rules were not proved either.
    (folder / "rules.nft").write_text("newer\n")
    assert firewall.main(["apply", "60"]) == 0
    assert (folder / "back.nft").read_text() == (folder / "proven.nft").read_text() == "old\n"
    assert host.active == {f"{firewall.BACK}.timer"}


def test_rules_that_nftables_refuses_leave_no_timer(
    host: Host, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder.is_dir()
    host.refuses = "rules.nft:7:3-5: Error: syntax error"
    assert firewall.main(["apply", "60"]) == 1
    assert host.active == set()
    assert "nftables refuses the rules, and those before are in force: rules.nft:7" in capsys.readouterr().err


def test_what_was_proved_is_loaded_at_boot_and_not_taken_back(host: Host, folder: Path) -> None:
    firewall.main(["apply", "60"])
    assert firewall.main(["confirm"]) == 0
    assert (folder / "proven.nft").read_text() == "new\n"
    assert host.active == {firewall.UNIT}


def test_a_proof_that_comes_too_late_keeps_nothing(
    host: Host, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    firewall.main(["apply", "60"])
    host.active.clear()
    assert firewall.main(["confirm"]) == 1
    assert "taken back already" in capsys.readouterr().err
    assert not (folder / "proven.nft").exists()


def test_it_says_why_rules_are_not_in_force(host: Host, folder: Path) -> None:
    assert firewall.pending() == "not proved yet"
    firewall.main(["apply", "60"])
    assert firewall.pending() == "not proved yet"
    firewall.main(["confirm"])
    assert firewall.pending() == ""
    host.loaded = False
    assert firewall.pending() == "not loaded"
    host.loaded, host.active = True, set()
    assert firewall.pending() == f"{firewall.UNIT} has not started"
    host.active = {firewall.UNIT}
    (folder / "ssh-ports.nft").write_text(firewall.addition([22]))
    assert firewall.pending() == "sshd has other ports than when they were loaded"


def test_wrong_words_are_refused(host: Host, folder: Path) -> None:
    assert [firewall.main(words) for words in ([], ["apply"], ["apply", "-1"])] == [2, 2, 2]
    assert (host.calls, json.dumps(sorted(path.name for path in folder.iterdir()))) == ([], '["rules.nft"]')
