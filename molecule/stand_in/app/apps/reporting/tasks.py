"""Keeps the task reports by Celery's signals: queued when a job is sent, then running, finished or crashed."""

import logging
from typing import Any

from celery import states
from celery.signals import before_task_publish, task_postrun, task_prerun
from django.apps import apps
from django.conf import settings

logger = logging.getLogger(__name__)


@before_task_publish.connect
def create_task_reporting(sender: str, body: Any, headers: dict[str, Any], **kwargs: Any) -> None:
    """Make the report of a job that is being sent: one for each page, or one."""
    if sender in settings.REPORTING_TASKS_BLACKLIST:
        return
    TaskReport = apps.get_model("reporting", "TaskReport")
    arguments = body[1]
    user = apps.get_model("users", "User").objects.filter(pk=arguments.get("user_pk")).first()
    if user is None or TaskReport.objects.filter(task_id=headers["id"]).exists():
        return
    parts = apps.get_model("core", "DocumentPart").objects.filter(
        pk__in=arguments.get("part_pks") or arguments.get("instance_pks") or [arguments.get("instance_pk")]
    )
    document = apps.get_model("core", "Document").objects.filter(pk=arguments.get("document_pk")).first()
    for part in parts or [None]:
        TaskReport.objects.create(
            user=user,
            group_id=arguments.get("task_group_pk"),
            label=arguments.get("report_label", f"Report for celery task {headers['id']} of type {sender}"),
            document=part.document if part else document,
            document_part=part,
            ocr_model_id=arguments.get("model_pk"),
            task_id=headers["id"],
            method=sender,
        )


@task_prerun.connect
def start_task_reporting(task_id: str, task: Any, **kwargs: Any) -> None:
    """Note that a job starts, and on which worker."""
    for report in apps.get_model("reporting", "TaskReport").objects.filter(task_id=task_id):
        report.start(task.request.hostname)


@task_postrun.connect
def end_task_reporting(task_id: str, task: Any, state: str | None = None, retval: Any = None, **kwargs: Any) -> None:
    """Note how a job ended, unless it has been cancelled."""
    TaskReport = apps.get_model("reporting", "TaskReport")
    for report in TaskReport.objects.filter(task_id=task_id).exclude(workflow_state__in=TaskReport.FINAL_STATES):
        if state == states.SUCCESS:
            report.end()
        else:
            report.error(str(retval))
