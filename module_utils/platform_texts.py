"""Rules about how texts are written: paths, lines of settings, placeholders of an example.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .platform_problems import Inventory, Problem, given, quote, show

if TYPE_CHECKING:
    from .platform_variables import Catalogue

PLACEHOLDER = re.compile(r"change[_ -]?me", re.IGNORECASE)
_ANGLE = re.compile(r"<[^<>@\n]+>")
_PATH = re.compile(r"(/[A-Za-z0-9._@+-]+)+")
_PATH_NAME = re.compile(r"_(path|folder)$")


def is_placeholder(value: str) -> bool:
    """Return True where a text has what an example leaves to be filled in."""
    return bool(PLACEHOLDER.search(value) or _ANGLE.search(value))


def _path_written_right(value: str) -> str:
    """Return a path as it may be written; empty where nothing is left of it."""
    parts = [re.sub(r"[^A-Za-z0-9._@+-]+", "-", part.strip()).strip("-") for part in value.split("/")]
    return "".join(f"/{part}" for part in parts if part not in ("", ".", ".."))


def rule_paths(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want plain absolute paths: others are made from them, and units, mounts and exports part words at blanks."""
    names = [name for name, one in catalogue.variables.items() if one.type == "path" or _PATH_NAME.search(name)]
    for name in names:
        for host, value in given(inventory, name, str):
            parts = value.split("/")
            if value == catalogue.default(name) or (_PATH.fullmatch(value) and not {".", ".."} & set(parts)):
                continue
            right = _path_written_right(value) or catalogue.default(name) or "/srv/..."
            yield Problem(
                host,
                name,
                show(name, value, catalogue),
                "an absolute path below /, of letters, digits and . _ - + @, without a slash at its end",
                f"write {right}",
            )


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of a value, of one that is a mapping too: its values become lines of a file."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(f"{name}.{key}", part)


def rule_one_line(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse what a line of settings cannot carry: a service would read another value, or password, than was given."""
    for host, values in inventory.variables.items():
        for name, value in values.items():
            for path, text in _texts(name, value) if name in catalogue.variables else ():
                if any(unicodedata.category(letter) == "Cc" for letter in text):
                    yield Problem(host, path, "a line break or control character", "one line of text", "take it out")
                elif catalogue.is_secret(name) and text != text.strip():
                    yield Problem(host, path, "a blank at an end", "text without it", "take the blank out")


def _placeholders(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if PLACEHOLDER.search(value) or _ANGLE.search(value):
            yield path, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _placeholders(f"{path}.{key}", part)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _placeholders(f"{path}[{index}]", part)


def rule_placeholders(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse an example that was copied and not filled in: it would be deployed as it stands."""
    for host in inventory.hosts:
        for name, value in inventory.variables.get(host, {}).items():
            if name.startswith("secret_"):
                continue
            for path, text in _placeholders(name, value):
                yield Problem(
                    host,
                    path,
                    f"the placeholder {quote(text)}" if not catalogue.is_secret(name) else "a placeholder",
                    "a real value",
                    "fill it in",
                )
