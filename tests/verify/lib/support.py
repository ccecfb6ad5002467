"""What the behaviour checks of a deployed cluster need: its inventory, its hosts and its web site.

The checks look at a cluster from where its users stand: over ssh as its operator, over HTTPS as a browser or an API
client. They run against containers (Molecule) and against the real application (`make acceptance`) alike.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import requests
import testinfra
from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Answer = TypeVar("Answer")
# By host and unit: main process, start time, invocation, state.
UnitStates = dict[tuple[str, str], tuple[str, ...]]

REPOSITORY: Final = Path(__file__).resolve().parents[3]
TOOLS: Final = Path(sys.executable).parent

# Seconds. Containers on two busy processors are slow; a healthy cluster needs a small part of these.
JOB_TIMEOUT: Final = 180.0
REQUEST_TIMEOUT: Final = 60.0
#: A playbook that hangs fails its test, and not the whole run.
PLAY_TIMEOUT: Final = 1200.0

# Task states of eScriptorium (app/apps/reporting/models.py, TaskReport).
QUEUED, STARTED, ERROR, DONE, CANCELED = range(5)

# Names of eScriptorium's tasks.
TRAINING: Final = "core.tasks.train"
SEGMENTATION: Final = "core.tasks.segment"


def wait_for(
    what: str, probe: Callable[[], Answer | None], *, timeout: float = JOB_TIMEOUT, pause: float = 1.0
) -> Answer:
    """Call `probe` until it answers something other than None or False.

    Args:
        what: what is waited for, for the message of a failure.
        probe: asked every `pause` seconds.
        timeout: seconds until the wait is given up.
        pause: seconds between two questions.

    Raises:
        AssertionError: nothing came in time.

    """
    deadline = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s for {what}, in vain")
        time.sleep(pause)


@dataclass(frozen=True)
class Inventory:
    """The inventory of a cluster as Ansible reads it.

    Attributes:
        folder: the inventory's folder.
        hosts: variables by host; templates are left as they are written.
        groups: names of the hosts of each group.

    """

    folder: Path
    hosts: dict[str, dict[str, Any]]
    groups: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path) -> Inventory:
        """Ask `ansible-inventory` for the inventory in `folder`."""
        listed = subprocess.run(
            [TOOLS / "ansible-inventory", "--inventory", folder, "--list"],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        )
        tree: dict[str, Any] = json.loads(listed.stdout)
        hosts: dict[str, dict[str, Any]] = tree.pop("_meta")["hostvars"]

        def members(group: str) -> set[str]:
            node = tree.get(group, {})
            return set(node.get("hosts", ())).union(*(members(child) for child in node.get("children", ())))

        return cls(folder, hosts, {group: tuple(sorted(members(group))) for group in tree})

    def value(self, name: str) -> Any:
        """Value of a site variable, the same on every host."""
        return next(iter(self.hosts.values()))[name]

    def address(self, host: str) -> str:
        """Private address of a host."""
        return str(self.hosts[host]["private_address"])

    def container(self, host: str) -> str:
        """Name of the container that a host is."""
        return f"{self.hosts[host]['node_cluster']}-{host}"

    @property
    def frontend(self) -> str:
        """Name of the host that carries the web site."""
        return self.groups["frontend"][0]

    @property
    def compute(self) -> tuple[str, ...]:
        """Names of the hosts that work on jobs."""
        return self.groups["compute"]

    def connect(self, host: str) -> Any:
        """Testinfra's view of a host, over ssh with the key of the test bed."""
        return testinfra.get_host(
            f"ssh://root@{self.address(host)}",
            ssh_identity_file=str(REPOSITORY / ".cache/ssh/id_ed25519"),
            ssh_extra_args="-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            controlpath=f"{_sockets().name}/%%C",
        )


@cache
def _sockets() -> tempfile.TemporaryDirectory[str]:
    """Folder of shared connections, as long as this process lives. A socket's path has 107 bytes at most: unix(7)."""
    return tempfile.TemporaryDirectory(prefix="ssh-")


@dataclass(frozen=True)
class PlayRun:
    """One run of a playbook.

    Attributes:
        output: what Ansible printed.
        stats: by host: ok, changed, skipped, failures, unreachable.
        changed: tasks that changed something, as `host: task`.
        seconds: how long it took.

    """

    output: str
    stats: dict[str, dict[str, int]]
    changed: list[str]
    seconds: float


