"""Which hosts plays leave out: the lookup absent_hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ansible.parsing.dataloader import DataLoader

from lookup_plugins.absent_hosts import LookupModule

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
