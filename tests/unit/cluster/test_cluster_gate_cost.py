"""What the gate spares itself: what is asked first, and once. No Django."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster.gate.rules import ASKED, Rule

if TYPE_CHECKING:
    from collections.abc import Callable


class Objects:
    """A query over some keys, and how often the database was asked."""

    def __init__(self, keys: set[int], asked: list[set[int]]) -> None:
        self.keys, self.asked = keys, asked

    def filter(self, **wanted: Any) -> Objects:
        return Objects(self.keys & set(wanted["pk__in"]), self.asked)

    def order_by(self) -> Objects:
        return self

    def values(self, _: str) -> Objects:
        return self

    def distinct(self) -> Objects:
        return self

    def count(self) -> int:
        self.asked.append(self.keys)
        return len(self.keys)


@pytest.mark.parametrize(
    ("keys", "admitted", "questions"),
    [({1}, True, 1), ({1, 2}, True, 1), ({3}, True, 2), ({1, 3}, True, 2), ({9}, False, 2), ({1, 9}, False, 2)],
)
def test_ones_own_are_looked_for_before_shares(
    load: Callable[[str], Any], keys: set[int], admitted: bool, questions: int
) -> None:
    rights = load("escriptorium_cluster.gate.rights")
    asked: list[set[int]] = []
    right = rights.Right(lambda _: Objects({1, 2, 3}, asked), mine=lambda _: Objects({1, 2}, asked))
    assert right.admits(rights.Scope(None), keys) is admitted
    assert len(asked) == questions


class Pages:
    """Pages, by number and document, and who may name which document; notes each question to the database."""

    def __init__(self) -> None:
        self.pages = {(10, 1), (20, 2), (90, 9)}
        self.asked: list[str] = []
        self.wanted: dict[str, Any] = {}

    def filter(self, **wanted: Any) -> Pages:
        made = Pages()
        made.asked, made.wanted = self.asked, self.wanted | wanted
        return made

    def exists(self) -> bool:
        documents = self.wanted["document__in"]
        self.asked.append("both")
        return any(
            (page, document) == (self.wanted["pk"], self.wanted["document"]) and document in documents.keys
            for page, document in self.pages
        )

    def order_by(self) -> Pages:
        return self

    def values(self, _: str) -> Pages:
        return self

    def distinct(self) -> Pages:
        return self

    def count(self) -> int:
        self.asked.append("page")
        return len(
            {page for page, document in self.pages if document == self.wanted["document"]} & self.wanted["pk__in"]
        )


class Documents(Objects):
    """Documents, as ``Objects``; notes how each question is asked."""

    def __init__(self, keys: set[int], asked: list[Any]) -> None:
        super().__init__(keys, asked)

    def filter(self, **wanted: Any) -> Documents:
        keys = set(wanted["pk__in"]) if "pk__in" in wanted else {wanted["pk"]}
        return Documents(self.keys & keys, self.asked)

    def count(self) -> int:
        self.asked.append("document")  # type: ignore[arg-type]
        return len(self.keys)


@pytest.mark.parametrize(
    ("document", "part", "refused", "questions"),
    [
        (1, 10, "", ["both"]),
        (2, 20, "", ["both", "both"]),
        (9, 90, "document_pk=9 is no document", ["both", "both", "document", "document"]),
        (1, 20, "part_pk=20 is no part", ["both", "both", "document", "page"]),
    ],
)
def test_a_document_and_its_page_are_one_question(
    load: Callable[[str], Any], document: int, part: int, refused: str, questions: list[str]
) -> None:
    middleware, rights = load("escriptorium_cluster.gate.middleware"), load("escriptorium_cluster.gate.rights")
    pages = Pages()
    rights.apps.get_model = lambda *_: SimpleNamespace(objects=pages)
    middleware.RIGHTS = {
        **rights.RIGHTS,
        "document": rights.Right(
            lambda _: Documents({1, 2}, pages.asked), names="document", mine=lambda _: Documents({1}, pages.asked)
        ),
    }
    scope = rights.Scope("ada")
    rule = Rule(url={"document_pk": "document", "part_pk": "part", "pk": ASKED})
    said = ""
    try:
        middleware.Gate._ask_keys(scope, rule, {"document_pk": document, "part_pk": part, "pk": 5}, {}, {})
    except middleware.RefusedError as error:
        said = error.reason
    assert (said, pages.asked) == (refused, questions)
    if not refused:
        assert scope.named == {"document": document, "part": part}, "what comes after it lies in them"


def test_a_document_of_ones_own_is_one_that_is_not_deleted(load: Callable[[str], Any]) -> None:
    rights = load("escriptorium_cluster.gate.rights")
    said: list[Any] = []

    def chosen(**which: Any) -> SimpleNamespace:
        said.append(which)
        return SimpleNamespace(exclude=chosen)

    objects = SimpleNamespace(filter=chosen)
    rights.apps.get_model = lambda *_: SimpleNamespace(objects=objects, WORKFLOW_STATE_ARCHIVED=3)
    rights.RIGHTS["document"].mine(rights.Scope("ada"))
    assert said == [{"owner": "ada"}, {"workflow_state": 3}]


@pytest.fixture
def keys(load: Callable[[str], Any]) -> SimpleNamespace:
    """Give the class, with a framework that counts how often it looks a key up."""
    module = load("escriptorium_cluster.gate.key_once")
    made = SimpleNamespace(asked=[], refuses=False, Refused=type("RefusedError", (Exception,), {}))

    def authenticate(_: Any, request: Any) -> Any:
        made.asked.append(request.META.get("HTTP_AUTHORIZATION"))
        if made.refuses:
            raise made.Refused
        return ("ada", "key") if made.asked[-1] else None

    module.TokenAuthentication.authenticate = authenticate
    made.ask = lambda raw, sent: module.KeyOnce().authenticate(
        SimpleNamespace(_request=raw, META={"HTTP_AUTHORIZATION": sent} if sent else {})
    )
    return made


def test_a_key_is_looked_up_once_for_a_request(keys: SimpleNamespace) -> None:
    raw = SimpleNamespace()
    assert [keys.ask(raw, "Token 1") for _ in range(3)] == [("ada", "key")] * 3
    assert keys.asked == ["Token 1"]
    assert [keys.ask(SimpleNamespace(), None) for _ in range(2)] == [None, None]


def test_another_request_and_another_key_are_looked_up_again(keys: SimpleNamespace) -> None:
    raw = SimpleNamespace()
    keys.ask(raw, "Token 1")
    keys.ask(raw, "Token 2")
    keys.ask(SimpleNamespace(), "Token 2")
    assert keys.asked == ["Token 1", "Token 2", "Token 2"]


def test_a_refusal_is_not_kept(keys: SimpleNamespace) -> None:
    raw = SimpleNamespace()
    keys.refuses = True
    for _ in range(2):
        with pytest.raises(keys.Refused):
            keys.ask(raw, "Token 1")
    assert len(keys.asked) == 2
