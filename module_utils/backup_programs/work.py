"""What the units of one target do, as the account of the copies: copy, remove what is too old, try what is there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import json
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .files import MediaError, digest_of, open_below, write_whole
from .refusals import refusal
from .restic import HOST, SHOWN, Node, Restic, Snapshot, batches, in_order, pattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Exit status that says that another one is at work on that target (EX_TEMPFAIL).
IN_USE: Final = 75
#: How long each waits for another one. The next hour copies again; removals and trials come once a week. Unit: s
PATIENCE: Final = {"backup": 0, "prune": 6 * 3600, "drill": 6 * 3600}
#: A lock of this host's restic is one of the dead, but restic sees that by its number: after a boot another process may
#: have it. After half an hour it counts no more. Unit: s
LOCKED: Final = 31 * 60
LOCKED_PAUSE: Final = 30.0
#: Exit status of `restic backup` that has made a copy without some files.
INCOMPLETE: Final = 3
#: What easy-thumbnails adds to the name of an image: page.jpg -> page.jpg.180x180_q85_crop.jpg
THUMBNAIL: Final = "*.*.[0-9]*x[0-9]*_q[0-9]*.*"
_ADDED: Final = re.compile(r"\.(?=[0-9]+x[0-9]+_q[0-9])")
#: Files that are written beside their places, by this program and by recover-files.
UNFINISHED: Final = (".recover-*", ".restored-*")


class InUseError(MediaError):
    """Another one is at work on that target."""


@contextlib.contextmanager
def only_one(folder: Path, target: str, patience: float = 0) -> Iterator[None]:
    """Keep others away from a target meanwhile; wait for one that is there so many seconds.

    Raises:
        InUseError: another one is still at work there.

    """
    deadline = time.monotonic() + patience
    handle = os.open(folder / f"{target}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise InUseError(f"another one is at work on {target}") from None
                time.sleep(1)
        yield


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


class Work:
    """One run of a unit on one target; ``state`` is what earlier ones have left."""

    def __init__(self, settings: Mapping[str, Any], restic: Restic, folder: Path) -> None:
        self.settings, self.restic, self.folder = settings, restic, folder
        self.target: Mapping[str, Any] = restic.target
        self.media = Path(settings["media"])
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
        """Copy what is new; answers sizes and numbers.

        Raises:
            MediaError: no copy was made, or one without some files.

        """
        if not self.media.is_dir():
            raise MediaError(f"{self.media} is not there: is it mounted?")
        self.open()
        if not any(self.media.iterdir()):
            # Also on a new host: the newest copy would be one of nothing, just when another one is needed.
            if self.restic.snapshots():
                raise MediaError(
                    f"{self.media} is empty, and there are copies: is it mounted? To bring back what was there: "
                    "media-backup restore $(date +%s --date MOMENT)"
                )
            # A platform on its first day. restic makes no copy of nothing, and calls that an error.
            return {"snapshot": "", "files": 0, "bytes": 0, "added_bytes": 0, "gone_meanwhile": 0}
        # Only what a process has left that is gone: restic asks for that itself.
        self.restic.ask("unlock")
        if self.state.get("unfinished"):
            self.take_up()
        self.keep(unfinished=True)
        with tempfile.NamedTemporaryFile("w", prefix="left-out-", errors="surrogateescape") as patterns:
            patterns.write(excluded(self.media))
            patterns.flush()
            os.fchmod(patterns.fileno(), 0o644)  # restic may run as another account
            options = ("--json", "--host", HOST, "--one-file-system", "--exclude-file", patterns.name)
            status, output, said = self.restic.run("backup", *options, ".", folder=str(self.media))
        unread, gone = self.unread(said)
        summary = _last(output, "summary")
        if status not in (0, INCOMPLETE) or not summary:
            raise MediaError(f"restic backup failed ({status}): {said.strip()[-SHOWN:]}")
        self.keep(unfinished=False)
        done = {
            "snapshot": summary["snapshot_id"],
            "files": int(summary["total_files_processed"]),
            "bytes": int(summary["total_bytes_processed"]),
            "added_bytes": int(summary["data_added"]),
            "gone_meanwhile": gone,
        }
        if unread:
            shown = "; ".join(unread[:5])
            raise MediaError(f"the copy {done['snapshot']} lacks {len(unread)} files that cannot be read: {shown}")
        return done

    def take_up(self) -> None:
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
        if status != 0 and not self.target["append_only"]:
            sys.stderr.write(f"what the last run has sent is not listed, and is sent again: {said.strip()[-SHOWN:]}\n")

    def unread(self, said: str) -> tuple[list[str], int]:
        """Return which files could not be read, and how many were removed while restic came by."""
        unread, gone = [], 0
        for line in said.splitlines():
            if line.startswith("{") and (message := json.loads(line)).get("message_type") == "error":
                error = message.get("error") or {}
                text = error.get("message", "") or str(error)
                if error.get("Err") == errno.ENOENT or "no such file or directory" in text:
                    gone += 1
                else:
                    unread.append(f"{message.get('item', '')}: {text}"[:200])
        return unread, gone

    def prune(self) -> dict[str, Any]:
        """Forget copies that are too old, and give back their room.

        Raises:
            MediaError: the target only takes, or it fails.

        """
        if self.target["append_only"]:
            raise MediaError(f"{self.target['name']} is append_only: it forgets by itself, or not at all")
        self.open()
        self.restic.ask("unlock")
        kept = [word for period, number in self.settings["keep"].items() for word in (f"--keep-{period}", str(number))]
        self.restic.ask("forget", "--host", HOST, "--group-by", "", *kept, "--prune")
        statistics = json.loads(self.restic.ask("--no-lock", "stats", "--mode", "raw-data", "--json"))
        return {"copies": len(self.restic.snapshots()), "target_bytes": int(statistics["total_size"])}

    def drill(self) -> dict[str, Any]:
        """Read a part of what is stored, another one each time, and compare a sample with the live files.

        Raises:
            MediaError: a part is damaged, or a file comes back otherwise than it is.

        """
        self.open()
        parts = int(self.settings["check_parts"])
        part = int(self.state.get("part", 0)) % parts + 1
        lock = ("--no-lock",) if self.target["append_only"] else ()
        status, output, said = self.restic.run(*lock, "check", f"--read-data-subset={part}/{parts}")
        if status != 0:
            raise MediaError(f"part {part} of {parts} is damaged: {damage(output + said)}")
        self.keep(part=part)
        snapshots = in_order(self.restic.snapshots(), time.time())
        if not snapshots:
            if any(self.media.iterdir()):
                raise MediaError("there is no copy yet")
            return {"snapshot": "", "part": f"{part}/{parts}", "compared": 0, "sample": 0}
        sample = self._sample(snapshots[0])
        compared = self._compare(snapshots[0], sample)
        return {
            "snapshot": snapshots[0].name[:8],
            "part": f"{part}/{parts}",
            "compared": compared,
            "sample": len(sample),
        }

    def _sample(self, snapshot: Snapshot) -> list[Node]:
        """Return files of a copy at random, whose number and sizes are bounded."""
        bound, rest = int(self.settings["sample_files"]), int(self.settings["sample_mib"]) << 20
        chosen: list[Node] = []
        for seen, node in enumerate(self.restic.files(snapshot)):
            if len(chosen) < bound:
                chosen.append(node)
            elif (place := random.randint(0, seen)) < bound:  # noqa: S311 - a sample, and no secret
                chosen[place] = node
        taken = []
        for node in chosen:
            if node.size <= rest:
                rest -= node.size
                taken.append(node)
        return taken

    def _compare(self, snapshot: Snapshot, sample: Sequence[Node]) -> int:
        """Bring a sample beside the live files; answers how many were compared, as others were changed since.

        Raises:
            MediaError: one is otherwise.

        """
        compared = 0
        with tempfile.TemporaryDirectory(prefix="drill-", dir=self.folder) as place:
            for batch in batches(sample):
                self.restic.fetch(snapshot, [node.name for node in batch], Path(place))
            for node in sample:
                live, copy = open_below(self.media, node.name), open_below(Path(place), node.name)
                if copy is None:
                    raise MediaError(f"{node.name} did not come back from {snapshot.name[:8]}")
                if live is None:
                    continue
                with live, copy:
                    status = os.fstat(live.fileno())
                    if status.st_size != node.size or int(status.st_mtime) != int(node.written):
                        continue
                    if digest_of(live) != digest_of(copy):
                        raise MediaError(f"{node.name} came back otherwise than it is from {snapshot.name[:8]}")
                    compared += 1
        return compared


def _last(output: str, kind: str) -> dict[str, Any]:
    """Return the last message of a kind that restic has printed; nothing where there is none."""
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{") and f'"{kind}"' in line]
    messages: list[dict[str, Any]] = [message for message in found if message.get("message_type") == kind]
    return messages[-1] if messages else {}


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
            result |= {"success": True, **getattr(Work(settings, restic, folder), verb)()}
    except InUseError as error:
        sys.stderr.write(f"{error}\n")
        return IN_USE
    except (MediaError, OSError, ValueError, KeyError) as error:
        result |= {"success": False, "problem": str(error)[:SHOWN]}
        sys.stderr.write(f"the {verb} of the media at {name} FAILED: {error}\n")
    result |= {"ended": round(time.time()), "seconds": round(time.time() - started, 1)}
    write_whole(folder / f"{name}.{verb}.json", json.dumps(result) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["success"] else 1
