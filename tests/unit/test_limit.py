"""Playbooks that need several hosts refuse a run that leaves out some, and end where one of them cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

RunPlaybook = Callable[..., "subprocess.CompletedProcess[str]"]

GENERATED = ("-e", "preflight_secrets=generated")
INVENTORY = """
all:
  vars: {site_domain: htr.example.org, site_private_network: 10.10.0.0/16, site_admin_email: htr@example.org}
  children:
    frontend: {hosts: {front: {private_address: 10.10.0.1}}}
    storage: {hosts: {store: {private_address: 10.10.0.2}}}
    compute:
      hosts:
        node1: {private_address: 10.10.0.3}
        node2: {private_address: 10.10.0.4, compute_state: drained}
        node3: {private_address: 10.10.0.5, compute_state: absent}
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yml"
    path.write_text(INVENTORY)
    return path


@pytest.fixture
def refused(inventory: Path, run_playbook: RunPlaybook, tmp_path: Path) -> Callable[..., str]:
    """Run a playbook that is refused before any host is asked, and return its words in one line."""

    def run(playbook: str, *arguments: str) -> str:
        result = run_playbook(inventory, playbook, *arguments)
        assert result.returncode == 2, result.stdout
        assert not (tmp_path / "contacted").exists()
        return " ".join(result.stdout.split())

    return run


@pytest.mark.parametrize(
    ("playbook", "limit", "missing"),
    [
        ("restore.yml", "front", "node1, node2, store"),
        ("rebuild.yml", "front", "node1, node2, store"),
        ("restore.yml", "front:store", "node1, node2"),
        ("restore.yml", "node3", "front, node1, node2, store"),
        ("roll-back.yml", "front:node1", "node2, store"),
        ("move-tree.yml", "front:store", "node1, node2"),
        ("upgrade.yml", "front:node1:node2", "store"),
        ("back-up.yml", "front", "store"),
        ("drill-restore.yml", "store", "front"),
        ("recover.yml", "store", "front"),
        ("reclaim-space.yml", "front", "store"),
        ("remove-compute.yml", "node3", "front, store"),
    ],
)
def test_a_run_that_leaves_out_hosts_is_refused(
    playbook: str, limit: str, missing: str, refused: Callable[..., str]
) -> None:
    shown = refused(playbook, "--limit", limit, *GENERATED)
    assert f"--limit leaves out {missing}. Repeat it without --limit." in shown


@pytest.mark.parametrize("limit", ["front:store:node1:node2", "all:!node3", "all"])
def test_a_run_with_all_of_its_hosts_goes_on(
    inventory: Path, limit: str, run_playbook: RunPlaybook, tmp_path: Path
) -> None:
    result = run_playbook(inventory, "restore.yml", "--limit", limit, *GENERATED)
    assert "--limit leaves out" not in result.stdout
    assert (tmp_path / "contacted").exists()


@pytest.mark.parametrize("playbook", ["restore.yml", "roll-back.yml", "upgrade.yml"])
def test_no_other_host_is_changed_where_one_cannot_be_reached(
    inventory: Path, playbook: str, run_playbook: RunPlaybook, tmp_path: Path
) -> None:
    result = run_playbook(inventory, playbook, *GENERATED)
    assert result.returncode != 0
    asked = {word for line in (tmp_path / "contacted").read_text().splitlines() for word in line.split()}
    assert asked & {"front", "store", "node1", "node2"} == {"front"}


def test_a_play_that_ends_at_any_error_ends_at_an_unreachable_host_too(root: Path) -> None:
    """Ansible counts such a host as failed and as unreachable, compares the sum with its hosts, and goes on."""
    for path in sorted((root / "playbooks").glob("*.yml")):
        for play in yaml.safe_load(path.read_text()):
            if play.get("any_errors_fatal") and play.get("vars", {}).get("ansible_connection") != "local":
                assert play.get("max_fail_percentage") == 0, f"{path.name}: {play['name']}"


@pytest.mark.parametrize("playbook", ["drain-compute.yml", "resume-compute.yml"])
@pytest.mark.parametrize(
    ("host", "limit", "refusal"),
    [
        ("store", "store", "store is no compute host"),
        ("node1", "node2", "--limit leaves out node1"),
    ],
)
def test_a_limit_switches_off_no_refusal(
    playbook: str, host: str, limit: str, refusal: str, refused: Callable[..., str]
) -> None:
    assert refusal in refused(playbook, "-e", f"host={host}", "--limit", limit, *GENERATED)
