#!/usr/bin/python3
"""Backs up the media with restic, proves that they come back, and brings them back. An existing file is never lost.

    media-backup backup|prune|drill TARGET              what the units do, as the account of the backups
    media-backup report TARGET VERB                     what they do at their end, as root: metrics, state, mail
    media-backup status [--json]                        what became of each
    media-backup nearest MOMENT                         the newest copy that is not younger
    media-backup bring < request.json                   files that are not there, of the copy nearest to a moment
    media-backup restore MOMENT [--dry-run]             all files as they were
    media-backup restic TARGET ARGUMENT...              restic itself

MOMENT is in seconds since 1970. A request of ``bring`` holds ``files`` (names below the media), ``moment`` and
``dry_run``. All but the first print JSON; an exit status of 75 says that another one is at work on that target.

restic encrypts, finds what is new, goes on where it was cut off, and locks each target. As root, everything that talks
to a target runs as the account of the backups, and everything that writes to the media as their owner. Needs nothing
but Python and restic.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import pwd
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

FOLDER: Final = Path("/etc/media-backup")
#: Of the account: what its last runs found, and their locks.
STATE: Final = Path("/var/lib/media-backup")
CACHE: Final = Path("/var/cache/media-backup")
#: Of root: what monitoring and operators read.
REPORTS: Final = Path("/var/lib/media-backup-reports")
VERBS: Final = ("backup", "prune", "drill")
#: Exit status that says that another one is at work on that target (EX_TEMPFAIL).
IN_USE: Final = 75
#: How long each waits for another one. The next hour copies again; removals and trials come once a week. Unit: s
PATIENCE: Final = {"backup": 0, "prune": 6 * 3600, "drill": 6 * 3600}
#: Exit status of `restic backup` that has made a copy without some files.
INCOMPLETE: Final = 3
#: All copies are of one host, whatever its name is today: restic compares with the last one of the same.
HOST: Final = "escriptorium"
#: What easy-thumbnails adds to the name of an image: page.jpg -> page.jpg.180x180_q85_crop.jpg
THUMBNAIL: Final = "*.*.[0-9]*x[0-9]*_q[0-9]*.*"
_ADDED: Final = re.compile(r"\.(?=[0-9]+x[0-9]+_q[0-9])")
#: Files that are written beside their places, by this program and by recover-files.
UNFINISHED: Final = (".recover-*", ".restored-*")
#: What one call of restic brings back at most: names of a command line, and room beside the media. Unit: items, bytes
BATCH_FILES: Final = 500
BATCH_BYTES: Final = 2 << 30
#: Bytes of what the account has left for root, and letters of it that are shown.
LARGEST_RESULT: Final = 1 << 16
SHOWN: Final = 1500
#: Time between two mails about the same failing unit. Unit: s
MAIL_PAUSE: Final = 86400
#: What a folder gets whose own mode is not known.
FOLDER_MODE: Final = 0o755


class MediaBackupError(Exception):
    """It cannot be done; the message says why."""


class InUseError(MediaBackupError):
    """Another one is at work on that target."""


@dataclass(frozen=True)
class Account:
    """An account by its numbers."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Node:
    """A file of a copy: name below the media, size in bytes, when it was written (seconds since 1970)."""

    name: str
    size: int
    written: float


@dataclass(frozen=True)
class Snapshot:
    """A copy: restic's name of it, of its content, and when it was made (seconds since 1970)."""

    name: str
    tree: str
    made: float


@dataclass
class Outcome:
    """What became of files that are wanted."""

    copied: int = 0
    bytes: int = 0
    there: int = 0
    kept: int = 0
    moved: int = 0
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)

    def shown(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**vars(self), "sources": dict(self.sources)}


def seconds(text: str) -> float:
    """Return a moment of restic's, as 2026-11-30T06:46:44.519387543Z, in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def pattern(name: str) -> str:
    """Return a name as a pattern of restic's that finds it, and hardly anything else.

    What has a meaning there or in a file of patterns (blanks at an end, ``$``), and what is no ASCII, is any letter.
    """
    return re.sub(r"[^A-Za-z0-9._/@%+=,:-]", "?", name)


def in_order(snapshots: Iterable[Snapshot], moment: float) -> list[Snapshot]:
    """Return copies in the order in which they are asked for a file: from the moment backwards, then onwards."""
    every = sorted(snapshots, key=lambda snapshot: snapshot.made)
    before = [snapshot for snapshot in every if snapshot.made <= moment]
    return before[::-1] + every[len(before) :]


def clean_name(name: str) -> str:
    """Return the name of a file below the media.

    Raises:
        MediaBackupError: it leads out of them.

    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise MediaBackupError(f"{name!r} is no name of a file below the media folder")
    return str(path)


