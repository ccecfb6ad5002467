"""Fixtures of the tests of GPU slices: the simulated driver, built once, and a computer with it."""

from __future__ import annotations

import ctypes
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.unit.gpu.simulation import DRIVER, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated driver, built. Its library is loaded: who asks for libnvidia-ml.so.1 in this process gets it."""
    folder = tmp_path_factory.mktemp("simulated-driver")
    subprocess.run([str(DRIVER / "build"), str(folder)], check=True)
    ctypes.CDLL(str(folder / "lib" / "libnvidia-ml.so.1"), mode=ctypes.RTLD_GLOBAL)
    return folder


@pytest.fixture
def machine(tmp_path: Path, built: Path) -> Iterator[Machine]:
    """A computer; it has no cards before ``create``."""
    made = Machine(tmp_path, built)
    yield made
    made.end_holders()
