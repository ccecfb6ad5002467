#!/usr/bin/python3 -IS
"""Put new rules of the firewall in force for a while, until a new connection has proved that ssh is still answered.

    escriptorium-firewall apply     load rules.nft
    escriptorium-firewall back      load what was proved last in its place
    escriptorium-firewall confirm   it was proved: keep it, also at boot
    escriptorium-firewall pending   print why rules.nft is not in force; nothing where it is

Run as root by Ansible's action `prove`, and `back` by the timer that this sets. What was proved is in
proven.nft, which escriptorium-firewall.service loads at boot, so that a host which loses its power in between comes
back with rules that were proved. Exit status 0, or 1 with the reason.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path("/etc/escriptorium-firewall")
TABLE = "inet escriptorium"
UNIT = "escriptorium-firewall.service"
_PORT = re.compile(r"(?:^port |^listenaddress \S*:|^Listen=\S*?)(\d+)(?: \(Stream\))?$", re.MULTILINE)


class FirewallError(RuntimeError):
    """Rules are not in force; the text is for people."""


def run(*words: str) -> tuple[int, str]:
    """Return status and output of a command, errors with it; 127 where there is no such program."""
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError as error:
        return 127, str(error)
    return done.returncode, done.stdout.strip()


def need(*words: str) -> None:
    """Run a command that has to succeed."""
    status, output = run(*words)
    if status != 0:
        raise FirewallError(f"{' '.join(words)}: {output}")


def ports_of(said: str) -> list[int]:
    """Return the ports in what ``sshd -T`` and ``systemctl show --property=Listen`` say."""
    return sorted({int(port) for port in _PORT.findall(said)})


def ssh_ports() -> list[int]:
    """Return the ports that sshd listens on as it is configured, and those of its socket where systemd listens."""
    _, configured = run("sshd", "-T")
    _, socket = run("systemctl", "show", "ssh.socket", "--property=Listen,ActiveState")
    return ports_of(f"{configured}\n{socket if 'ActiveState=active' in socket else ''}")


def addition(ports: list[int]) -> str:
    """Return the lines that add ports of ssh to those of the inventory."""
    head = "# Ports of this host's sshd, as they were when rules were loaded last.\n"
    return f"{head}add element {TABLE} ssh_ports {{ {', '.join(map(str, ports))} }}\n" if ports else head


def is_same(one: Path, other: Path) -> bool:
    """Tell whether two files are there and hold the same."""
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def write(path: Path, text: str) -> None:
    """Write a file in one step."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.replace(path)


def pending() -> str:
    """Say why the rules in force are not those that are wanted; nothing where they are."""
    if not is_same(FOLDER / "rules.nft", FOLDER / "proven.nft"):
        return "not proved yet"
    if run("nft", "list", "set", *TABLE.split(), "ssh_ports")[0] != 0:
        return "not loaded"
    if run("systemctl", "--quiet", "is-active", UNIT)[0] != 0:
        return f"{UNIT} has not started"
    said = FOLDER / "ssh-ports.nft"
    if not said.is_file() or said.read_text() != addition(ssh_ports()):
        return "sshd has other ports than when they were loaded"
    return ""


def apply() -> None:
    """Load the rules that are wanted."""
    write(FOLDER / "ssh-ports.nft", addition(ssh_ports()))
    status, output = run("nft", "--file", str(FOLDER / "rules.nft"))
    if status != 0:
        raise FirewallError(f"nftables refuses the rules, and those before are in force: {output}")


def back() -> None:
    """Load the rules that were proved last, or none."""
    proven = FOLDER / "proven.nft"
    words = ("--file", str(proven)) if proven.is_file() else ("delete", "table", *TABLE.split())
    need("nft", *words)


def confirm() -> None:
    """Keep the rules that are in force."""
    write(FOLDER / "proven.nft", (FOLDER / "rules.nft").read_text())
    # A unit that has started already is told nothing: the rules in force are those that it would load.
    need("systemctl", "start", UNIT)


def main(words: list[str]) -> int:
    """Do what is asked, and return the exit status."""
    try:
        match words:
            case ["apply"]:
                apply()
            case ["back"]:
                back()
            case ["confirm"]:
                confirm()
            case ["pending"]:
                print(pending())
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (FirewallError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
