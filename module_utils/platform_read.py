"""What the inventory says of its hosts, read once for a run: a value that each host asks of all others.

Runs on the control machine, in plugins. ``hostvars`` puts all variables of a host together each time that it is asked:
with 64 hosts that ask each other, 4 096 times in one task. Plays ask for their hosts in Ansible's main process, whose
answers all later processes have from the start.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ansible.inventory.manager import InventoryManager
from ansible.vars.manager import VariableManager

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Variables that other hosts need.
NAMES = ("compute_state", "gpu_partition_cards")

_loaders: dict[int, Any] = {}


def operator_inventory(sources: Iterable[str], loader: Any) -> tuple[InventoryManager, VariableManager]:
    """Return the inventory, and what gives the variables that its operator wrote for a host, ``-e`` among them."""
    inventory = InventoryManager(loader=loader, sources=list(sources))
    manager = VariableManager(loader=loader, inventory=inventory)
    # Without this, group_vars beside the playbook (what the repository derives) would be mixed in.
    manager.safe_basedir = False
    return inventory, manager


def compute_values(sources: tuple[str, ...], loader: Any) -> dict[str, dict[str, Any]]:
    """Return ``NAMES`` of each compute host as the inventory has them, templates as they are written, and ``-e``."""
    _loaders[id(loader)] = loader
    return _compute_values(sources, id(loader))


@cache
def _compute_values(sources: tuple[str, ...], loader: int) -> dict[str, dict[str, Any]]:
    inventory, manager = operator_inventory(sources, _loaders[loader])
    found = {}
    for host in inventory.groups["compute"].get_hosts() if "compute" in inventory.groups else []:
        values = manager.get_vars(host=host, include_hostvars=False)
        found[str(host)] = {name: values[name] for name in NAMES if name in values}
    return found
