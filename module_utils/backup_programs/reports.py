"""What root tells of the units: state, metrics, mail, and the lines that operators read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import ages
from .files import day, open_below, write_whole
from .restic import DATABASE, MEDIA, SHOWN
from .work import IN_USE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Of the account: what its last runs found, and their locks.
STATE: Final = Path("/var/lib/media-backup")
#: Of root: what monitoring and operators read.
REPORTS: Final = Path("/var/lib/media-backup-reports")
VERBS: Final = ("backup", "prune", "drill")
#: Bytes of what the account has left for root, and letters of it that are shown.
LARGEST_RESULT: Final = 1 << 16
#: What counts for one run alone.
PASSING: Final = ("problem", "database_waits")


def left_result(folder: Path, name: str, verb: str) -> dict[str, Any]:
    """Return what a run has left, of numbers, switches and one line of text each; nothing where there is none."""
    content = open_below(folder, f"{name}.{verb}.json")
    if content is None:
        return {}
    with content:
        raw = content.read(LARGEST_RESULT).decode(errors="replace")
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    plain: dict[str, Any] = {}
    for key, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, bool | int | float):
            plain[key] = value
        elif isinstance(value, str):
            plain[key] = "".join(one if one.isprintable() else " " for one in value)[:SHOWN]
    return plain


def reported(before: Mapping[str, Any], left: Mapping[str, Any], run: str, ending: str, now: float) -> dict[str, Any]:
    """Return what became of a unit: its own result, or how systemd ended it before there was one."""
    result = dict(left)
    if not result or result.get("run") != run:
        ended = f"it was ended before its end ({ending or 'no result'}): journalctl has its words"
        result = {"success": False, "problem": ended, "ended": round(now)}
    last = result["ended"] if result.get("success") else before.get("last_success", 0)
    known = {name: value for name, value in before.items() if name not in PASSING}
    return {"mailed": 0, **known, **result, "last_success": last}


def metrics(settings: Mapping[str, Any], state: ages.State, found_ages: Sequence[ages.Age]) -> str:
    """Return the results as text for Prometheus; ``state`` by target and verb."""
    rows = (
        ("success", "Whether the last try went well.", "success"),
        ("last_try_timestamp_seconds", "When the last try ended.", "ended"),
        ("last_success_timestamp_seconds", "When it last went well.", "last_success"),
        ("seconds", "How long the last try took.", "seconds"),
        ("bytes", "Size of the media in the last copy.", "bytes"),
        ("added_bytes", "What that copy added.", "added_bytes"),
        ("database_bytes", "Size of the backups of the database in the last copy.", "database_bytes"),
        ("database_added_bytes", "What that copy added.", "database_added_bytes"),
        ("target_bytes", "What all copies take at the target.", "target_bytes"),
        ("compared_files", "Files of the media that came back as they are.", "compared"),
        ("database_compared_files", "Files of the database's backups that came back as they are.", "database_compared"),
    )
    lines = []
    for end, meaning, key in rows:
        name = f"escriptorium_media_backup_{end}"
        found = [
            f'{name}{{target="{target["name"]}",verb="{verb}"}} {float(one[key]):.15g}'
            for target in settings["targets"]
            for verb, one in state.get(target["name"], {}).items()
            if key in one
        ]
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge", *found] if found else []
    return "\n".join([*lines, *ages.metrics(found_ages)]) + "\n"


def read_reports(settings: Mapping[str, Any], folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what was reported, by target and verb."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for target in settings["targets"]:
        for verb in VERBS:
            path = folder / f"{target['name']}.{verb}.json"
            if path.exists():
                found.setdefault(target["name"], {})[verb] = json.loads(path.read_text())
    return found


def report(settings: Mapping[str, Any], name: str, verb: str, now: float, mail: Any = None) -> None:
    """Keep what became of a unit where monitoring and operators find it, and mail that it fails: once a day at most."""
    if os.environ.get("EXIT_STATUS") == str(IN_USE):
        return
    path = REPORTS / f"{name}.{verb}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    ending = os.environ.get("SERVICE_RESULT", "")
    state = reported(before, left_result(STATE, name, verb), os.environ.get("INVOCATION_ID", ""), ending, now)
    if state.get("success"):
        state["mailed"] = 0
    elif settings["mail"] and now - state["mailed"] > ages.MAIL_PAUSE:
        text = letter(settings, name, verb, state)
        state["mailed"] = round(now) if (mail or send)(text) else state["mailed"]
    write_whole(path, json.dumps(state) + "\n")
    every = read_reports(settings, REPORTS)
    found = ages.watch(settings, every, REPORTS, now, mail or send)
    write_whole(Path(settings["metrics"]), metrics(settings, every, found))


def letter(settings: Mapping[str, Any], name: str, verb: str, state: Mapping[str, Any]) -> str:
    """Return the mail about a unit that failed."""
    host, last = os.uname().nodename, day(state["last_success"])
    return (
        f"To: {settings['mail']}\nSubject: {host}: the {verb} at {name} failed\n\n"
        f"{state.get('problem', '')}\n\nIt last went well: {last}.\n"
        f"More: journalctl -u media-{verb}@{name} on {host}. The next mail about it comes after a day.\n"
    )


def send(text: str) -> bool:
    """Mail something, where the host can; answers whether it went out."""
    program = shutil.which("sendmail", path="/usr/sbin:/usr/lib")
    return program is not None and subprocess.run([program, "-t"], input=text, check=False, text=True).returncode == 0


def status_lines(settings: Mapping[str, Any], state: ages.State, now: float) -> list[str]:
    """Return what became of each target, a line for each kind, and a line for each that is older than wanted."""
    lines = []
    found = ages.ages(settings, state, ages.read(REPORTS)["since"], now)
    for target in settings["targets"]:
        name, words = target["name"], []
        of = {one.kind: one for one in found if one.target == name}
        backup = state.get(name, {}).get("backup", {})
        for verb in VERBS:
            if verb == "prune" and target["append_only"]:
                continue
            one = state.get(name, {}).get(verb, {})
            words.append(f"{verb} {day(one.get('last_success', 0))}")
            if verb == "backup" and "bytes" in one:
                words[-1] += f", {one.get('files', 0)} files, {one['bytes'] / 1e9:.1f} GB"
            if one and not one.get("success"):
                words[-1] += f" (FAILED {day(one.get('ended', 0))}: {one.get('problem', '')})"
        lines.append(f"media at {name}: {'; '.join(words)}; proved {day(of[MEDIA].proved)}")
        if DATABASE in of:
            size = f", {backup['database_bytes'] / 1e9:.1f} GB" if "database_bytes" in backup else ""
            waits = f" (WAITS: {backup['database_waits']})" if backup.get("database_waits") else ""
            shown = f"copied {day(of[DATABASE].copied)}{size}{waits}; proved {day(of[DATABASE].proved)}"
            lines.append(f"database at {name}: {shown}")
    most = settings.get("max_age_days", 0)
    lines += [f"ATTENTION: {one.words()}, older than {most} days" for one in found if one.late]
    return lines
