"""Two hundred short and six long jobs, while workers, hosts, broker and database fall over: each has one result.

The blows are drawn from a seed (`SOAK_SEED`), and last for some minutes (`SOAK_MINUTES`): a few in CI, longer ones by
hand with `make soak`. What an update of a job's report writes is noted by a trigger of the database: a journal may lose
its last line with the host, and a report shows its last state only.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from blows import Blow, plan
from support import CANCELED, DONE, ERROR, Database, Inventory, Site, play, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.scenario("cluster"), pytest.mark.fault]

SEED = int(os.environ.get("SOAK_SEED", "1"))
MINUTES = float(os.environ.get("SOAK_MINUTES", "3"))

RUN = "/usr/local/lib/escriptorium/run-as-service"
QUEUES = ("default", "live", "low-priority", "gpu")
#: Whose workers are killed: those that have most to do more often.
STRUCK = ("default", "default", "gpu", "gpu", "low-priority")
DOCUMENTS, PAGES, ROUNDS = 4, 10, 5
#: Short jobs: each page of each document that often. Seconds of one.
SHORT_JOBS, SHORT_SECONDS = DOCUMENTS * PAGES * ROUNDS, 1
LONG_JOBS, LONG_SECONDS = 6, 30
#: Seconds between two looks of the reaper; its timer's minute would count as a third of the lease.
REAP_SECONDS = 8.0
#: Seconds after the last blow. A job that the queue lost is found after escriptorium_orphan_seconds, 300.
END_SECONDS = 900.0
#: What a failed job may say, beside a number of starts that is used up.
GIVEN_UP, MAX_STARTS = "given up: ", 3

NOTE_RESULTS = """
CREATE TABLE soak (id bigserial, at timestamptz DEFAULT clock_timestamp(), report bigint, state int);
CREATE FUNCTION soak() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  INSERT INTO public.soak (report, state) VALUES (NEW.id, NEW.workflow_state);
  RETURN NULL;
END $$;
CREATE TRIGGER soak AFTER UPDATE ON reporting_taskreport FOR EACH ROW
  WHEN (OLD.workflow_state IS DISTINCT FROM NEW.workflow_state) EXECUTE FUNCTION soak();
"""
FORGET_RESULTS = """
DROP TRIGGER IF EXISTS soak ON reporting_taskreport; DROP FUNCTION IF EXISTS soak; DROP TABLE IF EXISTS soak;
"""


def docker(*command: str) -> None:
    subprocess.run(["docker", *command], check=True, capture_output=True)


class Soak:
    """A cluster under blows."""

    def __init__(self, site: Site, inventory: Inventory, connect: Callable[[str], Any]) -> None:
        self.site = site
        self.inventory = inventory
        self.connect = connect
        self.frontend = connect(inventory.frontend)
        self.began = time.monotonic()
        self.documents: list[tuple[int, list[int]]] = []
        self.waves = [(document, page) for _ in range(ROUNDS) for document in range(DOCUMENTS) for page in range(PAGES)]

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def prepare(self) -> None:
        """Make the documents, and queue the long jobs."""
        self.documents = [
            self.site.api.document(f"soak {number} hold-{SHORT_SECONDS}", PAGES) for number in range(DOCUMENTS)
        ]
        for number in range(LONG_JOBS):
            document, parts = self.documents[number % DOCUMENTS]
            self.site.api.train(document, parts[:1], f"soak {number} hold-{LONG_SECONDS}")

    def feed(self, count: int) -> None:
        """Queue so many short jobs more."""
        batch, self.waves = self.waves[:count], self.waves[count:]
        for number, (document, parts) in enumerate(self.documents):
            wanted = [parts[page] for which, page in batch if which == number]
            # The same page twice is two requests: a request names each page once.
            while wanted:
                once = sorted(set(wanted))
                self.site.api.segment(document, once)
                for part in once:
                    wanted.remove(part)

    def worker(self, blow: Blow, command: str) -> None:
        self.connect(blow.host).check_output(f"systemctl {command} escriptorium-worker@{blow.queue}.service")

    def strike(self, blow: Blow) -> None:
        """Let it happen, and wait until it is over."""
        container = self.inventory.container(blow.host) if blow.host else ""
        network = str(self.inventory.value("node_network_name"))
        match blow.kind:
            case "kill worker":
                self.worker(blow, "kill --kill-whom=main --signal=KILL")
            case "kill job":
                self.connect(blow.host).run(
                    f"pkill -KILL -P $(systemctl show --property=MainPID --value escriptorium-worker@{blow.queue})"
                )
            case "restart worker":
                self.worker(blow, "restart --no-block")
            case "cut shortly" | "cut for long":
                docker("network", "disconnect", network, container)
                try:
                    time.sleep(blow.seconds)
                finally:
                    docker("network", "connect", "--ip", self.inventory.address(blow.host), network, container)
            case "pause":
                docker("pause", container)
                try:
                    time.sleep(blow.seconds)
                finally:
                    docker("unpause", container)
            case "power cut":
                docker("kill", container)
                time.sleep(blow.seconds)
                docker("start", container)
            case "stop redis" | "stop postgresql":
                unit = "redis-server" if "redis" in blow.kind else "postgresql"
                self.frontend.check_output(f"systemctl stop {unit}")
                time.sleep(blow.seconds)
                self.frontend.check_output(f"systemctl start {unit}")
            case "kill redis":
                self.frontend.check_output("systemctl kill --signal=KILL redis-server")
            case "kill postgresql":
                self.frontend.check_output("systemctl kill --signal=KILL 'postgresql@*'")
            case "deploy":
                self.deploy({"QUOTA_CPU_MINUTES": "600"}, blow)
        wait_for("the web site", self.healthy, timeout=120)

    def deploy(self, environment: dict[str, str], blow: Blow | None = None) -> None:
        """Deploy with a setting that restarts everything; a worker is killed meanwhile."""
        killer = threading.Timer(20, self.worker, (blow, "kill --kill-whom=main --signal=KILL")) if blow else None
        if killer:
            killer.start()
        try:
            play(
                self.inventory,
                "playbooks/deploy-application.yml",
                "--extra-vars",
                json.dumps({"escriptorium_environment": environment}),
            )
        finally:
            if killer:
                killer.join()

    def healthy(self) -> bool:
        """Whether the site takes jobs: its health page asks database and broker."""
        return bool(self.frontend.run(f"{RUN} python -m escriptorium_cluster.wait --timeout 1").rc == 0)


@contextmanager
def reaping(inventory: Inventory) -> Iterator[None]:
    """Let the reaper look more often than its timer does."""
    over = threading.Event()
    frontend = inventory.connect(inventory.frontend)

    def look() -> None:
        while not over.wait(REAP_SECONDS):
            frontend.run(f"{RUN} python -m escriptorium_cluster.reaper --json")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def noted(frontend: Any) -> Iterator[None]:
    """Note each change of a report's state."""

    def ask(text: str) -> None:
        frontend.check_output("runuser -u postgres -- psql -d escriptorium -X -q -v ON_ERROR_STOP=1 -c %s", text)

    ask(FORGET_RESULTS)
    ask(NOTE_RESULTS)
    try:
        yield
    finally:
        ask(FORGET_RESULTS)


