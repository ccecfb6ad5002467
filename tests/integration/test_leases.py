"""What becomes of jobs whose worker is gone, cut off or stopped for a while: real Redis, Celery, database and jobs.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<stand-in> pytest tests/integration/test_leases.py

There is no systemd: where it would start a worker anew, the tests do. Each job has to have exactly one result.
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
    alive,
    children,
    expect_workers,
    kill_job,
    send_trainings,
    start_worker,
    trainings,
    without_redis,
)
from client import CANCELED, CRASHED, FINISHED, QUEUED, RUNNING, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from application_bench import Bench, Trainings

#: Seconds of silence after which a worker counts as dead here, and after which a lost job does.
LEASE = 5
ORPHAN = 5
#: Seconds between two runs of the reaper: it counts no pause that is longer than a third of the above.
PAUSE = 1.0
#: Seconds without Redis, longer than the lease: workers try to connect after 2, 6 and 12.
OUTAGE = 5.5
QUEUES = "gpu,gpu-large"
#: Exit status of a worker that found its lease declared dead.
DECLARED_DEAD = 75


@pytest.fixture(scope="module")
def site(bench: Bench) -> Bench:
    if not bench.stand_in:
        pytest.skip("only the stand-in's trainings take as long as asked")
    bench.environment |= {
        "CLUSTER_LEASE_SECONDS": str(LEASE),
        "CLUSTER_ORPHAN_SECONDS": str(ORPHAN),
        "CLUSTER_TASK_MAX_STARTS": "3",
    }
    bench.shorten(lease={"PUT_BACK_SECONDS": 2.0})
    bench.prepare()
    return bench


@pytest.fixture(autouse=True)
def clean(site: Bench) -> Iterator[None]:
    """Leave no worker and no job behind."""
    yield
    site.kill(*[name for name in site.processes if name.startswith("worker")])
    site.redis("FLUSHALL")
    site.prepare()


def reap(site: Bench, *arguments: str) -> dict[str, Any]:
    """Run the reaper once, as its timer does."""
    done = site.python("-m", "escriptorium_cluster.reaper", "--json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@contextmanager
def leader(site: Bench, name: str) -> Iterator[int]:
    """Give the main process of a worker, and forget the worker: the test ends it."""
    process = site.processes.pop(name)
    yield process.pid
    process.wait(30)


def all_of(pid: int) -> list[int]:
    return [pid, *(process for child in children(pid) for process in all_of(child))]


def running(site: Bench, job: str) -> None:
    """Wait until a job runs; asks Redis alone, which answers at once.

    The main process notes what it has handed to a process before that has counted the start.
    """

    def begun() -> bool:
        counted = site.redis("-n", "1", "KEYS", f"*:cluster:starts:{job}")
        return bool(counted) and bool(site.redis("HGET", "cluster:running", job))

    wait_until(begun, bool, 60, f"{job} runs", 0.1)


def finish(site: Bench, *jobs: str, seconds: float = 90) -> list[list[str]]:
    """Wait until all jobs have finished and been acknowledged; return which workers began each of them."""

    def done(now: Trainings) -> bool:
        return set(now.states(*jobs)) == {FINISHED} and now.unacknowledged == 0

    now = wait_until(partial(trainings, site), done, seconds, f"{jobs} end", 0.3)
    assert now.waiting == {"gpu": 0, "gpu-large": 0}
    return now.starts(*jobs)


def results(site: Bench, *jobs: str) -> list[int]:
    """Return how often each job has come to its end on any worker, by the workers' journals."""
    logs = "".join(path.read_text(errors="replace") for path in site.folder.glob("worker*.log"))
    return [logs.count(f"[{job}] succeeded") for job in jobs]


def reaped(site: Bench, seconds: float = 90) -> dict[str, Any]:
    """Run the reaper until it has put something back."""
    return wait_until(partial(reap, site), lambda report: bool(report["restored"]), seconds, "a job goes back", PAUSE)


def leases(site: Bench) -> int:
    return int(site.redis("HLEN", "cluster:leases"))


