"""An entry of the gate's table, and how sites write their own. Pure: no Django."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The right of a key that the view asks for itself, in a query that finds the user's own only.
ASKED = "asked"
#: Rights that sites may give to keys of views of their own: those that need nothing but the key and its user, and
#: those of what lies in a document or page that an earlier key names.
SITE_RIGHTS = (
    ASKED,
    "document",
    "own_document",
    "part",
    "line",
    "line_text",
    "region",
    "transcription",
    "project",
    "own_project",
    "model",
    "own_model",
    "team",
    "own_team",
)
NOTHING: Mapping[str, str] = MappingProxyType({})
#: Methods that write nothing.
READING = ("GET", "HEAD", "OPTIONS")

_VIEW = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_KEY = re.compile(r"([A-Za-z_]\w*)=([a-z_]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """What the keys of a view name.

    :param url: rights by the names of an address's parts, in the order in which they are asked for.
    :param query: rights by the names of what follows the address's question mark.
    :param body: rights by the places of keys in a body: ``model``, ``parts[]``, ``lines[].pk``.
    :param check: name of a question of its own, beside the keys: see ``accounts`` and ``rights``.
    :param programs: whether a program's key opens it too, as it opens the REST interface.
    """

    url: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, str] = field(default_factory=dict)
    check: str = ""
    programs: bool = False

    @property
    def reads_body(self) -> bool:
        """Whether the answer depends on what the body says."""
        return bool(self.body or self.check)


def read_site_rule(text: str) -> tuple[str, Rule]:
    """Return the view and the rule that a site's entry names: ``our_app.views.Crop document_pk=document part_pk=part``.

    A view without keys asks for its rights itself, and its address has no parts with names.

    :raises ValueError: with what is wrong with the entry.
    """
    words = text.split()
    if not words or not _VIEW.fullmatch(words[0]):
        raise ValueError(f"'{text}' names no view, as our_app.views.Crop")
    url: dict[str, str] = {}
    for word in words[1:]:
        found = _KEY.fullmatch(word)
        if found is None or found[2] not in SITE_RIGHTS:
            raise ValueError(f"'{word}' of '{text}' is not KEY=RIGHT, with a right of {', '.join(SITE_RIGHTS)}")
        url[found[1]] = found[2]
    return words[0], Rule(url=url)
