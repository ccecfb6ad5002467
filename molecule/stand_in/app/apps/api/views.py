"""The API's views."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from rest_framework.authtoken.models import Token
from rest_framework.authtoken.views import ObtainAuthToken
from rest_framework.decorators import action
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet, ModelViewSet, ReadOnlyModelViewSet

from api import serializers
from core.models import (
    Block,
    BlockType,
    Document,
    DocumentPart,
    Line,
    LineTranscription,
    LineType,
    OcrModel,
    Project,
    Script,
    Transcription,
)
from core.tasks import align, forced_align, recalculate_masks
from reporting.models import TaskReport
from users.models import User

UNFINISHED = (TaskReport.WORKFLOW_STATE_QUEUED, TaskReport.WORKFLOW_STATE_STARTED)


class LargePagination(PageNumberPagination):
    """Lists that are mostly wanted whole."""

    page_size = 500


class RegenerableAuthToken(ObtainAuthToken):
    """Gives a key for name and password; a new one when ``regenerate`` is asked for."""

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return ``{"token": ...}``."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        user = serializer.validated_data["user"]
        if request.data.get("regenerate"):
            Token.objects.filter(user=user).delete()
        return Response({"token": Token.objects.get_or_create(user=user)[0].key})


class ScriptViewSet(ReadOnlyModelViewSet):
    """Writing systems."""

    pagination_class = LargePagination
    queryset = Script.objects.all()
    serializer_class = serializers.ScriptSerializer


class BlockTypeViewSet(ModelViewSet):
    """Types of regions."""

    queryset = BlockType.objects.order_by("pk")
    serializer_class = serializers.BlockTypeSerializer


class LineTypeViewSet(ModelViewSet):
    """Types of lines."""

    queryset = LineType.objects.order_by("pk")
    serializer_class = serializers.LineTypeSerializer


class UserViewSet(ReadOnlyModelViewSet):
    """The asking user."""

    queryset = User.objects.order_by("pk")
    serializer_class = serializers.UserSerializer

    def get_queryset(self) -> QuerySet:
        """Only oneself, unless one is an administrator."""
        everybody = super().get_queryset()
        return everybody if self.request.user.is_staff else everybody.filter(pk=self.request.user.pk)

    @action(detail=False, methods=["get"])
    def current(self, request: Request) -> Response:
        """Return the asking user."""
        return Response(self.get_serializer(request.user).data)


class ProjectViewSet(ModelViewSet):
    """The user's projects."""

    queryset = Project.objects.all()
    serializer_class = serializers.ProjectSerializer

    def get_queryset(self) -> QuerySet:
        """Only one's own; the number of documents is not in the answer to a creation, as in eScriptorium."""
        return super().get_queryset().filter(owner=self.request.user).annotate(documents_count=Count("documents"))


class DocumentViewSet(ModelViewSet):
    """The user's documents, and the requests for jobs."""

    queryset = Document.objects.all()
    serializer_class = serializers.DocumentSerializer

    def get_queryset(self) -> QuerySet:
        """Only one's own; ``?project=PK`` narrows."""
        documents = super().get_queryset().filter(owner=self.request.user).annotate(parts_count=Count("parts"))
        project = self.request.query_params.get("project")
        return documents.filter(project=project) if project else documents

    def _process(self, kind: type[serializers.ProcessSerializer]) -> Response:
        context = {**self.get_serializer_context(), "document": self.get_object()}
        serializer = kind(data=self.request.data, context=context)
        if not serializer.is_valid():
            return Response({"status": "error", "error": serializer.errors}, status=400)
        serializer.process()
        return Response({"status": "ok"})

    @action(detail=True, methods=["post"])
    def segment(self, request: Request, pk: int | None = None) -> Response:
        """Segment pages."""
        return self._process(serializers.SegmentSerializer)

    @action(detail=True, methods=["post"])
    def transcribe(self, request: Request, pk: int | None = None) -> Response:
        """Recognise the text of pages."""
        return self._process(serializers.TranscribeSerializer)

    @action(detail=True, methods=["post"])
    def train(self, request: Request, pk: int | None = None) -> Response:
        """Train a recognition model."""
        return self._process(serializers.TrainSerializer)

    @action(detail=True, methods=["post"])
    def segtrain(self, request: Request, pk: int | None = None) -> Response:
        """Train a segmentation model."""
        return self._process(serializers.SegTrainSerializer)

    @action(detail=True, methods=["post"])
    def imports(self, request: Request, pk: int | None = None) -> Response:
        """Import a file, at the address that the web pages use."""
        return self._process(serializers.ImportSerializer)

    @action(detail=True, methods=["post"])
    def export(self, request: Request, pk: int | None = None) -> Response:
        """Export the text."""
        return self._process(serializers.ExportSerializer)

    @action(detail=True, methods=["post"])
    def align(self, request: Request, pk: int | None = None) -> Response:
        """Align with a text (the queue jvm)."""
        align.delay(document_pk=self.get_object().pk, user_pk=request.user.pk)
        return Response({"status": "ok"})

    @action(detail=True, methods=["post"])
    def forced_align(self, request: Request, pk: int | None = None) -> Response:
        """Align characters."""
        for part in self.get_object().parts.all():
            forced_align.delay(instance_pk=part.pk, user_pk=request.user.pk)
        return Response({"status": "success"})

    @action(detail=True, methods=["post"])
    def cancel_tasks(self, request: Request, pk: int | None = None) -> Response:
        """Stop the document's jobs, or the one that ``task_report`` names."""
        document = self.get_object()
        reports = document.reports.filter(workflow_state__in=UNFINISHED)
        if request.data.get("task_report"):
            reports = reports.filter(pk=int(request.data["task_report"]))
        stopped = list(reports)
        for report in stopped:
            report.cancel(request.user.username)
        document.ocr_models.filter(training=True).update(training=False)
        details = f"Canceled {len(stopped)} pending/running tasks linked to document {document.name}."
        return Response({"status": "canceled", "details": details})


