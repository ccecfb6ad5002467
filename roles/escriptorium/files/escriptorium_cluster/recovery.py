"""Brings back one deleted document, project or model from a copy of the database as it was before. Needs Django.

The copy is a second connection that is only read. What comes back are the rows that the deletion has taken along, found
as Django itself finds them, with their old numbers. A row that is there today is never changed. No signal is sent and
no job starts: the rows are put back as they were.
"""

from __future__ import annotations

import copy
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from django.db import DatabaseError, IntegrityError, connections, models, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.deletion import Collector, ProtectedError, RestrictedError
from django.db.models.query import QuerySet

from escriptorium_cluster.project_removal import RefusedError, get
from escriptorium_cluster.space import Named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Name of the connection to the copy.
COPY: Final = "recovered"
#: Rows that are read and written at once.
ROWS: Final = 500
#: Names that a line of the answer shows.
SHOWN: Final = 5
#: What can be brought back.
KINDS: Final = {"document": "core.Document", "project": "core.Project", "model": "core.OcrModel"}


def connect(server: Mapping[str, Any]) -> None:
    """Add the connection to the copy; what ``server`` does not say is as for the application's own database.

    :raises RefusedError: when the copy does not answer, or belongs to another release.
    """
    settings = copy.deepcopy(connections["default"].settings_dict)
    # It is reached by a socket, where the account says who comes: the password is not handed to another server.
    settings |= {"PASSWORD": "", "CONN_MAX_AGE": 0} | {key.upper(): str(value) for key, value in server.items()}
    connections.databases[COPY] = settings
    try:
        before, now = (set(MigrationRecorder(connections[alias]).applied_migrations()) for alias in (COPY, "default"))
    except DatabaseError as error:
        raise RefusedError(f"the database of that moment does not answer: {error}") from None
    if before != now:
        names = sorted(".".join(key) for key in before ^ now)
        raise RefusedError(
            "the tables of that moment are those of another release of the application "
            f"({len(names)} migrations differ, such as {names[0]}): its rows cannot be put into those of today"
        )


def of(model: Any, alias: str) -> Any:
    """Return all rows of a model on a connection."""
    return model._base_manager.using(alias)  # noqa: SLF001 - Django documents it


def label(model: Any) -> str:
    """Return the name of a model, such as core.Document."""
    return str(model._meta.label)  # noqa: SLF001 - Django documents it


def fields(model: Any) -> list[Any]:
    """Return what the table of a model has columns for."""
    return [field for field in model._meta.local_concrete_fields if not getattr(field, "generated", False)]  # noqa: SLF001 - Django documents it


def chunks(keys: Iterable[Any]) -> Iterator[list[Any]]:
    """Give keys in their order, some at a time."""
    ordered = sorted(keys)
    for start in range(0, len(ordered), ROWS):
        yield ordered[start : start + ROWS]


@dataclass(frozen=True)
class Link:
    """A foreign key: its column, where it points, and whether a row can do without it."""

    name: str
    column: str
    target: Any
    optional: bool


def links(model: Any) -> list[Link]:
    """Return the foreign keys of a model's table."""
    return [
        Link(
            field.name,
            field.attname,
            field.related_model._meta.concrete_model,  # noqa: SLF001 - Django documents it
            field.null and field.remote_field.on_delete is not models.CASCADE,
        )
        for field in fields(model)
        if field.is_relation and field.db_constraint and field.target_field.primary_key
    ]


def find(kind: str, named: Named) -> Any:
    """Return the row of the copy that is to come back.

    :raises RefusedError: when the copy has none of this number and name, or the number is in use today.
    """
    model = get(KINDS[kind])
    there = of(model, "default").filter(pk=named.pk).first()
    if there is not None:
        state = "is still there" if there.name == named.name else f"is '{there.name}' today"
        raise RefusedError(f"{kind} {named.pk} {state}: nothing was brought back")
    root = of(model, COPY).filter(pk=named.pk).first()
    if root is None:
        raise RefusedError(f"{kind} {named.pk}: there was none at that moment; take another recover_time")
    if root.name != named.name:
        raise RefusedError(f"{kind} {named.pk}: its name was '{root.name}', not '{named.name}'")
    return root


