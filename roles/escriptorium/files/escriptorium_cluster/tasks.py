"""Jobs of the cluster itself. Celery looks for them in a module of this name."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import celeryd_init

from escriptorium_cluster import probe


@shared_task(name=probe.PROBE_TASK, bind=True, ignore_result=True)  # type: ignore[untyped-decorator]
def probe_worker(task: Any, reply_to: str) -> None:
    """Look at what a job needs, in the place of a job: see probe.py."""
    probe.deliver(task.request.hostname, probe.JOB, reply_to)


@celeryd_init.connect  # type: ignore[untyped-decorator]
def learn_commands(**_: Any) -> None:
    """Teach workers, and nobody else, the commands of the cluster."""
    from escriptorium_cluster import commands  # noqa: F401 - they register themselves
