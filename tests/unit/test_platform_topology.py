"""Who is who: decided once, for the check of the inventory and for the plays, of an inventory that is read once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from lookup_plugins.absent_hosts import LookupModule as AbsentHosts
from lookup_plugins.topology import PLAIN
from lookup_plugins.topology import LookupModule as TopologyLookup
from module_utils import platform_topology
from module_utils.platform_catalogue import derived_variables, load_catalogue
from module_utils.platform_queues import gpu_hosts, who_is_who
from module_utils.platform_topology import SERVICES, Topology, ssh_port, topology
from tests.unit.sound_inventory import inventory

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = {
    "frontend": ["web"],
    "storage": ["store"],
    "replica": ["copy"],
    "compute": ["node2", "Node1", "node3", "store"],
    "hypervisor": ["iron"],
}
CARD = {"model": "A100-40GB", "pci_address": "0000:17:00.0", "backend": "none"}


def test_absent_hosts_have_left_and_drained_ones_have_not() -> None:
    site = topology(GROUPS, {"node2": "absent", "node3": "drained", "Node1": "active"})
    assert (site.compute, site.absent) == (("Node1", "node3", "store"), ("node2",))
    assert site.members == ("copy", "Node1", "node3", "store", "web")
    assert site.application == ("Node1", "node3", "store", "web")


@pytest.mark.parametrize(
    ("service", "clients"),
    [
        ("database", ("Node1", "node2", "store", "web")),
        ("broker", ("Node1", "node2", "store", "web")),
        ("tree", ("Node1", "node2", "web")),
        ("pool", ("copy",)),
    ],
)
def test_each_service_lets_in_those_that_need_it(service: str, clients: tuple[str, ...]) -> None:
    assert topology(GROUPS, {"node3": "absent"}).clients(service) == clients


def test_a_service_that_is_none() -> None:
    with pytest.raises(ValueError, match="unknown service 'mail'; known are database, broker, tree, pool"):
        Topology().clients("mail")


def test_compute_hosts_know_the_servers_only() -> None:
    site = topology(GROUPS, {})
    assert site.known_to("node2") == ("copy", "node2", "store", "web")
    assert site.known_to("iron") == ("copy", "iron", "store", "web")
    for server in ("web", "store", "copy"):
        assert site.known_to(server) == site.members


def test_hosts_with_cards_for_workers() -> None:
    virtual = {**CARD, "backend": "vgpu"}
    cards = {"node2": [CARD], "Node1": [CARD], "node3": [virtual], "web": [CARD], "store": []}
    assert topology(GROUPS, {"node2": "absent"}).gpu_hosts(cards) == ("Node1",)


@pytest.mark.parametrize(
    ("values", "port"),
    [
        ({}, 22),
        ({"ansible_port": "2222"}, 2222),
        ({"ansible_port": 2222, "private_ssh_port": 22}, 22),
    ],
)
def test_port_of_ssh(values: dict[str, Any], port: int) -> None:
    assert ssh_port(values) == port


# --- as plays ask -----------------------------------------------------------------------------------------------------

INVENTORY = """
all:
  vars: {ours: [{name: gpu1}], network: 10.10.0}
  children:
    frontend: {hosts: {web: {private_address: 10.10.0.10}}}
    storage: {hosts: {store: {private_address: 10.10.0.11}}}
    compute:
      hosts:
        node1: {private_address: 10.10.0.21}
        node2: {private_address: 10.10.0.22, gpu_partition_cards: [{name: gpu0}]}
        node3: {private_address: "{{ network }}.23", gpu_partition_cards: "{{ ours }}"}
        node4: {private_address: 10.10.0.24, compute_state: absent, gpu_partition_cards: [{name: gpu0}]}
