"""Starts a worker when it is its turn, and has systemd wait for it as long as the start makes progress.

    python -m escriptorium_cluster.starting celery -A escriptorium worker --queues default ...

A start imports PyTorch and much else: some 15 s of a processor, and minutes where many do that at once, or where jobs
keep the host busy. A fixed limit kills each start shortly before its end, and the next one, for ever. So:

- Only so many workers of a host start at a time (``places``). Each locks one of so many files, and lets it go when it
  takes jobs. The kernel lets it go where the process ends before, in whichever way.
- Who waits for that tells systemd, which then waits too: it is not for ever, since no start is.
- Who starts tells systemd as long as there is progress: its main thread computes, or reads the disk. One that does
  neither for the unit's ``TimeoutStartSec`` is killed, and so is one that has computed more than any start needs.

Without a unit that wants to be notified, as in tests and by hand, it only runs the program.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from escriptorium_cluster import wait
from escriptorium_cluster.watchdog import read_orders, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Folder of the service account on this host, which all workers share, and the folder of the locks in it.
FOLDER_VARIABLE, FOLDER = "STATE_DIRECTORY", "starts"
#: Seconds between two looks at a start, and between two looks for a free place.
BEAT_SECONDS, PAUSE_SECONDS = 5.0, 1.0
#: Seconds for which each word of progress has systemd wait, and seconds that services have to be there after a wait.
PATIENCE_SECONDS, SERVICES_SECONDS = 300, 60.0
#: Progress within a beat: seconds of a processor, or pages and blocks that were read. A loop that only asks, as for a
#: broker that is away, has less.
LEAST_CPU, LEAST_READ = 0.05, 64
#: Seconds of a processor after which a start turns in circles: fifty times what one needs.
MOST_CPU = 900.0


class Work(NamedTuple):
    """What a start has done so far: seconds of a processor, and pages and blocks that were read."""

    cpu: float
    read: int


def places(processors: int) -> int:
    """Return how many workers of a host start at a time, by its processors.

    The other half of the processors goes on with its jobs. Two where there are few: one computes while the other reads.
    """
    return max(2, processors // 2)


def moved(before: Work, after: Work) -> bool:
    """Whether a start has made progress between two looks."""
    if after.cpu > MOST_CPU:
        return False
    return after.cpu - before.cpu >= LEAST_CPU or after.read - before.read >= LEAST_READ


def main_thread_clock() -> Callable[[], Work]:
    """Return what reads the work of this process's main thread. To be called in it; any thread may read."""
    clock = time.pthread_getcpuclockid(threading.get_ident())

    def read() -> Work:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return Work(time.clock_gettime(clock), used.ru_majflt + used.ru_inblock)

    return read


def take_place(
    folder: Path, number: int, waits: Callable[[], None], sleep: Callable[[float], None] = time.sleep
) -> int:
    """Wait for one of ``number`` places, and return the descriptor of its locked file.

    :param waits: called before each pause.
    :raises OSError: when the files cannot be made or locked.
    """
    folder.mkdir(exist_ok=True)
    opened = [os.open(folder / str(place), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for place in range(number)]
    taken = -1
    try:
        while True:
            for descriptor in opened:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                taken = descriptor
                return taken
            waits()
            sleep(PAUSE_SECONDS)
    finally:
        for descriptor in opened:
            if descriptor != taken:
                os.close(descriptor)


class Start:
    """A start under way.

    :param say: sends systemd a message.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._place: int | None = None
        self._over = threading.Event()

    def take_turn(self, folder: Path, number: int) -> bool:
        """Wait for a place; returns whether there was none at once. Where that cannot be, nobody waits."""
        waited = False

        def waits() -> None:
            nonlocal waited
            waited = True
            self._go_on(f"waits for its turn, {number} of this host start at a time")

        try:
            self._place = take_place(folder, number, waits)
        except OSError as error:
            print(f"this worker starts without waiting for its turn: {error}", file=sys.stderr)
        return waited

    def watch(self, read: Callable[[], Work], beat: float = BEAT_SECONDS) -> None:
        """Tell systemd of progress, from a thread of its own, until the start is over."""

        def look() -> None:
            before = read()
            while not self._over.wait(beat):
                now = read()
                if moved(before, now):
                    self._go_on(f"starts, {now.cpu:.0f} s of a processor so far")
                before = now

        threading.Thread(target=look, name="start", daemon=True).start()

    def over(self) -> None:
        """Let the next one start: this one takes jobs."""
        self._over.set()
        if self._place is not None:
            # Closing it is not enough: the worker's children have it too.
            fcntl.flock(self._place, fcntl.LOCK_UN)
            os.close(self._place)
            self._place = None
        self._say("STATUS=takes jobs")

    def _go_on(self, status: str) -> None:
        self._say(f"EXTEND_TIMEOUT_USEC={PATIENCE_SECONDS * 1_000_000}\nSTATUS={status}")


def main(arguments: Sequence[str], environment: Mapping[str, str], beat: float = BEAT_SECONDS) -> int:
    """Run the command; returns the exit status."""
    if not arguments or arguments[0] != "celery":
        print("usage: python -m escriptorium_cluster.starting celery [ARGUMENT ...]", file=sys.stderr)
        return 2
    orders = read_orders(environment, os.getpid())
    if orders is not None:
        start = Start(lambda message: tell(orders.address, message))
        folder = Path(environment.get(FOLDER_VARIABLE, "/nonexistent")) / FOLDER
        waited = start.take_turn(folder, places(len(os.sched_getaffinity(0))))
        start.watch(main_thread_clock(), beat)
        # The unit has looked before, and that may be minutes ago: a worker without its broker would be deaf.
        if waited and wait.main(["--timeout", f"{SERVICES_SECONDS:g}"]) != 0:
            return 1

        from celery import signals

        signals.worker_ready.connect(lambda **_: start.over(), weak=False, dispatch_uid=__name__)
    sys.argv = list(arguments)

    from celery.__main__ import main as celery

    celery()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
