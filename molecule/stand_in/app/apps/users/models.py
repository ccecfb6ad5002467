"""Accounts."""

from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import models

from users.consumers import send_notification


class User(AbstractUser):
    """An account; the e-mail address is unique, as in eScriptorium."""

    email = models.EmailField(max_length=255, unique=True)
    legacy_mode = models.BooleanField(default=True)
    # Null: the instance's quota counts. Disk in MB, CPU and GPU in minutes a week.
    quota_disk_storage = models.PositiveIntegerField(null=True, blank=True)
    quota_cpu = models.PositiveIntegerField(null=True, blank=True)
    quota_gpu = models.PositiveIntegerField(null=True, blank=True)

    def notify(self, message: str, id: str | None = None, level: str = "info", links: Any = None) -> None:
        """Send a message to the user's open pages."""
        send_notification(self.pk, message, id=id, level=level, links=links)


class GroupOwner(models.Model):
    """Whose a team is."""

    group = models.OneToOneField("auth.Group", on_delete=models.CASCADE)
    owner = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="owned_groups")
