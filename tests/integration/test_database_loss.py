"""What becomes of jobs whose database goes away: real PostgreSQL, Celery, database and jobs.

APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<stand-in> pytest tests/integration/test_database_loss.py

A restart, and connections that the server ends in the middle of a query.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from application_bench import send_trainings, start_worker, trainings
from client import CRASHED, FINISHED, QUEUED, RUNNING, wait_until

if TYPE_CHECKING:
    from application_bench import Bench, Trainings

QUEUES = "gpu,gpu-large"
#: What a worker says of a database that is away.
WAITS = "the job waits for the database"


@pytest.fixture(scope="module")
def site(bench: Bench) -> Bench:
    if not bench.stand_in:
        pytest.skip("only the stand-in's trainings take as long as asked")
    bench.environment |= {"CLUSTER_TASK_MAX_STARTS": "2", "STAND_IN_EPOCHS": "3"}
    bench.shorten(patience={"PAUSES": [0.2, 1.0]})
    bench.prepare()
    start_worker(bench, "worker1", QUEUES)
    return bench


def ended(site: Bench, *jobs: str, seconds: float = 120) -> Trainings:
    """Wait until all jobs have a result."""

    def done(now: Trainings) -> bool:
        return not set(now.states(*jobs)) & {QUEUED, RUNNING} and now.unacknowledged == 0

    return wait_until(partial(trainings, site), done, seconds, f"{jobs} end", 0.3)


def running(site: Bench, job: str) -> None:
    """Wait until a training runs, and is at its first epoch."""
    about = f"""
import json
from core.models import OcrModel

print(json.dumps(OcrModel.objects.filter(training=True, reports__task_id={job!r}).exists()))
"""
    wait_until(lambda: site.shell(about), bool, 60, f"{job} runs", 0.1)


def noticed(site: Bench, words: str, before: int = 0) -> None:
    """Wait until the worker has said something, more often than before."""
    wait_until(lambda: site.log("worker1").count(words), lambda count: count > before, 60, words, 0.1)


def test_jobs_that_begin_while_the_database_is_away_wait_for_it(site: Bench) -> None:
    jobs = send_trainings(site, ("train", 0, 4), ("segtrain", 0, 4), ("train", 0, 4))
    with site.database.stopped():
        noticed(site, WAITS)
        # All three would begin and fail.
        time.sleep(1)
    now = ended(site, *jobs)
    assert now.states(*jobs) == [FINISHED] * 3
    assert now.starts(*jobs) == [["worker1"]] * 3


def test_a_training_goes_on_when_the_database_is_back(site: Bench) -> None:
    (job,) = send_trainings(site, ("train", 6))
    running(site, job)
    before = site.log("worker1").count(WAITS)
    with site.database.stopped():
        noticed(site, WAITS, before)
    now = ended(site, job)
    assert (now.states(job), now.starts(job)) == ([FINISHED], [["worker1"]])
    assert site.log("worker1").count("Epoch 0 finished") == site.log("worker1").count("Epoch 2 finished")


#: Holds up what writes to a model, and ends the connections that wait for it: WANTED, and then until none has come for
#: QUIET seconds.
LOSE = """
import json, time
from django.db import connection, transaction

with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute("LOCK TABLE core_ocrmodel IN SHARE MODE")
    ended, last = 0, time.monotonic()
    while ended < WANTED or time.monotonic() < last + QUIET:
        assert time.monotonic() < last + 60, ended
        time.sleep(0.2)
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND query LIKE 'UPDATE \\"core_ocrmodel%'"
        )
        if count := cursor.fetchone()[0]:
            ended, last = ended + count, time.monotonic()
print(json.dumps(ended))
"""


def test_a_job_begins_anew_where_the_database_went_away_in_the_middle_of_a_query(site: Bench) -> None:
    (job,) = send_trainings(site, ("train", 4))
    running(site, job)
    assert site.shell(f"WANTED, QUIET = 1, 0\n{LOSE}") == 1
    now = ended(site, job)
    assert (now.states(job), now.starts(job)) == ([FINISHED], [["worker1"]])
    assert "lost its database" in site.log("worker1")


def test_a_loss_between_two_rows_is_counted(site: Bench) -> None:
    """As jobs read what is long: piece by piece. Also where another query has got a new connection meanwhile."""
    found = site.shell("""
import json
from core.models import Script
from django.db import connection
from escriptorium_cluster.patience import patience

other = connection.copy()
found = []
for between in (lambda: None, Script.objects.count):
    rows, before = Script.objects.iterator(chunk_size=1), patience.losses
    next(rows)
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
    between()
    try:
        next(rows)
    except Exception as error:
        found.append([type(error).__name__, patience.losses > before])
    connection.close()

other.close()
print(json.dumps(found))
""")
    assert found == [["OperationalError", True], ["InterfaceError", True]]


def test_a_job_that_is_done_is_not_begun_again(site: Bench) -> None:
    """Its worker was killed between the end of the job and its acknowledgement."""
    (job,) = send_trainings(site, ("train", "until-copied"))
    running(site, job)
    site.shell("""
import json
from django.conf import settings
from redis import Redis

redis = Redis.from_url(settings.CELERY_BROKER_URL)
(raw,) = redis.hvals("unacked")
message = json.loads(raw)[0]
message["headers"]["redelivered"] = message["properties"]["delivery_info"]["redelivered"] = True
message["properties"]["delivery_tag"] = "again"
redis.set("again", json.dumps(message))
print(json.dumps(None))
""")
    site.end_hold("copied")
    assert ended(site, job).states(job) == [FINISHED]
    site.shell("""
import json
from django.conf import settings
from redis import Redis

redis = Redis.from_url(settings.CELERY_BROKER_URL)
redis.rpush("gpu", redis.get("again"))
print(json.dumps(None))
""")
    wait_until(lambda: site.log("worker1"), lambda text: f"job {job} is done" in text, 30, "it is seen", 0.3)
    now = ended(site, job)
    assert (now.states(job), now.starts(job)) == ([FINISHED], [["worker1"]])
    assert now.waiting == {"gpu": 0, "gpu-large": 0}


def test_a_job_that_always_loses_its_database_is_given_up(site: Bench) -> None:
    (job,) = send_trainings(site, ("train", 4))
    running(site, job)
    # A start goes down with two questions: that of an epoch, and that which frees the model.
    assert site.shell(f"WANTED, QUIET = 3, 5\n{LOSE}") >= 3
    assert ended(site, job).states(job) == [CRASHED]
