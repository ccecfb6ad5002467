"""Rules about groups and hosts: who is there, and what they are called.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from .platform_dns import is_host_name
from .platform_problems import THE_INVENTORY, Inventory, Problem, did_you_mean, listed, quote
from .platform_variables import PLATFORM_GROUPS, RESERVED_GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .platform_variables import Catalogue

# As /etc/hosts of Debian has them; the cluster's names are written there too, on each host.
_EVERYBODYS_NAMES = frozenset(
    {
        "ip6-allnodes",
        "ip6-allrouters",
        "ip6-localhost",
        "ip6-loopback",
        "localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost6",
    }
)


def rule_single_hosts(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want one database, broker and shared tree: two hosts would split the data, none cannot work."""
    del catalogue
    for group in ("frontend", "storage"):
        members = inventory.members(group)
        if not members:
            yield Problem(
                THE_INVENTORY,
                f"group {group}",
                "no host",
                "exactly one host",
                _group_hint(group, inventory) or f"put one host into the group {group}; it may be in other groups too",
            )
        elif len(members) > 1:
            yield Problem(
                THE_INVENTORY,
                f"group {group}",
                f"{len(members)} hosts ({listed(members)})",
                "exactly one host",
                f"keep one host in the group {group}",
            )


def rule_compute_hosts(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Without a compute host every job waits for ever."""
    del catalogue
    if not inventory.members("compute"):
        yield Problem(
            THE_INVENTORY,
            "group compute",
            "no host",
            "one host or more",
            _group_hint("compute", inventory) or "put a host into the group compute; the frontend may be one",
        )


def _group_hint(group: str, inventory: Inventory) -> str:
    """``rename the group computes`` where a group looks like the missing one."""
    others = [name for name in inventory.groups if name not in (*PLATFORM_GROUPS, *RESERVED_GROUPS, "all", "ungrouped")]
    near = difflib.get_close_matches(group, others, n=1, cutoff=0.7)
    return f"rename the group {near[0]!r} to {group!r}" if near else ""


def rule_hosts_have_a_role(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a host in no group of the platform: it would get nothing, most often because a group is misspelt."""
    del catalogue
    placed = set(inventory.members(*PLATFORM_GROUPS, *RESERVED_GROUPS))
    for host in inventory.hosts:
        if host not in placed:
            own = sorted(group for group, members in inventory.groups.items() if host in members and group != "all")
            hints = [did_you_mean(group, PLATFORM_GROUPS, 0.7) for group in own]
            hint = next((text for text in hints if text), "")
            yield Problem(
                host,
                "groups",
                ", ".join(own) or "none",
                f"one of {', '.join(PLATFORM_GROUPS)}",
                hint or "put the host into a group of the platform, or take it out of the inventory",
            )


def rule_reserved_groups(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a group that does nothing yet: its hosts would be taken for watched."""
    del catalogue
    for group in RESERVED_GROUPS:
        members = inventory.members(group)
        if members:
            mend = f"take the group {group} out: nothing uses it yet"
            yield Problem(THE_INVENTORY, f"group {group}", listed(members), "no host", mend)


def rule_host_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Host names become lines of /etc/hosts and names of workers, where an underscore or a space breaks things."""
    del catalogue
    for host in inventory.hosts:
        if host.lower() in _EVERYBODYS_NAMES:
            mend = "call the host by its own name; ansible_connection: local goes with any"
            yield Problem(host, "host name", quote(host), "a name that each host does not have for itself", mend)
        elif not is_host_name(host):
            yield Problem(
                host,
                "host name",
                quote(host),
                "letters, digits, hyphens and dots",
                "rename the host in the inventory, e.g. "
                + (re.sub(r"[^A-Za-z0-9.-]+", "-", host).strip("-.") or "node1"),
            )
