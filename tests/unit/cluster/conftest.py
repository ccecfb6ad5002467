"""Makes the cluster package importable: on hosts it lies beside the application, here below the role."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "roles" / "escriptorium" / "files"))

from tests.unit.cluster.libraries import stand_ins


@pytest.fixture
def load() -> Iterator[Callable[[str], Any]]:
    """Import a module of the cluster package, or of the application's libraries as they stand in: see libraries.py."""
    with stand_ins():
        yield importlib.import_module


@pytest.fixture
def environment() -> dict[str, str]:
    """Environment of a working platform, with nothing that has a default."""
    return {
        "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdef",
        "CLUSTER_ALLOWED_HOSTS": "htr.example.org,10.10.0.1",
        "CSRF_TRUSTED_ORIGINS": "https://htr.example.org",
        "CLUSTER_MEDIA_ROOT": "/srv/escriptorium/media",
        "CLUSTER_STATIC_ROOT": "/var/lib/escriptorium/static",
        "REDIS_HOST": "10.10.0.1",
        "CLUSTER_REDIS_PASSWORD": "r@d/i:s#?%41 x",
        "SQL_HOST": "10.10.0.1",
        "POSTGRES_DB": "escriptorium",
        "POSTGRES_USER": "escriptorium",
        "POSTGRES_PASSWORD": "database-secret",
    }
