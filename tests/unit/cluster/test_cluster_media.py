"""Who may read media: the answers to the question of nginx. The rights themselves are upstream's, asked in SQL."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


class Condition:
    """Django's Q, as a set of the conditions of which one has to hold."""

    def __init__(self, **condition: Any) -> None:
        self.any = [condition]

    def __or__(self, other: Condition) -> Condition:
        both = Condition()
        both.any = self.any + other.any
        return both


class Rows:
    """A model's rows, as what was asked for; ``there`` says which of them exist."""

    WORKFLOW_STATE_ARCHIVED = 3

    def __init__(self, there: Callable[..., bool]) -> None:
        self._there = there
        self.questions = 0

    @property
    def objects(self) -> Rows:
        self.user: Any = None
        self.conditions: tuple[Condition, ...] = ()
        self.wanted: dict[str, Any] = {}
        return self

    def for_user(self, user: Any) -> Rows:
        self.user = user
        return self

    def filter(self, *conditions: Condition, **wanted: Any) -> Rows:
        self.conditions, self.wanted = (*self.conditions, *conditions), {**self.wanted, **wanted}
        return self

    def exclude(self, **unwanted: Any) -> Rows:
        return self.filter(**{f"not {name}": value for name, value in unwanted.items()})

    def order_by(self) -> Rows:
        return self

    def values(self, _: str) -> Rows:
        return self

    def distinct(self) -> Rows:
        return self

    def exists(self) -> bool:
        self.questions += 1
        return self._there(self)

    def count(self) -> int:
        """Return how many of one key are there."""
        return int(self.exists())


class Response:
    """Django's."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code, self.headers = status, headers


EVE = SimpleNamespace(pk=7, is_authenticated=True, is_superuser=False)
ADMIN = SimpleNamespace(pk=1, is_authenticated=True, is_superuser=True)
NOBODY = SimpleNamespace(pk=None, is_authenticated=False, is_superuser=False)


class Site:
    """The view, with documents 12 (shared) and 15, a model 0a1b2c3d and a witness that the user 7 may read."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.rows = {
            "Document": Rows(
                lambda rows: (
                    (rows.user is EVE and rows.wanted == {"pk__in": {12}})
                    or rows.wanted == {"owner": EVE, "not workflow_state": 3, "pk__in": {15}}
                )
            ),
            "OcrModel": Rows(lambda rows: rows.wanted == {"file__startswith": "models/0a1b2c3d/"}),
            "TextualWitness": Rows(lambda rows: rows.wanted == {"owner": EVE, "file": "witnesses/text_Xy1.txt"}),
        }
        load("django.apps").apps = SimpleNamespace(get_model=lambda _, name: self.rows[name])
        load("django.db.models").Q = Condition
        load("django.http").HttpResponse = Response
        self.module = load("escriptorium_cluster.media")

    def ask(self, kind: str, name: str, user: Any = EVE, **headers: str) -> int:
        headers |= {"X-Media-Kind": kind, "X-Media-Id": name}
        return int(self.module.media(SimpleNamespace(headers=headers, user=user)).status_code)


@pytest.fixture
def site(load: Callable[[str], Any]) -> Site:
    return Site(load)


READABLE = [
    ("documents", "12"),
    ("import_src", "12"),
    ("alignments", "12"),
    ("users", "7"),
    ("models", "0a1b2c3d"),
    ("witnesses", "text_Xy1.txt"),
]
FOREIGN = [
    ("documents", "13"),
    ("import_src", "13"),
    ("alignments", "13"),
    ("users", "8"),
    ("models", "ffffffff"),
    ("witnesses", "other.txt"),
]


@pytest.mark.parametrize(("kind", "name"), READABLE)
def test_what_one_may_read(site: Site, kind: str, name: str) -> None:
    assert site.ask(kind, name) == 204
    assert site.ask(kind, name, NOBODY) == 401


@pytest.mark.parametrize(("kind", "name"), FOREIGN)
def test_what_one_may_not_read(site: Site, kind: str, name: str) -> None:
    assert site.ask(kind, name) == 403
    assert site.ask(kind, name, NOBODY) == 401
    assert site.ask(kind, name, ADMIN) == 204, "superusers read all"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("", ""),
        ("documents", ""),
        ("documents", "012"),
        ("documents", "0"),
        ("documents", "12/../13"),
        ("documents", "12\n"),
        ("documents", "99999999999999999999"),
        ("documents", "١٢"),
        ("models", "0A1B2C3D"),
        ("models", "0a1b2c3"),
        ("witnesses", "../x"),
        ("witnesses", ".."),
        ("elsewhere", "12"),
    ],
)
def test_what_is_no_question_is_a_no_for_everybody(site: Site, kind: str, name: str) -> None:
    assert site.ask(kind, name, ADMIN) == 403


def test_a_model_is_read_by_its_owner_those_with_a_right_and_everybody_where_it_is_public(site: Site) -> None:
    site.ask("models", "0a1b2c3d")
    (condition,) = site.rows["OcrModel"].conditions
    assert condition.any == [
        {"public": True},
        {"owner": EVE},
        {"ocr_model_rights__user": EVE},
        {"ocr_model_rights__group__user": EVE},
    ]


def test_a_key_counts_where_one_is_sent_and_a_wrong_one_is_nobody(site: Site, load: Callable[[str], Any]) -> None:
    class RefusedError(Exception):
        pass

    class Request:
        """The REST framework's, which asks the kinds of keys that the site has."""

        def __init__(self, request: Any, authenticators: list[Any]) -> None:
            self.given, self.authenticators = request.headers["Authorization"], authenticators

        @property
        def user(self) -> Any:
            if self.given != "Token right":
                raise RefusedError
            return EVE if self.authenticators == ["kind of key"] else NOBODY

    load("rest_framework.exceptions").APIException = RefusedError
    load("rest_framework.request").Request = Request
    settings = SimpleNamespace(DEFAULT_AUTHENTICATION_CLASSES=[lambda: "kind of key"])
    load("rest_framework.settings").api_settings = settings
    assert site.ask("documents", "12", NOBODY, Authorization="Token right") == 204
    assert site.ask("documents", "12", EVE, Authorization="Token wrong") == 401


def test_no_answer_is_kept_by_others_than_nginx(site: Site) -> None:
    answer = site.module.media(SimpleNamespace(headers={}, user=NOBODY))
    assert answer.headers == {"Cache-Control": "no-store"}


@pytest.mark.parametrize(("number", "status", "questions"), [("15", 204, 1), ("12", 204, 2), ("14", 403, 2)])
def test_ones_own_documents_are_looked_for_before_shares(site: Site, number: str, status: int, questions: int) -> None:
    assert site.ask("documents", number) == status
    assert site.rows["Document"].questions == questions
