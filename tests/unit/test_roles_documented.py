"""Roles say what they take: argument specification, defaults and README agree, and none knows an inventory group."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.platform_catalogue import read_yaml, role_defaults, role_folders, role_options
from module_utils.platform_variables import PLATFORM_GROUPS, RESERVED_GROUPS, contains_template

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ROLES = role_folders(ROOT)
each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)

FROM_KEYS = ("tasks_from", "vars_from", "defaults_from", "handlers_from")


def yaml_files(role: Path) -> list[Path]:
    return sorted(
        path for folder in ("tasks", "handlers", "defaults", "vars", "meta") for path in role.glob(f"{folder}/**/*.yml")
    )


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a value."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from nodes(part)
    elif isinstance(value, list):
        for part in value:
            yield from nodes(part)


def test_there_are_roles() -> None:
    assert ROLES


@each_role
def test_specification_equals_defaults(role: Path) -> None:
    options, defaults = role_options(role), role_defaults(role)
    assert options or not defaults, "meta/argument_specs.yml is missing"
    declared = {name: spec.get("default") for name, spec in options.items() if "default" in spec}
    assert declared == defaults
    without = [name for name, spec in options.items() if "default" not in spec and not spec.get("required")]
    assert without == [], "options that are neither required nor have a default"
    both = [name for name, spec in options.items() if "default" in spec and spec.get("required")]
    assert both == [], "required options with a default"


@each_role
def test_every_option_is_typed_and_described(role: Path) -> None:
    for name, spec in role_options(role).items():
        assert spec.get("type"), name
        assert spec.get("description"), name
        assert name.startswith(f"{role.name}_"), name
        if spec.get("choices") and not contains_template(spec.get("default")):
            assert spec.get("default") in spec["choices"] or spec.get("required"), name


@each_role
def test_every_default_has_a_comment(role: Path) -> None:
    path = role / "defaults" / "main.yml"
    if not path.is_file():
        return
    previous = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        name = re.match(r"([a-z_][a-z0-9_]*):", line)
        if name:
            assert previous.startswith("#"), f"{name[1]} has no comment above it"
        previous = line


@each_role
def test_every_list_and_mapping_has_an_example(role: Path) -> None:
    for name, spec in role_options(role).items():
        if spec["type"] in {"list", "dict"} and not spec.get("default"):
            assert "Example: " in str(spec["description"]), name


@each_role
def test_names_no_inventory_group(role: Path) -> None:
    words = "|".join((*PLATFORM_GROUPS, *RESERVED_GROUPS))
    group = re.compile(
        rf"\bgroups\s*[\[.]|\bgroups\s*\||\bgroup_names\b|query\(\s*'inventory_hostnames'|^\s*hosts:\s*['\"]?({words})\b",
        re.MULTILINE,
    )
    for path in [*yaml_files(role), *sorted(role.glob("templates/**/*.j2"))]:
        found = group.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(ROOT)}: {found[0] if found else ''}"


@each_role
def test_entry_points_are_named_without_extension(role: Path) -> None:
    for path in yaml_files(role):
        for node in nodes(read_yaml(path)):
            for key in FROM_KEYS:
                assert not str(node.get(key, "")).endswith((".yml", ".yaml")), f"{path.relative_to(ROOT)}: {node[key]}"


def test_defaults_and_readmes_are_current() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "role-files"), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_may_fail_says_why() -> None:
    files = [*(ROOT / "roles").glob("*/*/**/*.yml"), *(ROOT / "playbooks").rglob("*.yml")]
    lines = [(file, line) for file in files for line in file.read_text().splitlines() if "failed_when: false" in line]
    assert lines
    assert [(str(file), line) for file, line in lines if not re.search(r"failed_when: false # \S+", line)] == []
