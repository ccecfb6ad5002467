"""One deleted document or file comes back with one command, and nothing else changes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    QUEUED,
    REQUEST_TIMEOUT,
    STARTED,
    Database,
    Inventory,
    PlayRun,
    Site,
    play,
    unit_states,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.scenario("backup")

MEDIA = "/srv/escriptorium/media"
SCRATCH = "/var/lib/postgresql/scratch"
#: Rows of these say what happened, not what is there.
TABLES = (
    "core_document",
    "core_documentpart",
    "core_line",
    "core_linetranscription",
    "core_transcription",
    "core_block",
)


@pytest.fixture(scope="module")
def storage(inventory: Inventory, connect: Callable[[str], Any]) -> Any:
    return connect(inventory.groups["storage"][0])


@pytest.fixture(scope="module", autouse=True)
def no_copy_meanwhile(storage: Any) -> Iterator[None]:
    """Files come from where the tests put them, and not from a copy that the next full hour makes."""
    storage.check_output("systemctl stop media-backup@local.timer")
    yield
    storage.check_output("systemctl start media-backup@local.timer")


def recover(inventory: Inventory, *arguments: str, check: bool = True, **settings: str) -> PlayRun:
    return play(inventory, "playbooks/recover.yml", "--extra-vars", json.dumps(settings), *arguments, check=check)


def words(run: PlayRun) -> str:
    return " ".join(run.output.replace("\\", "").split())


def content(database: Database) -> dict[str, Any]:
    """Return what tables hold: number of rows and a sum of all of them."""
    found = {}
    for table in TABLES:
        query = f"SELECT count(*) AS rows, md5(string_agg(t::text, ',' ORDER BY t::text)) AS sum FROM {table} t"
        found[table] = database.rows(query)[0]
    return found


def all_jobs_end(database: Database) -> None:
    """Wait for the jobs of all pages, which change rows until then."""
    query = f"SELECT count(*) AS jobs FROM reporting_taskreport WHERE workflow_state IN ({QUEUED}, {STARTED})"
    wait_for("the end of all jobs", lambda: database.rows(query)[0]["jobs"] == 0)


def test_a_deleted_document_comes_back(
    inventory: Inventory, connect: Callable[[str], Any], site: Site, database: Database, storage: Any
) -> None:
    frontend = connect(inventory.frontend)
    name = "Charters: the 'last' ones"
    document, parts = site.api.document(name, pages=2)
    site.api.segment(document, parts)
    database.finished(document, "core.tasks.segment")
    site.api.document("a neighbour of the charters")
    all_jobs_end(database)
    image = database.rows(f"SELECT image FROM core_documentpart WHERE id = {parts[0]}")[0]["image"]
    digest = storage.check_output("sha256sum < %s", f"{MEDIA}/{image}")
    before = content(database)
    time.sleep(1.5)
    moment = frontend.check_output("date --utc '+%Y-%m-%d %H:%M:%S.%N+00'")
    time.sleep(1.5)

    reply = site.api.session.delete(f"{site.base}/api/documents/{document}/", timeout=REQUEST_TIMEOUT)
    assert reply.ok, reply.text
    storage.check_output("rm -rf /root/copy && mkdir -p $(dirname /root/copy/%s)", image)
    storage.check_output("mv %s /root/copy/%s", f"{MEDIA}/{image}", image)
    deleted = content(database)
    assert deleted != before
    units = unit_states(inventory, connect)

    def bring(*arguments: str, check: bool = True, **settings: str) -> PlayRun:
        named = {"recover_document": f"{document}:{name}", "recover_time": moment}
        return play(
            inventory, "playbooks/recover.yml", "--extra-vars", json.dumps(named | settings), *arguments, check=check
        )

    refused = bring(check=False)
    assert f"1 files are nowhere, nothing was changed: {image}" in words(refused)
    dry = bring("--check", recover_files_from="/root/copy")
    assert "2 core.DocumentPart" in words(dry)
    assert dry.changed == []
    assert content(database) == deleted
    assert not storage.file(f"{MEDIA}/{image}").exists

    run = bring(recover_files_from="/root/copy")
    print(f"recover.yml {run.seconds:.0f} s")
    assert content(database) == before
    assert storage.check_output("sha256sum < %s", f"{MEDIA}/{image}") == digest
    assert (storage.file(f"{MEDIA}/{image}").uid, storage.file(f"{MEDIA}/{image}").gid) == (2000, 2000)
    assert site.api.get(f"documents/{document}/parts/{parts[0]}/")["pk"] == parts[0]
    assert unit_states(inventory, connect) == units, "users work on meanwhile"

    again = bring(check=False)
    assert f"document {document} is still there" in words(again)
    assert content(database) == before
    assert frontend.check_output("ls -A %s", SCRATCH) == "", "whatever happened"
    assert frontend.run("pgrep -f %s", f"data_directory={SCRATCH}").rc != 0


def test_a_deleted_file_comes_back(inventory: Inventory, storage: Any) -> None:
    storage.check_output(
        f"rm -f {MEDIA}/witnesses/a.txt; mkdir -p /root/copy/witnesses && echo text > /root/copy/witnesses/a.txt"
    )
    name, moment = "witnesses/a.txt", "2026-01-01 00:00Z"
    refused = recover(inventory, check=False, recover_file=name, recover_time=moment)
    assert "No copy of the media has them" in words(refused)
    recover(inventory, recover_files_from="/root/copy", recover_file=name, recover_time=moment)
    assert storage.file(f"{MEDIA}/witnesses/a.txt").content_string == "text\n"
    again = recover(inventory, recover_files_from="/root/copy", recover_file=name, recover_time=moment)
    assert again.changed == []
    outside = recover(inventory, check=False, recover_file="../etc/passwd", recover_time="2026-01-01 00:00Z")
    assert "no name of a file below the media folder" in words(outside)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recover_time": "2026-01-01 00:00Z"}, "Name one thing to bring back, and not 0"),
        ({"recover_document": "1:a", "recover_model": "1:b", "recover_time": "2026-01-01 00:00Z"}, "and not 2"),
        ({"recover_document": "1:a"}, "write a moment at which it was there, with its time zone"),
        ({"recover_document": "1:a", "recover_time": "2026-01-01 00:00"}, "with its time zone"),
        ({"recover_document": "1:a", "recover_time": "2020-01-01 00:00Z"}, "cannot be looked up: moments from"),
    ],
)
def test_what_is_not_clear_is_refused(inventory: Inventory, settings: dict[str, str], message: str) -> None:
    run = play(inventory, "playbooks/recover.yml", "--extra-vars", json.dumps(settings), check=False)
    assert run.stats[inventory.frontend]["failed"] == 1
    assert message in words(run)


def test_a_server_in_use_is_left_alone(inventory: Inventory, frontend: Any) -> None:
    started = frontend.check_output("platform-scratch start --target-time \"$(date --utc '+%F %T+00')\"")
    try:
        server = json.loads(started)
        ask = f"cd / && runuser -u postgres -- psql -h {server['host']} -p {server['port']} -d escriptorium -XAtc %s"
        assert int(frontend.check_output(ask, "SELECT count(*) FROM core_project")) > 0
        assert frontend.run(ask, "DELETE FROM core_project").rc != 0, "it is only read"
        nobody = ask.replace("-u postgres", "-u nobody")
        assert frontend.run(nobody, "SELECT 1").rc != 0
        other = recover(inventory, check=False, recover_document="1:a", recover_time=_now(frontend))
        assert "somebody brings something back just now" in words(other)
        assert frontend.check_output(ask, "SELECT 1") == "1"
    finally:
        frontend.check_output("platform-scratch stop")
    assert frontend.check_output("ls -A %s", SCRATCH) == ""


def _now(frontend: Any) -> str:
    return str(frontend.check_output("date --utc '+%Y-%m-%d %H:%M:%S+00'"))
