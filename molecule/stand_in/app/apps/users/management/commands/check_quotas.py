"""Tells users whose disk quota is used up."""

import logging
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db.models import Sum

from users.models import User
from users.tasks import async_email

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """The management command."""

    help = "Send quotas alerts to users by email."

    def handle(self, *args: Any, **options: Any) -> None:
        """Sum up each user's files and mail those above their quota."""
        if settings.DISABLE_QUOTAS:
            logger.info("Quotas are disabled on this instance, no need to run this command")
            return
        for user in User.objects.all():
            limit = user.quota_disk_storage if user.quota_disk_storage is not None else settings.QUOTA_DISK_STORAGE
            models = user.ocrmodel_set.aggregate(size=Sum("file_size"))["size"] or 0
            images = user.document_set.aggregate(size=Sum("parts__image_file_size"))["size"] or 0
            if limit is not None and models + images >= limit * 1024 * 1024:
                async_email.delay("Quota reached", f"Your files reach the quota of {limit} MB.", [user.email])
