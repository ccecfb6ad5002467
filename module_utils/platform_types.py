"""The rule about the types of values: what Ansible takes for which, and what YAML misreads.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from .platform_problems import UNRESOLVED, Inventory, Problem, did_you_mean, show
from .platform_variables import Variable

if TYPE_CHECKING:
    from .platform_variables import Catalogue

_BOOLEAN_WORDS = frozenset({"yes", "no", "true", "false", "on", "off", "1", "0", "y", "n", "t", "f"})
_TYPE_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "path": "a path",
}


def is_number(value: Any, kind: Callable[[str], Any]) -> bool:
    """Return True for a number, or its text, as ``kind`` (int or float) reads it; true and false are none."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int) or (kind is float and isinstance(value, float)):
        return True
    if not isinstance(value, str):
        return False
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _BOOLEAN_WORDS)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


_FITS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "str": _is_text,
    "path": _is_text,
    "int": lambda value: is_number(value, int),
    "float": lambda value: is_number(value, float),
    "bool": _is_boolean,
    "list": lambda value: isinstance(value, list | tuple),
    "dict": lambda value: isinstance(value, Mapping),
}


def type_fits(kind: str, value: Any) -> bool:
    """Return True where Ansible takes the value for the type (numbers and booleans may be text, as -e gives them)."""
    return kind not in _FITS or _FITS[kind](value)


def wanted_type(variable: Variable) -> str:
    """Return what a message says is wanted of a variable: ``one of nfs, preset``, ``a list, each item text``."""
    if variable.choices:
        return f"one of {', '.join(map(str, variable.choices))}"
    word = _TYPE_WORDS.get(variable.type, "a value")
    if variable.type == "list" and variable.elements:
        return f"{word}, each item {_TYPE_WORDS.get(variable.elements, 'a value')}"
    return word


def _type_problems(path: str, variable: Variable, value: Any) -> Iterator[tuple[str, Any, str, str]]:
    """(path, value, wanted, mend) of each wrong part of a value."""
    if value is UNRESOLVED:
        return
    wanted = wanted_type(variable)
    if value is None:
        if not (variable.has_default and variable.default is None) and variable.type != "raw":
            yield path, None, wanted, "give it a value, or take the line out"
        return
    # YAML has read a version like 0.10 as 0.1, and a commit of digits perhaps as an octal number.
    misread = path.endswith("_version") and not isinstance(value, str)
    if not type_fits(variable.type, value) or (variable.type == "str" and misread):
        quotes = variable.type in ("str", "path") and isinstance(value, bool | int | float | date)
        yield path, value, wanted, "put it in quotes, as you mean it" if quotes else f"write {wanted}"
        return
    if variable.choices and value not in variable.choices and str(value) not in map(str, variable.choices):
        choices = [str(choice) for choice in variable.choices]
        yield path, value, wanted, did_you_mean(str(value), choices, 0.6) or f"write {wanted}"
    if variable.type == "list" and variable.elements:
        element = Variable(path, variable.elements, "", options=variable.options)
        for index, part in enumerate(value):
            yield from _type_problems(f"{path}[{index}]", element, part)
    elif variable.type == "dict" and variable.options:
        yield from _key_problems(path, variable, value)


def _key_problems(path: str, variable: Variable, value: Mapping[str, Any]) -> Iterator[tuple[str, Any, str, str]]:
    """Yield (path, value, wanted, mend) of each wrong, unknown or missing key of a mapping."""
    for key, part in value.items():
        option = variable.options.get(str(key))
        if option is None:
            mend = did_you_mean(str(key), variable.options) or f"known keys: {', '.join(variable.options)}"
            yield f"{path}.{key}", "an unknown key", "a known key", mend
        else:
            yield from _type_problems(f"{path}.{key}", option, part)
    for key, option in variable.options.items():
        if option.required and key not in value:
            yield f"{path}.{key}", None, wanted_type(option), "give it a value"


def rule_types(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a wrong type: it fails late, or works by accident, as text does that is taken for a list of letters."""
    for host in inventory.hosts:
        for name, value in inventory.variables.get(host, {}).items():
            variable = catalogue.variables.get(name)
            if variable is None:
                continue
            for path, part, wanted, mend in _type_problems(name, variable, value):
                yield Problem(host, path, show(name, part, catalogue), wanted, mend)
