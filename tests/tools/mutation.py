"""Break the repository on purpose, one place at a time, and see that a test of `make test` goes red.

The table is tests/mutations.yml. All of it happens in a copy of the repository. Each test is seen green first; then,
mutation after mutation, the text is replaced, the test named beside it runs, and the text comes back. A mutation that
no test notices fails this program: then a test asserts nothing, or none is there.

    python tests/tools/mutation.py [--only KIND] [TEXT]    those of one kind, or with this text in the name of the file

Exit status 0: all were noticed. 1: some were not. 2: the tests fail without a mutation, or the table is wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REPOSITORY: Final = Path(__file__).resolve().parents[2]
TABLE: Final = REPOSITORY / "tests" / "mutations.yml"
#: Kinds of tests, the cheapest first, and where each has its modules.
KINDS: Final = {"unit": "tests/unit", "integration": "tests/integration", "scenarios": "tests/verify"}
#: Seconds that one run of a command may take.
LIMITS: Final = {"unit": 300, "integration": 1200, "scenarios": 3600}
#: Left out of the copy; the first two are shared by links.
SHARED: Final = (".venv", ".cache")
#: pytest's exit status where tests failed. Any other says that they did not run.
FAILED: Final = 1


class TableError(ValueError):
    """The table or a text in it cannot be meant."""


@dataclass(frozen=True)
class Mutation:
    """One place that is broken: ``text`` of ``file`` becomes ``instead``, which breaks what ``breaks`` says.

    ``test`` is the test that notices, as ``KIND MODULE::NAME``, and ``scenarios SCENARIO MODULE::NAME``. ``fresh``
    breaks it before hosts are deployed for the first time: those that are deployed already have what it takes away.
    """

    file: str
    text: str
    instead: str
    breaks: str
    test: str
    fresh: bool = False

    @property
    def kind(self) -> str:
        """Kind of the test, by what it needs."""
        return self.test.split()[0]

    @property
    def scenario(self) -> str:
        """Name of the Molecule scenario whose hosts the test needs; empty where it needs none."""
        return self.test.split()[1] if self.kind == "scenarios" else ""

    @property
    def node(self) -> str:
        """The test as pytest names it, from the root of the repository."""
        return f"{KINDS[self.kind]}/{self.test.split()[-1]}"

    def mutated(self, root: Path) -> str:
        """Return the whole file with the other text.

        :raises TableError: where the text does not stand there exactly once.
        """
        whole = (root / self.file).read_text(encoding="utf-8")
        if whole.count(self.text) != 1:
            raise TableError(f"{self.file} holds {whole.count(self.text)} times, wanted once: {self.text}")
        return whole.replace(self.text, self.instead)


def read_table(path: Path = TABLE) -> tuple[Mutation, ...]:
    """Return all mutations of the table.

    :raises TableError: where an entry lacks something, has something unknown, or names no kind of test.
    """
    found = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        try:
            mutation = Mutation(**entry)
        except TypeError as error:
            raise TableError(f"{entry}: {error}") from None
        if mutation.kind not in KINDS or len(mutation.test.split()) != (3 if mutation.kind == "scenarios" else 2):
            raise TableError(f"{mutation.file}: '{mutation.test}' names no test")
        found.append(mutation)
    return tuple(found)


class Workshop:
    """A copy of the repository in which tests run."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        shutil.copytree(REPOSITORY, self.root, symlinks=True, ignore=shutil.ignore_patterns(".git", *SHARED))
        for name in SHARED:
            (self.root / name).symlink_to((REPOSITORY / name).resolve())
        # Molecule finds its shared settings at the top of a repository.
        self._run(["git", "init", "--quiet"], 60)
        self.said = ""

    def _run(self, command: Sequence[str], seconds: float) -> int | None:
        """Run a command in the copy; return its exit status, None where it took too long."""
        environment = os.environ | {
            "PATH": f"{self.root}/.venv/bin:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": f"{self.root}/ansible.cfg",
            # Python takes a compiled file for that of a source of the same size and second.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                self.said, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                self.said, _ = process.communicate()
                return None
        return process.returncode

    def test(self, mutations: Sequence[Mutation]) -> int | None:
        """Run the tests of mutations of one kind, and of one scenario; return pytest's exit status."""
        kind, nodes = mutations[0].kind, sorted({mutation.node for mutation in mutations})
        if kind == "integration":
            # The program takes a choice among all of them.
            names = " or ".join(node.rpartition("::")[2] for node in nodes)
            command = ["tests/integration-run", "-k", names]
        else:
            command = ["pytest", "-c", "pyproject.toml", "--rootdir", ".", *nodes]
            command += ["--scenario", mutations[0].scenario] if mutations[0].scenario else []
        return self._run(command, LIMITS[kind])

    def deploy(self, scenario: str) -> bool:
        """Deploy the hosts of a scenario, where there is one; return whether that went well."""
        return (
            not scenario or self._run(["molecule", "converge", "--scenario-name", scenario], LIMITS["scenarios"]) == 0
        )

    def destroy(self, scenario: str) -> None:
        """Remove the hosts of a scenario."""
        if scenario:
            self._run(["molecule", "destroy", "--scenario-name", scenario], LIMITS["scenarios"])


def is_noticed(workshop: Workshop, mutation: Mutation) -> bool:
    """Break one place and return whether its test goes red, or the deployment before it."""
    file = workshop.root / mutation.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(mutation.mutated(workshop.root), encoding="utf-8")
    try:
        if mutation.fresh:
            workshop.destroy(mutation.scenario)
        status = workshop.test([mutation]) if workshop.deploy(mutation.scenario) else FAILED
    finally:
        file.write_text(whole, encoding="utf-8")
    if status not in {0, FAILED}:
        print(f"{mutation.test} did not run (status {status}):\n{workshop.said[-2000:]}", file=sys.stderr)
    return status == FAILED


def run_group(workshop: Workshop, group: Sequence[Mutation]) -> list[Mutation]:
    """Run mutations whose tests need the same hosts; return those that nothing has noticed.

    :raises TableError: where the tests fail without a mutation.
    """
    scenario = group[0].scenario
    unnoticed = []

    def deploy() -> None:
        if not workshop.deploy(scenario):
            raise TableError(f"{scenario} cannot be deployed:\n{workshop.said[-4000:]}")

    workshop.destroy(scenario)
    try:
        deploy()
        if workshop.test(group) != 0:
            raise TableError(f"the tests fail without a mutation:\n{workshop.said[-4000:]}")
        for mutation in group:
            if mutation is not group[0]:
                deploy()  # the hosts as they should be
            if is_noticed(workshop, mutation):
                print(f"noticed   {mutation.file}: {mutation.breaks}", flush=True)
            else:
                print(f"UNNOTICED {mutation.file}: {mutation.breaks}, by {mutation.test}", flush=True)
                unnoticed.append(mutation)
    finally:
        workshop.destroy(scenario)
    return unnoticed


def grouped(mutations: Iterable[Mutation]) -> list[list[Mutation]]:
    """Return the mutations by what their tests need, the cheapest first."""
    groups: dict[tuple[int, str], list[Mutation]] = defaultdict(list)
    for mutation in mutations:
        groups[list(KINDS).index(mutation.kind), mutation.scenario].append(mutation)
    return [groups[key] for key in sorted(groups)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(description="Break the repository on purpose and see that tests notice.")
    parser.add_argument("--only", choices=KINDS, help="only those that tests of this kind notice")
    parser.add_argument("text", nargs="?", default="", help="only those with this text in the name of their file")
    options = parser.parse_args(arguments)
    unnoticed: list[Mutation] = []
    try:
        chosen = [
            mutation
            for mutation in read_table()
            if options.only in {None, mutation.kind} and options.text in mutation.file
        ]
        with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
            workshop = Workshop(Path(folder))
            for group in grouped(chosen):
                unnoticed += run_group(workshop, group)
    except TableError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(chosen) - len(unnoticed)} passed, {len(unnoticed)} failed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
