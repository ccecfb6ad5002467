"""Questions of the gate that are more than whether a key names what is the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.apps import apps

from escriptorium_cluster.gate import accounts
from escriptorium_cluster.gate.keys import find, number
from escriptorium_cluster.gate.rights import RIGHTS, Scope
from escriptorium_cluster.gate.texts import (
    FOREIGN_DOCUMENT,
    FOREIGN_MODEL,
    KEEP,
    NOBODYS_TEAM,
    NOTHING_SAID,
    SHARED_KEY,
)

if TYPE_CHECKING:
    from escriptorium_cluster.gate.texts import Text

#: How a form or JSON says that something is not wanted.
_NO = frozenset({"", "false", "0", "off", "no", "none", "null", "f", "n"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: who asks, by which method, with what in the address and in the body."""

    user: Any
    method: str
    kwargs: Mapping[str, Any]
    data: Any


def _account(asked: Asked) -> Text:
    return accounts.account_refusal(asked.user, asked.method, asked.kwargs.get("pk"), asked.data)


def _profile(asked: Asked) -> Text:
    return KEEP if accounts.changes(asked.user, asked.data) else NOTHING_SAID


def _overwrite(asked: Asked) -> Text:
    """Upstream looks at the owner only where no name for a new model comes along, and writes over it all the same."""
    wanted = any(str(value).strip().lower() not in _NO for value in find(asked.data, "override"))
    models = {key for key in map(number, find(asked.data, "model")) if key is not None} if wanted else set()
    return FOREIGN_MODEL if models and not RIGHTS["own_model"].admits(Scope(asked.user), models) else NOTHING_SAID


def _project(asked: Asked) -> Text:
    """Let the owner alone take a document to another project, as the page does: that project's owner may delete it."""
    document = apps.get_model("core", "Document").objects.filter(pk=number(asked.kwargs.get("pk")))
    stored = document.values("project__slug", "owner").first()
    wanted = {str(value) for value in find(asked.data, "project")}
    if stored is None or wanted <= {stored["project__slug"]}:
        return NOTHING_SAID
    return NOTHING_SAID if stored["owner"] == asked.user.pk else FOREIGN_DOCUMENT


def _metadata(asked: Asked) -> Text:
    """Upstream renames the key of an entry for all documents and pages that have one."""
    if asked.method not in {"PUT", "PATCH"} or not isinstance(asked.data, Mapping) or "key" not in asked.data:
        return NOTHING_SAID
    part = "part_pk" in asked.kwargs
    name = "DocumentPartMetadata" if part else "DocumentMetadata"
    entry = apps.get_model("core", name).objects.filter(pk=number(asked.kwargs.get("pk"))).select_related("key").first()
    given = asked.data["key"]
    if entry is None or not isinstance(given, Mapping):
        return NOTHING_SAID
    if all(str(getattr(entry.key, field, "") or "") == str(value or "") for field, value in given.items()):
        return NOTHING_SAID
    documents = RIGHTS["document"].allowed(Scope(asked.user)).values("pk")
    entries = [
        ("DocumentMetadata", {"document__in": documents}),
        ("DocumentPartMetadata", {"part__document__in": documents}),
    ]
    used = any(
        apps.get_model("core", kind).objects.filter(key=entry.key).exclude(**mine).exists() for kind, mine in entries
    )
    return SHARED_KEY if used or entry.key.public else NOTHING_SAID


CHECKS: Mapping[str, Callable[[Asked], Text]] = {
    "account": _account,
    "profile": _profile,
    "overwrite": _overwrite,
    "metadata": _metadata,
    "project": _project,
    "nobody": lambda _: NOBODYS_TEAM,
}