def taken_along(root: Any) -> dict[Any, set[Any]]:
    """Return the keys of all rows that a deletion takes along, by model; found in the copy."""
    collector = Collector(using=COPY)
    try:
        collector.collect([root])
    except (ProtectedError, RestrictedError) as error:
        raise RefusedError(f"it could not have been deleted at that moment: {error.args[0]}") from None
    keys: defaultdict[Any, set[Any]] = defaultdict(set)
    for model, rows in collector.data.items():
        keys[model._meta.concrete_model].update(row.pk for row in rows)  # noqa: SLF001 - Django documents it
    # Rows that nothing depends on are not read by Django either: it keeps the query.
    for query in collector.fast_deletes:
        found = query.order_by().values_list("pk", flat=True)
        keys[query.model._meta.concrete_model].update(found.iterator(chunk_size=10 * ROWS))  # noqa: SLF001 - Django documents it
    return {model: found for model, found in keys.items() if found}


def identity(model: Any) -> list[str]:
    """Return the columns that tell whether two rows of one number are the same one, though it may have been changed.

    The date of its birth where there is one, or else what it belongs to.
    """
    born = [field.attname for field in fields(model) if getattr(field, "auto_now_add", False)]
    owners = [link.column for link in links(model) if not link.optional]
    return born or owners or [field.attname for field in fields(model) if not field.primary_key]


