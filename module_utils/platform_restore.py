"""Which backup a restore begins with: PostgreSQL follows a timeline only from one of its backups, or its ancestors'.

A restore to an earlier moment begins a new timeline. Backups of the one that it left are newer than the moment at which
both part, and pgBackRest takes the newest backup of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Choice:
    """The backup that a restore begins with; an empty name leaves it to pgBackRest. ``refusal``: why there is none."""

    label: str = ""
    refusal: str = ""


def newest_timeline(info: Sequence[Mapping[str, Any]]) -> int:
    """Return the newest timeline in the answer of ``pgbackrest info``; 1 where nothing is archived."""
    names = [archive.get("max") or "" for stanza in info for archive in stanza.get("archive", [])]
    return max([int(name[:8], 16) for name in names if name], default=1)


def position(lsn: str) -> int:
    """Return a position in the log of changes, as ``0/3000028``, as a number."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def ancestors(history: str) -> dict[int, int]:
    """Return by timeline where the next one leaves it, from the text of a ``.history`` file."""
    rows = (line.split() for line in history.splitlines() if line.strip() and not line.startswith("#"))
    return {int(row[0]): position(row[1]) for row in rows}


def end_of(backup: Mapping[str, Any]) -> int:
    """Return the position at which a backup is whole: as it says, or at most the end of its last segment of 16 MiB."""
    if "lsn" in backup:
        return position(backup["lsn"]["stop"])
    name = backup["archive"]["stop"]
    return (int(name[8:16], 16) << 32) + ((int(name[16:24], 16) + 1) << 24)


def choose(info: Sequence[Mapping[str, Any]], timeline: int, moment: int, history: str) -> Choice:
    """Return the newest backup from which a timeline can be followed to a moment.

    Args:
        info: the answer of ``pgbackrest info``.
        timeline: that is wanted.
        moment: s since 1970; 0 for the newest state.
        history: text of the timeline's history; empty where nobody has it, as on a host that is new.

    """
    left = ancestors(history)
    backups = [backup for stanza in info for backup in stanza.get("backup", [])]
    fitting = []
    for backup in backups:
        own = int(backup["archive"]["stop"][:8], 16)
        on_the_way = own in left and end_of(backup) <= left[own]
        if (own == timeline or on_the_way) and (not moment or backup["timestamp"]["stop"] <= moment):
            fitting.append(backup)
    if fitting:
        return Choice(max(fitting, key=lambda backup: int(backup["timestamp"]["stop"]))["label"])
    if timeline > 1 and not history:
        return Choice()
    return Choice(refusal=f"No backup leads to that moment on timeline {timeline}: take another one")
