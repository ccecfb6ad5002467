#!/usr/bin/python3
"""Says what waits for a person on this host: restarts after upgrades, a reboot, security upgrades that are held.

    show-waiting

One line for each kind; none where nothing waits. Changes nothing. Runs as root, with Python, apt and needrestart.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    # Runs a command: words in, what it prints out.
    Run = Callable[[Sequence[str]], str]

REBOOT: Final = Path("/run/reboot-required")
TIMERS: Final = ("apt-daily.timer", "apt-daily-upgrade.timer")
#: A kernel of needrestart's batch mode that runs and is the newest; 0 is "not known", as in a container.
KERNEL_WELL: Final = frozenset({"0", "1"})
#: Seconds that one question may take.
PATIENCE: Final = 120
# Inst postgresql-15 [15.6-0+deb12u1] (15.8-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
_UPGRADE: Final = re.compile(r"^Inst (\S+) \[\S+\] \(\S+ (.*)\)", re.MULTILINE)


def run(words: Sequence[str]) -> str:
    """Return what a command prints.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be run, fails or takes too long.

    """
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return done.stdout


def restarts(answer: str) -> Iterator[str]:
    """Yield what needrestart's batch mode says: units and sessions that run replaced files, and the kernel."""
    values: dict[str, list[str]] = {}
    for line in answer.splitlines():
        key, _, value = line.partition(": ")
        values.setdefault(key.removeprefix("NEEDRESTART-"), []).append(value)
    if units := values.get("SVC"):
        yield f"wait for a restart: {' '.join(sorted(units))}"
    if not KERNEL_WELL.issuperset(values.get("KSTA", ())):
        running, newest = (values.get(key, ["?"])[0] for key in ("KCUR", "KEXP"))
        yield f"waits for a reboot: kernel {newest} is installed, {running} runs"


def reboot(flag: Path) -> Iterator[str]:
    """Yield which packages ask for a reboot."""
    if flag.exists():
        packages = flag.with_name(f"{flag.name}.pkgs")
        names = sorted(set(packages.read_text().split())) if packages.exists() else []
        yield f"waits for a reboot: {' '.join(names) or 'a package'} asks for it"


def upgrades(answer: str) -> Iterator[str]:
    """Yield security upgrades that are not installed, of what `apt-get --simulate` says: held ones, for the most."""
    names = sorted(name for name, origin in _UPGRADE.findall(answer) if "security" in origin.lower())
    if names:
        yield f"security upgrades that are not installed: {' '.join(names)}"


def timers(answer: str) -> Iterator[str]:
    """Yield timers of apt that do not run, of what `systemctl show` says: no upgrade comes by itself then."""
    states = dict(zip(TIMERS, (block.strip() for block in answer.split("\n\n")), strict=True))
    off = [name for name, state in states.items() if state != "ActiveState=active"]
    if off:
        yield f"security upgrades do not come by themselves: {' and '.join(off)} not active"


def waiting(run: Run = run, flag: Path = REBOOT, *, upgraded: bool = True) -> list[str]:
    """Return all that waits, one text for each kind; ``upgraded`` says whether upgrades are meant to come."""
    found = [*restarts(run(["needrestart", "-b", "-r", "l"])), *reboot(flag)]
    found += upgrades(run(["apt-get", "--simulate", "--quiet", "dist-upgrade"]))
    if upgraded:
        found += timers(run(["systemctl", "show", "--property=ActiveState", *TIMERS]))
    return found


def main() -> int:
    """Print what waits; the exit status."""
    try:
        found = waiting(upgraded=Path("/etc/apt/apt.conf.d/52escriptorium").exists())
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"show-waiting: {error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
