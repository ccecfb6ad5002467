"""The page of architecture and the glossary say what is so: files and names that they give are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

from module_utils.platform_catalogue import read_yaml

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = ("architecture.md", "glossary.md")
#: Short for it on these pages.
PACKAGE: Final = "roles/escriptorium/files/escriptorium_cluster/"
#: What begins a path of the repository.
FOLDERS: Final = frozenset(path.name for path in ROOT.iterdir() if path.is_dir()) | {"cluster"}
#: Most files that one question may take: docs/architecture.md.
MOST: Final = 4

#: `name` in `path`, and `path` (`name`, `name`: words).
BEFORE: Final = re.compile(r"`([\w.]+)`\s+in\s+`([^`]+)`")
AFTER: Final = re.compile(r"`([^`\s]+)`\s+\(([^)]*`[^)]*)\)")
CODE: Final = re.compile(r"`([^`\n]+)`")


def text(page: str) -> str:
    """Return a page without what is drawn in it."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("    "))


def path_of(word: str) -> str:
    """Return a word as a path from the root; nothing where it is none."""
    first = word.split("/", maxsplit=1)[0]
    if "/" not in word or first not in FOLDERS or not re.fullmatch(r"[\w./*@-]+", word):
        return word if word in {"site.yml", "README.md"} else ""
    return PACKAGE + word.removeprefix("cluster/") if first == "cluster" else word


def names_in(path: Path) -> set[str]:
    """Return what a module defines: functions, classes, values, and methods as Class.method."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def is_there(name: str, path: Path) -> bool:
    """Whether a file has a name: a module defines it, any other file says it."""
    if path.suffix == ".py" and re.fullmatch(r"[\w.]+", name):
        return name in names_in(path)
    return re.search(rf"(?<![\w-]){re.escape(name)}(?!\w)", path.read_text()) is not None


def named(page: str) -> list[tuple[str, str]]:
    """Return names and the paths of the files that a page says to have them."""
    pairs = [(name, path_of(word)) for name, word in BEFORE.findall(text(page))]
    pairs += [(name, path_of(word)) for word, names in AFTER.findall(text(page)) for name in CODE.findall(names)]
    return [(name, path) for name, path in pairs if path]


@pytest.mark.parametrize(("page", "least"), [("architecture.md", 50), ("glossary.md", 15)])
def test_files_are_there(page: str, least: int) -> None:
    paths = [path for word in CODE.findall(text(page)) if (path := path_of(word))]
    assert len(paths) >= least, "or the pattern finds nothing"
    # A folder of a site is the operator's own.
    missing = [path for path in paths if not any(ROOT.glob(path)) and not path.startswith("inventories/mysite")]
    assert missing == []


@pytest.mark.parametrize(("page", "least"), [("architecture.md", 40), ("glossary.md", 15)])
def test_names_are_in_the_files(page: str, least: int) -> None:
    pairs = named(page)
    assert len(pairs) >= least, "or the pattern finds nothing"
    assert [(name, path) for name, path in pairs if not is_there(name, ROOT / path)] == []


def test_each_question_is_answered_in_a_few_files() -> None:
    part = text("architecture.md").partition("## Ten questions")[2]
    rows = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    for question, answer in rows:
        paths = {path for word in CODE.findall(answer) if (path := path_of(word))}
        assert 1 <= len(paths) <= MOST, question


def test_a_host_goes_through_the_playbooks_of_a_full_run() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    part = page.partition("## A host")[2].partition("\n## ")[0]
    drawn = re.findall(r"^    ([\w-]+\.yml) ", part, re.MULTILINE)
    imported = [Path(play["ansible.builtin.import_playbook"]).name for play in read_yaml(ROOT / "site.yml")]
    apart = ["clean-compute.yml", "deploy-backup.yml"]
    assert drawn == [name for name in imported if name not in apart]
    assert all(f"`{name}`" in part for name in apart)


def test_a_value_goes_through_the_files_that_are_drawn() -> None:
    part = (ROOT / "docs/architecture.md").read_text().partition("## A value")[2].partition("\n## ")[0]
    drawn = [line for line in part.splitlines() if line.startswith("    ")]
    paths = re.findall(r"\b(?:group_vars|roles|filter_plugins|module_utils)/[\w/]+(?:\.py|\.yml)?", "\n".join(drawn))
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_names_are_looked_for(tmp_path: Path) -> None:
    """Proof that the tests above would notice."""
    module = tmp_path / "a.py"
    module.write_text("class Lease:\n    def take(self): ...\nOTHER = 1\n\n\ndef give():\n    inner: int = 2\n")
    assert all(is_there(name, module) for name in ("Lease", "Lease.take", "give", "OTHER"))
    assert not any(is_there(name, module) for name in ("Lease.give", "tak", "self"))
    other = tmp_path / "a.yml"
    other.write_text("celery_worker_queues: []\n")
    assert is_there("celery_worker_queues", other)
    assert not is_there("celery_worker", other)
