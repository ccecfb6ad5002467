"""The API's objects, with eScriptorium's names of fields; they start the jobs too."""

import json
import os
from typing import Any

import requests
from django.conf import settings
from django.contrib.auth.models import Group
from django.core.files.base import ContentFile
from django.utils import timezone
from rest_framework import serializers

from core.models import (
    Block,
    BlockType,
    Document,
    DocumentMetadata,
    DocumentPart,
    DocumentPartMetadata,
    DocumentTag,
    Line,
    LineTranscription,
    LineType,
    Metadata,
    OcrModel,
    OcrModelDocument,
    Project,
    Script,
    Transcription,
)
from core.tasks import convert, generate_part_thumbnails, lossless_compression, segment, segtrain, train, transcribe
from imports.models import DocumentImport
from imports.page import ParseError, parse_page
from imports.tasks import document_export, document_import
from reporting.models import TaskGroup, TaskReport
from users.models import User


class ScriptSerializer(serializers.ModelSerializer):
    """A writing system."""

    class Meta:
        model = Script
        fields = "__all__"


class UserSerializer(serializers.ModelSerializer):
    """An account."""

    class Meta:
        model = User
        fields = ("pk", "is_active", "username", "email", "first_name", "last_name", "last_login", "is_staff")
        read_only_fields = ("last_login", "is_staff")


class GroupSerializer(serializers.ModelSerializer):
    """A team."""

    owner = serializers.ReadOnlyField(source="groupowner.owner.pk")

    class Meta:
        model = Group
        fields = ("pk", "name", "owner")


class DocumentTagSerializer(serializers.ModelSerializer):
    """A mark of a project's."""

    class Meta:
        model = DocumentTag
        fields = ("pk", "name", "color")


class MetadataSerializer(serializers.ModelSerializer):
    """A key of what is said of documents and pages."""

    name = serializers.CharField(validators=[])

    class Meta:
        model = Metadata
        fields = ("name", "cidoc_id")


class SaidSerializer(serializers.ModelSerializer):
    """What is said of a document or page; another name of its key is another name for all, as in eScriptorium."""

    key = MetadataSerializer()

    def create(self, validated_data: dict[str, Any]) -> Any:
        """Find the key, or make it."""
        key, _ = Metadata.objects.get_or_create(name=validated_data.pop("key")["name"])
        return self.Meta.model.objects.create(key=key, **validated_data)

    def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        """Change key and value."""
        for name, value in validated_data.pop("key", {}).items():
            setattr(instance.key, name, value)
        instance.key.save()
        return super().update(instance, validated_data)


class DocumentMetadataSerializer(SaidSerializer):
    """Of a document."""

    class Meta:
        model = DocumentMetadata
        fields = ("pk", "key", "value")


class DocumentPartMetadataSerializer(SaidSerializer):
    """Of a page."""

    class Meta:
        model = DocumentPartMetadata
        fields = ("pk", "key", "value")


class BlockTypeSerializer(serializers.ModelSerializer):
    """The type of a region."""

    class Meta:
        model = BlockType
        fields = ("pk", "name")


class LineTypeSerializer(serializers.ModelSerializer):
    """The type of a line."""

    class Meta:
        model = LineType
        fields = ("pk", "name")


class ProjectSerializer(serializers.ModelSerializer):
    """A project."""

    owner = serializers.ReadOnlyField(source="owner.username")
    slug = serializers.ReadOnlyField()
    documents_count = serializers.ReadOnlyField()

    class Meta:
        model = Project
        fields = (
            "id",
            "name",
            "slug",
            "guidelines",
            "owner",
            "created_at",
            "updated_at",
            "documents_count",
            "shared_with_users",
        )
        read_only_fields = ("shared_with_users",)

    def create(self, validated_data: dict[str, Any]) -> Project:
        """The one who asks is the owner."""
        validated_data["owner"] = self.context["request"].user
        return super().create(validated_data)

    def to_representation(self, instance: Project) -> dict[str, Any]:
        """Add the fields of eScriptorium that the stand-in has no data for."""
        return {**super().to_representation(instance), "tags": [], "shared_with_groups": []}


