"""Ends jobs that no message knows any more, in the database. Needs Django; ``reaper`` finds out which they are."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import transaction

from escriptorium_cluster.cancelled import cancelled, close, free_model, let_go

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

#: What the user reads in the job's report.
REASON = "given up: the message queue lost this job (it was emptied, or lost its last data). Please start it again."


def mark(jobs: Sequence[str], models: Sequence[int], reason: str = REASON) -> tuple[list[str], list[int]]:
    """Mark jobs as failed and models as not in training; returns those that were changed.

    :param jobs: task ids.
    :param models: primary keys of models that count as in training.
    :param reason: what users read.
    """
    failed = [job for job in jobs if _fail(job, reason)]
    freed = [model for model in models if free_model(model)]
    return failed, freed


def _succeeded(job: str) -> bool:
    """Whether a job has come to its end: the database may have gone away just when its report was to say so."""
    from celery import states
    from celery.result import AsyncResult

    return bool(AsyncResult(job).state == states.SUCCESS)


def _fail(job: str, reason: str) -> bool:
    """Mark the unfinished reports of one job as failed, and what it worked on as free; returns whether there were.

    Those of a job that succeeded are marked as done, and those of one that its user has cancelled as cancelled.
    """
    if cancelled([job]):
        close(job)
        return False
    reports = apps.get_model("reporting", "TaskReport")
    unfinished = (reports.WORKFLOW_STATE_QUEUED, reports.WORKFLOW_STATE_STARTED)
    done = _succeeded(job)
    with transaction.atomic():
        # Locked: one that ends at this very moment stays as it ended.
        found = list(reports.objects.select_for_update().filter(task_id=job, workflow_state__in=unfinished))
        for report in found:
            if done:
                report.end()
                continue
            report.error(reason)
        if found and not done:
            # All of them name the same model.
            let_go(found[0], reason)
    for user in {report.user for report in found if not done}:
        _tell(user, reason)
    return bool(found) and not done


def _tell(user: Any, reason: str) -> None:
    try:
        user.notify(reason, id="job-lost", level="danger")
    except Exception:  # the channels' broker may be away; the report says it as well
        logger.warning("could not tell %s about a lost job", user, exc_info=True)