class DocumentRelated:
    """For objects of one document: the address names it, and it has to be the user's."""

    @property
    def document(self) -> Document:
        """The document."""
        document = Document.objects.filter(pk=self.kwargs["document_pk"], owner=self.request.user).first()
        if document is None:
            raise PermissionDenied
        return document


class ImportViewSet(DocumentRelated, GenericViewSet):
    """Imports, at the address for programs."""

    serializer_class = serializers.ImportSerializer

    def create(self, request: Request, document_pk: int | None = None) -> Response:
        """Import a file."""
        context = {**self.get_serializer_context(), "document": self.document}
        serializer = serializers.ImportSerializer(data=request.data, context=context)
        serializer.is_valid(raise_exception=True)
        serializer.process()
        return Response({"status": "ok"}, status=201)


class PartViewSet(DocumentRelated, ModelViewSet):
    """Pages."""

    queryset = DocumentPart.objects.all()

    def get_queryset(self) -> QuerySet:
        """The document's."""
        return super().get_queryset().filter(document=self.document)

    def get_serializer_class(self) -> type[serializers.PartSerializer]:
        """One page comes with its lines."""
        return serializers.PartDetailSerializer if self.action == "retrieve" else serializers.PartSerializer

    @action(detail=True, methods=["post"])
    def reset_masks(self, request: Request, document_pk: int | None = None, pk: int | None = None) -> Response:
        """Calculate the masks anew (the queue live)."""
        recalculate_masks.delay(instance_pk=self.get_object().pk, user_pk=request.user.pk)
        return Response({"status": "ok"})


class TranscriptionViewSet(DocumentRelated, ModelViewSet):
    """Transcriptions; the list has no pages."""

    queryset = Transcription.objects.all()
    serializer_class = serializers.TranscriptionSerializer
    pagination_class = None

    def get_queryset(self) -> QuerySet:
        """The document's."""
        return super().get_queryset().filter(document=self.document, archived=False)


class BlockViewSet(DocumentRelated, ModelViewSet):
    """Regions of a page."""

    queryset = Block.objects.all()
    serializer_class = serializers.BlockSerializer

    def get_queryset(self) -> QuerySet:
        """The page's."""
        return (
            super().get_queryset().filter(document_part=self.kwargs["part_pk"], document_part__document=self.document)
        )


class LineViewSet(DocumentRelated, ModelViewSet):
    """Lines of a page."""

    queryset = Line.objects.all()
    serializer_class = serializers.LineSerializer

    def get_queryset(self) -> QuerySet:
        """The page's."""
        return (
            super().get_queryset().filter(document_part=self.kwargs["part_pk"], document_part__document=self.document)
        )


class LineTranscriptionViewSet(DocumentRelated, ModelViewSet):
    """Texts of the lines of a page; ``?transcription=PK`` narrows."""

    queryset = LineTranscription.objects.order_by("line__order", "pk")
    serializer_class = serializers.LineTranscriptionSerializer
    pagination_class = LargePagination

    def get_queryset(self) -> QuerySet:
        """The page's."""
        texts = (
            super()
            .get_queryset()
            .filter(line__document_part=self.kwargs["part_pk"], line__document_part__document=self.document)
        )
        transcription = self.request.query_params.get("transcription")
        return texts.filter(transcription=transcription) if transcription else texts


class OcrModelViewSet(ModelViewSet):
    """The user's models."""

    queryset = OcrModel.objects.all()
    serializer_class = serializers.OcrModelSerializer

    def get_queryset(self) -> QuerySet:
        """Only one's own; ``?documents=PK`` and ``?job=NUMBER`` narrow."""
        models = super().get_queryset().filter(owner=self.request.user)
        narrow = {
            name: self.request.query_params[name] for name in ("documents", "job") if name in self.request.query_params
        }
        return models.filter(**narrow).distinct()

    @action(detail=True, methods=["post"])
    def cancel_training(self, request: Request, pk: int | None = None) -> Response:
        """Stop the model's training."""
        model = self.get_object()
        report = model.reports.filter(workflow_state__in=UNFINISHED).last()
        if report is None:
            return Response({"status": "failed"}, status=400)
        report.cancel(request.user.username)
        OcrModel.objects.filter(pk=model.pk).update(training=False)
        return Response({"status": "canceled"})


class TaskReportViewSet(ModelViewSet):
    """The states of the user's jobs, the newest first; ``?document=PK`` and ``?group=PK`` narrow.

    They can be written, as eScriptorium's can.
    """

    queryset = TaskReport.objects.order_by("-queued_at", "-pk")
    serializer_class = serializers.TaskReportSerializer

    def get_queryset(self) -> QuerySet:
        """Only one's own."""
        names = [name for name in ("document", "group") if name in self.request.query_params]
        narrow = {name: self.request.query_params[name] for name in names}
        return super().get_queryset().filter(user=self.request.user, **narrow)
