"""When a worker helps out in a queue that is not its own: the decision alone, with a clock that the test turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from escriptorium_cluster.overflow import PAUSE_SECONDS, Helper, Patience
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

PATIENCE = 10.0


class Bench:
    """A worker, its clock and the queues, all in one."""

    def __init__(self, seconds: float = PATIENCE, queues: tuple[str, ...] = ("gpu",)) -> None:
        self.time = 1000.0
        self.busy = False
        self.waiting = dict.fromkeys(queues, 0)
        self.consumed: set[str] = set()
        self.asked = 0
        self.broker_error: Exception | None = None
        self.consume_error: Exception | None = None
        self.helper = Helper(self, self.count, queues, seconds, lambda: self.time)

    def idle(self) -> bool:
        return not self.busy

    def consumes(self, queue: str) -> bool:
        return queue in self.consumed

    def consume(self, queue: str) -> None:
        if self.consume_error:
            raise self.consume_error
        assert queue not in self.consumed, "consumed twice"
        self.consumed.add(queue)

    def cancel(self, queue: str) -> None:
        assert queue in self.consumed, "cancelled without need"
        self.consumed.remove(queue)

    def count(self, queues: Sequence[str]) -> Mapping[str, int]:
        self.asked += 1
        if self.broker_error:
            raise self.broker_error
        return {queue: self.waiting[queue] for queue in queues}

    def look(self, after: float = 2.0) -> set[str]:
        """Let some seconds pass and look; returns what is consumed then."""
        self.time += after
        self.helper.look()
        return set(self.consumed)


def test_nothing_happens_while_nothing_waits() -> None:
    bench = Bench()
    assert all(bench.look() == set() for _ in range(20))


def test_the_small_slices_come_first() -> None:
    bench = Bench()
    bench.waiting["gpu"] = 1
    assert [bench.look() for _ in range(6)] == [set(), set(), set(), set(), set(), {"gpu"}]
    assert bench.look() == {"gpu"}


def test_without_patience_it_helps_at_once() -> None:
    bench = Bench(seconds=0)
    bench.waiting["gpu"] = 3
    assert bench.look() == {"gpu"}


def test_an_empty_queue_in_between_starts_the_wait_again() -> None:
    bench = Bench()
    bench.waiting["gpu"] = 1
    bench.look()
    bench.look(8)
    bench.waiting["gpu"] = 0
    bench.look()
    bench.waiting["gpu"] = 1
    assert bench.look() == set()
    assert bench.look(9) == set()
    assert bench.look(1) == {"gpu"}


def test_it_leaves_when_others_have_taken_the_jobs() -> None:
    bench = Bench(seconds=0)
    bench.waiting["gpu"] = 1
    assert bench.look() == {"gpu"}
    bench.waiting["gpu"] = 0
    assert bench.look() == set()


def test_it_takes_one_job_and_then_waits_as_long_again() -> None:
    bench = Bench()
    bench.waiting["gpu"] = 5
    bench.look()
    assert bench.look(PATIENCE) == {"gpu"}
    bench.helper.received(request="of Celery's signal", signal="task_received")
    assert bench.consumed == set()
    # The job ended before the next look: still nobody was made to wait less.
    assert bench.look() == set()
    assert bench.look(PATIENCE) == {"gpu"}


def test_a_busy_worker_asks_nothing_and_takes_nothing() -> None:
    bench = Bench(seconds=0)
    bench.waiting["gpu"] = 1
    assert bench.look() == {"gpu"}
    asked = bench.asked
    bench.busy = True
    assert [bench.look(PATIENCE) for _ in range(5)] == [set()] * 5
    assert bench.asked == asked


def test_time_that_a_job_took_does_not_count_as_waiting() -> None:
    bench = Bench()
    bench.waiting["gpu"] = 1
    bench.look()
    bench.busy = True
    bench.look(3600)
    bench.busy = False
    assert bench.look() == set()
    assert bench.look(PATIENCE) == {"gpu"}


def test_each_queue_has_its_own_wait() -> None:
    bench = Bench(queues=("gpu", "default"))
    bench.waiting["gpu"] = 1
    bench.look()
    bench.waiting["default"] = 1
    bench.look(6)
    assert bench.look(4) == {"gpu"}
    assert bench.look(6) == {"gpu", "default"}


def test_a_broker_that_is_away_is_left_in_peace(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(seconds=0)
    bench.waiting["gpu"] = 1
    assert bench.look() == {"gpu"}
    bench.broker_error = ConnectionError("Connection refused")
    assert bench.look() == set(), "it helps out without knowing that anybody needs it"
    asked = bench.asked
    assert [bench.look() for _ in range(7)] == [set()] * 7
    assert bench.asked == asked, f"asked again within {PAUSE_SECONDS:g} s"
    bench.look()
    assert bench.asked == asked + 1
    assert [record.getMessage() for record in caplog.records] == [
        "the broker does not say how many jobs wait: Connection refused"
    ]
    bench.broker_error = None
    assert bench.look(PAUSE_SECONDS) == {"gpu"}
    assert bench.look() == {"gpu"}, "no pause is left"


def test_a_queue_that_cannot_be_consumed_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(seconds=0)
    bench.waiting["gpu"] = 1
    bench.consume_error = OSError("Broken pipe")
    assert bench.look() == set()
    assert "could not look after other queues" in caplog.text
    bench.consume_error = None
    assert bench.look() == {"gpu"}


def test_a_lost_connection_leaves_nothing_behind() -> None:
    bench = Bench()
    bench.waiting["gpu"] = 1
    bench.look()
    assert bench.look(PATIENCE) == {"gpu"}
    bench.consumed.clear()  # as Celery does with its consumer
    assert bench.look() == {"gpu"}


def test_patience_without_a_first_look_knows_nothing() -> None:
    patience = Patience(5)
    assert patience.exhausted(1, now=100.0) is False
    assert patience.exhausted(9, now=104.9) is False
    assert patience.exhausted(1, now=105.0) is True
    patience.forget()
    assert patience.exhausted(1, now=200.0) is False


moments = st.lists(
    st.tuples(
        st.floats(0, 8),
        st.sampled_from(["free", "free", "free", "busy", "received", "error"]),
        st.integers(0, 2),
    ),
    max_size=60,
)


@given(moments, st.sampled_from([0.0, 4.0, 10.0]))
def test_it_consumes_only_what_has_waited_long_enough(steps: list[tuple[float, str, int]], seconds: float) -> None:
    bench = Bench(seconds=seconds)
    since: float | None = None
    for passed, event, waiting in steps:
        bench.waiting["gpu"] = waiting
        bench.busy = event == "busy"
        bench.broker_error = TimeoutError("no answer") if event == "error" else None
        if event == "received":
            bench.helper.received()
            since = None
            assert bench.consumed == set()
        before = bench.asked
        consumed = bench.look(passed)
        known = bench.asked > before and event != "error"
        if not (known and waiting):
            since = None
        elif since is None:
            since = bench.time
        assert consumed == ({"gpu"} if since is not None and bench.time - since >= seconds else set())