def plain_environment() -> dict[str, str]:
    """Return the environment of Ansible's programs: the settings of this repository, and none of Molecule's colours."""
    settings = {"ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
    return os.environ | settings


def play(inventory: Inventory, playbook: Path | str, *arguments: str, check: bool = True) -> PlayRun:
    """Run a playbook on the cluster as an operator does, and count what it did.

    Args:
        inventory: the cluster.
        playbook: path, taken from the repository.
        arguments: further arguments of ansible-playbook.
        check: fail when Ansible does.

    Raises:
        AssertionError: Ansible failed, with the end of its output.
        subprocess.TimeoutExpired: it hangs.

    """
    started = time.monotonic()
    done = subprocess.run(
        [TOOLS / "ansible-playbook", "--inventory", inventory.folder, REPOSITORY / playbook, *arguments],
        cwd=REPOSITORY,
        env=plain_environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=PLAY_TIMEOUT,
    )
    seconds = time.monotonic() - started
    if check and done.returncode != 0:
        raise AssertionError(f"{playbook} ended with {done.returncode}:\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}")
    return PlayRun(done.stdout, dict(_recap(done.stdout)), list(_changes(done.stdout)), seconds)


def _recap(output: str) -> Iterator[tuple[str, dict[str, int]]]:
    for line in output.partition("PLAY RECAP")[2].splitlines():
        host, _, counts = line.partition(":")
        if "ok=" in counts:
            yield host.strip(), {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counts)}


def _changes(output: str) -> Iterator[str]:
    task = ""
    for line in output.splitlines():
        if match := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\]", line):
            task = match.group(1)
        elif match := re.match(r"changed: \[([^\]]+)\]", line):
            yield f"{match.group(1)}: {task}"


def unit_states(inventory: Inventory, connect: Callable[[str], Any]) -> UnitStates:
    """Main process and start time of every unit of the platform, by host and unit.

    Two equal answers mean that nothing was restarted, not even twice within a second: the start time is monotonic, in
    microseconds, and the invocation is new at every start.
    """
    states: UnitStates = {}
    properties = ("MainPID", "ExecMainStartTimestampMonotonic", "InvocationID", "ActiveState")
    patterns = "'escriptorium-*.service' 'postgresql@*.service' redis-server.service nginx.service"
    for host in sorted(set(inventory.groups["frontend"]) | set(inventory.compute)):
        shown = connect(host).check_output(
            f"for unit in $(systemctl list-units --plain --no-legend --state=active {patterns} | cut -d ' ' -f 1); do "
            f'echo "$unit $(systemctl show --property={",".join(properties)} --value "$unit" | tr "\\n" " ")"; done'
        )
        for line in shown.splitlines():
            unit, *values = line.split()
            # A command that a timer runs comes and goes by itself.
            if not unit.startswith("escriptorium-manage@"):
                states[host, unit] = tuple(values)
    return states


def image(number: int = 0) -> bytes:
    """A small picture (PNG, 96 x 64 pixels, grey) whose shade depends on `number`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    width, height = 96, 64
    shades = ([(number * 16 + row * 2 + column) % 256 for column in range(width)] for row in range(height))
    rows = b"".join(b"\0" + bytes(row) for row in shades)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class _NamedAdapter(HTTPAdapter):
    """Connects to an address, and expects the certificate of a name: no entry in /etc/hosts is needed."""

    def __init__(self, domain: str) -> None:
        self.domain = domain
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool that checks the name."""
        super().init_poolmanager(*args, server_hostname=self.domain, assert_hostname=self.domain, **kwargs)


class Site:
    """The web site of a cluster, as a browser and an API client see it."""

    def __init__(self, inventory: Inventory, certificate_folder: Path) -> None:
        self.inventory = inventory
        self.domain = str(inventory.value("site_domain"))
        self.address = inventory.address(inventory.frontend)
        self.base = f"https://{self.address}"
        self.certificate = certificate_folder / f"{self.domain}.pem"
        self.meet()

    def meet(self) -> None:
        """Trust the self-signed certificate that is there now; the name in it is checked all the same."""
        self.certificate.write_text(ssl.get_server_certificate((self.address, 443)))
        self.__dict__.pop("api", None)

    def session(self) -> requests.Session:
        """Start a new session, not logged in."""
        session = requests.Session()
        session.trust_env = False
        session.mount("https://", _NamedAdapter(self.domain))
        session.verify = str(self.certificate)
        session.headers["Host"] = self.domain
        return session

    @property
    def password(self) -> str:
        """The administrator's password, from the secrets of the inventory."""
        return str(self.inventory.value("secret_admin_password"))

    def log_in(self, password: str | None = None, user: str = "admin") -> tuple[requests.Session, requests.Response]:
        """Fill in the login form; answers the session and the reply to the form."""
        session = self.session()
        page = session.get(f"{self.base}/login/", timeout=REQUEST_TIMEOUT)
        page.raise_for_status()
        reply = session.post(
            f"{self.base}/login/",
            data={
                "username": user,
                "password": self.password if password is None else password,
                "csrfmiddlewaretoken": session.cookies["csrftoken"],
            },
            headers={"Referer": f"https://{self.domain}/login/"},
            allow_redirects=False,
            timeout=REQUEST_TIMEOUT,
        )
        return session, reply

    def open_websocket(self, session: requests.Session, origin: str | None = None) -> tuple[int, dict[str, str]]:
        """Ask for the notification WebSocket; answers the HTTP status and the headers of the reply."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies)
        request = (
            f"GET /ws/notif/ HTTP/1.1\r\nHost: {self.domain}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Origin: {origin or f'https://{self.domain}'}\r\nCookie: {cookies}\r\n\r\n"
        )
        with (
            socket.create_connection((self.address, 443), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=self.domain) as secure,
        ):
            secure.sendall(request.encode())
            reply = b""
            while b"\r\n\r\n" not in reply:
                received = secure.recv(4096)
                if not received:
                    break
                reply += received
        status, *lines = reply.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(status.split()[1]), headers

    @cached_property
    def api(self) -> Api:
        """The REST API with the administrator's token."""
        return Api(self)


