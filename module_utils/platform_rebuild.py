"""A site that is brought back from copies elsewhere: from which target, and what came back in which time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .platform_problems import did_you_mean, quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?\s*(Z|[+-]\d\d(:?\d\d)?)")


def refusal(targets: Sequence[Mapping[str, Any]], name: str, moment: str) -> str:
    """Return why a site cannot be brought back; nothing where it can.

    Args:
        targets: of the site, as platform_backup.targets makes them.
        name: of the target that is wanted.
        moment: with its time zone; empty for the newest copy.

    """
    fitting = [target["name"] for target in targets if target["database"]]
    known = (
        f"these have copies of the database: {', '.join(fitting)}" if fitting else "no target of backup_targets has any"
    )
    if not name:
        return f"Name the target with -e rebuild_from=NAME; {known}"
    if name not in fitting:
        mend = did_you_mean(name, fitting) or known
        return f"rebuild_from is {quote(name)}, a target without copies of the database, or none; {mend}"
    if moment and not _MOMENT.fullmatch(moment):
        return (
            f"rebuild_time is {quote(moment)}: write a moment with its time zone, for instance "
            "rebuild_time=2026-11-21T10:00:00+01, or leave it out for the newest copy"
        )
    return ""


def report(done: Mapping[str, Any]) -> dict[str, Any]:
    """Return what came back, from an answer of media-backup: sizes in GB, times in s, and s for each GB."""
    size, took = float(done.get("bytes", 0)) / 1e9, float(done.get("seconds", 0))
    found = {"target": done["target"], "copy": done["snapshot"], "gigabytes": round(size, 3), "seconds": round(took, 1)}
    # Less than a MB says nothing about a GB.
    if size > 0.001:  # noqa: PLR2004 - as above
        found["seconds_per_gigabyte"] = round(took / size, 1)
    if done.get("missing"):
        found["missing"] = list(done["missing"][:20])
    if done.get("problems"):
        found["problems"] = list(done["problems"])
    return found
