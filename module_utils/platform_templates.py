"""Templates of an inventory that cannot be resolved: which may wait for the facts of hosts, and which are wrong.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .platform_problems import Inventory, Problem, Rule, did_you_mean, quote
from .platform_variables import FREE_PREFIXES, Catalogue, identifiers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .platform_problems import Unresolvable

#: Read for one host from another one, where Ansible resolves no `hostvars` inside of them.
READ_BY_OTHERS: Final = frozenset(
    {"ansible_port", "compute_state", "gpu_partition_cards", "private_address", "private_ssh_port", "zfs_pool"}
)
#: Read as it is written, where plays choose their hosts (lookup absent_hosts): a template would never be `absent`.
READ_AS_WRITTEN: Final = frozenset({"compute_state"})
#: What a play or a task knows, and nobody before it.
OF_PLAYS: Final = frozenset(
    {"ansible_limit", "ansible_play_batch", "ansible_play_hosts", "item", "play_hosts", "role_path"}
)
#: What comes from the hosts.
OF_HOSTS: Final = frozenset({"ansible_facts", "ansible_local"})

_UNDEFINED = re.compile(r"'(\w+)' is undefined")
_ENCRYPTED = "undecryptable"
# Needed before facts are gathered, or for hosts whose facts a run with --limit does not gather.
_WRITTEN_OUT = re.compile(
    r"^(ansible|compute|secret|service|site|storage|zfs)_"
    r"|_(address|addresses|cards|dir|folder|host|path|version)$"
    r"|^escriptorium_text_alignment$"
)


def reachable(value: Any, variables: Mapping[str, Any]) -> frozenset[str]:
    """Return every name that a value is made from, through any number of variables."""
    found: set[str] = set()
    waiting = [value]
    while waiting:
        new = identifiers(waiting.pop()) - found
        found |= new
        waiting += [variables[name] for name in new if name in variables]
    return frozenset(found)


def _written_out(name: str, catalogue: Catalogue) -> bool:
    """Return True where a value must be known before any host is contacted."""
    variable = catalogue.variables.get(name)
    return bool(_WRITTEN_OUT.search(name)) or (variable is not None and variable.type == "path")


def _problem(host: str, name: str, why: Unresolvable, known: frozenset[str], catalogue: Catalogue) -> Problem | None:
    """Return what is wrong with a value that cannot be resolved; None where it may wait."""
    missing = _UNDEFINED.search(why.error)
    absent = missing[1] if missing else ""
    if name in READ_AS_WRITTEN:
        mend = "write the value out: plays choose their hosts by it before they resolve anything"
        return Problem(host, name, quote(why.template), "a value without a template", mend)
    shown = quote(why.template) if why.template and not catalogue.is_secret(name) else "a template"
    if absent == "hostvars":
        mend = "write the value out: other hosts read it, and find no hostvars in it"
        return Problem(host, name, shown, "a value without hostvars", mend)
    if absent in OF_PLAYS or (not absent and why.names & OF_HOSTS):
        if not _written_out(name, catalogue):
            return None
        found = f"{shown}, a value that needs {'facts' if not absent else repr(absent)}"
        mend = "write it out for each host: it is needed before facts are there, and for hosts that --limit leaves out"
        return Problem(host, name, found, "a value that is known beforehand", mend)
    if absent:
        fact = absent.removeprefix("ansible_")
        mend = did_you_mean(absent, known, 0.9 if fact != absent else 0.75) or (
            f"facts are read as ansible_facts[{fact!r}]" if fact != absent else f"set {absent}, or correct its name"
        )
        return Problem(host, name, f"{shown}, which names {absent!r}", "names that are set in the inventory", mend)
    return Problem(host, name, f"{shown}, which fails: {why.error}", "a template that can be resolved", "correct it")


def rule_templates(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a misspelt name in a template: it ends a run in its middle. What hosts tell may stay open."""
    answers: dict[tuple[str, Unresolvable], Problem | None] = {}
    for host, values in inventory.unresolvable.items():
        known: frozenset[str] = frozenset()
        for name, why in values.items():
            if name.startswith(FREE_PREFIXES) or _ENCRYPTED in why.error:
                continue
            if (name, why) not in answers:
                known = known or frozenset({*catalogue.variables, *catalogue.derived, *inventory.variables[host]})
                answers[name, why] = _problem(host, name, why, known, catalogue)
            answer = answers[name, why]
            if answer:
                yield Problem(host, name, answer.found, answer.wanted, answer.mend)


TEMPLATE_RULES: tuple[Rule, ...] = (rule_templates,)
