"""The examples of CONTRIBUTING.md, made in a copy of the repository as they stand there, pass the checks there are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
#: What the copy leaves out: none of the checks looks at it.
LEFT_OUT: Final = (".git", ".venv", ".cache", "*_cache", "__pycache__", "inventories", "derived")
#: Tests that look at all roles, playbooks and profiles there are; and which of them look at the examples.
CHECKS: Final = (
    "test_login_note.py", "test_mutations.py", "test_platform_playbooks.py", "test_release_profiles.py",
    "test_roles_documented.py", "test_words.py",
)  # fmt: skip
# Without the one that starts Ansible and counts its seconds.
CHOSEN: Final = (
    "(login_note or announce-maintenance or kraken-5-mysite or playbooks_read or plays_choose or in_playbooks_are)"
    " and not misspelt"
)
#: What the checks have to have been asked about.
ASKED: Final = (
    "test_specification_equals_defaults[login_note]",
    "test_every_role_is_broken_somewhere[login_note]",
    "test_the_test_beside_it_is_there[roles/login_note/templates/note.j2: unit test_login_note.py",
    "test_the_note_is_the_text",
    "test_every_play_asks_hosts_for_plain_answers[announce-maintenance.yml]",
    "test_every_playbook_begins_alike[announce-maintenance",
    "test_playbooks_read_what_is_declared_and_nothing_else",
    "test_defaults_in_playbooks_are_those_that_are_declared",
    "test_a_profile_is_what_it_says[kraken-5-mysite]",
)


class Step(NamedTuple):
    """One fenced part of the page: a file, the end of one, or commands where there is no path."""

    path: str
    place: str
    text: str


def steps(page: str) -> list[Step]:
    """Return what the page's examples do, in their order.

    The paragraph above a fence ends with the path of its file and a colon, and says ``at the end of`` where that file
    is there already.
    """
    found = []
    fences = re.compile(r"([^\n]*(?:\n[^\n]+)*)\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for before, kind, content in fences.findall(page):
        named = re.search(r"(at the end of\s+)?`([^`]+)`:$", before)
        if kind == "sh":
            found.append(Step("", "", content))
        else:
            assert named, f"no file is named above:\n{content}"
            found.append(Step(named[2], "end" if named[1] else "", content))
    return found


STEPS = steps((ROOT / "CONTRIBUTING.md").read_text())


def run(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the copy, with the tools of this Python before others."""
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "ANSIBLE_CONFIG": str(copy / "ansible.cfg")}
    return subprocess.run(words, cwd=copy, env=environment, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository in which the examples have been followed."""
    copy = tmp_path_factory.mktemp("contributing") / "copy"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for step in STEPS:
        path = copy / step.path
        if not step.path:
            done = run(copy, "bash", "-euo", "pipefail", "-c", step.text)
            assert done.returncode == 0, done.stdout + done.stderr
        elif step.place == "end":
            path.write_text(path.read_text() + step.text)
        else:
            assert not path.exists(), step.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text)
    return copy


def test_examples_are_found() -> None:
    assert [step.path for step in STEPS if not step.path] == ["", "", ""]
    names = [step.path for step in STEPS if step.path]
    assert {"roles/login_note/tasks/main.yml", "playbooks/announce-maintenance.yml"} <= {*names}
    assert [step.path for step in STEPS if step.place == "end"] == [
        "tests/mutations.yml",
        "playbooks/meta/argument_specs.yml",
    ]


def test_examples_pass_the_checks_of_the_repository(copy: Path) -> None:
    tests = [f"tests/unit/{name}" for name in CHECKS]
    done = run(copy, sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", CHOSEN, *tests)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert [name for name in ASKED if not re.search(rf"{re.escape(name)}.* PASSED", done.stdout)] == []


@pytest.mark.parametrize("program", ["role-files", "playbook-variables"])
def test_what_is_made_of_them_is_current(copy: Path, program: str) -> None:
    done = run(copy, sys.executable, f"scripts/{program}", "--check")
    assert done.returncode == 0, done.stdout


def test_examples_are_written_as_the_linters_want(copy: Path) -> None:
    files = [step.path for step in STEPS if step.path]
    checks = {
        ".yml": ["yamllint", "--strict"],
        ".py": ["ruff", "check", "--no-cache"],
    }
    for suffix, command in checks.items():
        done = run(copy, *command, *(name for name in files if name.endswith(suffix)))
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_playbook_can_be_read(copy: Path) -> None:
    words = ("--syntax-check", "--inventory", "front,", "playbooks/announce-maintenance.yml")
    done = run(copy, "ansible-playbook", *words)
    assert done.returncode == 0, done.stdout + done.stderr