class Api:
    """The part of eScriptorium's REST API that the checks use."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.session = site.session()
        reply = self.post("token-auth/", {"username": "admin", "password": site.password})
        self.session.headers["Authorization"] = f"Token {reply['token']}"
        self._frontend = site.inventory.connect(site.inventory.frontend)

    def _url(self, path: str) -> str:
        return f"{self.site.base}/api/{path}"

    @staticmethod
    def _checked(reply: requests.Response) -> Any:
        assert reply.ok, f"{reply.request.method} {reply.url}: {reply.status_code} {reply.text[:500]}"
        return reply.json() if reply.content else None

    def get(self, path: str, **parameters: str | int) -> Any:
        """Answer the JSON of a GET."""
        return self._checked(self.session.get(self._url(path), params=parameters, timeout=REQUEST_TIMEOUT))

    def post(self, path: str, data: dict[str, Any], files: dict[str, Any] | None = None) -> Any:
        """Answer the JSON of a POST; a form where files are sent, else JSON."""
        payload: dict[str, Any] = {"data": data, "files": files} if files else {"json": data}
        return self._checked(self.session.post(self._url(path), timeout=REQUEST_TIMEOUT, **payload))

    def document(self, name: str, pages: int = 1) -> tuple[int, list[int]]:
        """Make a project and a document with pages; answers their primary keys."""
        project = self.post("projects/", {"name": name})
        document = self.post("documents/", {"name": name, "project": project["slug"], "main_script": "Latin"})
        parts = []
        for page in range(pages):
            file = (f"page-{page}.png", io.BytesIO(image(page)), "image/png")
            part = self.post(f"documents/{document['pk']}/parts/", {"name": f"page {page}"}, {"image": file})
            parts.append(part["pk"])
        return document["pk"], parts

    def segment(self, document: int, parts: list[int]) -> None:
        """Queue the segmentation of pages."""
        self.post(f"documents/{document}/segment/", {"parts": parts, "steps": "both"})

    def training(self, model: str, pages: int = 2) -> int:
        """Queue the training of a new recognition model on a new document; answers the document."""
        document, parts = self.document("for a training", pages)
        self.train(document, parts, model)
        return document

    def held(self, name: str) -> str:
        """Return a part of names that makes jobs last until their release, also where this name was released before."""
        self._frontend.check_output("rm --force /srv/escriptorium/media/%s", name)
        return f"hold-until-{name}"

    def release(self, name: str) -> None:
        """Let the jobs end that are held."""
        self._frontend.check_output("touch /srv/escriptorium/media/%s", name)

    def train(self, document: int, parts: list[int], model: str) -> None:
        """Queue the training of a new recognition model on the first transcription of a document."""
        transcription = self.get(f"documents/{document}/transcriptions/")[0]["pk"]
        self.post(f"documents/{document}/train/", {"parts": parts, "model_name": model, "transcription": transcription})

    def train_segmenter(self, document: int, parts: list[int], model: str) -> None:
        """Queue the training of a new segmentation model."""
        self.post(f"documents/{document}/segtrain/", {"parts": parts, "model_name": model})


class Database:
    """The database of the platform, asked on the frontend."""

    def __init__(self, frontend: Any) -> None:
        self.frontend = frontend

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Answer the rows of a query."""
        wrapped = f"SELECT coalesce(json_agg(answer), '[]') FROM ({query}) AS answer"
        found: list[dict[str, Any]] = json.loads(
            self.frontend.check_output("runuser -u postgres -- psql -d escriptorium -X -A -t -c %s", wrapped)
        )
        return found

    def report(self, document: int, method: str) -> dict[str, Any] | None:
        """Newest task report of a document and a task name such as core.tasks.segment."""
        found = self.rows(
            "SELECT id, task_id, method, workflow_state, messages, started_at, done_at FROM reporting_taskreport "
            f"WHERE document_id = {document} AND method = '{method}' ORDER BY id DESC LIMIT 1"
        )
        return found[0] if found else None

    def running(self, document: int, method: str = TRAINING) -> dict[str, Any]:
        """Wait until a job runs; answers its report."""

        def started() -> dict[str, Any] | None:
            report = self.report(document, method)
            return report if report and report["workflow_state"] == STARTED else None

        return wait_for(f"{method} of document {document} to run", started)

    def in_training(self, task: str) -> bool:
        """Whether the model of a training counts as in training, by the training's task id."""
        (model,) = self.rows(
            "SELECT DISTINCT training FROM core_ocrmodel m JOIN reporting_taskreport r ON r.ocr_model_id = m.id "
            f"WHERE r.task_id = '{task}'"
        )
        return bool(model["training"])

    def finished(self, document: int, method: str, timeout: float = JOB_TIMEOUT) -> dict[str, Any]:
        """Wait for the end of a job; answers its report.

        Raises:
            AssertionError: it failed, was cancelled or took too long.

        """

        def ended() -> dict[str, Any] | None:
            report = self.report(document, method)
            return report if report and report["workflow_state"] in {DONE, ERROR, CANCELED} else None

        report = wait_for(f"the end of {method} of document {document}", ended, timeout=timeout)
        assert report["workflow_state"] == DONE, f"{method} of document {document} failed: {report}"
        return report


