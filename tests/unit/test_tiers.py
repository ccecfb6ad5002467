"""The two tiers of the suite: what the Makefile, the workflows and the table of tests/README.md say of each other."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

#: A test in the table: folder/module.py::test_name.
NAMED: Final = re.compile(r"`(\w+/[\w/]+\.py)::(\w+)`")


class Module(NamedTuple):
    """Scenarios of a module of tests, and its tests in the first and in the second tier; some are in both."""

    scenarios: set[str]
    first: set[str]
    second: set[str]


def read(path: Path) -> Module:
    """Read the markers of a module, without importing it."""
    body = ast.parse(path.read_text()).body
    assigned = {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in body if isinstance(node, ast.Assign)}
    common = assigned.get("pytestmark", "")
    (scenarios,) = re.findall(r"mark\.scenario\((.*?)\)", common) or [""]
    module = Module(set(re.findall(r"'(\w+)'", scenarios)), set(), set())
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            if "mark.fault" in common or any("mark.fault" in mark for mark in marks):
                module.second.add(node.name)
            if "mark.fault" not in common and "pytest.mark.fault" not in marks:
                module.first.add(node.name)
    return module


@pytest.fixture(scope="module")
def makefile(root: Path) -> dict[str, list[str]]:
    """Lists of the Makefile by name."""
    names = ("SCENARIOS", "MACHINE_SCENARIOS", "FAULT_SCENARIOS", "STEPS", "FAULT_STEPS")
    goal = "\n".join(f"$(info {name} $({name}))" for name in names) + "\nnothing: ;"
    command = ["make", "--silent", "--file", "Makefile", "--file", "-", "nothing"]
    told = subprocess.run(command, cwd=root, input=goal, check=True, capture_output=True, text=True).stdout
    return {name: words for name, *words in (line.split() for line in told.splitlines() if line.strip())}


def test_every_scenario_is_a_step_of_its_tiers(root: Path, makefile: dict[str, list[str]]) -> None:
    modules = [read(path) for path in (root / "tests/verify").glob("test_*.py")]
    scenarios = set().union(*(module.scenarios for module in modules))
    assert scenarios == {*makefile["SCENARIOS"], *makefile["MACHINE_SCENARIOS"]}
    assert {step for step in makefile["STEPS"] if "-" in step} == {f"molecule-{name}" for name in scenarios}
    faults = set().union(*(module.scenarios for module in modules if module.second))
    assert faults == set(makefile["FAULT_SCENARIOS"])
    assert {step for step in makefile["FAULT_STEPS"] if "-" in step} == {
        f"faults-{name}" for name in (*faults, "integration")
    }


def test_workflows_run_every_step(root: Path, makefile: dict[str, list[str]]) -> None:
    for name, steps in (("ci", makefile["STEPS"]), ("faults", makefile["FAULT_STEPS"])):
        text = (root / f".github/workflows/{name}.yml").read_text()
        jobs = yaml.safe_load(text)["jobs"].values()
        ran = [step for job in jobs for step in job["strategy"]["matrix"]["step"]]
        assert sorted(ran) == sorted(steps)
        for action in re.findall(r"uses: (.*)", text):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action), "pinned by commit"


@pytest.fixture(scope="module")
def promises(root: Path) -> list[list[str]]:
    """Rows of the tables that say which test proves what: the promise, tests of the first tier, tests of the second."""
    section = (root / "tests/README.md").read_text().partition("## Promises and their tests")[2].partition("\n## ")[0]
    return [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]


def test_every_promise_has_a_test_in_the_first_tier(root: Path, promises: list[list[str]]) -> None:
    promised = re.findall(r"^- \*\*(.+?)\*\*", (root / "README.md").read_text(), re.MULTILINE)
    assert [row[0].strip().strip("*") for row in promises if row[0].startswith(" **")] == promised
    assert len(promised) >= 10
    assert [row[0].strip() for row in promises if not NAMED.search(row[1])] == ["promise"] * 2, "but for the heads"


def test_promises_name_tests_that_are_in_their_tier(root: Path, promises: list[list[str]]) -> None:
    wrong = [
        f"{path}::{name}"
        for _, *cells in promises
        for tier, cell in zip(("first", "second"), cells, strict=True)
        for path, name in NAMED.findall(cell)
        if name not in getattr(read(root / "tests" / path), tier)
    ]
    assert wrong == []
    for _, *cells in promises:
        assert all(NAMED.sub("", cell).strip() in {"", "first tier", "second tier"} for cell in cells), "tests only"


STEPS = """
.PHONY: image stand-in good bad hangs
image stand-in good: ; @echo $@
bad: ; @echo 'E  something is wrong'; exit 3
hangs: ; @sleep 60
"""


def test_a_step_that_hangs_or_fails_costs_no_other_step(root: Path, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copy(root / "tests/run-all", tmp_path / "tests")
    (tmp_path / "Makefile").write_text(STEPS)
    done = subprocess.run(
        [tmp_path / "tests/run-all", "0.03", "hangs", "bad", "good"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said, _, summary = done.stdout.partition("=== summary, ")
    assert "FAILED: hangs was ended after 0.03 minutes" in said.partition("=== what hangs said ===")[2]
    assert "something is wrong" in said.partition("=== what bad said ===")[2]
    assert re.match(r"\d+ s, \d+ s of processor time", summary)
    verdicts = {line.split()[0]: line.split()[1] for line in summary.splitlines()[1:4]}
    assert verdicts == {"hangs": "FAILED", "bad": "FAILED", "good": "passed"}
    assert summary.splitlines()[-1] == "1 passed, 2 failed"
