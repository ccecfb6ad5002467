"""Projects, documents, pages, lines, transcriptions and models, with eScriptorium's names of fields and folders."""

import os
import time
import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.text import slugify

User = settings.AUTH_USER_MODEL


class Script(models.Model):
    """A writing system."""

    name = models.CharField(max_length=128)
    name_fr = models.CharField(max_length=128, blank=True)
    iso_code = models.CharField(max_length=4, blank=True)
    text_direction = models.CharField(max_length=64, default="horizontal-lr")
    blank_char = models.CharField(max_length=1, default=" ", blank=True)

    class Meta:
        ordering = ["name"]


class Typology(models.Model):
    """The type of a region, line or page."""

    name = models.CharField(max_length=128)
    public = models.BooleanField(default=False)
    default = models.BooleanField(default=False)

    class Meta:
        abstract = True


class BlockType(Typology):
    """The type of a region."""


class LineType(Typology):
    """The type of a line."""


class DocumentPartType(Typology):
    """The type of a page."""


class ProjectTag(models.Model):
    """A user's mark on projects."""

    name = models.CharField(max_length=100)
    color = models.CharField(max_length=7, default="#007bff")
    user = models.ForeignKey(User, on_delete=models.CASCADE)


class DocumentTag(models.Model):
    """A project's mark on its documents."""

    name = models.CharField(max_length=100)
    color = models.CharField(max_length=7, default="#007bff")
    project = models.ForeignKey("core.Project", on_delete=models.CASCADE, related_name="document_tags")


class ProjectManager(models.Manager):
    """Finds the projects of a user, as eScriptorium does."""

    def for_user_write(self, user: Any) -> models.QuerySet:
        """Those to which the user may add documents."""
        shared = models.Q(shared_with_users=user) | models.Q(shared_with_groups__user=user)
        return self.filter(models.Q(owner=user) | shared).distinct()

    def for_user_read(self, user: Any) -> models.QuerySet:
        """Those, and where the user has a document of."""
        shared = models.Q(shared_with_users=user) | models.Q(shared_with_groups__user=user)
        one = models.Q(documents__shared_with_users=user) | models.Q(documents__shared_with_groups__user=user)
        return self.filter(models.Q(owner=user) | shared | one).distinct()


class Project(models.Model):
    """A set of documents."""

    name = models.CharField(max_length=512)
    slug = models.SlugField(unique=True)
    guidelines = models.URLField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    owner = models.ForeignKey(User, null=True, on_delete=models.SET_NULL)
    shared_with_users = models.ManyToManyField(User, blank=True, related_name="shared_projects")
    shared_with_groups = models.ManyToManyField("auth.Group", blank=True, related_name="shared_projects")
    tags = models.ManyToManyField(ProjectTag, blank=True, related_name="tags_project")

    objects = ProjectManager()

    class Meta:
        ordering = ["-updated_at"]

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Make the slug when there is none."""
        if not self.slug:
            self.slug = slugify(self.name, allow_unicode=True)[:50] or "project"
            if Project.objects.filter(slug=self.slug).exists():
                self.slug = self.slug[:40] + hex(int(time.time() * 100))[-9:]
        super().save(*args, **kwargs)


class DocumentManager(models.Manager):
    """Finds the documents of a user, as eScriptorium does."""

    def for_user(self, user: Any) -> models.QuerySet:
        """One's own, those in one's own project, and those that one was given, unless they are archived."""
        mine = models.Q(owner=user) | models.Q(project__owner=user)
        project = models.Q(project__shared_with_users=user) | models.Q(project__shared_with_groups__user=user)
        given = models.Q(shared_with_users=user) | models.Q(shared_with_groups__user=user)
        return self.filter(mine | project | given).exclude(workflow_state=Document.WORKFLOW_STATE_ARCHIVED).distinct()


class Document(models.Model):
    """A set of pages."""

    WORKFLOW_STATE_DRAFT = 0
    WORKFLOW_STATE_PUBLISHED = 2
    WORKFLOW_STATE_ARCHIVED = 3

    name = models.CharField(max_length=512)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="documents")
    owner = models.ForeignKey(User, null=True, on_delete=models.SET_NULL)
    main_script = models.ForeignKey(Script, null=True, blank=True, on_delete=models.SET_NULL)
    read_direction = models.CharField(max_length=3, default="ltr", choices=[("ltr", "ltr"), ("rtl", "rtl")])
    line_offset = models.PositiveSmallIntegerField(default=0)
    show_confidence_viz = models.BooleanField(default=False)
    valid_block_types = models.ManyToManyField(BlockType, blank=True, related_name="valid_in")
    valid_line_types = models.ManyToManyField(LineType, blank=True, related_name="valid_in")
    valid_part_types = models.ManyToManyField(DocumentPartType, blank=True, related_name="valid_in")
    shared_with_users = models.ManyToManyField(User, blank=True, related_name="shared_documents")
    shared_with_groups = models.ManyToManyField("auth.Group", blank=True, related_name="shared_documents")
    workflow_state = models.PositiveSmallIntegerField(default=WORKFLOW_STATE_DRAFT)
    tags = models.ManyToManyField(DocumentTag, blank=True, related_name="tags_document")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = DocumentManager()

    class Meta:
        ordering = ["-updated_at"]

    def save(self, *args: Any, **kwargs: Any) -> None:
        """A new document gets the transcription ``manual``."""
        created = self.pk is None
        super().save(*args, **kwargs)
        if created:
            Transcription.objects.get_or_create(document=self, name="manual")


def document_images_path(instance: "DocumentPart", filename: str) -> str:
    """Return where a page's image lies."""
    return f"documents/{instance.document.pk}/{filename}"


