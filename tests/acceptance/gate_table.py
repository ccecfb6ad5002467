"""Who may do what: one table, asked over HTTP of whatever site runs, and the world of accounts and texts it is about.

``SETUP`` and ``STATE`` are code for ``manage.py shell``, on eScriptorium 05d3a0d4 and on the stand-in alike; each
prints one line of JSON. ``CASES`` says for each request who may; all others are to be refused, and nothing may change
by it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import requests
from client import REQUEST_SECONDS, PlatformError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Those who ask. ``reader`` has the document shared by name, ``member`` by a team, ``partner`` the whole project;
#: ``staff`` is of the staff and no superuser, ``nobody`` is not logged in.
PEOPLE = ("stranger", "nobody", "staff", "reader", "member", "partner", "owner")
#: Those with whom the document is shared, and whose it is.
HOLDERS = ("reader", "member", "partner", "owner")
PASSWORD = "a-gate-of-seven-bars"
#: What nobody else may read, in every text of the owner's.
SECRET = "hortus conclusus"

#: Takes the world away again; prints nothing of interest.
CLEAN = """
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
get = apps.get_model
mine = {"owner__username__startswith": "gate-"}
for part in get("core", "DocumentPart").objects.filter(document__owner__username__startswith="gate-"):
    part.image.delete(save=False)
get("core", "Document").objects.filter(**mine).delete()
get("core", "Project").objects.filter(**mine).delete()
get("core", "OcrModel").objects.filter(**mine).delete()
get("core", "LineType").objects.filter(name__startswith="gate").delete()
get("core", "Metadata").objects.filter(name__startswith="gate").delete()
Group.objects.filter(name__startswith="gate-").delete()
get_user_model().objects.filter(username__startswith="gate-").delete()
"""

SETUP = f"""{CLEAN}
import io, json
from django.core.files.base import ContentFile
from PIL import Image
from rest_framework.authtoken.models import Token
User = get_user_model()
world = {{}}
people = {{}}
for name in {[*PEOPLE, "superuser", "other"]!r}:
    if name != "nobody":
        user = people[name] = User.objects.create_user("gate-" + name, "gate-" + name + "@htr.test", {PASSWORD!r})
        world[name] = user.pk
        world["token_" + name] = Token.objects.create(user=user).key
User.objects.filter(username="gate-staff").update(is_staff=True)
User.objects.filter(username="gate-superuser").update(is_staff=True, is_superuser=True)
team = Group.objects.create(name="gate-team")
get("users", "GroupOwner").objects.create(group=team, owner=people["owner"])
team.user_set.add(people["owner"], people["member"])
world["team"] = team.pk
sink = io.BytesIO()
Image.new("RGB", (60, 40), "white").save(sink, "PNG")

def make(owner, text):
    made = {{}}
    project = get("core", "Project").objects.create(name="gate " + owner.username, owner=owner)
    document = get("core", "Document").objects.create(name="gate", project=project, owner=owner)
    layer = get("core", "Transcription").objects.create(document=document, name="gate layer")
    parts = []
    for order in range(6):
        part = get("core", "DocumentPart")(document=document, image_file_size=1, order=order)
        part.original_filename = f"gate{{order}}.png"
        part.image.save(f"gate{{order}}.png", ContentFile(sink.getvalue()), save=False)
        part.save()
        parts.append(part)
    box = [[0, 0], [9, 0], [9, 9], [0, 9]]
    blocks = [get("core", "Block").objects.create(document_part=parts[0], box=box) for _ in range(4)]
    lines, texts = [], []
    for order in range(60):
        baseline = [[1, order], [50, order]]
        line = get("core", "Line").objects.create(document_part=parts[0], baseline=baseline, mask=box, order=order)
        lines.append(line)
        texts.append(get("core", "LineTranscription").objects.create(line=line, transcription=layer, content=text))
    made.update(project=project.pk, document=document.pk, layer=layer.pk, part=parts[0].pk, line=lines[0].pk)
    made.update(text=texts[0].pk, region=blocks[0].pk, slug=project.slug)
    made["new_line"] = [row.pk for row in lines[2:]]
    made["text_of_line"] = {{str(text.line_id): text.pk for text in texts}}
    made["new_part"], made["new_region"] = [row.pk for row in parts[1:]], [row.pk for row in blocks[1:]]
    return made, document

