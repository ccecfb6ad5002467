"""Jobs and their database that goes away: no PostgreSQL, no Celery."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Self

import pytest
from escriptorium_cluster.again import Once, again_after_loss
from escriptorium_cluster.patience import connect_patiently, hopeless, server_has_gone

if TYPE_CHECKING:
    from collections.abc import Mapping


class GoneError(Exception):
    """What a driver raises."""


class Database:
    """A server that refuses some attempts."""

    def __init__(self, refusals: int, reason: str = "Connection refused") -> None:
        self.refusals = refusals
        self.reason = reason
        self.slept: list[float] = []

    def connect(self) -> str:
        if len(self.slept) < self.refusals:
            raise GoneError(self.reason)
        return "connection"

    def answer(self) -> Any:
        return connect_patiently(self.connect, GoneError, now=lambda: sum(self.slept), sleep=self.slept.append)


def test_a_database_that_is_there_costs_no_wait() -> None:
    database = Database(0)
    assert (database.answer(), database.slept) == ("connection", [])


def test_a_job_waits_with_growing_pauses() -> None:
    database = Database(7)
    assert database.answer() == "connection"
    assert database.slept == [1, 2, 4, 8, 10, 10, 10]


@pytest.mark.parametrize(
    "reason", ["the database system is shutting down", "Network is unreachable", "timeout expired", "too many clients"]
)
def test_what_passes_is_waited_for(reason: str) -> None:
    assert not hopeless(GoneError(reason))


@pytest.mark.parametrize(
    "reason",
    ['password authentication failed for user "escriptorium"', 'database "x" does not exist', "no pg_hba.conf entry"],
)
def test_what_stays_is_said_at_once(reason: str) -> None:
    with pytest.raises(GoneError):
        Database(1, reason).answer()


class Connection:
    """A connection of psycopg2 over a real socket; ``fails`` when it is asked something."""

    closed = 0

    def __init__(self, *, fails: bool = False, status: int = 0) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.fails = fails
        self.asked = 0
        self.info = self
        self.transaction_status = status

    def fileno(self) -> int:
        return self.ours.fileno()

    def cursor(self) -> Connection:
        return self

    def execute(self, _: str) -> None:
        self.asked += 1
        if self.fails:
            raise GoneError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def end(self) -> None:
        self.ours.close()
        self.theirs.close()


def test_a_quiet_connection_is_not_asked() -> None:
    connection = Connection()
    assert (server_has_gone(connection, GoneError), connection.asked) == (False, 0)
    connection.end()


def test_a_server_that_has_closed_its_end_is_seen() -> None:
    connection = Connection(fails=True)
    connection.theirs.close()
    assert server_has_gone(connection, GoneError)
    connection.end()


def test_a_notice_is_no_end() -> None:
    connection = Connection()
    connection.theirs.send(b"N")
    assert (server_has_gone(connection, GoneError), connection.asked) == (False, 1)
    connection.end()


def test_nothing_is_asked_within_a_transaction() -> None:
    connection = Connection(fails=True, status=2)
    connection.theirs.close()
    assert (server_has_gone(connection, GoneError), connection.asked) == (False, 0)
    connection.end()


class Job:
    """A job that loses its database some times, and tells it or not."""

    def __init__(self, losses: int, *, tells: bool = True, error: type[Exception] = GoneError) -> None:
        self.wanted = losses
        self.tells = tells
        self.error = error
        self.losses = self.runs = 0
        self.begun: list[Mapping[str, Any]] = []

    def run(self, **_: Any) -> str:
        self.runs += 1
        if self.losses < self.wanted:
            self.losses += 1
            if self.tells:
                raise self.error
        return "done"

    def result(self, passing: tuple[type[BaseException], ...] = ()) -> Any:
        return again_after_loss(self.run, lambda: self.losses, self.begun.append, passing)(model_pk=1)


def test_a_job_that_loses_nothing_runs_once() -> None:
    job = Job(0)
    assert (job.result(), job.runs, job.begun) == ("done", 1, [])


@pytest.mark.parametrize("tells", [True, False])
def test_a_job_that_loses_its_database_begins_anew(tells: bool) -> None:
    job = Job(2, tells=tells)
    assert (job.result(), job.runs, job.begun) == ("done", 3, [{"model_pk": 1}] * 2)


def test_other_errors_end_the_job() -> None:
    job = Job(0)

    def fail(**_: Any) -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - it says nothing
        again_after_loss(fail, lambda: job.losses, job.begun.append)()
    assert job.begun == []


def test_what_celery_means_by_an_exception_stays() -> None:
    with pytest.raises(GoneError):
        Job(1).result(passing=(GoneError,))


def test_a_job_that_was_started_too_often_is_given_up() -> None:
    job = Job(9)

    def refuse(_: Mapping[str, Any]) -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        again_after_loss(job.run, lambda: job.losses, refuse)()
    assert job.runs == 1


def traced(*, redelivered: bool, done: bool | None) -> list[str]:
    """Return what was asked and run."""
    seen: list[str] = []

    def trace(*_: Any) -> str:
        seen.append("run")
        return "ran"

    def look(_: str) -> bool:
        seen.append("look")
        if done is None:
            raise GoneError
        return done

    answer = Once(trace, look)("job", (), {}, {"delivery_info": {"redelivered": redelivered}})
    assert answer == "ran"
    return seen


def test_only_messages_that_come_again_are_looked_at() -> None:
    assert traced(redelivered=False, done=True) == ["run"]
    assert traced(redelivered=True, done=False) == ["look", "run"]
    assert traced(redelivered=True, done=None) == ["look", "run"]
