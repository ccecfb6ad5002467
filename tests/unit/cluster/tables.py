"""Rows in memory that answer the few questions of Django's queries that the tests need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: What a condition's last word asks of a value.
ASKS: dict[str, Callable[[Any, Any], bool]] = {
    "isnull": lambda value, wanted: (value is None) == wanted,
    "in": lambda value, wanted: value in wanted,
    "gte": lambda value, wanted: value >= wanted,
    "lte": lambda value, wanted: value <= wanted,
    "startswith": lambda value, wanted: value.startswith(wanted),
}


class Row(SimpleNamespace):
    """One row; notes how often it was saved. Rows are the same only if they are one."""

    saved = 0

    def save(self, **_: Any) -> None:
        self.saved += 1

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Rows:
    """A query: all rows of a table, or some."""

    def __init__(self, rows: Iterable[Any] = ()) -> None:
        self.rows = list(rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return Rows(self.rows[place]) if isinstance(place, slice) else self.rows[place]

    def as_it_is(self, *_: Any, **__: Any) -> Rows:
        return self

    all = select_for_update = using = distinct = iterator = as_it_is

    def filter(self, **conditions: Any) -> Rows:
        return Rows(row for row in self.rows if all(fits(row, *item) for item in conditions.items()))

    def exclude(self, **conditions: Any) -> Rows:
        return Rows(row for row in self.rows if not all(fits(row, *item) for item in conditions.items()))

    def order_by(self, *columns: str) -> Rows:
        rows = list(self.rows)
        for column in reversed(columns):
            rows.sort(key=lambda row: value_of(row, column.lstrip("-").split("__")), reverse=column.startswith("-"))
        return Rows(rows)

    def first(self) -> Any:
        return self.rows[0] if self.rows else None

    def get(self, **conditions: Any) -> Any:
        (row,) = self.filter(**conditions)
        return row

    def exists(self) -> bool:
        return bool(self.rows)

    def count(self) -> int:
        return len(self.rows)

    def values_list(self, *columns: str, flat: bool = False) -> Rows:
        found = [tuple(value_of(row, column.split("__")) for column in columns) for row in self.rows]
        return Rows(row[0] if flat else row for row in found)

    def update(self, **values: Any) -> int:
        for row in self.rows:
            vars(row).update(values)
        return len(self.rows)


def value_of(row: Any, path: list[str]) -> Any:
    """Return what a column of a row holds, or of the row that it points to."""
    for name in path:
        row = getattr(row, name)
    return row


def fits(row: Any, condition: str, wanted: Any) -> bool:
    """Whether a row is as a condition of a filter says."""
    *path, last = condition.split("__")
    if last in ASKS:
        return ASKS[last](value_of(row, path), wanted)
    return bool(value_of(row, [*path, last]) == wanted)


def table(rows: Iterable[Any] = (), **constants: Any) -> Any:
    """Return a model class that has these rows."""
    found = Rows(rows)
    return SimpleNamespace(objects=found, _base_manager=found, **constants)


def get_model(**tables: Any) -> Callable[..., Any]:
    """Return Django's way to a model, for tables named as ``core_OcrModel``."""

    def found(*label: str) -> Any:
        return tables["_".join(label).replace(".", "_")]

    return found
