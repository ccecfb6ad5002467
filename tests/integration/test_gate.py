"""The gate beside a real application: who may do what over HTTP and WebSocket, and what ends a key."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import requests
import websocket
from application_bench import START
from client import Account, Client, wait_until
from gate_table import PASSWORD, SECRET, SETUP, STATE, World, differences, wrong_grants, wrong_refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from application_bench import Bench

HOST = {"Host": "htr.test"}


def answers(url: str) -> bool:
    """Whether a server listens."""
    try:
        requests.get(url, headers=HOST, timeout=10)
    except requests.RequestException:  # not there yet, or listening while it still loads
        return False
    return True


@pytest.fixture(scope="module")
def web(bench: Bench) -> str:
    """Start Daphne for pages; return the web address."""
    bench.prepare()
    bench.start(
        "web", "daphne", "--bind", "127.0.0.1", "--port", str(bench.ports["web"]), "-v", "1",
        "escriptorium.asgi:application",
    )  # fmt: skip
    wait_until(partial(answers, bench.url("web") + "/login/"), bool, START, "web", 0.1)
    return bench.url("web")


@pytest.fixture(scope="module")
def world(bench: Bench, web: str) -> World:
    """Give the accounts and objects of the table."""
    return World(web, bench.shell(SETUP))


def test_what_is_not_theirs_is_refused_and_nothing_changes(bench: Bench, world: World) -> None:
    before = bench.shell(STATE)
    assert "\n".join(wrong_refusals(world, stand_in=bench.stand_in)) == ""
    assert differences(before, bench.shell(STATE)) == "{}"


def test_what_is_theirs_goes_on_working(bench: Bench, world: World) -> None:
    assert "\n".join(wrong_grants(world, stand_in=bench.stand_in)) == ""