mine, document = make(people["owner"], {SECRET!r})
theirs, _ = make(people["stranger"], "mine")
world.update(mine)
world["reader_slug"] = get("core", "Project").objects.create(name="gate reader", owner=people["reader"]).slug
world.update({{"stranger_" + name: value for name, value in theirs.items()}})
document.shared_with_users.add(people["reader"])
document.shared_with_groups.add(team)
document.project.shared_with_users.add(people["partner"])
# Another of the owner's, which is not shared: those to whom one document was given have nothing of it.
hidden = get("core", "Document").objects.create(name="hidden", project=document.project, owner=people["owner"])
world["hidden"] = hidden.pk
world["new_document"] = [
    get("core", "Document").objects.create(name="spare", project=document.project, owner=people["owner"]).pk
    for _ in range(3)
]
world["new_layer"] = [
    get("core", "Transcription").objects.create(document=document, name=f"spare {{number}}").pk for number in range(8)
]
tag = get("core", "DocumentTag").objects.create(name="gate-tag", project=document.project)
world["tag"] = tag.pk
world["new_tag"] = [
    get("core", "DocumentTag").objects.create(name=f"gate-tag-{{number}}", project=document.project).pk
    for number in range(4)
]
key = get("core", "Metadata").objects.create(name="gate-key")
world["said"] = get("core", "DocumentMetadata").objects.create(document=document, key=key, value={SECRET!r}).pk
strange = get("core", "DocumentMetadata").objects.create(document_id=theirs["document"], key=key, value="mine")
world["stranger_said"] = strange.pk
Model = get("core", "OcrModel")
world["model"] = Model.objects.create(name="gate model", owner=people["owner"], job=2, file_size=0).pk
public = Model.objects.create(name="gate public", owner=people["owner"], job=2, file_size=0, public=True)
world["public_model"] = public.pk
world["segmenter"] = Model.objects.create(name="gate segmenter", owner=people["owner"], job=1, file_size=0).pk
right = get("core", "OcrModelRight").objects.create(ocr_model_id=world["model"], user=people["reader"])
world["right"] = right.pk
world["new_model"] = [
    Model.objects.create(name="spare", owner=people["owner"], job=2, file_size=0).pk for _ in range(3)
]
own = Model.objects.create(name="gate of stranger", owner=people["stranger"], job=2, file_size=0)
world["stranger_model"] = own.pk
kind = get("core", "LineType").objects.create(name="gate type")
document.valid_line_types.add(kind)
world["line_type"] = kind.pk
public = get("core", "LineType").objects.create(name="gate public type", public=True)
world["public_line_type"] = public.pk
get("core", "Document").objects.get(pk=theirs["document"]).valid_line_types.add(public)
try:
    taxonomy = get("core", "AnnotationTaxonomy").objects.create(document=document, name="gate", marker_type=1)
    world["taxonomy"] = taxonomy.pk
except LookupError:
    pass
print(json.dumps(world))
"""

STATE = """
import json
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from PIL import Image
get = apps.get_model
owner = get_user_model().objects.get(username="gate-owner")
documents = get("core", "Document").objects.filter(owner=owner).order_by("pk")
parts = get("core", "DocumentPart").objects.filter(document__in=documents).order_by("pk")
lines = get("core", "Line").objects.filter(document_part__in=parts).order_by("pk")
def rows(found, *names):
    return [list(row) for row in found.order_by("pk").values_list("pk", *names)]
def size(part):
    with Image.open(part.image.path) as image:
        return list(image.size)
