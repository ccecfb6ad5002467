"""Begins a job anew whose database went away in the middle of a query, and does not begin one that is over.

The first as after a killed process (see ``guard``), in the same process: traces are cleared, the start is counted, and
a training goes on from its newest finished epoch. Also where the job has kept the error to itself: upstream's trainings
and segmentations tell the user, and end as if they had succeeded.

The second: a worker that is killed between the end of a job and its acknowledgement leaves a message that is handed out
again. Its job has had its result. And a cancelled job whose worker has forgotten that lies in its queue as before.

And what follows a job (others that it sends, its result) waits for a broker that is away, as the job itself does.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

#: How a job sends others: as often as it takes. Seconds.
SEND = {"max_retries": None, "interval_start": 0.2, "interval_step": 1.0, "interval_max": 10.0}


def again_after_loss(
    run: Callable[..., Any],
    losses: Callable[[], int],
    begin: Callable[[Mapping[str, Any]], None],
    passing: tuple[type[BaseException], ...] = (),
) -> Callable[..., Any]:
    """Return what runs a job, anew as often as its database goes away in the middle of it.

    :param losses: counts the questions to the database that have gone down with it.
    :param begin: is given the job's arguments before a new start; raises where there were enough of them.
    :param passing: exceptions by which Celery does something of its own.
    """

    @functools.wraps(run)
    def run_again(*arguments: Any, **options: Any) -> Any:
        while True:
            before = losses()
            try:
                answer = run(*arguments, **options)
            except passing:
                raise
            except Exception:
                if losses() == before:
                    raise
                logger.warning("a job lost its database and begins anew", exc_info=True)
            else:
                if losses() == before:
                    return answer
                logger.warning("a job lost its database, kept that to itself, and begins anew")
            begin(options)

    return run_again


class Once:
    """Stands before one task in the process that is to run it, and asks before each start whether its job is over.

    :param over: says why a job must not begin (any more), or nothing.
    """

    def __init__(self, trace: Callable[..., Any], over: Callable[[str], str]) -> None:
        self._trace = trace
        self._over = over

    def __call__(self, uuid: str, args: Any, kwargs: Mapping[str, Any], request: Mapping[str, Any]) -> Any:
        """Run the job as Celery does, or leave it; the arguments and the answer are those of Celery's tracer."""
        if why := self._ask(uuid):
            from celery.exceptions import Ignore

            from escriptorium_cluster.training_slots import not_run

            logger.warning("job %s %s", uuid, why)
            return not_run(Ignore())
        return self._trace(uuid, args, kwargs, request)

    def _ask(self, uuid: str) -> str:
        # A second time: the database may have gone away in the middle of the first question.
        for _ in range(2):
            try:
                return self._over(uuid)
            except Exception:
                logger.warning("could not look whether job %s is over", uuid, exc_info=True)
        return ""


def over(task_id: str) -> str:
    """Say why a job must not begin: it was cancelled (what it has left open is closed), or all its reports are done."""
    from django.apps import apps
    from django.db import close_old_connections

    from escriptorium_cluster.cancelled import close, is_cancelled

    report = apps.get_model("reporting", "TaskReport")
    try:
        found = set(report.objects.filter(task_id=task_id).values_list("workflow_state", flat=True))
        if is_cancelled(task_id, found):
            close(task_id)
            return "was cancelled: it does not begin"
    finally:
        close_old_connections()
    return "is done: its worker could not say so any more" if found == {report.WORKFLOW_STATE_DONE} else ""


def install(app: Any) -> None:
    """Do all of it in the workers of a Celery application. Other processes of the application are not concerned."""
    from celery import signals
    from celery.exceptions import Ignore, Reject, Retry

    from escriptorium_cluster import guard
    from escriptorium_cluster.once_only import once_only
    from escriptorium_cluster.patience import patience

    def wrap(**_: Any) -> None:
        """In the main process, before it makes its children: these read `run` when they start."""
        for task in app.tasks.values():
            if not task.name.startswith("celery."):
                task.run = again_after_loss(
                    once_only(task.name, task.run, functools.partial(_job, task)),
                    lambda: patience.losses,
                    functools.partial(_begin, task),
                    (Ignore, Reject, Retry),
                )

    def _job(task: Any) -> str:
        return str(task.request.id)

    def _begin(task: Any, kwargs: Mapping[str, Any]) -> None:
        if why := over(task.request.id):
            logger.warning("job %s %s", task.request.id, why)
            raise Ignore
        guard.before_start(task, task.request.id, (), kwargs)

    def stand_before(**_: Any) -> None:
        """Each child of a worker has tracers of its own."""
        patience.on = True
        app.conf.task_publish_retry_policy.update(SEND)
        # kombu gives up after four seconds without a connection, whatever that policy says.
        app.conf.broker_transport_options["connect_retries_timeout"] = None
        # The setting of that name does nothing for Redis: its backend takes no error for one that passes.
        app.backend.always_retry = True
        app.backend.exception_safe_to_retry = lambda error: isinstance(error, app.backend.connection_errors)
        for task in app.tasks.values():
            task.__trace__ = Once(task.__trace__, over)

    signals.celeryd_after_setup.connect(wrap, weak=False, dispatch_uid=__name__)
    signals.worker_process_init.connect(stand_before, weak=False, dispatch_uid=__name__)
