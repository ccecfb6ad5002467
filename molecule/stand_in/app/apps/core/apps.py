"""The application of projects, documents, models and their jobs."""

from django.apps import AppConfig


class CoreConfig(AppConfig):
    """Projects, documents, models."""

    name = "core"
