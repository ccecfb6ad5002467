"""Rules about the private network, and the address of each host there.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from .platform_networks import near
from .platform_problems import UNRESOLVED, Inventory, Problem, given, listed, quote, show
from .platform_variables import PLATFORM_GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .platform_variables import Catalogue

# A private network wider than this is a mistake: 0.0.0.0/0 would open the database to everybody.
MIN_PREFIX_LENGTH = 8
# From here on a network has no address of its own (RFC 3021).
POINT_TO_POINT_PREFIX = 31

_NO_IPV6 = "IPv6 is not supported on the private network: give each host an IPv4 address there"


def _is_ipv6(value: Any) -> bool:
    try:
        return isinstance(value, str) and ipaddress.ip_interface(value).version == 6  # noqa: PLR2004
    except ValueError:
        return False


def _network(inventory: Inventory) -> ipaddress.IPv4Network | None:
    """Return the private network, where all hosts that have one agree on a valid one."""
    found = {
        inventory.value(host, "site_private_network")
        for host in inventory.hosts
        if isinstance(inventory.value(host, "site_private_network"), str)
    }
    if len(found) != 1:
        return None
    try:
        return ipaddress.IPv4Network(found.pop())
    except ValueError:
        return None


def rule_private_network(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Access to database, broker and shared tree is derived from this network, so it must be one network and narrow."""
    for host, value in given(inventory, "site_private_network", str):
        shown = show("site_private_network", value, catalogue)
        wanted = "an IPv4 network, e.g. 10.10.0.0/24"
        try:
            network = ipaddress.IPv4Network(value)
        except ValueError:
            mend = _NO_IPV6 if _is_ipv6(value) else near(value)
            yield Problem(host, "site_private_network", shown, wanted, mend)
            continue
        if network.prefixlen < MIN_PREFIX_LENGTH:
            yield Problem(
                host,
                "site_private_network",
                shown,
                f"a prefix length from {MIN_PREFIX_LENGTH}",
                "name the network of your hosts only: everything in it may reach the database",
            )


def rule_private_addresses(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Services listen on the private address and let in the private addresses of the others, so each host needs one."""
    network = _network(inventory)
    wanted = f"an IPv4 address in {network}" if network else "an IPv4 address in site_private_network"
    mend = "give the host its own address on the private network, e.g. " + (
        str(network[min(10, network.num_addresses - 1)]) if network else "10.10.0.10"
    )
    for host in inventory.members(*PLATFORM_GROUPS):
        value = inventory.value(host, "private_address")
        if value is UNRESOLVED:
            continue
        shown = show("private_address", value, catalogue)
        try:
            address = ipaddress.IPv4Address(str(value)) if value is not None else None
        except ValueError:
            address = None
        if address is None or (network is not None and address not in network):
            yield Problem(host, "private_address", shown, wanted, _NO_IPV6 if _is_ipv6(value) else mend)
        elif (
            network is not None
            and network.prefixlen < POINT_TO_POINT_PREFIX
            and address
            in (
                network.network_address,
                network.broadcast_address,
            )
        ):
            yield Problem(host, "private_address", f"{shown}, the network's own address", wanted, mend)


def rule_distinct_addresses(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Two hosts with one address are one machine described twice, or a line copied and not changed."""
    del catalogue
    owners: dict[str, list[str]] = {}
    for host in inventory.hosts:
        value = inventory.value(host, "private_address")
        if isinstance(value, str):
            owners.setdefault(value.strip(), []).append(host)
    for address, hosts in owners.items():
        if len(hosts) > 1:
            yield Problem(
                listed(hosts),
                "private_address",
                f"{quote(address)} {len(hosts)} times",
                "an address of its own for each host",
                "correct the copied address; one machine with several roles is one host in several groups",
            )
