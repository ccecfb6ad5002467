"""The cluster package together with an application, PostgreSQL, Redis, Daphne and Celery, all real.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<checkout with app/> pytest tests/integration

Runs on the stand-in and on the real eScriptorium. The services run as processes of their own on free ports of this
machine; PostgreSQL's and Redis' programs are those of Debian's packages. Pages come from Daphne too: uWSGI, which would
have to be compiled, is started by the Molecule scenarios.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
import requests
import websocket
from application_bench import ADMIN, PASSWORD, ROOT, START, kill_job, start_redis, start_worker, waiting
from client import CANCELED, CRASHED, FINISHED, RUNNING, Account, Client, Json, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from application_bench import Bench

SAMPLES = ROOT / "tests" / "acceptance" / "samples"
HOST = {"Host": "htr.test"}
REFUSED = "the release before cannot delete what they link to"


@pytest.fixture(scope="module")
def prepared(bench: Bench) -> list[str]:
    """Return what the first prepare_site changed, after a dry run that must change nothing."""
    planned = bench.prepare_site("--dry-run")
    assert [word.split()[0] for word in planned] == ["migrations", "site", "administrator", "static"]
    assert not list((bench.folder / "static").iterdir())
    return bench.prepare_site()


@pytest.fixture(scope="module")
def web(bench: Bench, prepared: list[str]) -> str:
    """Start Daphne; return the web address."""
    assert prepared
    bench.start(
        "web", "daphne", "--bind", "127.0.0.1", "--port", str(bench.ports["web"]), "-v", "1",
        "escriptorium.asgi:application",
    )  # fmt: skip
    wait_until(partial(answers, bench.url("web") + "/login/"), bool, START, "web", 0.1)
    return bench.url("web")


def answers(url: str) -> bool:
    """Whether a page comes."""
    try:
        return requests.get(url, headers=HOST, timeout=10).ok
    except requests.RequestException:  # not there yet, or listening while it still loads
        return False


@pytest.fixture(scope="module")
def workers(bench: Bench, web: str) -> None:
    """Start one worker for pages and one for training; imports are consumed by nobody yet."""
    assert web
    start_worker(bench, "pages", "default,live,low-priority")
    start_worker(bench, "gpu", "gpu")


@pytest.fixture(scope="module")
def client(bench: Bench, web: str) -> Client:
    """Give a client that is logged in with its key."""
    assert bench.environment
    made = Client(Account(web, ADMIN["admin_name"], ADMIN["admin_password"]))
    made.log_in_with_token()
    return made


@pytest.fixture(scope="module")
def document(client: Client) -> Json:
    """Give a document with one uploaded page, as ``part``."""
    project = client.create_project("integration")
    made = client.create_document("integration", project["slug"])
    return made | {"part": client.upload_page(made["pk"], SAMPLES / "page.png")["pk"]}


def running_since(client: Client, document: int, method: str, after: str = "") -> str:
    """Wait until the newest job of a kind runs, since later than ``after``; return since when."""

    def ask() -> str:
        report = client.tasks(document, method)[:1]
        return (report[0]["started_at"] or "") if report and report[0]["workflow_state"] == RUNNING else ""

    return wait_until(ask, lambda since: since > after, 60, f"{method} running after {after or 'its start'}", 0.2)


def train(client: Client, document: Json, name: str, transcription: str = "ground truth") -> Json:
    """Ask for a training and return the model's row."""
    listed = {item["name"]: item["pk"] for item in client.get(f"documents/{document['pk']}/transcriptions/")}
    content = {"parts": [document["part"]], "transcription": listed[transcription], "model_name": name}
    client.post(f"documents/{document['pk']}/train/", content)
    return next(model for model in client.everything("models/") if model["name"] == name)


# --- The tests, in the order in which a host is set up -----------------------------------------------------------


def test_wait_says_that_all_services_are_there(bench: Bench) -> None:
    result = bench.python("-m", "escriptorium_cluster.wait", "--timeout", "20")
    assert (result.returncode, result.stderr) == (0, "")


