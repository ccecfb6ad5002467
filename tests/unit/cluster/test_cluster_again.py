"""Jobs and their database that goes away: no PostgreSQL, no Celery."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest
from escriptorium_cluster.again import Once, again_after_loss
from escriptorium_cluster.patience import connect_patiently, hopeless, server_has_gone

from tests.unit.cluster.tables import Row, Rows, get_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class GoneError(Exception):
    """What a driver raises; it keeps a code for what a server has answered to a query."""

    pgcode: str | None = None


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
    [
        'password authentication failed for user "escriptorium"',
        'database "x" does not exist',
        "no pg_hba.conf entry",
        'pg_hba.conf rejects connection for host "10.0.0.9"',
        'kein pg_hba.conf-Eintrag für Host "10.0.0.9"',
    ],
)
def test_what_stays_is_said_at_once(reason: str) -> None:
    with pytest.raises(GoneError):
        Database(1, reason).answer()


@pytest.mark.parametrize(
    ("code", "stays"),
    [("28P01", True), ("28000", True), ("3D000", True), ("42501", True), ("57P03", False), ("53300", False)],
)
def test_a_code_goes_before_the_words(code: str, stays: bool) -> None:
    """Words are in the language of the server, and may mean anything."""
    error = GoneError("l'authentification a échoué" if stays else "database slots: permission denied for now")
    error.pgcode = code
    assert hopeless(error) is stays


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


def traced(*answers: str | Exception) -> list[str]:
    """Return what was asked and run, by what the questions whether the job is over are answered."""
    seen: list[str] = []
    left = list(answers)

    def trace(*_: Any) -> str:
        seen.append("run")
        return "ran"

    def look(_: str) -> str:
        seen.append("look")
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    Once(trace, look)("job", (), {}, {"delivery_info": {"redelivered": False}})
    return seen


def test_each_start_is_asked_for_and_a_question_that_went_down_is_repeated() -> None:
    assert traced("") == ["look", "run"]
    assert traced(GoneError(), "") == ["look", "look", "run"]
    assert traced(GoneError(), GoneError()) == ["look", "look", "run"], "a job must not be lost"


def test_a_job_that_is_over_does_not_begin(load: Callable[[str], Any]) -> None:
    again, slots = load("escriptorium_cluster.again"), load("escriptorium_cluster.training_slots")
    slots.not_run = lambda why: type(why).__name__

    def trace(*_: Any) -> None:
        raise AssertionError

    assert again.Once(trace, lambda _: "was cancelled")("job", (), {}, {}) == "Ignore"


class Counted(Rows):
    """A table that counts the questions it is asked."""

    asked = 0

    def filter(self, **conditions: Any) -> Rows:
        self.asked += 1
        return super().filter(**conditions)


@pytest.mark.parametrize(
    ("reports", "result", "why"),
    [
        ([], "PENDING", ""),
        (["queued", "queued"], "PENDING", ""),
        (["canceled", "queued"], "PENDING", "was cancelled"),
        (["queued"], "REVOKED", "was cancelled"),
        (["done", "done"], "SUCCESS", "is done"),
        (["done", "started"], "STARTED", ""),
        (["error"], "RETRY", ""),
    ],
)
def test_a_job_is_over_when_it_was_cancelled_or_done(
    load: Callable[[str], Any], reports: list[str], result: str, why: str
) -> None:
    states = {f"WORKFLOW_STATE_{state.upper()}": state for state in ("queued", "started", "canceled", "done")}
    rows = [Row(task_id="job", method="core.tasks.transcribe", workflow_state=state) for state in reports]
    load("celery.states").REVOKED = "REVOKED"
    load("celery.result").AsyncResult = lambda _: SimpleNamespace(state=result)
    load("django.utils.timezone").now = lambda: 9
    load("django.db").close_old_connections = lambda: None
    questions = Counted(rows)
    load("django.apps").apps.get_model = get_model(
        reporting_TaskReport=SimpleNamespace(objects=questions, **states),
    )
    assert load("escriptorium_cluster.again").over("job").startswith(why)
    assert questions.asked == (2 if why == "was cancelled" else 1), "one question, and one more that closes the rest"
    if why == "was cancelled":
        assert {row.workflow_state for row in rows} == {"canceled"}, "the rest is closed"
    elif not why:
        assert load("escriptorium_cluster.again").over("job") == ""
