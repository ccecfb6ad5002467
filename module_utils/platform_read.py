"""What the inventory says of its hosts, read once for a run: a value that each host asks of all others.

Runs on the control machine, in plugins. ``hostvars`` puts all variables of a host together each time that it is asked:
with 64 hosts that ask each other, 4 096 times in one task. Plays ask for their hosts in Ansible's main process, whose
answers all later processes have from the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.vars.manager import VariableManager

from .platform_topology import STATE, Topology, topology
from .platform_variables import contains_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Variables that other hosts need of many.
NAMES = (STATE, "gpu_partition_cards", "private_address")

_loaders: dict[int, Any] = {}


@dataclass(frozen=True)
class Site:
    """Who is who, and ``NAMES`` of each host as inventory and ``-e`` have them: templates as they are written."""

    topology: Topology
    values: Mapping[str, Mapping[str, Any]]

    def of_all(self, name: str, hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return one of ``NAMES`` of each host that has it. Only a template is left to the host that it belongs to."""
        own = {host: self.values[host][name] for host in hosts if name in self.values.get(host, {})}
        return {host: hostvars[host][name] if contains_template(value) else value for host, value in own.items()}


def operator_inventory(sources: Iterable[str], loader: Any) -> tuple[InventoryManager, VariableManager]:
    """Return the inventory, and what gives the variables that its operator wrote for a host, ``-e`` among them."""
    inventory = InventoryManager(loader=loader, sources=list(sources))
    manager = VariableManager(loader=loader, inventory=inventory)
    # Without this, group_vars beside the playbook (what the repository derives) would be mixed in.
    manager.safe_basedir = False
    return inventory, manager


def site(variables: Mapping[str, Any], loader: Any) -> Site:
    """Return what the inventory of a run says; ``variables`` are those that a plugin gets.

    Raises:
        AnsibleError: a host's compute_state is a template. Plays would take it as it is written, and its host for
            another thing than the check.

    """
    sources = tuple(str(source) for source in variables.get("ansible_inventory_sources") or ())
    _loaders[id(loader)] = loader
    return _site(sources, id(loader))


@cache
def _site(sources: tuple[str, ...], loader: int) -> Site:
    inventory, manager = operator_inventory(sources, _loaders[loader])
    values = {}
    for host in inventory.get_hosts("all"):
        known = manager.get_vars(host=host, include_hostvars=False)
        values[str(host)] = {name: known[name] for name in NAMES if name in known}
    unclear = [host for host, own in values.items() if contains_template(own.get(STATE))]
    if unclear:
        raise AnsibleError(
            f"{STATE} of {', '.join(unclear)} is a template: write it out, since plays choose their hosts by it before "
            "they resolve anything"
        )
    groups = {name: [str(host) for host in group.get_hosts()] for name, group in inventory.groups.items()}
    return Site(topology(groups, {host: own.get(STATE) for host, own in values.items()}), values)
