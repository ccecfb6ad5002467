"""Bounds on one user's trainings: what is refused, what waits, and that each job ends once. Real Redis and Celery.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<checkout> pytest tests/integration/test_fair_use.py

What the web page and programs are told is tested on the real eScriptorium too; jobs run on the stand-in only.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from application_bench import (
    ADMIN,
    children,
    kill_job,
    restart_redis,
    send_trainings,
    start_worker,
    trainings,
    until,
)
from client import CANCELED, FINISHED, QUEUED, RUNNING, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from application_bench import Bench

#: Queued and running, and running.
BOUND, RUNNING_BOUND = 6, 1
#: Seconds between two looks of an idle worker at what is held, and after which it brings a held job back.
LOOK, AGAIN = 1.0, 6

_OTHER = """
import json
from django.contrib.auth import get_user_model
users = get_user_model().objects
made = users.filter(username="second").first() or users.create_user("second", "second@htr.test", "horse-battery-2")
print(json.dumps(made.pk))
"""


@pytest.fixture(scope="module")
def site(bench: Bench) -> Bench:
    """Give an application with the bounds, and no worker yet."""
    bench.environment |= {
        "CLUSTER_USER_TRAININGS": str(BOUND),
        "CLUSTER_USER_TRAININGS_RUNNING": str(RUNNING_BOUND),
        "ESC_LANGUAGES": "en,fr,de",
    }
    bench.shorten(training_slots={"LOOK_SECONDS": LOOK, "AGAIN_SECONDS": AGAIN})
    bench.prepare()
    return bench


@pytest.fixture(scope="module")
def pool(site: Bench) -> Bench:
    """Give two workers that take trainings."""
    if not site.stand_in:
        pytest.skip("only the stand-in's trainings take as long as asked")
    site.shell(_OTHER)
    start_worker(site, "one", "gpu,gpu-large")
    start_worker(site, "two", "gpu,gpu-large")
    return site


def send(bench: Bench, user: str, *jobs: tuple[str, int | str]) -> list[str]:
    """Send trainings in the name of a user."""
    before = ADMIN["admin_name"]
    try:
        ADMIN["admin_name"] = user
        return send_trainings(bench, *jobs)
    finally:
        ADMIN["admin_name"] = before


#: One after the other: two idle workers may take jobs in any order. In one process: each takes seconds to begin.
_ONE_AND_THEN = """
import json, time
from core.models import Document, OcrModel, Project
from core.tasks import segtrain, train
from django.conf import settings
from django.contrib.auth import get_user_model
from redis import Redis
from reporting.models import TaskReport

redis = Redis.from_url(settings.CELERY_BROKER_URL)
user = get_user_model().objects.get(username=ADMIN)
project, _ = Project.objects.get_or_create(name="trainings", owner=user)
document, _ = Document.objects.get_or_create(name="trainings", project=project, owner=user)
sent = []
for name, seconds in JOBS:
    model = OcrModel.objects.create(name=f"hold-{seconds}", job=1, owner=user, file_size=0)
    about = {"transcription_pk": document.transcriptions.get().pk} if name == "train" else {"document_pk": document.pk}
    task = segtrain if name == "segtrain" else train
    sent.append(task.delay(model_pk=model.pk, user_pk=user.pk, **about).id)
    end = time.monotonic() + 60
    runs = TaskReport.objects.filter(task_id=sent[0], workflow_state=TaskReport.WORKFLOW_STATE_STARTED)
    while not (runs.exists() and redis.llen("trainings-held") == len(sent) - 1):
        assert time.monotonic() < end, (sent, redis.llen("trainings-held"))
        time.sleep(0.1)
print(json.dumps(sent))
"""


def one_and_then(bench: Bench, *jobs: tuple[str, int | str]) -> list[str]:
    """Send a training of ``chief``, wait until it runs, and send others, which are held then."""
    ids: list[str] = bench.shell(f"ADMIN = {ADMIN['admin_name']!r}\nJOBS = {jobs!r}\n{_ONE_AND_THEN}")
    return ids


@contextmanager
def nobody_looks(bench: Bench) -> Iterator[None]:
    """Let only a training that ends bring back a held one of ``chief``, and no idle worker: one after the other."""
    user = bench.shell(f"""
import json
from django.contrib.auth import get_user_model

