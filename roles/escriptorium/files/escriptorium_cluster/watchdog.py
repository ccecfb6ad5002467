"""Tells systemd that a worker works, so that one that is stuck is killed and started anew.

systemd calls a process active until it ends. A worker whose main loop hangs, or which has lost its ears to the broker,
is active for ever, takes no job and answers no ping. So the main loop itself tells systemd now and then that it turns,
and only while the broker is heard through each connection that listens to it. Who is silent for the unit's
``WatchdogSec`` gets SIGABRT: the journal then has where each of its threads was, its jobs die with it, and start again
as soon as the unit does (see ``lease``).

What is no fault of the worker must not kill it, and the jobs that run in it:

- A broker that does not answer. The loop may hang in a question to it, or try to connect. The lease's thread asks the
  broker every few seconds anyway, and where it gets no answer, it answers for the loop.
- A worker that ends its last jobs before it stops. Its loop turns no more. systemd does not watch a unit that it stops
  itself; where a worker stops by itself it tells systemd first.

The message is that of ``sd_notify``: a datagram to the socket that the environment names. Pure but for ``install``.
"""

from __future__ import annotations

import faulthandler
import logging
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger(__name__)

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"
#: Longest time between two signs of life, and what part of the time that systemd waits it is at most. Seconds.
BEAT_SECONDS, BEATS = 10.0, 6
#: Time until a worker that does not hear looks again. Seconds.
DEAF_SECONDS = 1.0
#: Seconds that systemd has to take a message. A full socket must not hold up the loop.
SEND_SECONDS = 1.0
#: Seconds without a word from the broker after which a connection is deaf, by what it listens to. Redis answers each
#: question for a job within a second, with a job or without; the other connection is pinged every 25 s.
PATIENCE: Mapping[str, float] = {"BRPOP": 30.0, "LISTEN": 90.0}
#: Seconds after which a worker that turns has started for good: see ``back_off``.
SETTLED_SECONDS = 60.0
#: What the kernel adds to a job when it looks for whom to kill for want of memory: half of the machine's memory, in
#: thousandths. Before the worker's main process, and before anything else on the machine.
OOM_SCORE = 500


@dataclass(frozen=True, slots=True)
class Orders:
    """What systemd wants to be told. ``seconds``: silence after which it kills this process; 0: it does not."""

    address: str
    seconds: float


def read_orders(environment: Mapping[str, str], process: int) -> Orders | None:
    """Return what systemd wants of a process; None: it wants nothing, or there is no systemd."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    try:
        meant = int(environment.get("WATCHDOG_PID") or process) == process
        seconds = int(environment.get("WATCHDOG_USEC") or 0) / 1e6
    except ValueError:
        return Orders(address, 0.0)
    return Orders(address, seconds if meant and seconds > 0 else 0.0)


def tell(address: str, message: str) -> None:
    """Send systemd a message, if it takes it. Never raises, and never waits for long."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(SEND_SECONDS)
            # An address in the abstract name space is written with @ in place of the zero.
            sender.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        logger.warning("systemd does not take '%s': %s", message, error)


