"""How the application asks other servers: a real server, real Redis, the application's own ``requests``.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<checkout> pytest tests/integration/test_fetching.py

Runs on the stand-in and on the real eScriptorium.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from application_bench import ADMIN, start_worker
from client import FINISHED, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from application_bench import Bench

#: Bytes of an answer.
SIZE = 200_000
IMAGE = Path(__file__).resolve().parents[1] / "acceptance" / "samples" / "page.png"


@dataclass
class Seen:
    """What a server was asked, and how many requests it had at once at most."""

    port: int = 0
    requests: list[tuple[float, str, str]] = field(default_factory=list)
    open: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def times(self, path: str) -> list[float]:
        """Return when a path was asked for."""
        return [when for when, asked, _ in self.requests if asked.partition("?")[0] == path]


class Handler(BaseHTTPRequestHandler):
    """Answers as the address asks for.

    ``busy=2`` answers 429 to the first two requests for a path, ``after=3`` with ``Retry-After: 3``; ``seconds=1``
    makes an answer last a second; ``silent`` never answers; ``broken`` breaks off in the middle. Each image of the
    manifest is refused once.
    """

    protocol_version = "HTTP/1.1"
    seen: Seen

    def do_GET(self) -> None:
        with self.seen.lock:
            self.seen.open += 1
            self.seen.most = max(self.seen.most, self.seen.open)
            path = urlsplit(self.path).path
            count = len(self.seen.times(path))
            self.seen.requests.append((time.monotonic(), self.path, self.headers["User-Agent"]))
        try:
            self.answer({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}, count)
        finally:
            with self.seen.lock:
                self.seen.open -= 1

    def answer(self, ask: dict[str, str], count: int) -> None:
        if self.path == "/manifest.json":
            canvases = [
                {"images": [{"resource": {"service": {"@id": self.seen.url(f"/iiif/{number}")}}}]}
                for number in range(3)
            ]
            self.whole(json.dumps({"sequences": [{"canvases": canvases}]}).encode())
            return
        if self.path.startswith("/iiif/"):
            if count:
                self.whole(IMAGE.read_bytes())
                return
            ask = {"busy": "1", "after": "1"}
        if "silent" in ask:
            time.sleep(20)
            return
        if count < int(ask.get("busy", 0)):
            self.send_response(int(ask.get("status", 429)))
            if "after" in ask:
                self.send_header("Retry-After", ask["after"])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "to" in ask:
            self.send_response(302)
            self.send_header("Location", ask["to"])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(int(ask.get("final", 200)))
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in range(10):
            time.sleep(float(ask.get("seconds", 0)) / 10)
            if "broken" in ask and part == 5:
                self.close_connection = True
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (SIZE // 10, b"x" * (SIZE // 10)))
        self.wfile.write(b"0\r\n\r\n")

    def whole(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def image_server() -> Iterator[Seen]:
    """Run a server and tell what it is asked."""
    seen = Seen()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Handler,), {"seen": seen}))
    server.daemon_threads = True
    seen.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server() -> Iterator[Seen]:
    """Give a server that nobody has asked yet."""
    with image_server() as seen:
        yield seen


@pytest.fixture(scope="module")
def site(bench: Bench) -> Bench:
    """Give an application with short times."""
    bench.environment |= {
        "DOMAIN": "htr.test",
        "CLUSTER_IMPORT_REQUESTS_PER_HOST": "2",
        "CLUSTER_IMPORT_PATIENCE_SECONDS": "20",
        "CLUSTER_FETCH_TIMEOUT_SECONDS": "1",
        # Where the servers of these tests are.
        "CLUSTER_IMPORT_INTERNAL_NETWORKS": "127.0.0.1/32",
    }
    return bench


_BEGIN = """
import json, threading, time
import requests
from celery._state import _task_stack
from django.conf import settings
from escriptorium.celery import app
from redis import Redis

app.loader.import_default_modules()
redis = Redis.from_url(settings.CACHES["default"]["LOCATION"])

def job():
    # As in a worker's child while it runs an import.
    _task_stack.push(app.tasks["imports.tasks.document_import"])

def timed(do, *arguments, **options):
    start = time.monotonic()
    try:
        found = do(*arguments, **options)
        answer = [found.status_code, len(found.content)]
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    return [round(time.monotonic() - start, 1), *answer]
"""


def fetch(bench: Bench, code: str) -> Any:
    """Run code in the application, with the above."""
    return bench.shell(_BEGIN + code + "\nprint(json.dumps(found))\n")


def test_an_import_waits_as_long_as_the_server_asks(site: Bench, server: Seen) -> None:
    seconds, status, size = fetch(site, f"job(); found = timed(requests.get, {server.url('/a?busy=2&after=1')!r})")
    assert (status, size) == (200, SIZE)
    assert 2 <= seconds < 20
    first, second, third = server.times("/a")
    assert second - first >= 1
    assert third - second >= 1
    assert {agent for *_, agent in server.requests} == {"eScriptorium (+https://htr.test)"}


def test_an_import_understands_dates_and_maintenance(site: Bench, server: Seen) -> None:
    code = f"""
