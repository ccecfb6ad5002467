"""Marks reports of jobs that Celery no longer knows as running."""

import logging
from typing import Any

from django.core.management.base import BaseCommand

from escriptorium.celery import app
from reporting.models import TaskReport

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """The management command."""

    help = "Set reports that are running without a running job to crashed."

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask the result backend about each running report."""
        count = 0
        for report in TaskReport.objects.filter(workflow_state=TaskReport.WORKFLOW_STATE_STARTED):
            if app.AsyncResult(report.task_id).state != "STARTED":
                report.workflow_state = TaskReport.WORKFLOW_STATE_ERROR
                report.save()
                count += 1
        logger.info("Cleaned up %d ghost tasks.", count)