class Recovery:
    """What it takes to bring one row back, with all that went with it.

    :param root: the row, read from the copy.
    :raises RefusedError: when it cannot come back.
    """

    def __init__(self, kind: str, root: Any) -> None:
        self.kind, self.root = kind, root
        self.keys = taken_along(root)
        #: Rows that are there today: they stay as they are.
        self.kept: defaultdict[Any, set[Any]] = defaultdict(set)
        #: Rows that cannot come back.
        self.left: defaultdict[Any, set[Any]] = defaultdict(set)
        #: Optional links to what is gone: they come back empty, as the deletion of their target had left them.
        self.emptied: defaultdict[tuple[Any, Link], set[Any]] = defaultdict(set)
        self.reasons: Counter[tuple[str, str]] = Counter()
        self._alive: defaultdict[Any, dict[Any, bool]] = defaultdict(dict)
        self._look_at_present()
        self._leave_out()
        self._refuse_lonely_root()
        self.notes = self._free_slug()

    def wanted(self, model: Any) -> set[Any]:
        """Return the keys of the rows that come back."""
        return self.keys[model] - self.kept[model] - self.left[model]

    def _look_at_present(self) -> None:
        taken = []
        for model, keys in self.keys.items():
            columns = identity(model)
            for chunk in chunks(keys):
                present = dict(_rows(model, "default", chunk, columns))
                if not present:
                    continue
                before = dict(_rows(model, COPY, list(present), columns))
                taken += [f"{label(model)} {key}" for key in present if present[key] != before[key]]
                self.kept[model].update(present)
        if taken:
            raise RefusedError(
                f"{len(taken)} numbers belong to other rows today, such as {', '.join(taken[:SHOWN])}: it cannot come "
                "back without changing them"
            )

    def _leave_out(self) -> None:
        """Leave out rows that need something that is gone, and what depends on them in turn."""
        queue = deque(self.keys)
        while queue:
            model = queue.popleft()
            if self._leave_out_of(model):
                dependent = [other for other in self.keys if any(link.target is model for link in links(other))]
                queue.extend(other for other in dependent if other not in queue)

    def _leave_out_of(self, model: Any) -> bool:
        before = len(self.left[model])
        found = links(model)
        for chunk in chunks(self.wanted(model) if found else ()):
            rows = list(_rows(model, COPY, chunk, [link.column for link in found]))
            for place, link in enumerate(found):
                self._ask(link.target, {values[place] for _, values in rows} - {None})
                for key, values in rows:
                    self._follow(model, key, link, values[place])
        return len(self.left[model]) > before

    def _follow(self, model: Any, key: Any, link: Link, value: Any) -> None:
        if value is None:
            return
        own = value in self.keys.get(link.target, ())
        below = own and value in self.kept[link.target]
        gone = value in self.left[link.target] if own else not self._alive[link.target][value]
        if gone and link.optional:
            self.emptied[model, link].add(key)
        elif (gone or (below and not link.optional)) and key not in self.left[model]:
            self.left[model].add(key)
            state = "gone" if gone else "there already, and stays as it is"
            self.reasons[label(model), f"{label(link.target)} {value} is {state}"] += 1

    def _ask(self, target: Any, values: set[Any]) -> None:
        """Find out which rows that do not come back themselves are there today."""
        known = self._alive[target]
        for chunk in chunks(values - self.keys.get(target, set()) - known.keys()):
            alive = set(of(target, "default").filter(pk__in=chunk).values_list("pk", flat=True))
            known.update((value, value in alive) for value in chunk)

    def _refuse_lonely_root(self) -> None:
        model = type(self.root)
        if self.root.pk in self.left[model]:
            reason = next(reason for name, reason in self.reasons if name == label(model))
            raise RefusedError(f"{self.kind} {self.root.pk}: {reason}; bring that back first")
        for (other, link), keys in self.emptied.items():
            if other is model and link.name == "owner" and self.root.pk in keys:
                raise RefusedError(f"{self.kind} {self.root.pk}: its owner, {self.root.owner}, is gone")

    def _free_slug(self) -> list[str]:
        """Give a project another address when a new one has taken it, as the application does."""
        slug = getattr(self.root, "slug", None)
        if slug is None or not of(type(self.root), "default").filter(slug=slug).exists():
            return []
        self.root.slug = f"{slug[:40]}{int(time.time()):x}"
        return [f"its address in the application is '{self.root.slug}': another project has '{slug}' today"]

    # --- What is said about it -----------------------------------------------------------------------------------

    def numbers(self) -> dict[str, int]:
        """Return how many rows of each table come back."""
        found = {label(model): len(self.wanted(model)) for model in self.keys}
        return {name: number for name, number in sorted(found.items()) if number}

    def lines(self) -> list[str]:
        """Return what comes back and what does not, for a person."""
        numbers = self.numbers()
        named = Named(self.root.pk, self.root.name)
        lines = [f"{self.kind} {named}: " + ", ".join(f"{number} {name}" for name, number in numbers.items())]
        lines += self.notes
        lines += [
            f"{len(keys)} {label(model)} are there already and stay as they are"
            for model, keys in self.kept.items()
            if keys
        ]
        for (model, link), keys in self.emptied.items():
            back = len(keys & self.wanted(model))
            lines += [f"{back} {label(model)} come back without their {link.name}, which is gone"] if back else []
        reasons = self.reasons.most_common()
        lines += [f"left out: {number} {name}, since {reason}" for (name, reason), number in reasons[: 4 * SHOWN]]
        lines += [f"left out for other reasons: {len(reasons) - 4 * SHOWN} kinds"] if len(reasons) > 4 * SHOWN else []
        return lines

    def files(self) -> list[str]:
        """Return the files that the rows name, by their names below the media folder."""
        found: dict[str, None] = {}
        for model in self.keys:
            names = [field.attname for field in fields(model) if isinstance(field, models.FileField)]
            if not names:
                continue
            history = ["versions"] if any(field.attname == "versions" for field in fields(model)) else []
            for chunk in chunks(self.wanted(model)):
                for _, values in _rows(model, COPY, chunk, names + history):
                    data = [dict(zip(names, values, strict=False))]
                    data += [version.get("data", {}) for version in (values[-1] or [] if history else [])]
                    found |= dict.fromkeys(str(row[name]) for row in data for name in names if row.get(name))
        return list(found)

    # --- Bringing it back ----------------------------------------------------------------------------------------

    def bring(self) -> None:
        """Put all rows back in one transaction.

        :raises RefusedError: when the database does not take them; it is as it was then.
        """
        try:
            with transaction.atomic():
                for model in self.keys:
                    for chunk in chunks(self.wanted(model)):
                        self._insert(model, chunk)
                # Links are checked at the end of a transaction: now, so that the refusal is ours.
                connections["default"].check_constraints()
        except IntegrityError as error:
            said = " ".join(str(error).split())
            raise RefusedError(
                f"the database refuses it, somebody may have changed something meanwhile: {said}"
            ) from None

    def _insert(self, model: Any, chunk: list[Any]) -> None:
        empty = [(link, keys) for (other, link), keys in self.emptied.items() if other is model]
        rows = list(of(model, COPY).filter(pk__in=chunk))
        for row in rows:
            for link, keys in empty:
                if row.pk in keys:
                    setattr(row, link.column, None)
            _end_jobs(row)
            if model is type(self.root) and row.pk == self.root.pk and hasattr(row, "slug"):
                row.slug = self.root.slug
        # Raw, as loaddata writes: dates of the last change stay, and no method of the application runs.
        QuerySet(model)._insert(rows, fields=fields(model), using="default", raw=True)  # noqa: SLF001 - the public ways set dates


def _rows(model: Any, alias: str, keys: list[Any], columns: list[str]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Give key and columns of rows."""
    for key, *values in of(model, alias).filter(pk__in=keys).order_by().values_list("pk", *columns):
        yield key, tuple(values)


def _end_jobs(row: Any) -> None:
    """Note the end of a job of that moment: nobody else would ever do it."""
    if label(type(row)) == "core.OcrModel":
        row.training = False
    elif label(type(row)) == "imports.DocumentImport" and row.workflow_state == row.WORKFLOW_STATE_STARTED:
        row.workflow_state = row.WORKFLOW_STATE_ERROR