class TranscriptionSerializer(serializers.ModelSerializer):
    """A transcription."""

    class Meta:
        model = Transcription
        fields = ("pk", "name", "archived", "avg_confidence", "created_at", "comments")

    def create(self, validated_data: dict[str, Any]) -> Transcription:
        """A name that is taken gives the existing transcription."""
        document = Document.objects.get(pk=self.context["view"].kwargs["document_pk"])
        return Transcription.objects.get_or_create(document=document, name=validated_data["name"])[0]


class DocumentSerializer(serializers.ModelSerializer):
    """A document."""

    main_script = serializers.SlugRelatedField(slug_field="name", queryset=Script.objects.all())
    project = serializers.SlugRelatedField(slug_field="slug", queryset=Project.objects.all())
    project_name = serializers.ReadOnlyField(source="project.name")
    project_id = serializers.ReadOnlyField(source="project.pk")
    parts_count = serializers.ReadOnlyField()
    transcriptions = TranscriptionSerializer(many=True, read_only=True)
    valid_block_types = BlockTypeSerializer(many=True, read_only=True)
    valid_line_types = LineTypeSerializer(many=True, read_only=True)

    class Meta:
        model = Document
        fields = (
            "pk",
            "name",
            "project",
            "transcriptions",
            "main_script",
            "read_direction",
            "line_offset",
            "show_confidence_viz",
            "valid_block_types",
            "valid_line_types",
            "parts_count",
            "created_at",
            "updated_at",
            "project_name",
            "project_id",
            "tags",
        )
        extra_kwargs = {"tags": {"required": False}}

    def create(self, validated_data: dict[str, Any]) -> Document:
        """The one who asks is the owner."""
        validated_data["owner"] = self.context["request"].user
        return super().create(validated_data)

    def to_representation(self, instance: Document) -> dict[str, Any]:
        """Add the fields of eScriptorium that the stand-in has no data for."""
        empty: dict[str, list[Any]] = {
            name: [] for name in ("valid_part_types", "shared_with_users", "shared_with_groups")
        }
        return {**super().to_representation(instance), **empty}


class PartImageField(serializers.ImageField):
    """An image is uploaded as a file and shown as address, size in pixels and thumbnails."""

    def to_representation(self, value: Any) -> dict[str, Any] | None:
        """Return the addresses below /media/."""
        if not value:
            return None
        names = {alias: value.instance.thumbnail_name(alias) for alias in ("card", "large")}
        return {
            "uri": value.url,
            "size": [value.width, value.height],
            "thumbnails": {
                alias: settings.MEDIA_URL + name
                for alias, name in names.items()
                if os.path.exists(os.path.join(settings.MEDIA_ROOT, name))
            },
        }


class PartSerializer(serializers.ModelSerializer):
    """A page."""

    image = PartImageField(required=False)
    image_file_size = serializers.IntegerField(required=False)
    filename = serializers.ReadOnlyField()
    title = serializers.ReadOnlyField()
    workflow = serializers.JSONField(read_only=True)
    recoverable = serializers.ReadOnlyField()
    transcription_progress = serializers.ReadOnlyField()

    class Meta:
        model = DocumentPart
        fields = (
            "pk",
            "name",
            "filename",
            "title",
            "typology",
            "image",
            "image_file_size",
            "original_filename",
            "workflow",
            "order",
            "recoverable",
            "transcription_progress",
            "source",
            "max_avg_confidence",
            "comments",
            "updated_at",
        )
        read_only_fields = ("order", "max_avg_confidence")

    def create(self, validated_data: dict[str, Any]) -> DocumentPart:
        """Store the image and send the jobs that follow an upload."""
        image = validated_data["image"]
        part = DocumentPart.objects.create(
            document=Document.objects.get(pk=self.context["view"].kwargs["document_pk"]),
            **{**validated_data, "original_filename": image.name, "image_file_size": image.size},
        )
        jobs = convert.si(instance_pk=part.pk)
        jobs.link(lossless_compression.si(instance_pk=part.pk) | generate_part_thumbnails.si(instance_pk=part.pk))
        jobs.delay()
        return part


