"""The pool of processes as it is mended: what of Celery it builds on stands here by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


class CeleryPool:
    """Celery's pool, as far as it is mended: it looks once, and finds that the process still lives."""

    def __init__(self) -> None:
        self._pool: list[str] = ["old"]
        self.looks = 0
        self.tracked = False

    def _event_process_exit(self, _: Any, __: str) -> None:
        self.maintain_pool()

    def _track_child_process(self, proc: Any, _: Any) -> None:
        self.tracked = hasattr(proc, "_sentinel_poll")

    def maintain_pool(self) -> None:
        self.looks += 1
        if self.looks > 1:
            self._pool = ["new"]


class Hub:
    """Celery's event loop: what it calls later."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Any]] = []

    def call_later(self, seconds: float, call: Any) -> None:
        self.later.append((seconds, call))


@pytest.fixture
def pool(load: Callable[[str], Any]) -> Any:
    """Load the pool upon the Celery above."""
    load("celery.concurrency.asynpool").AsynPool = CeleryPool
    load("celery.concurrency.prefork").TaskPool = type("TaskPool", (), {})
    return load("escriptorium_cluster.pool")


def test_a_process_that_was_about_to_end_is_replaced_a_moment_later(pool: Any) -> None:
    made, hub = pool.Pool(), Hub()
    made._event_process_exit(hub, "old")
    ((seconds, call),) = hub.later
    assert seconds < 1
    call()
    assert made._pool == ["new"]


def test_one_that_celery_has_replaced_is_not_looked_at_again(pool: Any) -> None:
    made, hub = pool.Pool(), Hub()
    made.looks = 1
    made._event_process_exit(hub, "old")
    assert hub.later == []


def test_workers_run_it(pool: Any) -> None:
    assert pool.TaskPool.Pool is pool.Pool


@pytest.mark.parametrize(("watched", "tracked"), [(7, True), (None, False)])
def test_a_pipe_that_was_closed_is_not_taken_for_an_open_one(pool: Any, watched: int | None, tracked: bool) -> None:
    made = pool.Pool()
    made._track_child_process(SimpleNamespace(_sentinel_poll=watched), Hub())
    assert made.tracked is tracked