class Ear:
    """Reads one of kombu's connections in place of kombu's own reader, and knows when it has heard something.

    It lives in its channel and nowhere else: a lost connection that is kept alive closes too late (see ``consumer``).

    :param read: kombu's reader.
    """

    def __init__(self, read: Callable[..., Any], now: Callable[[], float]) -> None:
        self._read = read
        self._now = now
        self.heard = now()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Read. No answer within the time that was asked for is an answer, too: kombu raises Empty then."""
        try:
            return self._read(*arguments, **options)
        finally:
            self.heard = self._now()


def deaf(channels: Iterable[Any], now: Callable[[], float] = time.monotonic) -> list[str]:
    """Return what kombu's channels listen to and do not hear any more, by its names, sorted.

    :param channels: channels of one connection to the broker. One that was not seen before has its time from now on.
    """
    found = set()
    for channel in channels:
        listens = {
            # A worker whose places are all taken asks for no job.
            "BRPOP": bool(channel.active_queues) and channel.qos.can_consume(),
            "LISTEN": bool(channel.active_fanout_queues),
        }
        for kind, does in listens.items():
            ear = channel.handlers[kind]
            if not isinstance(ear, Ear):
                channel.handlers[kind] = Ear(ear, now)
            elif not does:
                ear.heard = now()
            elif now() - ear.heard > PATIENCE[kind]:
                found.add(kind)
    return sorted(found)


class Watchdog:
    """Gives systemd signs of life.

    :param send: takes a message.
    :param seconds: silence after which systemd kills this process; 0: it does not.
    :param settled: called once, when the loop has turned for ``SETTLED_SECONDS``.
    """

    def __init__(
        self,
        send: Callable[[str], None],
        seconds: float,
        settled: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._beat = min(BEAT_SECONDS, seconds / BEATS) if seconds else 0.0
        self._seconds = seconds
        self._settled = settled
        self._now = now
        self._began: float | None = None
        self._due = 0.0
        self._turned = 0.0
        self._warned = False

    def ready(self) -> None:
        """Say that the worker takes jobs from now on."""
        self._began = self._turned = self._now()
        self._send(READY)

    def is_due(self) -> bool:
        """Whether the loop should look at itself: it turns often, and that is not for nothing."""
        return self._began is not None and self._now() >= self._due

    def turned(self, deaf: list[str]) -> None:
        """Note that the loop turns, and what it does not hear any more; tell systemd, if it hears all."""
        now = self._now()
        if self._began is None:
            return
        if self._seconds and now - self._turned > self._seconds / 2:
            logger.warning("the main loop stood still for %.0f s", now - self._turned)
        self._turned = now
        if deaf:
            # After a pause of the whole machine it may hear again with its next turn.
            self._due = now + DEAF_SECONDS
            if not self._warned:
                logger.warning(
                    "nothing is heard from the broker (%s): if it answers others, this worker starts anew soon",
                    ", ".join(deaf),
                )
            self._warned = True
            return
        self._warned = False
        self._due = now + (self._beat or BEAT_SECONDS)
        if now - self._began >= SETTLED_SECONDS:
            settled, self._settled = self._settled, lambda: None
            settled()
        if self._seconds:
            self._send(ALIVE)

    def excuse(self) -> None:
        """Answer for the loop: the broker does not answer, and the loop may be waiting for it."""
        if self._began is not None and self._seconds:
            self._send(ALIVE)

    def stopping(self) -> None:
        """Say that the worker ends its last jobs, and then itself: the loop turns no more."""
        self._began = None
        self._send(STOPPING)


def offer_to_kernel(score: Path = Path("/proc/self/oom_score_adj"), **_: Any) -> None:
    """Let the kernel kill this child of a worker first when memory is short: one job, and nothing else."""
    try:
        score.write_text(str(OOM_SCORE))
    except OSError as error:
        logger.warning("this job is not the first to be killed for want of memory: %s", error)


def install(app: Any, environment: Mapping[str, str], process: int) -> None:
    """Have the worker of a Celery application watched, where systemd asks for it.

    Other processes of the application are not concerned. To be called before the worker makes its consumer.
    """
    from celery import bootsteps, signals

    from escriptorium_cluster import back_off, lease

    signals.worker_process_init.connect(offer_to_kernel, weak=False, dispatch_uid=f"{__name__}.offer")
    orders = read_orders(environment, process)
    if orders is None:
        return
    watchdog = Watchdog(
        lambda message: tell(orders.address, message), orders.seconds, lambda: back_off.forget(environment)
    )

    class Farewell(bootsteps.StartStopStep):
        """Is told first when the worker stops, whoever tells it to."""

        def close(self, worker: Any) -> None:
            watchdog.stopping()

    def watch(sender: Any, **_: Any) -> None:
        """Begin when the worker is about to take jobs. ``sender``: its consumer."""
        # Where systemd kills a stuck worker, the journal shows where it was stuck.
        faulthandler.enable(sys.__stderr__ or sys.stderr)

        def look() -> None:
            if watchdog.is_due():
                # No connection: it was lost just now, and there will be another one.
                connected = sender.connection is not None and sender.connection.transport is not None
                channels = sender.connection.transport.cycle._channels if connected else ()  # noqa: SLF001
                watchdog.turned(deaf(channels))

        sender.hub.on_tick.add(look)
        if lease.current is not None:
            lease.current.on_silence = watchdog.excuse
        watchdog.ready()

    signals.worker_ready.connect(watch, weak=False, dispatch_uid=f"{__name__}.watch")
    app.steps["worker"].add(Farewell)
