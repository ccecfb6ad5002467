"""The tunnel in which NFS crosses the private network: who is in it, by which address, and what of it is refused.

No Ansible import. A host's address in the tunnel is its place in the private network, in the network of the tunnel: the
21st address of one is the 21st of the other. So it follows from the host alone, and stays when others join or leave.
Keys are in platform_tunnel_keys.py; see platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

from .platform_networks import near
from .platform_problems import UNRESOLVED, Inventory, Problem, Rule, given, quote
from .platform_topology import TREE, topology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .platform_topology import Topology
    from .platform_variables import Catalogue

ENCRYPTION: Final = "storage_encryption"
WIREGUARD: Final = "wireguard"
TRANSPORT: Final = "storage_transport"
NETWORK: Final = "storage_encryption_network"
PRIVATE_NETWORK: Final = "site_private_network"
#: Kept for measurements between networks (RFC 2544), so that neither a site nor the internet has it.
DEFAULT_NETWORK: Final = "198.18.0.0/16"
#: Seconds between two packets of a client that has nothing to say: firewalls forget UDP after 30 s.
KEEPALIVE: Final = 25
#: Bytes of the headers of WireGuard over IPv6; 20 fewer over IPv4.
OVERHEAD: Final = 80


def members(site: Topology) -> tuple[str, ...]:
    """Return the hosts in the tunnel: that with the tree and those that mount it; none where nobody mounts it."""
    clients = site.clients(TREE)
    return (*site.storage, *clients) if clients else ()


def address(private_address: str, private_network: str, network: str) -> str:
    """Return the address in the tunnel of a host, by its private one.

    Raises:
        ValueError: the tunnel's network has no such place, or one of the three is none.

    """
    inner = ipaddress.IPv4Network(network)
    place = int(ipaddress.IPv4Address(private_address)) - int(ipaddress.IPv4Network(private_network).network_address)
    if not 0 < place < inner.num_addresses - 1:
        raise ValueError(f"{network} has no place for {private_address} of {private_network}")
    return str(inner.network_address + place)


def addresses(
    site: Topology, private_addresses: Mapping[str, str], private_network: str, network: str
) -> dict[str, str]:
    """Return the address in the tunnel of each host that is in it.

    Raises:
        ValueError: the tunnel's network has no place for one. The check of the inventory has refused it before.

    """
    return {host: address(private_addresses[host], private_network, network) for host in members(site)}


def peers(
    site: Topology,
    host: str,
    inside: Mapping[str, str],
    endpoint: str,
    public_key: Callable[[str], str],
) -> list[dict[str, Any]]:
    """Return with whom a host speaks in the tunnel, as the role wireguard takes it.

    Clients speak with the storage host alone, and begin: it learns from the first packet where each of them is, and
    answers there. So only its firewall has a door.

    Args:
        site: who is who.
        host: whose peers.
        inside: address in the tunnel of each host.
        endpoint: address and UDP port of the storage host outside.
        public_key: gives that of a host.

    """
    if host not in inside:
        return []
    serves = host in site.storage
    found = []
    for other in inside:
        if (other in site.storage) == serves:
            continue
        peer: dict[str, Any] = {"name": other, "public_key": public_key(other), "address": inside[other]}
        if not serves:
            peer |= {"endpoint": endpoint, "keepalive": KEEPALIVE}
        found.append(peer)
    return found


# --- rules ------------------------------------------------------------------------------------------------------------


def wanted(inventory: Inventory, host: str, catalogue: Catalogue) -> bool:
    """Tell whether NFS is to be encrypted, as far as it is known."""
    return bool(inventory.effective(host, ENCRYPTION, catalogue) == WIREGUARD)


def rule_tree_of_the_site(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse encryption of a tree that the site mounts by itself: it would be believed in, and nothing done for it."""
    for host, _ in given(inventory, ENCRYPTION, str):
        if wanted(inventory, host, catalogue) and inventory.effective(host, TRANSPORT, catalogue) == "preset":
            mend = f"encrypt your own mount, and take {ENCRYPTION} out; or set {TRANSPORT}: nfs"
            yield Problem(host, ENCRYPTION, quote(WIREGUARD), f"none with {TRANSPORT}: preset", mend)


def rule_tunnel_network(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want a network that nothing else has: hosts would look for its other addresses in the tunnel."""
    for host in inventory.hosts:
        if not wanted(inventory, host, catalogue):
            continue
        value = inventory.effective(host, NETWORK, catalogue)
        if not isinstance(value, str):
            continue
        try:
            network = ipaddress.IPv4Network(value)
        except ValueError:
            yield Problem(host, NETWORK, quote(value), f"an IPv4 network, e.g. {DEFAULT_NETWORK}", near(value))
            continue
        for name, taken in _taken(inventory, host):
            if network.overlaps(taken):
                found = f"{quote(value)}, which overlaps with {name} ({taken.with_prefixlen.removesuffix('/32')})"
                mend = f"name a network that nothing of your site has, e.g. {_free(inventory)}"
                yield Problem(host, NETWORK, found, "a network of the tunnel's own", mend)


def _taken(inventory: Inventory, host: str) -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    """Yield what a host has of networks and addresses, by the names of variables; the private network has the rest."""
    for name in (PRIVATE_NETWORK, "private_address", "ansible_host"):
        try:
            yield name, ipaddress.IPv4Network(str(inventory.value(host, name)), strict=False)
        except ValueError:
            continue  # a name, or what other rules refuse


def _free(inventory: Inventory) -> str:
    """Return a network that overlaps with none of the inventory, as an example."""
    taken = [network for host in inventory.hosts for _, network in _taken(inventory, host)]
    for text in (DEFAULT_NETWORK, "10.254.0.0/16", "172.30.0.0/16"):
        if not any(ipaddress.IPv4Network(text).overlaps(network) for network in taken):
            return text
    return "another one of 10.0.0.0/8"


def rule_places_in_the_tunnel(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want a place for each host that is in the tunnel: its network may be smaller than the private one."""
    states = {host: inventory.value(host, "compute_state") for host in inventory.members("compute")}
    for host in members(topology(inventory.groups, states)):
        if not wanted(inventory, host, catalogue):
            continue
        values = [inventory.value(host, "private_address"), inventory.value(host, PRIVATE_NETWORK)]
        network = inventory.effective(host, NETWORK, catalogue)
        if UNRESOLVED in (*values, network):
            continue
        try:
            private = ipaddress.IPv4Network(str(values[1]))
            inside = ipaddress.IPv4Network(str(network))
            if ipaddress.IPv4Address(str(values[0])) not in private:
                continue
        except ValueError:
            continue  # other rules refuse them
        try:
            address(str(values[0]), str(private), str(inside))
        except ValueError:
            yield Problem(
                host,
                NETWORK,
                f"{quote(network)}, without a place for {values[0]} of {private}",
                "a network as large as site_private_network",
                f"name a network /{private.prefixlen} that nothing else has",
            )


TUNNEL_RULES: Final[tuple[Rule, ...]] = (rule_tree_of_the_site, rule_tunnel_network, rule_places_in_the_tunnel)
