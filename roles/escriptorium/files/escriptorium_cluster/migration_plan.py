"""What a migration means for processes of the release before it, and whether it can be taken back. Pure: no Django.

Processes of the former release go on while an upgrade migrates: web processes for seconds, workers until their jobs
have ended. So a change either leaves room for them, or jobs have to pause. Taken back, a change must not lose what
users did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: What becomes of a database when the release before is to run on it again.
Decision = Literal["nothing", "stays", "back", "restore"]

#: Changes that neither take anything from the former release nor from users, in both directions.
FREE: Final = frozenset(
    {
        "AddIndex",
        "AddIndexConcurrently",
        "AlterIndexTogether",
        "AlterModelManagers",
        "AlterModelOptions",
        "AlterModelTableComment",
        "RemoveIndex",
        "RemoveIndexConcurrently",
        "RenameIndex",
    }
)
UNKNOWN: Final = "{subject}: {kind} is not known here"
RENAMED: Final = "{subject} gets another name, and the release before asks for the old one"
BOUND: Final = "{subject}: what the release before writes may be refused"
KEPT: Final = "{subject} has rows that link to {tables}: the release before cannot delete what they link to"
OPAQUE: Final = "{subject} changes rows by code of its own ({kind}), and may miss what is written meanwhile"
#: What processes of the former release run into, by Django's name of the operation.
HARMS: Final = {
    "AddConstraint": BOUND,
    "AddField": "{subject} has to have a value, and the release before gives none",
    "AlterField": "{subject} takes other values than the release before gives",
    "AlterModelTable": RENAMED,
    "AlterOrderWithRespectTo": BOUND,
    "AlterUniqueTogether": BOUND,
    "DeleteModel": "{subject} goes, and the release before asks for it",
    "RemoveField": "{subject} goes, and the release before asks for it",
    "RenameField": RENAMED,
    "RenameModel": RENAMED,
    "RunPython": OPAQUE,
    "RunSQL": OPAQUE,
    "ValidateConstraint": BOUND,
}
#: What undoing a change loses, by Django's name of the operation.
LOSSES: Final = {
    "AddField": "{subject} holds what users did since",
    "AlterField": "{subject} may hold what did not fit before",
    "CreateModel": "{subject} holds what users did since",
    "DeleteModel": "{subject} is gone with all that it held",
    "RemoveField": "{subject} is gone with all that it held",
    "RunPython": "{subject}: nobody can tell what its way back ({kind}) does to rows",
    "RunSQL": "{subject}: nobody can tell what its way back ({kind}) does to rows",
}
#: Changes that go back without a loss.
LOSSLESS: Final = FREE | {
    "AddConstraint",
    "AlterModelTable",
    "AlterOrderWithRespectTo",
    "AlterUniqueTogether",
    "RemoveConstraint",
    "RenameField",
    "RenameModel",
    "ValidateConstraint",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One operation of a migration, as far as it matters here.

    Attributes:
        kind: Django's name of the operation, as ``AddField``.
        subject: what it changes, as ``core.Document.title``.
        in_database: the database changes, and not only what Django knows about it.
        required: the new field has to have a value, and the database gives none by itself.
        widens: the altered field takes all that it took before.
        reversible: Django can undo it.
        idle_back: undoing it means doing nothing.
        holds_data: what undoing it would remove holds something by now.
        table: the table that it has made.
        links: tables to which rows link by what it has made; the database lets nobody delete what is linked to.

    """

    kind: str
    subject: str
    in_database: bool = True
    required: bool = False
    widens: bool = False
    reversible: bool = True
    idle_back: bool = False
    holds_data: bool = False
    table: str = ""
    links: frozenset[str] = frozenset()


def harm(change: Change) -> str | None:
    """Return what the former release's processes would run into after this change; None where it leaves them room."""
    free = change.kind in FREE | {"CreateModel", "RemoveConstraint"} or change.kind.endswith("Extension")
    roomy = (change.kind == "AddField" and not change.required) or (change.kind == "AlterField" and change.widens)
    if free or roomy or not change.in_database:
        return None
    return HARMS.get(change.kind, UNKNOWN).format(subject=change.subject, kind=change.kind)


def loss(change: Change) -> str | None:
    """Return what undoing this change would lose, or why it cannot be undone; None where nothing is lost."""
    free = change.kind in LOSSLESS or change.kind.endswith("Extension")
    empty = change.kind in {"AddField", "CreateModel"} and not change.holds_data
    if not change.in_database or change.idle_back:
        return None
    if not change.reversible:
        return f"{change.subject}: {change.kind} has no way back"
    return None if free or empty else LOSSES.get(change.kind, UNKNOWN).format(subject=change.subject, kind=change.kind)


def keeps(change: Change, made: frozenset[str]) -> str | None:
    """Return what the former release cannot delete because of rows that it does not know; None where it can.

    Upstream's cascades are Django's: each release takes along the rows of those tables only that it knows.

    Args:
        change: one of several.
        made: the tables that these have made.

    """
    tables = ", ".join(sorted(change.links - made))
    return KEPT.format(subject=change.subject, tables=tables) if tables else None


def reasons(found: Iterable[str | None]) -> list[str]:
    """Return what was found, each once, in this order."""
    return list(dict.fromkeys(reason for reason in found if reason is not None))


def decide_back(changes: Sequence[Change]) -> tuple[Decision, list[str]]:
    """Say how the release before can run again after these changes, the newest last, and why not more easily.

    - ``nothing``: the database is as that release left it;
    - ``stays``: it has more, which that release does not look at, and which keeps it from nothing;
    - ``back``: the changes have to be undone, and can be without a loss;
    - ``restore``: only a backup has what that release needs.
    """
    if not changes:
        return "nothing", []
    made = frozenset(change.table for change in changes)
    kept = reasons(keeps(change, made) for change in changes)
    harms = reasons(map(harm, changes)) + kept
    if not harms:
        return "stays", []
    losses = reasons(map(loss, changes))
    losses += kept if losses else []
    return ("restore", losses) if losses else ("back", harms)


def pin_problems(pins: Iterable[str], installed: dict[str, str]) -> list[str]:
    """Return the installed distributions that are not those of a constraints file.

    Args:
        pins: lines as ``name==version``, with a marker after ``;`` or a comment after ``#``; other lines bind nothing.
        installed: versions by normalised name.

    """
    problems = []
    for line in pins:
        name, separator, version = line.partition("#")[0].partition(";")[0].partition("==")
        found = installed.get(normal_name(name))
        if separator and found is not None and found != version.strip():
            problems.append(f"{name.strip()} is {found}, and constraints.txt says {version.strip()}")
    return problems


def normal_name(name: str) -> str:
    """Return a distribution's name as all spellings of it are compared: lower case, one hyphen between words."""
    words = name.strip().lower().replace("_", "-").replace(".", "-").split("-")
    return "-".join(word for word in words if word)
