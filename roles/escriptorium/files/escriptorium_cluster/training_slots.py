"""Lets at most so many trainings of one user run at a time, without a worker that waits and without a job that starves.

A training that is about to begin takes a slot of its user: an advisory lock of the database, held by a connection of
its own. The lock is gone when the process is, however it ends, so that there is nothing to clean up. When all slots
are taken the job's message goes to ``HELD_QUEUE`` in one step, and nothing else happens: no report says that it runs,
no start is counted, and the worker takes the next job. A training that ends brings the user's longest waiting one
back to the head of its queue. Where one ended without a word (killed, cancelled, its host gone), workers bring one back
now and then, which looks for a free slot again; busy ones too, for where queues are full nobody is ever idle.

Not a task that sends itself to the end of its queue: where nothing else waits, idle workers would do that without
pause. Not a countdown: workers hold such jobs in their own memory. Not Celery's ``before_start``: upstream takes a job
that got that far for running, and one that ends there for crashed.

Whatever goes wrong here, the job runs.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from escriptorium_cluster.config import HELD_QUEUE, TRAININGS
from escriptorium_cluster.fair_use import HELD_HEADER, WAITS, HeldJob, free_slot, held_job, marked, oldest_of_each

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

#: Seconds between two looks of a worker at what is held.
LOOK_SECONDS = 10.0
#: Seconds until a user's longest waiting job is brought back though none of the user's is known to have ended.
AGAIN_SECONDS = 60
#: Seconds that a look may hold up the worker's event loop, and without a look after one that failed: see overflow.py.
ANSWER_SECONDS = 1.0
PAUSE_SECONDS = 15.0
#: Messages at the head of a queue among which are those that were brought back and not taken yet.
HEAD = 100
#: Prefix of the keys that say that a user's held jobs were looked at.
LOOKED_PREFIX = "cluster:held:looked:"
#: Seconds that Redis has for an answer to a job.
REDIS_SECONDS = 10.0
#: The database notices within these seconds that the host of a training is gone, and frees its slot.
KEEPALIVE = {"tcp_keepalives_idle": 60, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}

#: From the handed out to the held, if it is still handed out to somebody. Oldest last, as in each queue of kombu's.
_HOLD = """
if redis.call('HDEL', 'unacked', ARGV[1]) == 0 then return 0 end
redis.call('ZREM', 'unacked_index', ARGV[1])
redis.call(ARGV[3], KEYS[1], ARGV[2])
return 1
"""
#: From the held to the head of its queue, unless somebody else was quicker.
_RELEASE = """
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
"""


def hold(redis: Any, tag: str) -> HeldJob | None:
    """Move a message that was handed out to the held ones. None: it was not handed out any more.

    :param tag: its delivery tag.
    """
    stored = redis.hget("unacked", tag)
    if stored is None:
        return None
    payload, before = marked(json.dumps(json.loads(stored)[0]).encode())
    # One that was held before is the oldest of its user: it goes back to where it came from.
    end = "RPUSH" if before else "LPUSH"
    job = held_job(payload) if redis.eval(_HOLD, 1, HELD_QUEUE, tag, payload, end) else None
    if job is not None:
        # It has just looked for a slot itself.
        redis.set(f"{LOOKED_PREFIX}{job.user}", 1, ex=AGAIN_SECONDS)
    return job


def release(redis: Any, job: HeldJob) -> bool:
    """Move a held message to the head of its queue. False: it was not held any more."""
    return bool(redis.eval(_RELEASE, 2, HELD_QUEUE, job.queue, job.payload))


def held(redis: Any) -> list[bytes]:
    """Return the held messages, the longest waiting first."""
    payloads: list[bytes] = redis.lrange(HELD_QUEUE, 0, -1)
    return payloads[::-1]


def release_next(redis: Any, user: int) -> bool:
    """Bring a user's longest waiting job back, if there is one."""
    return any(release(redis, job) for job in oldest_of_each(held(redis)) if job.user == user)


class Slot:
    """A connection to the database that holds one of a user's slots for as long as it is open."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connection = connect()
        self._connection.autocommit = True

    def take(self, user: int, bound: int) -> bool:
        """Take a free slot; False when all are taken."""
        with self._connection.cursor() as cursor:
            for name, value in KEEPALIVE.items():
                cursor.execute(f"SET {name} = {value}")

            def take(number: int) -> bool:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [number])
                return bool(cursor.fetchone()[0])

            return free_slot(user, bound, take) is not None

    def close(self) -> None:
        """Free the slot."""
        self._connection.close()


def _connect() -> Any:
    """Connect to the database beside Django's own connection, which is closed between two jobs."""
    from django.db import connection

    return connection.get_new_connection(connection.get_connection_params())


def _explain(task_id: str, bound: int) -> None:
    """Say in the reports of a job why it waits, once."""
    from django.apps import apps
    from django.db.models import Value
    from django.db.models.functions import Concat

    text = WAITS.format(bound=bound) + "\n"
    reports = apps.get_model("reporting", "TaskReport").objects.filter(task_id=task_id)
    reports.exclude(messages__contains=text).update(messages=Concat("messages", Value(text)))


