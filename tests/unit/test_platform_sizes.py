"""Rules about numbers: each impossible one gives its problem."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.sound_inventory import only, problems


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nginx_port", 0),
        ("nginx_port", 65536),
        ("nginx_upload_max_mib", 0),
        ("nginx_upload_max_mib", -150),
        ("escriptorium_visibility_timeout", 3599),
        ("escriptorium_lease_seconds", 29),
        ("postgresql_buffers_mb", -1),
        ("service_uid", 0),
        ("preflight_release_disk_gb", -1),
        ("preflight_memory_mb", 0),
        ("preflight_memory_mb", {"compute": "much"}),
        ("preflight_memory_mb", {"computer": 512}),
    ],
)
def test_impossible_size(name: str, value: Any) -> None:
    assert only(problems({name: value})).variable.split(".")[0] == name
