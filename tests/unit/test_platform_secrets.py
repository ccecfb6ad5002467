"""Generated secrets: their shape, the file that holds them, and that given ones are left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from module_utils.platform_catalogue import load_catalogue
from module_utils.platform_inventory import check_inventory
from module_utils.platform_problems import Inventory
from module_utils.platform_secrets import (
    RELATIVE_PATH,
    SECRETS,
    Secret,
    SecretsError,
    generate,
    is_vault,
    make_secret,
    missing_secrets,
    render,
    write_private,
)
from module_utils.platform_site_variables import SITE_VARIABLES

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

RunPlaybook = Callable[..., "subprocess.CompletedProcess[str]"]

NAMES = [secret.name for secret in SECRETS]


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret.name)
def test_shape(secret: Secret) -> None:
    value = make_secret(secret)
    assert re.fullmatch(rf"[A-Za-z0-9]{{{secret.length}}}", value)
    assert value != make_secret(secret)


def test_lengths_are_as_promised() -> None:
    lengths = {secret.name: secret.length for secret in SECRETS}
    assert lengths.pop("secret_admin_password") == 20
    assert lengths.pop("secret_django_key") == 64
    assert all(length >= 40 for length in lengths.values())


def test_readable_secret_has_no_letters_that_look_alike() -> None:
    admin = next(secret for secret in SECRETS if secret.name == "secret_admin_password")
    assert not set(admin.alphabet) & set("0O1lI")


def test_catalogue_declares_the_same_secrets() -> None:
    assert [variable.name for variable in SITE_VARIABLES if variable.name.startswith("secret_")] == NAMES


def test_preflight_takes_what_is_generated(root: Path) -> None:
    values = {secret.name: make_secret(secret) for secret in SECRETS}
    problems = check_inventory(Inventory({"all": ("a",)}, {"a": values}), load_catalogue(root))
    assert not [problem for problem in problems if problem.variable.startswith("secret_")]


def test_missing_are_those_not_given() -> None:
    assert [secret.name for secret in missing_secrets(NAMES[1:])] == NAMES[:1]
    assert missing_secrets(NAMES) == ()


def test_new_file_is_private_and_explains_vault(tmp_path: Path) -> None:
    path = tmp_path / RELATIVE_PATH
    values = generate(path, [], write=True)
    assert list(values) == NAMES
    assert yaml.safe_load(path.read_text()) == values
    assert "ansible-vault encrypt" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secrets.yml"]


def test_given_values_and_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "secrets.yml"
    path.write_text("---\n# mine\nsecret_redis_password: given-by-hand")
    path.chmod(0o640)
    values = generate(path, ["secret_redis_password"], write=True)
    text = path.read_text()
    assert text.startswith("---\n# mine\nsecret_redis_password: given-by-hand\n")
    assert yaml.safe_load(text) == {"secret_redis_password": "given-by-hand", **values}
    assert path.stat().st_mode & 0o777 == 0o640


def test_nothing_missing_touches_nothing(tmp_path: Path) -> None:
    assert generate(tmp_path / "absent" / "secrets.yml", NAMES, write=True) == {}
    assert list(tmp_path.iterdir()) == []


def test_without_write_nothing_is_written(tmp_path: Path) -> None:
    assert set(generate(tmp_path / "secrets.yml", [], write=False)) == set(NAMES)
    assert list(tmp_path.iterdir()) == []


def test_encrypted_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "secrets.yml"
    path.write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    with pytest.raises(SecretsError, match=r"secret_redis_password.*ansible-vault edit"):
        generate(path, [], write=True)
    assert is_vault(path.read_text())


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "all").write_text("")
    with pytest.raises(SecretsError, match="cannot write"):
        write_private(tmp_path / "all" / "secrets.yml", "x")


def test_empty_file_gets_the_header() -> None:
    assert render("\n", {"secret_redis_password": "x"}, "here").startswith("---\n# Secrets of this site")


# --- the playbook -----------------------------------------------------------------------------------------------------

INVENTORY = """---
all:
  vars:
    ansible_host: 192.0.2.1
    secret_redis_password: givenByTheOperatorHimself1
    site_domain: htr.example.org
    site_private_network: 10.10.0.0/24
    site_admin_email: htr@example.org
  children:
    frontend: {hosts: {node1: {private_address: 10.10.0.1}}}
    storage: {hosts: {node1: {}}}
    compute: {hosts: {node2: {private_address: 10.10.0.2}}}
"""
# A later play of the same run that needs the new values on another host.
PROBE = """---
- name: Make secrets
  ansible.builtin.import_playbook: PLAYBOOK
- name: Use the secrets
  hosts: compute
  gather_facts: false
  vars: {ansible_connection: local}
  tasks:
    - name: Look at them
      ansible.builtin.assert:
        that:
          - secret_django_key | length == 64
          - secret_redis_password == 'givenByTheOperatorHimself1'
          - secret_admin_password == hostvars['node1'].secret_admin_password
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "hosts.yml").write_text(INVENTORY)
    return folder


def test_playbook_makes_secrets_once(site: Path, root: Path, tmp_path: Path, run_playbook: RunPlaybook) -> None:
    probe = tmp_path / "probe.yml"
    probe.write_text(PROBE.replace("PLAYBOOK", str(root / "playbooks/generate-secrets.yml")))
    path = site / RELATIVE_PATH

    trial = run_playbook(site, str(probe), "--check")
    assert trial.returncode == 0, trial.stdout + trial.stderr
    assert not path.exists()

    first = run_playbook(site, str(probe), "-vvv")
    assert first.returncode == 0, first.stdout + first.stderr
    values = yaml.safe_load(path.read_text())
    assert set(values) == set(NAMES) - {"secret_redis_password"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert not [name for name, value in values.items() if value in first.stdout + first.stderr]
    assert f"to {path}. Encrypt it" in " ".join(first.stdout.split())

    before = path.read_bytes()
    second = run_playbook(site, str(probe))
    assert second.returncode == 0, second.stdout + second.stderr
    assert "changed=1" not in second.stdout
    assert path.read_bytes() == before
    assert not (tmp_path / "contacted").exists()


def test_playbook_refuses_an_encrypted_file(site: Path, run_playbook: RunPlaybook, tmp_path: Path) -> None:
    # Encrypted with a password that this run has, and holding one secret only.
    password = tmp_path / "password"
    password.write_text("unlock\n")
    (site / RELATIVE_PATH).parent.mkdir(parents=True)
    vault = VaultLib([("default", VaultSecret(b"unlock"))])
    (site / RELATIVE_PATH).write_bytes(vault.encrypt("secret_admin_password: givenInTheVault12\n"))
    result = run_playbook(site, "generate-secrets.yml", "--vault-password-file", str(password))
    assert result.returncode == 2, result.stdout
    assert "is encrypted and these secrets are missing: secret_postgresql_password, secret_django_key" in " ".join(
        result.stdout.split()
    )
    assert (site / RELATIVE_PATH).read_bytes().startswith(b"$ANSIBLE_VAULT;")
