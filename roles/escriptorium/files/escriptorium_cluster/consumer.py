"""Celery's consumer, mended where it loses the broker while jobs run. ``CELERY_WORKER_CONSUMER`` names it.

Measured with Celery 5.3.6 and kombu 5.3.7, Redis stopped for four seconds while a training ran:

- The worker forgot the training: it was not acknowledged at its end, so that it would have run again a week later, and
  nobody could cancel it. Meanwhile the worker fetched the next job, which waited behind it though others were idle.
- After the next job it took none any more, for ever, and still answered every ping. A vain attempt to connect leaves a
  dead connection behind; whenever it is collected as garbage it is closed, and kombu stops polling the live one.

Here the running jobs stay known, their messages go over to the new connection, and only the end of a connection that is
polled stops the polling.

It also takes the worker's lease (see ``lease``), and notes each message under it before its job can begin.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker import consumer as celery_consumer
from celery.worker import state

from escriptorium_cluster import lease, worker_lease

#: The worker's loop turns as often, and gives signs of life (``watchdog``). Celery's heartbeats did that, which workers
#: do not send: one that is due when the broker goes away is tried again in the loop until it is back. Seconds.
TURN_SECONDS = 2.0


def poll_until_the_polled_one_ends(cycle: Any) -> None:
    """Let kombu's poller of a Redis transport hear of the end of those connections only that it polls."""
    stop = cycle._on_connection_disconnect  # noqa: SLF001 - what Transport.register_with_event_loop has put there

    def ended(connection: Any) -> None:
        polled = [client.connection for _, client, _ in cycle._chan_to_sock]  # noqa: SLF001 - nothing public lists them
        if any(one is connection for one in polled):
            stop(connection)

    cycle._on_connection_disconnect = ended  # noqa: SLF001


class Adoption(bootsteps.StartStopStep):
    """Takes over the messages of the connection that was lost."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Count running jobs as fetched on the new connection, and give back those that had not begun."""
        channel = consumer.task_consumer.channel
        running = {request.message.delivery_tag: request for request in state.active_requests}
        for tag in consumer.unfinished:
            if tag in running:
                # The message of the job: it may have been handed out twice. Its channel gets the acknowledgement.
                message = running[tag].message
                message.channel = channel
                channel.qos.append(message, tag)
                state.reserved_requests.add(running[tag])
            else:
                channel.qos.restore_by_tag(tag)
        consumer.unfinished.clear()


class Consumer(celery_consumer.Consumer):
    """Keeps what runs when the connection to the broker is lost."""

    class Blueprint(celery_consumer.Consumer.Blueprint):
        """Celery's steps and the one above."""

        default_steps = (*celery_consumer.Consumer.Blueprint.default_steps, Adoption)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        #: Messages of the lost connection that were not acknowledged, by their tags.
        self.unfinished: dict[str, Any] = {}
        super().__init__(*arguments, **options)
        from django.conf import settings

        self.lease = worker_lease.install(self.app, self.hostname, settings.CLUSTER_LEASE_SECONDS)

    def connect(self) -> Any:
        """Connect, and go on polling when what vain attempts have left is closed."""
        connection = super().connect()
        poll_until_the_polled_one_ends(connection.transport.cycle)
        # With each connection that is lost Celery forgets all timers.
        self.timer.call_repeatedly(TURN_SECONDS, lambda: None)
        # Before the messages of running jobs go over to it: those of a dead lease belong to others.
        self.lease.check()
        return connection

    def create_task_handler(self, *arguments: Any, **options: Any) -> Any:
        """Begin only those jobs that do not run, under another lease or here."""
        begin = super().create_task_handler(*arguments, **options)

        def received(message: Any) -> None:
            headers = message.headers
            verdict = self.lease.take(message.delivery_tag, headers.get("task", ""), headers.get("id", ""))
            if verdict is lease.Verdict.BEGIN:
                begin(message)
            elif verdict is lease.Verdict.DROP:
                message.ack()
            elif verdict is lease.Verdict.LATER:
                # The message stays unacknowledged in the broker; the lease puts it back. Here it counts no more.
                self.task_consumer.channel.qos._delivered.pop(message.delivery_tag, None)  # noqa: SLF001

        return received

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Note what was not acknowledged, before the connection is thrown away."""
        if self.task_consumer is not None:
            qos = self.task_consumer.channel.qos
            # Else it would put running jobs back into their queues: they would run twice at once.
            qos.restore_at_shutdown = False
            qos._flush()  # noqa: SLF001 - acknowledged ones are still among the delivered until then
            self.unfinished.update(qos._delivered)  # noqa: SLF001 - nothing public lists them
        super().on_connection_error_after_connected(exc)
        # Celery fetches fewer jobs until those that run are acknowledged. Here they count as fetched.
        self.initial_prefetch_count = self.max_prefetch_count
        self._maximum_prefetch_restored = True

    def on_close(self) -> None:
        """Forget what was fetched and has not begun. Celery forgets what runs as well."""
        pool = getattr(self.pool, "_pool", None)
        if not self.unfinished or pool is None:
            super().on_close()
            return
        running = {number: job for number, job in pool._cache.items() if job.accepted()}  # noqa: SLF001 - as above
        super().on_close()
        pool._cache.update({number: job for number, job in running.items() if not job.ready()})  # noqa: SLF001
        # A child that is taken for idle would get a second job.
        children = [job._write_to for job in running.values()]  # noqa: SLF001
        pool._busy_workers.update(child.inqW_fd for child in children if child and child._is_alive())  # noqa: SLF001
