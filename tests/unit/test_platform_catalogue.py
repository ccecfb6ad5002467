"""The catalogue of variables, read from the repository and from small trees of roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from module_utils.platform_catalogue import CatalogueError, load_catalogue, plugin_variables, read_yaml
from module_utils.platform_site_variables import SITE_VARIABLES

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(
        tmp_path / "roles/web/meta/argument_specs.yml",
        """---
argument_specs:
  main:
    options:
      web_port: {type: int, default: 80, description: [Port., Two.]}
      web_name: {type: str, required: true}
      web_password: {type: str, no_log: true}
      web_home: {type: path, default: "{{ web_name }}"}
      web_users: {type: list, elements: dict, options: {name: {type: str, required: true}}}
""",
    )
    write(tmp_path / "roles/web/defaults/main.yml", "---\nweb_port: 80\nweb_extra: [1]\n")
    write(
        tmp_path / "group_vars/all/derived.yml",
        '---\nansible_user: root\nweb_name: "{{ topology_name }}"\ntopology_name: "{{ site_domain }}"\n',
    )
    write(tmp_path / "playbooks/a.yml", "---\n- hosts: all\n  roles:\n    - role: web\n      vars: {web_password: x}\n")
    return tmp_path


def test_catalogue_of_a_small_tree(tree: Path) -> None:
    catalogue = load_catalogue(tree)
    port = catalogue.variables["web_port"]
    assert (port.type, port.default, port.has_default, port.meaning, port.origin) == (
        "int",
        80,
        True,
        "Port. Two.",
        "role web",
    )
    assert catalogue.variables["web_extra"].type == "raw"
    assert not catalogue.variables["web_home"].has_default
    assert catalogue.variables["web_users"].options["name"].required
    assert catalogue.derived == {
        "web_name": "group_vars/all/derived.yml",
        "topology_name": "group_vars/all/derived.yml",
    }
    assert "web_name" not in catalogue.variables
    assert catalogue.sources["web_name"] == ("site_domain",)
    assert catalogue.set_by_playbooks == {"web_password"}
    assert catalogue.default("web_port") == 80
    assert catalogue.default("web_name") is None


def test_known_and_secret_names(tree: Path) -> None:
    catalogue = load_catalogue(tree)
    assert all(map(catalogue.is_known, ["site_domain", "web_port", "x_mine", "node_image", "ansible_port"]))
    assert not catalogue.is_known("web_prot")
    names = ["secret_x", "vault_x", "web_password", "escriptorium_email_password", "ansible_become_pass"]
    assert all(map(catalogue.is_secret, names))
    assert not catalogue.is_secret("web_port")


def test_roles_without_files_are_read_as_empty(tmp_path: Path) -> None:
    (tmp_path / "roles/bare").mkdir(parents=True)
    assert set(load_catalogue(tmp_path).variables) == {variable.name for variable in SITE_VARIABLES}


def test_broken_file_is_named(tree: Path) -> None:
    write(tree / "roles/web/defaults/main.yml", "a: [")
    with pytest.raises(CatalogueError, match=r"roles/web/defaults/main\.yml"):
        load_catalogue(tree)


def test_vault_values_are_opaque(tmp_path: Path) -> None:
    write(tmp_path / "a.yml", "a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n")
    assert read_yaml(tmp_path / "a.yml")["a"].startswith("$ANSIBLE_VAULT")


def test_names_that_plugins_declare(tmp_path: Path) -> None:
    (tmp_path / "become").mkdir()
    (tmp_path / "lookup").mkdir()
    (tmp_path / "become/su.py").write_text("vars:\n  - name: ansible_su_pass\n  - {name: 'ansible_become_pass'}\n")
    (tmp_path / "lookup/url.py").write_text("vars:\n  - name: ansible_lookup_url_agent\n")
    assert plugin_variables(tmp_path) == {"ansible_su_pass", "ansible_become_pass"}
    assert plugin_variables(tmp_path / "none") == frozenset()


def test_example_sites_name_known_variables_only(root: Path) -> None:
    catalogue = load_catalogue(root)
    for site in ("cremma", "single", "demo"):
        for path in (root / "inventories" / site / "group_vars").rglob("site.yml"):
            unknown = [name for name in read_yaml(path) or {} if not catalogue.is_known(name)]
            assert unknown == [], path
