"""Tells the administrators that a certificate ends soon. A timer runs it each day.

    manage.py check_certificates

Exit status 1 then, so that its unit counts as failed, and a mail; 0 where all is well, or there is none to look at.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from django.core.mail import mail_admins
from django.core.management.base import BaseCommand, CommandError

from escriptorium_cluster.certificate_end import looks, warnings

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """The management command."""

    help = "Tell the administrators that a certificate of the site, of database or broker ends soon."

    def handle(self, *args: Any, **options: Any) -> None:
        """Look, and tell.

        :raises CommandError: where somebody has to do something, or a server does not answer.
        """
        told, unknown = warnings(list(looks(os.environ)), time.time())
        if told:
            try:
                mail_admins("a certificate ends", "\n\n".join(told))
            except OSError as error:  # that of smtplib is one: the journal has it
                logger.warning("no mail could be sent: %s", error)
        if told or unknown:
            raise CommandError("\n".join(told + unknown))