def test_a_worker_takes_a_lease_and_gives_it_up(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    assert (reap(site)["living"], leases(site)) == (1, 1)
    (job,) = send_trainings(site, ("train", "until-last"))
    running(site, job)
    site.processes["worker1"].terminate()
    time.sleep(1)
    assert leases(site) == 1, "a worker that ends its last job still lives"
    site.end_hold("last")
    site.stop("worker1")
    assert leases(site) == 0
    assert finish(site, job) == [["worker1"]]
    for key in ("cluster:deliveries", "cluster:running", "cluster:leases:renewed", "cluster:leases:dead"):
        assert site.redis("HLEN", key) == "0", key


def test_a_killed_worker_is_declared_dead_and_its_job_goes_to_another(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("train", "until-dead"))
    running(site, job)
    started = time.monotonic()
    with leader(site, "worker1") as main:
        child = children(main)
        os.kill(main, signal.SIGKILL)
    wait_until(lambda: alive(child), lambda left: not left, 5, "the job's process ends")
    start_worker(site, "worker2", QUEUES)
    report = reaped(site)
    assert time.monotonic() - started >= LEASE
    assert report["dead"] == ["worker1@host"]
    assert [(item["id"], item["queues"]) for item in report["restored"]] == [(job, ["gpu"])]
    site.end_hold("dead")
    assert finish(site, job) == [["worker1", "worker2"]]
    assert reap(site)["restored"] == []
    assert results(site, job) == [1]


def test_a_worker_that_starts_anew_takes_its_own_jobs_back_at_once(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("segtrain", "until-anew"))
    running(site, job)
    with leader(site, "worker1") as main:
        os.kill(main, signal.SIGKILL)
    site.end_hold("anew")
    start_worker(site, "worker1", QUEUES)
    assert finish(site, job) == [["worker1", "worker1"]]
    assert (results(site, job), leases(site)) == ([1], 1)


def test_a_worker_that_was_stopped_for_long_kills_its_job_and_ends(site: Bench) -> None:
    """As a container that is paused, or a machine whose network is cut."""
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("train", "until-woken"))
    running(site, job)
    with leader(site, "worker1") as main:
        stopped = all_of(main)
        os.killpg(main, signal.SIGSTOP)
        start_worker(site, "worker2", QUEUES)
        assert [item["id"] for item in reaped(site)["restored"]] == [job]
        running(site, job)
        os.killpg(main, signal.SIGCONT)
    site.end_hold("woken")
    assert "was declared dead" in site.log("worker1")
    wait_until(lambda: alive(stopped), lambda left: not left, 5, "all its processes end")
    assert finish(site, job) == [["worker1", "worker2"]]
    assert results(site, job) == [1]


def test_a_worker_that_was_stopped_shortly_goes_on(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("train", "until-short"))
    running(site, job)
    reap(site)
    os.killpg(site.processes["worker1"].pid, signal.SIGSTOP)
    time.sleep(LEASE / 3)
    reap(site)
    os.killpg(site.processes["worker1"].pid, signal.SIGCONT)
    site.end_hold("short")
    assert finish(site, job) == [["worker1"]]
    assert (reap(site)["dead"], results(site, job)) == ([], [1])


def test_a_broker_that_is_away_for_longer_than_the_lease_kills_nobody(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("train", "until-outage"))
    running(site, job)
    reap(site)
    child = children(site.processes["worker1"].pid)
    with without_redis(site):
        time.sleep(OUTAGE)
    assert reap(site)["restored"] == []
    expect_workers(site, "worker1")
    assert reap(site)["dead"] == []
    assert children(site.processes["worker1"].pid) == child
    site.end_hold("outage")
    assert finish(site, job) == [["worker1"]]
    assert "wait until the broker answers" in site.log("worker1")
    assert "its jobs go on" in site.log("worker1")
    assert results(site, job) == [1]