class BlockSerializer(serializers.ModelSerializer):
    """A region."""

    class Meta:
        model = Block
        fields = ("pk", "document_part", "external_id", "order", "box", "typology")


class LineSerializer(serializers.ModelSerializer):
    """A line; its number can be written, as in eScriptorium."""

    pk = serializers.IntegerField(required=False)
    region = serializers.PrimaryKeyRelatedField(
        queryset=Block.objects.all(), allow_null=True, required=False, source="block"
    )

    class Meta:
        model = Line
        fields = ("pk", "document_part", "external_id", "order", "region", "baseline", "mask", "typology")


class LineTranscriptionSerializer(serializers.ModelSerializer):
    """The text of a line."""

    class Meta:
        model = LineTranscription
        fields = (
            "pk",
            "line",
            "transcription",
            "content",
            "graphs",
            "avg_confidence",
            "versions",
            "version_author",
            "version_source",
            "version_updated_at",
        )
        read_only_fields = ("versions", "version_author", "version_source")


class DetailedLineSerializer(LineSerializer):
    """A line with its texts."""

    transcriptions = LineTranscriptionSerializer(many=True, read_only=True)

    class Meta(LineSerializer.Meta):
        fields = (*LineSerializer.Meta.fields, "transcriptions")


class PartDetailSerializer(PartSerializer):
    """A page with its regions and lines."""

    regions = BlockSerializer(many=True, source="blocks")
    lines = LineSerializer(many=True)

    class Meta(PartSerializer.Meta):
        fields = (*PartSerializer.Meta.fields, "regions", "lines")


class JobField(serializers.ChoiceField):
    """What a model is for, as a word."""

    def to_representation(self, value: int) -> str:
        """Return ``Segment`` or ``Recognize``."""
        return str(dict(OcrModel.MODEL_JOB_CHOICES)[value])

    def to_internal_value(self, data: str) -> int:
        """Return the number of a word."""
        for number, word in OcrModel.MODEL_JOB_CHOICES:
            if word == data:
                return number
        self.fail("invalid_choice", input=data)
        raise AssertionError


class OcrModelSerializer(serializers.ModelSerializer):
    """A model."""

    owner = serializers.ReadOnlyField(source="owner.username")
    job = JobField(choices=OcrModel.MODEL_JOB_CHOICES)
    training = serializers.ReadOnlyField()
    file_size = serializers.IntegerField(required=False)
    script = serializers.ReadOnlyField(source="script.name")
    parent = serializers.ReadOnlyField(source="parent.name")
    accuracy_percent = serializers.ReadOnlyField()

    class Meta:
        model = OcrModel
        fields = (
            "pk",
            "name",
            "file",
            "file_size",
            "job",
            "owner",
            "training",
            "versions",
            "documents",
            "accuracy_percent",
            "script",
            "parent",
        )
        read_only_fields = ("versions", "documents")

    def create(self, validated_data: dict[str, Any]) -> OcrModel:
        """Store an uploaded model."""
        validated_data["owner"] = self.context["request"].user
        validated_data["file_size"] = validated_data["file"].size
        return super().create(validated_data)

    def to_representation(self, instance: OcrModel) -> dict[str, Any]:
        """Add what the asking user may do."""
        owner = instance.owner == self.context["request"].user
        return {
            **super().to_representation(instance),
            "rights": "owner" if owner else "user",
            "can_share": owner and not instance.public,
        }


