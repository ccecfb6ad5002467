"""Who may read media by upstream's rules, and what of an upload never reaches upstream's code. Real Django and rows.

    APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<checkout> pytest tests/integration/test_media.py

Runs on the stand-in and on the real eScriptorium.
"""

from __future__ import annotations

import base64
import io
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from application_bench import Bench

#: Users, a document of alice's in each way of being shared, a model, and clients that ask as nginx and browsers do.
BEGIN = """
import base64, json
from core.models import Document, OcrModel, OcrModelRight, Project
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from rest_framework.authtoken.models import Token

users = {}
for name in ("alice", "bob", "carol", "eve"):
    get_user_model().objects.filter(username=name).delete()
    users[name] = get_user_model().objects.create_user(name, name + "@htr.test", "horse-battery-" + name)
Group.objects.filter(name="readers").delete()
team = Group.objects.create(name="readers")
users["carol"].groups.add(team)
project = Project.objects.create(name="media", owner=users["alice"])

def document(name):
    return Document.objects.create(name=name, project=project, owner=users["alice"])

def model(name, **more):
    made = OcrModel(name=name, owner=users["alice"], job=2, file_size=1, versions=[], **more)
    made.file.save(name + ".mlmodel", ContentFile(b"model"), save=False)
    made.save()
    return made

def folder(made):
    return made.file.name.split("/")[1]

def client(user=None, key=None):
    made = Client(HTTP_HOST="htr.test", raise_request_exception=False)
    if key:
        made.defaults["HTTP_AUTHORIZATION"] = "Token " + key
    elif user:
        made.force_login(users[user])
    return made

def ask(who, kind, name):
    return who.get("/_media", HTTP_X_MEDIA_KIND=kind, HTTP_X_MEDIA_ID=str(name)).status_code

def everybody(kind, name):
    return {user: ask(client(user), kind, name) for user in ("alice", "bob", "carol", "eve", None)}
"""


def inside(bench: Bench, code: str) -> Any:
    """Run code in the application, with the above."""
    return bench.shell(BEGIN + code + "\nprint(json.dumps(found))\n")


@pytest.fixture(scope="module")
def site(bench: Bench) -> Bench:
    """Give an application with small bounds."""
    bench.environment |= {"CLUSTER_ARCHIVE_MAX_MIB": "200", "CLUSTER_ARCHIVE_MAX_FILES": "5"}
    bench.prepare()
    return bench


def answers(alice: int, bob: int, carol: int, eve: int = 403) -> dict[str, int]:
    return {"alice": alice, "bob": bob, "carol": carol, "eve": eve, "null": 401}


def test_media_of_a_document_are_for_those_who_see_it(site: Bench) -> None:
    found = inside(
        site,
        """
alone, shared = document("alone"), document("shared")
shared.shared_with_users.add(users["bob"])
shared.shared_with_groups.add(team)
found = [everybody(kind, one.pk) for one in (alone, shared) for kind in ("documents", "import_src", "alignments")]
shared.shared_with_users.clear()
found.append(everybody("documents", shared.pk))
project.shared_with_users.add(users["bob"])
found.append(everybody("documents", alone.pk))
found.append(everybody("documents", 999999))
""",
    )
    alone, shared = found[:3], found[3:6]
    assert alone == [answers(204, 403, 403)] * 3
    assert shared == [answers(204, 204, 204)] * 3
    assert found[6:] == [answers(204, 403, 204), answers(204, 204, 403), answers(403, 403, 403)]


def test_exports_are_for_their_account_and_models_for_those_with_a_right(site: Bench) -> None:
    found = inside(
        site,
        """
alone, public, given = model("alone"), model("public", public=True), model("given")
OcrModelRight.objects.create(ocr_model=given, user=users["bob"])
OcrModelRight.objects.create(ocr_model=given, group=team)
found = [everybody("users", users["bob"].pk), *(everybody("models", folder(one)) for one in (alone, public, given))]
""",
    )
    assert found == [
        answers(403, 204, 403),
        answers(204, 403, 403),
        answers(204, 204, 204, 204),
        answers(204, 204, 204),
    ]


def test_a_key_opens_what_its_account_may_read_and_superusers_read_all(site: Bench) -> None:
    found = inside(
        site,
        """
one = document("by key")
keys = {name: Token.objects.create(user=users[name]).key for name in ("alice", "eve")}
found = [ask(client(key=keys[name]), "documents", one.pk) for name in keys]
found.append(ask(client(key="0" * 40), "documents", one.pk))
users["eve"].is_superuser = True
users["eve"].save()
found += [ask(client("eve"), kind, name) for kind, name in (("documents", one.pk), ("users", users["bob"].pk))]
users["eve"].is_active = False
users["eve"].save()
found.append(ask(client(key=keys["eve"]), "documents", one.pk))
found += [ask(client("alice"), kind, name) for kind, name in (("documents", "1/../2"), ("", ""), ("models", "x"))]
""",
    )
    assert found == [204, 403, 401, 204, 204, 401, 403, 403, 403]


def archive(content: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("page.xml", content)
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("reader.mlmodel", b"no model", "This is no model that Kraken can read"),
        ("reader.ckpt", b"", "Files of the kind .ckpt are not taken"),
        ("bomb.zip", archive(b"\0" * (70 << 20)), "The archive is more than 100 times larger unpacked"),
    ],
)
def test_an_upload_is_refused_with_its_reason_wherever_it_comes_in(
    site: Bench, name: str, content: bytes, reason: str
) -> None:
    """By the REST interface with a session, a key, and another method; and before a form of upstream reads it."""
    found = inside(
        site,
        f"""
content = base64.b64decode({base64.b64encode(content).decode()!r})
key = Token.objects.create(user=users["alice"]).key
before = OcrModel.objects.count()

def sent(who, path, **more):
    answer = getattr(who, more.pop("method", "post"))(
        path, {{"file": SimpleUploadedFile({name!r}, content), "name": "x", "job": "Recognize"}}, **more
    )
    return [answer.status_code, answer.content.decode()]

from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
body = encode_multipart(BOUNDARY, {{"file": SimpleUploadedFile({name!r}, content)}})
own = model("own")
answer = client(key=key).patch(f"/api/models/{{own.pk}}/", body, content_type=MULTIPART_CONTENT)
found = [
    sent(client("alice"), "/api/models/"),
    sent(client(key=key), "/api/models/"),
    [answer.status_code, answer.content.decode()],
    OcrModel.objects.count() - before - 1,
]
""",
    )
    *sent, made = found
    assert made == 0
    for status, text in sent:
        assert status == 400
        assert reason in text


def test_somebody_without_an_account_uploads_nothing(site: Bench) -> None:
    status, text = inside(
        site,
        """
answer = client().post("/login/", {"file": SimpleUploadedFile("page.png", b"x" * 1000)})
found = [answer.status_code, answer.content.decode()]
""",
    )
    assert (status, "Log in before you upload a file." in text) == (400, True)