@pytest.mark.parametrize("busy", [False, pytest.param(True, marks=pytest.mark.fault)])
def test_a_worker_ends_though_the_broker_is_silent(site: Bench, busy: bool) -> None:
    """As on a host that is let in no more: nothing is refused, and nothing answers."""
    start_worker(site, "worker1", QUEUES)
    jobs = send_trainings(site, ("train", "until-never")) if busy else []
    for job in jobs:
        running(site, job)
    worker, redis = site.processes["worker1"], site.processes["redis"]
    everything = all_of(worker.pid)
    redis.send_signal(signal.SIGSTOP)
    try:
        time.sleep(LEASE / 2)
        worker.send_signal(signal.SIGTERM)
        del site.processes["worker1"]
        assert worker.wait(4 * LEASE) == 0
        wait_until(lambda: alive(everything), lambda left: not left, 5, "all its processes end")
    finally:
        redis.send_signal(signal.SIGCONT)
    if busy:
        start_worker(site, "worker2", QUEUES)
        reaped(site)
        running(site, jobs[0])


def test_a_host_is_declared_dead_by_hand(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("train", "until-by_hand"))
    running(site, job)
    with leader(site, "worker1") as main:
        os.killpg(main, signal.SIGKILL)
    site.end_hold("by_hand")
    report = reap(site, "--dead", "host")
    assert (report["dead"], [item["id"] for item in report["restored"]]) == (["worker1@host"], [job])
    start_worker(site, "worker2", QUEUES)
    assert finish(site, job) == [["worker1", "worker2"]]


def test_a_worker_that_lives_survives_being_declared_dead_by_mistake(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("train", "until-mistake"))
    running(site, job)
    process = site.processes.pop("worker1")
    assert [item["id"] for item in reap(site, "--dead", "host")["restored"]] == [job]
    # It had the time to learn of it before the job went to others.
    assert process.wait(0.5) == DECLARED_DEAD
    site.end_hold("mistake")
    start_worker(site, "worker1", QUEUES)
    assert finish(site, job) == [["worker1", "worker1"]]
    assert results(site, job) == [1]


def hand_out_again(site: Bench) -> None:
    """Put the messages of running jobs back into their queues."""
    site.shell("""
import json
from escriptorium.celery import app
from django.conf import settings
from redis import Redis

with app.connection_for_read() as connection:
    channel = connection.default_channel
    for tag in Redis.from_url(settings.CELERY_BROKER_URL).hkeys("unacked"):
        channel.qos.restore_by_tag(tag.decode())
print(json.dumps(None))
""")


def test_a_job_that_runs_is_not_begun_by_another_worker(site: Bench) -> None:
    """Redis hands a message out a second time: its timeout is shorter than the job."""
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("train", "until-contested"))
    running(site, job)
    start_worker(site, "worker2", QUEUES)
    hand_out_again(site)
    wait_until(partial(site.log, "worker2"), lambda text: "it is not started a second time" in text, 20, "refused", 0.3)
    (other,) = send_trainings(site, ("segtrain", 0))
    wait_until(
        partial(trainings, site), lambda now: now.states(other) == [FINISHED], 45, "worker2 does other jobs", 0.3
    )
    site.end_hold("contested")
    assert finish(site, job, other) == [["worker1"], ["worker2"]]
    assert results(site, job) == [1]


def test_a_job_that_runs_is_not_begun_a_second_time_by_its_own_worker(site: Bench) -> None:
    """Redis has lost its last second: the message lies in its queue, and nothing says that the job runs."""
    start_worker(site, "worker1", QUEUES, concurrency=2)
    (job,) = send_trainings(site, ("train", "until-twice"))
    running(site, job)
    site.redis("DEL", "cluster:running", "cluster:deliveries")
    hand_out_again(site)
    wait_until(
        partial(site.log, "worker1"), lambda text: "its message was handed out again" in text, 20, "refused", 0.3
    )
    site.end_hold("twice")
    assert finish(site, job) == [["worker1"]]
    assert results(site, job) == [1]


def test_a_job_that_was_cancelled_while_no_worker_heard_it_does_not_begin(site: Bench) -> None:
    """Upstream marks one of its reports, and workers forget what was revoked when they restart."""
    job, other = send_trainings(site, ("train", 0), ("train", 0))
    site.shell(f"""
import json
from reporting.models import TaskReport

report = TaskReport.objects.get(task_id={job!r})
page = TaskReport.objects.create(user=report.user, task_id=report.task_id, method=report.method,
                                 ocr_model=report.ocr_model, label="another page")
report.cancel("chief")
print(json.dumps(None))
""")
    about = f"""
import json
from reporting.models import TaskReport

rows = TaskReport.objects.filter(task_id={job!r}).order_by("pk")
print(json.dumps([[row.workflow_state, row.messages] for row in rows]))
"""
    closed = [[CANCELED, "Canceled by user chief\n"], [CANCELED, ""]]
    assert reap(site)["failed_jobs"] == []
    assert site.shell(about) == closed
    start_worker(site, "worker1", QUEUES)
    assert finish(site, other) == [["worker1"]]
    assert site.shell(about) == closed


