"""The application of projects, documents, models and their jobs."""

import time

from django.apps import AppConfig
from django.conf import settings


class CoreConfig(AppConfig):
    """Projects, documents, models."""

    name = "core"

    def ready(self) -> None:
        """Compute for as long as the environment says, as the import of PyTorch does."""
        end = time.process_time() + settings.STAND_IN_START_SECONDS
        while time.process_time() < end:
            sum(range(10_000))
