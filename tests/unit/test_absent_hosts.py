"""What the inventory says of compute hosts, read once: lookups absent_hosts and cards_of_hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ansible.parsing.dataloader import DataLoader

from lookup_plugins.absent_hosts import LookupModule
from lookup_plugins.cards_of_hosts import LookupModule as CardsOfHosts

if TYPE_CHECKING:
    from pathlib import Path

INVENTORY = """
all:
  children:
    frontend: {hosts: {front: {}}}
    storage: {hosts: {store: {}}}
    compute:
      hosts:
        node1: {}
        node2: {compute_state: drained}
        node3: {compute_state: absent}
        node4: {compute_state: absent}
"""


@pytest.mark.parametrize(
    ("terms", "arguments", "pattern"),
    [
        ([], {}, ":!node3:!node4"),
        ([], {"only": True}, "node3:node4"),
        (["node4"], {"only": True}, "node4"),
        (["node1,node3"], {"only": True}, "node3"),
        (["front"], {"only": True}, ""),
    ],
)
def test_pattern_of_absent_hosts(terms: list[str], arguments: dict[str, bool], pattern: str, tmp_path: Path) -> None:
    source = tmp_path / "hosts.yml"
    source.write_text(INVENTORY)
    lookup = LookupModule(loader=DataLoader())
    assert lookup.run(terms, {"ansible_inventory_sources": [str(source)]}, **arguments) == [pattern]


def test_no_host_is_left_out_where_there_is_no_pool(tmp_path: Path) -> None:
    source = tmp_path / "hosts.yml"
    source.write_text("all: {hosts: {alone: {}}}\n")
    assert LookupModule(loader=DataLoader()).run([], {"ansible_inventory_sources": [str(source)]}) == [""]


CARDS = """
all:
  vars: {ours: [{name: gpu1}]}
  children:
    frontend: {hosts: {front: {}}}
    compute:
      hosts:
        node1: {}
        node2: {gpu_partition_cards: [{name: gpu0}]}
        node3: {gpu_partition_cards: "{{ ours }}"}
"""


def test_only_cards_that_a_template_gives_are_asked_of_their_host(tmp_path: Path) -> None:
    source = tmp_path / "hosts.yml"
    source.write_text(CARDS)
    known = {
        "ansible_inventory_sources": [str(source)],
        # No other host is asked: each look puts all variables of one together.
        "hostvars": {"node3": {"gpu_partition_cards": [{"name": "gpu1"}]}},
    }
    (cards,) = CardsOfHosts(loader=DataLoader()).run([], known)
    assert cards == {"node1": [], "node2": [{"name": "gpu0"}], "node3": [{"name": "gpu1"}]}


def test_the_inventory_is_read_once(tmp_path: Path) -> None:
    source = tmp_path / "hosts.yml"
    source.write_text(CARDS)
    known: dict[str, Any] = {
        "ansible_inventory_sources": [str(source)],
        "hostvars": {"node3": {"gpu_partition_cards": []}},
    }
    loader = DataLoader()
    first = CardsOfHosts(loader=loader).run([], known)
    source.write_text(CARDS.replace("gpu0", "another"))
    assert CardsOfHosts(loader=loader).run([], known) == first
