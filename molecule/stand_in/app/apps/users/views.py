"""Pages of accounts and teams."""

from typing import Any

from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.generic import CreateView, TemplateView, UpdateView, View
from rest_framework.authtoken.models import Token

from users.models import GroupOwner, User


class ProfileInfos(LoginRequiredMixin, UpdateView):
    """What an account says of itself."""

    model = User
    fields = ("email", "first_name", "last_name", "legacy_mode")
    template_name = "users/form.html"

    def get_object(self, queryset: Any = None) -> User:
        """Oneself."""
        return self.request.user

    def get_success_url(self) -> str:
        """The same page."""
        return reverse("profile")


class ProfileApiKey(LoginRequiredMixin, TemplateView):
    """Shows the user's key for the API, where the PyPI package escriptorium-connector looks for it."""

    template_name = "users/profile_api_key.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the key; it is made when there is none."""
        token, _ = Token.objects.get_or_create(user=self.request.user)
        return super().get_context_data(api_auth_token=token, **kwargs)


class ProfileGroupListCreate(LoginRequiredMixin, CreateView):
    """Makes teams."""

    model = Group
    fields = ("name",)
    template_name = "users/form.html"

    def form_valid(self, form: Any) -> HttpResponse:
        """Who makes a team owns it."""
        answer = super().form_valid(form)
        self.object.user_set.add(self.request.user)
        GroupOwner.objects.create(group=self.object, owner=self.request.user)
        return answer

    def get_success_url(self) -> str:
        """The same page."""
        return reverse("profile-team-list")


class GroupDetail(LoginRequiredMixin, View):
    """A team, for its owner."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Return its name."""
        group = Group.objects.get(pk=pk)
        if group.groupowner.owner != request.user:
            raise PermissionDenied
        return HttpResponse(group.name, content_type="text/plain")
