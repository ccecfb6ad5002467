"""Who may connect to which port of which host, from the inventory; and the lines of nftables that say so.

No Ansible import. ``DOORS`` is the one table of ports: docs/security.md shows it, and a test compares the two. Plays
ask by the lookup ``topology``, the template of the role firewall by the filter ``firewall_rules``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from .platform_networks import near
from .platform_problems import Inventory, Problem, Rule, given, quote
from .platform_topology import BROKER, DATABASE, POOL, SSH_PORT, TREE, Topology

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .platform_variables import Catalogue

#: In a list of networks: everybody.
ANY: Final = "any"
SSH: Final = "ssh"
WEB: Final = "web"
TUNNEL: Final = "tunnel"
#: The tunnel's network card, as the role wireguard names it.
CARD: Final = "wg-tree"
PROTOCOLS: Final = ("tcp", "udp")
EXTRA_RULES: Final = "firewall_extra_rules"
#: Keys of a rule of the operator's.
KEYS: Final = ("ports", "networks", "protocol", "why")
LAST_PORT: Final = 65535
#: What a comment of nftables holds (128 bytes at most, no quotation mark).
_WHY: Final = re.compile(r"[^\"\\\n]{0,100}", re.ASCII)
_RANGE: Final = re.compile(r"(\d{1,5})-(\d{1,5})")


@dataclass(frozen=True)
class Door:
    """A port of a kind of host that others need.

    Attributes:
        duty: the hosts that have it: ``frontend``, ``storage``, ``replicas``, ``compute``.
        service: its name, as ports are named by it.
        clients: service of ``Topology.clients`` or duty whose hosts need it; ``ANY``: everybody does.
        why: for people: in docs/security.md, and beside the rule.
        protocol: of its ports: ``tcp`` or ``udp``.

    """

    duty: str
    service: str
    clients: str
    why: str
    protocol: str = "tcp"


#: Beside ssh, which every host answers (``firewall_admin_networks``).
DOORS: Final = (
    Door("frontend", WEB, ANY, "pages, and the way to them"),
    Door("frontend", DATABASE, DATABASE, "PostgreSQL"),
    Door("frontend", BROKER, BROKER, "Redis"),
    Door("storage", TREE, TREE, "NFS"),
    Door("storage", TUNNEL, TREE, "NFS, encrypted: then 2049 is open inside only", "udp"),
    Door("frontend", SSH, "storage", "backups are fetched"),
    Door("storage", SSH, "frontend", "changes of the database are archived"),
    Door("storage", SSH, POOL, "snapshots are copied"),
)


def clients(topology: Topology, door: Door, host: str) -> tuple[str, ...]:
    """Return the hosts that need a door of a host; the host itself is none: what it says to itself is let through."""
    if door.clients in (DATABASE, BROKER, TREE, POOL):
        found = topology.clients(door.clients)
    else:
        found = tuple(getattr(topology, door.clients))
    return tuple(client for client in found if client != host)


def doors(
    topology: Topology,
    host: str,
    ports: Mapping[str, Sequence[int]],
    addresses: Mapping[str, str],
    inside: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return what a host answers beside ssh, as rules of the role firewall: ``why``, ``ports``, ``networks``.

    Args:
        topology: who is who.
        host: whose rules.
        ports: of each service; one without ports, such as NFS where the site mounts by itself, has no door.
        addresses: private address of each host.
        inside: address in the tunnel of each host that is in it. Where there are any the tree is served there only.

    """
    found = []
    for door in _of(topology, host):
        within = bool(inside) and door.service == TREE
        known = inside if inside and within else addresses
        networks = [ANY] if door.clients == ANY else [known[client] for client in clients(topology, door, host)]
        if door.service == SSH or not networks or not ports.get(door.service):
            continue
        rule = {"why": door.why, "ports": [*dict.fromkeys(ports[door.service])], "networks": networks}
        found.append(
            rule | ({"protocol": "udp"} if door.protocol == "udp" else {}) | ({"card": CARD} if within else {})
        )
    return found


def ssh_clients(topology: Topology, host: str) -> tuple[str, ...]:
    """Return the hosts that need the ssh of a host: backups, copies."""
    found = [client for door in _of(topology, host) if door.service == SSH for client in clients(topology, door, host)]
    return tuple(dict.fromkeys(found))


def _of(topology: Topology, host: str) -> list[Door]:
    return [door for door in DOORS if host in getattr(topology, door.duty)]


