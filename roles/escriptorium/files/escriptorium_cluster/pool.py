"""Celery's pool of processes, mended where a process ends. ``CELERY_WORKER_POOL`` names it.

Measured with Celery 5.3.6 and billiard 4.3.2: a process that ends (each does after so many jobs, and where it is
killed) is replaced up to five seconds later. Until then its place stands idle, and a job that was killed does not start
again. The process' pipe closes a moment before the process can be waited for: Celery looks at once, finds that it still
lives, and looks no more until its timer comes round. Where the connection to the broker is lost meanwhile, the worker
stumbles over that process when it connects again, and ends.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency import asynpool, prefork

#: Seconds until it is looked again at a process that was about to end.
AGAIN_SECONDS = 0.05


class Pool(asynpool.AsynPool):
    """Replaces a process as soon as it has ended."""

    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        super()._event_process_exit(hub, proc)
        if proc in self._pool:
            hub.call_later(AGAIN_SECONDS, self.maintain_pool)

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        if getattr(proc, "_sentinel_poll", None) is None:
            # Not watched yet, or not any more: Celery takes a pipe that it has closed for one that is open.
            vars(proc).pop("_sentinel_poll", None)
        super()._track_child_process(proc, hub)


class TaskPool(prefork.TaskPool):
    """Celery's own with the pool above."""

    Pool = Pool