class TaskReportSerializer(serializers.ModelSerializer):
    """The state of a job."""

    document_part = serializers.SerializerMethodField()

    class Meta:
        model = TaskReport
        fields = (
            "pk",
            "document",
            "document_part",
            "workflow_state",
            "label",
            "messages",
            "queued_at",
            "started_at",
            "done_at",
            "method",
            "user",
        )

    def get_document_part(self, report: TaskReport) -> str | None:
        """Return the page's name."""
        return str(report.document_part) if report.document_part else None


class ProcessSerializer(serializers.Serializer):
    """What all requests for jobs have in common: they are about a document and make a group of reports."""

    PROCESS_NAME = ""

    parts = serializers.PrimaryKeyRelatedField(many=True, queryset=DocumentPart.objects.all(), required=False)

    @property
    def document(self) -> Document:
        """The document."""
        return self.context["document"]

    @property
    def user(self) -> User:
        """The one who asks."""
        return self.context["request"].user

    def part_pks(self) -> list[int]:
        """Return the numbers of the pages asked for, or of all."""
        return [part.pk for part in self.validated_data.get("parts") or self.document.parts.all()]

    def start_group(self) -> TaskGroup:
        """Make the group of reports."""
        return TaskGroup.objects.create(task=self.PROCESS_NAME, created_by=self.user, document=self.document)

    def remember(self, model: OcrModel, **dates: Any) -> None:
        """Note that a model was used for, or trained on, the document."""
        OcrModelDocument.objects.update_or_create(document=self.document, ocr_model=model, defaults=dates)


class SegmentSerializer(ProcessSerializer):
    """A request for segmentation."""

    PROCESS_NAME = "segmentation"

    steps = serializers.ChoiceField(choices=("both", "lines", "masks", "regions"), required=False, default="both")
    model = serializers.PrimaryKeyRelatedField(required=False, allow_null=True, queryset=OcrModel.objects.all())
    override = serializers.BooleanField(required=False, default=False)

    def process(self) -> None:
        """Send one job for each page."""
        group, model = self.start_group(), self.validated_data.get("model")
        for pk in self.part_pks():
            segment.delay(
                instance_pks=[pk],
                user_pk=self.user.pk,
                task_group_pk=group.pk,
                model_pk=model.pk if model else None,
                steps=self.validated_data["steps"],
                override=self.validated_data["override"],
            )


class TranscribeSerializer(ProcessSerializer):
    """A request for recognition."""

    PROCESS_NAME = "recognition"

    model = serializers.PrimaryKeyRelatedField(queryset=OcrModel.objects.all())
    transcription = serializers.PrimaryKeyRelatedField(queryset=Transcription.objects.all())

    def process(self) -> None:
        """Send one job for each page."""
        group, model = self.start_group(), self.validated_data["model"]
        self.remember(model, executed_on=timezone.now())
        for pk in self.part_pks():
            transcribe.delay(
                instance_pks=[pk],
                task_group_pk=group.pk,
                transcription_pk=self.validated_data["transcription"].pk,
                model_pk=model.pk,
                user_pk=self.user.pk,
            )