print(json.dumps(get_user_model().objects.get(username={ADMIN["admin_name"]!r}).pk))
""")
    key = f"cluster:held:looked:{user}"
    bench.redis("SET", key, "1")
    yield
    bench.redis("DEL", key)


def held(bench: Bench) -> int:
    """Return how many jobs are held."""
    return int(bench.redis("LLEN", "trainings-held"))


def finish(bench: Bench, *ids: str, seconds: float = 120) -> list[int]:
    """Wait until all jobs have finished; return how often each was begun. Nothing is left anywhere."""
    done = until(bench, list(ids), FINISHED, seconds)
    # A killed job's message may reach another worker before the claim of the killed process is gone. It goes back to
    # its queue after PUT_BACK_SECONDS (lease.py), once.
    done = wait_until(partial(trainings, bench), lambda now: now.unacknowledged == 0, 25, "all acknowledged", 0.1)
    assert (done.waiting, held(bench)) == ({"gpu": 0, "gpu-large": 0}, 0)
    return [len(starts) for starts in done.starts(*ids)]


def order(bench: Bench, *ids: str) -> list[str]:
    """Return jobs in the order in which they started."""
    code = f"""
import json
from reporting.models import TaskReport
rows = TaskReport.objects.filter(task_id__in={list(ids)!r}).order_by("started_at")
print(json.dumps([row.task_id for row in rows]))
"""
    found: list[str] = bench.shell(code)
    return found


def overlap(bench: Bench, *ids: str) -> int:
    """Return the most jobs that ran at the same time."""
    code = f"""
import json
from reporting.models import TaskReport
rows = TaskReport.objects.filter(task_id__in={list(ids)!r})
print(json.dumps([[row.started_at.timestamp(), row.done_at.timestamp()] for row in rows]))
"""
    times: list[list[float]] = bench.shell(code)
    return max(sum(start <= moment < end for start, end in times) for moment, _ in times)


def ask(bench: Bench, text: str) -> Any:
    """Run code with Django's test client, a user ``chief`` and a document of his with two pages."""
    return bench.shell(f"""
import json
from core.models import Document, DocumentPart, OcrModel, Project
from django.contrib.auth import get_user_model
from django.test import Client
from reporting.models import TaskReport
from rest_framework.authtoken.models import Token

user = get_user_model().objects.get(username={ADMIN["admin_name"]!r})
project, _ = Project.objects.get_or_create(name="asked", owner=user)
document, _ = Document.objects.get_or_create(name="asked", project=project, owner=user)
while document.parts.count() < 2:
    DocumentPart.objects.create(document=document, image="none.png", image_file_size=0)
parts = list(document.parts.values_list("pk", flat=True))
transcription = document.transcriptions.first()
client = Client(HTTP_HOST="htr.test")
key = {{"HTTP_AUTHORIZATION": "Token " + Token.objects.get_or_create(user=user)[0].key}}
{text}
""")


_REFUSALS = """
def report(number, state=TaskReport.WORKFLOW_STATE_QUEUED, method="core.tasks.train"):
    # A training has a report for each of its pages.
    for part in parts:
        TaskReport.objects.create(user=user, label="", task_id=f"asked-{number}", method=method, workflow_state=state)

for number in range(BOUND):
    report(number, TaskReport.WORKFLOW_STATE_STARTED if number % 2 else TaskReport.WORKFLOW_STATE_QUEUED)
models = OcrModel.objects.count()
found = {}
for action in ("train", "segtrain"):
    ask = {"parts": parts, "model_name": "asked", "transcription": transcription.pk}
    answer = client.post(f"/api/documents/{document.pk}/{action}/", ask, content_type="application/json", **key)
    found[action] = [answer.status_code, answer.json()]
client.force_login(user)
answer = client.post(f"/api/documents/{document.pk}/train/", ask, content_type="application/json")
found["session"] = [answer.status_code, answer.json()]
answer = client.post(
    f"/api/documents/{document.pk}/train/", ask, content_type="application/json", headers={"accept-language": "de"}
)
found["german"] = answer.json()["error"]["non_field_errors"][0]
answer = client.post(f"/document/{document.pk}/process/", {"task": "train", "parts": parts, "model_name": "asked"})
found["form"] = [answer.status_code, answer.json() if answer.status_code == 400 else None]
found["nobody"] = Client(HTTP_HOST="htr.test").post(f"/api/documents/{document.pk}/train/", {}).status_code
wrong = {"HTTP_AUTHORIZATION": "Token wrong"}
found["wrong key"] = Client(HTTP_HOST="htr.test").post(f"/api/documents/{document.pk}/train/", {}, **wrong).status_code
# A key acts before a session: the user of the key is counted.
other = get_user_model().objects.create_user("other", "other@htr.test", "horse-battery-3")
client.force_login(other)
answer = client.post(f"/api/documents/{document.pk}/train/", ask, content_type="application/json", **key)
found["key and session"] = [answer.status_code, answer.json()]
# Nobody makes room by writing one's own reports, nor takes a colleague's.
pk = TaskReport.objects.filter(task_id="asked-0").first().pk
reports, forged = TaskReport.objects.count(), {"workflow_state": 3, "user": other.pk, "label": "", "method": "x"}
found["reports"] = [
    client.generic(method, f"/api/tasks/{place}", json.dumps(forged), "application/json", **key).status_code
    for method, place in (("POST", ""), ("PUT", f"{pk}/"), ("PATCH", f"{pk}/"), ("DELETE", f"{pk}/"), ("GET", f"{pk}/"))
]
found["left"] = TaskReport.objects.count() - reports
client.force_login(user)
other.delete()
found["models"] = OcrModel.objects.count() - models
# One ends: the next request reaches the view, which finds nothing in it.
TaskReport.objects.filter(task_id="asked-0").update(workflow_state=TaskReport.WORKFLOW_STATE_DONE)
answer = client.post(f"/api/documents/{document.pk}/train/", {}, content_type="application/json")
found["after"] = [answer.status_code, "transcription" in json.dumps(answer.json())]
found["read"] = client.get(f"/api/documents/{document.pk}/", **key).status_code
TaskReport.objects.filter(task_id__startswith="asked-").delete()
print(json.dumps(found))
"""


