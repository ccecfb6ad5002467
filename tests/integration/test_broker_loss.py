"""What becomes of running, held and later jobs when Redis goes away for some seconds: real Redis, Celery and jobs.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<stand-in> pytest tests/integration/test_broker_loss.py

With Celery's own consumer all of these tests fail: see escriptorium_cluster/consumer.py.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from application_bench import (
    children,
    expect_workers,
    kill_job,
    restart_redis,
    send_trainings,
    start_worker,
    trainings,
    until,
    without_redis,
)
from client import CANCELED, FINISHED, QUEUED, RUNNING, wait_until

if TYPE_CHECKING:
    from application_bench import Bench

#: Seconds after which kombu gives up a connection that it needs in order to send something.
KOMBU_GIVES_UP = 4
#: Whether the garbage of a vain attempt does harm is a matter of when it is collected. Here: at the worst moment, when
#: the connection that was made at last is polled.
LATE_GARBAGE = """
import gc, inspect, threading, time
from redis.connection import Connection

connect, vain = Connection.connect, []

def keep(connection):
    try:
        connect(connection)
    except Exception:
        vain.append(connection)
        raise

def polled():
    from kombu.asynchronous import get_event_loop
    on_tick = getattr(get_event_loop(), "on_tick", ())
    return any(getattr(inspect.getclosurevars(tick).nonlocals.get("cycle"), "fds", ()) for tick in list(on_tick))

def collect():
    while True:
        time.sleep(0.2)
        if vain and polled():
            vain.clear()
            gc.collect()

Connection.connect = keep
threading.Thread(target=collect, daemon=True).start()
"""


@pytest.fixture(scope="module")
def pool(bench: Bench) -> Bench:
    """Give a worker that runs two jobs at once."""
    if not bench.stand_in:
        pytest.skip("only the stand-in's trainings take as long as asked")
    bench.prepare()
    start_worker(bench, "worker", "gpu,gpu-large", {"AT_START": LATE_GARBAGE}, concurrency=2)
    return bench


def finish(bench: Bench, *ids: str) -> list[int]:
    """Wait until all jobs have finished; return how often each was begun. Nothing is left unacknowledged."""
    done = until(bench, list(ids), FINISHED)
    done = wait_until(partial(trainings, bench), lambda now: now.unacknowledged == 0, 10, "all acknowledged", 0.1)
    assert done.waiting == {"gpu": 0, "gpu-large": 0}
    return [len(starts) for starts in done.starts(*ids)]


def test_an_idle_worker_goes_on(pool: Bench) -> None:
    restart_redis(pool, "worker")
    for _ in range(3):
        assert finish(pool, *send_trainings(pool, ("train", 0), ("train", 0))) == [1, 1]


def test_two_outages_and_two_jobs(pool: Bench) -> None:
    running = send_trainings(pool, ("train", "until-two_outages"), ("segtrain", "until-two_outages"))
    until(pool, running, RUNNING)
    processes = set(children(pool.processes["worker"].pid))
    restart_redis(pool, "worker")
    waiting = send_trainings(pool, ("train", 0), ("segtrain", 0))
    restart_redis(pool, "worker")
    now = trainings(pool)
    assert (now.states(*running), now.states(*waiting)) == ([RUNNING] * 2, [QUEUED] * 2)
    assert now.unacknowledged == 2, "a third job was fetched, or a running one was forgotten"
    assert set(children(pool.processes["worker"].pid)) == processes
    pool.end_hold("two_outages")
    assert finish(pool, *running, *waiting) == [1, 1, 1, 1]
    assert finish(pool, *send_trainings(pool, ("train", 0), ("train", 0), ("train", 0))) == [1, 1, 1]


def test_a_job_can_still_be_cancelled(pool: Bench) -> None:
    ids = send_trainings(pool, ("train", 300))
    until(pool, ids, RUNNING)
    restart_redis(pool, "worker")
    pool.shell(f"""
import json
from reporting.models import TaskReport

