"""A way back as roll-back.yml takes it, on this computer: its task files, with stand-ins for systemd and releases."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.unit.warm_ansible import plain

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.warm_ansible import WarmAnsible

SYSTEMCTL = """#!/bin/sh
cd "$STATE"
if [ "$1" = show ]; then echo 7; elif [ -e asleep ]; then rm asleep; else touch asleep; fi
"""
#: Releases that see and change the migrations of one database; `fails` counts down the commands that fail half-way.
RUN_AS_SERVICE = """#!/usr/bin/env python3
import json, os, sys
path = os.environ["STATE"] + "/database.json"
database = json.load(open(path))
new, command, words = os.environ["ESCRIPTORIUM_RELEASE"].endswith("new-2"), sys.argv[3], sys.argv[4:]
if command == "migrate_site":
    wanted = [] if words else ["core.5", "core.6"]
    half = database["fails"] > 0
    database["fails"] -= 1
    database["applied"] = ["core.5"] if half else wanted
    json.dump(database, open(path, "w"))
    sys.exit("the disk is full" if half else 0)
missing = [{"name": name} for name in ("core.5", "core.6") if new and name not in database["applied"]]
answer = {"unknown": [] if new else database["applied"], "missing": missing, "targets": {"core": "4"}}
answer |= {"why": ["core.rank"], "applied": database["applied"], "decision": database["decision"]}
print(json.dumps(answer))
"""
PLAY = """
- hosts: front
  gather_facts: false
  vars: {topology_application_hosts: [front], pause_jobs: "yes"}
  tasks:
    - include_tasks: tasks/roll_back_check.yml
    - include_tasks: tasks/migrate.yml
      when: roll_back_found.migrates
      vars:
        migrate_steps: roll_back_migrate.yml
        migrate_pauses: true
        migrate_release: "{{ roll_back_found.current }}"
        migrate_other: >-
          {{ roll_back_found.from if roll_back_found.current == roll_back_found.to else roll_back_found.to }}
    - debug: {msg: "RESULT {{ [roll_back_found.decision, migrate_failed, migrate_waits] | to_json }}"}
"""
PATHS = ("/opt/escriptorium", "/run/escriptorium", "/usr/local/lib/escriptorium")


class Frontend:
    """A site that went from old-1 to new-2, whose files lie in a folder."""

    def __init__(self, root: Path, folder: Path, warm: WarmAnsible) -> None:
        self.root, self.folder, self.warm = root, folder, warm
        for name in ("tasks", "files"):
            shutil.copytree(root / "playbooks" / name, folder / name)
        for path in [*(folder / "tasks").iterdir(), *(folder / "files").iterdir()]:
            text = path.read_text()
            for place in PATHS:
                text = text.replace(place, f"{folder}{place}")
            path.write_text(text)
        self.write("play.yml", PLAY)
        self.write("bin/systemctl", SYSTEMCTL)
        self.write("bin/ss", "#!/bin/sh\n")
        self.write("usr/local/lib/escriptorium/run-as-service", RUN_AS_SERVICE)
        (folder / "run/escriptorium").mkdir(parents=True)
        for release in ("old-1", "new-2"):
            self.write(f"opt/escriptorium/releases/{release}/release.json", json.dumps({"version": release}))
        record = {"from": "old-1", "to": "new-2", "moment": "2026-11-01T10:00:00Z"}
        self.write("opt/escriptorium/upgrade.json", json.dumps(record))
        self.runs("new-2")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def runs(self, release: str) -> None:
        link = self.folder / "opt/escriptorium/current"
        link.unlink(missing_ok=True)
        link.symlink_to(f"releases/{release}")

    def database(self, *applied: str, fails: int = 0, decision: str = "back") -> None:
        self.write("database.json", json.dumps({"applied": applied, "fails": fails, "decision": decision}))

    @property
    def applied(self) -> list[str]:
        return list(json.loads((self.folder / "database.json").read_text())["applied"])

    @property
    def waits(self) -> bool:
        return (self.folder / "asleep").exists()

    def go_back(self) -> tuple[str, str, bool]:
        environment = plain(os.environ)
        environment |= {"ANSIBLE_CONFIG": str(self.root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment |= {f"ANSIBLE_{name}": str(self.folder / name.lower()) for name in ("HOME", "REMOTE_TEMP")}
        environment |= {"STATE": str(self.folder), "PATH": f"{self.folder}/bin:{environment['PATH']}"}
        hosts = yaml.safe_dump({"all": {"hosts": {"front": {"ansible_connection": "local"}}}})
        self.write("hosts.yml", hosts)
        done = self.warm.run(
            ["-i", str(self.folder / "hosts.yml"), str(self.folder / "play.yml")], self.root, environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        result = " ".join(done.stdout.split()).partition("RESULT ")[2].replace("''", "'")
        found: Any = json.JSONDecoder().raw_decode(result)[0]
        return found[0], found[1], found[2]


@pytest.fixture
def frontend(root: Path, tmp_path: Path, warm_ansible: WarmAnsible) -> Frontend:
    return Frontend(root, tmp_path, warm_ansible)


@pytest.mark.parametrize("current", ["new-2", "old-1"])
def test_migrations_are_taken_back_while_requests_wait(frontend: Frontend, current: str) -> None:
    frontend.database("core.5", "core.6")
    frontend.runs(current)
    assert frontend.go_back() == ("back", "", False)
    assert (frontend.applied, frontend.waits) == ([], True)
    assert frontend.go_back()[0] == "nothing"


def test_the_release_that_runs_gets_back_what_it_needs(frontend: Frontend) -> None:
    frontend.database("core.5", "core.6", fails=1)
    _, failed, waits = frontend.go_back()
    assert "the disk is full" in failed
    assert failed.endswith("Release new-2 goes on.")
    assert (waits, frontend.applied, frontend.waits) == (False, ["core.5", "core.6"], False)


def test_requests_wait_where_the_release_that_runs_cannot_go_on(frontend: Frontend) -> None:
    frontend.database("core.5", "core.6", fails=2)
    _, failed, waits = frontend.go_back()
    assert "Release new-2 cannot run on what is left, and requests and jobs wait" in failed
    assert (waits, frontend.applied, frontend.waits) == (True, ["core.5"], True)
    assert frontend.go_back() == ("back", "", False), "the repeated run finishes it"
    assert (frontend.applied, frontend.waits) == ([], True), "and has not woken up the requests before"
