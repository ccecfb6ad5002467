"""The keys in what a request carries. Pure: no Django."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: A key as views take it. More than the digits of a BIGINT is none.
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
#: Names that carry keys, in views that the table does not know: whole ones, and ends.
_NAMES = frozenset({
    "id", "ids", "pk", "pks", "account", "accounts", "block", "blocks", "document", "documents", "file",
    "group", "groups", "key", "line", "lines", "model", "models", "owner", "page", "pages", "part", "parts",
    "project", "projects", "region", "regions", "report", "slug", "tag", "tags", "task", "team", "teams",
    "token", "transcription", "transcriptions", "user", "users", "username",
})  # fmt: skip
_ENDS = ("_id", "_ids", "_pk", "_pks", "_slug")


class BadKeyError(ValueError):
    """A key is written as no view takes it, so that nobody can say what it would name there."""


def number(value: object) -> int | None:
    """Return the number of a key; None where a key may be left out (``null``, and the empty field of a form).

    :raises BadKeyError: for all else: Django and the REST framework read ``1_0``, ``true``, ``5.9`` and the digits of
        other scripts as numbers too, and not all in the same way.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    raise BadKeyError("a key is not a number")


def find(data: Any, place: str) -> Iterator[object]:
    """Yield what stands at a place of a body: ``model``, ``parts[]`` or ``lines[].transcriptions[].transcription``.

    :param data: decoded JSON, or fields of a form (with ``getlist``), of which each value counts.
    :raises BadKeyError: where a list is wanted and something else stands.
    """
    name, _, rest = place.partition(".")
    wants_list = name.endswith("[]")
    name = name.removesuffix("[]")
    if not isinstance(data, Mapping):
        raise BadKeyError("an object is wanted")
    if hasattr(data, "getlist"):
        # A form has no depth; views that want some would take a text apart.
        if rest and name in data:
            raise BadKeyError(f"{name} is wanted as JSON")
        yield from data.getlist(name)
        return
    if name not in data:
        return
    found = data[name]
    if not wants_list:
        values: Iterable[object] = (found,)
    elif isinstance(found, list):
        values = found
    elif found is None:
        return
    else:
        raise BadKeyError(f"{name} is not a list")
    for value in values:
        if rest:
            yield from find(value, rest)
        else:
            yield value


def carries_key(data: Any) -> bool:
    """Whether names of keys stand in what a request carries, at any depth."""
    if isinstance(data, Mapping):
        return any(name_of_key(str(name)) or carries_key(value) for name, value in data.items())
    return isinstance(data, list) and any(carries_key(value) for value in data)


def name_of_key(name: str) -> bool:
    """Whether a name is one of those that carry keys: ``document``, ``part_pk``, ``pk``."""
    words = re.findall(r"\w+", name.lower())
    return bool(words) and (words[-1] in _NAMES or words[-1].endswith(_ENDS))
