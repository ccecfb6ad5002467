"""The gate of a deployed site: who may do what, asked through nginx and uwsgi of accounts that the test makes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from gate_table import CLEAN, SETUP, STATE, World, differences, wrong_grants, wrong_refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support import Site

pytestmark = pytest.mark.scenario("cluster")


def shell(frontend: Any, code: str) -> Any:
    """Run code inside Django and return the JSON that it prints last."""
    return json.loads(frontend.check_output("/usr/local/bin/escriptorium-manage shell -c %s", code).splitlines()[-1])


@pytest.fixture(scope="module")
def world(site: Site, frontend: Any) -> Iterator[World]:
    """Give the accounts and objects of the table."""
    made = World(site.base, shell(frontend, SETUP), site.session, f"https://{site.domain}")
    yield made
    made.close()
    shell(frontend, f"{CLEAN}\nprint(0)")


def test_what_is_not_theirs_is_refused_and_nothing_changes(world: World, frontend: Any) -> None:
    before = shell(frontend, STATE)
    assert "\n".join(wrong_refusals(world, stand_in=True)) == ""
    assert differences(before, shell(frontend, STATE)) == "{}"


def test_what_is_theirs_goes_on_working(world: World) -> None:
    assert "\n".join(wrong_grants(world, stand_in=True)) == ""


def test_what_was_refused_is_in_the_journal(world: World, frontend: Any) -> None:
    assert world.found["stranger"]
    journal = frontend.check_output("journalctl --unit escriptorium-web --since -30min --no-pager --output cat")
    assert f"of user {world.found['stranger']}: " in journal
    assert "gate.middleware" in journal
