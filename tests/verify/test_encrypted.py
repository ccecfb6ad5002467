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
#: Takes mails, and appends them to a file.
RELAY = """
import socketserver, sys
class Relay(socketserver.StreamRequestHandler):
    def handle(self):
        inside, answer = False, b"220 relay"
        while True:
            if answer:
                self.wfile.write(answer + b"\\r\\n")
            line = self.rfile.readline()
            word = line[:4].upper()
            if not line or word == b"QUIT":
                return
            if inside:
                with open(sys.argv[1], "ab") as file:
                    file.write(line)
            begins, ends = word == b"DATA", inside and line == b".\\r\\n"
            answer = b"354 go on" if begins else b"" if inside and not ends else b"250 relay"
            inside = begins or (inside and not ends)
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", 2525), Relay).serve_forever()
"""
LOOK = "escriptorium-manage@check_certificates.service"
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


def test_the_daily_look_at_the_certificates_finds_them_good(frontend: Any) -> None:
    """Of database, broker, authority and site: each has more than a month."""
    frontend.check_output(f"systemctl start {LOOK}")
    shown = "/usr/local/lib/escriptorium/run-as-service python -m escriptorium_cluster.certificate_end"
    assert frontend.check_output(shown).strip() == ""


def test_an_administrator_hears_of_a_certificate_that_ends(inventory: Inventory, frontend: Any) -> None:
    """As the site's own: one of nine days is shown in its place, and a program that takes mails in that of a relay."""
    drop_in = f"/run/systemd/system/{LOOK}.d"
    environment = "CLUSTER_CERTIFICATE_ADDRESS=127.0.0.1:4433\\nEMAIL_HOST=127.0.0.1\\nEMAIL_PORT=2525\\n"
    request = "-x509 -newkey ed25519 -noenc -days 10 -subj /CN=ends.test -keyout /root/ends.key -out /root/ends.crt"
    units = {"ends": "openssl s_server -www -accept 127.0.0.1:4433 -cert /root/ends.crt -key /root/ends.key",
             "relay": f"python3 -c {shlex.quote(RELAY)} /root/ends.mail"}  # fmt: skip
    frontend.check_output(f"openssl req {request} && mkdir -p {drop_in} && printf '{environment}' >/run/ends.env")
    frontend.check_output(f"printf '[Service]\\nEnvironmentFile=/run/ends.env\\n' >{drop_in}/ends.conf")
    try:
        for name, command in units.items():
            frontend.check_output(f"systemd-run --quiet --unit=test-{name} {command}")
        listens = "ss -Hltn sport = :2525 | grep -q . && ss -Hltn sport = :4433 | grep -q ."
        wait_for("both", lambda: frontend.run(listens).rc == 0)
        frontend.check_output("systemctl daemon-reload")
        assert frontend.run(f"systemctl start {LOOK}").rc != 0
        mail = frontend.check_output("cat /root/ends.mail")
    finally:
        frontend.run(f"systemctl stop test-ends test-relay; rm -rf {drop_in} /run/ends.env /root/ends.*")
        frontend.run(f"systemctl daemon-reload; systemctl reset-failed {LOOK}")
    assert f"To: {inventory.value('site_admin_email')}" in mail
    assert "The certificate of the site ends in 9 days" in mail
    assert mail.count("ends in") == 1


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
