"""How old the newest proved copies are, of each kind at each target, and who learns that one is too old.

A copy is proved when a trial has brought a sample of it back. Its age counts from when it was made. What was never
proved counts from when it was first reported, so that a new target has its time.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .files import day, write_whole
from .restic import DATABASE, MEDIA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    State = Mapping[str, Mapping[str, Mapping[str, Any]]]

FILE: Final = "ages.json"
#: Time between two mails about the same failure. Unit: s
MAIL_PAUSE: Final = 86400
WHAT: Final = {DATABASE: "database", MEDIA: "media"}


@dataclass(frozen=True)
class Age:
    """When the newest copy of a kind at a target was made, and the newest proved one (seconds since 1970, 0: never)."""

    target: str
    kind: str
    copied: float
    proved: float
    late: bool

    def words(self) -> str:
        """Return what is said of one that is too old."""
        return f"the newest proved copy of the {WHAT[self.kind]} at {self.target} is that of: {day(self.proved)}"


def kinds(target: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is copied to a target."""
    return (DATABASE, MEDIA) if target.get("database") else (MEDIA,)


def ages(settings: Mapping[str, Any], state: State, since: Mapping[str, float], now: float) -> list[Age]:
    """Return the ages of all kinds at all targets.

    Args:
        settings: of the program; ``max_age_days`` is what the site wants, 0 for any age.
        state: what was reported, by target and verb.
        since: when a kind at a target was first reported, by ``target/kind``.
        now: seconds since 1970.

    """
    most = float(settings.get("max_age_days", 0)) * 86400
    found = []
    for target in settings["targets"]:
        name = target["name"]
        of = state.get(name, {})
        for kind in kinds(target):
            copied = float(of.get("backup", {}).get(f"{kind}_copied", 0))
            proved = float(of.get("drill", {}).get(f"{kind}_proved", 0))
            counts = proved or float(since.get(f"{name}/{kind}", now))
            found.append(Age(name, kind, copied, proved, 0 < most < now - counts))
    return found


def read(folder: Path) -> dict[str, Any]:
    """Return what is known of ages: ``since`` and when somebody was told (``mailed``)."""
    path = folder / FILE
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return {"since": {}, "mailed": 0, **found}


def watch(
    settings: Mapping[str, Any], state: State, folder: Path, now: float, mail: Callable[[str], bool]
) -> list[Age]:
    """Note who is new, mail about what is too old, once a day at most; answers all ages."""
    known = read(folder)
    wanted = [f"{target['name']}/{kind}" for target in settings["targets"] for kind in kinds(target)]
    since = {name: known["since"].get(name, now) for name in wanted}
    found = ages(settings, state, since, now)
    late = [one for one in found if one.late]
    mailed = known["mailed"] if late else 0
    if late and settings["mail"] and now - mailed > MAIL_PAUSE and mail(letter(settings, late)):
        mailed = round(now)
    write_whole(folder / FILE, json.dumps({"since": since, "mailed": mailed}) + "\n")
    return found


def letter(settings: Mapping[str, Any], late: Sequence[Age]) -> str:
    """Return the mail about copies that are too old."""
    host = os.uname().nodename
    shown = "\n".join(one.words() for one in late)
    return (
        f"To: {settings['mail']}\nSubject: {host}: proved copies are older than {settings['max_age_days']} days\n\n"
        f"{shown}\n\nWhat was not tried may not come back. Why: media-backup status on {host}, and\n"
        f"journalctl -u 'media-*@{late[0].target}'. The next mail about it comes after a day.\n"
    )


def metrics(found: Sequence[Age]) -> list[str]:
    """Return ages as lines for Prometheus."""
    rows = (
        ("copied_timestamp_seconds", "When the newest copy was made.", "copied"),
        ("proved_timestamp_seconds", "When the newest copy was made that a trial has proved.", "proved"),
        ("late", "Whether that is longer ago than the site wants.", "late"),
    )
    lines = []
    for end, meaning, key in rows:
        name = f"escriptorium_media_backup_{end}"
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        lines += [f'{name}{{target="{one.target}",kind="{one.kind}"}} {float(getattr(one, key)):.15g}' for one in found]
    return lines if found else []
