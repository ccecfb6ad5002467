"""The host's program of the firewall: rules come for a while, stay once they are proved, and go back by themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roles.firewall.files import escriptorium_firewall as firewall

SSHD = "port 22\nport 2222\naddressfamily any\nlistenaddress [::]:2222\nlistenaddress 0.0.0.0:22\nx11displayoffset 10\n"
SOCKET = "Listen=0.0.0.0:2022 (Stream)\nListen=[::]:2023 (Stream)\nActiveState=active\n"


class Host:
    """Stands in for nft, systemd and sshd: notes what is run, and answers as told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refuses = ""
        self.active: set[str] = set()
        self.loaded = ""

    def run(self, *words: str) -> tuple[int, str]:
        self.calls.append(" ".join(words))
        match words:
            case ["sshd", "-T"]:
                return 0, SSHD
            case ["systemctl", "show", *_]:
                return 0, "Listen=\nActiveState=inactive\n"
            case ["systemctl", "--quiet", "is-active", unit]:
                return (0 if unit in self.active else 3), ""
            case ["systemctl", "start", unit]:
                self.active.add(unit)
            case ["nft", "list", *_]:
                return (0 if self.loaded else 1), ""
            case ["nft", "delete", "table", "inet", "escriptorium"]:
                self.loaded = ""
            case ["nft", "--file", path]:
                if self.refuses:
                    return 1, self.refuses
                self.loaded = Path(path).read_text()
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


def test_rules_are_loaded_with_the_ports_of_this_host(host: Host, folder: Path) -> None:
    assert firewall.main(["apply"]) == 0
    assert host.loaded == "new\n"
    assert "{ 22, 2222 }" in (folder / "ssh-ports.nft").read_text()
    assert not (folder / "proven.nft").exists(), "at boot nothing is loaded that was not proved"
    assert firewall.main(["back"]) == 0
    assert host.loaded == "", "there were none before"


def test_rules_go_back_to_those_that_were_proved_last(host: Host, folder: Path) -> None:
    (folder / "proven.nft").write_text("old\n")
    assert firewall.main(["apply"]) == 0
    # Another run, whose rules were not proved either.
    (folder / "rules.nft").write_text("newer\n")
    assert firewall.main(["apply"]) == 0
    assert host.loaded == "newer\n"
    assert firewall.main(["back"]) == 0
    assert host.loaded == (folder / "proven.nft").read_text() == "old\n"


def test_rules_that_nftables_refuses_are_told(host: Host, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.is_dir()
    host.refuses = "rules.nft:7:3-5: Error: syntax error"
    assert firewall.main(["apply"]) == 1
    assert "nftables refuses the rules, and those before are in force: rules.nft:7" in capsys.readouterr().err


def test_what_was_proved_is_loaded_at_boot_and_not_taken_back(host: Host, folder: Path) -> None:
    firewall.main(["apply"])
    assert firewall.main(["confirm"]) == 0
    assert (folder / "proven.nft").read_text() == "new\n"
    assert host.active == {firewall.UNIT}
    # The timer that comes in this moment takes nothing back.
    assert firewall.main(["back"]) == 0
    assert host.loaded == "new\n"


def test_it_says_why_rules_are_not_in_force(host: Host, folder: Path) -> None:
    assert firewall.pending() == "not proved yet"
    firewall.main(["apply"])
    assert firewall.pending() == "not proved yet"
    firewall.main(["confirm"])
    assert firewall.pending() == ""
    host.loaded = ""
    assert firewall.pending() == "not loaded"
    host.loaded, host.active = "new\n", set()
    assert firewall.pending() == f"{firewall.UNIT} has not started"
    host.active = {firewall.UNIT}
    (folder / "ssh-ports.nft").write_text(firewall.addition([22]))
    assert firewall.pending() == "sshd has other ports than when they were loaded"


def test_wrong_words_are_refused(host: Host, folder: Path) -> None:
    assert [firewall.main(words) for words in ([], ["aply"], ["apply", "60"])] == [2, 2, 2]
    assert (host.calls, json.dumps(sorted(path.name for path in folder.iterdir()))) == ([], '["rules.nft"]')