models = get("core", "OcrModel").objects.filter(owner=owner)
print(json.dumps({
    "documents": rows(documents, "name", "project_id", "shared_with_users", "workflow_state"),
    "projects": rows(get("core", "Project").objects.filter(owner=owner), "name", "shared_with_users"),
    "parts": [[part.pk, part.order, part.document_id, size(part)] for part in parts],
    "lines": rows(lines, "order", "document_part_id", "block_id"),
    "regions": rows(get("core", "Block").objects.filter(document_part__in=parts), "document_part_id"),
    "texts": rows(get("core", "LineTranscription").objects.filter(line__in=lines), "content", "transcription_id"),
    "layers": rows(get("core", "Transcription").objects.filter(document__in=documents), "name", "archived"),
    "tags": rows(get("core", "DocumentTag").objects.filter(project__owner=owner), "name"),
    "said": rows(get("core", "DocumentMetadata").objects.filter(document__in=documents), "value", "key__name"),
    "said_of_parts": rows(get("core", "DocumentPartMetadata").objects.filter(part__in=parts), "value"),
    "models": rows(models, "name", "owner_id", "training", "documents"),
    "rights": rows(get("core", "OcrModelRight").objects.filter(ocr_model__in=models), "user_id"),
    "types": rows(get("core", "LineType").objects.filter(name__startswith="gate"), "name"),
    "jobs": get("reporting", "TaskReport").objects.filter(document__in=documents).count(),
    "groups": rows(Group.objects.filter(name__startswith="gate"), "name", "groupowner__owner_id"),
    "people": rows(
        get_user_model().objects.filter(username__startswith="gate-"),
        "username", "email", "is_active", "is_staff", "is_superuser",
    ),
    "all": get_user_model().objects.count(),
}))
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and who may send it.

    ``$name`` in path and body is what ``SETUP`` calls so; ``$new_...`` is another one each time, of which something may
    be left afterwards. ``page``: of the pages for people, with a session; else of the REST interface, with a key.
    """

    name: str
    method: str
    path: str
    may: tuple[str, ...]
    body: Any = None
    page: bool = False
    asked: tuple[str, ...] = PEOPLE
    #: Whether a site has to have the view; the stand-in does not have all.
    stand_in: bool = True
    #: Statuses that say that the view was reached, beside those of success.
    reached: tuple[int, ...] = ()


def rest(name: str, method: str, path: str, may: tuple[str, ...], body: Any = None, **more: Any) -> Case:
    """Return a case of the REST interface."""
    return Case(name, method, f"api/{path}", may, body, **more)


def page(name: str, method: str, path: str, may: tuple[str, ...], body: Any = None, **more: Any) -> Case:
    """Return a case of the pages for people."""
    return Case(name, method, path, may, body, page=True, **more)


DOCUMENT = "documents/$document"
PART = f"{DOCUMENT}/parts/$part"
OWN = "documents/$stranger_document/parts/$stranger_part"
OWNER = ("owner",)
EVERYBODY = tuple(who for who in PEOPLE if who != "nobody")
BOX = [[1, 1], [5, 1], [5, 5], [1, 5]]

CASES: tuple[Case, ...] = (
    # --- documents -----------------------------------------------------------------------------------------------
    rest("read a document", "GET", f"{DOCUMENT}/", HOLDERS),
    rest("rename a document", "PATCH", f"{DOCUMENT}/", HOLDERS, {"name": "gate"}),
    rest("share a document", "POST", f"{DOCUMENT}/share/", OWNER, {"user": "gate-reader"}),
    rest("take a document to one's own project", "PATCH", f"{DOCUMENT}/", (), {"project": "$reader_slug"},
         asked=("reader",)),
    rest("send a document's project back", "PATCH", f"{DOCUMENT}/", HOLDERS, {"project": "$slug"},
         asked=("partner", "owner")),
    rest("delete a document", "DELETE", "documents/$new_document/", OWNER,
         asked=("stranger", "nobody", "partner", "owner")),
    rest("read a document that one was not given", "GET", "documents/$hidden/", ("partner", "owner")),
    rest("move pages", "POST", f"{DOCUMENT}/bulk_move_parts/", HOLDERS, {"parts": ["$part"], "index": 0}),
    rest("list pages", "GET", f"{DOCUMENT}/parts/", HOLDERS),
    rest("list layers", "GET", f"{DOCUMENT}/transcriptions/", HOLDERS),
    rest("make a layer", "POST", f"{DOCUMENT}/transcriptions/", HOLDERS, {"name": "layer of $who"}),
    rest("delete a layer", "DELETE", f"{DOCUMENT}/transcriptions/$new_layer/", HOLDERS),
    rest("say something of a document", "POST", f"{DOCUMENT}/metadata/", HOLDERS, {"key": {"name": "k"}, "value": "v"}),
    rest("read what is said", "GET", f"{DOCUMENT}/metadata/$said/", HOLDERS),
    rest("change what is said", "PATCH", f"{DOCUMENT}/metadata/$said/", HOLDERS, {"value": SECRET}),
    rest(
        "rename a key that others use", "PATCH", f"{DOCUMENT}/metadata/$said/", (),
        {"key": {"name": "gate-other"}, "value": SECRET},
    ),
    rest("import into a document", "POST", f"{DOCUMENT}/import/", HOLDERS, {"mode": "xml"}, reached=(400,)),
    rest("import, as the page does", "POST", f"{DOCUMENT}/imports/", HOLDERS, {"mode": "xml"}, reached=(400,)),
    rest("cancel jobs", "POST", f"{DOCUMENT}/cancel_tasks/", ("staff", "owner"), {}),
    rest("list groups of jobs", "GET", f"{DOCUMENT}/task_groups/", HOLDERS, stand_in=False),
    rest("read statistics", "GET", f"{DOCUMENT}/stats/", HOLDERS, stand_in=False),
    rest("read statistics of a layer", "GET", f"{DOCUMENT}/transcriptions/$layer/stats/", HOLDERS, stand_in=False),
    rest("make an annotation's component", "POST", f"{DOCUMENT}/taxonomies/components/", HOLDERS,
         {"name": "$who", "allowed_values": ["a"]}, stand_in=False),
    rest("note on an image", "POST", f"{PART}/annotations/image/", HOLDERS,
         {"part": "$part", "taxonomy": "$taxonomy", "components": [], "comments": [], "coordinates": [[1, 1]]},
         stand_in=False),
    rest("note on another's image", "POST", f"{OWN}/annotations/image/", (),
         {"part": "$part", "taxonomy": "$taxonomy", "components": [], "comments": [], "coordinates": [[1, 1]]},
         stand_in=False),
    rest("use a type of another's document", "PATCH", "documents/$stranger_document/modify_ontology/", (),
         {"valid_line_types": ["$line_type"]}, asked=("stranger",)),
    # --- with whose model ----------------------------------------------------------------------------------------
    rest("recognise with a private model", "POST", "documents/$stranger_document/transcribe/", (),
         {"model": "$model", "transcription": "$stranger_layer"}, asked=("stranger",)),
    rest("segment with a private model", "POST", "documents/$stranger_document/segment/", (),
         {"model": "$segmenter"}, asked=("stranger",)),
    rest("write over a public model", "POST", "documents/$stranger_document/train/", (),
         {"model": "$public_model", "model_name": "n", "override": True, "transcription": "$stranger_layer",
          "parts": ["$stranger_part"]}, asked=("stranger",)),
    rest("align with a private model", "POST", "documents/$stranger_document/forced_align/", (),
         {"model": "$model", "transcription": "$stranger_layer"}, asked=("stranger",)),
    # --- projects ------------------------------------------------------------------------------------------------
    rest("read a project", "GET", "projects/$project/", HOLDERS),
    rest("rename a project", "PATCH", "projects/$project/", ("partner", "owner"), {"name": "gate gate-owner"}),
    rest("share a project", "POST", "projects/$project/share/", OWNER, {"user": "gate-partner"}),
    rest("delete a project", "DELETE", "projects/$project/", (), asked=("stranger", "nobody", "reader", "partner")),
    rest("list tags", "GET", "projects/$project/tags/", HOLDERS),
    rest("make a tag", "POST", "projects/$project/tags/", HOLDERS, {"name": "$who", "color": "#007bff"}),
    rest("delete a tag", "DELETE", "projects/$project/tags/$new_tag/", ("partner", "owner")),
    rest("put a foreign tag on a document", "PATCH", "documents/$stranger_document/", (), {"tags": ["$tag"]},
         asked=("stranger",)),
    # --- pages ---------------------------------------------------------------------------------------------------
    rest("read a page", "GET", f"{PART}/", HOLDERS),
    rest("title a page", "PATCH", f"{PART}/", HOLDERS, {"name": ""}),
    rest("crop a page", "POST", f"{DOCUMENT}/parts/$part/crop/", HOLDERS, {"x1": 0, "y1": 0, "x2": 60, "y2": 40}),
    rest("crop a page below one's own document", "POST", "documents/$stranger_document/parts/$part/crop/", (),
         {"x1": 0, "y1": 0, "x2": 5, "y2": 5}),
    rest("turn a page below one's own document", "POST", "documents/$stranger_document/parts/$part/rotate/", (),
         {"angle": 90}),
    rest("order lines below one's own document", "POST",
         "documents/$stranger_document/parts/$part/recalculate_ordering/", (), {}),
    rest("move a page", "POST", f"{DOCUMENT}/parts/$part/move/", HOLDERS, {"index": 0}),
    rest("cancel a page", "POST", f"{DOCUMENT}/parts/$part/cancel/", HOLDERS, {}),
    rest("reset masks", "POST", f"{DOCUMENT}/parts/$part/reset_masks/", HOLDERS, {}),
    rest("order lines", "POST", f"{DOCUMENT}/parts/$part/recalculate_ordering/", HOLDERS, {}),
    rest("delete a page", "DELETE", f"{DOCUMENT}/parts/$new_part/", HOLDERS),
    rest("say something of a page", "POST", f"{PART}/metadata/", HOLDERS, {"key": {"name": "k"}, "value": "v"}),
    rest("say something of a page below one's own document", "POST",
         "documents/$stranger_document/parts/$part/metadata/", (), {"key": {"name": "k"}, "value": "v"}),
    # --- regions and lines ---------------------------------------------------------------------------------------
    rest("list regions", "GET", f"{PART}/blocks/", HOLDERS),
    rest("make a region", "POST", f"{PART}/blocks/", HOLDERS, {"document_part": "$part", "box": BOX}),
    rest("make a region on another's page", "POST", f"{OWN}/blocks/", (), {"document_part": "$part", "box": BOX}),
    rest("list lines", "GET", f"{PART}/lines/", HOLDERS),
    rest("make a line", "POST", f"{PART}/lines/", HOLDERS,
         {"document_part": "$part", "baseline": [[1, 1], [9, 1]], "region": "$region"}),
    rest("make a line on another's page", "POST", f"{OWN}/lines/", (),
         {"document_part": "$part", "baseline": [[1, 1], [9, 1]]}),
    rest("write one's line over another's", "PATCH", f"{OWN}/lines/$stranger_line/", (), {"pk": "$line"},
         asked=("stranger",)),
    rest("change a line", "PATCH", f"{PART}/lines/$line/", HOLDERS, {"pk": "$line", "external_id": "x"}),
    rest("move one's line to another's region", "PATCH", f"{OWN}/lines/$stranger_line/", (), {"region": "$region"},
         asked=("stranger",)),
    rest("make lines", "POST", f"{PART}/lines/bulk_create/", HOLDERS,
         {"lines": [{"document_part": "$part", "baseline": [[1, 1], [9, 1]],
                     "transcriptions": [{"transcription": "$layer", "content": "x"}]}]}),
    rest("make lines with another's layer", "POST", f"{OWN}/lines/bulk_create/", (),
         {"lines": [{"document_part": "$stranger_part", "baseline": [[1, 1], [9, 1]],
                     "transcriptions": [{"transcription": "$layer", "content": "x"}]}]}),
    rest("change lines", "PUT", f"{PART}/lines/bulk_update/", HOLDERS,
         {"lines": [{"pk": "$line", "baseline": [[1, 1], [9, 1]]}]}),
    rest("delete lines", "POST", f"{PART}/lines/bulk_delete/", HOLDERS, {"lines": ["$new_line"]}),
    rest("delete others' lines", "POST", f"{OWN}/lines/bulk_delete/", (), {"lines": ["$line"]}),
    rest("delete others' lines as text", "POST", f"{OWN}/lines/bulk_delete/", (), {"lines": "$line"}),
    rest("merge lines", "POST", f"{PART}/lines/merge/", HOLDERS, {"lines": ["$new_line", "$new_line"]}),
    rest("merge others' lines", "POST", f"{OWN}/lines/merge/", (), {"lines": ["$line"]}),
    rest("move lines", "POST", f"{PART}/lines/move/", HOLDERS, {"lines": [{"pk": "$line", "order": 0}]}),
    rest("move others' lines", "POST", f"{OWN}/lines/move/", (), {"lines": [{"pk": "$line", "order": 5}]}),
    # --- texts ---------------------------------------------------------------------------------------------------
    rest("list texts", "GET", f"{PART}/transcriptions/", HOLDERS),
    rest("write a text", "PUT", f"{PART}/transcriptions/$text/", HOLDERS,
         {"line": "$line", "transcription": "$layer", "content": SECRET}),
    rest("move one's text to another's layer", "PATCH", f"{OWN}/transcriptions/$stranger_text/", (),
         {"transcription": "$layer"}),
    rest("make texts", "POST", f"{PART}/transcriptions/bulk_create/", HOLDERS,
         {"lines": [{"line": "$line", "transcription": "$new_layer", "content": "x"}]}),
    rest("make texts of others' lines", "POST", f"{OWN}/transcriptions/bulk_create/", (),
         {"lines": [{"line": "$line", "transcription": "$stranger_layer", "content": "x"}]}),
    rest("change texts", "PUT", f"{PART}/transcriptions/bulk_update/", HOLDERS,
         {"lines": [{"pk": "$text", "content": SECRET}]}),
    rest("read others' texts", "PUT", f"{OWN}/transcriptions/bulk_update/", (), {"lines": [{"pk": "$text"}]}),
    rest("read others' texts below no document", "PUT", "documents/999999/parts/999999/transcriptions/bulk_update/", (),
         {"lines": [{"pk": "$text"}]}),
    rest("change others' texts", "PUT", f"{OWN}/transcriptions/bulk_update/", (),
         {"lines": [{"pk": "$text", "content": "gone"}]}),
    rest("change others' texts, by a number as text", "PUT", f"{OWN}/transcriptions/bulk_update/", (),
         {"lines": [{"pk": " $text", "content": "gone"}]}),
    rest("empty texts", "POST", f"{PART}/transcriptions/bulk_delete/", HOLDERS, {"lines": ["$new_text"]}),
    rest("empty others' texts", "POST", f"{OWN}/transcriptions/bulk_delete/", (), {"lines": ["$text"]}),
    # --- models --------------------------------------------------------------------------------------------------
    rest("read a model", "GET", "models/$model/", ("reader", "owner")),
    rest("rename a model", "PATCH", "models/$model/", OWNER, {"name": "gate model"}),
    rest("cancel a model's training", "POST", "models/$model/cancel_training/", OWNER, {}, reached=(400,)),
    rest("delete a model", "DELETE", "models/$new_model/", OWNER),
    page("cancel a model's training, as the page does", "POST", "model/$model/cancel_training/", OWNER, {},
         reached=(400,)),
    page("end a right to a model", "POST", "model/$stranger_model/right/$right/delete/", (), {}, asked=("stranger",)),
    page("give a right to a model", "POST", "model/$model/rights/", (), {"user": "$stranger"},
         asked=("stranger", "reader")),
    # --- types ---------------------------------------------------------------------------------------------------
    rest("rename a type of others", "PATCH", "types/line/$line_type/", HOLDERS, {"name": "gate type"}),
    rest("rename a type of all", "PATCH", "types/line/$public_line_type/", (), {"name": "mine"}),
    rest("delete a type of all", "DELETE", "types/line/$public_line_type/", ()),
    # --- accounts ------------------------------------------------------------------------------------------------
    rest("read oneself", "GET", "users/current/", EVERYBODY),
    rest("change one's first name", "PATCH", "users/$owner/", ("staff", "owner"), {"first_name": "O"}),
    rest("rename an account", "PATCH", "users/$owner/", ("staff",), {"username": "gate-owner"},
         asked=("stranger", "nobody", "reader", "staff")),
    rest("rename oneself", "PATCH", "users/$stranger/", (), {"username": "gate-elsewhere"}, asked=("stranger",)),
    rest("take another address", "PATCH", "users/$stranger/", (), {"email": "dean@htr.test"}, asked=("stranger",)),
    rest("send oneself back unchanged", "PATCH", "users/$stranger/", ("stranger",),
         {"username": "gate-stranger", "email": "gate-stranger@htr.test", "last_name": "S", "is_active": True},
         asked=("stranger",)),
    rest("take a superuser's address", "PATCH", "users/$superuser/", (), {"email": "mine@htr.test"}),
    rest("delete a superuser", "DELETE", "users/$superuser/", ()),
    rest("change another's address", "PATCH", "users/$other/", ("staff",), {"email": "gate-other@htr.test"}),
    page("change one's address on the page", "POST", "profile/", (),
         {"email": "dean@htr.test", "first_name": "", "last_name": ""}, asked=("stranger",)),
    page("change one's name on the page", "POST", "profile/", ("stranger",),
         {"email": "gate-stranger@htr.test", "first_name": "S", "last_name": "T"}, asked=("stranger",)),
    page("change a superuser in the administration", "POST", "admin/users/user/$superuser/change/", (),
         {"username": "gate-superuser", "email": "mine@htr.test"}, asked=("stranger", "staff")),
    page("set a superuser's password", "POST", "admin/users/user/$superuser/password/", (),
         {"password1": "x", "password2": "x"}, asked=("stranger", "staff")),
    # --- teams ---------------------------------------------------------------------------------------------------
    rest("read a team", "GET", "groups/$team/", ("member", "owner")),
    rest("rename a team", "PATCH", "groups/$team/", OWNER, {"name": "gate-team"}),
    rest("delete a team", "DELETE", "groups/$team/", (), asked=("stranger", "nobody", "member", "staff")),
    rest("make a team that is nobody's", "POST", "groups/", (), {"name": "gate-deans"}),
    page("see a team's page", "GET", "teams/$team/", OWNER),
    # --- pages for people ----------------------------------------------------------------------------------------
    page("see the projects", "GET", "projects/", EVERYBODY),
    page("see a document", "GET", "document/$document/", HOLDERS),
    page("find a document's first page", "GET", "document/$document/parts/edit/", HOLDERS),
    page("edit a page", "GET", "document/$document/part/$part/edit/", HOLDERS),
    page("read a document's words", "GET", "document/$document/reports/", HOLDERS),
    page("read a project's words", "GET", "project/$slug/reports/", ("partner", "owner")),
)  # fmt: skip


@dataclass
class World:
    """A site with the accounts and objects of ``SETUP``.

    :param url: where requests go to; ``origin`` is what browsers call the site, where that is another name.
    :param fresh: gives a session that trusts the site and is nobody's.
    """

    url: str
    found: dict[str, Any]
    fresh: Callable[[], requests.Session] = requests.Session
    origin: str = ""
    #: Whether what is asked for is used up.
    takes: bool = False
    _sessions: dict[str, requests.Session] = field(default_factory=dict, repr=False)

    def value(self, name: str, who: str) -> Any:
        """Return what ``$name`` stands for; of ``new_...`` another one each time for those who may have it."""
        if name == "who":
            return who
        if name == "new_text":
            return self.found["text_of_line"][str(self.value("new_line", who))]
        found = self.found[name]
        if not isinstance(found, list):
            return found
        return found.pop() if self.takes else found[0]

    def fill(self, template: Any, who: str) -> Any:
        """Return a path or body with all names filled in; what is nothing but a name keeps its kind."""
        if isinstance(template, dict):
            return {key: self.fill(value, who) for key, value in template.items()}
        if isinstance(template, list):
            return [self.fill(value, who) for value in template]
        if not isinstance(template, str):
            return template
        if re.fullmatch(r"\$\w+", template):
            return self.value(template[1:], who)
        return re.sub(r"\$(\w+)", lambda match: str(self.value(match[1], who)), template)

    def close(self) -> None:
        """End all sessions' connections."""
        for session in self._sessions.values():
            session.close()

    def address(self, path: str) -> str:
        """Return where a path is."""
        return urljoin(self.url.rstrip("/") + "/", path)

    def session(self, who: str) -> requests.Session:
        """Return a session of one of the people: logged in by the form, or of nobody.

        :raises PlatformError: where the form does not let them in.
        """
        if who not in self._sessions:
            made = self._sessions[who] = self.fresh()
            if who != "nobody":
                login = self.address("login/")
                made.get(login, timeout=REQUEST_SECONDS)
                form = {"username": f"gate-{who}", "password": PASSWORD}
                answer = self.submit(made, login, form)
                if answer.status_code != 302:
                    raise PlatformError(f"the login form answered {answer.status_code}")
        return self._sessions[who]

    def submit(self, session: requests.Session, url: str, form: Mapping[str, Any]) -> requests.Response:
        """Send a form as a browser does."""
        data = {**form, "csrfmiddlewaretoken": session.cookies.get("csrftoken", "")}
        headers = {"Referer": (self.origin or self.url).rstrip("/") + "/"}
        return session.post(url, data=data, headers=headers, timeout=REQUEST_SECONDS, allow_redirects=False)

    def send(self, case: Case, who: str) -> requests.Response:
        """Send a case's request as one of the people."""
        url, body = self.address(self.fill(case.path, who)), self.fill(case.body, who)
        if case.page and case.method == "POST":
            return self.submit(self.session(who), url, body)
        if case.page:
            return self.session(who).get(url, timeout=REQUEST_SECONDS, allow_redirects=False)
        headers = {} if who == "nobody" else {"Authorization": f"Token {self.found['token_' + who]}"}
        with self.fresh() as session:
            session.headers.update(headers)
            return session.request(case.method, url, json=body, timeout=REQUEST_SECONDS, allow_redirects=False)


