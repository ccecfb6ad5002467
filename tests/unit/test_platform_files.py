"""Files of variables that Ansible reads or passes over, and where new secrets belong."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from module_utils.platform_files import (
    OWN_FILES,
    MissingFileError,
    check_files,
    check_secrets_place,
    inventory_folders,
    secrets_folder,
    site_file,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from module_utils.platform_problems import Problem

GROUPS = ("all", "ungrouped", "frontend", "storage", "compute")
HOSTS = ("front", "store", "gpu1")
HOSTS_FILE = """---
all:
  vars: {site_domain: htr.example.org, site_private_network: 10.10.0.0/24, site_admin_email: htr-admin@example.org}
  children:
    frontend: {hosts: {front: {ansible_host: 192.0.2.1, private_address: 10.10.0.10}}}
    storage: {hosts: {store: {ansible_host: 192.0.2.2, private_address: 10.10.0.11}}}
    compute: {hosts: {gpu1: {ansible_host: 192.0.2.3, private_address: 10.10.0.21}}}
"""


def make(folder: Path, *files: str) -> Path:
    """Make files below a folder; a name that ends with a slash is an empty folder."""
    for name in files:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("---\nx_a: 1\n")
    return folder


def problems(tmp_path: Path, *files: str, source: str = "site") -> list[Problem]:
    make(tmp_path / "repository", "group_vars/all/base.yml", "playbooks/")
    make(tmp_path, "site/hosts.yml", *files)
    return check_files([str(tmp_path / source)], GROUPS, HOSTS, tmp_path / "repository")


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, [problem.text() for problem in found]
    return found[0]


@pytest.mark.parametrize("source", ["site", "site/hosts.yml"])
def test_files_that_ansible_reads(tmp_path: Path, source: str) -> None:
    files = (
        "all/site.yml",
        "all/more/a.json",
        "all/plain",
        "all/old.bak",
        "all/README.md",
        "all/.hidden",
        "compute",
        "storage.yaml",
        "replica.yml",
        "frontend.yml~",
    )
    found = problems(tmp_path, *(f"site/group_vars/{name}" for name in files), "site/host_vars/gpu1.yml", source=source)
    assert found == []


@pytest.mark.parametrize(
    ("wins", "hidden"),
    [("all/site.yml", "all.yml"), ("all/", "all.yaml"), ("compute", "compute.yml"), ("compute.yml", "compute.json")],
)
def test_of_a_file_and_a_folder_ansible_reads_one(tmp_path: Path, wins: str, hidden: str) -> None:
    found = only(problems(tmp_path, f"site/group_vars/{wins}", f"site/group_vars/{hidden}"))
    assert found.variable.endswith(f"group_vars/{hidden}")
    assert f"{wins.split('/', maxsplit=1)[0]} beside it hides" in found.found


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("group_vars/comptue.yml", "did you mean 'compute'?"),
        ("group_vars/comptue/a.yml", "did you mean 'compute'?"),
        ("group_vars/compute.ymal", "did you mean 'compute.yml'?"),
        ("group_vars/all/site.yaml.yl", "did you mean 'site.yaml.yml'?"),
        ("group_vars/all/more.d/a.yml", "rename it to more"),
        ("group_vars/gpus.yml", "rename it, or take it out: there is no group 'gpus'"),
        ("host_vars/gpu-1.yml", "did you mean 'gpu1'?"),
        ("host_vars/compute.yml", "rename it, or take it out: there is no host 'compute'"),
    ],
)
def test_a_file_that_no_host_reads(tmp_path: Path, name: str, mend: str) -> None:
    assert only(problems(tmp_path, f"site/{name}")).mend == mend


def test_an_encrypted_file_that_no_host_reads(tmp_path: Path) -> None:
    make(tmp_path, "site/group_vars/all/secrets.vault")
    (tmp_path / "site/group_vars/all/secrets.vault").write_text("$ANSIBLE_VAULT;1.1;AES256\n00\n")
    assert only(problems(tmp_path)).mend == "did you mean 'secrets.yml'?"


@pytest.mark.parametrize(
    ("source", "place"),
    [("site", "site/part/group_vars"), ("site/part/hosts.yml", "site/group_vars"), ("site", "group_vars")],
)
def test_variables_that_lie_above_or_below(tmp_path: Path, source: str, place: str) -> None:
    make(tmp_path, "site/part/hosts.yml", f"{place}/all/site.yml")
    found = only(problems(tmp_path, source=source))
    assert found.variable == str(tmp_path / place)
    assert found.found == "variables that no host reads"


@pytest.mark.parametrize(
    "name",
    ["group_vars/compute.yml", "group_vars/all/mine.yml", "group_vars/all/a/b.yml", "host_vars/gpu1.yml"],
)
def test_variables_among_the_repositorys_own(tmp_path: Path, name: str) -> None:
    make(tmp_path / "repository", name)
    found = only(problems(tmp_path))
    assert "which win over those of every site" in found.found
    assert found.mend.startswith("move it to the folder of your site, e.g. inventories/mysite/")


def test_an_inventory_among_the_repositorys_own(tmp_path: Path) -> None:
    make(tmp_path, "repository/hosts.yml")
    assert "among the repository's own" in only(problems(tmp_path, source="repository/hosts.yml")).found


def test_the_repositorys_own_files_are_all_named(root: Path) -> None:
    assert {path.name for path in (root / "group_vars/all").iterdir()} == OWN_FILES
    assert [path.name for path in (root / "group_vars").iterdir()] == ["all"]


def test_secrets_lie_where_every_host_reads_them(tmp_path: Path) -> None:
    make(tmp_path, "a/hosts.yml", "a/part/hosts.yml", "b/hosts.yml")
    a, b = str(tmp_path / "a"), str(tmp_path / "b/hosts.yml")
    assert inventory_folders(["one,two", a, b]) == [tmp_path / "a", tmp_path / "b"]
    assert secrets_folder([a, b], str(tmp_path / "b")) == tmp_path / "b"
    # What Ansible calls the folder of a host's inventory is not where it reads variables.
    assert secrets_folder([a], str(tmp_path / "a/part")) == tmp_path / "a"
    assert secrets_folder(["one,two,"]) is None


def test_a_site_that_is_a_list_of_hosts_has_no_file() -> None:
    given = {"ansible_inventory_sources": ["one,two,"]}
    assert site_file("server.key", given, None, needed=False) == ""
    assert site_file("server.key", given | {"ansible_check_mode": True}, None) is None
    with pytest.raises(MissingFileError, match=r"^server\.key is not there: .* makes it, as site\.yml does$"):
        site_file("server.key", given, None)


@pytest.mark.parametrize("name", ["all.yml", "all.yaml", "all.json", "all"])
def test_secrets_hide_nothing(tmp_path: Path, name: str) -> None:
    make(tmp_path, f"site/group_vars/{name}")
    assert only(check_secrets_place(tmp_path / "site", tmp_path)).variable == f"site/group_vars/{name}"


def test_secrets_beside_others_are_fine(tmp_path: Path) -> None:
    make(tmp_path, "site/group_vars/all/site.yml")
    assert check_secrets_place(tmp_path / "site", tmp_path) == []


def test_playbooks_refuse_before_anything_is_written(
    tmp_path: Path, run_playbook: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    site = make(tmp_path, "site/group_vars/all.yml") / "site"
    (site / "hosts.yml").write_text(HOSTS_FILE)
    for playbook in ("preflight.yml", "generate-secrets.yml"):
        result = run_playbook(site, playbook, "-e", "preflight_secrets=generated")
        assert result.returncode == 2, result.stdout
        assert "all.yml: found a file that the secrets in group_vars/all/ would hide" in result.stdout
    assert [path.name for path in (site / "group_vars").iterdir()] == ["all.yml"]


def test_no_second_set_of_secrets(
    tmp_path: Path, run_playbook: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Before: written to site/part/group_vars, where nobody reads them, and anew with each run."""
    sites = make(tmp_path, "site/part/hosts.yml") / "site"
    (sites / "part/hosts.yml").write_text(HOSTS_FILE)
    first = run_playbook(sites, "generate-secrets.yml")
    assert first.returncode == 0, first.stdout
    written = sites / "group_vars/all/secrets.yml"
    before = yaml.safe_load(written.read_text())
    second = run_playbook(sites, "generate-secrets.yml")
    assert "changed=1" not in second.stdout
    assert yaml.safe_load(written.read_text()) == before

    shutil.move(sites / "group_vars", sites / "part/group_vars")
    third = run_playbook(sites, "generate-secrets.yml")
    assert third.returncode == 2
    assert "variables that no host reads" in third.stdout
    assert not written.exists()
