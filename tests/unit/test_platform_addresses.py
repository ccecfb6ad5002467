"""Rules about the private network and its addresses: each wrong one gives its problem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from module_utils.platform_inventory import check_inventory
from module_utils.platform_problems import EVERY_HOST
from tests.unit.sound_inventory import CATALOGUE, inventory, only, problems


@pytest.mark.parametrize(
    "address", [None, "", "10.11.0.9", "10.10.0.0", "10.10.0.255", "fd00::1", "10.10.0.300", "cpu1", 7]
)
def test_wrong_private_address(address: Any) -> None:
    found = problems(cpu1={"private_address": address})
    assert {problem.variable for problem in found} == {"private_address"}
    assert "cpu1" in {problem.host for problem in found}


def test_missing_private_address() -> None:
    known = inventory()
    lacking = {name: value for name, value in known.variables["cpu1"].items() if name != "private_address"}
    found = check_inventory(replace(known, variables={**known.variables, "cpu1": lacking}), CATALOGUE)
    assert only(found).text().startswith("cpu1: private_address: found nothing, wanted an IPv4 address in 10.10.0.0/24")


def test_doubled_address() -> None:
    problem = only(problems(cpu1={"private_address": "10.10.0.20"}, cpu2={"private_address": "10.10.0.20"}))
    assert problem.host == "cpu1, cpu2"


@pytest.mark.parametrize(
    ("network", "mend"),
    [("10.10.0.7/24", "write 10.10.0.0/24"), ("10.10.0", "write the network's"), ("0.0.0.0/0", "name the network")],
)
def test_wrong_network(network: str, mend: str) -> None:
    problem = only(problems({"site_private_network": network}))
    assert problem.host == EVERY_HOST
    assert problem.mend.startswith(mend)


def test_private_network_has_no_ipv6() -> None:
    found = problems({"site_private_network": "fd00:10::/64"}, cpu1={"private_address": "fd00:10::10"})
    assert [problem.mend.split(":")[0] for problem in found] == ["IPv6 is not supported on the private network"] * 2
