"""When keys to the REST interface end: no Django."""

from __future__ import annotations

import pytest
from escriptorium_cluster.api_keys import ends_keys

BEFORE = {"password": "a", "is_active": True}


@pytest.mark.parametrize(
    ("now", "fields", "ends"),
    [
        (BEFORE, None, False),
        (BEFORE | {"is_active": False}, None, True),
        (BEFORE | {"is_active": False}, ["is_active"], True),
        (BEFORE | {"password": "b"}, None, True),
        # A hash that is made anew at a login.
        (BEFORE | {"password": "b"}, ["password"], False),
    ],
)
def test_a_key_ends_with_its_account_and_with_a_new_password(
    now: dict[str, object], fields: list[str] | None, ends: bool
) -> None:
    assert ends_keys(BEFORE, now, fields) is ends


def test_a_key_does_not_come_back_with_its_account() -> None:
    assert ends_keys(BEFORE | {"is_active": False}, BEFORE, None)
