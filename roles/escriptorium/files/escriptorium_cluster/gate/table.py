"""The views that the gate knows, and what their keys name: eScriptorium 05d3a0d4, Django and what both bring along.

A view of the REST interface has a name for each thing that it does: ``api.views.LineViewSet.bulk_update``; another is
named by its class or function. What stands here was read in upstream's code; a right ``asked`` says that the view
looks for the key among what the user may see, and a view without keys shows nothing that is another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from escriptorium_cluster.gate.rules import ASKED, NOTHING, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What the REST framework names each thing that a whole set of views does.
_READ = ("list", "retrieve")
_WRITE = ("create", "update", "partial_update", "destroy")

_DOCUMENT = {"document_pk": "document"}
_PAGE = {**_DOCUMENT, "part_pk": "part"}


def _views(
    view: str,
    *names: str,
    url: Mapping[str, str] = NOTHING,
    query: Mapping[str, str] = NOTHING,
    body: Mapping[str, str] = NOTHING,
    check: str = "",
) -> Iterator[tuple[str, Rule]]:
    """Yield one rule for several things that a view does."""
    rule = Rule(url=url, query=query, body=body, check=check)
    yield from ((f"{view}.{name}" if name else view, rule) for name in names or ("",))


def _set(
    view: str,
    url: Mapping[str, str] = NOTHING,
    *,
    key: str = ASKED,
    body: Mapping[str, str] = NOTHING,
    check: str = "",
) -> Iterator[tuple[str, Rule]]:
    """Yield the rules of a whole set of views on objects that lie in what ``url`` names.

    :param key: the right of the object's own key.
    :param body: keys in the body of what writes; ``check``: a question of it.
    """
    one = {**url, "pk": key}
    yield from _views(view, "list", url=url)
    yield from _views(view, "retrieve", "destroy", url=one)
    yield from _views(view, "create", url=url, body=body, check=check)
    yield from _views(view, "update", "partial_update", url=one, body=body, check=check)


def _rest() -> Iterator[tuple[str, Rule]]:
    yield from _views("rest_framework.routers.APIRootView")
    yield from _views("api.views.RegenerableAuthToken")
    yield from _views("api.views.ScriptViewSet", "list", "retrieve", url={"pk": ASKED})
    yield from _set("api.views.TextualWitnessViewSet")
    yield from _set("api.views.ProjectTagViewSet")
    # Reports of jobs are each user's own; what writes them is refused in requests_bound.
    yield from _set("api.views.TaskReportViewSet")
    yield from _set("api.views.TaskGroupViewSet", _DOCUMENT)

    accounts = "api.views.UserViewSet"
    yield from _views(accounts, "list", "retrieve", "current", url={"pk": ASKED})
    yield from _views(accounts, *_WRITE, url={"pk": ASKED}, check="account")
    teams = "api.views.GroupViewSet"
    yield from _views(teams, "list", "retrieve", url={"pk": ASKED})
    # A team that is made here has no owner; the page of teams makes one with an owner.
    yield from _views(teams, "create", check="nobody")
    yield from _views(teams, "update", "partial_update", "destroy", url={"pk": "own_team"})

    # A name of a type is the same for all documents that use it: only one that is theirs alone is changed.
    for kind in ("block", "line", "annotation", "part"):
        types = {"part": "api.views.DocumentPartTypeViewSet"}.get(kind, f"api.views.{kind.title()}TypeViewSet")
        yield from _views(types, "list", "retrieve", "create", url={"pk": ASKED})
        yield from _views(types, "update", "partial_update", "destroy", url={"pk": f"own_{kind}_type"})


def _rest_documents() -> Iterator[tuple[str, Rule]]:
    projects = "api.views.ProjectViewSet"
    yield from _views(projects, "list", "retrieve", url={"pk": ASKED})
    yield from _views(projects, "create", body={"tags[]": "project_tag"})
    # Who has one document of a project finds the project, and may not rename it.
    yield from _views(
        projects, "update", "partial_update", url={"pk": "whole_project"}, body={"tags[]": "project_tag_or_set"}
    )
    yield from _views(projects, "destroy", "share", url={"pk": "own_project"})
    tags = "api.views.DocumentTagViewSet"
    yield from _views(tags, "list", "create", url={"project_pk": "project"})
    yield from _views(tags, "retrieve", url={"project_pk": "project", "pk": ASKED})
    yield from _views(tags, "update", "partial_update", "destroy", url={"project_pk": "whole_project", "pk": ASKED})

    documents, one = "api.views.DocumentViewSet", {"pk": "document"}
    yield from _views(documents, "list", "tasks")
    yield from _views(documents, "create", body={"tags[]": "document_tag"})
    # Answers of statistics are kept for an hour, by address alone: asked for here each time.
    yield from _views(
        documents, "retrieve", "stats", "imports", "cancel_import", "cancel_training", "export", "align",
        "bulk_move_parts", url=one,
    )  # fmt: skip
    yield from _views(documents, "update", "partial_update", url=one, body={"tags[]": "document_tag"}, check="project")
    yield from _views(documents, "destroy", url={"pk": "document_to_delete"})
    yield from _views(documents, "share", url={"pk": "own_document"})
    yield from _views(documents, "cancel_tasks", url={"pk": "document_or_staff"})
    yield from _views(documents, "segment", "transcribe", "forced_align", url=one, body={"model": "model"})
    yield from _views(documents, "train", "segtrain", url=one, body={"model": "model"}, check="overwrite")
    types = {f"valid_{kind}_types[]": f"{kind}_type" for kind in ("block", "line", "part")}
    yield from _views(documents, "modify_ontology", url=one, body=types)

    yield from _set("api.views.DocumentMetadataViewSet", _DOCUMENT, check="metadata")
    yield from _set("api.views.DocumentTranscriptionViewSet", _DOCUMENT)
    yield from _views("api.views.DocumentTranscriptionViewSet", "stats", url={**_DOCUMENT, "pk": "transcription"})
    yield from _set("api.views.AnnotationComponentViewSet", _DOCUMENT)
    yield from _set("api.views.AnnotationTaxonomyViewSet", _DOCUMENT, body={"components[]": "component"})
    yield from _views("api.views.ImportViewSet", "create", url=_DOCUMENT, body={"transcription": "transcription"})


def _rest_pages() -> Iterator[tuple[str, Rule]]:
    parts = "api.views.PartViewSet"
    yield from _views(parts, "list", "create", "byorder", url=_DOCUMENT)
    yield from _views(
        parts, "retrieve", "update", "partial_update", "destroy", "move", "cancel", "reset_masks",
        "recalculate_ordering", "rotate", "crop", url={**_DOCUMENT, "pk": "part"},
    )  # fmt: skip
    yield from _set("api.views.PartMetadataViewSet", _PAGE, check="metadata")

    yield from _set("api.views.BlockViewSet", _PAGE, body={"document_part": "part_of_document"})
    placed = {"document_part": "part_of_document", "region": "region"}
    lines = "api.views.LineViewSet"
    yield from _views(lines, "list", url=_PAGE)
    yield from _views(lines, "retrieve", "destroy", url={**_PAGE, "pk": ASKED})
    # With the number that it had, where a deletion is undone.
    yield from _views(lines, "create", url=_PAGE, body=placed)
    # Another number in the body would be written over that line.
    yield from _views(lines, "update", "partial_update", url={**_PAGE, "pk": ASKED}, body={"pk": "line", **placed})
    many = {f"lines[].{name}": right for name, right in placed.items()}
    text = {"transcription": "transcription"}
    nested = {f"lines[].transcriptions[].{name}": right for name, right in text.items()}
    yield from _views(lines, "bulk_create", url=_PAGE, body={**many, **nested})
    yield from _views(lines, "bulk_update", url=_PAGE, body={"lines[].pk": "line", **many})
    yield from _views(lines, "bulk_delete", "merge", url=_PAGE, body={"lines[]": "line"})
    yield from _views(lines, "move", url=_PAGE, body={"lines[].pk": "line"})

    texts = "api.views.LineTranscriptionViewSet"
    written = {"line": "line", "transcription": "transcription"}
    yield from _set(texts, _PAGE, body=written)
    many = {f"lines[].{name}": right for name, right in written.items()}
    yield from _views(texts, "bulk_create", url=_PAGE, body=many)
    yield from _views(texts, "bulk_update", url=_PAGE, body={"lines[].pk": "line_text", **many})
    yield from _views(texts, "bulk_delete", url=_PAGE, body={"lines[]": "line_text"})

    note = {"part": "part_of_document", "taxonomy": "taxonomy", "components[].component": "component"}
    yield from _set("api.views.ImageAnnotationViewSet", _PAGE, body=note)
    span = {"transcription": "transcription", "start_line": "line", "end_line": "line"}
    yield from _set("api.views.TextAnnotationViewSet", _PAGE, body={**note, **span})


def _rest_models() -> Iterator[tuple[str, Rule]]:
    models = "api.views.OcrModelViewSet"
    yield from _views(models, "list", "create")
    yield from _views(models, "retrieve", url={"pk": ASKED})
    yield from _views(models, "update", "partial_update", "destroy", "cancel_training", url={"pk": "own_model"})


def _pages() -> Iterator[tuple[str, Rule]]:
    """Yield the rules of the pages for people."""
    for name in (
        "Home", "CreateProject", "ProjectList", "UserModels", "ModelUpload", "DocumentsTasksList",
    ):  # fmt: skip
        yield from _views(f"core.views.{name}")
    # Contributors, credits and a page for developers.
    yield from _views("django.views.generic.base.TemplateView")
    sought = dict.fromkeys(("project", "document", "transcription", "part"), ASKED)
    yield from _views("core.views.Search", query=sought)
    yield from _views("core.views.FindAndReplace", query=sought)
    for name in ("ProjectDashboard", "DocumentsList", "CreateDocument"):
        yield from _views(f"core.views.{name}", url={"slug": ASKED})
    yield from _views("core.views.UpdateProject", url={"slug": ASKED})
    yield from _views("core.views.ShareProject", url={"pk": ASKED})
    yield from _views("core.views.DeleteProjectUserShare", body={"project": "project"})
    yield from _views("core.views.DeleteDocumentUserShare", body={"document": "document"})
    for name in (
        "DocumentDashboard", "UpdateDocument", "DocumentOntology", "DocumentImages", "PublishDocument", "ShareDocument",
        "MigrateDocument",
    ):  # fmt: skip
        yield from _views(f"core.views.{name}", url={"pk": "document"})
    yield from _views(
        "core.views.DocumentPartsProcessAjax", url={"pk": "document"}, body={"model": "model"}, check="overwrite"
    )
    yield from _views("core.views.EditPart", url={"pk": "document", "part_pk": "part"})
    yield from _views("core.views.DocumentModels", url={"document_pk": "document"})
    yield from _views("imports.views.DocumentOntologyExport", url={"pk": "document"})

    yield from _views("core.views.ModelDelete", url={"pk": "own_model"})
    yield from _views("core.views.ModelUnbind", url={"pk": ASKED, "docPk": "document"})
    yield from _views("core.views.ModelCancelTraining", url={"pk": "own_model"})
    yield from _views("core.views.ModelRights", url={"pk": "own_model"})
    yield from _views("core.views.ModelRightDelete", url={"modelPk": "own_model", "pk": "model_right"})

    yield from _views("reporting.views.ReportList")
    yield from _views("reporting.views.ReportDetail", url={"pk": ASKED})
    yield from _views("reporting.views.QuotasLeaderboard")
    # The words of all its documents.
    yield from _views("reporting.views.ProjectReport", url={"slug": "whole_project_by_slug"})
    yield from _views("reporting.views.DocumentReport", url={"pk": "document"})


def _account_pages() -> Iterator[tuple[str, Rule]]:
    for name in ("ProfileApiKey", "ProfileFiles", "ProfileInvitations", "ProfileGroupListCreate", "ContactUsView"):
        yield from _views(f"users.views.{name}")
    yield from _views("users.views.ProfileInfos", check="profile")
    yield from _views("users.views.GroupDetail", url={"pk": "own_team"}, body={"group": "own_team"})
    for name in ("RemoveFromGroup", "TransferGroupOwnership"):
        yield from _views(f"users.views.{name}", url={"pk": "own_team"})
    yield from _views("users.views.LeaveGroup", url={"pk": "team"})
    yield from _views("users.views.InviteView", body={"group": "own_team"})
    # The number in the address is a secret of its own.
    yield from _views("users.views.AcceptInvitation", url={"token": ASKED})
    yield from _views("users.views.AcceptGroupInvitation", url={"slug": ASKED})

    for name in (
        "LoginView", "LogoutView", "PasswordChangeView", "PasswordChangeDoneView", "PasswordResetView",
        "PasswordResetDoneView", "PasswordResetCompleteView",
    ):  # fmt: skip
        yield from _views(f"django.contrib.auth.views.{name}")
    yield from _views("django.contrib.auth.views.PasswordResetConfirmView", url={"uidb64": ASKED, "token": ASKED})
    yield from _views("captcha.views.captcha_image", url={"key": ASKED, "scale": ASKED})
    yield from _views("captcha.views.captcha_audio", url={"key": ASKED})
    yield from _views("captcha.views.captcha_refresh")
    yield from _views("django.views.i18n.set_language")
    yield from _views("django_prometheus.exports.ExportToDjangoView")
    yield from _views("escriptorium_cluster.health.health")
    yield from _views("escriptorium_cluster.logins.LogOut")
    # nginx asks it for who wants a file, page or program.
    yield "escriptorium_cluster.media.media", Rule(programs=True)


#: By the name of a view: what its keys name.
VIEWS: Mapping[str, Rule] = {
    name: rule
    for part in (_rest, _rest_documents, _rest_pages, _rest_models, _pages, _account_pages)
    for name, rule in part()
}
