"""The Celery application, configured from the settings that start with ``CELERY_``."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "escriptorium.settings")

app = Celery("escriptorium")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.task(bind=True)
def debug_task(self):
    """Print the request, as the real one does."""
    print(f"Request: {self.request!r}")
