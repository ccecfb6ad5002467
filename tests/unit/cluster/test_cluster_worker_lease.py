"""How a worker takes its lease: no Redis, no Celery."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

APP = SimpleNamespace(conf=SimpleNamespace(broker_read_url="redis://broker/0"))


class Signal:
    """Keeps who listens."""

    def __init__(self) -> None:
        self.heard: list[Callable[..., None]] = []

    def connect(self, listener: Callable[..., None], **_: object) -> None:
        self.heard.append(listener)


@pytest.fixture
def steps(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Load the module with a broker and a Celery of its own; what it does is kept in its order."""
    done: list[str] = []
    signals = load("celery.signals")
    signals.worker_process_init, signals.worker_shutting_down = Signal(), Signal()
    load("redis").Redis = SimpleNamespace(from_url=lambda url, **_: url)
    lease, module = load("escriptorium_cluster.lease"), load("escriptorium_cluster.worker_lease")
    for step in ("check", "start"):
        monkeypatch.setattr(lease.Lease, step, lambda _, step=step: done.append(step))
    monkeypatch.setattr(module, "succeed", lambda redis, own: done.append(f"succeed {own.node} at {redis}"))
    return done


def test_the_jobs_of_a_former_self_go_back_before_the_lease_is_taken(
    steps: list[str], load: Callable[[str], Any]
) -> None:
    taken = load("escriptorium_cluster.worker_lease").install(APP, "gpu@c1", 60)
    assert steps == ["succeed gpu@c1 at redis://broker/0", "check", "start"]
    assert load("escriptorium_cluster.lease").current is taken


def test_a_broker_that_does_not_answer_stops_no_worker(
    steps: list[str], load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(load("escriptorium_cluster.worker_lease"), "succeed", fails)
    load("escriptorium_cluster.worker_lease").install(APP, "gpu@c1", 60)
    assert steps == ["check", "start"]


def test_children_die_with_their_worker_and_its_end_is_noted(steps: list[str], load: Callable[[str], Any]) -> None:
    taken = load("escriptorium_cluster.worker_lease").install(APP, "gpu@c1", 60)
    assert steps[-1] == "start"
    signals = load("celery.signals")
    assert signals.worker_process_init.heard == [load("escriptorium_cluster.lease").die_with_parent]
    assert not taken.ending
    for listener in signals.worker_shutting_down.heard:
        listener(sig="SIGTERM")
    assert taken.ending


def test_jobs_that_begin_and_end_while_they_are_counted_are_counted_again(load: Callable[[str], Any]) -> None:
    class Changing:
        """Changes while it is read, the first time."""

        read = 0

        def __iter__(self) -> Any:
            self.read += 1
            if self.read == 1:
                raise RuntimeError
            return iter([SimpleNamespace(id="job")])

    load("celery.worker.state").active_requests = Changing()
    assert load("escriptorium_cluster.worker_lease").running_here() == {"job"}
