"""The gate before the real eScriptorium: who may do what, with accounts that are made on the frontend.

PLATFORM_INVENTORY=molecule/acceptance/inventory PLATFORM_ANSIBLE=.venv/bin (and what test_platform.py needs)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from client import Account, step
from gate_table import CLEAN, SETUP, STATE, World, differences, wrong_grants, wrong_refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("PLATFORM_INVENTORY", "PLATFORM_ANSIBLE")
pytestmark = pytest.mark.skipif(
    not all(os.environ.get(name) for name in NEEDED), reason=f"{', '.join(NEEDED)} do not name a platform"
)


def shell(code: str) -> Any:
    """Run code inside Django on the frontend and return the JSON that it prints last."""
    arguments = json.dumps({"cmd": "/usr/local/bin/escriptorium-manage shell", "stdin": code})
    command = [
        str(Path(os.environ["PLATFORM_ANSIBLE"]) / "ansible"), "--inventory", os.environ["PLATFORM_INVENTORY"],
        "frontend", "--become", "--module-name", "ansible.builtin.command", "--args", arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^[{\[0].*$", done.stdout, re.MULTILINE)
    return json.loads(found[-1])


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
