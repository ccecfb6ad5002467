"""What a worker tells systemd while it works, is stuck, is deaf, waits for its broker and stops: real Redis and Celery.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<stand-in> pytest tests/integration/test_watchdog.py

The test listens in systemd's place. What systemd then does is for tests/verify/test_healing.py.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest
from application_bench import alive, children, expect_workers, send_trainings, start_worker, trainings, without_redis
from client import CRASHED, FINISHED, QUEUED, RUNNING, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from application_bench import Bench

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"
#: Seconds without an answer after which a worker that asks for jobs knows that it is deaf.
PATIENCE = 5.0
#: Seconds of silence after which systemd would kill the worker, and seconds of a lease: the latter is renewed, and the
#: broker heard, every second, and a broker that hangs is noticed after another one.
LIMIT = 8.0
LEASE = 10
#: Makes the main process deaf, as a connection that is collected too late does (see consumer.py): it asks for no job
#: any more, and answers pings.
DEAFEN = signal.SIGRTMIN
AT_START = f"""
import signal

def deafen(*_):
    from kombu.transport.redis import MultiChannelPoller

    MultiChannelPoller._register_BRPOP = lambda *_: None

signal.signal({int(DEAFEN)}, deafen)
"""


@dataclass
class Systemd:
    """Listens to a worker, in systemd's place."""

    bench: Bench
    listener: socket.socket

    def next(self, seconds: float) -> str:
        """Return what the worker says within so many seconds; nothing when it is silent."""
        self.listener.settimeout(seconds)
        try:
            return self.listener.recv(100).decode()
        except TimeoutError:
            return ""

    def heard(self, seconds: float) -> list[str]:
        """Return all that the worker says in so many seconds, those that it has said before left out."""
        while self.next(0.01):
            pass
        end, heard = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            heard.append(self.next(left))
        return [message for message in heard if message]

    def silent(self, seconds: float) -> bool:
        """Whether the worker stops giving signs of life for the limit's time, within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.next(LIMIT):
                return True
        return False


@pytest.fixture(scope="module")
def pool(bench: Bench) -> Bench:
    if not bench.stand_in:
        pytest.skip("only the stand-in's trainings take as long as asked")
    bench.environment["CLUSTER_LEASE_SECONDS"] = str(LEASE)
    bench.shorten(watchdog={"PATIENCE": {"BRPOP": PATIENCE, "LISTEN": 90.0}}, lease={"ANSWER_SECONDS": 1.0})
    bench.prepare()
    return bench


@pytest.fixture
def systemd(pool: Bench) -> Iterator[Systemd]:
    """Start a worker, and listen to it until it is ready."""
    address = pool.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        start_worker(
            pool,
            "worker",
            "gpu,gpu-large",
            {
                "NOTIFY_SOCKET": str(address),
                "WATCHDOG_USEC": str(round(LIMIT * 1e6)),
                "AT_START": AT_START,
            },
        )
        systemd = Systemd(pool, listener)
        assert systemd.next(1) == READY
        yield systemd
    # Whatever a test has left must not be in the way of the next one.
    pool.kill(*({"worker"} & set(pool.processes)))
    pool.redis("FLUSHALL")
    address.unlink()


def test_a_worker_that_starts_in_its_turn_says_when_it_takes_jobs_and_gives_its_place_back(pool: Bench) -> None:
    address = pool.folder / "notify-turn"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        told = {"NOTIFY_SOCKET": str(address), "STATE_DIRECTORY": str(pool.folder), "WATCHDOG_USEC": "180000000"}
        start_worker(pool, "turn", "gpu", told, in_turn=True)
        systemd = Systemd(pool, listener)
        said = [systemd.next(5)]
        while said[-1] != READY:
            said.append(systemd.next(5))
            assert said[-1], said
    address.unlink()
    assert said[-2] == "STATUS=takes jobs"
    places = list((pool.folder / "starts").iterdir())
    assert len(places) > 1
    # The worker lives, and so do its children, which have the file of its place too.
    assert children(pool.processes["turn"].pid)
    for place in places:
        with place.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    pool.kill("turn")


def until(bench: Bench, job: str, state: int, seconds: float = 60) -> None:
    wait_until(partial(trainings, bench), lambda now: now.states(job) == [state], seconds, f"state {state}", 0.3)


def test_a_worker_that_works_gives_signs_of_life(systemd: Systemd) -> None:
    (job,) = send_trainings(systemd.bench, ("train", "until-heard"))
    until(systemd.bench, job, RUNNING)
    heard = systemd.heard(LIMIT)
    assert set(heard) == {ALIVE}
    # A loop without a place for a job turns every two seconds.
    assert 2 <= len(heard) <= 7, "six times in the limit at most, and often enough"
    systemd.bench.end_hold("heard")
    until(systemd.bench, job, FINISHED)
    # With all its places taken and then free again it hears as before.
    assert not systemd.silent(LIMIT)


def test_a_worker_that_is_stuck_is_silent(systemd: Systemd) -> None:
    (job,) = send_trainings(systemd.bench, ("train", "until-aborted"))
    until(systemd.bench, job, RUNNING)
    main = systemd.bench.processes["worker"]
    jobs = children(main.pid)
    os.kill(main.pid, signal.SIGSTOP)
    assert systemd.silent(2 * LIMIT)
    # As systemd does: the journal has where it was, and its jobs die with it.
    os.kill(main.pid, signal.SIGABRT)
    os.kill(main.pid, signal.SIGCONT)
    assert main.wait(10) == -signal.SIGABRT
    del systemd.bench.processes["worker"]
    assert "Fatal Python error: Aborted" in systemd.bench.log("worker")
    assert "asynloop" in systemd.bench.log("worker")
    systemd.bench.end_hold("aborted")
    wait_until(lambda: alive(jobs), lambda left: not left, 5, "its jobs die", 0.1)
    start_worker(systemd.bench, "worker", "gpu,gpu-large")
    until(systemd.bench, job, FINISHED)
    assert len(trainings(systemd.bench).starts(job)[0]) == 2


def test_a_worker_that_is_deaf_is_silent_though_it_answers_pings(systemd: Systemd) -> None:
    os.kill(systemd.bench.processes["worker"].pid, DEAFEN)
    # What it has asked already is answered within a second.
    time.sleep(2)
    (job,) = send_trainings(systemd.bench, ("train", 1))
    assert systemd.silent(PATIENCE + 3 * LIMIT), systemd.bench.log("worker")[-2000:]
    expect_workers(systemd.bench, "worker")
    until(systemd.bench, job, QUEUED)
    assert "nothing is heard from the broker (BRPOP)" in systemd.bench.log("worker")
    worker = systemd.bench.processes.pop("worker")
    worker.kill()
    worker.wait(10)
    start_worker(systemd.bench, "worker", "gpu,gpu-large")
    until(systemd.bench, job, FINISHED)


def test_a_broker_that_is_away_kills_no_worker(systemd: Systemd) -> None:
    (job,) = send_trainings(systemd.bench, ("train", "until-away"))
    until(systemd.bench, job, RUNNING)
    # The worker tries to connect after 2, 6 and 12 seconds: it is not heard for long when the broker is back.
    with without_redis(systemd.bench):
        assert not systemd.silent(LIMIT + 0.5)
    systemd.bench.end_hold("away")
    until(systemd.bench, job, FINISHED)
    assert len(trainings(systemd.bench).starts(job)[0]) == 1
    assert not systemd.silent(LIMIT)


@pytest.mark.fault
def test_a_broker_that_hangs_kills_no_worker(systemd: Systemd) -> None:
    (job,) = send_trainings(systemd.bench, ("train", "until-hangs"))
    until(systemd.bench, job, RUNNING)
    broker = systemd.bench.processes["redis"].pid
    os.kill(broker, signal.SIGSTOP)
    try:
        # The job ends meanwhile: the main loop waits for an answer to that.
        systemd.bench.end_hold("hangs")
        assert not systemd.silent(2 * LIMIT)
    finally:
        os.kill(broker, signal.SIGCONT)
    until(systemd.bench, job, FINISHED)
    assert not systemd.silent(LIMIT)


def test_a_job_that_python_has_no_memory_for_ends_alone(systemd: Systemd) -> None:
    first, second = send_trainings(systemd.bench, ("train", "0 eat-999999999"), ("train", 0))
    until(systemd.bench, second, FINISHED)
    now = trainings(systemd.bench)
    assert (now.states(first), len(now.starts(first)[0]), now.unacknowledged) == ([CRASHED], 1, 0)
    assert systemd.bench.processes["worker"].poll() is None
    assert set(systemd.heard(LIMIT)) == {ALIVE}


def test_a_worker_that_stops_tells_before_it_ends_its_job(systemd: Systemd) -> None:
    (job,) = send_trainings(systemd.bench, ("train", "until-stopped"))
    until(systemd.bench, job, RUNNING)
    worker = systemd.bench.processes.pop("worker")
    systemd.heard(0)
    worker.terminate()
    heard = [systemd.next(LIMIT) for _ in range(3)]
    systemd.bench.end_hold("stopped")
    while worker.poll() is None:
        heard.append(systemd.next(1))
    assert STOPPING in heard
    assert set(heard[heard.index(STOPPING) + 1 :]) <= {""}
    until(systemd.bench, job, FINISHED)
