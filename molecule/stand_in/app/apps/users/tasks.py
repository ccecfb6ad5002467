"""Mail."""

import logging
from typing import Any

from celery import shared_task
from django.conf import settings
from django.core.mail import send_mail

logger = logging.getLogger(__name__)


@shared_task
def async_email(
    subject: str, message: str, recipients: list[str], html: str | None = None, result_interface: Any = None
) -> None:
    """Send a mail; a mail server that is away is logged, no more."""
    try:
        send_mail(subject, message, settings.DEFAULT_FROM_EMAIL, recipients, html_message=html)
    except Exception:
        logger.exception("Error sending email %s to %s.", subject, recipients)
