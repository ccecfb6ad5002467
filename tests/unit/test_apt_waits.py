"""A fresh server is nearly always in its first upgrade: whatever starts apt waits for its lock."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from action_plugins.host_config import LOCK_TIMEOUT
from module_utils.platform_catalogue import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
#: Tasks of roles and playbooks, handlers included.
FILES = sorted(
    path
    for pattern in ("roles/*/tasks/*.yml", "roles/*/handlers/*.yml", "playbooks/*.yml", "playbooks/tasks/*.yml")
    for path in ROOT.glob(pattern)
)
#: Modules that start apt or dpkg and take no lock_timeout, or hand it to nobody.
WITHOUT = ("ansible.builtin.package", "ansible.builtin.apt_repository", "ansible.builtin.dpkg_selections")
#: Programs that take apt's or dpkg's lock; `apt-cache` and `apt-get indextargets` read only.
LOCKING = re.compile(r"\b(apt|apt-get|aptitude|dpkg)\s+(-\S+\s+)*(install|update|upgrade|remove|purge|autoremove)\b")


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a file, so that tasks in blocks and plays are found too."""
    if isinstance(node, dict):
        yield node
        for part in node.values():
            yield from tasks(part)
    elif isinstance(node, list):
        for part in node:
            yield from tasks(part)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_use_of_apt_waits_for_its_lock(path: Path) -> None:
    """Before: 60 s, Ansible's default, in four roles."""
    for task in tasks(read_yaml(path)):
        for module in ("apt", "ansible.builtin.apt"):
            if module in task:
                assert task[module].get("lock_timeout") == LOCK_TIMEOUT, task.get("name")
        assert not set(WITHOUT) & set(task), task.get("name")


def test_no_program_takes_the_lock_by_itself() -> None:
    folders = [*ROOT.glob("roles/*/files"), *ROOT.glob("roles/*/templates"), ROOT / "playbooks/files"]
    programs = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    found = [path for path in (*programs, *FILES) if LOCKING.search(path.read_text(errors="replace"))]
    assert found == []


def test_it_is_minutes_and_what_several_upgrades_take() -> None:
    assert LOCK_TIMEOUT >= 300
    assert len([path for path in FILES if "ansible.builtin.apt:" in path.read_text()]) >= 4, "or nothing was looked at"
