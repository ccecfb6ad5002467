"""Lookup `cards_of_hosts`: the cards that the inventory gives each compute host, as ``{host: gpu_partition_cards}``.

Each host asks for those of all others (group_vars/all/gpu.yml). What is written plainly is read once for a run; only a
template is left to the host that it belongs to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.plugins.lookup import LookupBase

try:
    from ansible.module_utils import platform_read, platform_variables
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_read, platform_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LookupModule(LookupBase):  # type: ignore[misc]
    """Takes no terms. Absent hosts are among the answers."""

    def run(self, _: Sequence[str], variables: Mapping[str, Any] | None = None, **__: Any) -> list[dict[str, Any]]:
        """Return one mapping; a host without cards has an empty list."""
        known = variables or {}
        sources = tuple(str(source) for source in known.get("ansible_inventory_sources") or ())
        cards = {
            host: own.get("gpu_partition_cards", [])
            for host, own in platform_read.compute_values(sources, self._loader).items()
        }
        return [
            {
                host: known["hostvars"][host]["gpu_partition_cards"]
                if platform_variables.contains_template(own)
                else own
                for host, own in cards.items()
            }
        ]
