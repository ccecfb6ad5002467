"""Lookup `absent_hosts`: what a play on compute hosts adds to its pattern to leave out those with compute_state absent.

    hosts: "frontend:compute{{ lookup('absent_hosts') }}"

gives ``frontend:compute:!node9``. Ansible chooses the hosts of a play before it knows any variable of a host, and
gathers facts before the first task: an absent host, which may be dead, would stop the run. So the inventory is read
here, once for each run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.plugins.lookup import LookupBase

try:
    from ansible.module_utils import platform_plugins, platform_read
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_plugins, platform_read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LookupModule(LookupBase):  # type: ignore[misc]
    """With ``only=true``: the absent hosts themselves, of those that a term names (``a,b``; all without one)."""

    def run(self, terms: Sequence[str], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one text: ``:!a:!b``, or with ``only`` ``a:b``; an empty one where there are none."""
        platform_plugins.load()  # here, where Ansible chooses the hosts of a play, is its main process
        named = {name.strip() for term in terms for name in str(term).split(",") if name.strip()}
        names = sorted(platform_read.site(variables or {}, self._loader).topology.absent)
        if kwargs.get("only"):
            return [":".join(name for name in names if not named or name in named)]
        return ["".join(f":!{name}" for name in names)]