def test_a_request_beyond_the_bound_is_refused_before_anything_is_made(site: Bench) -> None:
    found = ask(site, f"BOUND = {BOUND}\n{_REFUSALS}")
    text = (
        f"You have {BOUND} trainings queued or running; this site allows {BOUND} at a time. "
        "Wait until one has ended, or cancel one."
    )
    refused = [400, {"status": "error", "error": {"non_field_errors": [text]}}]
    assert [found["train"], found["segtrain"], found["session"], found["key and session"]] == [refused] * 4
    assert (found["reports"], found["left"]) == ([405, 405, 405, 405, 200], 0)
    assert found["german"].startswith("Sie haben")
    if not site.stand_in:
        status, form = found["form"]
        assert (status, json.loads(form["error"])) == (400, {"__all__": [text]})
    assert (found["nobody"], found["wrong key"]) in {(401, 401), (403, 403)}
    assert (found["models"], found["after"], found["read"]) == (0, [400, True], 200)


def test_two_requests_at_once_do_not_both_pass(site: Bench) -> None:
    found = ask(
        site,
        f"""
import threading
for number in range({BOUND - 1}):
    TaskReport.objects.create(user=user, label="", task_id=f"asked-{{number}}", method="core.tasks.train")
answers = []
def go():
    ask = {{"parts": parts, "model_name": "asked", "transcription": transcription.pk}}
    mine = Client(HTTP_HOST="htr.test")
    answer = mine.post(f"/api/documents/{{document.pk}}/train/", ask, content_type="application/json", **key)
    answers.append(answer.status_code)
threads = [threading.Thread(target=go) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
reports = TaskReport.objects.filter(user=user, method="core.tasks.train")
sent = reports.exclude(task_id__startswith="asked-").values("task_id").distinct().count()
reports.delete()
from django.conf import settings
from redis import Redis
Redis.from_url(settings.CELERY_BROKER_URL).delete("gpu", "gpu-large")
print(json.dumps([sorted(answers), sent]))
""",
    )
    assert found == [[200, 400, 400, 400, 400, 400], 1]


def test_one_runs_and_the_others_wait_without_a_worker(pool: Bench) -> None:
    mine = one_and_then(pool, ("train", "until-free"), ("train", 0), ("segtrain", 0), ("train", 0))
    with nobody_looks(pool):
        # One worker runs the first; the other one is free for everybody else.
        theirs = send(pool, "second", ("train", 0))
        now = until(pool, theirs, FINISHED)
        assert now.states(*mine) == [RUNNING, QUEUED, QUEUED, QUEUED]
        pool.end_hold("free")
        assert finish(pool, *mine) == [1, 1, 1, 1]
    assert order(pool, *mine) == mine
    assert overlap(pool, *mine) == RUNNING_BOUND
    reasons = pool.shell(f"""
import json
from reporting.models import TaskReport
rows = TaskReport.objects.filter(task_id__in={mine!r}).order_by("pk")
print(json.dumps([row.messages.count("waits until another one of yours has ended") for row in rows]))
""")
    assert reasons == [0, 1, 1, 1]


def test_a_killed_training_keeps_its_turn(pool: Bench) -> None:
    mine = one_and_then(pool, ("train", "until-turn"), ("train", 0))
    running = trainings(pool)
    ((worker,),) = running.starts(mine[0])
    kill_job(pool, worker)
    pool.end_hold("turn")
    assert finish(pool, *mine) == [2, 1]


