"""For each kind of key, the objects that a user may name: upstream's own rules, ``for_user`` and owners.

Rules of eScriptorium 05d3a0d4: a document is for its owner, for the owner of its project, and for those with whom one
of the two is shared, unless it is archived (core/models.py, DocumentManager). A model is for its owner, for those with
a right to it, and for all where it is public (core/forms.py, TrainMixin). A superuser has no more of it than others:
their way to everything is the administration site.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib.auth.models import Group
from django.db.models import Q

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


@dataclass
class Scope:
    """Who asks, and what the keys before have named: by kind, the number of a document, page, project or model."""

    user: Any
    named: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Right:
    """What a key may name.

    :param allowed: the objects that the user may name, given what was named before.
    :param names: the kind as which later keys find this one.
    :param column: what the key is compared with.
    :param status: of the answer where the object is not one of them: 404 as where there is none, or 403.
    :param mine: some of the allowed ones that are found much faster; asked first.
    """

    allowed: Callable[[Scope], Any]
    names: str = ""
    column: str = "pk"
    status: int = 403
    mine: Callable[[Scope], Any] | None = None

    def admits(self, scope: Scope, keys: Collection[int | str]) -> bool:
        """Whether the user may name all of these objects; one question to the database, or two where it is shared."""
        return any(self._has_all(ask(scope), keys) for ask in (self.mine, self.allowed) if ask is not None)

    def admits_inside(self, scope: Scope, key: int, inner: Right, inner_key: int, column: str) -> bool:
        """Whether the user may name an object, and another one that lies in it: one question for both, or two.

        :param column: of the other one, which names the object.
        """
        objects = inner.allowed(Scope(scope.user, scope.named | {self.names: key})).filter(pk=inner_key)
        return any(
            objects.filter(**{f"{column}__in": ask(scope).filter(pk=key).order_by().values("pk")}).exists()
            for ask in (self.mine, self.allowed)
            if ask is not None
        )

    def _has_all(self, objects: Any, keys: Collection[int | str]) -> bool:
        found = objects.filter(**{f"{self.column}__in": keys})
        return bool(found.order_by().values(self.column).distinct().count() == len(keys))


def _model(name: str, app: str = "core") -> Any:
    return apps.get_model(app, name).objects


def _documents(scope: Scope) -> Any:
    return _model("Document").for_user(scope.user)


def _own_documents(scope: Scope) -> Any:
    """Return documents of which no share has to be looked up: a fifth of the time of ``_documents``."""
    model = apps.get_model("core", "Document")
    return model.objects.filter(owner=scope.user).exclude(workflow_state=model.WORKFLOW_STATE_ARCHIVED)


def _documents_to_delete(scope: Scope) -> Any:
    return _documents(scope).filter(Q(owner=scope.user) | Q(project__owner=scope.user))


def _documents_or_staff(scope: Scope) -> Any:
    return _model("Document").all() if scope.user.is_staff else _documents(scope)


def _projects(scope: Scope) -> Any:
    return _model("Project").for_user_read(scope.user)


def _whole_projects(scope: Scope) -> Any:
    return _model("Project").for_user_write(scope.user)


def _models(scope: Scope) -> Any:
    mine = Q(public=True) | Q(owner=scope.user)
    given = Q(ocr_model_rights__user=scope.user) | Q(ocr_model_rights__group__user=scope.user)
    return _model("OcrModel").filter(mine | given)


def _project_tags_or_set(scope: Scope) -> Any:
    """Return one's own, and those that the project has: a form sends them all back."""
    return _model("ProjectTag").filter(Q(user=scope.user) | Q(tags_project=scope.named["project"]))


def _types(name: str) -> Callable[[Scope], Any]:
    """Types of all, and those of documents that one may see."""
    return lambda scope: _model(name).filter(Q(public=True) | Q(valid_in__in=_documents(scope)))


def _own_types(name: str) -> Callable[[Scope], Any]:
    """Types that documents of the user use, and no others: their names are everybody's who uses them."""

    def allowed(scope: Scope) -> Any:
        others = _model("Document").exclude(pk__in=_documents(scope).values("pk"))
        found = _model(name).filter(public=False, valid_in__in=_documents(scope))
        return found.exclude(valid_in__in=others)

    return allowed


RIGHTS: dict[str, Right] = {
    "document": Right(_documents, names="document", mine=_own_documents),
    "own_document": Right(lambda scope: _documents(scope).filter(owner=scope.user), names="document"),
    "document_to_delete": Right(_documents_to_delete, names="document"),
    "document_or_staff": Right(_documents_or_staff, names="document"),
    "part": Right(
        lambda scope: _model("DocumentPart").filter(document=scope.named["document"]), names="part", status=404
    ),
    "part_of_document": Right(lambda scope: _model("DocumentPart").filter(document=scope.named["document"])),
    "line": Right(lambda scope: _model("Line").filter(document_part=scope.named["part"])),
    "line_text": Right(
        lambda scope: _model("LineTranscription").filter(
            line__document_part=scope.named["part"], transcription__document=scope.named["document"]
        )
    ),
    "region": Right(lambda scope: _model("Block").filter(document_part__document=scope.named["document"])),
    "transcription": Right(lambda scope: _model("Transcription").filter(document=scope.named["document"])),
    "taxonomy": Right(lambda scope: _model("AnnotationTaxonomy").filter(document=scope.named["document"])),
    "component": Right(lambda scope: _model("AnnotationComponent").filter(document=scope.named["document"])),
    "document_tag": Right(lambda scope: _model("DocumentTag").filter(project__in=_projects(scope).values("pk"))),
    "project": Right(_projects, names="project"),
    "whole_project": Right(_whole_projects, names="project"),
    "whole_project_by_slug": Right(_whole_projects, column="slug"),
    "own_project": Right(lambda scope: _model("Project").filter(owner=scope.user), names="project"),
    "project_tag": Right(lambda scope: _model("ProjectTag").filter(user=scope.user)),
    "project_tag_or_set": Right(_project_tags_or_set),
    "model": Right(_models, names="model"),
    "own_model": Right(lambda scope: _model("OcrModel").filter(owner=scope.user), names="model"),
    "model_right": Right(lambda scope: _model("OcrModelRight").filter(ocr_model=scope.named["model"]), status=404),
    "team": Right(lambda scope: Group.objects.filter(user=scope.user), names="team"),
    "own_team": Right(lambda scope: Group.objects.filter(groupowner__owner=scope.user), names="team"),
    **{
        f"{kind}_type": Right(_types(name))
        for kind, name in (("block", "BlockType"), ("line", "LineType"), ("part", "DocumentPartType"))
    },
    **{
        f"own_{kind}_type": Right(_own_types(name))
        for kind, name in (("block", "BlockType"), ("line", "LineType"), ("part", "DocumentPartType"))
    },
    # Nothing says which documents use a type of annotations as theirs.
    "own_annotation_type": Right(lambda _: _model("AnnotationType").none()),
}

#: Rights that many requests ask for one after the other, and that are one question: the column of the second's objects
#: which names the first's.
INSIDE = {("document", "part"): "document"}