class DocumentPart(models.Model):
    """A page."""

    WORKFLOW_STATE_CREATED = 0
    WORKFLOW_STATE_CONVERTING = 1
    WORKFLOW_STATE_CONVERTED = 2
    WORKFLOW_STATE_SEGMENTING = 5
    WORKFLOW_STATE_SEGMENTED = 6
    WORKFLOW_STATE_TRANSCRIBING = 7
    WORKFLOW_STATE_ALIGNING = 8
    WORKFLOW_STATE_ALIGNED = 9

    name = models.CharField(max_length=512, blank=True)
    image = models.ImageField(upload_to=document_images_path)
    original_filename = models.CharField(max_length=1024, blank=True)
    image_file_size = models.BigIntegerField()
    source = models.CharField(max_length=1024, blank=True)
    typology = models.ForeignKey(DocumentPartType, null=True, blank=True, on_delete=models.SET_NULL)
    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="parts")
    order = models.PositiveIntegerField(default=0)
    comments = models.TextField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    max_avg_confidence = models.FloatField(null=True, blank=True)
    workflow_state = models.PositiveSmallIntegerField(default=WORKFLOW_STATE_CREATED)
    transcription_progress = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["order"]

    def __str__(self) -> str:
        return self.name or f"Element {self.order + 1}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """A new page comes last."""
        if self.pk is None:
            self.order = self.document.parts.count()
        super().save(*args, **kwargs)

    @property
    def filename(self) -> str:
        """The name that the image was uploaded with."""
        return self.original_filename or os.path.basename(self.image.name)

    @property
    def title(self) -> str:
        """What a list shows."""
        return str(self)

    @property
    def recoverable(self) -> bool:
        """The stand-in recovers nothing."""
        return False

    @property
    def workflow(self) -> dict[str, str]:
        """How far the page is, as the API tells it."""
        state = self.workflow_state
        result = {}
        for name, going, done in (
            ("convert", self.WORKFLOW_STATE_CONVERTING, self.WORKFLOW_STATE_CONVERTED),
            ("segment", self.WORKFLOW_STATE_SEGMENTING, self.WORKFLOW_STATE_SEGMENTED),
            ("transcribe", self.WORKFLOW_STATE_TRANSCRIBING, self.WORKFLOW_STATE_TRANSCRIBING),
        ):
            if state >= done:
                result[name] = "done"
            elif state == going:
                result[name] = "ongoing"
        return result

    def thumbnail_name(self, alias: str) -> str:
        """Return the name of a thumbnail, beside the image."""
        return f"{self.image.name}.{alias}.jpg"


class Block(models.Model):
    """A region of a page."""

    box = models.JSONField()
    typology = models.ForeignKey(BlockType, null=True, blank=True, on_delete=models.SET_NULL)
    document_part = models.ForeignKey(DocumentPart, on_delete=models.CASCADE, related_name="blocks")
    external_id = models.CharField(max_length=128, blank=True, null=True)
    order = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["order"]


class Line(models.Model):
    """A line of a page."""

    mask = models.JSONField(null=True, blank=True)
    baseline = models.JSONField(null=True, blank=True)
    document_part = models.ForeignKey(DocumentPart, on_delete=models.CASCADE, related_name="lines")
    block = models.ForeignKey(Block, null=True, blank=True, on_delete=models.SET_NULL, related_name="lines")
    typology = models.ForeignKey(LineType, null=True, blank=True, on_delete=models.SET_NULL)
    external_id = models.CharField(max_length=128, blank=True, null=True)
    order = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["order"]


class Transcription(models.Model):
    """One reading of a document."""

    name = models.CharField(max_length=512)
    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="transcriptions")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    archived = models.BooleanField(default=False)
    avg_confidence = models.FloatField(null=True, blank=True)
    comments = models.TextField(null=True, blank=True)

    class Meta:
        ordering = ["-updated_at"]
        unique_together = ["name", "document"]


class LineTranscription(models.Model):
    """The text of one line in one transcription."""

    transcription = models.ForeignKey(Transcription, on_delete=models.CASCADE)
    content = models.CharField(blank=True, default="", max_length=2048)
    graphs = models.JSONField(null=True, blank=True)
    avg_confidence = models.FloatField(null=True, blank=True)
    line = models.ForeignKey(Line, null=True, on_delete=models.CASCADE, related_name="transcriptions")
    versions = models.JSONField(default=list)
    version_source = models.CharField(max_length=128, default="eScriptorium")
    version_author = models.CharField(max_length=128, blank=True)
    version_updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        unique_together = ["line", "transcription"]


def models_path(instance: "OcrModel", filename: str) -> str:
    """Return where a model's file lies: a folder of its own, because the epochs' file names are always the same."""
    stem, extension = os.path.splitext(filename)
    return f"models/{str(uuid.uuid4())[:8]}/{slugify(stem)}{extension}"


class OcrModel(models.Model):
    """A segmentation or recognition model."""

    MODEL_JOB_SEGMENT = 1
    MODEL_JOB_RECOGNIZE = 2
    MODEL_JOB_CHOICES = ((MODEL_JOB_SEGMENT, "Segment"), (MODEL_JOB_RECOGNIZE, "Recognize"))

    name = models.CharField(max_length=256)
    file = models.FileField(upload_to=models_path, null=True)
    file_size = models.BigIntegerField()
    job = models.PositiveSmallIntegerField(choices=MODEL_JOB_CHOICES)
    owner = models.ForeignKey(User, null=True, on_delete=models.SET_NULL)
    training = models.BooleanField(default=False)
    training_epoch = models.PositiveSmallIntegerField(default=0)
    training_accuracy = models.FloatField(default=0.0)
    documents = models.ManyToManyField(Document, through="OcrModelDocument", related_name="ocr_models")
    script = models.ForeignKey(Script, blank=True, null=True, on_delete=models.SET_NULL)
    public = models.BooleanField(default=False)
    parent = models.ForeignKey("self", blank=True, null=True, on_delete=models.SET_NULL)
    versions = models.JSONField(default=list)
    version_updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-version_updated_at"]

    @property
    def accuracy_percent(self) -> float:
        """Accuracy in percent."""
        return self.training_accuracy * 100

    def add_version(self, name: str) -> None:
        """Remember one epoch's file (a name below the media folder), the newest first."""
        now = timezone.now().isoformat()
        self.versions.insert(
            0,
            {
                "revision": uuid.uuid4().hex,
                "source": "stand-in",
                "author": "",
                "created_at": now,
                "updated_at": now,
                "data": {
                    "file": name,
                    "training_epoch": self.training_epoch,
                    "training_accuracy": self.training_accuracy,
                },
            },
        )

    def delete_revision(self, revision: str) -> None:
        """Delete one epoch's file and forget the epoch."""
        for version in self.versions:
            if version["revision"] == revision:
                path = os.path.join(settings.MEDIA_ROOT, version["data"]["file"])
                if os.path.exists(path):
                    os.remove(path)
        self.versions = [version for version in self.versions if version["revision"] != revision]

    def flush_history(self) -> None:
        """Delete the epochs' files and forget them; the model's own file stays."""
        for version in self.versions[::-1]:
            self.delete_revision(version["revision"])


