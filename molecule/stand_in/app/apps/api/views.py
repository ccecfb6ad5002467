"""The API's views. They ask for rights where eScriptorium's do, which is where they list objects, and nowhere else."""

from typing import Any

from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.shortcuts import get_object_or_404
from PIL import Image
from rest_framework.authtoken.models import Token
from rest_framework.authtoken.views import ObtainAuthToken
from rest_framework.decorators import action
from rest_framework.exceptions import NotAuthenticated
from rest_framework.pagination import PageNumberPagination
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet, ModelViewSet, ReadOnlyModelViewSet

from api import serializers
from core.models import (
    Block,
    BlockType,
    Document,
    DocumentMetadata,
    DocumentPart,
    DocumentPartMetadata,
    DocumentPartType,
    DocumentTag,
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


class TypologyViewSet(ModelViewSet):
    """Types: those of all are listed, those of one's documents are changed."""

    def get_queryset(self) -> QuerySet:
        """Public ones to read, and to write those that a document of the user uses."""
        found = super().get_queryset()
        if self.request.method in {"PUT", "PATCH", "DELETE"}:
            return found.filter(valid_in__in=Document.objects.for_user(self.request.user)).distinct()
        return found.filter(public=True) if self.request.method == "GET" else found


class BlockTypeViewSet(TypologyViewSet):
    """Types of regions."""

    queryset = BlockType.objects.order_by("pk")
    serializer_class = serializers.BlockTypeSerializer


class LineTypeViewSet(TypologyViewSet):
    """Types of lines."""

    queryset = LineType.objects.order_by("pk")
    serializer_class = serializers.LineTypeSerializer


class IsAdminOrSelfOnly(BasePermission):
    """Everybody changes themselves, members of staff make, change and delete others."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """By the method alone."""
        return request.method in {"GET", "PUT", "PATCH"} or bool(request.user.is_staff)

    def has_object_permission(self, request: Request, view: Any, obj: User) -> bool:
        """Oneself, or anybody for the staff."""
        return obj == request.user or bool(request.user.is_staff)


class UserViewSet(ModelViewSet):
    """The asking user."""

    queryset = User.objects.order_by("pk")
    serializer_class = serializers.UserSerializer
    permission_classes = (IsAdminOrSelfOnly,)

    def get_queryset(self) -> QuerySet:
        """Only oneself, unless one is an administrator."""
        everybody = super().get_queryset()
        return everybody if self.request.user.is_staff else everybody.filter(pk=self.request.user.pk)

    @action(detail=False, methods=["get"])
    def current(self, request: Request) -> Response:
        """Return the asking user."""
        if not request.user.is_authenticated:
            raise NotAuthenticated
        return Response(self.get_serializer(request.user).data)


class GroupViewSet(ModelViewSet):
    """Teams of which the user is a member."""

    queryset = Group.objects.all()
    serializer_class = serializers.GroupSerializer

    def get_queryset(self) -> QuerySet:
        """One's own."""
        return self.request.user.groups.order_by("pk")


class Shareable:
    """What is shared by a user's name or a team's number."""

    @action(detail=True, methods=["post"])
    def share(self, request: Request, pk: int | None = None) -> Response:
        """Share with ``user`` or ``group``."""
        found = self.get_object()
        if "group" in request.data:
            found.shared_with_groups.add(get_object_or_404(request.user.groups, pk=request.data["group"]))
        else:
            found.shared_with_users.add(get_object_or_404(User, username=request.data.get("user")))
        return Response({"pk": found.pk}, status=201)


class ProjectViewSet(Shareable, ModelViewSet):
    """The user's projects."""

    queryset = Project.objects.all()
    serializer_class = serializers.ProjectSerializer

    def get_queryset(self) -> QuerySet:
        """Those that one may see; the number of documents is not in the answer to a creation, as in eScriptorium."""
        found = Project.objects.for_user_read(self.request.user)
        return found.annotate(documents_count=Count("documents", distinct=True))


class DocumentTagViewSet(ModelViewSet):
    """Marks of a project."""

    queryset = DocumentTag.objects.all()
    serializer_class = serializers.DocumentTagSerializer

    def get_queryset(self) -> QuerySet:
        """The project's."""
        return super().get_queryset().filter(project=self.kwargs["project_pk"]).order_by("pk")

    def perform_create(self, serializer: Any) -> None:
        """Put it into the project."""
        serializer.save(project=Project.objects.get(pk=self.kwargs["project_pk"]))


class DocumentViewSet(Shareable, ModelViewSet):
    """The user's documents, and the requests for jobs."""

    queryset = Document.objects.all()
    serializer_class = serializers.DocumentSerializer

    def get_queryset(self) -> QuerySet:
        """Those that one may see; ``?project=PK`` narrows."""
        found = Document.objects.for_user(self.request.user)
        documents = found.annotate(parts_count=Count("parts", distinct=True)).order_by("-updated_at")
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
    def bulk_move_parts(self, request: Request, pk: int | None = None) -> Response:
        """Put pages elsewhere."""
        for order, part in enumerate(request.data["parts"], int(request.data["index"])):
            DocumentPart.objects.filter(document=pk, pk=part).update(order=order)
        return Response({"status": "moved"})

    @action(detail=True, methods=["patch"])
    def modify_ontology(self, request: Request, pk: int | None = None) -> Response:
        """Say which types the document uses."""
        document = self.get_object()
        for name, kind in {
            "valid_block_types": BlockType,
            "valid_line_types": LineType,
            "valid_part_types": DocumentPartType,
        }.items():
            if name in request.data:
                getattr(document, name).set(kind.objects.filter(pk__in=request.data[name]))
        return Response(self.get_serializer(document).data)

    @action(detail=True, methods=["post"])
    def cancel_tasks(self, request: Request, pk: int | None = None) -> Response:
        """Stop the document's jobs, or the one that ``task_report`` names."""
        document = get_object_or_404(Document, pk=pk)
        if not request.user.is_staff and document.owner != request.user:
            raise PermissionDenied
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
    """For objects of one document: the address names it, and the list asks whether it is the user's."""

    def get_queryset(self) -> QuerySet:
        """All of them, once the document is the user's."""
        if not Document.objects.for_user(self.request.user).filter(pk=self.kwargs["document_pk"]).exists():
            raise PermissionDenied
        return super().get_queryset()


class ImportViewSet(DocumentRelated, GenericViewSet):
    """Imports, at the address for programs."""

    queryset = DocumentPart.objects.all()
    serializer_class = serializers.ImportSerializer

    def create(self, request: Request, document_pk: int | None = None) -> Response:
        """Import a file."""
        context = {**self.get_serializer_context(), "document": Document.objects.get(pk=document_pk)}
        serializer = serializers.ImportSerializer(data=request.data, context=context)
        serializer.is_valid(raise_exception=True)
        serializer.process()
        return Response({"status": "ok"}, status=201)


class DocumentMetadataViewSet(DocumentRelated, ModelViewSet):
    """What is said of a document."""

    queryset = DocumentMetadata.objects.order_by("pk")
    serializer_class = serializers.DocumentMetadataSerializer

    def get_queryset(self) -> QuerySet:
        """The document's."""
        return super().get_queryset().filter(document=self.kwargs["document_pk"])

    def perform_create(self, serializer: Any) -> None:
        """Put it into the document."""
        serializer.save(document=Document.objects.get(pk=self.kwargs["document_pk"]))


class PartMetadataViewSet(DocumentRelated, ModelViewSet):
    """What is said of a page."""

    queryset = DocumentPartMetadata.objects.order_by("pk")
    serializer_class = serializers.DocumentPartMetadataSerializer

    def get_queryset(self) -> QuerySet:
        """The page's."""
        return super().get_queryset().filter(part=self.kwargs["part_pk"])

    def perform_create(self, serializer: Any) -> None:
        """Put it into the page."""
        serializer.save(part=DocumentPart.objects.get(pk=self.kwargs["part_pk"]))


class PartViewSet(DocumentRelated, ModelViewSet):
    """Pages."""

    queryset = DocumentPart.objects.all()

    def get_queryset(self) -> QuerySet:
        """The document's."""
        return super().get_queryset().filter(document=self.kwargs["document_pk"])

    def get_serializer_class(self) -> type[serializers.PartSerializer]:
        """One page comes with its lines."""
        return serializers.PartDetailSerializer if self.action == "retrieve" else serializers.PartSerializer

    @action(detail=True, methods=["post"])
    def move(self, request: Request, document_pk: int | None = None, pk: int | None = None) -> Response:
        """Put a page elsewhere."""
        part = DocumentPart.objects.get(document=document_pk, pk=pk)
        DocumentPart.objects.filter(pk=part.pk).update(order=int(request.data["index"]))
        return Response({"status": "moved"})

    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, document_pk: int | None = None, pk: int | None = None) -> Response:
        """Stop a page's jobs."""
        part = DocumentPart.objects.get(document=document_pk, pk=pk)
        for report in part.reports.filter(workflow_state__in=UNFINISHED):
            report.cancel(request.user.username)
        return Response({"status": "canceled", "workflow": part.workflow})

    @action(detail=True, methods=["post"])
    def reset_masks(self, request: Request, document_pk: int | None = None, pk: int | None = None) -> Response:
        """Calculate the masks anew (the queue live)."""
        part = DocumentPart.objects.get(document=document_pk, pk=pk)
        recalculate_masks.delay(instance_pk=part.pk, user_pk=request.user.pk)
        return Response({"status": "ok"})

    @action(detail=True, methods=["post"])
    def recalculate_ordering(self, request: Request, document_pk: int | None = None, pk: int | None = None) -> Response:
        """Return the lines in their order."""
        lines = DocumentPart.objects.get(pk=pk).lines.values("pk", "order")
        return Response({"status": "done", "lines": list(lines)})

    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, document_pk: int | None = None, pk: int | None = None) -> Response:
        """Turn the image."""
        self._change(DocumentPart.objects.get(pk=pk), lambda image: image.rotate(-int(request.data["angle"])))
        return Response({"status": "done"})

    @action(detail=True, methods=["post"])
    def crop(self, request: Request, document_pk: int | None = None, pk: int | None = None) -> Response:
        """Cut the image."""
        corners = tuple(int(request.data[name]) for name in ("x1", "y1", "x2", "y2"))
        self._change(DocumentPart.objects.get(pk=pk), lambda image: image.crop(corners))
        return Response({"status": "done"})

    @staticmethod
    def _change(part: DocumentPart, change: Any) -> None:
        with Image.open(part.image.path) as image:
            change(image).save(part.image.path)