job()
from email.utils import formatdate
date = formatdate(time.time() + 2, usegmt=True).replace(" ", "%20").replace(":", "%3A").replace("+", "%2B")
found = [timed(requests.get, {server.url("/date?busy=1&after=")!r} + date),
         timed(requests.get, {server.url("/down?busy=1&status=503&after=1")!r}),
         timed(requests.get, {server.url("/lost?busy=9&status=503")!r})]
"""
    date, down, lost = fetch(site, code)
    assert date[1:] == [200, SIZE]
    assert 0.8 <= date[0] < 20
    assert down[1:] == [200, SIZE]
    assert lost[1:] == [503, 0]
    assert len(server.times("/lost")) == 1


def test_an_import_ends_with_a_message_where_a_server_asks_for_too_much(site: Bench, server: Seen) -> None:
    seconds, kind, text = fetch(site, f"job(); found = timed(requests.get, {server.url('/a?busy=9&after=3600')!r})")
    assert seconds < 20
    assert kind == "BusyServerError"
    assert text == (
        "127.0.0.1 answered 429 and asks to wait for 3600 s; imports here wait for 20 s at most. Import the rest later."
    )
    assert len(server.requests) == 1


def test_no_more_requests_at_once_than_the_site_allows(site: Bench, server: Seen) -> None:
    code = f"""
found = []
def go(number):
    job()
    found.append(timed(requests.get, {server.url("/")!r} + f"{{number}}?seconds=0.3", stream=True))
