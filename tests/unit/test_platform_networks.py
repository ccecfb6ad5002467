"""Rules about lists of networks: each wrong one, and each that opens too much, gives its problem."""

from __future__ import annotations

import pytest

from module_utils.platform_problems import EVERY_HOST
from tests.unit.sound_inventory import only, problems


@pytest.mark.parametrize("name", ["nginx_admin_networks", "nginx_trusted_proxies"])
@pytest.mark.parametrize(
    ("text", "mend"),
    [("192.0.2.7/24", "write 192.0.2.0/24"), ("campus", "write the network's"), ("2001:db8::g", "write the network's")],
)
def test_wrong_entry_of_a_list_of_networks(name: str, text: str, mend: str) -> None:
    problem = only(problems({name: ["192.0.2.1", "2001:db8::/32", text]}))
    assert (problem.host, problem.variable) == (EVERY_HOST, f"{name}[2]")
    assert problem.mend.startswith(mend)


def test_proxies_are_not_everybody() -> None:
    assert only(problems({"nginx_trusted_proxies": ["0.0.0.0/0"]})).mend.startswith("name your proxies only")


@pytest.mark.parametrize(
    ("name", "network", "wanted", "mend"),
    [
        ("nginx_media_open_networks", "10.20.0.7/16", "a network", "write 10.20.0.0/16"),
        ("nginx_media_open_networks", "all; } ", "a network", "write the network's address"),
        ("nginx_media_open_networks", "0.0.0.0/0", "a prefix length from 8", "name the networks"),
        ("nginx_media_open_networks", "::/0", "a prefix length from 19", "name the networks"),
        ("escriptorium_import_internal_networks", "library.example.org", "a network", "write the network's address"),
        ("escriptorium_import_internal_networks", "169.254.169.254/32", "no address of a host itself", "name the"),
        ("escriptorium_import_internal_networks", "127.0.0.1", "no address of a host itself", "name the"),
        ("escriptorium_import_internal_networks", "fe80::/64", "no address of a host itself", "name the"),
    ],
)
def test_networks_that_open_too_much(name: str, network: str, wanted: str, mend: str) -> None:
    problem = only(problems({name: ["10.20.0.0/16", network]}))
    assert (problem.host, problem.variable) == (EVERY_HOST, f"{name}[1]")
    assert problem.wanted.startswith(wanted)
    assert problem.mend.startswith(mend)


@pytest.mark.parametrize("network", ["10.20.0.0/16", "10.20.30.40", "192.0.2.7/32", "2001:db8::/32"])
def test_networks_that_are_sound(network: str) -> None:
    given = {"nginx_media_open_networks": [network], "escriptorium_import_internal_networks": [network]}
    assert problems(given) == []
