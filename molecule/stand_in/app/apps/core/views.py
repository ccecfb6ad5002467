"""The few pages for people, and the forms behind pages that eScriptorium has.

They ask for rights where eScriptorium's do: ``EditPart`` tells strangers the first page of any document, and the forms
of models ask nobody.
"""

from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.generic import DetailView, TemplateView, View

from core.models import Document, DocumentPart, OcrModel, OcrModelRight
from reporting.models import TaskReport


class Home(TemplateView):
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


class ProjectList(LoginRequiredMixin, Home):
    """The same page for people who are logged in."""


class DocumentDashboard(LoginRequiredMixin, DetailView):
    """A document's page."""

    template_name = "home.html"

    def get_queryset(self) -> Any:
        """Those that one may see."""
        return Document.objects.for_user(self.request.user)


class EditPart(LoginRequiredMixin, DetailView):
    """The editor of a page; without the page's number, the way to the first one."""

    template_name = "home.html"
    pk_url_kwarg = "part_pk"

    def get_queryset(self) -> Any:
        """The document's pages."""
        return DocumentPart.objects.filter(document=self.kwargs["pk"])

    def get_object(self, queryset: Any = None) -> DocumentPart:
        """Ask once the page is found."""
        part = super().get_object(queryset)
        if not Document.objects.for_user(self.request.user).filter(pk=part.document.pk).exists():
            raise PermissionDenied
        return part

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Go to the first page."""
        if "part_pk" in self.kwargs:
            return super().dispatch(request, *args, **kwargs)
        first = self.get_queryset().first()
        if first is None:
            raise Http404
        keys = {"pk": self.kwargs["pk"], "part_pk": first.pk}
        return HttpResponseRedirect(reverse("document-part-edit", kwargs=keys))


class ModelCancelTraining(LoginRequiredMixin, View):
    """Stops a model's training."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Stop it."""
        model = get_object_or_404(OcrModel, pk=pk)
        for report in model.reports.filter(workflow_state=TaskReport.WORKFLOW_STATE_STARTED):
            report.cancel(request.user.username)
        OcrModel.objects.filter(pk=pk).update(training=False)
        return HttpResponseRedirect(reverse("projects-list"))


class ModelRights(LoginRequiredMixin, View):
    """Whom a model is shared with."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Add a user."""
        OcrModelRight.objects.create(ocr_model_id=pk, user_id=request.POST.get("user"))
        return HttpResponseRedirect(reverse("projects-list"))


class ModelRightDelete(LoginRequiredMixin, View):
    """Ends that."""

    def post(self, request: HttpRequest, modelPk: int, pk: int) -> HttpResponse:
        """Delete it."""
        get_object_or_404(OcrModelRight, pk=pk).delete()
        return HttpResponseRedirect(reverse("projects-list"))