class OcrModelDocument(models.Model):
    """Which model was trained on, or used for, which document."""

    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="ocr_model_documents")
    ocr_model = models.ForeignKey(OcrModel, on_delete=models.CASCADE, related_name="ocr_model_documents")
    created_at = models.DateTimeField(auto_now_add=True)
    trained_on = models.DateTimeField(null=True, blank=True)
    executed_on = models.DateTimeField(null=True, blank=True)

    class Meta:
        unique_together = ["document", "ocr_model"]


class OcrModelRight(models.Model):
    """Whom a model is shared with: a user or a team."""

    ocr_model = models.ForeignKey(OcrModel, on_delete=models.CASCADE, related_name="ocr_model_rights")
    user = models.ForeignKey(User, on_delete=models.CASCADE, null=True, blank=True, related_name="ocr_model_rights")
    group = models.ForeignKey(
        "auth.Group", on_delete=models.CASCADE, null=True, blank=True, related_name="ocr_model_rights"
    )


class Metadata(models.Model):
    """A key of what is said of documents and pages, the same for all of them."""

    name = models.CharField(max_length=128, unique=True)
    cidoc_id = models.CharField(max_length=8, null=True, blank=True)
    public = models.BooleanField(default=False)


class DocumentMetadata(models.Model):
    """What is said of a document."""

    document = models.ForeignKey(Document, on_delete=models.CASCADE)
    key = models.ForeignKey(Metadata, on_delete=models.CASCADE)
    value = models.CharField(max_length=512)


class DocumentPartMetadata(models.Model):
    """What is said of a page."""

    part = models.ForeignKey(DocumentPart, on_delete=models.CASCADE, related_name="metadata")
    key = models.ForeignKey(Metadata, on_delete=models.CASCADE)
    value = models.CharField(max_length=512)
