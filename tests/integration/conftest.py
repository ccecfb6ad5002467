"""What the integration tests share: an application with its services, and the acceptance tests' client."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "lib"), str(HERE.parent / "acceptance")]
pytest.register_assert_rewrite("application_bench")

from application_bench import Bench, Database, running_bench, running_database  # noqa: E402 - found by the path above

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    """Give the PostgreSQL of all modules."""
    with running_database() as made:
        yield made


@pytest.fixture(scope="module")
def bench(database: Database) -> Iterator[Bench]:
    """Give the application that the environment names, with database and broker; each module has its own."""
    venv, tree = os.environ.get("APPLICATION_VENV"), os.environ.get("APPLICATION_TREE")
    if not (venv and tree):
        pytest.skip("APPLICATION_VENV and APPLICATION_TREE do not name an application")
    with running_bench(Path(venv).resolve(), Path(tree).resolve(), database) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes said last where a test fails."""
    report = yield
    bench = getattr(item, "funcargs", {}).get("bench")
    if report.failed and isinstance(bench, Bench):
        report.sections += [(name, bench.log(name)[-3000:]) for name in bench.processes if bench.log(name)]
    return report