class Gate:
    """Stands before one kind of training in the process that is to run it."""

    def __init__(self, trace: Callable[..., Any], bound: int, broker: Callable[[], Any]) -> None:
        self._trace = trace
        self._bound = bound
        self._broker = broker

    def __call__(self, uuid: str, args: Any, kwargs: Mapping[str, Any], request: Mapping[str, Any]) -> Any:
        """Run the job as Celery does, or put it off; the arguments and the answer are those of Celery's tracer."""
        from celery.exceptions import Reject

        slot: Slot | None = None
        user = kwargs.get("user_pk")
        try:
            if user is not None:
                slot = Slot(_connect)
                if not slot.take(int(user), self._bound):
                    slot.close()
                    slot = None
                    # Also where it was not handed out to us any more: to reject it does nothing then.
                    self._put_off(uuid, request)
                    return not_run(Reject(f"user {user} runs {self._bound} trainings", requeue=True))
        except Exception:
            logger.warning("could not count the trainings of user %s; job %s runs", user, uuid, exc_info=True)
        finally:
            self._close_django()
        try:
            return self._trace(uuid, args, kwargs, request)
        finally:
            if slot is not None and user is not None:
                self._leave(slot, int(user))

    def _put_off(self, uuid: str, request: Mapping[str, Any]) -> None:
        """Hold the job. Whatever happens, the message is in one place: the caller rejects it if it was not moved."""
        try:
            tag = (request.get("properties") or {})["delivery_tag"]
            with self._broker() as redis:
                job = hold(redis, tag)
            if job is not None:
                logger.info("job %s waits: user %s has %s trainings that run", uuid, job.user, self._bound)
                _explain(uuid, self._bound)
        except Exception:
            logger.warning("job %s goes to the end of its queue: it could not be held", uuid, exc_info=True)

    def _leave(self, slot: Slot, user: int) -> None:
        """Free the slot and bring the user's next training back."""
        try:
            slot.close()
            with self._broker() as redis:
                release_next(redis, user)
        except Exception:
            logger.warning("could not bring back a training of user %s; idle workers will", user, exc_info=True)

    @staticmethod
    def _close_django() -> None:
        """Leave no connection of the questions above open: Celery closes those of jobs only."""
        from django.db import close_old_connections

        close_old_connections()


def not_run(reason: Exception) -> Any:
    """Return what Celery's tracer does for a job that was put off from within: no result, no event of its end."""
    from billiard.einfo import ExceptionInfo
    from celery.app.trace import TraceInfo, trace_ok_t

    try:
        raise reason
    except type(reason):
        return trace_ok_t(ExceptionInfo(internal=True), TraceInfo("REJECTED", reason), 0.0, None)


def untaken(redis: Any, queues: frozenset[str]) -> frozenset[int]:
    """Return the users of whom a job that was brought back waits in its queue."""
    heads = [payload for queue in sorted(queues) for payload in redis.lrange(queue, -HEAD, -1)]
    jobs = (held_job(payload) for payload in heads if HELD_HEADER.encode() in payload)
    return frozenset(job.user for job in jobs if job is not None)


def look(redis: Any, queues: frozenset[str], bound: int) -> list[HeldJob]:
    """Bring back the longest waiting job of one user who was not looked at lately; without a bound, all there are.

    :param queues: where this worker takes jobs from.
    """
    payloads = held(redis)
    if not bound:
        # The last one to come is the first to be taken.
        waiting = [job for job in map(held_job, reversed(payloads)) if job is not None and job.queue in queues]
        return [job for job in waiting if release(redis, job)]
    # One at a time: those that follow would come before it.
    back = untaken(redis, queues) if payloads else frozenset()
    for job in oldest_of_each(payloads, queues):
        if job.user in back:
            continue
        if redis.set(f"{LOOKED_PREFIX}{job.user}", 1, nx=True, ex=AGAIN_SECONDS) and release(redis, job):
            return [job]
    return []


def install(app: Any, bound: int) -> None:
    """Bound the running trainings of each user in the workers of a Celery application.

    To be called before the worker makes its consumer. Other processes of the application are not concerned.

    :param bound: trainings of one user that may run at a time. 0: any number; what is held from before comes back.
    """
    from celery import signals
    from redis import Redis

    def broker(seconds: float = REDIS_SECONDS) -> Any:
        url = app.conf.broker_read_url
        return Redis.from_url(url, socket_connect_timeout=seconds, socket_timeout=seconds)

    def stand_before(**_: Any) -> None:
        """Each child of a worker has tracers of its own."""
        for name in TRAININGS & set(app.tasks):
            task = app.tasks[name]
            task.__trace__ = Gate(task.__trace__, bound, broker)

    if bound:
        signals.worker_process_init.connect(stand_before, weak=False, dispatch_uid=__name__)
    app.steps["consumer"].add(_looking_step(lambda: broker(ANSWER_SECONDS), bound))


def _looking_step(broker: Callable[[], Any], bound: int) -> type:
    """Return the step of a worker's consumer that looks at what is held."""
    from celery import bootsteps

    class Held(bootsteps.StartStopStep):
        """Runs with each connection to the broker, from its beginning to its end."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, consumer: Any, **options: Any) -> None:
            super().__init__(consumer, **options)
            self.redis: Any = None
            self.timer: Any = None
            self.pauses = 0

        def start(self, consumer: Any) -> None:
            """Look from time to time, from now on."""
            self.redis = broker()
            self.timer = consumer.timer.call_repeatedly(LOOK_SECONDS, self.look, (consumer,))

        def look(self, consumer: Any) -> None:
            """Look. Never raises."""
            if self.pauses:
                self.pauses -= 1
                return
            try:
                look(self.redis, frozenset(queue.name for queue in consumer.task_consumer.queues), bound)
            except Exception as error:
                logger.warning("could not look after held trainings: %s", error)
                self.pauses = round(PAUSE_SECONDS / LOOK_SECONDS)

        def stop(self, consumer: Any) -> None:
            """End with the connection."""
            if self.timer is not None:
                self.timer.cancel()
            if self.redis is not None:
                self.redis.close()

    return Held
