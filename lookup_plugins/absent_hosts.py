"""Lookup `absent_hosts`: what a play on compute hosts adds to its pattern to leave out those with compute_state absent.

    hosts: "frontend:compute{{ lookup('absent_hosts') }}"

gives ``frontend:compute:!node9``. Ansible chooses the hosts of a play before it knows any variable of a host, and
gathers facts before the first task: an absent host, which may be dead, would stop the run. So the inventory is read
here, once for each run.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ansible.inventory.manager import InventoryManager
from ansible.plugins.lookup import LookupBase
from ansible.vars.manager import VariableManager

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_loaders: dict[int, Any] = {}


@cache
def absent(sources: tuple[str, ...], loader: int) -> tuple[str, ...]:
    """Return the compute hosts that have left the platform, by the inventory alone."""
    inventory = InventoryManager(loader=_loaders[loader], sources=list(sources))
    manager = VariableManager(loader=_loaders[loader], inventory=inventory)
    manager.safe_basedir = False
    hosts = inventory.groups["compute"].get_hosts() if "compute" in inventory.groups else []
    values = {str(host): manager.get_vars(host=host, include_hostvars=False).get("compute_state") for host in hosts}
    return tuple(sorted(name for name, value in values.items() if value == "absent"))


class LookupModule(LookupBase):  # type: ignore[misc]
    """With ``only=true``: the absent hosts themselves, of those that a term names (``a,b``; all without one)."""

    def run(self, terms: Sequence[str], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one text: ``:!a:!b``, or with ``only`` ``a:b``; an empty one where there are none."""
        named = {name.strip() for term in terms for name in str(term).split(",") if name.strip()}
        sources = tuple(str(source) for source in (variables or {}).get("ansible_inventory_sources") or ())
        _loaders[id(self._loader)] = self._loader
        names = absent(sources, id(self._loader))
        if kwargs.get("only"):
            return [":".join(name for name in names if not named or name in named)]
        return ["".join(f":!{name}" for name in names)]
