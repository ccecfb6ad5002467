"""``/_media``: whether who asks may read what lies in one folder of the media.

nginx serves the files and asks here before (role nginx, ``media.conf.j2``): the same cookie or key, and two headers,
the kind of folder and its number. It takes both from the path that it has resolved, never from the address as it was
written, and keeps an answer for a while. Nobody outside reaches the address.

The answer is 204 (yes), 401 (log in first) or 403 (no; also what is no question). The rights are upstream's:

=============== ================== ================================================================================
kind            identified by      who may read
=============== ================== ================================================================================
documents       document           who sees the document: owner, project, shares (``Document.objects.for_user``).
                                   Its images, and their thumbnails beside them
import_src      document           the same: what was imported into it
alignments      document           the same: what its alignments worked with
users           account            that account: its exports
models          folder's name      its owner, those with a right to it, everybody where it is public
witnesses       file's name        who uploaded it
=============== ================== ================================================================================

Superusers may read all of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.http import HttpResponse

from escriptorium_cluster.gate.rights import RIGHTS as NAMED
from escriptorium_cluster.gate.rights import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KIND_HEADER, NUMBER_HEADER = "X-Media-Kind", "X-Media-Id"

#: A key of the database: smaller than its integers end.
_KEY = re.compile(r"[1-9][0-9]{0,8}")
#: As upstream's ``models_path`` makes them.
_FOLDER = re.compile(r"[0-9a-f]{8}")
#: Django's storage leaves other characters in names too, but no header has to carry them.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Right:
    """How the folders of one kind are named, and who may read one."""

    name: re.Pattern[str]
    given: Callable[[Any, str], bool]


def _document(user: Any, number: str) -> bool:
    return NAMED["document"].admits(Scope(user), {int(number)})


def _account(user: Any, number: str) -> bool:
    return bool(user.pk == int(number))


def _model(user: Any, folder: str) -> bool:
    return bool(NAMED["model"].allowed(Scope(user)).filter(file__startswith=f"models/{folder}/").exists())


def _witness(user: Any, name: str) -> bool:
    found = apps.get_model("core", "TextualWitness").objects.filter(owner=user, file=f"witnesses/{name}")
    return bool(found.exists())


RIGHTS: Mapping[str, Right] = {
    "documents": Right(_KEY, _document),
    "import_src": Right(_KEY, _document),
    "alignments": Right(_KEY, _document),
    "users": Right(_KEY, _account),
    "models": Right(_FOLDER, _model),
    "witnesses": Right(_NAME, _witness),
}


def asking_user(request: Any) -> Any:
    """Return who asks, by the key of a program where one is sent, else by the session; None when it is nobody."""
    if "Authorization" not in request.headers:
        return request.user if request.user.is_authenticated else None
    from rest_framework.exceptions import APIException
    from rest_framework.request import Request
    from rest_framework.settings import api_settings

    kinds = api_settings.DEFAULT_AUTHENTICATION_CLASSES
    try:
        user = Request(request, authenticators=[kind() for kind in kinds]).user
    except APIException:
        return None
    return user if user.is_authenticated else None


def media(request: Any) -> HttpResponse:
    """Answer the question of nginx."""
    user = asking_user(request)
    if user is None:
        return _answer(401)
    right = RIGHTS.get(request.headers.get(KIND_HEADER, ""))
    name = request.headers.get(NUMBER_HEADER, "")
    if right is None or not right.name.fullmatch(name):
        return _answer(403)
    return _answer(204 if user.is_superuser or right.given(user, name) else 403)


def _answer(status: int) -> HttpResponse:
    return HttpResponse(status=status, headers={"Cache-Control": "no-store"})
