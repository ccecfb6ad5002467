"""Which worker gets which training: real queues, real workers, the flags of their units.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<checkout> pytest tests/integration/test_routing.py

A small slice has the worker ``small``, a large one ``large``. Jobs run on the stand-in only; where they are sent and
what is charged for them is tested on the real eScriptorium too.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from application_bench import expect_workers, kill_job, restart_redis, send_trainings, start_worker, trainings, until
from client import FINISHED, QUEUED, RUNNING

if TYPE_CHECKING:
    from application_bench import Bench

#: Seconds that a recognition training waits for a small slice, and between two looks of a large one at the queue.
PATIENCE, LOOK = 2, 0.5
#: Seconds that may pass beyond it: two looks at the queue, and one answer of Redis that is still under way.
SLACK = 3
OVERFLOW = {"CLUSTER_OVERFLOW_QUEUES": "gpu", "CLUSTER_OVERFLOW_SECONDS": str(PATIENCE)}


@pytest.fixture(scope="module")
def site(bench: Bench) -> Bench:
    """Give an application that has its tables and no worker yet."""
    bench.shorten(overflow={"LOOK_SECONDS": LOOK})
    bench.prepare()
    return bench


@pytest.fixture(scope="module")
def pool(site: Bench) -> Bench:
    """Give one small and one large slice."""
    if not site.stand_in:
        pytest.skip("only the stand-in's trainings take as long as asked")
    start_worker(site, "small", "gpu")
    start_worker(site, "large", "gpu-large", OVERFLOW)
    return site


def stop(bench: Bench, *names: str) -> None:
    """Stop the workers named that are there."""
    for name in set(names) & set(bench.processes):
        bench.stop(name)


def test_each_way_to_send_ends_in_the_right_queue(site: Bench) -> None:
    found = site.shell("""
import json
from celery import chain, signature
from celery.exceptions import Retry
from core.tasks import segment, segtrain, train
from django.conf import settings
from escriptorium.celery import app
from redis import Redis

redis = Redis.from_url(settings.CELERY_BROKER_URL)

def sent():
    queues = [name for name in settings.CELERY_TASK_QUEUES if redis.llen(name.name)]
    assert len(queues) == 1, queues
    return queues[0].name, json.loads(redis.rpop(queues[0].name))

def ways(task):
    ask = dict(model_pk=1)
    task.delay(**ask)
    yield "delay", sent()[0]
    task.apply_async(kwargs=ask, countdown=60)
    yield "countdown", sent()[0]
    task.si(**ask).delay()
    yield "signature", sent()[0]
    # As a worker sends the next part of a chain: from JSON.
    signature(json.loads(json.dumps(task.si(**ask)))).apply_async()
    yield "part of a chain", sent()[0]
    chain(task.si(**ask), segment.si(instance_pks=[])).delay()
    queue, message = sent()
    yield "head of a chain", queue
    task.push_request(
        id="again", args=[], kwargs=ask, retries=0, called_directly=False,
        delivery_info=message["properties"]["delivery_info"],
    )
    try:
        task.retry(exc=MemoryError())
    except Retry:
        pass
    task.pop_request()
    yield "retry", sent()[0]
    # As after the visibility timeout, and after the death of a worker.
    task.delay(**ask)
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.basic_get(getattr(task, "queue", None) or settings.CELERY_TASK_ROUTES[task.name]["queue"])
        assert redis.hlen("unacked") == 1
        channel.qos.restore_by_tag(message.delivery_tag)
        yield "again", sent()[0]
        assert redis.hlen("unacked") == 0
        channel.qos.ack(message.delivery_tag)

print(json.dumps([dict(ways(train)), dict(ways(segtrain))]))
""")
    recognition, segmentation = found
    assert len(recognition) == 7
    assert set(recognition.values()) == {"gpu"}
    assert set(segmentation.values()) == {"gpu-large"}


def test_gpu_time_is_charged_for_both_kinds(site: Bench) -> None:
    charged = site.shell("""
import datetime, json
from core import tasks
from django.conf import settings
from django.contrib.auth import get_user_model
from django.utils import timezone
from reporting.models import TaskReport
from reporting.tasks import end_task_reporting

charged = {}
for name in ("train", "segtrain", "segment"):
    task = getattr(tasks, name)
    report = TaskReport.objects.create(
        user=get_user_model().objects.get(username="chief"), label="", task_id=f"charged-{name}", method=task.name,
        workflow_state=TaskReport.WORKFLOW_STATE_STARTED, started_at=timezone.now() - datetime.timedelta(minutes=3),
    )
    end_task_reporting(report.task_id, task, state="SUCCESS", retval=None, kwargs={})
    report.refresh_from_db()
    charged[name] = report.gpu_cost and round(report.gpu_cost)
    report.delete()
