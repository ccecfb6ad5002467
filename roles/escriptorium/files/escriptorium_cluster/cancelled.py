"""Whether a user has cancelled a job, and what is left to do then. The one place that decides it. Needs Django.

Upstream marks one report of the job as cancelled and tells the workers to revoke it. Workers forget that when they
restart, and a job of many pages has other reports, which go on as queued or running. So a job counts as cancelled as
soon as one of its reports is, or its result says that it was revoked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import states
from celery.result import AsyncResult
from django.apps import apps
from django.utils import timezone

from escriptorium_cluster.config import IMPORT, TRAININGS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

#: What upstream notes in an import that was cancelled.
REASON = "canceled"


def cancelled(jobs: Iterable[str | None]) -> set[str]:
    """Return those of some jobs that were cancelled.

    :param jobs: task ids.
    """
    wanted = {job for job in jobs if job}
    report = apps.get_model("reporting", "TaskReport")
    marked = report.objects.filter(task_id__in=wanted, workflow_state=report.WORKFLOW_STATE_CANCELED)
    found = set(marked.values_list("task_id", flat=True))
    return found | {job for job in wanted - found if _revoked(job)}


def is_cancelled(job: str, reports: Collection[Any]) -> bool:
    """Whether a job was cancelled, where the states of its reports are known already."""
    return apps.get_model("reporting", "TaskReport").WORKFLOW_STATE_CANCELED in reports or _revoked(job)


def close(job: str) -> None:
    """End what a cancelled job has left open, without a word to its user."""
    report = apps.get_model("reporting", "TaskReport")
    left = report.objects.filter(task_id=job, workflow_state__in=_unfinished(report))
    reports = list(left)
    left.update(workflow_state=report.WORKFLOW_STATE_CANCELED, done_at=timezone.now())
    # All of them name the same model.
    for found in reports[:1]:
        let_go(found, REASON)


def let_go(report: Any, reason: str) -> None:
    """Free the model that the job of a report would have trained, or end the import that it would have done."""
    if report.method in TRAININGS and report.ocr_model_id:
        free_model(report.ocr_model_id, report.task_id)
    elif report.method == IMPORT:
        _end_import(report, reason)


def free_model(model: int | None, job: str = "") -> bool:
    """Mark a model as not in training, unless another job is known that trains it; returns whether it was marked.

    :param job: task id of a training that does not count.
    """
    report = apps.get_model("reporting", "TaskReport")
    others = report.objects.filter(ocr_model_id=model, method__in=TRAININGS, workflow_state__in=_unfinished(report))
    jobs = {other for other in others.values_list("task_id", flat=True) if other and other != job}
    if jobs - cancelled(jobs):
        return False
    return bool(apps.get_model("core", "OcrModel").objects.filter(pk=model, training=True).update(training=False))


def end_imports(found: Iterable[Any], reason: str) -> None:
    """Mark imports as failed: so their documents can have another one, or the rest of them."""
    for job in found:
        job.workflow_state = job.WORKFLOW_STATE_ERROR
        # As much as upstream's column takes.
        job.error_message = reason[:512]
        job.save()


def _revoked(job: str) -> bool:
    return bool(AsyncResult(job).state == states.REVOKED)


def _unfinished(report: Any) -> tuple[Any, Any]:
    return report.WORKFLOW_STATE_QUEUED, report.WORKFLOW_STATE_STARTED


def _end_import(report: Any, reason: str) -> None:
    """End the import of a report. One that has not begun does not name its report."""
    imports = apps.get_model("imports", "DocumentImport")
    found = imports.objects.filter(report=report, workflow_state=imports.WORKFLOW_STATE_STARTED)
    if not report.started_at:
        found = imports.objects.filter(
            document=report.document,
            started_by=report.user,
            report=None,
            workflow_state=imports.WORKFLOW_STATE_CREATED,
            started_on__lte=report.queued_at,
        ).order_by("-started_on")[:1]
    end_imports(found, reason)
