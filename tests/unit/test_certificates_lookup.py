"""What group_vars/all gets of the site's own authority: a file, nothing, or an end of the run that says what helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ansible.parsing.vault import VaultLib, VaultSecret

from module_utils.platform_secrets import CERTIFICATES

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

RunPlaybook = Callable[..., "subprocess.CompletedProcess[str]"]

PROBE = """---
- name: Show a file of the authority
  hosts: all
  gather_facts: false
  vars: {ansible_connection: local}
  tasks:
    - name: Show it
      ansible.builtin.debug:
        msg: "<{{ lookup('certificates', 'server.key', needed=wanted) }}>"
"""


def look(tmp_path: Path, run_playbook: RunPlaybook, wanted: str, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "hosts.yml").write_text("all: {hosts: {one: {}}}\n")
    (tmp_path / "probe.yml").write_text(PROBE.replace("wanted", wanted))
    return run_playbook(tmp_path / "site", str(tmp_path / "probe.yml"), *words)


def test_a_missing_one_that_is_needed_ends_the_run(tmp_path: Path, run_playbook: RunPlaybook) -> None:
    result = look(tmp_path, run_playbook, "true")
    assert result.returncode == 2
    assert "server.key is not there: ansible-playbook playbooks/generate-secrets.yml makes it" in " ".join(
        result.stdout.split()
    )


def test_a_missing_one_is_empty_where_it_is_not_needed(tmp_path: Path, run_playbook: RunPlaybook) -> None:
    assert "<>" in look(tmp_path, run_playbook, "false").stdout


def test_a_dry_run_goes_on_without_it(tmp_path: Path, run_playbook: RunPlaybook) -> None:
    result = look(tmp_path, run_playbook, "true", "--check")
    assert result.returncode == 0, result.stdout
    assert "a run without --check makes it" in result.stdout


def test_an_encrypted_one_is_read(tmp_path: Path, run_playbook: RunPlaybook) -> None:
    password = tmp_path / "password"
    password.write_text("unlock\n")
    file = tmp_path / "site" / CERTIFICATES / "server.key"
    file.parent.mkdir(parents=True)
    file.write_bytes(VaultLib([("default", VaultSecret(b"unlock"))]).encrypt("a key"))
    result = look(tmp_path, run_playbook, "true", "--vault-password-file", str(password))
    assert "<a key>" in result.stdout
