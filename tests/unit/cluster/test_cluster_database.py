"""The connections of jobs to the database: Django's own wrapper stands here by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


class Wrapper:
    """What Django's wrapper does, as far as it is mended."""

    refusals: list[Exception]

    def __init__(self) -> None:
        self.connection: Any = None
        self.in_atomic_block = False
        self.asked: list[str] = []

    def get_new_connection(self, _: Any) -> Any:
        if self.refusals:
            raise self.refusals.pop(0)
        return "connection"

    def ensure_connection(self) -> None:
        self.asked.append("ensured")

    def close(self) -> None:
        self.asked.append("closed")


class Errors:
    """Hands psycopg2's errors on as Django's; here they are the same."""

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            raise error


class LostError(Exception):
    """psycopg2's error, as Django hands it on."""


class ClosedError(LostError):
    """What it says of a cursor whose connection is gone."""


@pytest.fixture
def base(load: Callable[[str], Any]) -> Any:
    """Load the backend upon the wrapper above, in a process that runs jobs."""
    django = load("django.db.backends.postgresql.base")
    django.DatabaseWrapper = Wrapper
    django.Database = SimpleNamespace(OperationalError=LostError, Error=LostError)
    errors = load("django.db.utils")
    errors.DatabaseErrorWrapper, errors.Error, errors.InterfaceError = Errors, LostError, ClosedError
    load("escriptorium_cluster.lease")
    found = load("escriptorium_cluster.database.base")
    load("escriptorium_cluster.patience").PAUSES = (0.0, 0.0)
    found.patience.on = True
    return found


@pytest.fixture
def wrapper(base: Any) -> Any:
    made = base.DatabaseWrapper()
    made.refusals = []
    return made


def test_a_job_waits_for_its_database(wrapper: Any) -> None:
    wrapper.refusals = [LostError("the database system is shutting down"), LostError("Connection refused")]
    assert wrapper.get_new_connection({}) == "connection"
    assert wrapper.refusals == []


def test_a_web_process_does_not_wait(base: Any, wrapper: Any) -> None:
    base.patience.on = False
    wrapper.refusals = [LostError("Connection refused")]
    with pytest.raises(LostError):
        wrapper.get_new_connection({})


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ('no pg_hba.conf entry for host\n"10.0.0.9"', ['no pg_hba.conf entry for host "10.0.0.9"']),
        ("password authentication failed", []),
    ],
)
def test_a_worker_whose_host_is_let_in_no_more_gives_its_jobs_away(
    base: Any, wrapper: Any, reason: str, left: list[str]
) -> None:
    said: list[str] = []
    base.lease.current = SimpleNamespace(leave=said.append)
    wrapper.refusals = [LostError(reason)]
    with pytest.raises(LostError):
        wrapper.get_new_connection({})
    assert said == left


def test_a_process_without_a_lease_has_none_to_leave(base: Any, wrapper: Any) -> None:
    base.lease.current = None
    wrapper.refusals = [LostError("no pg_hba.conf entry")]
    with pytest.raises(LostError):
        wrapper.get_new_connection({})


@pytest.mark.parametrize(
    ("connection", "atomic", "asked"),
    [
        ("lost", False, ["closed", "ensured"]),
        ("fine", False, ["ensured"]),
        # Within a transaction nothing is replaced: what was asked in it is lost, too.
        ("lost", True, ["ensured"]),
        (None, False, ["ensured"]),
    ],
)
def test_a_connection_that_was_lost_while_idle_is_replaced(
    base: Any, wrapper: Any, connection: str | None, atomic: bool, asked: list[str]
) -> None:
    base.server_has_gone = lambda connection, lost: (connection, lost) == ("lost", LostError)
    wrapper.connection, wrapper.in_atomic_block = connection, atomic
    wrapper.ensure_connection()
    assert wrapper.asked == asked


@pytest.mark.parametrize(
    ("connection", "error", "counted"),
    [
        (SimpleNamespace(closed=2), LostError, 1),
        (SimpleNamespace(closed=0), LostError, 0),
        # Nobody was connected: nothing is lost.
        (None, LostError, 0),
        # Its connection was lost and has a successor.
        (SimpleNamespace(closed=0), ClosedError, 1),
        (SimpleNamespace(closed=2), ValueError, 0),
    ],
)
def test_what_goes_down_with_the_server_is_counted(
    base: Any, wrapper: Any, connection: Any, error: type[Exception], counted: int
) -> None:
    wrapper.connection = connection

    def fetch() -> None:
        with wrapper.wrap_database_errors:
            raise error

    with pytest.raises(error):
        fetch()
    assert base.patience.losses == counted


def test_what_goes_well_is_not_counted(base: Any, wrapper: Any) -> None:
    wrapper.connection = SimpleNamespace(closed=2)
    with wrapper.wrap_database_errors:
        assert wrapper.wrap_database_errors is wrapper.wrap_database_errors
    assert base.patience.losses == 0