# The expression of eScriptorium's reporting, which the stand-in has in other words.
routes = [route for route, queue in settings.CELERY_TASK_ROUTES.items() if queue == {"queue": "gpu"}]
print(json.dumps([charged, routes]))
""")
    assert charged == [{"train": 3, "segtrain": 3, "segment": None}, ["core.tasks.train", "core.tasks.segtrain"]]


def test_recognition_prefers_a_small_slice(pool: Bench) -> None:
    ids = send_trainings(pool, ("train", 0))
    done = until(pool, ids, FINISHED)
    assert done.starts(*ids) == [["small"]]
    assert done.jobs[ids[0]]["waited"] < PATIENCE


def test_recognition_takes_a_large_slice_when_the_small_ones_are_busy(pool: Bench) -> None:
    ids = send_trainings(pool, ("train", "until-small"), ("train", "until-large"), ("train", 0))
    now = until(pool, ids[:2], RUNNING)
    assert now.starts(*ids) == [["small"], ["large"], []]
    assert PATIENCE <= now.jobs[ids[1]]["waited"] < PATIENCE + SLACK
    # Neither holds a second job, and neither asks for one.
    assert (now.waiting, now.unacknowledged) == ({"gpu": 1, "gpu-large": 0}, 2)
    assert pool.log("large").count("Started consuming from gpu") == pool.log("large").count("Canceling queue gpu") == 1
    pool.end_hold("large")
    until(pool, ids[1:], FINISHED)
    pool.end_hold("small")
    done = until(pool, ids, FINISHED)
    # The large slice came free first, and let the small ones have their time again.
    assert done.starts(*ids) == [["small"], ["large"], ["large"]]
    assert done.unacknowledged == 0


def test_each_job_waits_for_a_small_slice_anew(pool: Bench) -> None:
    blocker, *short = send_trainings(pool, ("train", "until-anew"), ("train", 0), ("train", 0))
    done = until(pool, short, FINISHED)
    assert done.starts(*short) == [["large"], ["large"]]
    first, second = (done.jobs[name]["waited"] for name in short)
    # Sent at the same moment; the large slice was free all the time between.
    assert second - first >= PATIENCE
    pool.end_hold("anew")
    until(pool, [blocker], FINISHED)


def test_segmentation_waits_while_only_small_slices_are_free(pool: Bench) -> None:
    first, second, idle = send_trainings(pool, ("segtrain", "until-waited"), ("segtrain", 0), ("train", 0))
    now = until(pool, [idle], FINISHED)
    assert now.starts(first, second, idle) == [["large"], [], ["small"]]
    time.sleep(PATIENCE)
    now = trainings(pool)
    assert (now.states(second), now.waiting) == ([QUEUED], {"gpu": 0, "gpu-large": 1})
    pool.end_hold("waited")
    assert until(pool, [first, second], FINISHED).starts(first, second) == [["large"], ["large"]]


def test_a_killed_segmentation_training_stays_with_the_large_slices(pool: Bench) -> None:
    ids = send_trainings(pool, ("segtrain", "until-killed"))
    until(pool, ids, RUNNING)
    kill_job(pool, "large")
    pool.end_hold("killed")
    assert until(pool, ids, FINISHED).starts(*ids) == [["large", "large"]]
    # The same when the whole worker is gone: the job waits for a large slice, not for any.
    ids = send_trainings(pool, ("segtrain", "until-gone"))
    until(pool, ids, RUNNING)
    worker = pool.processes.pop("large")
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(10)
    pool.end_hold("gone")
    # What happens after the visibility timeout.
    pool.shell("""
import json
from escriptorium.celery import app

with app.connection_for_read() as connection:
    channel = connection.default_channel
    tags = channel.client.hkeys("unacked")
    for tag in tags:
        channel.qos.restore_by_tag(tag)
