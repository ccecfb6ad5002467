"""What tasks need is loaded in Ansible's main process, of which the process of each task is a copy."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from ansible.module_utils import platform_plugins

if TYPE_CHECKING:
    from pathlib import Path

#: A lookup in Jinja, by its name.
LOOKUP = re.compile(r"(?:lookup|query)\('([a-z._]+)'")
#: Those that seldom run: once in a build, or where a site's file is named.
SELDOM = {"ansible.builtin.pipe", "absent_hosts"}
#: Notes what the process of a task has loaded when it ends; Python reads a file of this name when it starts.
SITE = """
import os, sys

before = set()
os.register_at_fork(after_in_child=lambda: before.update(sys.modules))
end = os._exit


def note(status):
    with open(os.environ["LOADED_ANEW"], "a") as file:
        print(*sorted(set(sys.modules) - before), file=file)
    end(status)


os._exit = note
"""
PLAY = """
- hosts: "frontend{{ lookup('absent_hosts') }}"
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact:
        one: "{{ 4 | web_processes }} {{ lookup('topology', 'application') | to_json | hash('sha256') }}"
"""


def test_lookups_of_values_are_named(root: Path) -> None:
    texts = [path.read_text() for folder in ("group_vars", "roles") for path in (root / folder).rglob("*.yml")]
    named = {name for text in texts for name in LOOKUP.findall(text)}
    assert named - SELDOM == set(platform_plugins.LOOKUPS)


def test_no_task_loads_them_anew(root: Path, tmp_path: Path, ansible_playbook: str, operator: dict[str, str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "play.yml").write_text(PLAY)
    noted = tmp_path / "loaded"
    done = subprocess.run(
        [ansible_playbook, "-i", str(root / "inventories/demo"), str(tmp_path / "play.yml")],
        cwd=root,
        env=operator | {"PYTHONPATH": str(tmp_path), "LOADED_ANEW": str(noted)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (loaded,) = noted.read_text().splitlines()
    assert not re.findall(r"ansible\.plugins\.\S+|ansible\.module_utils\.\S+", loaded)