def test_a_cancelled_training_makes_room_and_a_held_one_can_be_cancelled(pool: Bench) -> None:
    mine = one_and_then(pool, ("train", 300), ("train", 0), ("train", 0))
    pool.shell(f"""
import json
from reporting.models import TaskReport
for name in {[mine[1], mine[0]]!r}:
    TaskReport.objects.get(task_id=name).cancel("chief")
print(json.dumps(None))
""")
    assert finish(pool, mine[2]) == [1]
    now = trainings(pool)
    assert (now.states(*mine), now.starts(mine[1])) == ([CANCELED, CANCELED, FINISHED], [[]])


def test_a_held_training_comes_back_though_all_workers_are_busy(pool: Bench) -> None:
    pool.shell(_OTHER.replace("second", "third"))
    mine = one_and_then(pool, ("train", 300), ("train", 0))
    ((worker,),) = trainings(pool).starts(mine[0])
    with nobody_looks(pool):
        others = send(pool, "second", ("train", "until-full")) + send(pool, "third", ("train", "until-full"))
        # It is cancelled and ends without a word, as where its process does not listen.
        pool.shell(f"""
import json
from reporting.models import TaskReport
TaskReport.objects.filter(task_id={mine[0]!r}).update(workflow_state=TaskReport.WORKFLOW_STATE_CANCELED)
print(json.dumps(None))
""")
        kill_job(pool, worker)
        until(pool, others, RUNNING)
        assert held(pool) == 1
    wait_until(partial(held, pool), lambda now: now == 0, 20, "it is back", 0.3)
    assert trainings(pool).starts(mine[1]) == [[]], "both workers are busy"
    pool.end_hold("full")
    assert finish(pool, mine[1], *others) == [1, 1, 1]


def test_a_worker_that_is_gone_frees_its_slot(pool: Bench) -> None:
    mine = one_and_then(pool, ("train", 300), ("train", 0))
    running = trainings(pool)
    ((worker,),) = running.starts(mine[0])
    process = pool.processes.pop(worker)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    done = until(pool, mine[1:], FINISHED)
    assert (done.states(mine[0]), done.unacknowledged) == ([RUNNING], 1)
    pool.shell(f"""
import json
from django.conf import settings
from redis import Redis
from reporting.models import TaskReport
Redis.from_url(settings.CELERY_BROKER_URL).delete("unacked", "unacked_index")
TaskReport.objects.filter(task_id={mine[0]!r}).update(workflow_state=TaskReport.WORKFLOW_STATE_ERROR)
print(json.dumps(None))
""")
    start_worker(pool, worker, "gpu,gpu-large")


@pytest.mark.fault
def test_a_restart_of_the_broker_loses_nothing(pool: Bench) -> None:
    mine = one_and_then(pool, ("train", "until-restart"), ("train", 0), ("train", 0))
    with nobody_looks(pool):
        restart_redis(pool, "one", "two")
        assert held(pool) == 2
        pool.end_hold("restart")
        assert finish(pool, *mine) == [1, 1, 1]
    assert order(pool, *mine) == mine


def test_idle_workers_do_not_turn_in_circles(pool: Bench) -> None:
    mine = one_and_then(pool, ("train", "until-idle"), *[("train", 0)] * 3)
    running = trainings(pool)
    ((worker,),) = running.starts(mine[0])
    idle = "two" if worker == "one" else "one"
    before = pool.log(idle).count("received")
    time.sleep(AGAIN - 1)
    assert pool.log(idle).count("received") - before <= 1
    # The one that has put off a job is replaced.
    idle_process = partial(children, pool.processes[idle].pid)
    wait_until(idle_process, lambda found: len(found) == 1, 10, "one process that waits", 0.1)
    pool.end_hold("idle")
    # Not their order: an idle worker may have brought one back, which others have overtaken.
    assert finish(pool, *mine) == [1] * 4


def test_held_trainings_come_back_when_the_bound_is_switched_off(pool: Bench) -> None:
    mine = one_and_then(pool, ("train", "until-off"), ("train", 0), ("segtrain", 0))
    for worker in ("one", "two"):
        pool.processes[worker].terminate()
    pool.end_hold("off")
    # As a deployment does: each ends its job first.
    for worker in ("one", "two"):
        pool.processes.pop(worker).wait(120)
    pool.environment["CLUSTER_USER_TRAININGS_RUNNING"] = "0"
    start_worker(pool, "one", "gpu,gpu-large")
    assert finish(pool, *mine) == [1, 1, 1]
