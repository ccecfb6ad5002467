"""A run that leaves out hosts of the application brings the release that the frontend runs: plays on this computer."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.unit.warm_ansible import plain

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.warm_ansible import WarmAnsible

INVENTORY = """
all:
  vars: {ansible_connection: local, ansible_become: false, escriptorium_version: new, private_address: 10.0.0.1}
  children:
    frontend: {hosts: {front: {}}}
    storage: {hosts: {front: {}}}
    compute: {hosts: {node1: {}, node2: {}, node3: {compute_state: absent}}}
"""


class Site:
    """The first play of its own of deploy-application.yml, with the frontend's files in a folder."""

    def __init__(self, root: Path, folder: Path, warm: WarmAnsible) -> None:
        self.root, self.folder, self.warm = root, folder, warm
        play = yaml.safe_load((root / "playbooks/deploy-application.yml").read_text())[1]
        shown = "RELEASE {{ escriptorium_pinned_release | default('described') }} {{ escriptorium_version }}"
        play["tasks"].append({"name": "Show", "ansible.builtin.debug": {"msg": shown}})
        text = yaml.safe_dump([play], width=1000)
        for path in ("/opt/escriptorium", "/etc/escriptorium"):
            (folder / path[1:]).mkdir(parents=True)
            text = text.replace(path, f"{folder}{path}")
        (folder / "play.yml").write_text(text)
        (folder / "hosts.yml").write_text(INVENTORY)
        (folder / "group_vars").symlink_to(root / "group_vars")

    def runs(self, release: str, version: str) -> None:
        (self.folder / "opt/escriptorium/current").mkdir()
        description = json.dumps({"id": release, "version": version}, indent=4)
        (self.folder / "opt/escriptorium/current/release.json").write_text(f"{description}\n")

    def run(self, *arguments: str) -> str:
        environment = plain(os.environ)
        environment |= {"ANSIBLE_CONFIG": str(self.root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment |= {
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(self.folder / "remote"),
        }
        done = self.warm.run(
            ["-i", str(self.folder / "hosts.yml"), str(self.folder / "play.yml"), *arguments], self.root, environment
        )
        return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def site(root: Path, tmp_path: Path, warm_ansible: WarmAnsible) -> Site:
    return Site(root, tmp_path, warm_ansible)


@pytest.mark.parametrize("limit", ["node2", "front", "front:node1"])
def test_a_part_of_the_hosts_gets_the_release_that_runs(site: Site, limit: str) -> None:
    site.runs("old-1", "old")
    shown = site.run("--limit", limit)
    assert shown.count("RELEASE old-1 old") == len(limit.split(":")), shown
    assert "Release old-1 stays, because this run leaves out" in shown
    assert "described" not in shown


def test_all_hosts_get_the_release_of_the_inventory(site: Site) -> None:
    site.runs("old-1", "old")
    assert site.run("--limit", "front:node1:node2").count("RELEASE described new") == 3
    assert "no hosts matched" in site.run()


def test_the_first_hosts_of_a_site_get_the_release_of_the_inventory(site: Site) -> None:
    assert "RELEASE described new" in site.run("--limit", "front")


def test_a_site_that_names_no_version_goes_by_what_runs(site: Site) -> None:
    hosts = site.folder / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("escriptorium_version: new, ", ""))
    site.runs("old-1", "old")
    assert "RELEASE old-1 old" in site.run("--limit", "node2")


@pytest.mark.parametrize("reason", ["migration", "restore"])
def test_no_worker_starts_beside_a_migration_or_a_restore(site: Site, reason: str) -> None:
    site.runs("old-1", "old")
    (site.folder / "etc/escriptorium/drained").mkdir()
    (site.folder / "etc/escriptorium/drained" / reason).touch()
    shown = site.run("--limit", "node2")
    assert "a run that did so was broken off. Repeat that first: playbooks/upgrade.yml" in shown
    assert "RELEASE" not in shown
