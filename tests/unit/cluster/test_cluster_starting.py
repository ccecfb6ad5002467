"""Starts of workers: real processes and locks, a Celery that does as told, and a test in systemd's place."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from escriptorium_cluster import starting
from escriptorium_cluster.starting import LEAST_CPU, LEAST_READ, MOST_CPU, Work, main_thread_clock, moved, places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = Path(__file__).resolve().parents[3] / "roles" / "escriptorium" / "files"
#: Seconds within which a process of a busy machine says what it has to.
SOON = 30.0
#: The package's own program, with one place, looks that follow each other fast, and services as the test wants them.
PROGRAM = """
import os, sys
from escriptorium_cluster import starting

starting.places = lambda _: 1
starting.PAUSE_SECONDS, starting.LEAST_CPU = 0.05, 0.01
starting.wait.main = lambda _: int(os.environ.get("SERVICES", "0"))
sys.exit(starting.main(sys.argv[1:], os.environ, beat=0.4))
"""
SIGNALS = """
class Signal:
    def connect(self, handler, **_):
        self.handler = handler

worker_ready = Signal()
"""
#: Does what the file `do` says: idle, compute, fork (a child that stays), or ready.
CELERY = """
import os, sys, time
from celery import signals

def main():
    assert sys.argv == ["celery", "worker"]
    done = None
    while True:
        do = open(os.environ["DO"]).read()
        if do == "fork" and done != do and not os.fork():
            time.sleep(60)
        if do == "ready" and done != do and hasattr(signals.worker_ready, "handler"):
            signals.worker_ready.handler(sender=None)
        if do == "end":
            return
        done = do
        if do == "compute":
            sum(range(100_000))
        else:
            time.sleep(0.05)
"""


@dataclass
class Worker:
    """A worker's main process, and what it has told systemd."""

    process: subprocess.Popen[str]
    listener: socket.socket
    file: Path
    heard: list[str] = field(default_factory=list)

    def do(self, what: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(what)
        new.rename(self.file)

    def listen(self, seconds: float) -> list[str]:
        """Return what it says in so many seconds."""
        end, before = time.monotonic() + seconds, len(self.heard)
        while (left := end - time.monotonic()) > 0:
            self.listener.settimeout(left)
            try:
                self.heard.append(self.listener.recv(300).decode())
            except TimeoutError:
                break
        return self.heard[before:]

    def says(self, part: str) -> str:
        """Wait until it says something; answers the message."""
        end, looked = time.monotonic() + SOON, 0
        while True:
            for message in self.heard[looked:]:
                if part in message:
                    self.heard.clear()
                    return message
            looked = len(self.heard)
            assert time.monotonic() < end, f"'{part}' was not said, but {self.heard[-3:]}"
            assert self.process.poll() is None, self.process.communicate()
            self.listen(0.05)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker of this host: ``start(name, VARIABLE=value)``."""
    workers: list[Worker] = []
    (tmp_path / "celery").mkdir()
    for name, text in {"__init__": "", "signals": SIGNALS, "__main__": CELERY}.items():
        (tmp_path / "celery" / f"{name}.py").write_text(text)

    def started(name: str, do: str = "idle", **more: str) -> Worker:
        address, file = tmp_path / f"{name}.socket", tmp_path / f"{name}.do"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(address))
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{PACKAGE}", "DO": str(file),
            "NOTIFY_SOCKET": str(address), "STATE_DIRECTORY": str(tmp_path), **more,
        }  # fmt: skip
        file.write_text(do)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "celery", "worker"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        workers.append(Worker(process, listener, file))
        return workers[-1]

    yield started
    for worker in workers:
        try:
            worker.kill()
        except ProcessLookupError:
            worker.process.communicate()
        worker.listener.close()


def test_half_of_the_processors_go_on_with_their_jobs() -> None:
    assert [places(processors) for processors in (1, 2, 5, 6, 64)] == [2, 2, 2, 3, 32]


@pytest.mark.parametrize(
    ("after", "progress"),
    [
        (Work(10, 500), False),
        (Work(10 + LEAST_CPU / 2, 500 + LEAST_READ // 2), False),
        (Work(10 + LEAST_CPU * 1.01, 500), True),
        (Work(10, 500 + LEAST_READ), True),
        (Work(MOST_CPU + 1, 10**6), False),
    ],
)
def test_progress_is_work_of_a_processor_or_of_a_disk_up_to_a_bound(after: Work, progress: bool) -> None:
    assert moved(Work(10, 500), after) is progress


def test_only_the_main_thread_is_measured() -> None:
    read = main_thread_clock()
    before = read()
    sum(range(1_000_000))
    assert read().cpu > before.cpu


def test_a_start_that_works_is_waited_for_and_one_that_does_nothing_is_not(start: Callable[..., Worker]) -> None:
    worker = start("one", "compute")
    message = worker.says("starts, ")
    assert message.splitlines()[0] == "EXTEND_TIMEOUT_USEC=300000000"
    worker.says("starts, ")
    worker.do("idle")
    worker.listen(1)
    # A process that sleeps and asks now and then, as for a broker that is away, computes next to nothing.
    assert len(worker.listen(2)) <= 1
    worker.do("compute")
    worker.says("starts, ")


def test_one_that_takes_jobs_is_waited_for_no_more(start: Callable[..., Worker]) -> None:
    worker = start("one", "compute")
    worker.says("starts, ")
    worker.do("ready")
    worker.says("STATUS=takes jobs")
    worker.do("compute")
    assert worker.listen(1) == []


@pytest.mark.parametrize("end", ["ready", "killed"])
def test_the_next_one_starts_when_one_takes_jobs_or_dies(start: Callable[..., Worker], end: str) -> None:
    first = start("one", "compute")
    first.says("starts, ")
    second = start("two", "compute")
    message = second.says("waits for its turn, 1 of this host start at a time")
    assert message.startswith("EXTEND_TIMEOUT_USEC=300000000\n")
    assert not any("starts, " in said for said in second.listen(1))
    if end == "ready":
        # Its children have the file of its place too, and stay.
        first.do("fork")
        first.listen(0.5)
        first.do("ready")
        first.says("STATUS=takes jobs")
    else:
        first.kill()
    second.says("starts, ")
    second.do("ready")
    second.says("STATUS=takes jobs")


def test_after_a_wait_services_are_looked_for_again(start: Callable[..., Worker]) -> None:
    first = start("one")
    first.do("compute")
    first.says("starts, ")
    second = start("two", SERVICES="1")
    second.says("waits for its turn")
    first.do("ready")
    assert second.process.wait(SOON) == 1


def test_where_there_are_no_places_a_worker_starts(start: Callable[..., Worker]) -> None:
    worker = start("one", "compute", STATE_DIRECTORY="/proc/nowhere")
    worker.says("starts, ")
    worker.do("end")
    _, errors = worker.process.communicate(timeout=SOON)
    assert "starts without waiting for its turn" in errors
    assert worker.process.returncode == 0


def test_a_worker_that_nobody_watches_only_runs(start: Callable[..., Worker]) -> None:
    worker = start("one", "compute", NOTIFY_SOCKET="")
    assert worker.listen(1) == []
    assert worker.process.poll() is None
    assert starting.main([], {}) == 2
