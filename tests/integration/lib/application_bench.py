"""An application with PostgreSQL, Redis and Celery as processes of this machine, on free ports.

PostgreSQL's and Redis' programs are those of Debian's packages.
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
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from client import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[3]
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


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    """Return those processes that are there and no zombies."""
    status = [(pid, Path(f"/proc/{pid}/status")) for pid in pids]
    return [pid for pid, file in status if file.exists() and "\nState:\tZ" not in file.read_text()]


@dataclass
class Bench:
    """An application with its services."""

    folder: Path
    venv: Path
    tree: Path
    ports: dict[str, int]
    environment: dict[str, str] = field(repr=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

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

    def python(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run Python in the application's environment."""
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

    def url(self, name: str) -> str:
        """Return the address of a service that speaks HTTP."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")


@contextmanager
def postgresql(folder: Path, port: int) -> Iterator[None]:
    """Run PostgreSQL with one database and its owner; as root it runs as the account postgres, as it must."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    programs = found[-1].parent
    if not (programs / "initdb").is_file():
        pytest.skip("PostgreSQL's programs are not installed")
    user = "postgres" if os.geteuid() == 0 else None
    data = folder / "postgresql"
    data.mkdir()
    if user:
        shutil.chown(data, user)

    def run(*command: str, given: str = "") -> None:
        subprocess.run(
            [str(programs / command[0]), *command[1:]],
            check=True,
            user=user,
            input=given,
            text=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    run(
        "initdb",
        "--pgdata",
        str(data),
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
    )
    server = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "--pgdata", str(data), "--options", server, "--log", str(data / "log"), "--wait", "start")
    try:
        run(
            "psql",
            "--quiet",
            "--host",
            str(data),
            "--port",
            str(port),
            "--set",
            "ON_ERROR_STOP=1",
            "postgres",
            given=f"create role escriptorium login password '{PASSWORD}';\n"
            "create database escriptorium owner escriptorium;\n",
        )
        yield
    finally:
        run("pg_ctl", "--pgdata", str(data), "--mode=immediate", "--wait", "stop")


@contextmanager
def stop_postgresql(bench: Bench) -> Iterator[None]:
    """Stop the database for a while, as a restart does; connections are ended, not waited for."""
    data = bench.folder / "postgresql"
    program = max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    options = (data / "postmaster.opts").read_text().partition(" ")[2].strip().replace('"', "")
    control = [str(program), "--pgdata", str(data), "--wait", "--silent"]
    user = "postgres" if os.geteuid() == 0 else None
    subprocess.run([*control, "--mode=fast", "stop"], check=True, user=user, cwd="/")
    try:
        yield
    finally:
        start = [*control, "--options", options, "--log", str(data / "log"), "start"]
        subprocess.run(start, check=True, user=user, cwd="/")


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start Redis with a password and an append-only file, and wait until it answers."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    configuration = folder / "redis.conf"
    configuration.touch(0o600)
    configuration.write_text(
        f'requirepass "{PASSWORD}"\nport {port}\nbind 127.0.0.1\ndir {folder}\nappendonly yes\n'
        f"maxmemory-policy noeviction\nlogfile {folder}/redis.log\n"
    )
    process = subprocess.Popen(["redis-server", str(configuration)])

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, bool, 20, "Redis", 0.1)
    return process


def waiting(bench: Bench, queue: str) -> list[int]:
    """Return how many jobs wait in a queue, and how many of all queues are handed out and not acknowledged."""
    code = (
        "import json; from django.conf import settings; from redis import Redis; "
        "redis = Redis.from_url(settings.CELERY_BROKER_URL); "
        f"print(json.dumps([redis.llen('{queue}'), redis.hlen('unacked')]))"
    )
    counts: list[int] = bench.shell(code)
    return counts


def kill_job(bench: Bench, worker: str) -> None:
    """Kill the process that runs a worker's job, as the kernel does when memory is short."""
    # A job's report says that it runs a moment before the job itself begins.
    time.sleep(2)
    for pid in children(bench.processes[worker].pid):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def running_bench(venv: Path, tree: Path) -> Iterator[Bench]:
    """Give an application with database and broker, and stop everything at the end."""
    with tempfile.TemporaryDirectory(prefix="application-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL's account has to pass through
        for part in ("media", "static", "tmp"):
            (folder / part).mkdir()
        ports = {service: free_port() for service in ("postgresql", "redis", "web", "websocket")}
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
            "PYTHONPATH": f"{tree / 'app'}:{PACKAGE}",
            "OMP_NUM_THREADS": "1",
            "DJANGO_SETTINGS_MODULE": "escriptorium_cluster.settings",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SQL_HOST": "127.0.0.1",
            "SQL_PORT": str(ports["postgresql"]),
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
        made = Bench(folder, venv, tree, ports, environment)
        redis = start_redis(folder, ports["redis"])
        made.processes["redis"] = redis
        try:
            with postgresql(folder, ports["postgresql"]):
                try:
                    yield made
                finally:
                    for process in [name for name in made.processes if name != "redis"]:
                        made.stop(process)
        finally:
            if "redis" in made.processes:
                made.stop("redis")


def start_worker(
    bench: Bench, name: str, queues: str, environment: Mapping[str, str] | None = None, concurrency: int = 1
) -> None:
    """Start a worker with the flags of its systemd unit, as if it were watched, and wait until it answers.

    :param environment: what the unit sets beside the environment file of all.
    """
    bench.start(
        name, "celery", "-A", "escriptorium", "worker", "--hostname", f"{name}@host", "--queues", queues,
        "--concurrency", str(concurrency), "--max-tasks-per-child", "1", "--prefetch-multiplier", "1",
        "--loglevel", "INFO", "--task-events", "--without-mingle", "--without-gossip", "-O", "fair",
        # Nobody listens there: a worker says so and goes on.
        **{"NOTIFY_SOCKET": str(bench.folder / "nobody"), "WATCHDOG_USEC": "180000000"} | dict(environment or {}),
    )  # fmt: skip
    expect_workers(bench, name)


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


def restart_redis(bench: Bench, seconds: float) -> None:
    """Stop Redis for a while: long enough for vain attempts to connect."""
    bench.stop("redis")
    time.sleep(seconds)
    bench.processes["redis"] = start_redis(bench.folder, bench.ports["redis"])
