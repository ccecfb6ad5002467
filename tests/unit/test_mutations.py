"""The table of what `make mutation` breaks: nothing is left out, and every text still stands in its file."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tools.mutation import KINDS, Mutation, TableError, grouped, read_table

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("roles/escriptorium/files/escriptorium_cluster")
MUTATIONS = read_table()
#: Files that hold no code.
EMPTY = re.compile(r'\A("""[^"]*""")?\s*\Z')


def modules(folder: Path) -> list[Path]:
    """Return the modules of a folder that hold code, from the root of the repository."""
    found = [path for path in sorted((ROOT / folder).rglob("*.py")) if not EMPTY.match(path.read_text())]
    return [path.relative_to(ROOT) for path in found]


@pytest.mark.parametrize("module", [*modules(PACKAGE), *modules(Path("module_utils"))], ids=str)
def test_every_module_is_broken_somewhere(module: Path) -> None:
    assert str(module) in {mutation.file for mutation in MUTATIONS}


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir()))
def test_every_role_is_broken_somewhere(role: str) -> None:
    files = [mutation.file for mutation in MUTATIONS if mutation.file.startswith(f"roles/{role}/")]
    assert files


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}: {mutation.breaks}")
def test_text_stands_in_its_file_once_and_the_other_one_makes_sense(mutation: Mutation) -> None:
    mutated = mutation.mutated(ROOT)
    assert mutation.text != mutation.instead
    # Code that Python refuses would be noticed by each test.
    if mutation.file.endswith(".py") or (ROOT / mutation.file).read_text().startswith("#!/usr/bin/env python3"):
        ast.parse(mutated)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}: {mutation.test}")
def test_the_test_beside_it_is_there(mutation: Mutation) -> None:
    path, _, name = mutation.node.partition("::")
    text = (ROOT / path).read_text()
    assert re.search(rf"^def {name}\(", text, re.MULTILINE)
    if mutation.scenario:
        (marked,) = re.findall(r"^pytestmark = pytest\.mark\.scenario\((.*)\)$", text, re.MULTILINE)
        assert f'"{mutation.scenario}"' in marked


def test_each_place_is_broken_in_one_way() -> None:
    assert len({(mutation.file, mutation.text, mutation.instead) for mutation in MUTATIONS}) == len(MUTATIONS)


def test_tests_that_need_the_same_hosts_run_together_the_cheapest_first() -> None:
    kinds = [(group[0].kind, group[0].scenario) for group in grouped(reversed(MUTATIONS))]
    assert len(kinds) == len(set(kinds))
    assert list(dict.fromkeys(kind for kind, _ in kinds)) == list(KINDS)


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], tuple[Mutation, ...]]:
    def read(text: str) -> tuple[Mutation, ...]:
        (tmp_path / "mutations.yml").write_text(text)
        return read_table(tmp_path / "mutations.yml")

    return read


ENTRY = "- {file: a, text: b, instead: c, breaks: d, test: %s}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- {file: a, text: b}", "missing 3 required"),
        ("- {file: a, text: b, instead: c, breaks: d, tests: e}", "unexpected keyword"),
        (ENTRY % "unit", "names no test"),
        (ENTRY % "manual a::b", "names no test"),
        (ENTRY % "scenarios a::b", "names no test"),
    ],
)
def test_a_wrong_table_is_refused(table: Callable[[str], tuple[Mutation, ...]], text: str, reason: str) -> None:
    with pytest.raises(TableError, match=reason):
        table(text)


def test_a_text_that_is_there_twice_is_refused(table: Callable[[str], tuple[Mutation, ...]], tmp_path: Path) -> None:
    (mutation,) = table(ENTRY % "scenarios base test_base.py::test_x")
    assert (mutation.scenario, mutation.node) == ("base", "tests/verify/test_base.py::test_x")
    (tmp_path / "a").write_text("b")
    assert mutation.mutated(tmp_path) == "c"
    (tmp_path / "a").write_text("bb")
    with pytest.raises(TableError, match="2 times, wanted once"):
        mutation.mutated(tmp_path)