def ssh_ports(values: Mapping[str, Any]) -> list[int]:
    """Return the ports of ssh that an inventory names for a host: that of Ansible, and that of the other hosts.

    What its sshd listens on beside them is looked for on the host. A port that leads to another one there opens
    nothing: no service has it.
    """
    named = [int(values[name]) for name in ("private_ssh_port", "ansible_port") if name in values]
    return sorted(set(named)) or [SSH_PORT]


# --- lines of nftables ------------------------------------------------------------------------------------------------


def rule_lines(rules: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the lines of nftables that accept what rules name; one for IPv4 and one for IPv6 where networks differ.

    ``ports`` is a list, or the name of a set of nftables; ``card`` that by which packets have to come.

    Raises:
        ValueError: a network is none. The check of the inventory has refused it before.

    """
    lines = []
    for rule in rules:
        ports = rule["ports"] if isinstance(rule["ports"], str) else _set(map(str, rule["ports"]))
        comment = f' comment "{rule["why"]}"' if rule.get("why") else ""
        card = [f'iifname "{rule["card"]}"'] if rule.get("card") else []
        lines += [
            " ".join([*card, *source, rule.get("protocol", "tcp"), "dport", ports, f"accept{comment}"])
            for source in sources(rule["networks"])
        ]
    return lines


def sources(networks: Iterable[str]) -> list[list[str]]:
    """Return the words of nftables for where packets come from: one list of them for each version of IP."""
    names = list(networks)
    if ANY in names:
        return [[]]
    found = []
    parsed = [ipaddress.ip_network(name) for name in names]
    v4 = [network for network in parsed if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in parsed if isinstance(network, ipaddress.IPv6Network)]
    # nftables refuses a set whose networks overlap.
    if v4:
        found.append(["ip", "saddr", _set(map(_short, ipaddress.collapse_addresses(v4)))])
    if v6:
        found.append(["ip6", "saddr", _set(map(_short, ipaddress.collapse_addresses(v6)))])
    return found


def _short(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address if network.num_addresses == 1 else network)


def _set(members: Iterable[str]) -> str:
    return f"{{ {', '.join(members)} }}"


# --- the operator's own rules -----------------------------------------------------------------------------------------


def rule_extra_rules(inventory: Inventory, _: Catalogue) -> Iterator[Problem]:
    """Each rule of the operator's opens a port of every host that has it: nothing in it may mean more than it says."""
    for host, value in given(inventory, EXTRA_RULES, list):
        for index, rule in enumerate(value):
            if isinstance(rule, dict):
                for key, found, wanted, mend in _wrong(rule):
                    yield Problem(host, f"{EXTRA_RULES}[{index}].{key}", found, wanted, mend)


def _wrong(rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, found, wanted, mend) of what is wrong in a rule; its keys and their types were checked already."""
    ports = rule.get("ports")
    if isinstance(ports, list):
        if not ports:
            yield "ports", "no port", "one port or more", "name the ports of the program, or take the rule out"
        for port in ports:
            if not _is_port(port):
                yield (
                    "ports",
                    quote(port),
                    f"a port from 1 to {LAST_PORT}, or two with a hyphen",
                    "e.g. 10050, 6000-6010",
                )
        if ports and all(map(_is_port, ports)) and _overlap(ports):
            yield "ports", quote(ports), "each port once", "leave out what another one holds"
    networks = rule.get("networks")
    if isinstance(networks, list):
        if not networks:
            yield "networks", "no network", "one network or more", f"name who may connect; {ANY} for everybody"
        for network in networks:
            if not _is_network(network):
                yield "networks", quote(network), f"a network, an address, or {ANY}", near(str(network))
    why = rule.get("why")
    if isinstance(why, str) and not _WHY.fullmatch(why):
        mend = "write it shorter, without quotation marks and other letters than English ones"
        yield "why", quote(why), "a comment of 100 characters at most", mend


def _bounds(port: Any) -> tuple[int, int] | None:
    """Return the first and the last port that a port or a range means; None where it is none."""
    if isinstance(port, int) and not isinstance(port, bool):
        return port, port
    text = str(port)
    if text.isascii() and text.isdigit():
        return int(text), int(text)
    match = _RANGE.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def _is_port(port: Any) -> bool:
    bounds = _bounds(port)
    return bounds is not None and 1 <= bounds[0] <= bounds[1] <= LAST_PORT


def _overlap(ports: Iterable[Any]) -> bool:
    ranges = sorted(bounds for port in ports if (bounds := _bounds(port)))
    return any(one[1] >= other[0] for one, other in pairwise(ranges))


def _is_network(text: Any) -> bool:
    if text == ANY or not isinstance(text, str) or "{{" in text:
        return text == ANY or isinstance(text, str)
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


FIREWALL_RULES: Final[tuple[Rule, ...]] = (rule_extra_rules,)
