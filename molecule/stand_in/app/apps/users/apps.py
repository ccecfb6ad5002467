"""The application of accounts."""

from django.apps import AppConfig


class UsersConfig(AppConfig):
    """Accounts and notifications."""

    name = "users"
