"""What playbooks/show-status.yml says of a host, in a dry run too: what was not asked is not told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

RunPlaybook = Callable[..., "subprocess.CompletedProcess[str]"]

HERE = {"ansible_connection": "local", "ansible_become": False}
TARGET = [{"name": "local", "type": "directory", "path": "/srv/copies"}]
EMPTY = "no media are copied: backup_targets is empty"
#: This computer has no program of the platform's hosts, which the questions tell from an answer.
UNKNOWN = "this host was deployed by an earlier version"


@pytest.fixture
def show(tmp_path: Path, root: Path, run_playbook: RunPlaybook) -> Callable[..., str]:
    """Run one play of the playbook on this computer, but for the roles that it imports."""

    def shown(name: str, targets: list[dict[str, str]], *words: str) -> str:
        (play,) = [
            play for play in yaml.safe_load((root / "playbooks/show-status.yml").read_text()) if play["name"] == name
        ]
        tasks = [task for task in play["tasks"] if "ansible.builtin.import_role" not in task]
        play |= {"hosts": "all", "tasks": tasks, "vars": HERE | {"media_backup_targets": targets}}
        (tmp_path / "show.yml").write_text(yaml.safe_dump([play]))
        (tmp_path / "hosts.yml").write_text("all: {hosts: {one: {}}}\n")
        result = run_playbook(tmp_path / "hosts.yml", str(tmp_path / "show.yml"), *words)
        assert result.returncode == 0, result.stdout
        return result.stdout

    return shown


@pytest.mark.parametrize("words", [(), ("--check",)], ids=["run", "dry run"])
def test_copies_of_the_media(show: Callable[..., str], words: tuple[str, ...]) -> None:
    play = "Show the copies of the media"
    asked = show(play, TARGET, *words)
    assert f"no media are copied: {UNKNOWN}" in asked
    assert EMPTY not in asked
    assert EMPTY in show(play, [], *words)


@pytest.mark.parametrize("words", [(), ("--check",)], ids=["run", "dry run"])
def test_what_waits(show: Callable[..., str], words: tuple[str, ...]) -> None:
    asked = show("Show what waits for a person", [], *words)
    assert f"not known: {UNKNOWN}" in asked
    assert "nothing waits" not in asked


def test_every_question_is_asked_in_a_dry_run(root: Path) -> None:
    plays = yaml.safe_load((root / "playbooks/show-status.yml").read_text())[1:]
    assert [play["name"] for play in plays if play.get("check_mode") is not False] == []
