"""The application of task reports."""

from django.apps import AppConfig


class ReportingConfig(AppConfig):
    """Task reports."""

    name = "reporting"
