"""Pages' WebSockets: which rooms they hear, and for how long. No Django, no channels."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


class Upstream:
    """What upstream's consumer does, as far as this one changes it."""

    room: str | None = None

    def __init__(self) -> None:
        self.scope = {"user": SimpleNamespace(pk=7)}
        self.channel_layer = SimpleNamespace(group_discard="discard")
        self.channel_name = "page"
        self.done: list[Any] = []

    def receive(self, text_data: str) -> None:
        self.done.append(json.loads(text_data))
        if self.done[-1].get("type") == "join-room":
            self.room = f"room-document-{self.done[-1]['object_pk']}"

    def notification_event(self, event: dict[str, Any]) -> None:
        self.done.append(event)

    def close(self, code: int) -> None:
        self.done.append(code)


@pytest.fixture
def page(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open a page's WebSocket; ``own`` are the documents of its user, ``seconds`` what the clock says."""
    load("users.consumers").NotificationConsumer = Upstream
    left: list[tuple[str, str]] = []
    load("asgiref.sync").async_to_sync = lambda _: lambda room, name: left.append((room, name))
    module = load("escriptorium_cluster.websocket")
    made = module.GuardedConsumer()
    made.left, made.own, made.seconds = left, {1, 2}, 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: made.seconds)
    monkeypatch.setattr(module, "Scope", lambda user: user)
    module.RIGHTS = {"document": SimpleNamespace(admits=lambda _, keys: keys <= made.own)}
    return made


def join(key: Any, kind: str = "document") -> str:
    return json.dumps({"type": "join-room", "object_cls": kind, "object_pk": key})


EVENT = {"name": "part:new"}


def test_a_page_hears_the_document_that_it_shows(page: Any) -> None:
    page.receive(text_data=join(1))
    page.notification_event(EVENT)
    page.receive(text_data=join(2))
    assert page.done == [json.loads(join(1)), EVENT, json.loads(join(2))]
    assert page.left == [("room-document-1", "page")], "upstream would hear both"


@pytest.mark.parametrize(("key", "kind"), [(3, "document"), ("1", "document"), (True, "document"), (1, "project")])
def test_a_page_hears_no_other_room(page: Any, key: Any, kind: str) -> None:
    page.receive(text_data=join(key, kind))
    page.notification_event(EVENT)
    assert page.done == []


def test_a_share_that_has_ended_is_noticed_within_a_minute(page: Any) -> None:
    page.receive(text_data=join(1))
    page.own = set()
    page.seconds += 59
    page.notification_event(EVENT)
    page.seconds += 2
    page.notification_event(EVENT)
    page.notification_event(EVENT)
    assert page.done == [json.loads(join(1)), EVENT]
    assert page.left == [("room-document-1", "page")]


@pytest.mark.parametrize("sent", [{"bytes_data": b"{}"}, {"text_data": "x"}, {"text_data": "[]"}])
def test_what_no_page_sends_closes_it(page: Any, sent: dict[str, Any]) -> None:
    page.receive(**sent)
    assert page.done == [1003]


def test_other_messages_are_upstreams(page: Any) -> None:
    page.receive(text_data='{"type": "notif"}')
    assert page.done == [{"type": "notif"}]
