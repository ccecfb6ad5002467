"""Copies of the media with the defaults: made in a unit that sees little, tried, and what comes back from them."""

from __future__ import annotations

import json
import re
import shlex
import time
from typing import TYPE_CHECKING, Any

import pytest
from support import REQUEST_TIMEOUT, Database, Inventory, Site, play, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.scenario("single")

MEDIA = "/srv/escriptorium/media"
COPIES = "/srv/escriptorium-backups/media"
METRICS = "/var/lib/prometheus/node-exporter/escriptorium_media_backup.prom"
BACKUP_METRICS = "/var/lib/prometheus/node-exporter/escriptorium_backup.prom"


@pytest.fixture(scope="module")
def storage(inventory: Inventory, connect: Callable[[str], Any]) -> Any:
    return connect(inventory.groups["storage"][0])


def metric(storage: Any, name: str, verb: str) -> float:
    pattern = rf'^escriptorium_media_backup_{name}{{target="local",verb="{verb}"}} (\S+)$'
    found = re.search(pattern, storage.file(METRICS).content_string, re.MULTILINE)
    assert found, f"{name} of {verb} is not in {METRICS}"
    return float(found[1])


def moment(storage: Any) -> str:
    """Return a moment that lies well between what was done before and what is done next."""
    time.sleep(1.5)
    found = str(storage.check_output("date --utc '+%Y-%m-%d %H:%M:%S.%N+00'"))
    time.sleep(1.5)
    return found


def test_timers_wait_for_their_time(storage: Any) -> None:
    for verb in ("backup", "prune", "drill"):
        assert storage.service(f"media-{verb}@local.timer").is_enabled
        assert storage.service(f"media-{verb}@local.timer").is_running


def test_a_deleted_document_comes_back_with_all_its_images(
    inventory: Inventory, site: Site, database: Database, storage: Any
) -> None:
    wait_for("the first backup of the database", lambda: storage.file(BACKUP_METRICS).exists, timeout=180)
    document, parts = site.api.document("Charters that are deleted", pages=3)
    site.api.segment(document, parts)
    database.finished(document, "core.tasks.segment")
    rows = database.rows(f"SELECT image FROM core_documentpart WHERE document_id = {document} ORDER BY id")
    images = [row["image"] for row in rows]
    assert len(images) == 3
    names = " ".join(map(shlex.quote, images))
    sums = storage.check_output(f"cd {MEDIA} && sha256sum {names}")
    storage.check_output("chmod 600 %s", f"{MEDIA}/{images[0]}")

    storage.check_output("systemctl start media-backup@local.service")
    assert metric(storage, "success", "backup") == 1
    assert metric(storage, "bytes", "backup") > 0
    then = moment(storage)

    reply = site.api.session.delete(f"{site.base}/api/documents/{document}/", timeout=REQUEST_TIMEOUT)
    assert reply.ok, reply.text
    storage.check_output(f"cd {MEDIA} && rm -f {names}")
    settings = {"recover_document": f"{document}:Charters that are deleted", "recover_time": then}
    run = play(inventory, "playbooks/recover.yml", "--extra-vars", json.dumps(settings))
    print(f"recover.yml {run.seconds:.0f} s")
    assert "local of" in " ".join(run.output.split())
    assert storage.check_output(f"cd {MEDIA} && sha256sum {names}") == sums
    for name in images:
        file = storage.file(f"{MEDIA}/{name}")
        assert (file.uid, file.gid) == (2000, 2000)
    assert site.api.get(f"documents/{document}/parts/{parts[0]}/")["pk"] == parts[0]
    assert storage.check_output("ls -A /srv/escriptorium-backups/scratch") == ""


def test_a_trial_reads_a_part_and_compares_files(inventory: Inventory, storage: Any) -> None:
    run = play(inventory, "playbooks/drill-restore.yml")
    assert run.changed == []
    assert metric(storage, "success", "drill") == 1
    assert metric(storage, "compared_files", "drill") > 0
    assert "media at local: backup" in storage.check_output("media-backup status")


def test_copies_are_nobody_elses_business(storage: Any, inventory: Inventory) -> None:
    pattern = shlex.quote(str(inventory.value("secret_media_passphrase")))
    storage.check_output(f"umask 022; echo {pattern} > /tmp/pattern")
    try:
        for account in ("nobody", "escriptorium", "postgres"):
            assert storage.run(f"runuser -u {account} -- ls {COPIES}").rc != 0
            places = "/etc/media-backup /var/lib /srv/escriptorium-backups /proc/*/cmdline"
            assert storage.run(f"runuser -u {account} -- grep -rsl --file /tmp/pattern {places}").stdout == ""
    finally:
        storage.check_output("rm /tmp/pattern")


def test_a_unit_sees_the_media_and_no_secrets_of_others(storage: Any) -> None:
    """A link that is put in its way leads nowhere, though it may read whatever it sees."""
    properties = storage.check_output(
        "systemctl show media-backup@local.service --property=TemporaryFileSystem,BindReadOnlyPaths"
    )
    assert "/etc:ro" in properties
    folder = f"{MEDIA}/documents/strange"
    storage.check_output(f"runuser -u escriptorium -- mkdir -p {folder}")
    storage.check_output(f"runuser -u escriptorium -- ln -sfn /etc/escriptorium {folder}/folder")
    storage.check_output(f"runuser -u escriptorium -- ln -sfn /etc/shadow {folder}/file")
    try:
        storage.check_output("systemctl start media-backup@local.service")
        listed = storage.check_output("media-backup restic local -- ls latest /documents/strange")
        assert "/documents/strange/folder" in listed
        assert "env" not in listed
        storage.check_output("rm -rf /root/out && mkdir /root/out")
        read = "media-backup restic local -- dump latest /documents/strange/file"
        assert "root:" not in storage.run(read).stdout
    finally:
        storage.check_output(f"rm -r {folder}; rm -rf /root/out")
