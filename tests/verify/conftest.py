"""Fixtures of the behaviour checks: a deployed cluster, named by --scenario (Molecule) or --inventory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import REPOSITORY, Database, Inventory, Site

if TYPE_CHECKING:
    from collections.abc import Callable


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scenario", help="Molecule scenario whose hosts are checked")
    parser.addoption("--inventory", type=Path, help="inventory folder; default: that of the scenario")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the modules that are meant for the scenario."""
    scenario = config.getoption("--scenario")
    if scenario is None:
        raise pytest.UsageError("name the hosts to check: --scenario=cluster, for instance")

    def is_meant(item: pytest.Item) -> bool:
        return any(scenario in marker.args for marker in item.iter_markers("scenario"))

    config.hook.pytest_deselected(items=[item for item in items if not is_meant(item)])
    items[:] = [item for item in items if is_meant(item)]


@pytest.fixture(scope="session")
def scenario(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--scenario"))


@pytest.fixture(scope="session")
def inventory(pytestconfig: pytest.Config, scenario: str) -> Inventory:
    folder = pytestconfig.getoption("--inventory") or REPOSITORY / "molecule" / scenario / "inventory"
    return Inventory.read(Path(folder).resolve())


@pytest.fixture(scope="session")
def connect(inventory: Inventory) -> Callable[[str], Any]:
    """Testinfra's view of a host, by name."""
    return cache(inventory.connect)


@pytest.fixture(scope="session")
def frontend(inventory: Inventory, connect: Callable[[str], Any]) -> Any:
    return connect(inventory.frontend)


@pytest.fixture(scope="session")
def site(inventory: Inventory, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(inventory, tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def database(frontend: Any) -> Database:
    return Database(frontend)
