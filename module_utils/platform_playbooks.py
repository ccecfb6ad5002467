"""What an operator may give a playbook with ``-e``, beside the variables of an inventory.

Declared in playbooks/meta/argument_specs.yml: an entry for each playbook that takes any. No Ansible import.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from .platform_catalogue import playbook_options
from .platform_names import rule_derived_names
from .platform_problems import UNRESOLVED, Inventory, Problem, did_you_mean, quote
from .platform_sizes import rule_sizes
from .platform_types import rule_types
from .platform_variables import Catalogue, Variable, contains_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

GIVEN: Final = "-e"
# Under this name Ansible keeps what has none, and looks at it no more: the rest of a value that a blank has ended.
_UNNAMED: Final = "_raw_params"
#: What plays choose their hosts by: they read it before they know a variable of any host.
HOSTS_OF_PLAYS: Final = ("host",)
#: What Ansible sets from the option --limit: given as a variable, it would limit some plays and not others.
LIMIT: Final = "ansible_limit"


@dataclass(frozen=True)
class Run:
    """What one run takes: the variables of its playbooks, and which other playbooks take a name."""

    options: Mapping[str, Variable]
    elsewhere: Mapping[str, tuple[str, ...]]


def run_of(playbooks: Iterable[str] | None, root: Path) -> Run:
    """Return what a run of these playbooks takes; None where it is one of the site's own, which may import any.

    Raises CatalogueError where the declarations cannot be read.
    """
    declared = playbook_options(root)
    wanted = set(declared if playbooks is None else playbooks)
    elsewhere: dict[str, tuple[str, ...]] = {}
    for playbook, options in declared.items():
        for name in options:
            elsewhere[name] = (*elsewhere.get(name, ()), f"{playbook}.yml")
    own = {name: option for playbook in declared if playbook in wanted for name, option in declared[playbook].items()}
    return Run(own, elsewhere)


def belongs_to_hosts(name: str, run: Run, catalogue: Catalogue) -> bool:
    """Return True for a value of the inventory that ``-e`` replaces for one run: the inventory's own rules check it."""
    return name not in run.options and name not in catalogue.derived and catalogue.is_known(name)


def with_playbooks(problem: Problem, run: Run) -> Problem:
    """Return a problem of an inventory; where it has a variable of single runs, with the playbooks that take it."""
    if problem.variable not in run.elsewhere:
        return problem
    return replace(problem, mend=f"take it out, and give it with -e to {' or '.join(run.elsewhere[problem.variable])}")


def check_given(given: Mapping[str, Any], run: Run, catalogue: Catalogue) -> list[Problem]:
    """All problems of what ``-e`` gives a run, but those of values of the inventory; empty where there is none."""
    return [*_names(given, run, catalogue), *_hosts(given, run), *_values(given, run, catalogue)]


def _names(given: Mapping[str, Any], run: Run, catalogue: Catalogue) -> Iterator[Problem]:
    """Ansible ignores a misspelt name silently: a restore would go to another moment than the one that was meant."""
    for name, value in given.items():
        if name == _UNNAMED:
            mend = """a blank ends a value; write one that has blanks as JSON: -e '{"NAME": "VALUE"}'"""
            yield Problem(GIVEN, quote(value), "text without a name", "name=value", mend)
        elif not (name in run.options or name in catalogue.derived or catalogue.is_known(name)):
            yield Problem(GIVEN, name, "an unknown variable", "a variable of this run", _meant(name, run, catalogue))


def _hosts(given: Mapping[str, Any], run: Run) -> Iterator[Problem]:
    """Refuse what chooses hosts and has two meanings: one for the check, which resolves it, and another for plays."""
    for name in HOSTS_OF_PLAYS:
        if name in run.options and contains_template(given.get(name)):
            mend = "write the names out: plays choose their hosts by it before they know any variable"
            yield Problem(GIVEN, name, quote(given[name]), "a value without a template", mend)
    if LIMIT in given:
        yield Problem(GIVEN, LIMIT, quote(given[LIMIT]), "nothing: Ansible sets it", "give the hosts with --limit")


def _meant(name: str, run: Run, catalogue: Catalogue) -> str:
    if name in run.elsewhere:
        return f"take it out: it is a variable of {', '.join(run.elsewhere[name])}"
    near = did_you_mean(name, run.options) or did_you_mean(name, catalogue.variables)
    taken = f"this playbook takes {', '.join(sorted(run.options)) or 'none'}"
    return near or f"take it out ({taken}), or let its name start with x_ if it is your own"


def _values(given: Mapping[str, Any], run: Run, catalogue: Catalogue) -> Iterator[Problem]:
    """Check types, choices and sizes as those of an inventory, and refuse what is derived."""
    values = {name: UNRESOLVED if contains_template(value) else value for name, value in given.items()}
    inventory = Inventory({}, {GIVEN: values})
    options = replace(catalogue, variables=run.options)
    for rule in (rule_derived_names, rule_types, rule_sizes):
        for problem in rule(inventory, options):
            name = problem.variable
            as_json = name in run.options and run.options[name].type == "list"
            yield replace(problem, mend=f"""write it as JSON: -e '{{"{name}": ["..."]}}'""") if as_json else problem
