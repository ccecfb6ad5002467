"""What follows from the inventory for connections between hosts, as group_vars derives it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

SITE = {"site_domain": "htr.example.org", "site_private_network": "10.10.0.0/24", "site_admin_email": "a@example.org"}
PROBE = """---
- name: Look at what is derived
  hosts: frontend:storage:replica
  gather_facts: false
  vars: {ansible_connection: local}
  tasks:
    - name: Write it down
      ansible.builtin.copy:
        content: >-
          {{ [backup_server_ssh_port, backup_repository_database_ssh_port, zfs_replica_source_ssh_port] | to_json }}
        dest: "FOLDER/{{ inventory_hostname }}.json"
        mode: "0600"
"""


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        (({}, {}), [22, 22, 22]),
        (({"ansible_port": 2222}, {"ansible_port": "2223"}), [2223, 2222, 2223]),
        # Reached through a gateway's port; among themselves hosts use 22.
        (({"ansible_port": 2201, "private_ssh_port": 22}, {"ansible_port": 2202}), [2202, 22, 2202]),
    ],
)
def test_hosts_reach_one_another_where_their_ssh_answers(
    ports: tuple[dict[str, Any], dict[str, Any]],
    expected: list[int],
    tmp_path: Path,
    root: Path,
    run_playbook: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Before: 22, whatever the inventory said, and the first backup failed after database and broker were there."""
    front, store = ports
    hosts = {
        "frontend": {"front": {"private_address": "10.10.0.10", **front}},
        "storage": {"store": {"private_address": "10.10.0.11", **store}},
        "replica": {"copy": {"private_address": "10.10.0.12"}},
        "compute": {"gpu1": {"private_address": "10.10.0.21"}},
    }
    groups = {group: {"hosts": members} for group, members in hosts.items()}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"vars": SITE, "children": groups}}))
    probe = tmp_path / "plays" / "probe.yml"
    probe.parent.mkdir()
    (probe.parent / "group_vars").symlink_to(root / "group_vars")
    probe.write_text(PROBE.replace("FOLDER", str(tmp_path)))
    result = run_playbook(tmp_path / "hosts.json", str(probe))
    assert result.returncode == 0, result.stdout
    for host in ("front", "store", "copy"):
        assert json.loads((tmp_path / f"{host}.json").read_text()) == expected
