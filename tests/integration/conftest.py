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

from application_bench import Bench, running_bench  # noqa: E402 - found by the path above

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Give the application that the environment names, with database and broker; each module has its own."""
    venv, tree = os.environ.get("APPLICATION_VENV"), os.environ.get("APPLICATION_TREE")
    if not (venv and tree):
        pytest.skip("APPLICATION_VENV and APPLICATION_TREE do not name an application")
    with running_bench(Path(venv).resolve(), Path(tree).resolve()) as made:
        yield made
