"""Says how the units of this host's workers are. Standard library only."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: What systemd is asked for.
PROPERTIES = ("Id", "ActiveState", "SubState", "NRestarts", "StatusText")


class UnitState(TypedDict):
    """How a unit is: both of systemd's words, how often systemd has restarted it by itself, what it says of itself."""

    active: str
    sub: str
    restarts: int
    status: str


def unit_of(worker: str) -> str:
    """Return the unit of a worker, QUEUE@HOST."""
    return f"escriptorium-worker@{worker.partition('@')[0]}.service"


def parse(shown: str) -> dict[str, UnitState]:
    """Return the state of each unit of which ``systemctl show`` has told these properties."""
    states: dict[str, UnitState] = {}
    for block in shown.strip().split("\n\n"):
        told = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if set(PROPERTIES) <= told.keys():
            states[told["Id"]] = UnitState(
                active=told["ActiveState"],
                sub=told["SubState"],
                restarts=int(told["NRestarts"] or 0),
                status=told["StatusText"],
            )
    return states


def ask_systemd(units: Sequence[str]) -> str:
    """Return what ``systemctl show`` says of units.

    :raises subprocess.SubprocessError: when it does not answer.
    """
    command = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", *units]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def unit_states(
    workers: Iterable[str], node: str, ask: Callable[[Sequence[str]], str] = ask_systemd
) -> dict[str, UnitState]:
    """Return how the units of the workers of ``node``, this host, are, by the workers' names; empty: nobody says."""
    own = [worker for worker in workers if worker.partition("@")[2] == node]
    if not own:
        return {}
    try:
        states = parse(ask([unit_of(worker) for worker in own]))
    except (OSError, subprocess.SubprocessError):
        return {}
    return {worker: states[unit_of(worker)] for worker in own if unit_of(worker) in states}
