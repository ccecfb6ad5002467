"""What tasks need is loaded in Ansible's main process, of which the process of each task is a copy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ansible.module_utils import platform_plugins

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

RunPlaybook = Callable[..., "subprocess.CompletedProcess[str]"]
#: A lookup in Jinja, by its name.
LOOKUP = re.compile(r"(?:lookup|query)\('([a-z._]+)'")
#: Only where a site names an archive of its front end.
SELDOM = {"ansible.builtin.pipe"}
#: A filter that gives the modules which the process of its task has loaded since it began.
LOADED = """
import os
import sys

before = set()
os.register_at_fork(after_in_child=lambda: before.update(sys.modules))


class FilterModule:
    def filters(self):
        return {"loaded_anew": lambda _: " ".join(sorted(set(sys.modules) - before))}
"""
PLAY = """
- hosts: "frontend{{ lookup('absent_hosts') }}"
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "loaded <{{ [4 | web_processes, lookup('topology', 'members') | to_json, 'a' | hash] | loaded_anew }}>"
"""


def test_lookups_of_values_are_named(root: Path) -> None:
    texts = [path.read_text() for folder in ("group_vars", "roles") for path in (root / folder).rglob("*.yml")]
    named = {name for text in texts for name in LOOKUP.findall(text)}
    assert named - SELDOM == set(platform_plugins.LOOKUPS)


def test_no_task_loads_them_anew(root: Path, tmp_path: Path, start_playbook: RunPlaybook) -> None:
    (tmp_path / "filter_plugins").mkdir()
    (tmp_path / "filter_plugins/loaded.py").write_text(LOADED)
    (tmp_path / "play.yml").write_text(PLAY)
    done = start_playbook(root / "inventories/demo", str(tmp_path / "play.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    (loaded,) = re.findall(r"loaded <([^>]*)>", " ".join(done.stdout.split()))
    assert not [name for name in loaded.split() if name.startswith(("ansible.plugins.", "ansible.module_utils."))]
