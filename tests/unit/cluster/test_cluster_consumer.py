"""Celery's consumer and request as they are mended: what of Celery they build on stands here by itself."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Client:
    """A client of Redis with a connection."""

    connection: Any


class Cycle:
    """kombu's poller of a transport, which polls one connection."""

    def __init__(self) -> None:
        self.polled = object()
        self._chan_to_sock = {("channel", Client(self.polled), "BRPOP"): "socket"}
        self.stopped = 0

    def _on_connection_disconnect(self, _: Any) -> None:
        self.stopped += 1


class CeleryConsumer:
    """What Celery does, as far as it is mended."""

    class Blueprint:  # noqa: D106 - Celery's
        default_steps = ("Celery's own",)

    def __init__(self, app: Any, hostname: str) -> None:
        self.app, self.hostname = app, hostname
        self.turns: list[float] = []
        self.timer = SimpleNamespace(call_repeatedly=lambda seconds, _: self.turns.append(seconds))
        self.pool: Any = None
        self.task_consumer: Any = None
        self.max_prefetch_count = 4
        self.begun: list[Any] = []
        self.closed = 0

    def connect(self) -> Any:
        return SimpleNamespace(transport=SimpleNamespace(cycle=Cycle()))

    def create_task_handler(self) -> Callable[[Any], None]:
        return self.begun.append

    def on_connection_error_after_connected(self, _: Exception) -> None:
        self.task_consumer = None

    def on_close(self) -> None:
        self.closed += 1
        if self.pool is not None:
            self.pool._pool._cache.clear()


class Qos:
    """kombu's record of what was delivered on a channel."""

    def __init__(self, **delivered: Any) -> None:
        self.restore_at_shutdown = True
        self._delivered = dict(delivered)
        self._acknowledged: list[str] = []
        self.restored: list[str] = []

    def append(self, message: Any, tag: str) -> None:
        self._delivered[tag] = message

    def restore_by_tag(self, tag: str) -> None:
        self.restored.append(tag)

    def _flush(self) -> None:
        for tag in self._acknowledged:
            self._delivered.pop(tag)


class Lease:
    """A lease that answers what a test says."""

    def __init__(self, lease: Any) -> None:
        self.module = lease
        self.verdict = lease.Verdict.BEGIN
        self.asked: list[tuple[str, str, str]] = []
        self.checks = 0

    def check(self) -> None:
        self.checks += 1

    def take(self, tag: str, task: str, task_id: str) -> Any:
        self.asked.append((tag, task, task_id))
        return self.verdict


class Message:
    """A message that can be acknowledged."""

    def __init__(self, tag: str, channel: Any = None, **headers: str) -> None:
        self.delivery_tag, self.channel, self.headers = tag, channel, headers
        self.acknowledged = 0

    def ack(self) -> None:
        self.acknowledged += 1


@pytest.fixture
def module(load: Callable[[str], Any]) -> Any:
    """Load the consumer upon the Celery above."""
    celery = load("celery.worker.consumer")
    celery.Consumer = CeleryConsumer
    state = load("celery.worker.state")
    state.active_requests, state.reserved_requests = set(), set()
    load("django.conf").settings = SimpleNamespace(CLUSTER_LEASE_SECONDS=60)
    load("escriptorium_cluster.lease")
    return load("escriptorium_cluster.consumer")