print(json.dumps(len(tags)))
""")
    assert trainings(pool).waiting == {"gpu": 0, "gpu-large": 1}
    time.sleep(PATIENCE)
    assert trainings(pool).waiting == {"gpu": 0, "gpu-large": 1}
    start_worker(pool, "large", "gpu-large", OVERFLOW)
    assert until(pool, ids, FINISHED).starts(*ids) == [["large", "large"]]


@pytest.mark.fault
def test_everything_is_as_before_after_a_restart_of_the_broker(pool: Bench) -> None:
    restart_redis(pool, "small", "large")
    # More than one job each: a worker that had lost its broker used to take one and then no more.
    for round_ in ("first", "second"):
        ids = send_trainings(pool, ("train", f"until-{round_}"), ("segtrain", 0), ("train", 0))
        until(pool, ids[1:], FINISHED)
        pool.end_hold(round_)
        done = until(pool, ids, FINISHED)
        assert done.starts(*ids) == [["small"], ["large"], ["large"]]
        assert done.jobs[ids[2]]["waited"] >= PATIENCE
        assert done.unacknowledged == 0


@pytest.mark.fault
def test_jobs_survive_a_restart_of_the_broker(pool: Bench) -> None:
    running = send_trainings(pool, ("train", "until-survive"), ("segtrain", "until-survive"))
    until(pool, running, RUNNING)
    restart_redis(pool, "small", "large")
    waiting = send_trainings(pool, ("train", 0), ("segtrain", 0))
    # Nobody fetches a second job while the first one runs.
    time.sleep(2)
    now = trainings(pool)
    assert (now.states(*running), now.unacknowledged) == ([RUNNING, RUNNING], 2)
    assert now.waiting == {"gpu": 1, "gpu-large": 1}
    pool.end_hold("survive")
    done = until(pool, [*running, *waiting], FINISHED, 90)
    assert done.starts(*running) == [["small"], ["large"]]
    assert done.starts(waiting[1]) == [["large"]]
    assert len(done.starts(waiting[0])[0]) == 1
    assert done.unacknowledged == 0


def test_a_lost_connection_while_helping_out_changes_nothing(pool: Bench) -> None:
    blocker, helped = send_trainings(pool, ("train", "until-lost"), ("train", "until-lost"))
    until(pool, [helped], RUNNING)
    pool.shell("""
import json
from django.conf import settings
from redis import Redis

redis = Redis.from_url(settings.CELERY_BROKER_URL)
print(json.dumps([redis.client_kill_filter(_type=kind, skipme=True) for kind in ("normal", "pubsub")]))
""")
    expect_workers(pool, "small", "large")
    now = trainings(pool)
    assert (now.waiting, now.unacknowledged) == ({"gpu": 0, "gpu-large": 0}, 2)
    pool.end_hold("lost")
    assert until(pool, [blocker, helped], FINISHED).starts(blocker, helped) == [["small"], ["large"]]


def test_a_large_slice_that_leaves_its_own_queue_does_not_help_out(pool: Bench) -> None:
    def control(method: str) -> None:
        pool.shell(
            "import json; from escriptorium.celery import app; "
            f"app.control.{method}('gpu-large', destination=['large@host'], reply=True); print(json.dumps(None))"
        )

    control("cancel_consumer")
    ids = send_trainings(pool, ("train", "until-left"), ("train", 0))
    until(pool, ids[:1], RUNNING)
    time.sleep(PATIENCE + SLACK)
    assert trainings(pool).starts(*ids) == [["small"], []]
    control("add_consumer")
    pool.end_hold("left")
    until(pool, ids, FINISHED)
    ids = send_trainings(pool, ("segtrain", 0))
    assert until(pool, ids, FINISHED).starts(*ids) == [["large"]]


def test_a_large_slice_does_all_where_there_is_no_small_one(pool: Bench) -> None:
    stop(pool, "small")
    ids = send_trainings(pool, ("train", 0), ("segtrain", 0))
    done = until(pool, ids, FINISHED)
    assert done.starts(*ids) == [["large"], ["large"]]
    assert done.jobs[ids[0]]["waited"] >= PATIENCE


def test_a_large_slice_can_be_kept_for_segmentation(pool: Bench) -> None:
    stop(pool, "small", "large")
    start_worker(pool, "kept", "gpu-large", OVERFLOW | {"CLUSTER_OVERFLOW_SECONDS": "-1"})
    ids = send_trainings(pool, ("train", 0), ("segtrain", 0))
    until(pool, ids[1:], FINISHED)
    time.sleep(PATIENCE + SLACK)
    now = trainings(pool)
    assert now.starts(*ids) == [[], ["kept"]]
    assert now.waiting == {"gpu": 1, "gpu-large": 0}
    # Without any GPU one worker takes both kinds. Its own queue it never leaves, even if it is told to help out there.
    stop(pool, "kept")
    start_worker(pool, "gpu", "gpu,gpu-large", OVERFLOW)
    ids += send_trainings(pool, ("segtrain", 0), ("train", 0))
    assert until(pool, ids, FINISHED).starts(*ids) == [["gpu"], ["kept"], ["gpu"], ["gpu"]]
    assert "Canceling queue" not in pool.log("gpu")