class TrainingSerializer(ProcessSerializer):
    """What both kinds of training have in common: a model to go on with, or the name of a new one."""

    JOB = 0

    model = serializers.PrimaryKeyRelatedField(required=False, queryset=OcrModel.objects.all())
    model_name = serializers.CharField(required=False)
    override = serializers.BooleanField(required=False, default=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One of the two is needed."""
        if not attrs.get("model") and not attrs.get("model_name"):
            raise serializers.ValidationError("Either use model_name to create a new model, or add a model pk.")
        return attrs

    def get_model(self) -> OcrModel:
        """Return the model to train, a new one if need be."""
        model = self.validated_data.get("model")
        if model is None or not self.validated_data["override"]:
            name = self.validated_data.get("model_name") or f"{model.name}_v2"
            model = OcrModel.objects.create(owner=self.user, name=name, job=self.JOB, file_size=0, parent=model)
        self.remember(model, trained_on=timezone.now())
        return model


class TrainSerializer(TrainingSerializer):
    """A request to train a recognition model."""

    PROCESS_NAME = "recognition training"
    JOB = OcrModel.MODEL_JOB_RECOGNIZE

    transcription = serializers.PrimaryKeyRelatedField(queryset=Transcription.objects.all())

    def process(self) -> None:
        """Send the job."""
        train.delay(
            transcription_pk=self.validated_data["transcription"].pk,
            task_group_pk=self.start_group().pk,
            model_pk=self.get_model().pk,
            part_pks=self.part_pks(),
            user_pk=self.user.pk,
        )


class SegTrainSerializer(TrainingSerializer):
    """A request to train a segmentation model."""

    PROCESS_NAME = "segmentation training"
    JOB = OcrModel.MODEL_JOB_SEGMENT

    def process(self) -> None:
        """Send the job."""
        segtrain.delay(
            model_pk=self.get_model().pk,
            task_group_pk=self.start_group().pk,
            part_pks=self.part_pks(),
            document_pk=self.document.pk,
            user_pk=self.user.pk,
        )


class ImportSerializer(ProcessSerializer):
    """A request to import a PAGE XML file, or the images of a IIIF manifest."""

    PROCESS_NAME = "Import"

    mode = serializers.ChoiceField(choices=("pdf", "iiif", "mets", "xml"), default="xml")
    transcription = serializers.PrimaryKeyRelatedField(queryset=Transcription.objects.all(), required=False)
    name = serializers.CharField(required=False)
    override = serializers.BooleanField(required=False, default=False)
    upload_file = serializers.FileField(required=False)
    iiif_uri = serializers.URLField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Read the file once before it goes to the queue, as the real one does."""
        if attrs["mode"] == "iiif" and "iiif_uri" in attrs:
            # Without a time limit, as the real one.
            try:
                content = requests.get(attrs["iiif_uri"]).content
            except requests.exceptions.RequestException as error:
                raise serializers.ValidationError("The document is unreachable, or the host timed out.") from error
            self.total = len(json.loads(content)["sequences"][0]["canvases"])
            return {**attrs, "upload_file": ContentFile(content, name="iiif_manifest.json")}
        if attrs["mode"] != "xml":
            raise serializers.ValidationError("The stand-in imports PAGE XML and IIIF manifests only.")
        if "upload_file" not in attrs:
            raise serializers.ValidationError("'upload_file' is mandatory with mode 'xml'.")
        try:
            self.total = len(parse_page(attrs["upload_file"]))
        except ParseError as error:
            raise serializers.ValidationError(f"Couldn't parse the given file: {error}") from error
        attrs["upload_file"].seek(0)
        return attrs

    def process(self) -> None:
        """Store the file and send the job."""
        transcription = self.validated_data.get("transcription")
        job = DocumentImport.objects.create(
            document=self.document,
            name=self.validated_data.get("name") or (transcription.name if transcription else ""),
            override=self.validated_data["override"],
            import_file=self.validated_data["upload_file"],
            total=self.total,
            started_by=self.user,
        )
        document_import.delay(
            document_pk=self.document.pk,
            task_group_pk=self.start_group().pk,
            import_pk=job.pk,
            user_pk=self.user.pk,
            report_label=f"Import in {self.document.name}",
        )


class ExportSerializer(ProcessSerializer):
    """A request for an export."""

    PROCESS_NAME = "Export"

    file_format = serializers.ChoiceField(choices=("text",), default="text")
    transcription = serializers.PrimaryKeyRelatedField(queryset=Transcription.objects.all())

    def process(self) -> None:
        """Send the job."""
        document_export.delay(
            file_format=self.validated_data["file_format"],
            part_pks=self.part_pks(),
            transcription_pk=self.validated_data["transcription"].pk,
            document_pk=self.document.pk,
            user_pk=self.user.pk,
            report_label=f"Export of {self.document.name}",
        )
