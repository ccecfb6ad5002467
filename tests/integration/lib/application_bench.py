"""An application with PostgreSQL, Redis and Celery as processes of this machine, on free ports.

PostgreSQL's and Redis' programs are those of Debian's packages. One PostgreSQL serves all benches of a run, each with a
database of its own; each has a Redis.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PACKAGE = ROOT / "roles" / "escriptorium" / "files"
#: Every character that a URL or a shell could trip over.
PASSWORD = "p@s/s:w#r?d %41&"
ADMIN = {
    "admin_name": "chief",
    "admin_email": "chief@htr.test",
    "admin_password": "correct-horse-battery",
    "domain": "htr.test",
    "site_name": "HTR",
}
#: Seconds: the real application loads for 20 s, twice that on a busy machine.
START = 180.0


@contextmanager
def reserved_ports(*services: str) -> Iterator[dict[str, int]]:
    """Give each service a free port that nobody else gets meanwhile, while servers come and go there.

    Also not as the other end of a connection: a client that asks again and again where a server is away would else
    find itself there some day, and the server its port taken.
    """
    with ExitStack() as stack:
        ports = {}
        for service in services:
            holder = stack.enter_context(socket.socket())
            holder.bind(("127.0.0.1", 0))
            # From now on servers, which all ask for it too, may share the port with this one, which does not listen.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ports[service] = int(holder.getsockname()[1])
        yield ports


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    """Return those processes that are there and no zombies."""
    status = [(pid, Path(f"/proc/{pid}/status")) for pid in pids]
    return [pid for pid, file in status if file.exists() and "\nState:\tZ" not in file.read_text()]


@dataclass
class Database:
    """A PostgreSQL server of this machine; as root it runs as the account postgres, as it must."""

    data: Path
    port: int
    #: Whether there is a database with all that prepare_site makes.
    prepared: bool = False

    def program(self, *command: str) -> str:
        """Run a program of PostgreSQL's and return what it prints."""
        newest = max(Path("/usr/lib/postgresql").glob("*/bin/initdb")).parent
        # Not a pipe for pg_ctl: the server would keep it open.
        with tempfile.TemporaryFile("w+") as said:
            subprocess.run(
                [str(newest / command[0]), *command[1:]],
                check=True,
                user="postgres" if os.geteuid() == 0 else None,
                cwd="/",
                stdout=said,
            )
            said.seek(0)
            return said.read()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        server = f"-p {self.port} -k {self.data} -c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off"
        log = str(self.data / "log")
        self.program("pg_ctl", "--pgdata", str(self.data), "--options", server, "--log", log, "--wait", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; connections are ended, not waited for."""
        self.program("pg_ctl", "--pgdata", str(self.data), "--mode", mode, "--wait", "stop")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the server for a while, as a restart does."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def ask(self, database: str, *queries: str) -> str:
        """Ask a database as the server's superuser."""
        return self.program(
            "psql", "--host", str(self.data), "--port", str(self.port), "-XAtq", "-v", "ON_ERROR_STOP=1",
            *(part for query in queries for part in ("-c", query)), database,
        )  # fmt: skip

    def renew(self, template: str = "template1") -> None:
        """Make the application's database anew, as another one is."""
        self.ask(
            "postgres",
            "DROP DATABASE IF EXISTS escriptorium WITH (FORCE)",
            f"CREATE DATABASE escriptorium TEMPLATE {template} OWNER escriptorium",
        )


@contextmanager
def running_database() -> Iterator[Database]:
    """Run PostgreSQL with the application's account."""
    with folder_for_all() as folder, reserved_ports("postgresql") as ports:
        data = folder / "postgresql"
        data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(data, "postgres")
        made = Database(data, ports["postgresql"])
        made.program(
            "initdb", "--pgdata", str(data), "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8",
            "--locale=C", "--no-sync",
        )  # fmt: skip
        made.start()
        try:
            made.ask("postgres", f"CREATE ROLE escriptorium LOGIN PASSWORD '{PASSWORD}'")
            yield made
        finally:
            made.stop("immediate")


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """Give a folder that other accounts, as PostgreSQL's, can pass through."""
    with tempfile.TemporaryDirectory(prefix="application-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@dataclass
class Bench:
    """An application with its services."""

    folder: Path
    venv: Path
    tree: Path
    database: Database
    ports: dict[str, int]
    environment: dict[str, str] = field(repr=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    #: By what programs begin with: the environment in which one waits, loaded already, that runs them.
    _warm: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    @property
    def stand_in(self) -> bool:
        """Whether the application is the stand-in."""
        return (self.tree / "app" / "kraken_stand_in").is_dir()

    def start(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process of the application's virtual environment; what it prints goes to NAME.log.

        :param environment: variables of this process beside those of all.
        """
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(self.venv / "bin" / command[0]), *command[1:]],
                cwd=self.tree / "app",
                env=self.environment | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.processes[name]

    def stop(self, name: str) -> None:
        """Stop a process, with all that it started if it does not end by itself."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def kill(self, *names: str) -> None:
        """Kill processes, with all that they started."""
        for name in names:
            process = self.processes.pop(name)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def python(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run Python in the application's environment; most of it is loaded already (see warm_python.py)."""
        address = self._warm_python("manage.py" if arguments[0] == "manage.py" else "-m")
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            files[0].write(given)
            files[0].seek(0)
            connection.settimeout(600)
            connection.connect(address)
            socket.send_fds(connection, [json.dumps(arguments).encode()], [file.fileno() for file in files])
            connection.shutdown(socket.SHUT_WR)
            status = connection.recv(100)
            for file in files:
                file.seek(0)
            # No word: it was killed.
            return subprocess.CompletedProcess(arguments, int(status or -9), files[1].read(), files[2].read())

    def cold_python(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run Python in the application's environment from its very start."""
        return subprocess.run(
            [str(self.venv / "bin" / "python"), *arguments],
            cwd=self.tree / "app",
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def _warm_python(self, first: str) -> str:
        """Return the address where programs that begin with something are run in today's environment."""
        name = f"warm {first}"
        address = self.folder / name
        if self._warm.get(first) != self.environment:
            if name in self.processes:
                self.stop(name)
                address.unlink()
            self.start(name, "python", str(HERE / "warm_python.py"), str(address), first)
            self._warm[first] = dict(self.environment)
            wait_until(
                lambda: self.processes[name].poll() is not None or address.exists(),
                bool,
                START,
                f"Python {first}",
                0.05,
            )
            assert address.exists(), self.log(name)[-3000:]
        return str(address)

    def prepare(self) -> None:
        """Give the application what it needs: tables, site, administrator.

        As prepare_site makes it, which is run for the first bench of a database server; others get a copy.
        """
        if self.database.prepared:
            self.database.renew("prepared")
            return
        self.prepare_site()
        self.database.ask("postgres", "CREATE DATABASE prepared TEMPLATE escriptorium OWNER escriptorium")
        self.database.prepared = True

    def prepare_site(self, *arguments: str, **request: str) -> list[str]:
        """Run prepare_site and return what it says it changed."""
        result = self.python("manage.py", "prepare_site", *arguments, given=json.dumps(ADMIN | request))
        assert result.returncode == 0, result.stderr[-3000:]
        changed: list[str] = json.loads(result.stdout.splitlines()[-1])["changed"]
        return changed

    def shell(self, code: str) -> Any:
        """Run code inside Django and return the JSON that it prints last."""
        result = self.python("manage.py", "shell", "--command", code)
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads(result.stdout.splitlines()[-1])

    def redis(self, *words: str) -> str:
        """Give Redis a command and return its answer."""
        command = ["redis-cli", "-h", "127.0.0.1", "-p", str(self.ports["redis"]), *words]
        environment = self.environment | {"REDISCLI_AUTH": PASSWORD}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def shorten(self, **constants: dict[str, Any]) -> None:
        """Give constants of the package other values in processes that start from now on, by their modules' names."""
        self.environment["SHORTENED"] = json.dumps(constants)

    def end_hold(self, name: str) -> None:
        """Let the stand-in's jobs end that are held until this."""
        (self.folder / "media" / name).touch()

    def url(self, name: str) -> str:
        """Return the address of a service that speaks HTTP."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start Redis with a password and an append-only file, and wait until it answers."""
    configuration = folder / "redis.conf"
    configuration.touch(0o600)
    configuration.write_text(
        f'requirepass "{PASSWORD}"\nport {port}\nbind 127.0.0.1\ndir {folder}\nappendonly yes\n'
        f"maxmemory-policy noeviction\nlogfile {folder}/redis.log\n"
    )
    process = subprocess.Popen(["redis-server", str(configuration)], start_new_session=True)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, bool, 20, "Redis", 0.05)
    return process


def waiting(bench: Bench, queue: str) -> list[int]:
    """Return how many jobs wait in a queue, and how many of all queues are handed out and not acknowledged."""
    return [int(bench.redis("LLEN", queue)), int(bench.redis("HLEN", "unacked"))]


def kill_job(bench: Bench, worker: str) -> None:
    """Kill the process that runs a worker's job, as the kernel does when memory is short."""

    def begun() -> bool:
        # A job's report says that it runs a moment before the job itself begins.
        names = bench.redis("HGETALL", "cluster:leases").splitlines()
        own = [lease for lease, holder in zip(names[::2], names[1::2], strict=True) if f'"{worker}@host"' in holder]
        return bool(set(own) & set(bench.redis("HVALS", "cluster:running").splitlines()))

    wait_until(begun, bool, 60, f"{worker} runs a job", 0.05)
    for pid in children(bench.processes[worker].pid):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def running_bench(venv: Path, tree: Path, database: Database) -> Iterator[Bench]:
    """Give an application with an empty database and a broker of its own, and stop everything at the end."""
    with folder_for_all() as folder, reserved_ports("redis", "web") as ports:
        for part in ("media", "static", "tmp"):
            (folder / part).mkdir()
        frontend = tree / "front" / "dist"
        if not frontend.is_dir():
            frontend = folder / "dist"
            frontend.mkdir()
            (frontend / "main.css").write_text("body {}\n")
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{HERE / 'site'}:{tree / 'app'}:{PACKAGE}",
            "OMP_NUM_THREADS": "1",
            "DJANGO_SETTINGS_MODULE": "escriptorium_cluster.settings",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SQL_HOST": "127.0.0.1",
            "SQL_PORT": str(database.port),
            "POSTGRES_DB": "escriptorium",
            "POSTGRES_USER": "escriptorium",
            "POSTGRES_PASSWORD": PASSWORD,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(ports["redis"]),
            "CLUSTER_REDIS_PASSWORD": PASSWORD,
            "CLUSTER_ALLOWED_HOSTS": "htr.test,127.0.0.1",
            "CSRF_TRUSTED_ORIGINS": "https://htr.test",
            "CLUSTER_MEDIA_ROOT": str(folder / "media"),
            "CLUSTER_STATIC_ROOT": str(folder / "static"),
            "CLUSTER_COOKIE_SECURE": "false",
            "CLUSTER_TASK_MAX_STARTS": "2",
            "FRONTEND_DIR": str(frontend),
        }
        made = Bench(folder, venv, tree, database, ports, environment)
        database.renew()
        made.processes["redis"] = start_redis(folder, ports["redis"])
        try:
            yield made
        finally:
            made.kill(*made.processes)


def start_worker(
    bench: Bench,
    name: str,
    queues: str,
    environment: Mapping[str, str] | None = None,
    concurrency: int = 1,
    *,
    in_turn: bool = False,
) -> None:
    """Start a worker with the flags of its systemd unit, as if it were watched, and wait until it takes jobs.

    :param environment: what the unit sets beside the environment file of all.
    :param in_turn: by the unit's launcher, which needs STATE_DIRECTORY.
    """
    before = bench.log(name).count(f"{name}@host ready.")
    launcher = ("python", "-m", "escriptorium_cluster.starting") if in_turn else ()
    process = bench.start(
        name, *launcher, "celery", "-A", "escriptorium", "worker", "--hostname", f"{name}@host", "--queues", queues,
        "--concurrency", str(concurrency), "--max-tasks-per-child", "1", "--prefetch-multiplier", "1",
        "--loglevel", "INFO", "--task-events", "--without-mingle", "--without-gossip", "--without-heartbeat",
        "-O", "fair",
        # Nobody listens there: a worker says so and goes on.
        **{"NOTIFY_SOCKET": str(bench.folder / "nobody"), "WATCHDOG_USEC": "180000000"} | dict(environment or {}),
    )  # fmt: skip

    def ready() -> bool:
        assert process.poll() is None, bench.log(name)[-3000:]
        return bench.log(name).count(f"{name}@host ready.") > before

    wait_until(ready, bool, START, f"{name} is ready", 0.05)


def expect_workers(bench: Bench, *names: str) -> None:
    """Wait until all workers named answer."""
    expected = ",".join(f"{name}@host" for name in names)
    result = bench.python("-m", "escriptorium_cluster.workers", "--expect", expected, "--timeout", str(START))
    assert result.returncode == 0, result.stderr + "".join(bench.log(name)[-3000:] for name in names)


#: Sends trainings; JOBS is a list of the task's name, the model's name and seconds until the job may run.
_SEND = """
import json
from django.contrib.auth import get_user_model
from core.models import Document, OcrModel, Project
from core.tasks import segtrain, train

user = get_user_model().objects.get(username=ADMIN)
project, _ = Project.objects.get_or_create(name="trainings", owner=user)
document, _ = Document.objects.get_or_create(name="trainings", project=project, owner=user)
sent = []
for name, model, delay in JOBS:
    made = OcrModel.objects.create(name=model, job=1 if name == "segtrain" else 2, owner=user, file_size=0)
    about = {"transcription_pk": document.transcriptions.get().pk} if name == "train" else {"document_pk": document.pk}
    task = segtrain if name == "segtrain" else train
    sent.append(task.apply_async(kwargs={"model_pk": made.pk, "user_pk": user.pk, **about}, countdown=delay or None).id)
print(json.dumps(sent))
"""
_LOOK = """
import json
from django.conf import settings
from redis import Redis
from reporting.models import TaskReport

redis = Redis.from_url(settings.CELERY_BROKER_URL)
jobs = {
    report.task_id: {
        "state": report.workflow_state,
        "starts": [line.split()[-1] for line in report.messages.splitlines() if line.startswith("Started on worker")],
        "waited": (report.started_at - report.queued_at).total_seconds() if report.started_at else None,
    }
    for report in TaskReport.objects.all()
}
print(json.dumps({
    "jobs": jobs,
    "waiting": {name: redis.llen(name) for name in ("gpu", "gpu-large")},
    "unacknowledged": redis.hlen("unacked"),
}))
"""


def send_trainings(bench: Bench, *jobs: tuple[str, int | str] | tuple[str, int, int]) -> list[str]:
    """Send trainings to the stand-in, in this order, and return their Celery ids.

    :param jobs: ``train`` or ``segtrain``, how many seconds it takes (and what else the stand-in reads in the model's
        name), and in how many seconds it may start (at once).
    """
    rows = [(name, f"hold-{seconds}", delay[0] if delay else 0) for name, seconds, *delay in jobs]
    code = f"ADMIN = {ADMIN['admin_name']!r}\nJOBS = {rows!r}\n{_SEND}"
    ids: list[str] = bench.shell(code)
    return ids


@dataclass(frozen=True)
class Trainings:
    """What the stand-in and its broker know at one moment; ``starts`` are the workers that began a job."""

    jobs: dict[str, dict[str, Any]]
    waiting: dict[str, int]
    unacknowledged: int

    def starts(self, *ids: str) -> list[list[str]]:
        """Return which workers have begun each of the jobs named."""
        return [[node.removesuffix("@host") for node in self.jobs[name]["starts"]] for name in ids]

    def states(self, *ids: str) -> list[int]:
        """Return the states of the jobs named."""
        return [self.jobs[name]["state"] for name in ids]


def trainings(bench: Bench) -> Trainings:
    """Return what the stand-in and its broker know now."""
    return Trainings(**bench.shell(_LOOK))


def until(bench: Bench, ids: list[str], state: int, seconds: float = 60) -> Trainings:
    """Wait until all jobs named have a state, and return what is known then."""
    return wait_until(
        partial(trainings, bench), lambda now: set(now.states(*ids)) == {state}, seconds, f"state {state} of {ids}", 0.2
    )


@contextmanager
def without_redis(bench: Bench) -> Iterator[None]:
    """Stop Redis for a while; what fails meanwhile leaves it to the next test."""
    bench.stop("redis")
    try:
        yield
    finally:
        bench.processes["redis"] = start_redis(bench.folder, bench.ports["redis"])


def restart_redis(bench: Bench, *workers: str) -> None:
    """Stop Redis for long enough that the workers named try in vain to connect, and wait until they answer again.

    They try at once, and every two seconds then.
    """
    before = {name: tries(bench, name) for name in workers}

    def still() -> dict[str, str]:
        """Return the ends of the logs of those that have not tried."""
        return {name: bench.log(name)[-3000:] for name, count in before.items() if tries(bench, name) == count}

    with without_redis(bench):
        wait_until(still, lambda now: not now, 30, "vain attempts to connect", 0.05)
    expect_workers(bench, *workers)


def tries(bench: Bench, worker: str) -> int:
    """Return how often a worker has tried in vain to connect to its broker."""
    return bench.log(worker).count("Cannot connect to redis://")
