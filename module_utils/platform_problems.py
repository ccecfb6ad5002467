"""What the checks of an inventory speak with: the inventory, and the problems that are found in it.

No Ansible import. platform_inventory.py and platform_facts.py name the rules that use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from .platform_variables import Catalogue

EVERY_HOST: Final = "every host"
THE_INVENTORY: Final = "inventory"

_SHOWN_LENGTH = 80


class Unresolved:
    """Stands for a value that is a template which cannot be resolved without facts; rules skip it."""

    def __repr__(self) -> str:
        return "<not resolved>"


UNRESOLVED: Final = Unresolved()


@dataclass(frozen=True)
class Unresolvable:
    """Why a template has no value yet: its text, what Ansible said, and all names that it is made from."""

    template: str
    error: str
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong: where, what was found, what is wanted, and how to mend it."""

    host: str
    variable: str
    found: str
    wanted: str
    mend: str

    def text(self) -> str:
        """Return the problem in two lines."""
        return f"{self.host}: {self.variable}: found {self.found}, wanted {self.wanted}\n  -> {self.mend}"


@dataclass(frozen=True)
class Inventory:
    """What the operator wrote: groups with their hosts (children included), and each host's own variables.

    ``variables`` holds only what comes from the inventory (and ``-e``), with templates resolved or ``UNRESOLVED``;
    ``unresolvable`` says for each of these, by host and name, why.
    """

    groups: Mapping[str, tuple[str, ...]]
    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unresolvable: Mapping[str, Mapping[str, Unresolvable]] = field(default_factory=dict)

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts, in the order of the inventory."""
        found: dict[str, None] = dict.fromkeys(self.variables)
        for members in self.groups.values():
            found.update(dict.fromkeys(members))
        return tuple(found)

    def members(self, *groups: str) -> tuple[str, ...]:
        """Hosts of any of the groups, each once, in the order of the inventory."""
        wanted = {host for group in groups for host in self.groups.get(group, ())}
        return tuple(host for host in self.hosts if host in wanted)

    def value(self, host: str, name: str) -> Any:
        """Return a host's value, ``None`` where it has none and ``UNRESOLVED`` where it is not known yet."""
        return self.variables.get(host, {}).get(name)

    def is_set(self, host: str, name: str) -> bool:
        """Return True where the operator gave the host this variable."""
        return name in self.variables.get(host, {})

    def effective(self, host: str, name: str, catalogue: Catalogue) -> Any:
        """Return a host's value, or the literal default of the variable."""
        return self.value(host, name) if self.is_set(host, name) else catalogue.default(name)


Rule = Callable[[Inventory, Catalogue], Iterator[Problem]]


def quote(value: Any) -> str:
    """Return a value as a message shows it: one line, short."""
    if value is None:
        return "nothing"
    text = ascii(value) if isinstance(value, str) else str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."


def show(name: str, value: Any, catalogue: Catalogue) -> str:
    """Return a value as a message shows it; secrets are never shown."""
    if value is None or value == "":
        return "nothing"
    return "a value that is not shown" if catalogue.is_secret(name) else quote(value)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.75) -> str:
    """`` did you mean 'x'?`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


def given(inventory: Inventory, name: str, kind: type | None = None) -> Iterator[tuple[str, Any]]:
    """(host, value) of every host whose value of ``name`` is known, and of the given type."""
    for host in inventory.hosts:
        if inventory.is_set(host, name):
            value = inventory.value(host, name)
            if value is not UNRESOLVED and (kind is None or isinstance(value, kind)):
                yield host, value


def listed(hosts: Iterable[str], shown: int = 4) -> str:
    """Return ``a, b, c, d and 12 more``."""
    every = list(hosts)
    if len(every) <= shown + 1:
        return ", ".join(every)
    return f"{', '.join(every[:shown])} and {len(every) - shown} more"


def collapse(problems: Iterable[Problem], hosts: Iterable[str]) -> list[Problem]:
    """One problem for all hosts that share it: a wrong line of group_vars is one mistake, not a hundred."""
    everyone = tuple(hosts)
    merged: dict[tuple[str, str, str, str], list[str]] = {}
    for problem in problems:
        owners = merged.setdefault((problem.variable, problem.found, problem.wanted, problem.mend), [])
        if problem.host not in owners:
            owners.append(problem.host)
    result = []
    for (variable, found, wanted, mend), owners in merged.items():
        whole = len(everyone) > 1 and set(owners) >= set(everyone)
        result.append(Problem(EVERY_HOST if whole else listed(owners), variable, found, wanted, mend))
    return result


def report(problems: Iterable[Problem]) -> str:
    """All problems as lines of text, ready to print."""
    return "\n".join(problem.text() for problem in problems)
