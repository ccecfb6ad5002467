"""The lease of a worker's main process, from its start on: what its former self held goes back first.

It stands above ``lease``, which knows what a lease is, and ``reaper``, which gives the jobs of one to others.
"""

from __future__ import annotations

import logging
from typing import Any

from escriptorium_cluster import lease
from escriptorium_cluster.reaper import give_back, succeed

logger = logging.getLogger(__name__)


def running_here() -> frozenset[str]:
    """Return the task ids of the jobs that run in this worker's children."""
    from celery.worker import state

    while True:
        try:
            return frozenset(request.id for request in state.active_requests)
        except RuntimeError:  # the main thread has begun or ended a job meanwhile
            continue


def _note_end(**_: Any) -> None:
    if lease.current:
        lease.current.ending = True


def install(app: Any, node: str, seconds: float) -> lease.Lease:
    """Take a lease for this worker's main process. To be called before the pool makes its children."""
    from celery import signals
    from redis import Redis

    redis = Redis.from_url(
        app.conf.broker_read_url, socket_connect_timeout=lease.ANSWER_SECONDS, socket_timeout=lease.ANSWER_SECONDS
    )
    current = lease.current = lease.Lease(redis, lease.this_process(node), seconds, give_back, running_here)
    try:
        succeed(redis, current.holder)
    except Exception as error:
        # The reaper does it after the lease's time.
        logger.warning("could not look after former workers of this name: %s", error)
    current.check()
    current.start()
    signals.worker_process_init.connect(lease.die_with_parent, weak=False, dispatch_uid=__name__)
    signals.worker_shutting_down.connect(_note_end, weak=False, dispatch_uid=__name__)
    return current
