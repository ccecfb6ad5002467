"""Fair use of a cluster: bounds on one user's trainings, and imports that ask politely."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    DONE,
    QUEUED,
    REQUEST_TIMEOUT,
    STARTED,
    Database,
    Inventory,
    Site,
    image,
    play,
    unit_states,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.scenario("cluster")

BOUNDS = {"escriptorium_trainings_per_user": 4, "escriptorium_trainings_running_per_user": 1}
#: Where the image server listens, on the storage host.
PORT = 8099
PAGES = 4
#: Refuses each image once, and asks to wait; writes down when it was asked, and how many requests it had at once.
SERVER = f"""
import http.server, json, threading, time
seen, lock, at_once = {{}}, threading.Lock(), [0, 0]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with lock:
            times = seen.setdefault(self.path, [])
            times.append(time.time())
            at_once[0] += 1
            at_once[1] = max(at_once)
        try:
            time.sleep(0.3)
            self.reply(len(times))
        finally:
            with lock:
                at_once[0] -= 1

    def reply(self, count):
        if self.path == "/seen":
            return self.whole(json.dumps([seen, at_once[1]]).encode())
        if self.path.endswith("/manifest.json"):
            base = "http://%s%s" % (self.headers["Host"], self.path[: -len("/manifest.json")])
            images = [{{"images": [{{"resource": {{"service": {{"@id": "%s/%d" % (base, number)}}}}}}]}}
                      for number in range({PAGES})]
            return self.whole(json.dumps({{"sequences": [{{"canvases": images}}]}}).encode())
        if count == 1:
            self.send_response(429)
            self.send_header("Retry-After", "2")
            self.end_headers()
            return
        self.whole(open("/tmp/fair/image.png", "rb").read())

    def whole(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

http.server.ThreadingHTTPServer(("", {PORT}), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Trained:
    """A document with which trainings are asked for."""

    pk: int
    parts: list[int]
    transcription: int


@pytest.fixture(scope="module")
def bounded(inventory: Inventory, connect: Callable[[str], Any]) -> Iterator[None]:
    """Deploy with the bounds, and without them afterwards."""

    def deploy(*arguments: str) -> None:
        before = unit_states(inventory, connect)
        play(inventory, "playbooks/deploy-application.yml", *arguments)
        gpu = "escriptorium-worker@gpu.service"

        def restarted() -> bool:
            now = unit_states(inventory, connect)
            return all(now.get((host, gpu)) not in {None, before.get((host, gpu))} for host in inventory.compute)

        wait_for("the workers with other settings", restarted, timeout=180)

    deploy("--extra-vars", json.dumps(BOUNDS))
    yield
    deploy()


@pytest.fixture(scope="module")
def document(bounded: None, site: Site, database: Database) -> Trained:
    del bounded
    pk, parts = site.api.document("fair use", pages=2)
    site.api.segment(pk, parts)
    database.finished(pk, "core.tasks.segment")
    return Trained(pk, parts, site.api.get(f"documents/{pk}/transcriptions/")[0]["pk"])


def states(database: Database, document: int) -> list[int]:
    """States of a document's trainings, in the order in which they were asked for; one for each, not for each page."""
    rows = database.rows(
        "SELECT min(id) AS first, min(workflow_state) AS state FROM reporting_taskreport "
        f"WHERE document_id = {document} AND method = 'core.tasks.train' GROUP BY task_id ORDER BY 1"
    )
    return [row["state"] for row in rows]


@pytest.mark.fault
def test_bounds_of_one_user(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any], document: Trained
) -> None:
    """One runs, three wait, the fifth is refused; all four end, one after the other, each once."""
    for number in range(4):
        hold = site.api.held("fair") if number == 0 else "hold-2"
        site.api.train(document.pk, document.parts, f"fair-{number} {hold}")
    wait_for("one to run and three to wait", lambda: states(database, document.pk) == [STARTED, QUEUED, QUEUED, QUEUED])
    ask = {"parts": document.parts, "model_name": "one too many", "transcription": document.transcription}
    reply = site.api.session.post(f"{site.base}/api/documents/{document.pk}/train/", json=ask, timeout=REQUEST_TIMEOUT)
    assert reply.status_code == 400
    (reason,) = reply.json()["error"]["non_field_errors"]
    assert reason.startswith("You have 4 trainings queued or running; this site allows 4 at a time.")
    assert database.rows("SELECT id FROM core_ocrmodel WHERE name = 'one too many'") == []

    # No worker waits with them: they lie in a list of their own, where an operator sees them.
    frontend = connect(inventory.frontend)

    def shown() -> bool:
        text = frontend.check_output("/usr/local/lib/escriptorium/run-as-service python -m escriptorium_cluster.jobs")
        return "trainings-held 3" in text and text.count("core.tasks.train") == 1

    wait_for("three of them among the held", shown, timeout=60)
    site.api.release("fair")

    wait_for("the end of all", lambda: states(database, document.pk) == [DONE] * 4, timeout=240)
    rows = database.rows(
        "SELECT task_id, min(started_at) AS started, max(done_at) AS done, min(messages) AS messages "
        f"FROM reporting_taskreport WHERE document_id = {document.pk} AND method = 'core.tasks.train' "
        "GROUP BY task_id ORDER BY min(started_at)"
    )
    assert all(row["messages"].count("Started on worker") == 1 for row in rows), "each ran once"
    assert all(earlier["done"] <= later["started"] for earlier, later in pairwise(rows))


def test_imports_wait_as_a_server_asks(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    """Two imports at once from a server that refuses each image once: both are whole, and it is never overrun."""
    (storage,) = inventory.groups["storage"]
    host = connect(storage)
    base = f"http://{inventory.address(storage)}:{PORT}"
    picture = base64.b64encode(image()).decode()
    host.check_output("mkdir -p /tmp/fair && echo %s | base64 -d > /tmp/fair/image.png", picture)
    host.check_output("printf %%s %s > /tmp/fair/server.py", SERVER)
    host.check_output("systemd-run --quiet --collect --unit=fair-images python3 /tmp/fair/server.py")
    try:
        host.check_output("for n in $(seq 50); do python3 -c %s && exit 0; sleep 0.2; done; exit 1", asked("/seen"))
        documents = [site.api.document(f"imported {number}", pages=0)[0] for number in range(2)]
        for number, document in enumerate(documents):
            uri = f"{base}/{number}/manifest.json"
            site.api.post(f"documents/{document}/import/", {"mode": "iiif", "iiif_uri": uri})
        for document in documents:
            database.finished(document, "imports.tasks.document_import")
        seen, most = json.loads(host.check_output("python3 -c %s", asked("/seen")))
    finally:
        host.run("systemctl stop fair-images.service")
    for document in documents:
        pages = database.rows(f"SELECT id FROM core_documentpart WHERE document_id = {document}")
        assert len(pages) == PAGES
    images = [times for path, times in seen.items() if path.endswith(".jpg")]
    assert len(images) == 2 * PAGES
    for first, second in images:
        assert second - first >= 2
    assert most <= 2


def asked(path: str) -> str:
    """Python that prints what the server answers, on its own host."""
    return f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{PORT}{path}').read().decode())"
