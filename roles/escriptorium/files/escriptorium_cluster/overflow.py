"""Lets a worker on a large slice of a GPU help out where jobs wait for a small one.

Trainings of segmenters wait in ``gpu-large``, of recognisers in ``gpu``. A worker on a large slice consumes the first
queue. It takes from the second only while it has nothing to do itself and jobs have waited there for a while: small
slices, whose workers are asked by nobody but take a job at once, come first.

Celery has no setting for that; a worker of several queues takes from them in turn. Hence a step of the worker's own
event loop: every two seconds an idle worker counts the waiting jobs, and starts or stops consuming their queue. A
worker that runs a job asks nothing. Whatever goes wrong here, the worker goes on with its own queue.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

#: Seconds between two looks at the queues.
LOOK_SECONDS = 2.0
#: Seconds that a look may hold up the worker's event loop when the broker is silent (not refusing, but gone).
ANSWER_SECONDS = 1.0
#: Seconds without a look after one that failed, so that a silent broker does not hold up the worker again and again.
PAUSE_SECONDS = 15.0


class Worker(Protocol):
    """What is needed of a Celery worker."""

    def idle(self) -> bool:
        """Whether the worker could take a job now."""

    def consumes(self, queue: str) -> bool:
        """Whether the worker takes jobs from a queue."""

    def consume(self, queue: str) -> None:
        """Take jobs from a queue from now on. May raise whatever the broker's client raises."""

    def cancel(self, queue: str) -> None:
        """Take no more jobs from a queue."""


class Patience:
    """Says when jobs have waited long enough in one queue."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._since: float | None = None

    def exhausted(self, waiting: int, now: float) -> bool:
        """Whether jobs have waited for ``seconds`` without interruption.

        :param waiting: how many jobs wait now.
        :param now: seconds of a clock that never goes back.
        """
        if waiting <= 0:
            self.forget()
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self.seconds

    def forget(self) -> None:
        """Start to wait from nothing again."""
        self._since = None


class Helper:
    """Makes one worker help out in other queues, one job at a time.

    :param count: returns how many jobs wait in each of the queues named; may raise whatever the broker's client raises.
    :param seconds: how long jobs have to wait in a queue.
    """

    def __init__(
        self,
        worker: Worker,
        count: Callable[[Sequence[str]], Mapping[str, int]],
        queues: Sequence[str],
        seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._count = count
        self._patience = {queue: Patience(seconds) for queue in queues}
        self._now = now
        self._pause_until: float | None = None

    def look(self) -> None:
        """Start or stop helping, by what waits now. Never raises."""
        try:
            waiting = self._waiting() if self._worker.idle() else {}
            for queue, patience in self._patience.items():
                if not patience.exhausted(waiting.get(queue, 0), self._now()):
                    self._leave(queue)
                elif not self._worker.consumes(queue):
                    self._worker.consume(queue)
        except Exception:
            # The worker notices a broken connection by itself and makes a new one, which begins here from nothing.
            logger.warning("could not look after other queues", exc_info=True)

    def received(self, **_: Any) -> None:
        """Stop helping: the worker has got a job, from whatever queue. The next one has to wait as long again."""
        for queue, patience in self._patience.items():
            patience.forget()
            self._leave(queue)

    def _leave(self, queue: str) -> None:
        if self._worker.consumes(queue):
            self._worker.cancel(queue)

    def _waiting(self) -> Mapping[str, int]:
        """Return how many jobs wait in each queue; nothing while the broker does not answer."""
        if self._pause_until is not None and self._now() < self._pause_until:
            return {}
        try:
            waiting = self._count(tuple(self._patience))
        except Exception as error:
            if self._pause_until is None:
                logger.warning("the broker does not say how many jobs wait: %s", error)
            self._pause_until = self._now() + PAUSE_SECONDS
            return {}
        self._pause_until = None
        return waiting


class CeleryWorker:
    """A Celery worker, seen from its consumer."""

    def __init__(self, consumer: Any, helping: Sequence[str]) -> None:
        self._consumer = consumer
        self._helping = frozenset(helping)

    def idle(self) -> bool:
        """Whether no job is here, started or not, and the worker still consumes a queue of its own.

        A worker that was told by remote control to leave its queue is being drained.
        """
        from celery.worker import state

        # After a lost connection Celery forgets what is reserved, but not what runs.
        busy = state.reserved_requests or state.active_requests
        return not busy and any(queue.name not in self._helping for queue in self._consumer.task_consumer.queues)

    def consumes(self, queue: str) -> bool:
        """Whether the worker takes jobs from a queue."""
        return bool(self._consumer.task_consumer.consuming_from(queue))

    def consume(self, queue: str) -> None:
        """Take jobs from a queue until it is cancelled, or the connection lost: Celery forgets it then."""
        self._consumer.add_task_queue(queue)

    def cancel(self, queue: str) -> None:
        """Take no more jobs from a queue."""
        self._consumer.cancel_task_queue(queue)


def install(app: Any, queues: Sequence[str], seconds: float) -> None:
    """Make the worker of a Celery application help out in queues that are not its own.

    Other processes of the application are not concerned. To be called before the worker makes its consumer.

    :param seconds: how long jobs have to wait in a queue.
    """
    from celery import bootsteps, signals
    from redis import Redis

    class Overflow(bootsteps.StartStopStep):
        """Runs with each connection to the broker, from its beginning to its end."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, consumer: Any, **options: Any) -> None:
            super().__init__(consumer, **options)
            self.redis: Any = None
            self.timer: Any = None

        def start(self, consumer: Any) -> None:
            """Look from time to time, from now on."""
            # To cancel its own queue would leave the worker without.
            others = [queue for queue in queues if queue not in consumer.app.amqp.queues.consume_from]
            if not others:
                return
            # Not the worker's own connections: those wait for ever where a broker is gone without a word.
            self.redis = redis = Redis.from_url(
                consumer.app.conf.broker_read_url, socket_connect_timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS
            )

            def count(names: Sequence[str]) -> dict[str, int]:
                return {name: int(redis.llen(name)) for name in names}

            helper = Helper(CeleryWorker(consumer, others), count, others, seconds)
            signals.task_received.connect(helper.received, sender=consumer, weak=False, dispatch_uid=__name__)
            self.timer = consumer.timer.call_repeatedly(LOOK_SECONDS, helper.look)

        def stop(self, consumer: Any) -> None:
            """End with the connection."""
            signals.task_received.disconnect(sender=consumer, dispatch_uid=__name__)
            if self.timer is not None:
                self.timer.cancel()
            if self.redis is not None:
                self.redis.close()

    app.steps["consumer"].add(Overflow)
