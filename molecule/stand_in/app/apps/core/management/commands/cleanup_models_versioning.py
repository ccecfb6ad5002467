"""Deletes the epochs' files of models that have not changed for a while."""

import datetime
import logging
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.utils import timezone

from core.models import OcrModel

logger = logging.getLogger("core")


class Command(BaseCommand):
    """The management command."""

    help = "Removes the epochs of models older than settings.MODELS_VERSION_RETENTION (in days)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare ``--dry-run``."""
        parser.add_argument("--dry-run", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Find the models and forget their epochs."""
        if settings.MODELS_VERSION_RETENTION == 0:
            logger.info("MODELS_VERSION_RETENTION set to 0. Nothing will be cleaned up.")
            return
        limit = timezone.now() - datetime.timedelta(days=settings.MODELS_VERSION_RETENTION)
        for model in OcrModel.objects.filter(version_updated_at__lt=limit).exclude(versions=[]):
            logger.info("Deleting %s epoch models from %s #%d.", len(model.versions), model.name, model.pk)
            if not options["dry_run"]:
                model.flush_history()
                model.save(update_fields=["versions"])