@pytest.mark.usefixtures("noted")
def test_each_job_has_one_result_whatever_happens(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    soak = Soak(site, inventory, connect)
    soak.prepare()
    names = ", ".join(str(document) for document, _ in soak.documents)
    blows = plan(SEED, MINUTES, inventory.compute, STRUCK)
    soak.say(f"seed {SEED}: {len(blows)} blows")
    with reaping(inventory):
        for number, blow in enumerate(blows):
            soak.feed(-(-len(soak.waves) // (len(blows) - number)))
            time.sleep(blow.rest)
            soak.say(str(blow))
            soak.strike(blow)
        soak.say("no more blows")
        soak.deploy({})

        def all_ended() -> bool:
            left = database.rows(
                "SELECT count(*) FROM reporting_taskreport "
                f"WHERE document_id IN ({names}) AND workflow_state NOT IN ({DONE}, {ERROR}, {CANCELED})"
            )
            return bool(left[0]["count"] == 0)

        wait_for("the end of all jobs", all_ended, timeout=END_SECONDS, pause=5)
        soak.say("all jobs have ended")
        workers = [f"{queue}@{host}" for host in inventory.compute for queue in QUEUES]
        answer = soak.frontend.run(
            f"{RUN} python -m escriptorium_cluster.workers --timeout 150 --expect {','.join(workers)}"
        )
        assert answer.rc == 0, answer.stdout

    reports = database.rows(
        "SELECT r.id, r.task_id, r.method, r.workflow_state, r.messages, "
        f"(SELECT count(*) FROM soak s WHERE s.report = r.id AND s.state IN ({DONE}, {ERROR}, {CANCELED})) AS results "
        f"FROM reporting_taskreport r WHERE r.document_id IN ({names}) ORDER BY r.id"
    )
    starts = Counter(report["messages"].count("Started on worker") for report in reports)
    soak.say(f"starts: {dict(sorted(starts.items()))}")
    assert Counter(report["method"] for report in reports) == {
        "core.tasks.segment": SHORT_JOBS,
        "core.tasks.train": LONG_JOBS,
    }
    assert [report for report in reports if report["results"] != 1] == [], "one result each"
    wrong = [
        report
        for report in reports
        if report["workflow_state"] != DONE
        and not (GIVEN_UP in report["messages"] and report["messages"].count("Started on worker") > MAX_STARTS)
    ]
    assert wrong == [], "done, or killed as often as a job may be"
    assert database.rows("SELECT id, name FROM core_ocrmodel WHERE training") == []
    left = soak.frontend.check_output(f"{RUN} python -m escriptorium_cluster.jobs --json")
    assert json.loads(left)["running"] == []
    for document, parts in soak.documents:
        files = soak.frontend.check_output(f"ls /srv/escriptorium/media/documents/{document}").split()
        # Each page and its three thumbnails: jobs that have no report.
        assert len(files) == 4 * len(parts), files
