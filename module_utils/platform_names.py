"""Rules about the names of variables: which ones may, must and must not have a value, and where.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .platform_problems import THE_INVENTORY, UNRESOLVED, Inventory, Problem, did_you_mean, listed
from .platform_types import wanted_type
from .platform_variables import PLATFORM_GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .platform_variables import Catalogue

# A derived value that is made from more than this is not explained by naming them.
MAX_NAMED_SOURCES = 3


def rule_known_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Ansible ignores a misspelt variable silently and the default stays in force."""
    known = [name for name in catalogue.variables if not name.startswith("preflight_secrets")]
    seen: dict[str, str] = {}
    for host in inventory.hosts:
        for name in inventory.variables.get(host, {}):
            if name in catalogue.derived:
                continue
            if name.startswith("ansible_"):
                if name in catalogue.ansible_names:
                    continue
                if name not in seen:
                    seen[name] = did_you_mean(name, catalogue.ansible_names, 0.9)
                if seen[name]:
                    yield Problem(host, name, "a name that Ansible does not know", "a known variable", seen[name])
                continue
            if catalogue.is_known(name):
                continue
            if name not in seen:
                seen[name] = did_you_mean(name, known) or (
                    "take it out, or let its name start with x_ if it is your own"
                )
            yield Problem(host, name, "an unknown variable", "a known variable", seen[name])


def rule_derived_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse what the repository derives: it wins over an inventory's own value, or over half of it."""
    for host in inventory.hosts:
        for name in inventory.variables.get(host, {}):
            if name in catalogue.derived:
                sources = catalogue.sources.get(name, ())
                settable = (
                    f"set {' or '.join(sources)} instead" if 0 < len(sources) <= MAX_NAMED_SOURCES else "take it out"
                )
                yield Problem(host, name, "a value", f"none: it is derived in {catalogue.derived[name]}", settable)


def rule_required_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want every required value: a missing one would stop a play in its middle, with half of the hosts changed."""
    members = inventory.members(*PLATFORM_GROUPS)
    for variable in catalogue.variables.values():
        if not variable.required or variable.name.startswith("secret_"):
            continue
        if variable.name in catalogue.set_by_playbooks:
            continue
        for host in members:
            value = inventory.value(host, variable.name)
            # A role's option is needed where the role runs, which is not known here: one host with a value is enough.
            if variable.origin != "site" and any(inventory.is_set(other, variable.name) for other in members):
                break
            if value is None or value == "":
                example = f", e.g. {variable.example}" if variable.example is not None else ""
                yield Problem(
                    host,
                    variable.name,
                    "nothing",
                    wanted_type(variable),
                    f"set it in group_vars/all/site.yml{example}",
                )


def rule_site_values_agree(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Values of the site as a whole (its domain, its secrets) must be the same for every host, or hosts cannot talk."""
    names = [
        name
        for name, variable in catalogue.variables.items()
        if name.startswith(("site_", "secret_", "service_", "storage_")) and variable.origin == "site"
    ]
    others = ("escriptorium_version", "escriptorium_text_alignment", "backup_targets", "backup_target_passwords")
    names += [name for name in others if name in catalogue.variables]
    members = inventory.members(*PLATFORM_GROUPS)
    for name in names:
        values = [inventory.effective(host, name, catalogue) for host in members]
        if any(value is UNRESOLVED for value in values):
            continue
        distinct: list[Any] = []
        for value in values:
            if value not in distinct:
                distinct.append(value)
        holders = [host for host in members if inventory.is_set(host, name)]
        if len(distinct) > 1 and holders:
            found = f"{len(distinct)} different values"
            if None in distinct:
                found = f"a value on {listed(holders)} only"
            # A missing required site value is named by its own rule already.
            if None in distinct and catalogue.variables[name].required and not name.startswith("secret_"):
                continue
            yield Problem(
                THE_INVENTORY, name, found, "one value for all hosts", "set it once, in group_vars/all of the inventory"
            )