class DocumentTranscriptionViewSet(DocumentRelated, ModelViewSet):
    """Transcriptions; the list has no pages."""

    queryset = Transcription.objects.all()
    serializer_class = serializers.TranscriptionSerializer
    pagination_class = None

    def get_queryset(self) -> QuerySet:
        """The document's."""
        return super().get_queryset().filter(document=self.kwargs["document_pk"], archived=False)


class PageRelated(DocumentRelated):
    """For objects of one page."""

    part_field = "document_part"

    def get_queryset(self) -> QuerySet:
        """The page's."""
        part, document = self.kwargs["part_pk"], self.kwargs["document_pk"]
        return super().get_queryset().filter(**{self.part_field: part, f"{self.part_field}__document": document})


class BlockViewSet(PageRelated, ModelViewSet):
    """Regions of a page."""

    queryset = Block.objects.all()
    serializer_class = serializers.BlockSerializer


class LineViewSet(PageRelated, ModelViewSet):
    """Lines of a page."""

    queryset = Line.objects.all()

    def get_serializer_class(self) -> type[serializers.LineSerializer]:
        """One line comes with its texts."""
        return serializers.DetailedLineSerializer if self.action == "retrieve" else serializers.LineSerializer

    @action(detail=False, methods=["post"])
    def bulk_create(self, request: Request, document_pk: int | None = None, part_pk: int | None = None) -> Response:
        """Make lines, with their texts."""
        serializer = serializers.LineSerializer(data=request.data.get("lines"), many=True)
        serializer.is_valid(raise_exception=True)
        made = serializer.save()
        texts = [
            {**text, "line": line.pk}
            for line, given in zip(made, request.data["lines"], strict=True)
            for text in given.get("transcriptions", [])
        ]
        written = serializers.LineTranscriptionSerializer(data=texts, many=True)
        written.is_valid(raise_exception=True)
        written.save()
        return Response({"status": "ok", "lines": serializers.DetailedLineSerializer(made, many=True).data})

    @action(detail=False, methods=["put"])
    def bulk_update(self, request: Request, document_pk: int | None = None, part_pk: int | None = None) -> Response:
        """Change lines of the page."""
        answer = []
        for given in request.data.get("lines"):
            line = get_object_or_404(self.get_queryset(), pk=given["pk"])
            serializer = serializers.LineSerializer(line, data=given, partial=True)
            serializer.is_valid(raise_exception=True)
            serializer.save()
            answer.append(serializer.data)
        return Response({"status": "ok", "lines": answer})

    @action(detail=False, methods=["post"])
    def bulk_delete(self, request: Request, document_pk: int | None = None, part_pk: int | None = None) -> Response:
        """Delete lines and return what they were."""
        found = Line.objects.filter(pk__in=request.data.get("lines"))
        lines = serializers.DetailedLineSerializer(found, many=True).data
        found.delete()
        return Response({"status": "ok", "lines": lines})

    @action(detail=False, methods=["post"])
    def merge(self, request: Request, document_pk: int | None = None, part_pk: int | None = None) -> Response:
        """Make the first of some lines of all of them, and return what they were."""
        found = list(Line.objects.filter(pk__in=request.data.get("lines")))
        lines = serializers.DetailedLineSerializer(found, many=True).data
        for line in found[1:]:
            line.delete()
        return Response({"status": "ok", "lines": {"created": lines[0], "deleted": lines}})

    @action(detail=False, methods=["post"])
    def move(self, request: Request, document_pk: int | None = None, part_pk: int | None = None) -> Response:
        """Put lines elsewhere."""
        for given in request.data.get("lines"):
            Line.objects.filter(pk=given["pk"]).update(order=given["order"])
        return Response(list(Line.objects.filter(pk__in=[given["pk"] for given in request.data["lines"]]).values("pk")))


