"""Plugins that tasks need, loaded once for a run.

Runs on the control machine. Ansible starts a process for each task of each host. It has what the main process has
loaded, and loads anew whatever else it needs: some 36 modules for a value that asks a filter and a lookup of ours.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from ansible.plugins.loader import filter_loader, lookup_loader, test_loader

#: Lookups that values of group_vars and of roles name.
LOOKUPS: Final = ("ansible.builtin.file", "ansible.builtin.inventory_hostnames", "certificates", "topology", "tunnel")


@cache
def load() -> None:
    """Load all filters and tests, and ``LOOKUPS``, where that was not done before."""
    for loader in (filter_loader, test_loader):
        list(loader.all())
    for name in LOOKUPS:
        lookup_loader.get(name)
