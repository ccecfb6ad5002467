"""Lists the keys to the REST interface, and ends some.

    manage.py api_keys
    manage.py api_keys --revoke ada --revoke bob
    manage.py api_keys --revoke-older-than 365

Says whose each key is, when it was made and whether it opens anything; never a key. An account whose key has ended
makes a new one on its page of keys.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from escriptorium_cluster.api_keys import listed, revoke

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """The management command."""

    help = "List the keys to the REST interface, and end some."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare what ends keys."""
        parser.add_argument("--revoke", action="append", default=[], metavar="USER", help="end this account's key")
        parser.add_argument("--revoke-older-than", type=int, metavar="DAYS", help="end all keys that are older")

    def handle(self, *args: Any, **options: Any) -> None:
        """List, or end and say what ended.

        :raises CommandError: for an account that is not there, or a number of days below 0.
        """
        users, days = options["revoke"], options["revoke_older_than"]
        if days is not None and days < 0:
            raise CommandError("--revoke-older-than takes days, 0 or more")
        known = set(get_user_model().objects.filter(username__in=users).values_list("username", flat=True))
        if missing := sorted(set(users) - known):
            raise CommandError(f"there is no account {', '.join(missing)}")
        if users or days is not None:
            older = None if days is None else timedelta(days=days)
            for name in revoke(users, older, timezone.now()):
                self.stdout.write(f"ended the key of {name}")
            return
        for key in listed():
            self.stdout.write(f"{key.made:%Y-%m-%d}  {key.user}  {key.state}")