def refused(answer: requests.Response) -> bool:
    """Whether a request was refused, and told nothing."""
    to_login = answer.status_code == 302 and "/login" in answer.headers.get("Location", "")
    return (to_login or answer.status_code in {400, 401, 403, 404, 405}) and SECRET not in answer.text


def granted(case: Case, answer: requests.Response) -> bool:
    """Whether a request did what it was for."""
    to_login = answer.status_code == 302 and "/login" in answer.headers.get("Location", "")
    return (answer.status_code < 400 and not to_login) or answer.status_code in case.reached


def wrong_refusals(world: World, *, stand_in: bool) -> list[str]:
    """Send all that is to be refused; return what was not."""
    world.takes = False
    wrong = []
    for case in CASES:
        if stand_in and not case.stand_in:
            continue
        for who in case.asked:
            if who not in case.may:
                answer = world.send(case, who)
                # A wrong body is told apart from a refusal only where the view would take it.
                unclear = answer.status_code == 400 and case.reached == (400,)
                if unclear or not refused(answer):
                    wrong.append(f"{who} may {case.name}: {case.method} {case.path}: {answer.status_code}")
    return wrong


def wrong_grants(world: World, *, stand_in: bool) -> list[str]:
    """Send all that is to be done; return what was refused."""
    world.takes = True
    wrong = []
    for case in CASES:
        if stand_in and not case.stand_in:
            continue
        for who in case.may:
            if who in case.asked:
                answer = world.send(case, who)
                if not granted(case, answer):
                    text = " ".join(answer.text.split())[:200]
                    wrong.append(f"{who} may not {case.name}: {case.method} {case.path}: {answer.status_code} {text}")
    return wrong


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return what of ``STATE`` is other than it was."""
    return json.dumps({name: [before[name], after[name]] for name in before if before[name] != after[name]})[:3000]