threads = [threading.Thread(target=go, args=(number,)) for number in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
found.append(redis.keys("cluster:imports:busy:*") and
             redis.zcard(redis.keys("cluster:imports:busy:*")[0]))
"""
    *answers, left = fetch(site, code)
    assert [answer[1:] for answer in answers] == [[200, SIZE]] * 6
    assert server.most == 2
    assert not left


def test_what_one_import_is_told_holds_for_all(site: Bench, server: Seen) -> None:
    code = f"""
found = []
def go(path, delay):
    time.sleep(delay)
    job()
    found.append(timed(requests.get, {server.url("")!r} + path))
both = ("/first?busy=1&after=3", 0), ("/second", 1)
threads = [threading.Thread(target=go, args=arguments) for arguments in both]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    assert [answer[1:] for answer in fetch(site, code)] == [[200, SIZE]] * 2
    told, second = server.times("/first")[0], server.times("/second")[0]
    assert second - told >= 2.9


def test_the_place_of_a_killed_import_is_free_again(site: Bench, server: Seen) -> None:
    code = f"""
import escriptorium_cluster.import_door as import_door
import_door.PLACE_SECONDS = 3
key = "cluster:imports:busy:127.0.0.1:{server.port}"
now = redis.time()[0] * 1000
redis.zadd(key, {{"dead": now + 2000, "deader": now + 2000}})
job()
found = timed(requests.get, {server.url("/a")!r})
"""
    seconds, status, size = fetch(site, code)
    assert (status, size) == (200, SIZE)
    assert 0.8 <= seconds < 20


def test_without_redis_an_import_goes_on(site: Bench, server: Seen) -> None:
    code = f"""
from escriptorium_cluster.fetching import Policy
Policy.redis = lambda _: Redis(port=1, socket_connect_timeout=1)
job()
found = timed(requests.get, {server.url("/a?busy=1&after=1")!r})
"""
    seconds, status, size = fetch(site, code)
    assert (status, size) == (200, SIZE)
    assert 1 <= seconds < 20


def test_a_broken_answer_is_one_that_upstream_repeats(site: Bench, server: Seen) -> None:
    found = fetch(site, f"job(); found = timed(requests.get, {server.url('/a?broken=1')!r}, stream=True, timeout=10)")
    assert found[1] == "ConnectionError"


def test_a_redirect_is_followed_with_a_place_at_each_server(site: Bench, server: Seen) -> None:
    with image_server() as other:
        address = other.url("/b").replace(":", "%3A").replace("/", "%2F")
        found = fetch(site, f"job(); found = timed(requests.get, {server.url('/a?to=' + address)!r})")
    assert found[1:] == [200, SIZE]
    assert len(other.times("/b")) == len(server.times("/a")) == 1


def test_every_request_ends(site: Bench, server: Seen) -> None:
    code = f"""
found = [timed(requests.get, {server.url("/web?silent=1")!r})]
job()
found.append(timed(requests.get, {server.url("/job?silent=1")!r}))
"""
    for seconds, kind, _ in fetch(site, code):
        assert kind == "ReadTimeout"
        assert 0.9 <= seconds < 15


def test_hosts_inside_are_refused_wherever_they_are_named(site: Bench, server: Seen) -> None:
    code = f"""
found = [timed(requests.get, "http://127.0.0.2:{server.port}/a"),
         timed(requests.get, {server.url("/a?to=http%3A%2F%2F127.0.0.2%2Fb")!r})]
job()
found += [timed(requests.get, "http://169.254.169.254/latest/meta-data/"),
          timed(requests.get, {server.url("/c?to=http%3A%2F%2F%5B%3A%3Affff%3A127.0.0.2%5D%2F")!r})]
"""
    for seconds, kind, text in fetch(site, code):
        assert kind == "RefusedServerError", text
        assert seconds < 10
    assert len(server.requests) == 2


def test_an_answer_to_a_web_process_ends(site: Bench, server: Seen) -> None:
    """The whole answer of a server to a web process has 5 s, however it is sent."""
    found = fetch(site, f"found = timed(requests.get, {server.url('/slow?seconds=9')!r})")
    assert found[1] == "SlowServerError"
    assert 4 <= found[0] < 9


def test_a_web_process_does_not_wait(site: Bench, server: Seen) -> None:
    seconds, status, _ = fetch(site, f"found = timed(requests.get, {server.url('/a?busy=1&after=15')!r})")
    assert (status, len(server.requests)) == (429, 1)
    assert seconds < 15


def test_a_schema_is_fetched_once_a_day(site: Bench, server: Seen) -> None:
    code = f"""
found = [timed(requests.get, {server.url("/page.xsd")!r})]
job()
found += [timed(requests.get, {server.url("/page.xsd")!r}),
          timed(requests.get, {server.url("/none.xsd?final=404")!r}),
          timed(requests.get, {server.url("/none.xsd?final=404")!r}),
          timed(requests.get, {server.url("/lost.xsd?silent=1")!r}),
          timed(requests.get, {server.url("/lost.xsd?silent=1")!r})]
"""
    first, second, *missing, slow, quick = fetch(site, code)
    assert first[1:] == second[1:] == [200, SIZE]
    assert [answer[1] for answer in missing] == [404, 404]
    assert [len(server.times(path)) for path in ("/page.xsd", "/none.xsd", "/lost.xsd")] == [1, 2, 1]
    assert (slow[1], quick[1]) == ("ReadTimeout", "ConnectionError")
    assert "asked some minutes ago" in quick[2]
    assert quick[0] < slow[0]


def test_the_real_importer_gets_its_image(site: Bench, server: Seen) -> None:
    if site.stand_in:
        pytest.skip("the stand-in has no importer of its own for images")
    code = f"""
from imports.parsers import IIIFManifestParser
job()
found = [timed(IIIFManifestParser.get_image, {server.url("/a?busy=2&after=2")!r}),
         timed(IIIFManifestParser.get_image, {server.url("/b?busy=9&after=3600")!r})]
"""
    good, busy = fetch(site, code)
    assert good[1:] == [200, SIZE]
    assert busy[1] == "BusyServerError"
    # Without this package: the text "2" is no number of seconds, and the import ends.
    assert "seconds" not in json.dumps(good)


def test_an_import_from_a_busy_server_is_whole(site: Bench, server: Seen) -> None:
    site.prepare()
    start_worker(site, "importer", "imports")
    document = site.shell(f"""
import json
from core.models import Document, Project
from django.contrib.auth import get_user_model
from django.test import Client
from rest_framework.authtoken.models import Token

user = get_user_model().objects.get(username={ADMIN["admin_name"]!r})
project = Project.objects.create(name="imports", owner=user)
document = Document.objects.create(name="imports", project=project, owner=user)
answer = Client(HTTP_HOST="htr.test").post(
    f"/api/documents/{{document.pk}}/import/", {{"mode": "iiif", "iiif_uri": {server.url("/manifest.json")!r}}},
    HTTP_AUTHORIZATION="Token " + Token.objects.create(user=user).key,
)
assert answer.status_code < 300, answer.content
print(json.dumps(document.pk))
""")

    def look() -> Any:
        return site.shell(f"""
import json
from core.models import DocumentPart
from reporting.models import TaskReport
report = TaskReport.objects.filter(method="imports.tasks.document_import").last()
sizes = [part.image.width for part in DocumentPart.objects.filter(document={document})]
print(json.dumps([report and [report.workflow_state, report.messages], sizes]))
""")

    state, sizes = wait_until(look, lambda now: bool(now[0]) and now[0][0] >= 2, 90, "the end of the import", 0.2)
    assert state[0] == FINISHED, state[1]
    assert len(sizes) == 3
    images = [f"/iiif/{number}/full/full/0/default.jpg" for number in range(3)]
    assert [len(server.times(image)) for image in images] == [2, 2, 2]
    assert all(second - first >= 1 for first, second in map(server.times, images))
