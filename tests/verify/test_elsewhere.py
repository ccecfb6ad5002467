"""Frontend and storage host are lost: all comes back on new ones, from the copy on another machine."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support import REQUEST_TIMEOUT, Database, Inventory, Site, play, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.scenario("backup"), pytest.mark.fault]

MEDIA = "/srv/escriptorium/media"
NOTE = "/var/lib/media-backup-reports/rebuild.json"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
LOCAL = {"name": "local", "type": "directory", "path": "/srv/escriptorium-backups/media"}
ARCHIVED = "SELECT count(*) AS left FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"


class Elsewhere:
    """Another machine that takes copies by sftp, with nothing of the platform on it."""

    def __init__(self, inventory: Inventory) -> None:
        storage = inventory.hosts[inventory.groups["storage"][0]]
        self.container = f"{storage['node_cluster']}-elsewhere"
        network = ipaddress.ip_network(storage["node_network_subnet"])
        self.address = str(network[200])
        self.remove()
        place = ["--network", storage["node_network_name"], "--ip", self.address, "--name", self.container]
        program = "ssh-keygen -A && mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e"
        command = ["docker", "run", "--detach", *place, "--entrypoint", "sh", storage["node_image"], "-c", program]
        subprocess.run(command, check=True, capture_output=True)
        self.run("useradd --create-home --shell /bin/sh htr && install -d -o htr -m 700 /home/htr/.ssh /backups")
        key = wait_for("its host key", lambda: self.run(f"[ ! -e {HOST_KEY} ] || cat {HOST_KEY}") or None, timeout=30)
        self.target = {
            "name": "elsewhere",
            "type": "sftp",
            "host": self.address,
            "user": "htr",
            "path": "/backups/site",
            "host_key": " ".join(key.split()[:2]),
        }

    def run(self, command: str) -> str:
        words = ["docker", "exec", self.container, "sh", "-c", command]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def let_in(self, key: str) -> None:
        self.run(f"echo 'restrict {key}' >/home/htr/.ssh/authorized_keys && chown htr /home/htr/.ssh/authorized_keys")

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", "--volumes", self.container], check=True, capture_output=True)


@pytest.fixture
def elsewhere(inventory: Inventory) -> Iterator[Elsewhere]:
    machine = Elsewhere(inventory)
    yield machine
    machine.remove()


@dataclass(frozen=True)
class Work:
    """What users have made: files by their sums, projects, lines, accounts."""

    files: dict[str, str]
    projects: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    accounts: list[dict[str, Any]]


def work_of(storage: Any, database: Database) -> Work:
    return Work(
        sums_of_media(storage),
        database.rows("SELECT id, name FROM core_project ORDER BY id"),
        database.rows("SELECT id, document_part_id, baseline FROM core_line ORDER BY id"),
        database.rows("SELECT username, password FROM users_user ORDER BY id"),
    )


def sums_of_media(storage: Any) -> dict[str, str]:
    """Return the SHA-256 of each file of the media, but for thumbnails, which are made again."""
    found = storage.check_output(f"cd {MEDIA} && find . -type f ! -name '*.*x*_q*' -exec sha256sum {{}} +")
    return {line.split("  ", 1)[1]: line.split()[0] for line in found.splitlines()}


def hosts(inventory: Inventory) -> tuple[Any, Any]:
    """Return frontend and storage host as they are now."""
    return inventory.connect(inventory.frontend), inventory.connect(inventory.groups["storage"][0])


def burn(inventory: Inventory) -> None:
    """Take both hosts away with all that is on them, and put new ones in their places."""
    for name in (inventory.frontend, inventory.groups["storage"][0]):
        command = ["docker", "rm", "--force", "--volumes", inventory.container(name)]
        subprocess.run(command, check=True, capture_output=True)
    volume = f"{inventory.hosts[inventory.frontend]['node_cluster']}-shared"
    subprocess.run(["docker", "volume", "rm", volume], check=True, capture_output=True)
    play(inventory, "molecule/resources/create.yml")


def copy_elsewhere(frontend: Any, storage: Any, database: Database) -> None:
    """Have the newest changes archived, copied and tried."""
    frontend.check_output("runuser -u postgres -- psql -qc 'SELECT pg_switch_wal()'")
    wait_for("the log to be archived", lambda: database.rows(ARCHIVED)[0]["left"] == 0, timeout=60)
    for verb in ("backup", "drill"):
        storage.check_output(f"systemctl start media-{verb}@elsewhere.service")
    status = storage.check_output("media-backup status")
    assert re.search("^database at elsewhere: copied .*; proved [0-9]", status, re.MULTILINE), status
    assert "database at local" not in status, "beside itself it would help nobody"


def test_both_hosts_come_back_from_the_copy_elsewhere(
    inventory: Inventory, site: Site, database: Database, elsewhere: Elsewhere
) -> None:
    """New hardware, with nothing left but the inventory, the secrets, and one target."""
    frontend, storage = hosts(inventory)
    given = ("--extra-vars", json.dumps({"backup_targets": [LOCAL, elsewhere.target]}))
    rebuild = ("playbooks/rebuild.yml", *given, "-e", "rebuild_from=elsewhere")
    play(inventory, "playbooks/deploy-backup.yml", *given)
    elsewhere.let_in(storage.check_output("cat /etc/media-backup/elsewhere.key.pub"))
    document, parts = site.api.document("burns", pages=2)
    site.api.segment(document, parts)
    database.finished(document, "core.tasks.segment")
    site.api.train(document, parts[:1], "model that burns")
    database.finished(document, "core.tasks.train")
    play(inventory, "playbooks/back-up.yml", *given)
    site.api.post("projects/", {"name": "last before the fire"})
    copy_elsewhere(frontend, storage, database)
    before = work_of(storage, database)
    assert before.files
    assert before.lines

    refused = play(inventory, *rebuild, check=False)
    said = " ".join(refused.output.split())
    assert "has the backup /srv/escriptorium-backups/pgbackrest/backup/escriptorium/" in said
    assert "and the file /srv/escriptorium/media/" in said
    assert refused.changed == []

    burn(inventory)
    stopped = play(inventory, *rebuild, check=False)
    said = " ".join(stopped.output.split())
    found = re.search(r"in \.ssh/authorized_keys: restrict (ssh-ed25519 \S+ \S+) Then repeat the same command", said)
    assert found, stopped.output[-4000:]
    elsewhere.let_in(found[1])
    run = play(inventory, *rebuild)
    print(f"rebuild.yml {stopped.seconds:.0f} s up to the key, {run.seconds:.0f} s after it")
    print(run.output[run.output.rindex("Show sizes and times") :][:1500])

    site.meet()
    frontend, storage = hosts(inventory)
    there = Database(frontend)
    assert work_of(storage, there) == before
    # With the password that they had.
    assert site.api.get(f"documents/{document}/parts/{parts[0]}/")["pk"] == parts[0]
    image = there.rows(f"SELECT image FROM core_documentpart WHERE id = {parts[0]}")[0]["image"]
    page = site.api.session.get(f"{site.base}/media/{image}", timeout=REQUEST_TIMEOUT)
    assert hashlib.sha256(page.content).hexdigest() == before.files[f"./{image}"]
    assert storage.file(f"{MEDIA}/{image}").uid == 2000
    assert not storage.file(NOTE).exists
    assert "Nothing was changed" in " ".join(play(inventory, *rebuild, check=False).output.split())

    # The site goes on: jobs, backups, and copies there.
    site.api.segment(document, parts)
    there.finished(document, "core.tasks.segment")
    play(inventory, "playbooks/back-up.yml", *given)
    storage.check_output("systemctl start media-drill@elsewhere.service")
    play(inventory, "playbooks/deploy-backup.yml")