class LineTranscriptionViewSet(PageRelated, ModelViewSet):
    """Texts of the lines of a page; ``?transcription=PK`` narrows."""

    queryset = LineTranscription.objects.order_by("line__order", "pk")
    serializer_class = serializers.LineTranscriptionSerializer
    pagination_class = LargePagination
    part_field = "line__document_part"

    def get_queryset(self) -> QuerySet:
        """The page's."""
        transcription = self.request.query_params.get("transcription")
        texts = super().get_queryset()
        return texts.filter(transcription=transcription) if transcription else texts

    @action(detail=False, methods=["post"])
    def bulk_create(self, request: Request, document_pk: int | None = None, part_pk: int | None = None) -> Response:
        """Write texts."""
        serializer = serializers.LineTranscriptionSerializer(data=request.data.get("lines"), many=True)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return Response({"status": "ok", "lines": serializer.data})

    @action(detail=False, methods=["put"])
    def bulk_update(self, request: Request, document_pk: int | None = None, part_pk: int | None = None) -> Response:
        """Change texts, wherever they are."""
        answer = []
        for given in request.data.get("lines"):
            text = get_object_or_404(LineTranscription, pk=given["pk"])
            serializer = serializers.LineTranscriptionSerializer(text, data=given, partial=True)
            serializer.is_valid(raise_exception=True)
            serializer.save()
            answer.append(serializer.data)
        return Response(answer)

    @action(detail=False, methods=["post"])
    def bulk_delete(self, request: Request, document_pk: int | None = None, part_pk: int | None = None) -> Response:
        """Empty texts."""
        LineTranscription.objects.filter(pk__in=request.data.get("lines")).update(content="")
        return Response(status=204)


class OcrModelViewSet(ModelViewSet):
    """The user's models."""

    queryset = OcrModel.objects.all()
    serializer_class = serializers.OcrModelSerializer

    def get_queryset(self) -> QuerySet:
        """One's own and those that one was given; ``?documents=PK`` and ``?job=NUMBER`` narrow."""
        user = self.request.user
        given = Q(ocr_model_rights__user=user) | Q(ocr_model_rights__group__user=user)
        models = super().get_queryset().filter(Q(owner=user) | given)
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
