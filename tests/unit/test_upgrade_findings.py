"""What upgrade.yml makes of the findings of check_release: the task itself, played on this computer."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASK = "Refuse a release that cannot run, or asks for what nobody serves"
FINDINGS = [{"name": name, "text": f"{name} is not served"} for name in ("queue:new", "task:core.tasks.new")]


@pytest.fixture
def refuse(root: Path, tmp_path: Path, ansible_playbook: str) -> Callable[..., str]:
    """Play the task, for what was found and what the operator has read; answers what is shown, without line breaks."""

    def refused(findings: list[dict[str, str]], problems: list[str], read: str = "") -> str:
        tasks = yaml.safe_load((root / "playbooks/tasks/upgrade_check.yml").read_text())
        known = {
            "upgrade_needed": True, "upgrade_current": "old-1", "escriptorium_release_id": "new-2",
            "upgrade_found": {"problems": problems, "findings": findings},
            **({"upgrade_findings_read": read} if read else {}),
        }  # fmt: skip
        (task,) = [task for task in tasks if task["name"] == TASK]
        play = {"hosts": "front", "gather_facts": False, "vars": known, "tasks": [task]}
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play], width=1000))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment |= {"ANSIBLE_HOME": str(tmp_path / "ansible")}
        done = subprocess.run(
            [ansible_playbook, "--connection", "local", "-i", "front,", str(tmp_path / "play.yml")],
            cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return " ".join((done.stdout + done.stderr).split())

    return refused


def test_all_that_is_wrong_is_told_at_once(refuse: Callable[..., str]) -> None:
    shown = refuse(FINDINGS, ["core.E001: wrong"])
    assert "failed=1" in shown
    for part in (
        "Release new-2 cannot run here; old-1 goes on", "core.E001: wrong", "queue:new is not served",
        "task:core.tasks.new is not served", "-e upgrade_findings_read=queue:new,task:core.tasks.new",
    ):  # fmt: skip
        assert part in shown


def test_only_what_was_read_passes(refuse: Callable[..., str]) -> None:
    shown = refuse(FINDINGS, [], "queue:new, task:other")
    assert "failed=1" in shown
    assert "queue:new is not served" not in shown
    assert "-e upgrade_findings_read=task:core.tasks.new" in shown
    assert "failed=0" in refuse(FINDINGS, [], "queue:new, task:core.tasks.new")


def test_a_release_that_is_served_goes_on(refuse: Callable[..., str]) -> None:
    assert "failed=0" in refuse([], [])
    shown = refuse([], ["core.E001: wrong"])
    assert "failed=1" in shown
    assert "upgrade_findings_read" not in shown, "a problem cannot be let pass"
