"""Celery's request, mended where a job runs out of memory. ``CELERY_TASK_ANNOTATIONS`` names it.

Where Python itself gets no memory, a job ends with a MemoryError: numpy raises one for an image of absurd size. Celery
raises it again in the worker's main process (5.3.6, ``Request.on_failure``), for fear that it is its own. So one page
stops a worker, and its message, never acknowledged, does the same to the next one. Here such a job ends as every other
one that fails; its user reads why.
"""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request as CeleryRequest


class OutOfMemoryError(RuntimeError):
    """A job asked for more memory than there is."""


class Request(CeleryRequest):
    """One job, as the worker's main process knows it."""

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> None:
        """End a job that failed."""
        error = exc_info.exception
        # billiard wraps what comes from a child.
        error = getattr(error, "exc", error)
        if isinstance(error, MemoryError):
            exc_info.exception = OutOfMemoryError(f"out of memory: {error}")
        super().on_failure(exc_info, *arguments, **options)