def open_below(folder: Path, name: str) -> BinaryIO | None:
    """Open a plain file below a folder; None where there is none, or a link is on the way, which may lead elsewhere."""
    *parents, last = PurePosixPath(name).parts
    with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        opened.callback(os.close, place)
        for parent in parents:
            place = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            opened.callback(os.close, place)
        handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
    return None


def digest_of(content: BinaryIO) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step: nobody ever reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink()
        raise


@contextlib.contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Act as another account: a link that it has put somewhere leads no further than it may go itself."""
    before, groups = Account(os.geteuid(), os.getegid()), os.getgroups()
    if before == account:
        yield
        return
    os.setgroups([])
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(before.uid)
        os.setegid(before.gid)
        os.setgroups(groups)


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


class Restic:
    """restic on one target. Its passphrase and its login are in files that only its account reads."""

    def __init__(
        self, target: Mapping[str, Any], secrets: Path, account: Account | None = None, cache: Path | None = None
    ) -> None:
        self.target, self.secrets, self.account = target, secrets, account
        self.cache = cache if target["type"] != "directory" else None

    def secret(self, what: str) -> Path:
        """Return the file of this target's login, key, or list of known hosts."""
        return self.secrets / f"{self.target['name']}.{what}"

    def environment(self) -> dict[str, str]:
        """Return what restic is told: nothing of it is seen in a list of processes."""
        login: dict[str, str] = {}
        if self.target.get("login"):
            login = json.loads(self.secret("login").read_text())
        repository, known = str(self.target["repository"]), {}
        if self.target["type"] == "s3":
            known = {"AWS_ACCESS_KEY_ID": login["user"], "AWS_SECRET_ACCESS_KEY": login["password"]}
            if self.target.get("region"):
                known["AWS_DEFAULT_REGION"] = self.target["region"]
        elif self.target["type"] == "rest" and login:
            scheme, _, place = repository.removeprefix("rest:").partition("://")
            repository = f"rest:{scheme}://{_quoted(login['user'])}:{_quoted(login['password'])}@{place}"
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": "/nonexistent",
            "RESTIC_REPOSITORY": repository,
            "RESTIC_PASSWORD_FILE": str(self.secrets / "passphrase"),
            "RESTIC_PROGRESS_FPS": "0.02",
            # restic keeps lists of what it knows in memory: Go is told to give back what it does not use.
            "GOGC": os.environ.get("GOGC", "20"),
            **{name: os.environ[name] for name in ("TMPDIR", "GOMAXPROCS") if name in os.environ},
            **known,
        }

    def command(self, *arguments: str) -> list[str]:
        """Return the words of a command of restic's."""
        words = ["restic", *(("--cache-dir", str(self.cache)) if self.cache else ("--no-cache",))]
        if self.target.get("limit_upload"):
            words += ["--limit-upload", str(self.target["limit_upload"])]
        if self.target["type"] == "sftp":
            words += ["--option", f"sftp.command={self._ssh()}"]
        return [*words, *arguments]

    def _ssh(self) -> str:
        """Return the command that reaches an sftp target: by its own key, and to the host key that the site names."""
        options = ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "ServerAliveInterval=30")
        words = ["ssh", "-F", "/dev/null", "-i", str(self.secret("key")), "-p", str(self.target["port"])]
        for option in (*options, f"UserKnownHostsFile={self.secret('known_hosts')}", "GlobalKnownHostsFile=/dev/null"):
            words += ["-o", option]
        return " ".join([*words, f"{self.target['user']}@{self.target['host']}", "-s", "sftp"])

    def start(
        self, *arguments: str, folder: str = "/", stderr: int | BinaryIO = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start restic in a folder."""
        as_account: dict[str, Any] = {}
        if self.account is not None and os.geteuid() == 0:
            as_account = {"user": self.account.uid, "group": self.account.gid, "extra_groups": ()}
        return subprocess.Popen(
            self.command(*arguments),
            cwd=folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="surrogateescape",
            umask=0o077,
            **as_account,
        )

    def run(self, *arguments: str, folder: str = "/") -> tuple[int, str, str]:
        """Run restic; answers its exit status, what it prints, and what it says."""
        with self.start(*arguments, folder=folder) as process:
            output, said = process.communicate()
        return process.returncode, output, said

    def ask(self, *arguments: str) -> str:
        """Answer what restic prints.

        Raises:
            MediaBackupError: it failed, with the end of what it said.

        """
        status, output, said = self.run(*arguments)
        if status != 0:
            raise MediaBackupError(f"restic {arguments[0]} failed ({status}): {said.strip()[-SHOWN:]}")
        return output

    def identity(self) -> str:
        """Return the name of the repository; empty where none can be opened."""
        status, output, _ = self.run("--no-lock", "cat", "config")
        return str(json.loads(output)["id"]) if status == 0 else ""

    def snapshots(self) -> list[Snapshot]:
        """Return all copies."""
        found = json.loads(self.ask("--no-lock", "snapshots", "--json", "--host", HOST)) or []
        return [Snapshot(one["id"], one["tree"], seconds(one["time"])) for one in found]

    def files(self, snapshot: Snapshot, folders: Sequence[str] = ()) -> Iterator[Node]:
        """Yield the files of a copy; with folders, those that lie in one of them.

        Raises:
            MediaBackupError: the copy cannot be read.

        """
        with tempfile.TemporaryFile() as said:
            places = [f"/{folder}" for folder in folders]
            with self.start("--no-lock", "ls", "--json", snapshot.name, *places, stderr=said) as process:
                assert process.stdout is not None  # noqa: S101 - it is a pipe
                for line in process.stdout:
                    if line.startswith("{") and (node := json.loads(line)).get("type") == "file":
                        yield Node(node["path"].lstrip("/"), int(node.get("size", 0)), seconds(node["mtime"]))
            if process.returncode != 0:
                said.seek(0)
                text = said.read().decode(errors="replace")
                raise MediaBackupError(f"restic ls failed ({process.returncode}): {text.strip()[-SHOWN:]}")

    def fetch(self, snapshot: Snapshot, names: Sequence[str], place: Path) -> None:
        """Bring files of a copy below a folder, and compare them with what the copy says.

        Raises:
            MediaBackupError: one of them could not be read; what is there then proves nothing.

        """
        wanted = [word for name in names for word in ("--include", pattern(f"/{name}"))]
        self.ask("--no-lock", "restore", snapshot.name, "--target", str(place), "--verify", *wanted)


def _quoted(text: str) -> str:
    """Return text as a part of an address has it."""
    return "".join(
        one if re.fullmatch("[A-Za-z0-9._~-]", one) else "".join(f"%{b:02X}" for b in one.encode()) for one in text
    )


# --- what the units do ------------------------------------------------------------------------------------------------


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
            MediaBackupError: the one that was there is gone, or another one is in its place.

        """
        name, known, found = self.target["name"], self.state.get("repository", ""), self.restic.identity()
        if not found and not known:
            self.restic.ask("init")
            found = self.restic.identity()
        if not found:
            _, _, said = self.restic.run("--no-lock", "cat", "config")
            raise MediaBackupError(
                f"the copies at {name} cannot be opened, and there were some: {said.strip()[-SHOWN:]} Is it switched "
                f"on, mounted, reachable? If they are gone for good: rm {self.path}, and the next run begins anew"
            )
        if known and known != found:
            raise MediaBackupError(
                f"the copies at {name} are others ({found[:8]}) than before ({known[:8]}): another disk? If these are "
                f"to be gone on with: rm {self.path}"
            )
        if known != found:
            self.keep(repository=found)

    def backup(self) -> dict[str, Any]:
        """Copy what is new; answers sizes and numbers.

        Raises:
            MediaBackupError: no copy was made, or one without some files.

        """
        if not self.media.is_dir():
            raise MediaBackupError(f"{self.media} is not there: is it mounted?")
        self.open()
        if not any(self.media.iterdir()):
            # Also on a new host: the newest copy would be one of nothing, just when another one is needed.
            if self.restic.snapshots():
                raise MediaBackupError(
                    f"{self.media} is empty, and there are copies: is it mounted? To bring back what was there: "
                    "media-backup restore $(date +%s --date MOMENT)"
                )
            # A platform on its first day. restic makes no copy of nothing, and calls that an error.
            return {"snapshot": "", "files": 0, "bytes": 0, "added_bytes": 0, "gone_meanwhile": 0}
        # Only what a process has left that is gone: restic asks for that itself.
        self.restic.ask("unlock")
        with tempfile.NamedTemporaryFile("w", prefix="left-out-", errors="surrogateescape") as patterns:
            patterns.write(excluded(self.media))
            patterns.flush()
            os.fchmod(patterns.fileno(), 0o644)  # restic may run as another account
            options = ("--json", "--host", HOST, "--one-file-system", "--exclude-file", patterns.name)
            status, output, said = self.restic.run("backup", *options, ".", folder=str(self.media))
        unread, gone = self.unread(said)
        summary = _last(output, "summary")
        if status not in (0, INCOMPLETE) or not summary:
            raise MediaBackupError(f"restic backup failed ({status}): {said.strip()[-SHOWN:]}")
        done = {
            "snapshot": summary["snapshot_id"],
            "files": int(summary["total_files_processed"]),
            "bytes": int(summary["total_bytes_processed"]),
            "added_bytes": int(summary["data_added"]),
            "gone_meanwhile": gone,
        }
        if unread:
            shown = "; ".join(unread[:5])
            raise MediaBackupError(
                f"the copy {done['snapshot']} lacks {len(unread)} files that cannot be read: {shown}"
            )
        return done

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
            MediaBackupError: the target only takes, or it fails.

        """
        if self.target["append_only"]:
            raise MediaBackupError(f"{self.target['name']} is append_only: it forgets by itself, or not at all")
        self.open()
        self.restic.ask("unlock")
        kept = [word for period, number in self.settings["keep"].items() for word in (f"--keep-{period}", str(number))]
        self.restic.ask("forget", "--host", HOST, "--group-by", "", *kept, "--prune")
        statistics = json.loads(self.restic.ask("--no-lock", "stats", "--mode", "raw-data", "--json"))
        return {"copies": len(self.restic.snapshots()), "target_bytes": int(statistics["total_size"])}

    def drill(self) -> dict[str, Any]:
        """Read a part of what is stored, another one each time, and compare a sample with the live files.

        Raises:
            MediaBackupError: a part is damaged, or a file comes back otherwise than it is.

        """
        self.open()
        parts = int(self.settings["check_parts"])
        part = int(self.state.get("part", 0)) % parts + 1
        lock = ("--no-lock",) if self.target["append_only"] else ()
        status, output, said = self.restic.run(*lock, "check", f"--read-data-subset={part}/{parts}")
        if status != 0:
            raise MediaBackupError(f"part {part} of {parts} is damaged: {damage(output + said)}")
        self.keep(part=part)
        snapshots = in_order(self.restic.snapshots(), time.time())
        if not snapshots:
            if any(self.media.iterdir()):
                raise MediaBackupError("there is no copy yet")
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
            MediaBackupError: one is otherwise.

        """
        compared = 0
        with tempfile.TemporaryDirectory(prefix="drill-", dir=self.folder) as place:
            for batch in batches(sample):
                self.restic.fetch(snapshot, [node.name for node in batch], Path(place))
            for node in sample:
                live, copy = open_below(self.media, node.name), open_below(Path(place), node.name)
                if copy is None:
                    raise MediaBackupError(f"{node.name} did not come back from {snapshot.name[:8]}")
                if live is None:
                    continue
                with live, copy:
                    status = os.fstat(live.fileno())
                    if status.st_size != node.size or int(status.st_mtime) != int(node.written):
                        continue
                    if digest_of(live) != digest_of(copy):
                        raise MediaBackupError(f"{node.name} came back otherwise than it is from {snapshot.name[:8]}")
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


def batches(nodes: Iterable[Node]) -> Iterator[list[Node]]:
    """Yield files in parts that one call of restic takes."""
    batch: list[Node] = []
    size = 0
    for node in nodes:
        if batch and (len(batch) == BATCH_FILES or size + node.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(node)
        size += node.size
    if batch:
        yield batch


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
    except (MediaBackupError, OSError, ValueError, KeyError) as error:
        result |= {"success": False, "problem": str(error)[:SHOWN]}
        sys.stderr.write(f"the {verb} of the media at {name} FAILED: {error}\n")
    result |= {"ended": round(time.time()), "seconds": round(time.time() - started, 1)}
    write_whole(folder / f"{name}.{verb}.json", json.dumps(result) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["success"] else 1


# --- what is told -----------------------------------------------------------------------------------------------------


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
    known = {name: value for name, value in before.items() if name != "problem"}
    return {"mailed": 0, **known, **result, "last_success": last}


def metrics(settings: Mapping[str, Any], state: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the results as text for Prometheus; ``state`` by target and verb."""
    rows = (
        ("success", "Whether the last try went well.", "success"),
        ("last_try_timestamp_seconds", "When the last try ended.", "ended"),
        ("last_success_timestamp_seconds", "When it last went well.", "last_success"),
        ("seconds", "How long the last try took.", "seconds"),
        ("bytes", "Size of the media in the last copy.", "bytes"),
        ("added_bytes", "What that copy added.", "added_bytes"),
        ("target_bytes", "What all copies take at the target.", "target_bytes"),
        ("compared_files", "Files that came back as they are.", "compared"),
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
    return "\n".join(lines) + "\n"


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
    elif (
        settings["mail"] and now - state["mailed"] > MAIL_PAUSE and (mail or send)(letter(settings, name, verb, state))
    ):
        state["mailed"] = round(now)
    write_whole(path, json.dumps(state) + "\n")
    write_whole(Path(settings["metrics"]), metrics(settings, read_reports(settings, REPORTS)))


def letter(settings: Mapping[str, Any], name: str, verb: str, state: Mapping[str, Any]) -> str:
    """Return the mail about a unit that failed."""
    host, last = os.uname().nodename, day(state["last_success"])
    return (
        f"To: {settings['mail']}\nSubject: {host}: the {verb} of the media at {name} failed\n\n"
        f"{state.get('problem', '')}\n\nIt last went well: {last}.\n"
        f"More: journalctl -u media-{verb}@{name} on {host}. The next mail about it comes after a day.\n"
    )


def send(text: str) -> bool:
    """Mail something, where the host can; answers whether it went out."""
    program = shutil.which("sendmail", path="/usr/sbin:/usr/lib")
    return program is not None and subprocess.run([program, "-t"], input=text, check=False, text=True).returncode == 0


def day(moment: float) -> str:
    """Return a moment as people read it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment)) if moment else "never"


def status_lines(settings: Mapping[str, Any], state: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return what became of each target, one line each."""
    lines = []
    for target in settings["targets"]:
        name, words = target["name"], []
        for verb in VERBS:
            if verb == "prune" and target["append_only"]:
                continue
            one = state.get(name, {}).get(verb, {})
            words.append(f"{verb} {day(one.get('last_success', 0))}")
            if verb == "backup" and "bytes" in one:
                words[-1] += f", {one.get('files', 0)} files, {one['bytes'] / 1e9:.1f} GB"
            if one and not one.get("success"):
                words[-1] += f" (FAILED {day(one.get('ended', 0))}: {one.get('problem', '')})"
        lines.append(f"media at {name}: {'; '.join(words)}")
    return lines


# --- what comes back --------------------------------------------------------------------------------------------------


class Copies:
    """All targets, as root asks them: in the order in which they are asked, those on this host first."""

    def __init__(self, settings: Mapping[str, Any], restics: Sequence[Restic], scratch: Path, owner: Account) -> None:
        local = [one for one in restics if one.target["type"] == "directory"]
        self.restics = local + [one for one in restics if one not in local]
        self.settings, self.scratch, self.owner = settings, scratch, owner
        self.media = Path(settings["media"])

    def nearest(self, moment: float, problems: list[str]) -> tuple[Restic, Snapshot] | None:
        """Return the newest copy that is not younger than a moment, of any target."""
        found: tuple[Restic, Snapshot] | None = None
        for restic in self.restics:
            for snapshot in self._snapshots(restic, problems):
                if snapshot.made <= moment and (found is None or snapshot.made > found[1].made):
                    found = restic, snapshot
        return found

    def _snapshots(self, restic: Restic, problems: list[str]) -> list[Snapshot]:
        try:
            return restic.snapshots()
        except MediaBackupError as error:
            problems.append(f"{restic.target['name']}: {error}")
            return []

    def bring(self, names: Iterable[str], moment: float, *, dry_run: bool = False) -> Outcome:
        """Copy files that are not there from whatever target has them.

        Raises:
            MediaBackupError: a file could not be written; those before it are there.

        """
        outcome, wanted = Outcome(), []
        for name in dict.fromkeys(map(clean_name, names)):
            if os.path.lexists(self.media / name):
                outcome.there += 1
            else:
                wanted.append(name)
        for restic in self.restics:
            for snapshot in in_order(self._snapshots(restic, outcome.problems) if wanted else (), moment):
                wanted = self._bring_from(restic, snapshot, wanted, outcome, dry_run=dry_run)
                if not wanted:
                    break
        outcome.missing = wanted
        return outcome

    def _bring_from(
        self, restic: Restic, snapshot: Snapshot, wanted: Sequence[str], outcome: Outcome, *, dry_run: bool
    ) -> list[str]:
        """Copy what one copy has of files; answers those that it has not, or that cannot be read there."""
        names = set(wanted)
        folders = sorted({str(PurePosixPath(name).parent) for name in names})
        nodes: dict[str, Node] = {}
        try:
            for start in range(0, len(folders), BATCH_FILES):
                part = [folder.removeprefix(".") for folder in folders[start : start + BATCH_FILES]]
                nodes |= {node.name: node for node in restic.files(snapshot, part) if node.name in names}
        except MediaBackupError as error:
            outcome.problems.append(f"{restic.target['name']}: {error}")
        done = set(nodes) if dry_run else self._place(restic, snapshot, list(nodes.values()), outcome)
        for name in done if dry_run else ():
            self._count(restic, snapshot, nodes[name], outcome)
        return [name for name in wanted if name not in done]

    @staticmethod
    def _count(restic: Restic, snapshot: Snapshot, node: Node, outcome: Outcome) -> None:
        outcome.copied += 1
        outcome.bytes += node.size
        outcome.sources[f"{restic.target['name']} of {day(snapshot.made)}"] += 1

    def _place(self, restic: Restic, snapshot: Snapshot, nodes: Sequence[Node], outcome: Outcome) -> set[str]:
        """Bring files of a copy to their places; answers which were read."""
        done: set[str] = set()
        for batch in batches(nodes):
            with self._room(restic) as place:
                for node in self._fetch(restic, snapshot, batch, place, outcome):
                    content = open_below(place, node.name)
                    if content is None:
                        outcome.problems.append(f"{restic.target['name']}: {node.name} did not come back")
                        continue
                    with content:
                        try:
                            self._write(content, place, node.name)
                        except FileExistsError:
                            outcome.there += 1
                        except OSError as error:
                            words = f"{node.name}: {error.strerror}; {outcome.copied} files before it are there"
                            raise MediaBackupError(words) from error
                        else:
                            self._count(restic, snapshot, node, outcome)
                    done.add(node.name)
        return done

    @contextlib.contextmanager
    def _room(self, restic: Restic) -> Iterator[Path]:
        """Yield a folder of the account's in a folder of root's, and take it away again."""
        place = Path(tempfile.mkdtemp(prefix="media-", dir=self.scratch))
        try:
            if restic.account is not None and os.geteuid() == 0:
                os.chown(place, restic.account.uid, restic.account.gid)
            yield place
        finally:
            shutil.rmtree(place)

    def _fetch(
        self, restic: Restic, snapshot: Snapshot, batch: Sequence[Node], place: Path, outcome: Outcome
    ) -> Iterator[Node]:
        """Yield files that were brought and are as the copy says; where one of a batch is damaged, one by one."""
        try:
            restic.fetch(snapshot, [node.name for node in batch], place)
        except MediaBackupError as error:
            if len(batch) == 1:
                outcome.problems.append(f"{restic.target['name']}: {batch[0].name}: {error}")
                return
            for node in batch:
                yield from self._fetch(restic, snapshot, [node], place, outcome)
            return
        yield from batch

    def _write(self, content: BinaryIO, place: Path, name: str) -> None:
        """Write a file, as the owner of the media, to where there is none; it gets its name when it is whole."""
        status, target = os.fstat(content.fileno()), self.media / name
        folders = []
        folder, like = target.parent, (place / name).parent
        while folder != self.media and not folder.is_dir():
            folders.append((folder, stat.S_IMODE(like.lstat().st_mode) or FOLDER_MODE))
            folder, like = folder.parent, like.parent
        with acting_as(self.owner):
            for folder, mode in reversed(folders):
                folder.mkdir(exist_ok=True)
                folder.chmod(mode | 0o700)
            handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".recover-")
            try:
                with os.fdopen(handle, "wb") as stream:
                    shutil.copyfileobj(content, stream, 1 << 20)
                    stream.flush()
                    os.fchmod(stream.fileno(), stat.S_IMODE(status.st_mode) & 0o777)
                    os.fsync(stream.fileno())
                os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))
                os.link(partial, target)
            finally:
                os.unlink(partial)  # noqa: PTH108 - a name, not a path object

    def restore(self, moment: float, *, dry_run: bool = False) -> dict[str, Any]:
        """Bring back all files that are missing, or were changed after a moment; newer ones stay.

        What was changed is moved to MEDIA-before-<moment> first. Files that were written after the copy and up to the
        moment stay as they are, and so do files that came later: no row of the moment names them.

        Raises:
            MediaBackupError: there is no copy from before that moment, or a file could not be written.

        """
        outcome = Outcome()
        found = self.nearest(moment, outcome.problems)
        if found is None:
            raise MediaBackupError(
                "there is no copy of the media from before that moment: they can stay as they are "
                f"(restore_media=false), or take another moment. {'; '.join(outcome.problems)}"
            )
        restic, snapshot = found
        before = self.media.with_name(
            f"{self.media.name}-before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(moment))}"
        )
        wanted = []
        for node in restic.files(snapshot):
            what = self._state(node, moment)
            if what == "same":
                outcome.there += 1
            elif what == "newer":
                outcome.kept += 1
            else:
                wanted.append(node)
                if what == "changed":
                    outcome.moved += 1
                    if not dry_run:
                        self._move_aside(node.name, before)
        if dry_run:
            outcome.copied, outcome.bytes = len(wanted), sum(node.size for node in wanted)
        else:
            done = self._place(restic, snapshot, wanted, outcome)
            left = [node.name for node in wanted if node.name not in done]
            if left:
                other = self.bring(left, moment)
                outcome.copied += other.copied
                outcome.bytes += other.bytes
                outcome.sources += other.sources
                outcome.problems += other.problems
                outcome.missing = other.missing
        copy = {"target": restic.target["name"], "snapshot": snapshot.name[:8], "made": round(snapshot.made)}
        return {**copy, "before": str(before) if outcome.moved else "", **outcome.shown()}

    def _state(self, node: Node, moment: float) -> str:
        """Return what a file of the copy is among the live ones: missing, same, newer than the copy, or changed."""
        with acting_as(self.owner):
            try:
                live = os.lstat(self.media / clean_name(node.name))
            except OSError:
                return "missing"
        if not stat.S_ISREG(live.st_mode):
            return "changed"
        if live.st_size == node.size and int(live.st_mtime) == int(node.written):
            return "same"
        return "newer" if live.st_mtime <= moment else "changed"

    def _move_aside(self, name: str, before: Path) -> None:
        """Move what is in the place of a file to a folder beside the media, as their owner."""
        if not before.is_dir():
            before.mkdir(mode=0o700)
            os.chown(before, self.owner.uid, self.owner.gid)
        with acting_as(self.owner):
            target = before / name
            target.parent.mkdir(parents=True, exist_ok=True)
            number = 0
            while os.path.lexists(target):
                number += 1
                target = before / f"{name}.{number}"
            (self.media / name).rename(target)


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
    commands.add_parser("nearest").add_argument("moment", type=float)
    commands.add_parser("bring")
    one = commands.add_parser("restore")
    one.add_argument("moment", type=float)
    one.add_argument("--dry-run", action="store_true")
    one = commands.add_parser("restic")
    one.add_argument("target")
    one.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def answer(settings: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Do what root asks for; answers what is printed."""
    owner = Account(int(settings["uid"]), int(settings["gid"]))
    copies = Copies(settings, as_root(settings), Path(settings["scratch"]), owner)
    if options.command == "restore":
        return copies.restore(options.moment, dry_run=options.dry_run)
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
        raise MediaBackupError(f"systemctl start media-{options.command}@TARGET does it; the targets: {known}")
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
            lines = [json.dumps(state)] if options.json else status_lines(settings, state)
            sys.stdout.writelines(f"{line}\n" for line in lines)
        elif options.command == "restic":
            restic = next(one for one in as_root(settings) if one.target["name"] == options.target)
            status, output, said = restic.run(*options.arguments)
            sys.stdout.write(output)
            sys.stderr.write(said)
            return status
        else:
            sys.stdout.write(json.dumps(answer(settings, options)) + "\n")
    except (MediaBackupError, OSError, ValueError, KeyError, StopIteration) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
