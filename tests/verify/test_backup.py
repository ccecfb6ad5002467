"""Backups: what is made, what comes back, and what is said when it cannot."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from breaking import break_off
from support import Database, Inventory, Site, play, unit_states, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.scenario("backup")

MEDIA = "/srv/escriptorium/media"
CONNECTION = "/usr/local/lib/pgbackrest/connect -l pgbackrest"
DRILL_METRICS = "/var/lib/prometheus/node-exporter/escriptorium_backup_drill.prom"
BACKUP_METRICS = "/var/lib/prometheus/node-exporter/escriptorium_backup.prom"


@pytest.fixture(scope="module")
def storage(inventory: Inventory, connect: Callable[[str], Any]) -> Any:
    return connect(inventory.groups["storage"][0])


@pytest.fixture(scope="module", autouse=True)
def first_backup(storage: Any) -> None:
    """The first deployment starts one in the background; monitoring sees it when it is over."""
    wait_for("the first backup", lambda: bool(backups(storage)) and storage.file(BACKUP_METRICS).exists, timeout=120)


def info(storage: Any) -> dict[str, Any]:
    shown = storage.check_output("runuser -u pgbackrest -- pgbackrest --stanza=escriptorium --output=json info")
    answer: dict[str, Any] = json.loads(shown)[0]
    return answer


def backups(storage: Any) -> list[str]:
    return [backup["label"] for backup in info(storage)["backup"]]


def metric(host: Any, path: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", host.file(path).content_string, re.MULTILINE)
    assert found, f"{name} is not in {path}"
    return float(found[1])


def projects(database: Database) -> list[str]:
    return [row["name"] for row in database.rows("SELECT name FROM core_project ORDER BY id")]


def pause_and_read_clock(frontend: Any) -> str:
    """Return a moment that lies well between what was done before and what is done next."""
    time.sleep(1.5)
    moment = str(frontend.check_output("date --utc +%Y-%m-%dT%H:%M:%S.%N+00"))
    time.sleep(1.5)
    return moment


def test_timers_wait_for_their_time(frontend: Any, storage: Any) -> None:
    for host, timer in (
        (storage, "platform-backup-full.timer"),
        (storage, "platform-backup-diff.timer"),
        (frontend, "platform-drill.timer"),
    ):
        assert host.service(timer).is_enabled
        assert host.service(timer).is_running


def test_first_deployment_makes_a_backup_that_monitoring_sees(storage: Any) -> None:
    assert metric(storage, BACKUP_METRICS, "escriptorium_backup_success") == 1
    assert time.time() - metric(storage, BACKUP_METRICS, "escriptorium_backup_last_success_timestamp_seconds") < 7200


def test_backups_are_encrypted_and_their_passphrase_is_hidden(
    frontend: Any, storage: Any, inventory: Inventory
) -> None:
    assert info(storage)["cipher"] == "aes-256-cbc"
    # In a file, so that the search does not find itself in the list of processes.
    pattern = shlex.quote(str(inventory.value("secret_backup_passphrase")))
    for host in (frontend, storage):
        host.check_output(f"umask 022; echo {pattern} > /tmp/pattern")
        try:
            places = "/etc/pgbackrest* /var/lib /srv /proc/*/cmdline"
            readable = host.run(f"runuser -u nobody -- grep -rsl --file /tmp/pattern {places}")
            # Whoever holds the database host does not hold the key to the backups.
            anywhere = frontend.run("grep -rsl --file /tmp/pattern /etc/pgbackrest /etc/pgbackrest.conf /var/lib")
        finally:
            host.check_output("rm /tmp/pattern")
        assert (readable.stdout, anywhere.stdout) == ("", "")


def test_backups_are_no_business_of_others(storage: Any) -> None:
    assert storage.run("runuser -u nobody -- ls /srv/escriptorium-backups/pgbackrest").rc != 0
    assert storage.run("runuser -u escriptorium -- ls /srv/escriptorium-backups/secrets").rc != 0


@pytest.mark.parametrize(
    "command", ["id", "", "pgbackrest stanza-delete", "pgbackrest info; id archive-get:remote", "sh -c id:remote"]
)
def test_key_of_the_database_host_opens_nothing_else(frontend: Any, inventory: Inventory, command: str) -> None:
    storage = inventory.address(inventory.groups["storage"][0])
    answer = frontend.run(f"runuser -u postgres -- {CONNECTION} {storage} %s </dev/null", command)
    assert answer.rc != 0
    assert "uid=" not in answer.stdout


def test_unknown_host_key_is_refused(frontend: Any, inventory: Inventory) -> None:
    """The connection goes to the key that the deployment has read, and to no other."""
    storage = inventory.address(inventory.groups["storage"][0])
    answer = frontend.run(
        f"runuser -u postgres -- {CONNECTION} -o UserKnownHostsFile=/dev/null {storage} id </dev/null"
    )
    ours = frontend.run(f"runuser -u postgres -- {CONNECTION} {storage} id </dev/null")
    assert "for pgBackRest only" in ours.stderr
    # The first one that is given counts, and that is the program's own.
    assert "for pgBackRest only" in answer.stderr


def test_a_trial_that_postgres_leads_elsewhere_harms_nobody(inventory: Inventory, frontend: Any) -> None:
    folder, as_postgres = "/var/lib/postgresql/drill", "runuser -u postgres --"
    frontend.check_output("install -d -m 755 /root/valuable/data && touch /root/valuable/data/kept")
    frontend.check_output(f"{as_postgres} mv {folder} {folder}.moved && {as_postgres} ln -s /root/valuable {folder}")
    try:
        assert frontend.run("backup-drill").rc == 1
        assert metric(frontend, DRILL_METRICS, "escriptorium_backup_drill_success") == 0
        run = play(inventory, "playbooks/deploy-backup.yml", "--limit", inventory.frontend, check=False)
        assert "link that another account may have put there" in " ".join(run.output.split())
        assert frontend.check_output("stat --format %U /root/valuable") == "root"
        assert frontend.file("/root/valuable/data/kept").exists
    finally:
        frontend.check_output(f"rm {folder} && mv {folder}.moved {folder} && rm -r /root/valuable")


def test_trial_restore_compares_with_the_live_database(inventory: Inventory, frontend: Any, storage: Any) -> None:
    # Media are copied each hour: what was uploaded since would have no copy. On a first day there is nothing to copy.
    storage.check_output("systemctl start media-backup@local.service")
    run = play(inventory, "playbooks/drill-restore.yml")
    assert run.changed == []
    result = json.loads(frontend.file("/var/lib/platform-drill/drill.json").content_string)
    assert result["success"] is True
    assert result["tables"] > 20
    assert result["age_seconds"] >= 0
    assert metric(frontend, DRILL_METRICS, "escriptorium_backup_drill_success") == 1
    assert frontend.check_output("ls -A /var/lib/postgresql/drill") == ""
    assert frontend.run("ss --listening --no-header -x | grep drill").stdout == ""


def test_rows_of_a_moment_come_back_and_no_others(
    inventory: Inventory, connect: Callable[[str], Any], site: Site, database: Database, storage: Any
) -> None:
    frontend = connect(inventory.frontend)
    _, parts = site.api.document("before the backup", pages=2)
    pages = database.rows(f"SELECT image FROM core_documentpart WHERE id IN ({parts[0]}, {parts[1]}) ORDER BY id")
    image, other = (page["image"] for page in pages)
    sums = storage.check_output("cd %s && sha256sum %s %s", MEDIA, image, other)
    known = set(backups(storage))
    play(inventory, "playbooks/back-up.yml")
    (label,) = set(backups(storage)) - known
    record = json.loads(storage.file(f"/srv/escriptorium-backups/records/{label}.json").content_string)
    assert record["release"] == frontend.check_output("basename $(readlink -f /opt/escriptorium/current)")
    site.api.document("between")
    moment = pause_and_read_clock(frontend)
    # As by a deletion after the moment: its row comes back, and its image has to.
    storage.check_output("rm %s", f"{MEDIA}/{image}")
    storage.check_output("echo scribbled > %s", f"{MEDIA}/{other}")
    site.api.document("after the moment")
    frontend.check_output("runuser -u postgres -- psql -qc 'SELECT pg_switch_wal()'")

    before = unit_states(inventory, connect)
    refused = play(inventory, "playbooks/restore.yml", "-e", f"restore_target_time={moment}", check=False)
    assert refused.stats[inventory.frontend]["failed"] == 1
    assert f"restore_overwrite=escriptorium@{inventory.frontend}" in " ".join(refused.output.split())
    assert unit_states(inventory, connect) == before, "a refusal stops nothing"
    assert projects(database) == ["before the backup", "between", "after the moment"]

    confirmed = ("-e", f"restore_overwrite=escriptorium@{inventory.frontend}")
    doors = "systemctl show --property ActiveState,ActiveEnterTimestampMonotonic escriptorium-firewall.service"
    shut = frontend.check_output(doors)
    assert "ActiveState=active" in shut
    run = play(inventory, "playbooks/restore.yml", "-e", f"restore_target_time={moment}", *confirmed)
    assert frontend.check_output(doors) == shut, "what stops the application leaves the firewall"
    said = " ".join(run.output.split())
    assert re.search(r"come from the copy at local of .*, \d+ s before that moment", said)
    assert storage.check_output("cd %s && sha256sum %s %s", MEDIA, image, other) == sums
    assert "1 that were changed after the moment are kept in /srv/escriptorium/media-before-" in said
    assert storage.check_output("cat /srv/escriptorium/media-before-*/%s", other) == "scribbled"
    assert storage.file(f"{MEDIA}/{image}").uid == 2000
    assert projects(database) == ["before the backup", "between"]
    found = re.search(r"seconds_per_gigabyte: '?([\d.]+)", run.output)
    assert found
    print(f"restored at {found[1]} s per GB, the whole play in {run.seconds:.0f} s")

    # What was replaced is not lost: its timeline is among the backups.
    assert "-e restore_timeline=1" in " ".join(run.output.split())
    document, parts = site.api.document("after the restore")
    site.api.segment(document, parts)
    database.finished(document, "core.tasks.segment")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("stage", "blow"),
    [
        ("Stop timers, web application and workers", signal.SIGKILL),
        ("Restore the files of the database", signal.SIGINT),
        ("Wait for the restored database", signal.SIGKILL),
        ("Start what this host is meant to run", signal.SIGINT),
    ],
)
def test_a_restore_is_finished_wherever_it_was_broken_off(
    inventory: Inventory, connect: Callable[[str], Any], database: Database, stage: str, blow: signal.Signals
) -> None:
    before = projects(database)
    confirmed = ("-e", f"restore_overwrite=escriptorium@{inventory.frontend}")
    break_off(inventory, "playbooks/restore.yml", *confirmed, task=stage, blow=blow)
    frontend = connect(inventory.frontend)
    if not stage.startswith("Start "):
        frontend.run("systemctl start escriptorium-web.socket escriptorium-web.service")
        assert not frontend.service("escriptorium-web.socket").is_running, "as at a boot: the database is half restored"
    # What it has started on the host goes on there, and would be in the way.
    wait_for("the end of pgBackRest", lambda: frontend.run("pgrep -x pgbackrest").rc != 0, timeout=120)
    play(inventory, "playbooks/restore.yml")
    assert projects(database) == before
    assert not frontend.file("/etc/escriptorium/drained/restore").exists


@pytest.mark.fault
def test_a_timeline_comes_back_after_the_next_backup(
    inventory: Inventory, site: Site, database: Database, frontend: Any
) -> None:
    """The newest backup is of the timeline that came after it."""
    confirmed = ("-e", f"restore_overwrite=escriptorium@{inventory.frontend}")
    site.api.document("on the timeline that is left")
    left = projects(database)
    line = frontend.check_output("runuser -u postgres -- psql -XAtc 'SELECT timeline_id FROM pg_control_checkpoint()'")
    play(inventory, "playbooks/restore.yml", *confirmed)
    play(inventory, "playbooks/back-up.yml", "-e", "back_up_type=full")
    play(inventory, "playbooks/restore.yml", *confirmed, "-e", f"restore_timeline={line}")
    assert projects(database) == left


def test_changes_after_a_restore_reach_the_backups(inventory: Inventory, frontend: Any, storage: Any) -> None:
    play(inventory, "playbooks/back-up.yml")
    assert info(storage)["status"]["code"] == 0
    archived = info(storage)["archive"][-1]["max"]
    assert archived.startswith("00000002"), "the log of the new timeline"
    play(inventory, "playbooks/drill-restore.yml")
    assert metric(frontend, DRILL_METRICS, "escriptorium_backup_drill_success") == 1


@pytest.mark.fault
def test_database_that_dies_during_a_backup_costs_that_backup_only(
    inventory: Inventory, frontend: Any, storage: Any
) -> None:
    def sql(text: str) -> None:
        frontend.check_output("runuser -u postgres -- psql -qd postgres -c %s", text)

    # Text that does not compress, so that copying it takes a while.
    noise = "md5(random()::text)"
    sql(f"CREATE TABLE ballast AS SELECT {noise} AS a, {noise} AS b FROM generate_series(1, 1500000)")
    known = backups(storage)
    storage.check_output("systemctl start --no-block platform-backup@full.service")
    wait_for(
        "the copying to begin",
        lambda: frontend.run("pgrep -f '[p]rocess=1 .*backup:remote'").rc == 0,
        timeout=60,
        pause=0.1,
    )
    frontend.check_output("systemctl kill --kill-whom=all --signal=KILL 'postgresql@*.service'")
    wait_for(
        "the end of the backup",
        lambda: storage.check_output("systemctl show --property=ActiveState --value platform-backup@full") == "failed",
        timeout=120,
    )
    assert backups(storage) == known
    assert metric(storage, BACKUP_METRICS, "escriptorium_backup_success") == 0
    assert "no backup was made" in storage.check_output("journalctl --quiet --unit platform-backup@full --lines 20")

    wait_for(
        "the database",
        lambda: frontend.run("runuser -u postgres -- psql -qd postgres -c 'SELECT 1'").rc == 0,
        timeout=120,
    )
    # The host counts as degraded until then.
    storage.check_output("systemctl reset-failed 'platform-backup@*.service'")
    play(inventory, "playbooks/back-up.yml", "-e", "back_up_type=full")
    assert len(backups(storage)) == len(known) + 1
    assert metric(storage, BACKUP_METRICS, "escriptorium_backup_success") == 1
    play(inventory, "playbooks/drill-restore.yml")


@pytest.mark.fault
def test_trial_restore_says_that_a_backup_is_damaged(inventory: Inventory, frontend: Any, storage: Any) -> None:
    label = backups(storage)[-1]
    folder = f"/srv/escriptorium-backups/pgbackrest/backup/escriptorium/{label}"
    sizes = storage.check_output(f"find {folder} -type f -size +1M -path '*/pg_data/*' -printf '%s %p\\n' | sort -rn")
    damaged = sizes.split()[1]
    storage.check_output(f"cp --archive {damaged} /root/whole")
    storage.check_output(f"printf spoiled | dd of={damaged} bs=1 seek=600000 conv=notrunc status=none")
    try:
        run = play(inventory, "playbooks/drill-restore.yml", check=False)
        assert run.stats[inventory.frontend]["failed"] == 1
        assert "the trial restore FAILED" in run.output
        assert "pgbackrest restore failed" in run.output
        assert metric(frontend, DRILL_METRICS, "escriptorium_backup_drill_success") == 0
        assert metric(frontend, DRILL_METRICS, "escriptorium_backup_drill_last_success_timestamp_seconds") > 0
        assert frontend.check_output("ls -A /var/lib/postgresql/drill") == ""
    finally:
        storage.check_output(f"cp --archive /root/whole {damaged} && rm /root/whole")
    play(inventory, "playbooks/drill-restore.yml")
    frontend.check_output("runuser -u postgres -- psql -qd postgres -c 'DROP TABLE ballast'")


@pytest.mark.fault
def test_lost_frontend_comes_back_from_the_backups(
    inventory: Inventory, site: Site, database: Database, frontend: Any, storage: Any
) -> None:
    document, (part,) = site.api.document("survives")
    site.api.segment(document, [part])
    database.finished(document, "core.tasks.segment")
    line = wait_for(
        "lines", lambda: database.rows(f"SELECT id FROM core_line WHERE document_part_id = {part} LIMIT 1"), timeout=60
    )[0]["id"]
    layer = site.api.get(f"documents/{document}/transcriptions/")[0]["pk"]
    text = {"line": line, "transcription": layer, "content": "Gallia est omnis divisa"}
    site.api.post(f"documents/{document}/parts/{part}/transcriptions/", text)
    site.api.train(document, [part], "model that survives")
    database.finished(document, "core.tasks.train")
    play(inventory, "playbooks/back-up.yml")
    # After the backup, and in the archive of the log only.
    site.api.post("projects/", {"name": "newest change"})
    frontend.check_output("runuser -u postgres -- psql -qc 'SELECT pg_switch_wal()'")
    archived = "SELECT count(*) AS left FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
    wait_for("the log to be archived", lambda: database.rows(archived)[0]["left"] == 0, timeout=60)

    container = inventory.container(inventory.frontend)
    subprocess.run(["docker", "rm", "--force", "--volumes", container], check=True, capture_output=True)
    play(inventory, "molecule/resources/create.yml")
    deployed = play(inventory, "site.yml")
    assert "no backups are made now" in deployed.output
    run = play(inventory, "playbooks/restore.yml")
    print(f"site.yml {deployed.seconds:.0f} s, restore.yml {run.seconds:.0f} s")

    site.meet()  # a host that is made anew has another certificate
    assert "newest change" in projects(database)
    found = site.api.get(f"documents/{document}/parts/{part}/transcriptions/")
    assert [row["content"] for row in found["results"] if row["line"] == line] == [text["content"]]
    (image,) = database.rows(f"SELECT image FROM core_documentpart WHERE id = {part}")
    (model,) = database.rows("SELECT file FROM core_ocrmodel WHERE name = 'model that survives'")
    for path in (image["image"], model["file"]):
        assert storage.file(f"/srv/escriptorium/media/{path}").size > 0
    assert info(storage)["status"]["code"] == 0
    play(inventory, "playbooks/back-up.yml")
