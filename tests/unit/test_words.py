"""Hosts speak the language they were installed in: plays ask for plain answers, and nothing of ours compares words.

``LANGUAGE`` is part of it: Debian's installer sets it, and gettext prefers it to ``LC_ALL``, unless that is ``C``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from module_utils.platform_catalogue import read_yaml
from tests.unit.test_apt_waits import FILES, tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
PLAYBOOKS = sorted(ROOT.glob("playbooks/*.yml"))
#: Where a task decides by what a program has said.
CONDITIONS = ("when", "changed_when", "failed_when", "until", "that")
#: What programs say when they fail, or Ansible itself: prose, for people.
PROSE = re.compile(r"\.(stderr|stderr_lines|msg|module_stderr)\b")
#: Texts that answers are compared with.
LITERAL = re.compile(
    r"'([^']*[a-z][^']*)'\s+(?:not\s+)?in\s+\w+\.stdout"
    r"|\.stdout(?:_lines\b[^=!]*)?\s*[!=]=\s*'([^']+)'"
    r"|\.stdout is (?:not )?(?:match|search)\('([^']+)'\)"
)
#: Answers of programs that are not ours, and why they are the same in each language.
FOREIGN: Final = {
    "off off ": "values of PostgreSQL's settings",
    "skipped": "Ansible's own, where a command has nothing to make",
    "uwsgi": "a name of a process, as ss prints it",
}


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_every_play_asks_hosts_for_plain_answers(path: Path) -> None:
    """Before: none did. An operator's own locale comes along by ssh, too: Debian's client sends it."""
    for play in read_yaml(path):
        if "hosts" in play and play.get("vars", {}).get("ansible_connection") != "local":
            assert play.get("environment") == PLAIN, play["name"]


def conditions(task: dict[str, Any]) -> Iterator[str]:
    for key in CONDITIONS:
        found = task.get(key, [])
        yield from map(str, found if isinstance(found, list) else [found])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_task_decides_by_what_is_said_of_a_failure(path: Path) -> None:
    """Before: a restore failed on hosts in French, where umount says that the tree is `non monté`."""
    for task in tasks(read_yaml(path)):
        for condition in conditions(task):
            assert not PROSE.search(condition), f"{task.get('name')}: {condition}"


def sources(folder: Path) -> list[Path]:
    """Return the files below a folder of the repository, without what tools keep there."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not re.search(r"/(\.|__pycache__/)", str(path.relative_to(ROOT)))
    ]


def own_words() -> str:
    """Return the text of all programs of ours, those in tasks included."""
    folders = [*ROOT.glob("roles/*/files"), *ROOT.glob("roles/*/templates"), ROOT / "playbooks/files"]
    programs = [path.read_text() for folder in folders for path in sources(folder)]
    for path in FILES:
        for task in tasks(read_yaml(path)):
            given = [task.get(module) for module in ("ansible.builtin.shell", "ansible.builtin.command")]
            programs += [str(one.get("cmd", "")) for one in given if isinstance(one, dict)]
    return "\n".join(programs)


def test_tasks_decide_by_answers_of_our_own_programs_only() -> None:
    words, compared = own_words(), set()
    for path in FILES:
        for task in tasks(read_yaml(path)):
            for condition in conditions(task):
                compared |= {next(filter(None, groups)) for groups in LITERAL.findall(condition)}
    assert len(compared) > 5, "or the pattern finds nothing"
    assert sorted(word for word in compared if word not in words and word not in FOREIGN) == []


def test_no_shell_reads_what_is_said_of_a_failure() -> None:
    assert [line for line in own_words().splitlines() if re.search(r"(2>&1\s*\||\|&)", line)] == []


# --- programs in Python -----------------------------------------------------------------------------------------------

#: (file, text that is compared): why it is no language's.
KNOWN: Final = {
    ("library/zfs_pool.py", "VANISHED"): "it asks in plain English: ENVIRONMENT",
    ("roles/vgpu_host/files/vgpu-devices", "SRIOV_BUSY"): "NVIDIA's program is a shell script without translations",
}
METHODS = frozenset({"startswith", "endswith", "find", "index", "count"})
SEARCHES = frozenset({"search", "match", "fullmatch", "findall"})


def programs() -> list[Path]:
    """Return the programs that run on hosts, or on what they said."""
    folders = ("roles/*/files", "playbooks/files", "library", "action_plugins", "module_utils")
    found = [path for folder in folders for place in ROOT.glob(folder) for path in sources(place)]
    return sorted(
        path
        for path in found
        if path.suffix == ".py" or (not path.suffix and "python3" in path.read_text().split("\n")[0])
    )


class Words(ast.NodeVisitor):
    """Finds comparisons of a text with what a program has said on its way of errors."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.found: list[str] = []

    def _is_said(self, node: ast.AST) -> bool:
        return any(
            (isinstance(part, ast.Attribute) and part.attr == "stderr" and not _is_sys(part))
            or (isinstance(part, ast.Name) and part.id in self.said)
            for part in ast.walk(node)
        )

    def visit_Assign(self, node: ast.Assign) -> None:
        names = [part for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func).endswith("run_command"):
            # What it answers with: status, output, errors.
            self.said |= {name.id for name in names[2:]}
        elif self._is_said(node.value):
            self.said |= {name.id for name in names}
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        if any(map(self._is_said, sides)):
            self.found += [text for side in sides if not self._is_said(side) and (text := _text(side))]
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            asked = node.func.attr in METHODS and self._is_said(node.func.value)
            searched = node.func.attr in SEARCHES and any(map(self._is_said, node.args))
            if asked or searched:
                self.found += [text for part in (node.func.value, *node.args) if (text := _text(part))] or [""]
        self.generic_visit(node)


def _is_sys(node: ast.Attribute) -> bool:
    """Whether it is a program's own way of errors."""
    return isinstance(node.value, ast.Name) and node.value.id == "sys"


def _text(node: ast.AST) -> str:
    """Return a text of the program, or the name of one; nothing where it is neither."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return node.id if isinstance(node, ast.Name) and node.id.lstrip("_").isupper() else ""


def compared_words(text: str) -> list[str]:
    words = Words()
    # Twice: a name may be used above the place where it is said what it holds.
    for _ in range(2):
        words.found = []
        words.visit(ast.parse(text))
    return words.found


@pytest.mark.parametrize("path", programs(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_program_decides_by_what_another_one_says_of_a_failure(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert [word for word in compared_words(path.read_text()) if (name, word) not in KNOWN] == []


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("if 'not mounted' in done.stderr: pass", ["not mounted"]),
        ("said = (done.stderr + done.stdout).split()\nif BUSY in said: pass", ["BUSY"]),
        ("_, out, errors = module.run_command(words)\nif errors.startswith('No'): pass", ["No"]),
        ("re.search('refused', done.stderr)", ["refused"]),
        ("if done.stderr: print(done.stderr, file=sys.stderr)", []),
        ("code = done.returncode\nif code == 3: pass", []),
    ],
)
def test_comparisons_are_found(program: str, words: list[str]) -> None:
    """Proof that the test above would notice one."""
    assert compared_words(program) == words


def test_programs_that_read_answers_ask_for_plain_ones(root: Path) -> None:
    """These read words and dates that other programs print, and run without a play's environment as well."""
    for path in ("library/host_config.py", "library/zfs_pool.py"):
        reading = [
            line
            for line in (root / path).read_text().splitlines()
            if "run_command(question" in line or "list(command)" in line
        ]
        assert reading
        assert all("environ_update=" in line for line in reading), path