TaskReport.objects.get(task_id={ids[0]!r}).cancel("chief")
print(json.dumps(None))
""")
    now = wait_until(partial(trainings, pool), lambda now: now.unacknowledged == 0, 20, "the job is cancelled", 0.1)
    assert (now.states(*ids), now.waiting["gpu"]) == ([CANCELED], 0)
    assert finish(pool, *send_trainings(pool, ("train", 0))) == [1]


@pytest.mark.fault
def test_a_job_whose_process_is_killed_afterwards_starts_again(pool: Bench) -> None:
    ids = send_trainings(pool, ("train", "until-killed"))
    until(pool, ids, RUNNING)
    restart_redis(pool, "worker")
    kill_job(pool, "worker")
    pool.end_hold("killed")
    assert finish(pool, *ids) == [2]


def test_a_job_that_is_held_for_later_is_not_lost(pool: Bench) -> None:
    ids = send_trainings(pool, ("train", 0, 8))
    wait_until(partial(trainings, pool), lambda now: now.unacknowledged == 1, 10, "the job is held by the worker", 0.1)
    restart_redis(pool, "worker")
    assert trainings(pool).states(*ids) == [QUEUED]
    assert finish(pool, *ids) == [1]


def test_what_follows_a_job_is_sent_when_the_broker_is_back(pool: Bench) -> None:
    (done,) = send_trainings(pool, ("train", 0))
    finish(pool, done)
    first, second = pool.shell(f"""
import json
from core.models import Document, OcrModel
from core.tasks import segtrain
from reporting.models import TaskReport

user = TaskReport.objects.get(task_id={done!r}).user
document = Document.objects.get(name="trainings")

def job(name):
    model = OcrModel.objects.create(name=name, job=1, owner=user, file_size=0)
    return segtrain.si(model_pk=model.pk, user_pk=user.pk, document_pk=document.pk)

sent = (job("hold-until-away") | job("hold-0")).apply_async()
print(json.dumps([sent.parent.id, sent.id]))
""")
    until(pool, [first], RUNNING)
    with without_redis(pool):
        pool.end_hold("away")
        time.sleep(KOMBU_GIVES_UP + 3)
    expect_workers(pool, "worker")
    wait_until(partial(trainings, pool), lambda now: second in now.jobs, 60, "the second job is sent", 0.1)
    assert finish(pool, first, second) == [1, 1]


def test_a_connection_that_is_cut_does_not_start_a_job_twice(pool: Bench) -> None:
    ids = send_trainings(pool, ("train", "until-cut"))
    until(pool, ids, RUNNING)
    pool.shell("""
import json
from django.conf import settings
from redis import Redis

redis = Redis.from_url(settings.CELERY_BROKER_URL)
print(json.dumps([redis.client_kill_filter(_type=kind, skipme=True) for kind in ("normal", "pubsub")]))
""")
    expect_workers(pool, "worker")
    now = trainings(pool)
    assert (now.waiting["gpu"], now.unacknowledged) == (0, 1)
    pool.end_hold("cut")
    assert finish(pool, *ids) == [1]


def test_a_process_that_is_about_to_end_does_not_keep_a_worker_from_connecting_again(pool: Bench) -> None:
    """Celery has been told of its end, watches it no more, and has not replaced it yet: a matter of milliseconds."""
    watched = pool.shell("""
import json, os
from types import SimpleNamespace
from escriptorium_cluster.pool import Pool

watched = []
hub = SimpleNamespace(add_reader=lambda pipe, *_: watched.append(pipe))
process = SimpleNamespace(_popen=SimpleNamespace(sentinel=os.pipe()[0]), _sentinel_poll=None)
Pool._track_child_process(object.__new__(Pool), process, hub)
print(json.dumps([type(pipe).__name__ for pipe in watched]))
""")
    assert watched == ["int"]


@pytest.mark.fault
def test_a_worker_that_is_stopped_afterwards_ends_its_job(pool: Bench) -> None:
    ids = send_trainings(pool, ("train", "until-stopped"))
    until(pool, ids, RUNNING)
    restart_redis(pool, "worker")
    worker = pool.processes.pop("worker")
    os.kill(worker.pid, signal.SIGTERM)
    time.sleep(1)
    assert worker.poll() is None, "it did not wait for its job"
    pool.end_hold("stopped")
    worker.wait(60)
    assert finish(pool, *ids) == [1]
