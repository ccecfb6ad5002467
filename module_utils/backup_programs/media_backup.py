"""Copies media and the database's backups with restic, proves that they come back, and brings them back.

An existing file is never lost.

    media-backup backup|prune|drill TARGET              what the units do, as the account of the backups
    media-backup report TARGET VERB                     what they do at their end, as root: metrics, state, mail
    media-backup status [--json]                        what became of each
    media-backup space                                  what each takes, and how long
    media-backup nearest MOMENT                         the newest copy that is not younger
    media-backup bring < request.json                   files that are not there, of the copy nearest to a moment
    media-backup restore MOMENT [--from TARGET] [--dry-run]    all files as they were
    media-backup rebuild TARGET [--moment MOMENT]       the database's backups, on a new host, with releases and secrets
    media-backup restic TARGET ARGUMENT...              restic itself

MOMENT is in seconds since 1970. A request of ``bring`` holds ``files`` (names below the media), ``moment`` and
``dry_run``. All but the first print JSON; an exit status of 75 says that another one is at work on that target.

restic encrypts, finds what is new, goes on where it was cut off, and locks each target. As root, everything that talks
to a target runs as the account of the backups, and everything that writes to the media as their owner. Needs nothing
but Python and restic.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .bring import Copies
from .files import Account, MediaError
from .rebuild import bring_database
from .reports import REPORTS, STATE, VERBS, read_reports, report, status_lines
from .restic import Restic
from .space import space_lines
from .work import work

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = Path("/etc/media-backup")
CACHE: Final = Path("/var/cache/media-backup")


def as_root(settings: Mapping[str, Any]) -> list[Restic]:
    """Return restic of all targets, as the account of the copies runs it."""
    entry = pwd.getpwnam(settings["account"])
    account = Account(entry.pw_uid, entry.pw_gid)
    return [Restic(target, FOLDER, account, CACHE if CACHE.is_dir() else None) for target in settings["targets"]]


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="media-backup", description="Back up the media, and bring them back.")
    commands = parser.add_subparsers(dest="command", required=True)
    for verb in VERBS:
        commands.add_parser(verb).add_argument("target")
    one = commands.add_parser("report")
    one.add_argument("target")
    one.add_argument("verb", choices=VERBS)
    commands.add_parser("status").add_argument("--json", action="store_true")
    commands.add_parser("space")
    commands.add_parser("nearest").add_argument("moment", type=float)
    commands.add_parser("bring")
    one = commands.add_parser("restore")
    one.add_argument("moment", type=float)
    one.add_argument("--from", dest="target", help="only from this target")
    one.add_argument("--dry-run", action="store_true")
    one = commands.add_parser("rebuild")
    one.add_argument("target")
    one.add_argument("--moment", type=float)
    one = commands.add_parser("restic")
    one.add_argument("target")
    one.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def answer(settings: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Do what root asks for; answers what is printed."""
    owner = Account(int(settings["uid"]), int(settings["gid"]))
    wanted = getattr(options, "target", None)
    restics = [one for one in as_root(settings) if wanted in (None, one.target["name"])]
    if not restics:
        known = ", ".join(one["name"] for one in settings["targets"])
        raise MediaError(f"there is no target {wanted}; the targets: {known}")
    if options.command == "rebuild":
        moment = time.time() if options.moment is None else options.moment
        done = bring_database(settings, restics[0], REPORTS, moment)
        # A site without any images has no copy of media.
        return {**done, "media": any(one.made <= moment for one in restics[0].snapshots())}
    copies = Copies(settings, restics, Path(settings["scratch"]), owner)
    if options.command == "restore":
        began = time.monotonic()
        done = copies.restore(options.moment, dry_run=options.dry_run)
        return {**done, "seconds": round(time.monotonic() - began, 1)}
    if options.command == "bring":
        request = json.loads(sys.stdin.read())
        return copies.bring(request["files"], float(request["moment"]), dry_run=bool(request.get("dry_run"))).shown()
    problems: list[str] = []
    found = copies.nearest(options.moment, problems)
    if found is None:
        return {"target": "", "made": 0, "problems": problems}
    return {"target": found[0].target["name"], "made": round(found[1].made), "problems": problems}


def run_unit(settings: Mapping[str, Any], options: argparse.Namespace) -> int:
    """Do the work of a unit; the exit status."""
    target = next((one for one in settings["targets"] if one["name"] == options.target), None)
    if target is None or "INVOCATION_ID" not in os.environ or os.geteuid() == 0:
        known = ", ".join(one["name"] for one in settings["targets"])
        raise MediaError(f"systemctl start media-{options.command}@TARGET does it; the targets: {known}")
    return work(settings, options.command, Restic(target, FOLDER, cache=CACHE), STATE)


def main() -> int:
    """Run the command; the exit status."""
    options = arguments().parse_args()
    try:
        settings: dict[str, Any] = json.loads((FOLDER / "settings.json").read_text())
        if options.command in VERBS:
            return run_unit(settings, options)
        if options.command == "report":
            report(settings, options.target, options.verb, time.time())
        elif options.command == "status":
            state = read_reports(settings, REPORTS)
            lines = [json.dumps(state)] if options.json else status_lines(settings, state, time.time())
            sys.stdout.writelines(f"{line}\n" for line in lines)
        elif options.command == "space":
            lines = space_lines(settings, read_reports(settings, REPORTS))
            sys.stdout.writelines(f"{line}\n" for line in lines)
        elif options.command == "restic":
            restic = next(one for one in as_root(settings) if one.target["name"] == options.target)
            status, output, said = restic.run(*options.arguments)
            sys.stdout.write(output)
            sys.stderr.write(said)
            return status
        else:
            sys.stdout.write(json.dumps(answer(settings, options)) + "\n")
    except (MediaError, OSError, ValueError, KeyError, StopIteration) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
