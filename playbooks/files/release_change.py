"""What upgrade.yml and roll-back.yml know of a change between two releases, and how the database can follow it.

    release_change.py note --to RELEASE [--harm TEXT ...]    before the first change: which releases, and when
    release_change.py settle --other RELEASE                 after migrations that failed: can what runs go on?
    release_change.py back --host NAME --database NAME [--as-it-is] [--pause]    how the release before can run again

Each answers in one line of JSON with --json, and in sentences without. Runs as root on the frontend, with the standard
library; it asks the releases themselves (manage.py check_release).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    # Runs manage.py of a release with these words, and returns what it printed.
    Manage = Callable[..., str]

HOME: Final = Path("/opt/escriptorium")
#: There while requests wait (files/pause-web).
PAUSED: Final = Path("/run/escriptorium/paused")
RUN_AS_SERVICE: Final = "/usr/local/lib/escriptorium/run-as-service"
ANOTHER: Final = "Another release comes with its escriptorium_version in the inventory and playbooks/upgrade.yml."


class ChangeError(Exception):
    """A release does not answer, or a migration fails; the message says why."""


@dataclass(frozen=True)
class Way:
    """How a release can run on the database after a newer one: the decision of check_release, why, and what it takes.

    Attributes:
        decision: nothing, stays, back or restore.
        why: reasons for no easier way.
        applied: migrations that the older release does not know.
        targets: for each application the migration to go back to.

    """

    decision: str = "nothing"
    why: Sequence[str] = ()
    applied: Sequence[str] = ()
    targets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wish:
    """What the operator of a way back has said."""

    host: str
    database: str
    as_it_is: bool = False
    pause: bool = False


def run_manage(folder: Path, *words: str) -> str:
    """Run manage.py of a release as the service account.

    Raises:
        ChangeError: it fails.

    """
    done = subprocess.run(
        [RUN_AS_SERVICE, "python", "manage.py", *words],
        env={**os.environ, "ESCRIPTORIUM_RELEASE": str(folder)},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise ChangeError(f"manage.py {words[0]} of {folder.name} fails: {' '.join(done.stderr.split()[-60:])}")
    return done.stdout


@dataclass(frozen=True)
class Site:
    """The releases of the frontend, and the record of the last upgrade."""

    home: Path = HOME
    paused: Path = PAUSED
    manage: Manage = run_manage

    @property
    def current(self) -> str:
        """Name of the release that runs; empty where there is none."""
        link = self.home / "current"
        return link.resolve().name if link.exists() else ""

    @property
    def record(self) -> dict[str, Any]:
        """From which release to which the last upgrade went, when it began, and what its migrations harm."""
        path = self.home / "upgrade.json"
        record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Put a record in the place of the last; an empty one removes it."""
        path = self.home / "upgrade.json"
        if not record:
            path.unlink(missing_ok=True)
            return
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(record, indent=4) + "\n")
        beside.chmod(0o644)
        beside.replace(path)

    def folder(self, release: str) -> Path:
        """Return the folder of a release."""
        return self.home / "releases" / release

    def version(self, release: str) -> str:
        """Return the escriptorium_version of a release; empty where it is not kept."""
        path = self.folder(release) / "release.json"
        return str(json.loads(path.read_text())["version"]) if path.is_file() else ""

    def look(self, release: str, *words: str) -> dict[str, Any]:
        """Ask a release what it finds in the database.

        Raises:
            ChangeError: it does not answer.

        """
        lines = self.manage(self.folder(release), "check_release", *words).splitlines()
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer


def note(site: Site, to: str, harms: Sequence[str], now: str) -> dict[str, Any]:
    """Write down from which release to which the site goes, and the moment that a restore would take it back to.

    A repeated run keeps the moment of the first where that has applied a harmful migration; else the release before has
    gone on, and what users did meanwhile counts.
    """
    before = site.record
    same = [before.get("from"), before.get("to")] == [site.current, to]
    begun = same and before.get("harms", list(harms)) != list(harms)
    record = {
        "from": site.current,
        "to": to,
        "moment": before["moment"] if begun else now,
        "harms": before["harms"] if begun else list(harms),
        "former": before.get("former", {}) if same else {key: before[key] for key in before if key != "former"},
    }
    site.write(record)
    return record


def way_back(site: Site, older: str, newer: str) -> Way:
    """Say how a release can run on the database after a newer one.

    Raises:
        ChangeError: one of them does not answer.

    """
    found = site.look(older)
    if not found["unknown"]:
        return Way()
    # Of these the newer one knows its own; others were there before it.
    judged = site.look(newer, f"--applied={','.join(found['unknown'])}")
    applications = {name.partition(".")[0] for name in judged["applied"]}
    targets = {name: target for name, target in found["targets"].items() if name in applications}
    return Way(judged["decision"], judged["why"], judged["applied"], targets)