def test_a_job_whose_process_was_killed_still_starts_again(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    start_worker(site, "worker2", QUEUES)
    (job,) = send_trainings(site, ("train", "until-killed"))
    running(site, job)
    ((first,),) = trainings(site).starts(job)
    kill_job(site, first)
    site.end_hold("killed")
    (workers,) = finish(site, job)
    assert (len(workers), results(site, job)) == (2, [1])


#: Segments two pages with one job, which takes two seconds for each.
SEGMENT = """
import json
from io import BytesIO
from core.models import Document, DocumentPart, Project
from core.tasks import segment
from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from PIL import Image

scan = BytesIO()
Image.new("L", (80, 80)).save(scan, "PNG")
user = get_user_model().objects.get()
document = Document.objects.create(name="hold-2", owner=user, project=Project.objects.create(name="p", owner=user))
pages = []
for number in range(2):
    page = DocumentPart(document=document, original_filename="scan.png", image_file_size=4)
    page.image.save(f"scan-{number}.png", ContentFile(scan.getvalue()), save=False)
    page.save()
    pages.append(page.pk)
print(json.dumps(segment.delay(instance_pks=pages, user_pk=user.pk, steps="both", override=False).id))
"""
LINES = """
import json
from core.models import DocumentPart

print(json.dumps([[page.lines.count(), page.blocks.count()] for page in DocumentPart.objects.order_by("pk")]))
"""


def test_a_segmentation_that_starts_again_makes_no_line_twice(site: Bench) -> None:
    start_worker(site, "worker1", "default")
    job = site.shell(SEGMENT)
    wait_until(partial(site.shell, LINES), lambda made: made[0] == [8, 1], 60, "one page is done", 0.1)
    kill_job(site, "worker1")
    assert finish(site, job) == [["worker1", "worker1"]]
    assert site.shell(LINES) == [[8, 1], [8, 1]]


#: Two pages with a line each, and one job that reads both: four seconds for each.
TRANSCRIBE = """
import json
from io import BytesIO
from core.models import Document, DocumentPart, Line, OcrModel, Project, Transcription
from core.tasks import transcribe
from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from PIL import Image

scan = BytesIO()
Image.new("L", (80, 80)).save(scan, "PNG")
user = get_user_model().objects.get()
document = Document.objects.create(name="hold-4", owner=user, project=Project.objects.create(name="p", owner=user))
model = OcrModel(name="reader", job=2, owner=user, file_size=1)
model.file.save("reader.mlmodel", ContentFile(b"x"), save=False)
model.save()
layer = Transcription.objects.create(name="read by kraken", document=document)
pages = []
for number in range(2):
    page = DocumentPart(document=document, original_filename="scan.png", image_file_size=4)
    page.image.save(f"scan-{number}.png", ContentFile(scan.getvalue()), save=False)
    page.save()
    Line.objects.create(document_part=page, baseline=[[0, 9], [80, 9]])
    pages.append(page.pk)
job = transcribe.delay(instance_pks=pages, user_pk=user.pk, model_pk=model.pk, transcription_pk=layer.pk)
print(json.dumps(job.id))
"""
TEXTS = """
import json
from core.models import LineTranscription

{first}
texts = LineTranscription.objects.order_by("line__document_part").values_list("content", flat=True)
print(json.dumps(list(texts)))
"""


def test_a_transcription_that_starts_again_leaves_the_pages_that_it_had_finished(site: Bench) -> None:
    start_worker(site, "worker1", "default")
    job = site.shell(TRANSCRIBE)
    wait_until(lambda: site.redis("-n", "1", "--scan", "--pattern", f"*cluster:pages:{job}"), bool, 60, "a page", 0.1)
    # A user corrects it at once.
    correct = "LineTranscription.objects.order_by('line__document_part').first()"
    first = f"row = {correct}; row.content = 'corrected'; row.save()"
    assert site.shell(TEXTS.format(first=first)) == ["corrected"]
    kill_job(site, "worker1")
    assert finish(site, job) == [["worker1", "worker1"]]
    assert site.shell(TEXTS.format(first="")) == ["corrected", "stand-in line 1"]


def test_a_place_whose_process_has_ended_takes_the_next_job_at_once(site: Bench) -> None:
    """Each process runs one job; Celery itself looks every five seconds whether there is one to replace."""
    start_worker(site, "worker1", QUEUES)
    jobs = send_trainings(site, *[("train", 0)] * 5)
    finish(site, *jobs)
    idle = site.shell("""
import json
from reporting.models import TaskReport

rows = list(TaskReport.objects.order_by("started_at"))
print(json.dumps(sorted((after.started_at - before.done_at).total_seconds() for before, after in zip(rows, rows[1:]))))
""")
    # The median: the machine may be busy.
    assert idle[2] < 3, idle


def test_jobs_that_the_broker_lost_are_marked_and_their_models_go_free(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    jobs = send_trainings(site, ("train", "until-lost"), ("train", 1), ("segtrain", 1))
    running(site, jobs[0])
    reap(site)
    site.shell("""
import json
from core.models import OcrModel

print(json.dumps(OcrModel.objects.filter(name="hold-1").update(training=True)))
""")
    site.redis("DEL", "gpu", "gpu-large")
    assert reap(site)["watched"] == 4
    report = wait_until(partial(reap, site), lambda report: bool(report["failed_jobs"]), 60, "they are marked", PAUSE)
    assert sorted(report["failed_jobs"]) == sorted(jobs[1:])
    assert trainings(site).states(*jobs) == [RUNNING, CRASHED, CRASHED]
    left, messages = site.shell(f"""
import json
from core.models import OcrModel
from reporting.models import TaskReport

print(json.dumps([
    list(OcrModel.objects.filter(training=True).values_list("name", flat=True)),
    list(TaskReport.objects.filter(task_id__in={jobs[1:]!r}).values_list("messages", flat=True)),
]))
""")
    assert left == ["hold-until-lost"]
    site.end_hold("lost")
    assert all("Please start it again" in text for text in messages)
    assert finish(site, jobs[0]) == [["worker1"]]


def test_a_job_that_could_not_say_that_it_is_done_is_done(site: Bench) -> None:
    start_worker(site, "worker1", QUEUES)
    (job,) = send_trainings(site, ("train", 0))
    finish(site, job)
    # The database went away when the report was to be written.
    site.shell(f"""
import json
from reporting.models import TaskReport

print(json.dumps(TaskReport.objects.filter(task_id={job!r}).update(workflow_state={RUNNING})))
""")
    reports: list[dict[str, Any]] = []

    def look() -> list[int]:
        reports.append(reap(site))
        return trainings(site).states(job)

    wait_until(look, lambda states: states == [FINISHED], 60, "it is done", PAUSE)
    assert [report["failed_jobs"] for report in reports] == [[]] * len(reports)


def test_imports_that_the_broker_lost_end_as_well(site: Bench) -> None:
    site.shell("""
import json
from django.contrib.auth import get_user_model
from django.utils import timezone
from core.models import Document, Project
from imports.models import DocumentImport
from reporting.models import TaskReport

user = get_user_model().objects.get(username="chief")
project = Project.objects.create(name="imports", owner=user)
for name, state in (("waits", 0), ("runs", 1), ("done", 2)):
    document = Document.objects.create(name=name, project=project, owner=user)
    job = DocumentImport.objects.create(document=document, name=name, started_by=user, workflow_state=state)
    report = TaskReport.objects.create(
        user=user, document=document, label=name, method="imports.tasks.document_import", task_id=f"import-{name}",
        workflow_state=(0, 1, 3)[state], started_at=timezone.now() if state else None,
    )
    if state:
        job.report = report
        job.save()
print(json.dumps(None))
""")
    report = wait_until(partial(reap, site), lambda report: bool(report["failed_jobs"]), 60, "they are marked", PAUSE)
    assert sorted(report["failed_jobs"]) == ["import-runs", "import-waits"]
    assert site.shell("""
import json
from imports.models import DocumentImport

rows = DocumentImport.objects.order_by("name").values_list("name", "workflow_state", "error_message")
print(json.dumps([[name, state, bool(text)] for name, state, text in rows]))
""") == [["done", 2, False], ["runs", 5, True], ["waits", 5, True]]


def test_jobs_that_wait_are_not_lost(site: Bench) -> None:
    jobs = send_trainings(site, ("train", 1), ("segtrain", 1, 30))
    for _ in range(round(ORPHAN / PAUSE) + 2):
        assert reap(site)["watched"] == 0
        time.sleep(PAUSE)
    assert trainings(site).states(*jobs) == [QUEUED, QUEUED]


def test_the_management_command_does_the_same(site: Bench) -> None:
    site.redis("HSET", "cluster:hosts", "host", str(time.time()))
    done = site.python("manage.py", "reap_jobs", "--dead", "nobody")
    assert done.returncode == 68, "a host that nobody has heard of"
    assert "no worker of nobody was heard in the last 60 days; known: host" in done.stderr
    # Its workers may be gone, and their leases with them.
    done = site.python("manage.py", "reap_jobs", "--dead", "host")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["restored"] == []


#: A message as kombu keeps it, and the steps of its life that are hard to bring about with workers.
STEPS = """
import json, os
from escriptorium_cluster import lease, reaper
from escriptorium_cluster.config import load_broker
from redis import Redis

redis = Redis.from_url(load_broker(os.environ).url(0))
redis.flushdb()
message = {
    "body": "W10=", "headers": {"id": "job", "errbacks": [], "timelimit": [None, None], "kwargsrepr": "{'a': 1.0}"},
    "properties": {"delivery_tag": "tag", "priority": 0, "delivery_info": {"exchange": "gpu", "routing_key": "gpu"}},
}
redis.sadd("_kombu.binding.gpu", reaper.SEPARATOR.join(("gpu", "", "gpu")))

def holder(node):
    return lease.Holder(node, "machine", "boot", 1, 1, 0.0)

def worker(node):
    made = lease.Lease(redis, holder(node), 900, reaper.give_back)
    made.check()
    return made

def fetch():
    redis.zadd("unacked_index", {"tag": 1})
    redis.hset("unacked", "tag", json.dumps([message, "gpu", "gpu"]))

def acknowledge():
    redis.zrem("unacked_index", "tag")
    redis.hdel("unacked", "tag")

def waiting():
    return [json.loads(text) for text in redis.lrange("gpu", 0, -1)]

def look(times=1, seconds=30):
    # As if the last run had been some time ago.
    for _ in range(times):
        now = reaper.moment(redis)
        state = reaper.parse_state((redis.get("state") or b"").decode())
        state = reaper.State(now.time - seconds, now.instance, state.leases, state.orphans)
        report, seen = reaper.reap_leases(redis, state, reaper.Moment(now.time, now.instance, 9999), 90)
        redis.set("state", reaper.dump_state(reaper.State(now.time, now.instance, seen)))
        if report.restored or report.dead:
            return report
    return report
"""


def test_a_job_that_is_to_end_goes_nowhere_and_one_that_went_elsewhere_is_left_alone(site: Bench) -> None:
    done = site.python(
        "-c",
        STEPS
        + """
from escriptorium_cluster import stopping

class Late:
    # Reads what was there a moment ago.
    def __init__(self):
        self.notes = redis.hgetall(lease.NOTES)
    def hgetall(self, name):
        return self.notes if name == lease.NOTES else redis.hgetall(name)
    def __getattr__(self, name):
        return getattr(redis, name)

marked = []
fetch()
assert worker("gpu@a").take("tag", "core.tasks.train", "job")
before = Late()
note = redis.hget(lease.NOTES, "tag").decode()
assert reaper.give_back(redis, "tag", note) == ("gpu",)
redis.delete("gpu")
fetch()
assert worker("gpu@b").take("tag", "core.tasks.train", "job")
assert stopping.note_orders(before, lambda note: note.node == "gpu@a", "a new fan") == []
assert redis.hlen(stopping.STOPPING) == 0
assert [note.id for note in stopping.note_orders(redis, lambda note: note.node == "gpu@b", "a new fan")] == ["job"]

# Nobody gives it to others: its host is lost before the command could end it.
redis.hset(lease.DEAD, lease.parse_note(redis.hget(lease.NOTES, "tag").decode()).lease, 1)
assert reaper.give_back_jobs_of_dead(redis) == [] and waiting() == []
assert redis.hlen("unacked") == redis.zcard("unacked_index") == redis.hlen(lease.NOTES) == 1

# Its message is dropped only when its report is marked, and once.
ended = stopping.finish(redis, lambda note: True, lambda *given: marked.append((given, redis.hlen("unacked"))))
assert [job.id for job in ended] == ["job"]
assert marked == [((["job"], [], "a new fan"), 1)]
assert redis.hlen("unacked") == redis.zcard("unacked_index") == redis.hlen(lease.NOTES) == 0
assert redis.hlen(stopping.STOPPING) == 0
assert stopping.finish(redis, lambda note: True, None) == []
""",
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_message_goes_back_once_as_it_was_and_only_if_it_is_still_held(site: Bench) -> None:
    done = site.python(
        "-c",
        STEPS
        + """
first, second = worker("gpu0@a"), worker("gpu0@b")
fetch()
assert first.take("tag", "core.tasks.train", "job")
note = redis.hget(lease.NOTES, "tag").decode()

# Its lease is known, nobody renews it: three looks of a third of its time.
assert look(3).dead == []
report = look(1)
assert sorted(report.dead) == ["gpu0@a", "gpu0@b"], report
assert [(job.node, job.queues) for job in report.restored] == [("gpu0@a", ("gpu",))], report
assert reaper.redelivered(message) == waiting()[0] and len(waiting()) == 1
assert redis.hlen("unacked") == redis.zcard("unacked_index") == redis.hlen(lease.NOTES) == 0
assert reaper.give_back(redis, "tag", note) == ()
assert look(5).restored == [] and len(waiting()) == 1

# Another worker holds it: what the former one knows about it counts no more.
third = worker("gpu0@c")
redis.delete("gpu")
fetch()
assert third.take("tag", "core.tasks.train", "job")
assert reaper.give_back(redis, "tag", note) == ()
assert redis.hlen("unacked") == 1

# Redis lost its last second, the note and the lease with it: the next renewal brings both back.
redis.delete(lease.NOTES, lease.LEASES, lease.RENEWED)
third.check()
assert redis.hlen(lease.NOTES) == redis.hlen(lease.LEASES) == 1

# The lease alone was lost, and its worker with it.
redis.delete(lease.LEASES, lease.RENEWED)
assert look(3).restored == []
assert [job.node for job in look(1).restored] == ["gpu0@c"]

# It was acknowledged: the note goes, and nothing else happens.
fourth = worker("gpu0@d")
redis.delete("gpu")
fetch()
fourth.take("tag", "core.tasks.train", "job")
fourth.claim("job")

class Meanwhile:
    # The message is acknowledged as soon as somebody has read it.

    def hget(self, *names):
        found = redis.hget(*names)
        acknowledge()
        return found

    def __getattr__(self, name):
        return getattr(redis, name)

assert reaper.give_back(Meanwhile(), "tag", redis.hget(lease.NOTES, "tag").decode()) == ()
assert waiting() == []
fourth.check()
assert redis.hlen(lease.NOTES) == redis.hlen(lease.RUNNING) == 0

# A message without a note is left alone: a worker of an older version holds it.
fetch()
redis.delete(lease.NOTES)
report = look(6)
assert (report.restored, report.unclaimed, redis.hlen("unacked")) == ([], 1, 1)

# Declared dead between two looks at it, it was renewed: it lives.
fifth = worker("gpu0@e")
seen = redis.hget(lease.RENEWED, fifth.id).decode()
fifth.check()
assert not lease.declare_dead(redis, fifth.id, seen)
redis.flushdb()
""",
    )
    assert done.returncode == 0, done.stderr
