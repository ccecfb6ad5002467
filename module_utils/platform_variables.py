"""What a variable is that an operator may set, and the catalogue of all of them.

The site's own are declared in platform_site_variables.py; platform_catalogue.py puts them together with those of roles
and playbooks. No Ansible import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Names with these prefixes are never checked: `x_` is for the operator's own helper variables, `vault_` for encrypted
# values that others name (secret_x: "{{ vault_x }}"), `node_` describes the containers of the demo and of the tests
# (molecule/resources), which a real site does not have.
FREE_PREFIXES = ("x_", "vault_", "node_")

PLATFORM_GROUPS = ("frontend", "storage", "compute", "replica", "hypervisor")
# Kept for later: nothing uses them yet, so whoever fills one waits for something that never comes.
RESERVED_GROUPS = ("monitoring",)

_SECRET_NAME = re.compile(r"(^(secret|vault)_|password|passphrase|secret_key|_(token|pass)$)")
_TEMPLATE = re.compile(r"\{[{%]")
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class Variable:
    """One variable that an operator may set.

    ``type`` is a type name of Ansible's argument specification (str, int, bool, float, list, dict, path, raw).
    ``default`` is the literal default; None where there is none or where it is a template (see ``has_default``).
    ``options`` are the keys of a dict (or of each dict of a list), by name; empty where any key is allowed.
    """

    name: str
    type: str
    meaning: str
    example: Any = None
    required: bool = False
    secret: bool = False
    choices: tuple[Any, ...] = ()
    elements: str | None = None
    default: Any = None
    has_default: bool = False
    options: Mapping[str, Variable] = field(default_factory=dict)
    origin: str = "site"


@dataclass(frozen=True)
class Catalogue:
    """All names that may stand in an inventory, and those that must not because the repository derives them."""

    variables: Mapping[str, Variable]
    derived: Mapping[str, str] = field(default_factory=dict)
    """Derived name -> file of the repository that derives it, relative to its root."""
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Derived name -> variables of the operator that its value is made from, e.g. base_uid -> (service_uid,)."""
    set_by_playbooks: frozenset[str] = frozenset()
    """Role variables that a playbook of this repository hands to a role."""
    ansible_names: frozenset[str] = frozenset()
    """Variables of Ansible and its plugins; only names that look like one of these and are none are refused."""

    def is_known(self, name: str) -> bool:
        """Return True where an operator may write this name."""
        return name in self.variables or name.startswith(FREE_PREFIXES) or name.startswith("ansible_")

    def is_secret(self, name: str) -> bool:
        """Return True where the value must never be shown."""
        variable = self.variables.get(name)
        return bool(variable and variable.secret) or bool(_SECRET_NAME.search(name))

    def secret_names(self) -> tuple[str, ...]:
        """Names of the site's generated secrets, in the order of their declaration."""
        return tuple(name for name in self.variables if name.startswith("secret_"))

    def default(self, name: str) -> Any:
        """Literal default of a variable; None where there is none."""
        variable = self.variables.get(name)
        return variable.default if variable else None


def contains_template(value: Any) -> bool:
    """Return True where a string anywhere in the value holds a Jinja expression or statement."""
    if isinstance(value, str):
        return bool(_TEMPLATE.search(value))
    if isinstance(value, Mapping):
        return any(contains_template(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return any(contains_template(part) for part in value)
    return False


def identifiers(value: Any) -> set[str]:
    """Return every word of the text in a value that may be the name of a variable."""
    if isinstance(value, str):
        return set(_IDENTIFIER.findall(value))
    if isinstance(value, Mapping):
        return set().union(*(identifiers(part) for part in value.values()), set())
    if isinstance(value, list | tuple):
        return set().union(*(identifiers(part) for part in value), set())
    return set()