def settle(site: Site, other: str) -> dict[str, Any]:
    """Bring the database to what the release that runs can live with, after migrations that failed.

    Answers whether that release ``goes_on``, ``why`` not, and whether this ``changed`` the database. Where requests do
    not wait, it has gone on all the time.
    """
    changed, why = False, []
    if site.paused.exists():
        try:
            changed = _settle(site, other)
        except ChangeError as error:
            why = [str(error)]
    record = site.record
    if not why and [record.get("from"), record.get("to")] == [site.current, other]:
        site.write(record.get("former", {}))
    return {"goes_on": not why, "why": why, "changed": changed}


def _settle(site: Site, other: str) -> bool:
    current = site.current
    # Some were taken back already.
    if site.look(current)["missing"]:
        site.manage(site.folder(current), "migrate_site")
        return True
    way = way_back(site, current, other)
    if way.decision == "restore":
        raise ChangeError("; ".join(way.why))
    if way.decision == "back":
        site.manage(site.folder(other), "migrate_site", *(f"{name}={to}" for name, to in way.targets.items()))
    return way.decision == "back"


def back(site: Site, wish: Wish) -> dict[str, Any]:
    """Say how the release before the last upgrade can run again; ``refusal`` says why it is not to.

    Also where a way back was broken off after the release before had become current, and where an upgrade was broken
    off before the other one had.

    Raises:
        ChangeError: a release does not answer.

    """
    record, current = site.record, site.current
    refusal = _no_way(site, record, current, wish.host)
    if refusal:
        return {"refusal": refusal}
    older, newer = record["from"], record["to"]
    way = way_back(site, older, newer)
    migrates = way.decision == "back" and not wish.as_it_is
    if way.decision == "restore" and not wish.as_it_is:
        refusal = _restore(record, way, wish, released=current == older)
    elif migrates and not wish.pause:
        refusal = [*way.why, "Nothing was changed. Let running jobs end first, while requests wait: -e pause_jobs=yes"]
    return {
        "refusal": refusal,
        "from": older,
        "to": newer,
        "current": current,
        "folder": str(site.folder(older)),
        "newer_folder": str(site.folder(newer)),
        "version": site.version(older),
        "migrates": migrates,
        "says": _sentence(older, way),
        **asdict(way),
    }


def _no_way(site: Site, record: Mapping[str, Any], current: str, host: str) -> list[str]:
    if not record:
        return [f"No upgrade is noted on {host}: roll-back.yml undoes what upgrade.yml did", ANOTHER]
    if current not in {record["from"], record["to"]}:
        return [f"Release {current} runs, and the last upgrade was to {record['to']}", ANOTHER]
    for release in (record["from"], record["to"]):
        if not site.version(release):
            return [
                f"Release {release} is not kept on {host} any more (escriptorium_releases_kept).",
                "Write the escriptorium_version that you want into the inventory, and run playbooks/upgrade.yml.",
            ]
    return []


def _restore(record: Mapping[str, Any], way: Way, wish: Wish, *, released: bool) -> list[str]:
    moment, overwrite = record["moment"], f"{wish.database}@{wish.host}"
    commands = [] if released else ["ansible-playbook playbooks/roll-back.yml -e roll_back_database=as-it-is"]
    return [
        f"Release {record['from']} cannot run on this database. Nothing was changed.",
        *way.why,
        f"What users did since {moment} would be lost with a restore, which takes:",
        *commands,
        f"ansible-playbook playbooks/restore.yml -e restore_target_time={moment} -e restore_overwrite={overwrite}",
        "The site is away meanwhile; the newest trial restore in journalctl -u platform-drill says how long it takes.",
    ]


def _sentence(older: str, way: Way) -> str:
    names = ", ".join(way.applied)
    return {
        "nothing": f"The database is as {older} left it.",
        "stays": f"{older} does not look at what these migrations added; they stay: {names}",
        "back": f"These migrations have to be taken back, and lose nothing: {names}",
        "restore": f"These migrations cannot be taken back: {names}",
    }[way.decision]


def sentences(answer: Mapping[str, Any]) -> list[str]:
    """Return what an answer says to people."""
    said = [answer["says"]] if "says" in answer else []
    return [*said, *answer.get("refusal", []), *answer.get("why", [])] or [json.dumps(answer)]


def main(arguments: Sequence[str] | None = None, site: Site | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="release_change.py", description="Follow a change between two releases.")
    parser.add_argument("command", choices=["note", "settle", "back"])
    parser.add_argument("--json", action="store_true", help="answer in one line of JSON")
    for name in ("to", "other", "host", "database"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--harm", action="append", default=[], help="what the missing migrations harm")
    parser.add_argument("--as-it-is", action="store_true", help="whatever the database is")
    parser.add_argument("--pause", action="store_true", help="jobs and requests may wait")
    options = parser.parse_args(arguments)
    site = site or Site()
    try:
        if options.command == "note":
            answer = note(site, options.to, options.harm, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        elif options.command == "settle":
            answer = settle(site, options.other)
        else:
            wish = Wish(options.host, options.database, options.as_it_is, options.pause)
            answer = back(site, wish)
    except (ChangeError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write((json.dumps(answer) if options.json else "\n".join(sentences(answer))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