def test_prepare_site_changes_once(bench: Bench, prepared: list[str]) -> None:
    # The administrator comes from upstream's own migration, hence is not named.
    assert [word.split()[0] for word in prepared] == ["migrations", "site", "static"]
    assert bench.prepare_site() == []
    site = bench.shell(
        "import json; from django.contrib.sites.models import Site; "
        "print(json.dumps([Site.objects.get_current().domain, Site.objects.get_current().name]))"
    )
    assert site == ["htr.test", "HTR"]
    assert bench.prepare_site(domain="new.test") == ["site"]
    assert bench.prepare_site() == ["site"]


def test_prepare_site_collects_again_when_files_differ(bench: Bench, prepared: list[str]) -> None:
    assert prepared
    static = bench.folder / "static"
    (static / "left-over.css").write_text("from an older release")
    published = static / "robots.txt"
    before = published.read_bytes()
    published.write_text("from a newer release")  # newer than its source: collectstatic alone would keep it
    (static / ".collected").write_text("another release\n")
    assert bench.prepare_site() == ["static files"]
    assert published.read_bytes() == before
    assert (static / "left-over.css").exists()  # pages of the older release may still ask for it
    (static / ".collected").write_text("a third release\n")
    assert bench.prepare_site() == ["static files"]
    assert not (static / "left-over.css").exists()
    assert sorted(bench.folder.glob("static*")) == [static]