@pytest.fixture
def consumer(module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a consumer that is connected, and has taken a lease."""
    taken: list[Any] = []

    def install(*arguments: Any) -> Lease:
        taken.append(arguments)
        return Lease(module.lease)

    monkeypatch.setattr(module.worker_lease, "install", install)
    made = module.Consumer("app", "gpu@c1")
    assert taken == [("app", "gpu@c1", 60)]
    made.task_consumer = SimpleNamespace(channel=SimpleNamespace(qos=Qos()))
    return made


def test_the_step_stands_behind_celerys_own(module: Any) -> None:
    assert module.Consumer.Blueprint.default_steps == ("Celery's own", module.Adoption)


def test_a_lease_is_checked_with_each_connection(consumer: Any) -> None:
    consumer.connect()
    assert consumer.lease.checks == 1


def test_the_loop_turns_though_no_heartbeats_are_sent(consumer: Any) -> None:
    consumer.connect()
    consumer.connect()
    assert consumer.turns == [2, 2]


def test_polling_goes_on_when_what_a_vain_attempt_left_is_closed(consumer: Any) -> None:
    cycle = consumer.connect().transport.cycle
    cycle._on_connection_disconnect(object())
    assert cycle.stopped == 0
    cycle._on_connection_disconnect(cycle.polled)
    assert cycle.stopped == 1


def test_a_message_is_noted_and_its_job_begins(consumer: Any) -> None:
    message = Message("tag", task="core.tasks.train", id="a")
    consumer.create_task_handler()(message)
    assert consumer.lease.asked == [("tag", "core.tasks.train", "a")]
    assert (consumer.begun, message.acknowledged) == ([message], 0)


def test_a_job_that_has_ended_elsewhere_is_acknowledged_and_does_not_begin(module: Any, consumer: Any) -> None:
    consumer.lease.verdict = module.lease.Verdict.DROP
    message = Message("tag")
    consumer.create_task_handler()(message)
    assert (consumer.begun, message.acknowledged) == ([], 1)


def test_a_job_that_runs_elsewhere_is_let_go(module: Any, consumer: Any) -> None:
    consumer.lease.verdict = module.lease.Verdict.LATER
    message = Message("tag")
    consumer.task_consumer.channel.qos.append(message, "tag")
    consumer.create_task_handler()(message)
    assert (consumer.begun, message.acknowledged) == ([], 0)
    assert consumer.task_consumer.channel.qos._delivered == {}


def test_a_message_that_is_handed_out_once_more_stays_with_its_job(module: Any, consumer: Any) -> None:
    consumer.lease.verdict = module.lease.Verdict.KEEP
    message = Message("tag")
    consumer.task_consumer.channel.qos.append(message, "tag")
    consumer.create_task_handler()(message)
    assert (consumer.begun, message.acknowledged) == ([], 0)
    assert consumer.task_consumer.channel.qos._delivered == {"tag": message}


def test_what_was_not_acknowledged_is_known_when_the_connection_is_lost(consumer: Any) -> None:
    qos = consumer.task_consumer.channel.qos = Qos(running="r", fetched="f", done="d")
    qos._acknowledged = ["done"]
    consumer.on_connection_error_after_connected(ConnectionError())
    assert consumer.unfinished == {"running": "r", "fetched": "f"}
    assert not qos.restore_at_shutdown, "running jobs would run twice"
    assert consumer.initial_prefetch_count == 4


def test_a_connection_that_never_was_leaves_nothing(consumer: Any) -> None:
    consumer.task_consumer = None
    consumer.on_connection_error_after_connected(ConnectionError())
    assert consumer.unfinished == {}


def test_running_jobs_go_over_to_the_new_connection_and_others_back(
    load: Callable[[str], Any], module: Any, consumer: Any
) -> None:
    running, fetched = Message("running", "old"), Message("fetched", "old")
    state = load("celery.worker.state")
    request = SimpleNamespace(message=running)
    # Celery's requests are compared by identity.
    state.active_requests = [request]
    kept: list[Any] = []
    state.reserved_requests = SimpleNamespace(add=kept.append)
    consumer.unfinished = {"running": Message("running", "old"), "fetched": fetched}
    module.Adoption(consumer).start(consumer)
    channel = consumer.task_consumer.channel
    assert (channel.qos._delivered, channel.qos.restored) == ({"running": running}, ["fetched"])
    assert running.channel is channel, "its acknowledgement would go to the connection that was lost"
    assert kept == [request]
    assert consumer.unfinished == {}


class Job:
    """A job in billiard's pool."""

    def __init__(self, child: int, *, accepted: bool = True, ready: bool = False, alive: bool = True) -> None:
        self._accepted, self._ready = accepted, ready
        self._write_to = SimpleNamespace(inqW_fd=child, _is_alive=lambda: alive)

    def accepted(self) -> bool:
        return self._accepted

    def ready(self) -> bool:
        return self._ready


def test_running_jobs_stay_known_and_their_children_busy(consumer: Any) -> None:
    jobs = {1: Job(10), 2: Job(11, accepted=False), 3: Job(12, alive=False), 4: Job(13, ready=True)}
    pool = SimpleNamespace(_cache=dict(jobs), _busy_workers=set())
    consumer.pool = SimpleNamespace(_pool=pool)
    consumer.unfinished = {"tag": "message"}
    consumer.on_close()
    assert set(pool._cache) == {1, 3}
    assert pool._busy_workers == {10, 13}
    assert consumer.closed == 1


def test_an_ordinary_end_forgets_all(consumer: Any) -> None:
    pool = SimpleNamespace(_cache={1: Job(10)}, _busy_workers=set())
    consumer.pool = SimpleNamespace(_pool=pool)
    consumer.on_close()
    assert (pool._cache, pool._busy_workers, consumer.closed) == ({}, set(), 1)


class CeleryRequest:
    """Celery's request: notes which exception it is given."""

    def __init__(self) -> None:
        self.failures: list[tuple[BaseException, Any]] = []

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> None:
        self.failures.append((exc_info.exception, (*arguments, *options.items())))


def failure(load: Callable[[str], Any], error: Any) -> Any:
    load("celery.worker.request").Request = CeleryRequest
    module = load("escriptorium_cluster.failed_request")
    request = module.Request()
    request.on_failure(SimpleNamespace(exception=error), "request", return_ok=False)
    ((found, options),) = request.failures
    assert options == ("request", ("return_ok", False))
    return found


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_job_without_memory_fails_as_others_do(load: Callable[[str], Any], wrapped: bool) -> None:
    error = MemoryError("Unable to allocate 3 TiB")
    found = failure(load, SimpleNamespace(exc=error) if wrapped else error)
    assert not isinstance(found, MemoryError), "Celery would end the worker"
    assert str(found) == "out of memory: Unable to allocate 3 TiB"


def test_other_failures_stay_as_they_are(load: Callable[[str], Any]) -> None:
    error = ValueError("no lines")
    assert failure(load, error) is error
