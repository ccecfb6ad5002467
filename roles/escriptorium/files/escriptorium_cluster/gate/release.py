"""Names the views of a release that the gate does not know, before people meet them: ``check_release`` asks.

An unknown view is refused as soon as a request carries a key, so that a newer release fails closed. What is named here
is what would be refused then: views of the REST interface, those whose address has parts with names, and those that
take something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.urls import get_resolver

from escriptorium_cluster.gate.middleware import ADMINISTRATION, FORMAT, is_rest, view_name
from escriptorium_cluster.gate.table import VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from escriptorium_cluster.gate.rules import Rule

_WRITING = ("post", "put", "patch", "delete")


def view_problems() -> list[str]:
    """Return one line for each view, or part of an address, that the gate does not know."""
    try:
        patterns = get_resolver().url_patterns
    except Exception as error:  # whatever it is, no page of this release would be there
        return [f"the gate cannot read the addresses: {type(error).__name__}: {error}"]
    return list(dict.fromkeys(unknown(patterns, {**VIEWS, **settings.CLUSTER_GATE_VIEWS})))


def unknown(
    patterns: Iterable[Any], views: Mapping[str, Rule], before: str = "/", parts: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield what some addresses lead to that the table does not know.

    :param before: beginning of the addresses, with the names of its ``parts``.
    """
    for pattern in patterns:
        address = before + str(pattern.pattern)
        names = parts | set(pattern.pattern.regex.groupindex)
        inner = getattr(pattern, "url_patterns", None)
        if inner is None:
            yield from _unknown_view(pattern.callback, views, address, names - {FORMAT})
        elif pattern.app_name != ADMINISTRATION:
            yield from unknown(inner, views, address, names)


def _unknown_view(view: Any, views: Mapping[str, Rule], address: str, parts: frozenset[str]) -> Iterator[str]:
    for name in sorted({view_name(view, method) for method in getattr(view, "actions", None) or ("get",)}):
        rule = views.get(name)
        if rule is not None and parts <= set(rule.url):
            continue
        if rule is not None:
            yield f"the gate does not know {', '.join(sorted(parts - set(rule.url)))} of {name} ({address})"
        elif parts or is_rest(view) or _takes(view):
            yield f"the gate does not know {name} ({address}), and refuses it: see escriptorium_gate_views"


def _takes(view: Any) -> bool:
    """Whether a view takes more than a look; a function does not say."""
    kind = getattr(view, "view_class", None)
    return kind is None or any(hasattr(kind, method) for method in _WRITING)