def manage(bench: Bench, *words: str) -> subprocess.Popen[str]:
    """Start manage.py; its output is read by the caller."""
    return subprocess.Popen(
        [str(bench.venv / "bin" / "python"), "manage.py", *words],
        cwd=bench.tree / "app",
        env=bench.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture
def migrating(bench: Bench, prepared: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that migrates, as far as others can tell."""
    assert prepared
    code = (
        "import time; from django.db import connection; from escriptorium_cluster.site_request "
        "import LOCK_NUMBER; connection.cursor().execute('SELECT pg_advisory_lock(%s)', [LOCK_NUMBER]); "
        "print('locked', flush=True); time.sleep(300)"
    )
    with manage(bench, "shell", "--verbosity", "0", "--command", code) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        yield other
        other.kill()


def test_two_at_once_are_refused(bench: Bench, migrating: subprocess.Popen[str]) -> None:
    assert migrating.poll() is None
    result = bench.python("manage.py", "prepare_site", given=json.dumps(ADMIN))
    assert result.returncode == 1
    assert "another prepare_site is running" in result.stderr


def test_a_repeated_upgrade_waits_for_the_migrations_of_the_one_before(
    bench: Bench, migrating: subprocess.Popen[str]
) -> None:
    with manage(bench, "check_release") as look, manage(bench, "migrate_site") as migrate:
        for process in (look, migrate):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=4)
        migrating.kill()
        found = json.loads(look.communicate(timeout=120)[0].splitlines()[-1])
        assert (found["missing"], found["unknown"], found["harms"]) == ([], [], [])
        assert found["findings"] == [], "the release that is tested asks for nothing that nobody serves"
        assert "No migrations to apply" in migrate.communicate(timeout=120)[0]
        assert (look.returncode, migrate.returncode) == (0, 0)


def test_effective_settings(bench: Bench, prepared: list[str]) -> None:
    assert prepared
    code = """
import json
from celery import current_app as app
from django.conf import settings
route = app.amqp.router.route
print(json.dumps({
    "late": [app.conf.task_acks_late, app.conf.task_reject_on_worker_lost, app.conf.worker_prefetch_multiplier],
    "timeout": [app.conf.broker_transport_options, app.conf.result_backend_transport_options],
    "queues": sorted(app.amqp.queues),
    "routes": {name: route({}, name)["queue"].name for name in (
        "imports.tasks.document_import", "imports.tasks.document_export", "core.tasks.train", "core.tasks.segment",
        "core.tasks.recalculate_masks")},
    "hosts": settings.ALLOWED_HOSTS, "cost": settings.GPU_COST, "debug": settings.DEBUG,
    "jit": settings.DATABASES["default"]["OPTIONS"]["options"],
}))
"""
    timeout = {"visibility_timeout": 604800}
    assert bench.shell(code) == {
        "late": [True, True, 1],
        "timeout": [timeout, timeout],
        "queues": ["default", "gpu", "gpu-large", "imports", "jvm", "live", "low-priority", "trainings-held"],
        "routes": {
            "imports.tasks.document_import": "imports",
            "imports.tasks.document_export": "low-priority",
            "core.tasks.train": "gpu",
            "core.tasks.segment": "default",
            "core.tasks.recalculate_masks": "live",
        },
        "hosts": ["htr.test", "127.0.0.1"],
        "cost": 1.0,
        "debug": False,
        "jit": "-c jit=off",
    }


def test_a_wrong_environment_stops_at_once_with_one_line(bench: Bench) -> None:
    environment = bench.environment
    try:
        bench.environment = environment | {"CLUSTER_GPU_COST": "much", "DEBUG": "False"}
        result = bench.cold_python("manage.py", "check")
    finally:
        bench.environment = environment
    assert result.returncode == 1
    assert "DEBUG is set, expected unset" in result.stderr
    assert "CLUSTER_GPU_COST is 'much', expected a number" in result.stderr
    assert PASSWORD not in result.stderr


def test_rows_of_a_newer_release_keep_the_one_before_from_deleting(bench: Bench, prepared: list[str]) -> None:
    """A document that is shared by a release whose successor knows no sharing: the database lets nobody delete it."""
    assert prepared
    if not bench.stand_in:
        pytest.skip("the stand-in's migration")
    found = bench.shell("""
import json
from core.models import Document, Project
from django.contrib.auth import get_user_model
from escriptorium_cluster.management.commands.check_release import Command

def verdict():
    answer = Command()._look(["core.0004_sharing"])
    return [answer["decision"], answer["why"]]

user = get_user_model().objects.get(username="chief")
document = Document.objects.create(
    name="shared", project=Project.objects.create(name="shared", owner=user), owner=user
)
found = [verdict()]
document.shared_with_users.add(user)
found.append(verdict())
document.shared_with_users.clear()
print(json.dumps(found))
""")
    assert found == [
        ["stays", []],
        [
            "restore",
            [
                "core.document.shared_with_users holds what users did since",
                f"core.document.shared_with_users has rows that link to core_document, users_user: {REFUSED}",
            ],
        ],
    ]


def test_health_is_good(web: str) -> None:
    answer = requests.get(f"{web}/health/", headers=HOST, timeout=30)
    assert answer.status_code == 200, answer.text
    assert {name: check["ok"] for name, check in answer.json()["checks"].items()} == {
        "database": True,
        "broker": True,
        "media": True,
    }


def test_other_hosts_are_refused(web: str) -> None:
    assert requests.get(f"{web}/login/", headers={"Host": "evil.test"}, timeout=30).status_code == 400


def test_the_default_password_is_refused_and_repaired(bench: Bench, web: str) -> None:
    def log_in() -> int:
        credentials = {"username": "admin", "password": "admin"}
        return requests.post(f"{web}/api/token-auth/", json=credentials, headers=HOST, timeout=30).status_code

    assert log_in() == 400, "there is no account admin at all"
    bench.shell(
        "from django.contrib.auth import get_user_model; "
        "get_user_model().objects.create_superuser('admin', 'admin@admin.com', 'admin'); print('null')"
    )
    assert log_in() == 200, "the trap is set"
    assert bench.prepare_site("--dry-run") == ["password of the account 'admin' (it was 'admin')"]
    assert bench.prepare_site() == ["password of the account 'admin' (it was 'admin')"]
    assert log_in() == 400
    assert bench.prepare_site() == []


def test_wrong_passwords_count_for_an_account_and_a_network(web: str) -> None:
    """The proxy in front says where a request comes from; here the test does."""

    def guess(address: str, password: str) -> requests.Response:
        credentials = {"username": ADMIN["admin_name"], "password": password}
        headers = HOST | {"X-Real-IP": address}
        return requests.post(f"{web}/api/token-auth/", json=credentials, headers=headers, timeout=30)

    assert [guess(f"192.0.2.{number}", "wrong").status_code for number in range(11)] == [400] * 10 + [429]
    refused = guess("192.0.2.99", ADMIN["admin_password"])
    assert (refused.status_code, "non_field_errors" in refused.json()) == (429, True)
    assert 0 < int(refused.headers["Retry-After"]) <= 900
    assert guess("198.51.100.1", ADMIN["admin_password"]).status_code == 200


def test_the_form_says_that_an_account_waits(web: str) -> None:
    def guess(name: str, path: str = "/login/") -> requests.Response:
        with requests.Session() as browser:
            browser.headers.update(HOST | {"X-Real-IP": "203.0.113.1"})
            page = browser.get(f"{web}{path}", timeout=30)
            (token,) = re.findall(r'name="csrfmiddlewaretoken"\s+value="([^"]+)"', page.text)[:1]
            form = {"username": name, "password": "wrong", "csrfmiddlewaretoken": token}
            return browser.post(f"{web}{path}", data=form, timeout=30)

    assert [guess("somebody").status_code for _ in range(11)] == [200] * 10 + [429]
    found = guess("somebody", "/admin/login/")
    assert (found.status_code, "Too many wrong passwords" in found.text) == (429, True)
    assert guess("somebody else").status_code == 200


def test_administrators_log_in_each_day_and_a_link_logs_out(client: Client) -> None:
    browser = client.log_in_with_form()
    (cookie,) = [cookie for cookie in browser.cookies if cookie.name == "sessionid"]
    assert cookie.expires is not None
    assert 11.9 < (cookie.expires - time.time()) / 3600 < 12.1
    browser.headers.update({"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})

    def ask(path: str, site: str = "same-origin") -> int:
        return browser.get(
            client.base + path, headers={"Sec-Fetch-Site": site}, allow_redirects=False, timeout=30
        ).status_code

    assert ask("logout/", "cross-site") == 200, "asked first"
    assert ask("profile/apikey/") == 200
    assert ask("logout/") == 302
    assert ask("profile/apikey/") == 302


def test_an_ordinary_account_is_not_made_administrator(bench: Bench, web: str) -> None:
    assert web
    bench.shell(
        "from django.contrib.auth import get_user_model; "
        "get_user_model().objects.create_user('reader', 'reader@htr.test', 'a-long-password'); print('null')"
    )
    result = bench.python("manage.py", "prepare_site", given=json.dumps(ADMIN | {"admin_name": "reader"}))
    assert result.returncode == 1
    assert "exists and is no administrator" in result.stderr


@pytest.mark.usefixtures("workers")
def test_a_job_runs_to_its_end(client: Client, document: Json) -> None:
    client.post(f"documents/{document['pk']}/segment/", {"parts": [document["part"]], "steps": "both"})
    client.wait_for_tasks(document["pk"], "core.tasks.segment", seconds=300)
    part = client.get(f"documents/{document['pk']}/parts/{document['part']}/")
    assert part["workflow"]["segment"] == "done"
    assert part["lines"]


@pytest.mark.usefixtures("workers")
def test_imports_wait_for_their_own_worker(bench: Bench, client: Client, document: Json) -> None:
    client.import_page_xml(document["pk"], SAMPLES / "page.xml", "ground truth")
    assert waiting(bench, "imports")[0] == 1
    start_worker(bench, "imports", "imports")
    client.wait_for_tasks(document["pk"], "imports.tasks.document_import", seconds=60)
    path = f"documents/{document['pk']}/parts/{document['part']}/transcriptions/"
    listed = {item["name"]: item["pk"] for item in client.get(f"documents/{document['pk']}/transcriptions/")}
    texts = [line["content"] for line in client.everything(path, transcription=listed["ground truth"])]
    assert len(texts) == 12
    assert texts[0] == "in principio erat verbum"


@pytest.mark.usefixtures("workers")
def test_a_killed_training_starts_again_and_goes_on(bench: Bench, client: Client, document: Json) -> None:
    model = train(client, document, "hold-9")
    first = running_since(client, document["pk"], "core.tasks.train")

    def epochs() -> list[Json]:
        versions: list[Json] = client.get(f"models/{model['pk']}/")["versions"]
        return versions

    done = wait_until(epochs, bool, 300, "a first epoch", 0.1)
    kill_job(bench, "gpu")
    running_since(client, document["pk"], "core.tasks.train", first)
    # A new model has no file of its own before its training ends: the finished epoch serves as the base.
    wait_until(lambda: "goes on from version_" in bench.log("gpu"), bool, 60, "the note that the training goes on")
    wait_until(epochs, lambda versions: bool(versions) and versions != done, 300, "an epoch more", 0.1)
    if bench.stand_in:
        report = client.wait_for_tasks(document["pk"], "core.tasks.train", seconds=60)[0]
        assert report["messages"].count("Started on worker gpu@host") == 2
        assert client.get(f"models/{model['pk']}/")["accuracy_percent"] == 75
        return
    # The real training would go on for long: end it as a user does. It must not come back.
    client.post(f"documents/{document['pk']}/cancel_tasks/")
    wait_until(partial(waiting, bench, "gpu"), lambda counts: counts == [0, 0], 60, "an empty queue")
    assert client.tasks(document["pk"], "core.tasks.train")[0]["workflow_state"] == CANCELED
    assert client.get(f"models/{model['pk']}/")["training"] is False


@pytest.mark.usefixtures("workers")
def test_a_training_killed_before_its_first_epoch_starts_from_nothing(
    bench: Bench, client: Client, document: Json
) -> None:
    before = bench.log("gpu").count("Training on")
    model = train(client, document, "hold-90")
    first = running_since(client, document["pk"], "core.tasks.train")
    wait_until(lambda: client.get(f"models/{model['pk']}/")["file"], bool, 60, "the model's file name", 0.2)
    kill_job(bench, "gpu")
    running_since(client, document["pk"], "core.tasks.train", first)
    wait_until(lambda: bench.log("gpu").count("Training on") - before, lambda count: count == 2, 60, "a start", 0.1)
    time.sleep(1)
    assert client.tasks(document["pk"], "core.tasks.train")[0]["workflow_state"] == RUNNING
    client.post(f"documents/{document['pk']}/cancel_tasks/")
    wait_until(partial(waiting, bench, "gpu"), lambda counts: counts == [0, 0], 60, "an empty queue")


@pytest.mark.usefixtures("workers")
def test_a_killed_import_starts_again(bench: Bench, client: Client, document: Json) -> None:
    if not bench.stand_in:
        pytest.skip("the real import of one page is over too soon to be killed")
    other = client.create_document("hold-5", document["project"])
    client.upload_page(other["pk"], SAMPLES / "page.png")
    client.import_page_xml(other["pk"], SAMPLES / "page.xml", "imported")
    running_since(client, other["pk"], "imports.tasks.document_import")
    kill_job(bench, "imports")
    report = client.wait_for_tasks(other["pk"], "imports.tasks.document_import", seconds=120)[0]
    assert report["messages"].count("Started on worker") == 2


@pytest.mark.usefixtures("workers")
def test_a_cancelled_training_is_not_started_again(bench: Bench, client: Client, document: Json) -> None:
    model = train(client, document, "hold-300")
    running_since(client, document["pk"], "core.tasks.train")
    report = client.tasks(document["pk"], "core.tasks.train")[0]
    client.post(f"documents/{document['pk']}/cancel_tasks/", {"task_report": report["pk"]})
    # Acknowledged, not returned to the queue: with a kill signal both would look alike to a worse configuration.
    wait_until(partial(waiting, bench, "gpu"), lambda counts: counts == [0, 0], 60, "an empty queue")
    assert "Terminating " in bench.log("gpu")
    assert client.tasks(document["pk"], "core.tasks.train")[0]["workflow_state"] == CANCELED
    assert client.get(f"models/{model['pk']}/")["training"] is False


@pytest.mark.usefixtures("workers")
def test_a_job_that_always_kills_its_worker_is_given_up(bench: Bench, client: Client, document: Json) -> None:
    model = train(client, document, "hold-301")
    since = ""
    for _ in range(2):  # CLUSTER_TASK_MAX_STARTS
        since = running_since(client, document["pk"], "core.tasks.train", since)
        kill_job(bench, "gpu")

    def newest() -> Json:
        return client.tasks(document["pk"], "core.tasks.train")[0]

    report = wait_until(newest, lambda task: task["workflow_state"] == CRASHED, 60, "the job given up")
    assert "given up: this job's process was killed 2 times" in report["messages"]
    assert client.get(f"models/{model['pk']}/")["training"] is False
    assert waiting(bench, "gpu") == [0, 0]


@pytest.mark.usefixtures("workers")
def test_a_warm_shutdown_lets_the_job_end(bench: Bench, client: Client, document: Json) -> None:
    other = client.create_document("hold-until-told", document["project"])
    part = client.upload_page(other["pk"], SAMPLES / "page.png")["pk"]
    client.post(f"documents/{other['pk']}/segment/", {"parts": [part], "steps": "both"})
    running_since(client, other["pk"], "core.tasks.segment")
    bench.processes["pages"].send_signal(signal.SIGTERM)  # to the main process alone, as KillMode=mixed does
    wait_until(lambda: "Warm shutdown" in bench.log("pages"), bool, 20, "it is told", 0.1)
    bench.end_hold("told")
    assert client.wait_for_tasks(other["pk"], "core.tasks.segment", seconds=120)[0]["workflow_state"] == FINISHED
    bench.processes.pop("pages").wait(60)


def test_the_websocket_answers_our_own_pages_only(bench: Bench, client: Client) -> None:
    browser = client.log_in_with_form()
    base = bench.url("web")
    with client.notifications(browser, base) as connection:
        assert connection.connected
        code = (
            "from django.contrib.auth import get_user_model; "
            "get_user_model().objects.get(username='chief').notify('hello', id='greeting'); print('null')"
        )
        sender = threading.Thread(target=bench.shell, args=(code,))
        sender.start()
        message = json.loads(connection.recv())
        sender.join()
    assert (message["type"], message["text"]) == ("message", "hello")
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        websocket.create_connection(
            base.replace("http", "ws") + "/ws/notif/",
            origin="https://evil.test",
            cookie=f"sessionid={browser.cookies['sessionid']}",
            timeout=30,
        )
    browser.close()


def test_processes_log_to_stderr_and_leave_the_release_alone(bench: Bench, web: str) -> None:
    assert web
    log = bench.log("gpu")
    assert "INFO celery.apps.worker[" in log
    assert "gpu@host ready." in log
    for name in ("web", "pages", "gpu"):
        assert PASSWORD not in bench.log(name)
    written = bench.tree / "app" / "escriptorium" / "logs" / "error.log"
    assert not written.exists(), "the settings must not open upstream's log file"


def test_health_is_bad_without_the_broker_and_good_again_with_it(bench: Bench, web: str) -> None:
    bench.stop("redis")
    before = time.monotonic()
    answer = requests.get(f"{web}/health/", headers=HOST, timeout=30)
    assert time.monotonic() - before < 10
    assert answer.status_code == 503
    assert answer.json()["checks"]["broker"] == {"ok": False, "detail": "failed (ConnectionError), see the log"}
    assert answer.json()["checks"]["database"]["ok"] is True
    waited = bench.python("-m", "escriptorium_cluster.wait", "--timeout", "1")
    assert waited.returncode == 1
    assert waited.stderr.startswith("broker is not there after 1 s: ")
    bench.processes["redis"] = start_redis(bench.folder, bench.ports["redis"])
    assert requests.get(f"{web}/health/", headers=HOST, timeout=30).status_code == 200


def test_health_is_bad_without_the_media_folder(bench: Bench, web: str) -> None:
    media = bench.folder / "media"
    media.rename(bench.folder / "away")
    try:
        answer = requests.get(f"{web}/health/", headers=HOST, timeout=30)
    finally:
        (bench.folder / "away").rename(media)
    assert answer.status_code == 503
    assert answer.json()["checks"]["media"]["ok"] is False
