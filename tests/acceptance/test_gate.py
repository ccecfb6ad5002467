"""The gate before the real eScriptorium: who may do what, with accounts that are made on the frontend.

PLATFORM_INVENTORY=molecule/acceptance/inventory PLATFORM_ANSIBLE=.venv/bin (and what test_platform.py needs)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests
from client import Account, step
from frontend import needs_frontend, shell
from gate_table import CLEAN, SETUP, STATE, World, differences, wrong_grants, wrong_refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_frontend


@pytest.fixture(scope="module")
def world(account: Account) -> Iterator[World]:
    """Give the accounts and objects of the table."""

    def fresh() -> requests.Session:
        made = requests.Session()
        made.verify, made.trust_env = account.ca or True, not account.ca
        return made

    with step("make accounts, documents and models"):
        found = shell(SETUP)
    made = World(account.url, found, fresh)
    yield made
    made.close()
    with step("take them away"):
        shell(f"{CLEAN}\nprint(0)")


def test_what_is_not_theirs_is_refused_and_nothing_changes(world: World) -> None:
    before = shell(STATE)
    with step("ask for what is not theirs"):
        assert "\n".join(wrong_refusals(world, stand_in=False)) == ""
    assert differences(before, shell(STATE)) == "{}"


def test_what_is_theirs_goes_on_working(world: World) -> None:
    with step("ask for what is theirs"):
        assert "\n".join(wrong_grants(world, stand_in=False)) == ""


def test_the_table_knows_all_views_of_the_release() -> None:
    code = (
        "import json\nfrom escriptorium_cluster.gate.release import view_problems\nprint(json.dumps(view_problems()))"
    )
    with step("look for views that the gate does not know"):
        assert shell(code) == []
