"""The health page's checks, and the jobs and commands that look at a worker: no Django, no Celery, no Redis."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Redis:
    """A client that notes what is asked of it."""

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.asked.append("closed")

    def set(self, name: str, value: str, *, ex: int) -> None:
        self.asked.append((name.rpartition(":")[0], value, ex))


class Connection:
    """A connection to the database."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = 0

    def cursor(self) -> Self:
        if self.error:
            raise self.error
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str) -> None:
        self.statement = statement

    def fetchone(self) -> tuple[int]:
        assert self.statement == "SELECT 1"
        return (1,)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def health(load: Callable[[str], Any], tmp_path: Path) -> Any:
    """Load the page; its settings name a media folder and a broker."""
    load("django.conf").settings = SimpleNamespace(MEDIA_ROOT=str(tmp_path), CELERY_BROKER_URL="redis://broker/0")
    load("django.http").JsonResponse = lambda content, status, headers: (content, status, headers)
    return load("escriptorium_cluster.health")


def test_the_media_folder_is_written_and_left_clean(health: Any, tmp_path: Path) -> None:
    assert health.check_media() == "readable and writable"
    assert not list(tmp_path.iterdir())


def test_a_media_folder_that_loses_what_is_written_is_not_right(
    health: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health.Path, "read_text", lambda _: "")
    with pytest.raises(OSError, match="something else"):
        health.check_media()
    assert not list(tmp_path.iterdir())


def test_a_media_folder_that_is_gone_is_not_right(health: Any, tmp_path: Path) -> None:
    tmp_path.rmdir()
    with pytest.raises(FileNotFoundError):
        health.check_media()


def test_the_broker_has_to_take_a_key_that_goes_by_itself(health: Any) -> None:
    asked: list[Any] = []

    def from_url(url: str, **limits: float) -> Redis:
        asked.append((url, limits))
        return Redis(asked)

    health.Redis.from_url = from_url
    assert health.check_broker() == "takes writes"
    limits = {"socket_connect_timeout": 5.0, "socket_timeout": 5.0}
    assert asked == [("redis://broker/0", limits), ("cluster:health", "1", 60), "closed"]


@pytest.mark.parametrize("error", [None, ConnectionError("away")])
def test_the_database_is_asked_on_a_connection_that_is_closed(health: Any, error: Exception | None) -> None:
    connection = Connection(error)
    health.connections = {"default": connection}
    if error:
        with pytest.raises(ConnectionError):
            health.check_database()
    else:
        assert health.check_database() == "answers"
    assert connection.closed == 1


def test_the_page_tells_a_balancer_by_its_status(health: Any) -> None:
    assert set(health.CHECKS) == {"database", "broker", "media"}
    health.prober.checks = {"media": lambda: "fine"}
    assert health.health(None) == (
        {"ok": True, "checks": {"media": {"ok": True, "detail": "fine"}}}, 200, {"Cache-Control": "no-store"}
    )  # fmt: skip
    health.prober.checks = {"media": lambda: "fine", "broker": Connection(OSError("away")).cursor}
    content, status, _ = health.health(None)
    assert (content["ok"], status) == (False, 503)


def given(**options: Any) -> Callable[[Any], Any]:
    """Decorate a function with what it is registered with."""

    def keep(function: Any) -> Any:
        function.options = options
        return function

    return keep


def test_the_probe_job_looks_in_the_place_of_a_job(load: Callable[[str], Any]) -> None:
    load("celery").shared_task = given
    load("celery.signals").celeryd_init = SimpleNamespace(connect=lambda function: function)
    probe = load("escriptorium_cluster.probe")
    tasks = load("escriptorium_cluster.tasks")
    asked: list[Any] = []
    probe.deliver = lambda *arguments: asked.append(arguments)
    tasks.probe_worker(SimpleNamespace(request=SimpleNamespace(hostname="gpu@c1")), "cluster:proofs:1")
    assert asked == [("gpu@c1", "job", "cluster:proofs:1")]
    assert tasks.probe_worker.options == {"name": "escriptorium_cluster.probe", "bind": True, "ignore_result": True}
    load("celery.worker.control").control_command = given
    assert "escriptorium_cluster.commands" not in sys.modules
    tasks.learn_commands(sender="worker")
    assert "escriptorium_cluster.commands" in sys.modules


@pytest.mark.parametrize("error", [None, OSError("no memory"), subprocess.TimeoutExpired("python", 120)])
def test_a_busy_worker_looks_in_a_process_beside_its_jobs(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    load("celery.worker.control").control_command = given
    commands = load("escriptorium_cluster.commands")
    threads: list[threading.Thread] = []
    asked: list[Any] = []

    def run(command: list[str], **options: Any) -> None:
        threads.append(threading.current_thread())
        asked.append((command[1:], options["timeout"]))
        if error:
            raise error

    monkeypatch.setattr(commands.subprocess, "run", run)
    assert commands.cluster_probe(SimpleNamespace(hostname="gpu@c1"), "replies") == {"ok": "looking"}
    for thread in [thread for thread in threading.enumerate() if thread.name == "probe"]:
        thread.join(5)
    worker = ["-m", "escriptorium_cluster.probe", "--worker", "gpu@c1", "--reply-to", "replies"]
    assert asked == [(worker, 120.0)]
    assert threads[0] is not threading.main_thread(), "the worker's own loop would wait"
    assert commands.cluster_probe.options["name"] == "cluster_probe"
