"""Every wrong inventory of tests/inventories gives its messages and exit status 2, and no host is contacted."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

RunPlaybook = Callable[..., "subprocess.CompletedProcess[str]"]

EXAMPLES = Path(__file__).resolve().parents[1] / "inventories"
CASES = sorted(path.parent.name for path in EXAMPLES.glob("*/expected.txt"))
SITES = ("cremma", "demo", "single")
HOSTS = 100
LIMIT_S = 5.0


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()] if path.is_file() else []


def test_there_are_enough_examples() -> None:
    assert len(CASES) >= 10
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()) == CASES


@pytest.mark.parametrize("case", CASES)
def test_wrong_inventory_is_refused(case: str, run_playbook: RunPlaybook, tmp_path: Path) -> None:
    result = run_playbook(EXAMPLES / case / "hosts.yml", "preflight.yml")
    output = result.stdout + result.stderr
    assert result.returncode == 2, output
    for fragment in lines(EXAMPLES / case / "expected.txt"):
        assert fragment in output
    for secret in lines(EXAMPLES / case / "hidden.txt"):
        assert secret not in output
    assert not (tmp_path / "contacted").exists()


def test_ansible_that_has_not_read_its_settings_is_told(ansible_playbook: str, root: Path, tmp_path: Path) -> None:
    """As where everybody may write to the folder, or from another one. Before: "couldn't resolve module/action"."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    result = subprocess.run(
        [ansible_playbook, "-i", str(root / "inventories/single"), str(root / "playbooks/preflight.yml")],
        cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path), "ANSIBLE_HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"export ANSIBLE_CONFIG={root}/ansible.cfg" in " ".join(result.stdout.split())


def test_limit_does_not_switch_preflight_off(run_playbook: RunPlaybook) -> None:
    result = run_playbook(EXAMPLES / "network_too_wide" / "hosts.yml", "preflight.yml", "--limit", "node3")
    assert result.returncode == 2
    assert "wanted a prefix length from 8" in result.stdout


def test_refusal_stops_the_whole_site(start_playbook: RunPlaybook, tmp_path: Path) -> None:
    result = start_playbook(EXAMPLES / "network_too_wide" / "hosts.yml", "../site.yml")
    assert result.returncode == 2, result.stdout
    assert "PLAY [Make the secrets" not in result.stdout
    assert not (tmp_path / "contacted").exists()


@pytest.mark.parametrize("start", [False, True], ids=["warm", "anew"])
def test_the_tripwire_records_a_contact(
    start: bool, run_playbook: RunPlaybook, start_playbook: RunPlaybook, root: Path, tmp_path: Path
) -> None:
    """Proof that the tests above would notice a connection."""
    result = (start_playbook if start else run_playbook)(root / "inventories/cremma", "check-facts.yml")
    assert "unreachable=1" in result.stdout
    assert "cremma-frontend" in (tmp_path / "contacted").read_text()


@pytest.mark.parametrize("site", SITES)
def test_sites_of_the_repository_are_sound(site: str, run_playbook: RunPlaybook, root: Path, tmp_path: Path) -> None:
    result = run_playbook(root / "inventories" / site, "preflight.yml", "-e", "preflight_secrets=generated")
    assert result.returncode == 0, result.stdout
    assert not (tmp_path / "contacted").exists()


def test_variables_of_ansibles_own_plugins_are_known(run_playbook: RunPlaybook, root: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yml").write_text(
        """---
all:
  vars:
    ansible_become_pass: "{{ lookup('ansible.builtin.env', 'NO_SUCH_NAME') }}"
    ansible_private_key_file: ~/.ssh/id_htr
    ansible_host_key_checking: false
    ansible_scp_extra_args: -O
    ansible_su_pass: not-shown
    ansible_docker_extra_args: --tls
    ansible_lxd_host: of a collection
    ansible_perl_interpreter: /usr/bin/perl
"""
    )
    arguments = ("-i", str(tmp_path / "more.yml"), "-e", "preflight_secrets=generated", "-e", "ansible_become_pass=x")
    result = run_playbook(root / "inventories/cremma", "preflight.yml", *arguments)
    assert result.returncode == 0, result.stdout


def test_pool_at_rest_is_sound_and_said(run_playbook: RunPlaybook, root: Path, tmp_path: Path) -> None:
    rest = tmp_path / "rest.yml"
    rest.write_text("{compute: {vars: {compute_state: drained}}}", encoding="utf-8")
    arguments = ("-i", str(rest), "-e", "preflight_secrets=generated")
    result = run_playbook(root / "inventories/cremma", "preflight.yml", *arguments)
    assert result.returncode == 0, result.stdout
    assert "Jobs of the queue gpu wait: each host that takes them is drained" in result.stdout + result.stderr


@pytest.mark.parametrize("wrong", [False, True])
def test_hundred_hosts_are_checked_in_time(wrong: bool, start_playbook: RunPlaybook, tmp_path: Path) -> None:
    network = "10.99.1" if wrong else "10.10.1"
    compute = "\n".join(
        f"        node{number}: {{private_address: {network}.{number}, x_rack: '{{{{ x_room }}}}'}}"
        for number in range(1, HOSTS - 1)
    )
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(
        f"""---
all:
  vars:
    site_domain: htr.example.org
    site_private_network: 10.10.0.0/16
    site_admin_email: htr-admin@example.org
    x_room: basement
    ansible_host: "{{{{ private_address }}}}"
  children:
    frontend: {{hosts: {{frontend: {{private_address: 10.10.0.1}}}}}}
    storage: {{hosts: {{storage: {{private_address: 10.10.0.2}}}}}}
    compute:
      hosts:
{compute}
""",
        encoding="utf-8",
    )
    start = time.monotonic()
    result = start_playbook(inventory, "preflight.yml", "-v", "-e", "preflight_secrets=generated")
    elapsed = time.monotonic() - start
    assert result.returncode == (2 if wrong else 0), result.stdout
    assert (f"has {HOSTS - 2} problems" if wrong else f"sound: {HOSTS} hosts") in result.stdout
    assert elapsed < LIMIT_S, f"{elapsed:.1f} s"
