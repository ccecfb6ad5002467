"""What copies cost, as operators read it: room at each target, what the last runs added, and how long they took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files import day

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Units of time, and their seconds.
_TIMES = ((86400, "days"), (3600, "hours"), (60, "minutes"), (0, "s"))


def amount(size: float) -> str:
    """Return bytes as people read them."""
    for bound, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= bound:
            return f"{size / bound:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def lasted(seconds: float) -> str:
    """Return a time as people read it."""
    for bound, unit in _TIMES:
        if seconds >= 2 * bound:
            return f"{seconds / max(bound, 1):.0f} {unit}"
    raise ValueError(f"{seconds} s is no time")


def space_lines(settings: Mapping[str, Any], state: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return what each target costs, one line each; ``state`` is what was reported, by target and verb."""
    lines = []
    for target in settings["targets"]:
        runs = state.get(target["name"], {})
        counted = max((one for one in runs.values() if "target_bytes" in one), key=_ended, default={})
        room = (
            f"takes {amount(counted['target_bytes'])} (counted {day(_ended(counted))})"
            if counted
            else f"is counted by the next {'trial' if target['append_only'] else 'removal of old copies'}"
        )
        words = [f"copies at {target['name']}: what is stored {room}"]
        if "bytes" in (copy := runs.get("backup", {})):
            size = copy["bytes"] + copy.get("database_bytes", 0)
            added = copy["added_bytes"] + copy.get("database_added_bytes", 0)
            words.append(
                f"the copy of {day(_ended(copy))} looked at {amount(size)} in {copy['files']} files, added "
                f"{amount(added)}, and took {lasted(copy.get('seconds', 0))}"
            )
        for verb, name in (("prune", "removal of old copies"), ("drill", "trial")):
            if "seconds" in (one := runs.get(verb, {})):
                words.append(f"the last {name} took {lasted(one['seconds'])}")
        lines.append("; ".join(words))
    return lines


def _ended(run: Mapping[str, Any]) -> float:
    return float(run.get("last_success", 0))
