"""How a run ends: the tasks that ask the workers of a host, played on this computer with programs that say as told."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIBRARY = "/usr/local/lib/escriptorium"
ALL = {
    "ok": True,
    "silent": [],
    "units": {},
    "lines": ["all 2 workers answered within 0.1 s", "live@c1 ran a probe job"],
}
STARTS = {
    "ok": False,
    "silent": ["live@c1"],
    "units": {
        "live@c1": {"active": "activating", "sub": "start", "restarts": 0, "status": "starts, 9 s of a processor"}
    },
    "lines": ["1 of 2 workers did not answer:"],
}
UNITS = """escriptorium-web.service active running
escriptorium-worker@default.service active running
escriptorium-worker@imports.service deactivating stop-sigterm
escriptorium-worker@live.service activating start
"""


@pytest.fixture
def end_run(root: Path, tmp_path: Path, ansible_playbook: str) -> Callable[..., str]:
    """Play the tasks on a host whose workers answer as told, one look after the other; answers what is shown."""

    def ended(*looks: dict[str, Any], units: str = UNITS) -> str:
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "units").write_text(units)
        for number, look in enumerate(looks, start=1):
            (programs / str(number)).write_text(json.dumps(look))
        for name, text in {
            "show-units": f"cat {programs}/units",
            "run-as-service": f'echo "$@" >> {programs}/asked; cat {programs}/$(wc -l < {programs}/asked)',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        for path in ("playbooks/tasks/ask_workers.yml", "action_plugins/await_workers.py"):
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text((root / path).read_text().replace(LIBRARY, str(programs)))
        (tmp_path / "module_utils").symlink_to(root / "module_utils")
        play = {
            "hosts": "c1",
            "gather_facts": False,
            "tasks": [{"ansible.builtin.import_tasks": "tasks/ask_workers.yml"}],
        }
        (tmp_path / "playbooks/play.yml").write_text(yaml.safe_dump([play]))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {
            "ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_ACTION_PLUGINS": str(tmp_path / "action_plugins"), "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        }  # fmt: skip
        done = subprocess.run(
            [ansible_playbook, "--connection", "local", "-i", "c1,", str(tmp_path / "playbooks/play.yml")],
            cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        (tmp_path / "asked").write_text((programs / "asked").read_text() if (programs / "asked").is_file() else "")
        return done.stdout + done.stderr

    return ended


def test_a_worker_that_starts_is_waited_for_and_shown(end_run: Callable[..., str], tmp_path: Path) -> None:
    shown = end_run(STARTS, ALL)
    assert "c1 waits: live@c1 starts, 9 s of a processor" in shown
    assert "live@c1 ran a probe job" in shown, "what new workers found"
    assert "failed=0" in shown
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 2
    # The one that ends its last job is not asked.
    assert all("--expect=default@c1,live@c1" in line for line in asked)


def test_a_worker_that_lacks_something_fails_the_run(end_run: Callable[..., str]) -> None:
    shown = end_run({**ALL, "ok": False, "lines": ["live@c1 ran a probe job (1 s): NOT RIGHT: media is away"]})
    assert "NOT RIGHT: media is away" in shown
    assert "failed=1" in shown


def test_a_host_without_workers_is_not_asked(end_run: Callable[..., str], tmp_path: Path) -> None:
    assert "failed=0" in end_run(units="drained: by the inventory since 2026-11-21\n")
    assert (tmp_path / "asked").read_text() == ""
