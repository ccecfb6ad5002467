"""Tells the administrators that the certificate of database and broker ends soon. A timer runs it each day.

    manage.py check_certificates

Exit status 1 then, so that its unit counts as failed, and a mail; 0 where all is well, or nothing is encrypted.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from django.core.mail import mail_admins
from django.core.management.base import BaseCommand, CommandError

from escriptorium_cluster.certificate_end import warning
from escriptorium_cluster.config import load_broker

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """The management command."""

    help = "Tell the administrators that the certificate of database and broker ends soon."

    def handle(self, *args: Any, **options: Any) -> None:
        """Look, and tell.

        :raises CommandError: where somebody has to do something, or the broker does not answer.
        """
        try:
            text = warning(load_broker(os.environ), time.time())
        except OSError as error:
            raise CommandError(f"the broker does not answer: {error}") from error
        if not text:
            return
        try:
            mail_admins("certificate of database and broker", text)
        except OSError as error:  # that of smtplib is one: the journal has it
            logger.warning("no mail could be sent: %s", error)
        raise CommandError(text)
