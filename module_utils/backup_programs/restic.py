"""What restic is asked on one target, and what it answers. Nothing of a login is seen in a list of processes."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from .files import Account, MediaError
from .refusals import told
from .watched import STALLED, StalledError, communicate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

#: All copies are of one host, whatever its name is today: restic compares with the last one of the same.
HOST: Final = "escriptorium"
#: What a copy is of; its tag. Earlier versions copied media only, and gave no tag.
DATABASE: Final = "database"
MEDIA: Final = "media"
#: Exit status of `restic backup` that has made a copy without some files.
INCOMPLETE: Final = 3
SHOWN: Final = 1500
#: What one call of restic brings back at most: names of a command line, and room beside the media. Unit: items, bytes
BATCH_FILES: Final = 500
BATCH_BYTES: Final = 2 << 30


@dataclass(frozen=True)
class Node:
    """A file of a copy: name below the media, size in bytes, when it was written (seconds since 1970)."""

    name: str
    size: int
    written: float


@dataclass(frozen=True)
class Snapshot:
    """A copy: restic's name of it, of its content, when it was made (seconds since 1970), and what it is of."""

    name: str
    tree: str
    made: float
    kind: str = MEDIA


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


@dataclass(frozen=True)
class Copied:
    """A copy that was made: restic's name of it, what is in it, what it has added, and what went meanwhile."""

    snapshot: str
    files: int
    bytes: int
    added_bytes: int
    gone_meanwhile: int


class UnreadError(MediaError):
    """A copy was made, without some files."""


class TooLongError(MediaError):
    """A copy had no time to be whole."""


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

    def give(self, place: Path) -> None:
        """Give a folder to the account that restic runs as, where that is another one."""
        if self.account is not None and os.geteuid() == 0:
            os.chown(place, self.account.uid, self.account.gid)

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

    def run(self, *arguments: str, folder: str = "/", most: float | None = None) -> tuple[int, str, str]:
        """Run restic for so many seconds at most; answers its exit status, what it prints, and what it says.

        Raises:
            MediaError: it was ended, since nothing has moved any more.

        """
        with self.start(*arguments, folder=folder) as process:
            try:
                output, said = communicate(process, most)
            except StalledError as error:
                raise MediaError(
                    f"{self.target['name']} takes no more: nothing has moved for {STALLED / 60:.0f} minutes. The next "
                    f"run goes on. {str(error).strip()[-SHOWN:]}"
                ) from error
        return process.returncode, output, said

    def ask(self, *arguments: str) -> str:
        """Answer what restic prints.

        Raises:
            MediaError: it failed, with the end of what it said.

        """
        status, output, said = self.run(*arguments)
        if status != 0:
            raise MediaError(f"restic {arguments[0]} failed ({status}): {said.strip()[-SHOWN:]}")
        return output

    def identity(self) -> tuple[str, str]:
        """Return the name of the repository, empty where none can be opened, and what restic says then."""
        for _ in range(4):
            status, output, said = self.run("--no-lock", "cat", "config")
            # It had no time to pass on what ssh has said.
            if "file already closed" not in said:
                break
        return (str(json.loads(output)["id"]), "") if status == 0 else ("", said.strip())

    def snapshots(self, kind: str = MEDIA) -> list[Snapshot]:
        """Return all copies of a kind."""
        found = json.loads(self.ask("--no-lock", "snapshots", "--json", "--host", HOST)) or []
        every = [
            Snapshot(
                one["id"], one["tree"], seconds(one["time"]), DATABASE if DATABASE in (one.get("tags") or ()) else MEDIA
            )
            for one in found
        ]
        return [one for one in every if one.kind == kind]

    def copy(self, kind: str, folder: Path, names: Sequence[str], *options: str, most: float | None = None) -> Copied:
        """Copy what lies below a folder, as one copy of a kind, in so many seconds at most.

        Raises:
            MediaError: no copy was made, or one without some files.
            TooLongError: the time was over; the next one goes on with what was sent.

        """
        words = ("--json", "--host", HOST, "--tag", kind, "--one-file-system", *options, *names)
        began = time.monotonic()
        status, output, said = self.run("backup", *words, folder=str(folder), most=most)
        summary = _last(output, "summary")
        if not summary and most is not None and time.monotonic() - began >= most:
            raise TooLongError(f"it took longer than {most:.0f} s")
        if status not in (0, INCOMPLETE) or not summary:
            raise MediaError(f"restic backup failed ({status}): {told(self.target['name'], said, SHOWN)}")
        unread, gone = not_read(said, folder)
        if unread:
            raise UnreadError(
                f"the copy {summary['snapshot_id']} lacks {len(unread)} files that cannot be read: "
                f"{'; '.join(unread[:5])}"
            )
        return Copied(
            str(summary["snapshot_id"]),
            int(summary["total_files_processed"]),
            int(summary["total_bytes_processed"]),
            int(summary["data_added"]),
            gone,
        )

    def files(self, snapshot: Snapshot, folders: Sequence[str] = ()) -> Iterator[Node]:
        """Yield the files of a copy; with folders, those that lie in one of them.

        Raises:
            MediaError: the copy cannot be read.

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
                raise MediaError(f"restic ls failed ({process.returncode}): {text.strip()[-SHOWN:]}")

    def fetch(self, snapshot: Snapshot, names: Sequence[str], place: Path) -> None:
        """Bring files of a copy below a folder, and compare them with what the copy says.

        Raises:
            MediaError: one of them could not be read; what is there then proves nothing.

        """
        wanted = [word for name in names for word in ("--include", pattern(f"/{name}"))]
        self.ask("--no-lock", "restore", snapshot.name, "--target", str(place), "--verify", *wanted)


def not_read(said: str, folder: Path) -> tuple[list[str], int]:
    """Return which files below a folder could not be read, and how many were removed while restic came by.

    Of some errors restic says nothing but which file it was: one that is not there any more was removed.
    """
    unread, gone = [], 0
    for line in said.splitlines():
        if line.startswith("{") and (message := json.loads(line)).get("message_type") == "error":
            error = message.get("error") or {}
            text = error.get("message", "") or str(error)
            item = message.get("item", "")
            gone_since = not error and not os.path.lexists(folder / item)
            if error.get("Err") == errno.ENOENT or "no such file or directory" in text or gone_since:
                gone += 1
            else:
                unread.append(f"{item}: {text}"[:200])
    return unread, gone


def _last(output: str, kind: str) -> dict[str, Any]:
    """Return the last message of a kind that restic has printed; nothing where there is none."""
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{") and f'"{kind}"' in line]
    messages: list[dict[str, Any]] = [message for message in found if message.get("message_type") == kind]
    return messages[-1] if messages else {}


def _quoted(text: str) -> str:
    """Return text as a part of an address has it."""
    return "".join(
        one if re.fullmatch("[A-Za-z0-9._~-]", one) else "".join(f"%{b:02X}" for b in one.encode()) for one in text
    )


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
