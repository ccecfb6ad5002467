"""One report for each job, which the API shows as ``tasks``."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from escriptorium.celery import app


class TaskGroup(models.Model):
    """The jobs that one request started."""

    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    document = models.ForeignKey("core.Document", on_delete=models.CASCADE)
    task = models.CharField(max_length=256)

    class Meta:
        ordering = ["-created_at"]


class TaskReport(models.Model):
    """The state of one job."""

    WORKFLOW_STATE_QUEUED = 0
    WORKFLOW_STATE_STARTED = 1
    WORKFLOW_STATE_ERROR = 2
    WORKFLOW_STATE_DONE = 3
    WORKFLOW_STATE_CANCELED = 4
    WORKFLOW_STATE_CHOICES = (
        (WORKFLOW_STATE_QUEUED, "Queued"),
        (WORKFLOW_STATE_STARTED, "Running"),
        (WORKFLOW_STATE_ERROR, "Crashed"),
        (WORKFLOW_STATE_DONE, "Finished"),
        (WORKFLOW_STATE_CANCELED, "Canceled"),
    )
    FINAL_STATES = (WORKFLOW_STATE_ERROR, WORKFLOW_STATE_DONE, WORKFLOW_STATE_CANCELED)

    workflow_state = models.PositiveSmallIntegerField(default=WORKFLOW_STATE_QUEUED, choices=WORKFLOW_STATE_CHOICES)
    group = models.ForeignKey(TaskGroup, null=True, on_delete=models.SET_NULL)
    label = models.CharField(max_length=256)
    messages = models.TextField(blank=True)
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    task_id = models.CharField(max_length=64, blank=True, null=True)
    method = models.CharField(max_length=512, blank=True, null=True)
    gpu_cost = models.FloatField(blank=True, null=True)
    document = models.ForeignKey(
        "core.Document", blank=True, null=True, on_delete=models.SET_NULL, related_name="reports"
    )
    document_part = models.ForeignKey(
        "core.DocumentPart", blank=True, null=True, on_delete=models.SET_NULL, related_name="reports"
    )
    ocr_model = models.ForeignKey(
        "core.OcrModel", blank=True, null=True, on_delete=models.SET_NULL, related_name="reports"
    )

    def append(self, text: str) -> None:
        """Add a line to the messages."""
        self.messages += text + "\n"
        self.save()

    def start(self, node: str) -> None:
        """The job runs; the message names the Celery node, which the real application does not tell."""
        self.workflow_state = self.WORKFLOW_STATE_STARTED
        self.started_at = timezone.now()
        self.append(f"Started on worker {node}")

    def end(self) -> None:
        """The job is done."""
        self._finish(self.WORKFLOW_STATE_DONE)

    def error(self, message: str) -> None:
        """The job failed."""
        self._finish(self.WORKFLOW_STATE_ERROR)
        self.append(message)

    def cancel(self, username: str) -> None:
        """Stop the job, running or not."""
        self._finish(self.WORKFLOW_STATE_CANCELED)
        self.append(f"Canceled by user {username}")
        app.control.revoke(self.task_id, terminate=True)

    def _finish(self, state: int) -> None:
        self.workflow_state = state
        self.done_at = timezone.now()
        if self.started_at and settings.CELERY_TASK_ROUTES.get(self.method) == {"queue": "gpu"}:
            # Fails, as the real one does, when GPU_COST is the text of an environment variable.
            self.gpu_cost = (self.done_at - self.started_at).total_seconds() * settings.GPU_COST / 60
        self.save()
