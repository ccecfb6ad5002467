"""Reports on jobs and documents. Those on documents are for everybody who is logged in, as in eScriptorium."""

from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.generic import View

from core.models import Document, LineTranscription, Project
from core.views import ProjectList


class ReportDetail(ProjectList):
    """One job's."""


def _words(found: object) -> HttpResponse:
    texts = LineTranscription.objects.filter(line__document_part__document__in=found).values_list("content", flat=True)
    return HttpResponse(" ".join(texts), content_type="text/plain")


class ProjectReport(LoginRequiredMixin, View):
    """The words of a project."""

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        """Return them."""
        return _words(get_object_or_404(Project, slug=slug).documents.all())


class DocumentReport(LoginRequiredMixin, View):
    """The words of a document."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Return them."""
        return _words(Document.objects.filter(pk=get_object_or_404(Document, pk=pk).pk))
