"""What the gate spares itself: what is asked first, and once. No Django."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

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