"""


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Any]:
    source = tmp_path / "hosts.yml"
    source.write_text(INVENTORY)
    # No other host is asked: each look puts all variables of one together.
    asked = {"node3": {"gpu_partition_cards": [{"name": "gpu1"}], "private_address": "10.10.0.23"}}
    return {"ansible_inventory_sources": [str(source)], "hostvars": asked}


def ask(known: dict[str, Any], *terms: Any, loader: DataLoader | None = None) -> Any:
    (answer,) = TopologyLookup(loader=loader or DataLoader()).run(terms, known)
    return answer


def test_questions_of_plays(known: dict[str, Any]) -> None:
    assert ask(known, "absent") == ["node4"]
    assert ask(known, "application") == ["node1", "node2", "node3", "web"]
    assert ask(known, "members") == ["node1", "node2", "node3", "store", "web"]
    assert ask(known, "gpu_hosts") == ["node2", "node3"]
    assert ask(known, "known_to", "node1") == ["node1", "store", "web"]
    assert ask(known, "addresses", ["web", "node3"]) == {"web": "10.10.0.10", "node3": "10.10.0.23"}
    assert ask(known, "clients", "tree") == ["10.10.0.21", "10.10.0.22", "10.10.0.23", "10.10.0.10"]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (["clients", "mail"], "unknown service 'mail'"),
        (["hosts"], "there is no such question: hosts"),
        (["addresses", ["stranger"]], "the inventory has no private_address of stranger"),
    ],
)
def test_questions_without_an_answer(terms: list[Any], message: str, known: dict[str, Any]) -> None:
    with pytest.raises(AnsibleLookupError, match=message):
        ask(known, *terms)


def test_the_inventory_is_read_once_for_a_run(known: dict[str, Any], tmp_path: Path) -> None:
    loader = DataLoader()
    first = ask(known, "application", loader=loader)
    (tmp_path / "hosts.yml").write_text(INVENTORY.replace("node1", "another"))
    assert ask(known, "application", loader=loader) == first
    assert ask(known, "application") != first, "another run"


def test_what_plays_choose_their_hosts_by_has_one_meaning_or_none(known: dict[str, Any], tmp_path: Path) -> None:
    """Before: a template that gives `absent` was absent for the check, and present in every play."""
    (tmp_path / "hosts.yml").write_text(INVENTORY.replace("compute_state: absent", 'compute_state: "{{ gone }}"'))
    for lookup in (AbsentHosts, TopologyLookup):
        with pytest.raises(AnsibleError, match="compute_state of node4 is a template: write it out"):
            lookup(loader=DataLoader()).run(["members"], known)


# --- one decision -----------------------------------------------------------------------------------------------------


def test_check_and_plays_believe_the_same(known: dict[str, Any], tmp_path: Path) -> None:
    """The same inventory, as the check of it has it and as plays have it."""
    site = inventory(cpu1={"compute_state": "absent"}, cpu2={"gpu_partition_cards": [CARD]})
    groups: dict[str, Any] = {
        group: {"hosts": dict.fromkeys(hosts)} for group, hosts in site.groups.items() if group != "all"
    }
    written = {"all": {"hosts": {host: dict(site.variables[host]) for host in site.hosts}, "children": groups}}
    (tmp_path / "hosts.yml").write_text(json.dumps(written))
    believed = who_is_who(site)
    for question in PLAIN:
        assert sorted(ask(known, question)) == sorted(getattr(believed, question))
    assert ask(known, "gpu_hosts") == list(gpu_hosts(site)) == ["cpu2"]
    for service in SERVICES:
        assert len(ask(known, "clients", service)) == len(believed.clients(service))


def test_group_vars_ask_and_decide_nothing(root: Path) -> None:
    """Logic of many hosts is Python: no template there looks at two groups, or goes through hosts.

    Nor is a list made by a filter that answers in the order of a set, which is another one in each run: before, the
    storage host of several clients got its exports anew each time.
    """
    _, expressions = derived_variables(root)
    for name, value in expressions.items():
        if isinstance(value, str):
            assert value.count("groups[") < 2, name
            assert "map('extract', hostvars" not in value, name
            assert "{%" not in value, name
            assert not re.search(r"\b(difference|intersect|symmetric_difference|union)\(", value), name


@pytest.mark.usefixtures("ansible_plugins")
@pytest.mark.parametrize(
    ("given", "wanted"), [({}, 8), ({"escriptorium_web_processes": 3}, 3), ({"escriptorium_web_processes": 0}, 8)]
)
def test_processes_of_the_web_application(root: Path, given: dict[str, int], wanted: int) -> None:
    loader = DataLoader()
    known: dict[str, Any] = {"ansible_facts": {"processor_vcpus": 16}}
    for part in ("defaults", "vars"):
        path = root / "roles/escriptorium_web" / part / "main.yml"
        known |= loader.load_from_file(str(path), trusted_as_template=True)
    found = Templar(loader=loader, variables=known | given).template(known["__escriptorium_web_processes"])
    assert found == wanted


def test_names_of_states_are_those_that_may_be_written(root: Path) -> None:
    choices = load_catalogue(root).variables[platform_topology.STATE].choices
    assert {platform_topology.ABSENT, platform_topology.DRAINED} < set(choices)