def ends(hosts: Iterable[Any], task: str) -> int:
    """Return how often a job has come to its end, by the journals of its workers' hosts."""
    count = 0
    for host in hosts:
        journal = host.check_output("journalctl --quiet --unit 'escriptorium-worker@*' --output cat")
        count += sum(f"[{task}] succeeded" in line for line in journal.splitlines())
    return count


def workers_of(inventory: Inventory, connect: Callable[[str], Any], task: str) -> list[tuple[str, str]]:
    """Host and unit of each worker that took a job, from the journals of all hosts.

    `task` is a job's identifier or the name of a task, as in `Task core.tasks.train[b1744b0d-...] received`.
    """
    found = []
    for host in sorted(set(inventory.groups["frontend"]) | set(inventory.compute)):
        journal = connect(host).check_output(
            "journalctl --quiet --unit 'escriptorium-worker@*' --output json --output-fields _SYSTEMD_UNIT,MESSAGE"
        )
        entries = [json.loads(line) for line in journal.splitlines() if task in line]
        taken = {entry["_SYSTEMD_UNIT"] for entry in entries if str(entry["MESSAGE"]).endswith("received")}
        found += [(host, unit) for unit in sorted(taken)]
    return found


def reaches(host: Any, address: str, port: int) -> bool:
    """Whether a host, which may be bare, can open a connection."""
    program = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
    return bool(host.run("python3 -c %s %s %s", program, address, str(port)).rc == 0)


def starts(report: dict[str, Any]) -> list[str]:
    """Return the workers that began a job, in this order, from its report: the stand-in notes them there."""
    lines = report["messages"].splitlines()
    return [line.split()[-1] for line in lines if line.startswith("Started on worker")]


@contextmanager
def paused(container: str) -> Iterator[None]:
    """Stop all processes of a host for a while, as a machine that hangs or whose network is cut."""
    subprocess.run(["docker", "pause", container], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "unpause", container], check=True, capture_output=True)


def boot(inventory: Inventory, connect: Callable[[str], Any], host: str) -> Any:
    """Restart a container as a machine that boots, and wait until it is up; answers a new view of it.

    Args:
        inventory: the cluster.
        connect: the fixture, which keeps connections; those of before the boot are dead.
        host: name of the host.

    """
    container = inventory.container(host)
    subprocess.run(["docker", "restart", container], check=True, capture_output=True)

    def up() -> bool:
        asked = ["docker", "exec", container, "systemctl", "is-system-running", "--wait"]
        answer = subprocess.run(asked, check=False, capture_output=True, text=True)
        return answer.stdout.strip() in {"running", "degraded"}

    wait_for(f"{host} after its boot", up, timeout=180)
    connect.cache_clear()  # type: ignore[attr-defined]
    return connect(host)
