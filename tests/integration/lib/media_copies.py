"""A storage host's copies of the media, of which only the host is missing: the program, restic, servers of each kind.

The program runs as its units have it run, as an account that is not root where the tests are root's. Its targets are
what ``platform_backup`` makes of an inventory. Servers are OpenSSH's, rclone's of restic's REST protocol, moto's of S3.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from faulty_proxy import Wire

from module_utils import platform_backup

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[2]
PROGRAM: Final = ROOT / "module_utils" / "backup_programs"
KINDS: Final = ("directory", "sftp", "s3", "rest")
PASSPHRASE: Final = "of-the-copies-alone"
#: Letters that have a meaning in an address.
PASSWORD: Final = "p@s/s:w#r?d%41"
KEEP: Final = {"hourly": 24, "daily": 30, "weekly": 8, "monthly": 12}
#: Seconds that a server may take to start, and a run of the program to end.
START, LONGEST = 30.0, 300.0
#: What restic puts into one file at the target, about. Unit: bytes
PACK: Final = 16 << 20
#: Debian's Python, which is what hosts have, and which every account may run.
PYTHON: Final = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


def account() -> pwd.struct_passwd:
    """Return the account of the copies: another one than root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def wait_for(port: int, what: str, process: subprocess.Popen[Any]) -> None:
    """Wait until a server takes connections."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{what} ended with status {process.returncode}"
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{what} does not answer on port {port}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Folder:
    """What a target has stored, in a folder of this computer, as its server's administrator sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def seed(self, files: Mapping[str, bytes]) -> None:
        """Begin with files that are there already."""
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def stored(self) -> dict[str, bytes]:
        """Return all files, by their names below the place of the copies."""
        found = (path for path in sorted(self.path.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.path)): path.read_bytes() for path in found}

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all files."""
        found = (path for path in self.path.rglob("*") if path.is_file())
        return {str(path.relative_to(self.path)): path.stat().st_size for path in found}

    def write(self, name: str, content: bytes) -> None:
        """Write a file as the disk has it, past all servers."""
        path = self.path / name
        path.chmod(0o600)
        path.write_bytes(content)


class Bucket:
    """What a target has stored in a bucket, as its server's administrator sees it."""

    def __init__(self, server: subprocess.Popen[str], prefix: str) -> None:
        self.server, self.prefix = server, f"{prefix}/"

    def _ask(self, **what: str) -> dict[str, Any]:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(what) + "\n")
        self.server.stdin.flush()
        answer: dict[str, Any] = json.loads(self.server.stdout.readline())
        return answer

    def stored(self) -> dict[str, bytes]:
        """Return all objects, by their names below the place of the copies."""
        found = ((name, self._ask(read=self.prefix + name)["content"]) for name in self.sizes())
        return {name: base64.b64decode(content) for name, content in found}

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all objects."""
        return {name.removeprefix(self.prefix): size for name, size in self._ask(list=self.prefix)["sizes"].items()}

    def seed(self, files: Mapping[str, bytes]) -> None:
        """Begin with objects that are there already."""
        for name, content in files.items():
            self.write(name, content)

    def write(self, name: str, content: bytes) -> None:
        """Write an object, past the server."""
        self._ask(write=self.prefix + name, content=base64.b64encode(content).decode())


@dataclass
class Place:
    """Where a target is: what the inventory says of it, its login, what is there, and the way to it."""

    given: dict[str, Any]
    store: Folder | Bucket
    login: dict[str, str] | None = None
    wire: Wire | None = None


class Servers:
    """Servers of all kinds, each started when it is first asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self._s3: subprocess.Popen[str] | None = None
        self._s3_says: dict[str, Any] = {}
        self._rest: dict[bool, int] = {}
        self._sshd: tuple[int, str] | None = None
        self._seed: dict[str, bytes] = {}

    def _start(self, *command: str, port: int = 0, **how: Any) -> subprocess.Popen[str]:
        log = self.stack.enter_context((self.folder / f"{Path(command[0]).name}-{port}.log").open("wb"))
        process = subprocess.Popen(command, stderr=log, text=True, **how)
        self.stack.callback(self._end, process)
        if port:
            wait_for(port, command[0], process)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.stdin:
            process.stdin.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()

    def sshd(self) -> tuple[int, str]:
        """Return the port of an ssh service for this very account, and its host key."""
        if self._sshd is None:
            place, port = self.folder / "sshd", free_port()
            place.mkdir()
            key = place / "host_key"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            lines = {
                "ListenAddress": f"127.0.0.1:{port}",
                "HostKey": key,
                "PidFile": "none",
                "AuthorizedKeysFile": place / "authorized_keys",
                "StrictModes": "no",
                "UsePAM": "no",
                "PasswordAuthentication": "no",
                "Subsystem": "sftp internal-sftp",
            }
            (place / "config").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
            if os.geteuid() == 0:
                Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
            self._start("/usr/sbin/sshd", "-D", "-e", "-f", str(place / "config"), port=port)
            self._sshd = port, " ".join(Path(f"{key}.pub").read_text().split()[:2])
        return self._sshd

    def let_in(self, key: Path) -> None:
        """Let the owner of a key in, as an operator does on the other machine."""
        with (self.folder / "sshd/authorized_keys").open("a") as stream:
            stream.write(f"restrict {key.read_text()}")

    def rest(self, *, append_only: bool) -> int:
        """Return the port of a server of restic's protocol; both kinds serve the same folder."""
        if append_only not in self._rest:
            port = free_port()
            words = ["rclone", "serve", "restic", "--config", "", "--addr", f"127.0.0.1:{port}"]
            words += ["--append-only"] if append_only else []
            (self.folder / "rest").mkdir(exist_ok=True)
            environment = {"PATH": os.environ["PATH"], "RCLONE_USER": "htr", "RCLONE_PASS": PASSWORD}
            self._start(*words, str(self.folder / "rest"), port=port, env=environment)
            self._rest[append_only] = port
        return self._rest[append_only]

    def s3(self) -> tuple[int, dict[str, Any]]:
        """Return the port of a server of S3, and the logins of its users ``all`` and ``add``."""
        if self._s3 is None:
            words = (os.environ["S3_SERVER_PYTHON"], str(HERE / "s3_server.py"))
            self._s3 = self._start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._s3.stdout is not None
            self._s3_says = json.loads(self._s3.stdout.readline())
        return int(self._s3_says["port"]), self._s3_says

    def seed(self) -> dict[str, bytes]:
        """Return the files of a repository without copies, whose passphrase costs little to try.

        To make a passphrase hard to guess, restic takes as much as it gets of half a second of this computer; each of
        its commands pays that again. Here it gets little.
        """
        if not self._seed:
            path = self.folder / "seed"
            environment = {"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSPHRASE}
            words = ["restic", "--no-cache", "--repo", str(path), "init"]
            with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    time.sleep(0.004)
                    process.send_signal(signal.SIGSTOP)
                    time.sleep(0.12)
                    process.send_signal(signal.SIGCONT)
            assert process.returncode == 0
            self._seed = Folder(path).stored()
        return self._seed

    def place(self, kind: str, name: str, *, append_only: bool = False, before: int = 0) -> Place:
        """Return a new place of a kind, behind a wire; ``before``: the port of what stands between wire and server."""
        given: dict[str, Any] = {"name": name, "type": kind, "append_only": append_only, "database": False}
        if kind == "directory":
            path = self.folder / "disks" / name
            return Place(given | {"path": str(path)}, Folder(path))
        if kind == "sftp":
            port, host_key = self.sshd()
            wire, path = self._wire(before or port), self.folder / "far" / name
            path.mkdir(parents=True)
            me = pwd.getpwuid(os.geteuid()).pw_name
            far = {"host": "127.0.0.1", "port": wire.port, "user": me, "path": str(path), "host_key": host_key}
            return Place(given | far, Folder(path), wire=wire)
        if kind == "s3":
            port, says = self.s3()
            wire = self._wire(before or port)
            far = {"url": f"http://127.0.0.1:{wire.port}", "bucket": "media", "path": name, "region": "us-east-1"}
            assert self._s3 is not None
            return Place(given | far, Bucket(self._s3, name), says["add" if append_only else "all"], wire)
        wire = self._wire(before or self.rest(append_only=append_only))
        url = f"http://127.0.0.1:{wire.port}/{name}"
        return Place(
            given | {"url": url}, Folder(self.folder / "rest" / name), {"user": "htr", "password": PASSWORD}, wire
        )

    def _wire(self, port: int) -> Wire:
        return self.stack.enter_context(Wire(port))


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Give servers that end with the tests."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        Path(name).chmod(0o755)
        yield Servers(Path(name), stack)


@dataclass
class Ended:
    """What became of a run of the program."""

    status: int
    output: str
    said: str
    seconds: float
    #: What the unit has left for the report.
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """Why it failed, as operators read it in the mail."""
        return str(self.result.get("problem", ""))


class Host:
    """Media, settings and state of a storage host, with one target or more."""

    def __init__(self, folder: Path, servers: Servers, *places: Place, seeded: bool = True) -> None:
        self.folder, self.servers, self.account = folder, servers, account()
        self.media, self.etc, self.program = folder / "media", folder / "etc", folder / "program"
        self.places = {str(place.given["name"]): place for place in places}
        for name in ("media", "etc", "state", "cache", "scratch", "reports", "program"):
            (folder / name).mkdir()
        self.mine("etc", "state", "cache")
        (folder / "scratch").chmod(0o711)
        shutil.copytree(PROGRAM, self.program / PROGRAM.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HERE / "run_media_backup.py", self.program)
        self.constants: dict[str, Any] = {
            "FOLDER": str(self.etc),
            "STATE": str(folder / "state"),
            "CACHE": str(folder / "cache"),
            "REPORTS": str(folder / "reports"),
            "LOCKED_PAUSE": 0.5,
        }
        logins = {name: place.login for name, place in self.places.items() if place.login}
        given = [place.given for place in places]
        targets = platform_backup.targets(given, str(folder / "backups"), "directory", list(logins))
        self.write_secret("passphrase", f"{PASSPHRASE}\n")
        for entry in platform_backup.files(targets, logins, str(self.etc)):
            self._make(entry)
        self.settings: dict[str, Any] = {
            "account": self.account.pw_name,
            "media": str(self.media),
            "uid": os.geteuid(),
            "gid": os.getegid(),
            "scratch": str(folder / "scratch"),
            "targets": targets,
            "keep": KEEP,
            "keep_database": KEEP,
            "backups": str(folder / "backups"),
            "database_seconds": 3600,
            "max_age_days": 2,
            "check_parts": 1,
            "sample_files": 200,
            "sample_mib": 512,
            "mail": "",
            "metrics": str(folder / "media.prom"),
        }
        self.write_settings()
        for place in places if seeded else ():
            place.store.seed(servers.seed())
            if place.given["type"] == "directory":
                for path in Path(place.given["path"]).rglob("*"):
                    os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def write_settings(self) -> None:
        """Write what the program reads."""
        (self.etc / "settings.json").write_text(json.dumps(self.settings))

    def write_secret(self, name: str, text: str) -> None:
        """Write a file that only the account of the copies reads."""
        path = self.etc / name
        path.write_text(text)
        path.chmod(0o600)
        self.mine(f"etc/{name}")

    def mine(self, *names: str) -> None:
        """Give files to the account of the copies."""
        for name in names:
            os.chown(self.folder / name, self.account.pw_uid, self.account.pw_gid)

    def _make(self, entry: Mapping[str, Any]) -> None:
        path = Path(entry["path"])
        if entry.get("state") == "directory":
            path.mkdir(parents=True)
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        elif entry.get("state") == "made":
            subprocess.run(entry["command"], check=True)
            self.mine(f"etc/{path.name}")
            self.servers.let_in(Path(f"{path}.pub"))
        else:
            self.write_secret(path.name, entry["content"])

    def fill(self, files: Mapping[str, bytes]) -> None:
        """Write files below the media."""
        for name, content in files.items():
            path = self.media / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def contents(self) -> dict[str, bytes]:
        """Return all media by their names."""
        return Folder(self.media).stored()

    def start(self, *words: str, unit: bool = True) -> subprocess.Popen[str]:
        """Start the program: as a unit does, as the account of the copies; or as root."""
        as_account: dict[str, Any] = {}
        if unit and os.geteuid() == 0:
            as_account = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": ()}
        return subprocess.Popen(
            [PYTHON, "-B", self.program / "run_media_backup.py", json.dumps(self.constants), *words],
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "INVOCATION_ID": "test", "GOGC": "20"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **as_account,
        )

    def ended(self, process: subprocess.Popen[str], *words: str) -> Ended:
        """Wait for the end of a run; answers what became of it."""
        began = time.monotonic()
        try:
            output, said = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            self.kill(process)
            raise
        left = self.folder / "state" / f"{words[1]}.{words[0]}.json" if len(words) > 1 else self.folder / "none"
        result = json.loads(left.read_text()) if left.is_file() else {}
        return Ended(process.returncode, output, said, time.monotonic() - began, result)

    def run(self, *words: str, unit: bool = True) -> Ended:
        """Run the program to its end."""
        return self.ended(self.start(*words, unit=unit), *words)

    def done(self, *words: str, unit: bool = True) -> dict[str, Any]:
        """Run the program, which has to go well; answers its result."""
        ended = self.run(*words, unit=unit)
        assert ended.status == 0, ended.said
        return ended.result or dict(json.loads(ended.output))

    @staticmethod
    def kill(process: subprocess.Popen[str]) -> None:
        """End a run, its restic and its ssh, as a power cut does."""
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def command_lines(self) -> str:
        """Return the words of all processes that work on this host's targets now."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        return "\n".join(found)
