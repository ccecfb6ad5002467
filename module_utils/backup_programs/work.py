"""What the units of one target do, as the account of the copies: copy, remove what is too old, try what is there."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .files import MediaError, write_whole
from .locks import REPOSITORY, InUseError, backups_held, only_one
from .proofs import LISTS, UNFINISHED_BACKUPS, compare, sample, settled
from .refusals import refusal
from .restic import DATABASE, HOST, MEDIA, SHOWN, Copied, Restic, Snapshot, TooLongError, UnreadError, in_order, pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .restic import Node

HOUR: Final = 3600.0
#: A lock of this host's restic is one of the dead, but restic sees that by its number: after a boot another process may
#: have it. After half an hour it counts no more. Unit: s
LOCKED: Final = 31 * 60
LOCKED_PAUSE: Final = 30.0
#: Exit status that says that another one is at work on that target (EX_TEMPFAIL).
IN_USE: Final = 75
#: How long each waits for another one. The next hour copies again; removals and trials come once a week. Unit: s
PATIENCE: Final = {"backup": 0, "prune": 6 * 3600, "drill": 6 * 3600}
#: How long a copy waits for a backup of the database that is made; the next hour copies again. Unit: s
PATIENCE_FOR_BACKUPS: Final = 900
#: What is copied with the backups of the database, below their folder.
PARTS: Final = (REPOSITORY, "records", "releases", "secrets")
#: What easy-thumbnails adds to the name of an image: page.jpg -> page.jpg.180x180_q85_crop.jpg
THUMBNAIL: Final = "*.*.[0-9]*x[0-9]*_q[0-9]*.*"
_ADDED: Final = re.compile(r"\.(?=[0-9]+x[0-9]+_q[0-9])")
#: Files that are written beside their places, by this program and by recover-files.
UNFINISHED: Final = (".recover-*", ".restored-*")


def lookalikes(media: Path) -> Iterator[str]:
    """Yield files that have names as thumbnails have, while no image is beside them: somebody gave them these names.

    Names are relative to the media.
    """
    for folder, _, names in os.walk(media / "documents"):
        there = set(names)
        for name in fnmatch.filter(names, THUMBNAIL):
            if not any(name[: added.start()] in there for added in _ADDED.finditer(name)):
                yield str(Path(folder, name).relative_to(media))


def excluded(media: Path) -> str:
    """Return the patterns of what is left out: thumbnails, which the application makes again, and unfinished files."""
    kept = [f"!{pattern(str(media / name))}" for name in lookalikes(media)]
    return "\n".join([f"{media}/documents/**/{THUMBNAIL}", *UNFINISHED, *kept]) + "\n"


def has_backups(backups: Path) -> bool:
    """Whether a repository of pgBackRest holds any backup."""
    return any((backups / REPOSITORY).glob("backup/*/*F/backup.manifest"))


class Work:
    """One run of a unit on one target; ``state`` is what earlier ones have left."""

    def __init__(self, settings: Mapping[str, Any], restic: Restic, folder: Path) -> None:
        self.settings, self.restic, self.folder = settings, restic, folder
        self.target: Mapping[str, Any] = restic.target
        self.media, self.backups = Path(settings["media"]), Path(settings.get("backups", ""))
        self.path = folder / f"{self.target['name']}.json"
        self.state: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def keep(self, **values: Any) -> None:
        """Note what the next run has to know."""
        self.state |= values
        write_whole(self.path, json.dumps(self.state) + "\n", 0o600)

    def open(self) -> None:
        """Open the repository of the target, or make the first one.

        Raises:
            MediaError: the one that was there is gone, or another one is in its place.

        """
        name, known = self.target["name"], self.state.get("repository", "")
        found, said = self.restic.identity()
        if not found and (why := refusal(name, said)):
            raise MediaError(f"{why}. restic says: {said[-SHOWN:]}")
        if not found and not known:
            self.restic.ask("init")
            found, said = self.restic.identity()
        if not found:
            raise MediaError(
                f"the copies at {name} cannot be opened, and there were some: {said[-SHOWN:]} Is it switched "
                f"on, mounted, reachable? If they are gone for good: rm {self.path}, and the next run begins anew"
            )
        if known and known != found:
            raise MediaError(
                f"the copies at {name} are others ({found[:8]}) than before ({known[:8]}): another disk? If these are "
                f"to be gone on with: rm {self.path}"
            )
        if known != found:
            self.keep(repository=found)

    def backup(self) -> dict[str, Any]:
        """Copy what is new: the database's backups first, so that each file that a database names is in the media.

        Answers sizes and numbers, and under ``problem`` what was not copied: one of both is better than none.

        Raises:
            MediaError: the target cannot be opened.

        """
        self.open()
        # Only what a process has left that is gone: restic asks for that itself.
        self.restic.ask("unlock")
        if self.state.get("unfinished"):
            self._take_up()
        done: dict[str, Any] = {}
        problems = []
        for copy in (*((self._copy_database,) if self.target.get("database") else ()), self._copy_media):
            try:
                done |= copy()
            except (MediaError, OSError) as error:
                problems.append(str(error))
        return done | ({"problem": "; ".join(problems)} if problems else {})

    def _send(self, *what: Any, **how: Any) -> Copied:
        """Have a copy made, and note whether it came to its end."""
        before = bool(self.state.get("unfinished"))
        self.keep(unfinished=True)
        try:
            copied = self.restic.copy(*what, **how)
        except UnreadError:
            self.keep(unfinished=before)
            raise
        self.keep(unfinished=before)
        return copied

    def _take_up(self) -> None:
        """List what a run has sent that did not come to its end.

        restic writes its lists each ten minutes, and sends again what is in none of them: at 1 Gbit/s that is 75 GB.
        Where nothing may be removed, the old lists stay beside the new one, and restic says so.
        """
        deadline = time.monotonic() + LOCKED
        while True:
            status, _, said = self.restic.run("rebuild-index")
            if status == 0 or "already locked" not in said or time.monotonic() >= deadline:
                break
            time.sleep(LOCKED_PAUSE)
            self.restic.ask("unlock")
        if status == 0 or self.target["append_only"]:
            self.keep(unfinished=False)
        else:
            sys.stderr.write(f"what the last run has sent is not listed, and is sent again: {said.strip()[-SHOWN:]}\n")

    def _copy_database(self) -> dict[str, Any]:
        """Copy the backups of the database while nobody changes them.

        One that has to wait, or has no time to be whole, is no failure: the next one goes on, and where none comes to
        its end the copy elsewhere grows old, which is told.

        Raises:
            MediaError: no copy was made, or one without some files.

        """
        most = float(self.settings["database_seconds"])
        try:
            with backups_held(self.backups, PATIENCE_FOR_BACKUPS, changes=False):
                if not has_backups(self.backups):
                    if self.restic.snapshots(DATABASE):
                        raise MediaError(
                            f"{self.backups / REPOSITORY} holds no backup, and there are copies: is it mounted? On a "
                            f"new host: ansible-playbook playbooks/rebuild.yml -e rebuild_from={self.target['name']}"
                        )
                    return {"database_waits": "there is no backup yet"}
                began = time.time()
                names = [name for name in PARTS if (self.backups / name).is_dir()]
                left_out = ("--exclude", f"*{UNFINISHED_BACKUPS}")
                copied = self._send(DATABASE, self.backups, names, *left_out, most=most)
        except (InUseError, TooLongError) as error:
            sys.stderr.write(f"the backups of the database are copied to {self.target['name']} next time: {error}\n")
            return {"database_waits": str(error)}
        found = {f"database_{name}": value for name, value in vars(copied).items()}
        return found | {"database_copied": round(began), "database_waits": ""}

    def _copy_media(self) -> dict[str, Any]:
        """Copy the media.

        Raises:
            MediaError: no copy was made, or one without some files.

        """
        if not self.media.is_dir():
            raise MediaError(f"{self.media} is not there: is it mounted?")
        if not any(self.media.iterdir()):
            # Also on a new host: the newest copy would be one of nothing, just when another one is needed.
            if self.restic.snapshots():
                raise MediaError(
                    f"{self.media} is empty, and there are copies: is it mounted? To bring back what was there: "
                    "media-backup restore $(date +%s --date MOMENT)"
                )
            return {"files": 0, "bytes": 0}
        began = time.time()
        with tempfile.NamedTemporaryFile("w", prefix="left-out-", errors="surrogateescape") as patterns:
            patterns.write(excluded(self.media))
            patterns.flush()
            os.fchmod(patterns.fileno(), 0o644)  # restic may run as another account
            hours = int(self.target.get("limit_hours", 0))
            most = hours * HOUR if hours else None
            try:
                copied = self._send(MEDIA, self.media, ["."], "--exclude-file", patterns.name, most=most)
            except TooLongError as error:
                raise MediaError(
                    f"the {hours} hours of {self.target['name']} (limit_hours) are over before all is copied; the next "
                    f"copy goes on with what was sent"
                ) from error
        return {**vars(copied), "media_copied": round(began)}

    def prune(self) -> dict[str, Any]:
        """Forget copies that are too old, and give back their room. Each kind has bounds of its own.

        Raises:
            MediaError: the target only takes, or it fails.

        """
        if self.target["append_only"]:
            raise MediaError(f"{self.target['name']} is append_only: it forgets by itself, or not at all")
        self.open()
        self.restic.ask("unlock")
        # Copies without a tag are of the media, by an earlier version.
        for keep, tags in (("keep_database", (DATABASE,)), ("keep", (MEDIA, ""))):
            kept = [
                word for period, number in self.settings[keep].items() for word in (f"--keep-{period}", str(number))
            ]
            tagged = [word for tag in tags for word in ("--tag", tag)]
            self.restic.ask("forget", "--host", HOST, "--group-by", "", *tagged, *kept)
        self.restic.ask("prune")
        copies = {"database_copies": len(self.restic.snapshots(DATABASE)), "copies": len(self.restic.snapshots())}
        return {**copies, "target_bytes": self._stored()}

    def drill(self) -> dict[str, Any]:
        """Read a part of what is stored, another one each time, and compare a sample of each kind with what is here.

        Answers under ``problem`` what is not proved.

        Raises:
            MediaError: a part is damaged.

        """
        self.open()
        parts = int(self.settings["check_parts"])
        part = int(self.state.get("part", 0)) % parts + 1
        lock = ("--no-lock",) if self.target["append_only"] else ()
        status, output, said = self.restic.run(*lock, "check", f"--read-data-subset={part}/{parts}")
        if status != 0:
            raise MediaError(f"part {part} of {parts} is damaged: {damage(output + said)}")
        self.keep(part=part)
        done: dict[str, Any] = {"part": f"{part}/{parts}"}
        problems = []
        for prove in (*((self._prove_database,) if self.target.get("database") else ()), self._prove_media):
            try:
                done |= prove()
            except (MediaError, OSError) as error:
                problems.append(str(error))
        # Elsewhere whoever removes what is too old counts what stays.
        done |= {"target_bytes": self._stored()} if self.target["append_only"] else {}
        return done | ({"problem": "; ".join(problems)} if problems else {})

    def _stored(self) -> int:
        """Return what all copies take at the target, in bytes."""
        return int(json.loads(self.restic.ask("--no-lock", "stats", "--mode", "raw-data", "--json"))["total_size"])

    def _prove_media(self) -> dict[str, Any]:
        snapshots = in_order(self.restic.snapshots(), time.time())
        if not snapshots:
            if self.media.is_dir() and not any(self.media.iterdir()):
                return {"compared": 0, "sample": 0}
            raise MediaError("there is no copy of the media yet")
        proof = self._proof(snapshots[0], self.restic.files(snapshots[0]), self.media)
        return {"snapshot": snapshots[0].name[:8], **proof, "media_proved": round(snapshots[0].made)}

    def _prove_database(self) -> dict[str, Any]:
        """Prove that the newest copy has all that was there before it, and that what comes back is what is here.

        That what is here can be restored is proved on the database host, each week.
        """
        snapshots = in_order(self.restic.snapshots(DATABASE), time.time())
        if not snapshots:
            raise MediaError("there is no copy of the database's backups yet")
        newest = snapshots[0]
        # First what is here: what is removed meanwhile is missing there for nobody.
        wanted = settled(self.backups, newest.made)
        nodes = list(self.restic.files(newest))
        for node in nodes:
            wanted.pop(node.name, None)
        lacking = [name for name in wanted if (self.backups / name).exists()]
        if lacking:
            shown = ", ".join(lacking[:5])
            raise MediaError(
                f"the copy {newest.name[:8]} of the database's backups lacks {len(lacking)} files: {shown}"
            )
        proof = self._proof(newest, nodes, self.backups, first=LISTS)
        found = {f"database_{name}": value for name, value in proof.items()}
        return {"database_snapshot": newest.name[:8], **found, "database_proved": round(newest.made)}

    def _proof(self, snapshot: Snapshot, nodes: Iterable[Node], live: Path, first: str = "") -> dict[str, int]:
        most = int(self.settings["sample_files"]), int(self.settings["sample_mib"]) << 20
        chosen = sample(nodes, *most, first=first)
        return {"compared": compare(self.restic, snapshot, chosen, live, self.folder), "sample": len(chosen)}


def damage(said: str) -> str:
    """Return the lines of `restic check` that name what is damaged: packs, blobs, trees."""
    named = [line.strip() for line in said.splitlines() if re.search(r"\b[0-9a-f]{8,64}\b", line)]
    words = [line for line in named if re.search("pack|blob|tree|snapshot|index", line, re.IGNORECASE)]
    return "; ".join(dict.fromkeys(words))[:SHOWN] or said.strip()[-SHOWN:]


def work(settings: Mapping[str, Any], verb: str, restic: Restic, folder: Path) -> int:
    """Do what a unit does, and leave its result for the report; the exit status."""
    name, started = restic.target["name"], time.time()
    result: dict[str, Any] = {"run": os.environ.get("INVOCATION_ID", ""), "started": round(started)}
    try:
        with only_one(folder, name, PATIENCE[verb]):
            done = getattr(Work(settings, restic, folder), verb)()
        result |= {"success": "problem" not in done, **done}
    except InUseError as error:
        sys.stderr.write(f"{error}\n")
        return IN_USE
    except (MediaError, OSError, ValueError, KeyError) as error:
        result |= {"success": False, "problem": str(error)}
    if not result["success"]:
        result["problem"] = result["problem"][:SHOWN]
        sys.stderr.write(f"the {verb} at {name} FAILED: {result['problem']}\n")
    result |= {"ended": round(time.time()), "seconds": round(time.time() - started, 1)}
    write_whole(folder / f"{name}.{verb}.json", json.dumps(result) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["success"] else 1
