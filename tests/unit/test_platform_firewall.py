"""What each host answers: derived from the inventory, as docs/security.md has it, and as nftables reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from module_utils import platform_firewall as firewall
from module_utils.platform_catalogue import load_catalogue
from module_utils.platform_inventory import check_inventory
from module_utils.platform_topology import Topology
from tests.unit.sound_inventory import inventory

ROOT = Path(__file__).resolve().parents[2]
SITE = Topology(frontend=("front",), storage=("store",), replicas=("copy",), compute=("n1", "n2"))
ADDRESSES = {"front": "10.0.0.1", "store": "10.0.0.2", "copy": "10.0.0.3", "n1": "10.0.0.4", "n2": "10.0.0.5"}
PORTS = {"web": [80, 443], "database": [5432], "broker": [6379, 6380], "tree": [2049], "tunnel": []}
INSIDE = {"store": "198.18.0.2", "front": "198.18.0.1", "n1": "198.18.0.4", "n2": "198.18.0.5"}
#: As docs/security.md names hosts: those of a duty, and those that a door lets in.
DUTIES = {"frontend": "frontend", "storage": "storage", "replicas": "replica", "compute": "compute"}
CLIENTS = {
    "any": "everybody", "database": "compute", "broker": "compute", "tree": "frontend, compute", "storage": "storage",
    "frontend": "frontend", "pool": "replica",
}  # fmt: skip


def opened(host: str, ports: dict[str, list[int]] = PORTS, site: Topology = SITE) -> dict[int, list[str]]:
    rules = firewall.doors(site, host, ports, ADDRESSES)
    return {port: rule["networks"] for rule in rules for port in rule["ports"]}


def test_each_host_answers_what_its_groups_need_and_no_more() -> None:
    workers = [ADDRESSES["n1"], ADDRESSES["n2"]]
    assert opened("front") == {80: ["any"], 443: ["any"], 5432: workers, 6379: workers, 6380: workers}
    assert opened("store") == {2049: [ADDRESSES["front"], *workers]}
    assert opened("n1") == opened("copy") == {}


def test_hosts_that_fetch_backups_and_snapshots_need_ssh() -> None:
    found = {host: firewall.ssh_clients(SITE, host) for host in ADDRESSES}
    assert found == {"front": ("store",), "store": ("front", "copy"), "copy": (), "n1": (), "n2": ()}


def test_one_machine_answers_pages_only() -> None:
    one = Topology(frontend=("front",), storage=("front",), compute=("front",))
    assert opened("front", site=one) == {80: ["any"], 443: ["any"]}
    assert firewall.ssh_clients(one, "front") == ()


def test_a_tree_that_the_site_mounts_itself_has_no_door() -> None:
    assert opened("store", {**PORTS, "tree": []}) == {}


def test_an_encrypted_tree_is_answered_in_the_tunnel_only() -> None:
    rules = {
        rule["ports"][0]: rule
        for rule in firewall.doors(SITE, "store", {**PORTS, "tunnel": [51820]}, ADDRESSES, INSIDE)
    }
    clients = ("front", "n1", "n2")
    assert rules.keys() == {2049, 51820}
    assert rules[51820]["protocol"] == "udp"
    assert rules[51820]["networks"] == [ADDRESSES[host] for host in clients]
    assert rules[2049]["networks"] == [INSIDE[host] for host in clients]
    (line,) = firewall.rule_lines([rules[2049]])
    assert line.startswith('iifname "wg-tree" ip saddr { 198.18.0.1, 198.18.0.4/31 } tcp dport { 2049 } accept')
    assert firewall.doors(SITE, "n1", {**PORTS, "tunnel": [51820]}, ADDRESSES, INSIDE) == []


def test_the_card_of_the_tunnel_is_that_of_its_role(root: Path) -> None:
    assert f"__wireguard_card: {firewall.CARD}\n" in (root / "roles/wireguard/vars/main.yml").read_text()


def test_ports_are_those_of_the_roles() -> None:
    workers = [ADDRESSES["n1"], ADDRESSES["n2"]]
    found = opened("front", {**PORTS, "database": [6432], "broker": [6379, 6380]})
    assert found == {80: ["any"], 443: ["any"], 6432: workers, 6379: workers, 6380: workers}


def test_the_table_of_the_documentation_is_the_derived_one() -> None:
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (\w+) \| ([\d, ]+(?:/udp)?) \| ([\w, ]+) \| ([^|]+) \|$", text.split("<!-- ports -->")[1], re.MULTILINE
    )
    expected = [("every", "22", "firewall_admin_networks", "ssh")]
    for door in firewall.DOORS:
        ports = ", ".join(map(str, {**PORTS, "tunnel": [51820]}.get(door.service, [22])))
        ports += "/udp" * (door.protocol == "udp")
        expected.append((DUTIES[door.duty], ports, CLIENTS[door.clients], door.why))
    assert rows == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [22]),
        ({"ansible_port": "2222"}, [2222]),
        # A port of this computer leads to the host, whose own is another one.
        ({"ansible_port": 22821, "private_ssh_port": 22}, [22, 22821]),
    ],
)
def test_ports_of_ssh_that_the_inventory_names(values: dict[str, Any], expected: list[int]) -> None:
    assert firewall.ssh_ports(values) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            {"why": "web", "ports": [80, 443], "networks": ["any"]},
            ['tcp dport { 80, 443 } accept comment "web"'],
        ),
        (
            {"ports": ["6000-6010"], "networks": ["2001:db8::/48", "10.0.0.1"], "protocol": "udp"},
            [
                "ip saddr { 10.0.0.1 } udp dport { 6000-6010 } accept",
                "ip6 saddr { 2001:db8::/48 } udp dport { 6000-6010 } accept",
            ],
        ),
        # nftables refuses a set whose networks overlap.
        (
            {"why": "ssh", "ports": "@ssh_ports", "networks": ["10.1.0.0/16", "10.0.0.0/8", "10.2.0.3"]},
            ['ip saddr { 10.0.0.0/8 } tcp dport @ssh_ports accept comment "ssh"'],
        ),
        ({"ports": [1], "networks": []}, []),
    ],
)
def test_lines_of_nftables(rule: dict[str, Any], expected: list[str]) -> None:
    assert firewall.rule_lines([rule]) == expected


GOOD = {"ports": [10050, "6000-6010"], "networks": ["192.0.2.7", "2001:db8::/48"], "protocol": "tcp", "why": "Zabbix"}


def problems(**changes: Any) -> list[tuple[str, str]]:
    found = check_inventory(
        inventory({"firewall_extra_rules": [{**GOOD, **changes}]}), load_catalogue(ROOT), secrets_required=False
    )
    return [(problem.variable, problem.found) for problem in found if problem.variable.startswith("firewall")]


def test_a_right_rule_of_the_operator_passes() -> None:
    assert problems() == problems(networks=["any"]) == problems(ports=["22"]) == []


@pytest.mark.parametrize(
    ("changes", "key", "found"),
    [
        ({"ports": [0]}, "ports", "0"),
        ({"ports": [65536]}, "ports", "65536"),
        ({"ports": ["10-9"]}, "ports", "'10-9'"),
        ({"ports": ["22; flush ruleset"]}, "ports", "'22; flush ruleset'"),
        ({"ports": ["1-5", 3]}, "ports", "['1-5', 3]"),
        ({"ports": []}, "ports", "no port"),
        ({"ports": [True]}, "ports", "True"),
        ({"networks": []}, "networks", "no network"),
        ({"networks": ["10.0.0.1/8"]}, "networks", "'10.0.0.1/8'"),
        ({"networks": ["everybody"]}, "networks", "'everybody'"),
        ({"why": 'a" accept; drop'}, "why", "'a\" accept; drop'"),
        ({"why": "x" * 101}, "why", "'" + "x" * 76 + "..."),
    ],
)
def test_a_wrong_rule_of_the_operator_is_refused(changes: dict[str, Any], key: str, found: str) -> None:
    assert problems(**changes) == [(f"firewall_extra_rules[0].{key}", found)]


def test_what_is_no_rule_is_refused() -> None:
    assert problems(protocol="icmp") == [("firewall_extra_rules[0].protocol", "'icmp'")]
    assert [name for name, _ in problems(port=1)] == ["firewall_extra_rules[0].port"]
