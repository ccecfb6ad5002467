"""The few pages for people."""

from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.mixins import LoginRequiredMixin
from django.views.generic import TemplateView
from rest_framework.authtoken.models import Token


class HomeView(TemplateView):
    """What this is, and how many objects there are."""

    template_name = "home.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the numbers."""
        names = ("Project", "Document", "DocumentPart", "OcrModel")
        return super().get_context_data(
            counts={name: apps.get_model("core", name).objects.count() for name in names},
            kraken_version=settings.KRAKEN_VERSION,
            version_date=settings.VERSION_DATE,
            **kwargs,
        )


class PlainView(LoginRequiredMixin, HomeView):
    """The same page for people who are logged in."""


class ApiKeyView(LoginRequiredMixin, TemplateView):
    """Shows the user's key for the API, where the PyPI package escriptorium-connector looks for it."""

    template_name = "users/profile_api_key.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the key; it is made when there is none."""
        token, _ = Token.objects.get_or_create(user=self.request.user)
        return super().get_context_data(api_auth_token=token, **kwargs)
