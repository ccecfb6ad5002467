"""What crosses the private network: nothing that can be read, and a site that changes over to that loses no job."""

from __future__ import annotations

import base64
import gzip
import json
import re
import secrets
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from support import DONE, SEGMENTATION, TRAINING, Database, Inventory, Site, play, reaches, wait_for, workers_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.scenario("cluster")

CLEAR_PORT, TLS_PORT, DATABASE_PORT = 6379, 6380, 5432
#: Records what crosses a network card until it is stopped, but for NFS (port 2049), and for ssh, which is long.
RECORDER = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
wire.bind((sys.argv[1], 0))
with open(sys.argv[2], "wb", buffering=0) as file:
    while True:
        frame = wire.recv(1 << 18)
        packet = frame[14:]
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != 6:
            continue
        segment = packet[(packet[0] & 15) * 4 :]
        ports = segment[:2], segment[2:4]
        if not {(2049).to_bytes(2, "big"), (22).to_bytes(2, "big")} & set(ports):
            file.write(b"%d>%d " % tuple(int.from_bytes(port, "big") for port in ports) + packet)
"""
RECORDING = "/root/recording"
UNIT = "test-recorder.service"


@pytest.fixture(scope="module")
def recording(site: Site, database: Database, inventory: Inventory, frontend: Any) -> tuple[bytes, str]:
    """Record the frontend's network during a login, a document, jobs and a backup; and a text of that document."""
    text = f"unheard-of-{secrets.token_hex(8)}"
    card = frontend.check_output("ip -brief -4 address show to %s | cut -d ' ' -f 1 | cut -d @ -f 1", site.address)
    recorder = f"python3 -c {shlex.quote(RECORDER)} {card} {RECORDING}"
    frontend.check_output(f"systemd-run --unit={UNIT} {recorder}")
    try:
        session, reply = site.log_in()
        assert reply.status_code == 302, "not logged in"
        session.close()
        document, parts = site.api.document(text)
        site.api.segment(document, parts)
        database.finished(document, SEGMENTATION)
        database.finished(site.api.training(text), TRAINING)
        play(inventory, "playbooks/back-up.yml")
    finally:
        frontend.check_output(f"systemctl stop {UNIT}")
    try:
        packed = frontend.check_output(f"gzip --to-stdout {RECORDING} | base64 --wrap=0")
        return gzip.decompress(base64.b64decode(packed)), text
    finally:
        frontend.check_output(f"rm {RECORDING}")


def test_the_recording_holds_what_was_said_with_database_and_broker(recording: tuple[bytes, str]) -> None:
    """What the test below rests on."""
    wire, _ = recording
    for port in (TLS_PORT, DATABASE_PORT):
        assert re.search(rb"\d+>%d E" % port, wire), f"nothing went to port {port}"
        assert re.search(rb"%d>\d+ E" % port, wire), f"nothing came from port {port}"


def test_a_recording_holds_no_password_and_no_text(recording: tuple[bytes, str], inventory: Inventory) -> None:
    wire, text = recording
    names = ("secret_postgresql_password", "secret_redis_password", "secret_admin_password", "secret_django_key")
    assert [name for name in names if str(inventory.value(name)).encode() in wire] == []
    readable = {text, "core.tasks", "SELECT ", "csrftoken", "sessionid", "_kombu"}
    assert {word for word in readable if word.encode() in wire} == set()


def test_nobody_is_asked_in_clear(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    address = inventory.address(inventory.frontend)
    for name in inventory.compute:
        assert not reaches(connect(name), address, CLEAR_PORT)
    frontend = connect(inventory.frontend)
    clear = (
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL AND NOT ssl"
    )
    assert frontend.check_output("runuser -u postgres -- psql -XAtc %s", clear) == "0"


def test_the_daily_look_at_the_certificate_finds_it_good(frontend: Any) -> None:
    frontend.check_output("systemctl start escriptorium-manage@check_certificates.service")


@pytest.mark.fault
def test_a_running_site_changes_over_without_losing_a_job(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    """The order of docs/upgrade.md: a run, then, when the last job of before has ended, another one."""
    address = inventory.address(inventory.frontend)
    training = 0
    try:
        play(inventory, "site.yml", "--extra-vars", json.dumps({"internal_tls": False}))
        wait_for("the clear port", lambda: reaches(connect(inventory.compute[0]), address, CLEAR_PORT), timeout=30)
        training = site.api.training(site.api.held("clear"))
        running = database.running(training)
        ((host, unit),) = workers_of(inventory, connect, running["task_id"])
        queued = []
        for number in range(6):
            document, parts = site.api.document(f"hold-5 while it changes over {number}")
            site.api.segment(document, parts)
            queued.append(document)

        # A host that joins could not ask: this is for all of them together.
        limited = play(inventory, "site.yml", "--limit", inventory.compute[0], check=False)
        assert limited.stats[inventory.compute[0]]["failed"] == 1
        assert "site.yml without --limit first" in " ".join(limited.output.split())

        first = play(inventory, "site.yml")
        assert f"port {CLEAR_PORT} stays open for" in " ".join(first.output.split())
        for document in queued:
            assert database.finished(document, SEGMENTATION, timeout=240)["workflow_state"] == DONE
        assert database.running(training)["task_id"] == running["task_id"], "it goes on where it was"
        assert workers_of(inventory, connect, running["task_id"]) == [(host, unit)]
        assert reaches(connect(host), address, CLEAR_PORT), "its worker may lose its connection, and come back"

        site.api.release("clear")
        assert database.finished(training, TRAINING, timeout=240)["workflow_state"] == DONE
        assert len(workers_of(inventory, connect, running["task_id"])) == 1, "it was started once"

        def changed_over() -> bool:
            state = f"ss -Htn state established sport = :{CLEAR_PORT}"
            return str(connect(inventory.frontend).check_output(state)) == ""

        wait_for("the last worker to change over", changed_over, timeout=120)
        play(inventory, "site.yml")
        assert not reaches(connect(host), address, CLEAR_PORT)
        assert play(inventory, "site.yml").changed == []
    finally:
        if training:
            site.api.release("clear")
        play(inventory, "site.yml")
