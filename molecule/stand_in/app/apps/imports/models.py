"""Imports."""

from typing import Any

from django.conf import settings
from django.db import models

from core.models import Document
from reporting.models import TaskReport


def document_import_path(instance: Any, filename: str) -> str:
    """Return where an uploaded file lies until it is imported."""
    return f"import_src/{instance.document.pk}/{filename}"


class DocumentImport(models.Model):
    """One import into a document."""

    WORKFLOW_STATE_CREATED = 0
    WORKFLOW_STATE_STARTED = 1
    WORKFLOW_STATE_DONE = 2
    WORKFLOW_STATE_ERROR = 5

    document = models.ForeignKey(Document, on_delete=models.CASCADE)
    started_on = models.DateTimeField(auto_now_add=True)
    started_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL)
    workflow_state = models.PositiveSmallIntegerField(default=WORKFLOW_STATE_CREATED)
    error_message = models.CharField(null=True, blank=True, max_length=512)
    name = models.CharField(max_length=256, blank=True)
    override = models.BooleanField(default=False)
    import_file = models.FileField(upload_to=document_import_path)
    report = models.ForeignKey(TaskReport, null=True, blank=True, on_delete=models.CASCADE)
    processed = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=None, null=True, blank=True)

    class Meta:
        ordering = ["-started_on"]
