"""Logins: who is counted, who is refused, how long administrators stay, and what logs out. No Django, no Redis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cluster.test_cluster_guesses import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
LINK = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Session(dict[str, Any]):
    """A session that notes its end."""

    accessed = True
    end: Any = None

    def set_expiry(self, end: Any) -> None:
        self.end = end


def request(address: str = "192.0.2.7", **more: Any) -> Any:
    return SimpleNamespace(META={"HTTP_X_REAL_IP": address, "REMOTE_ADDR": "10.0.0.1"}, session=Session(), **more)


def user(pk: int = 7, *, staff: bool = False, superuser: bool = False, known: bool = True) -> Any:
    return SimpleNamespace(
        pk=pk, is_staff=staff, is_superuser=superuser, is_authenticated=known, get_username=lambda: "ada"
    )


class Headers:
    """Those of an answer of Django's, which are no dictionary."""

    def __init__(self, given: dict[str, str]) -> None:
        self.given = dict(given)

    def __setitem__(self, name: str, value: str) -> None:
        self.given[name] = value

    def get(self, name: str, default: str) -> str:
        return self.given.get(name, default)


class Page(SimpleNamespace):
    """An answer of Django's."""


def made(kind: str) -> Callable[..., Page]:
    def make(*arguments: Any, status: int, headers: dict[str, str] | None = None) -> Page:
        return Page(kind=kind, content=arguments[-1], status=status, headers=Headers(headers or {}))

    return make


class Site:
    """The module, with the cache and the settings that it finds."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.cache = Clock()
        self.settings = SimpleNamespace(
            CLUSTER_LOGIN_FAILURES=2, CLUSTER_LOGIN_LOCK_SECONDS=900, CLUSTER_ADMIN_SESSION_HOURS=12
        )
        load("django.conf").settings = self.settings
        load("django.core.cache").cache = self.cache
        load("django.utils.timezone").now = lambda: NOW
        load("django.utils.translation").get_language = lambda: "de"
        load("django.http").JsonResponse = made("json")
        load("django.shortcuts").render = made("page")
        load("django.contrib.auth").SESSION_KEY = "_auth_user_id"
        self.signals = load("django.contrib.auth.signals")
        load("django.core.exceptions").PermissionDenied = type("PermissionDenied", (Exception,), {})
        self.module = load("escriptorium_cluster.logins")
        self.stop = self.module.PermissionDenied
        self.redis_error = self.module.RedisError

    def log_in(self, asked: Any, name: str = "ada", *, right: bool = False) -> bool:
        """Try a password as Django does; answers whether it was looked at."""
        backend = self.module.GuessBound()
        try:
            backend.authenticate(asked, username=name, password="?")
        except self.stop:
            self.module.count_failure({"username": name}, asked)
            return False
        if not right:
            self.module.count_failure({"username": name, "password": "****"}, asked, sender="x")
        return True

    def answer(self, asked: Any, content_type: str = "text/html; charset=utf-8") -> Any:
        page = Page(kind="view", headers=Headers({"Content-Type": content_type}))
        return self.module.Logins(lambda _: page)(asked)


@pytest.fixture
def site(load: Callable[[str], Any]) -> Site:
    return Site(load)


def test_beyond_the_bound_no_password_is_looked_at(site: Site) -> None:
    assert [site.log_in(request(user=user(known=False))) for _ in range(4)] == [True, True, False, False]
    assert site.log_in(request("198.51.100.1")), "from elsewhere"
    assert site.log_in(request(), "bob"), "somebody else"
    site.cache.now += 900
    assert site.log_in(request()), "what was refused does not count"


def test_the_rest_frameworks_own_request_counts_as_well(site: Site) -> None:
    """It stands around Django's, and is not the one that the middleware sees."""
    inner = request(user=user(known=False))
    wrapped = SimpleNamespace(META=inner.META, _request=inner)
    assert [site.log_in(wrapped) for _ in range(3)] == [True, True, False]
    assert site.answer(inner, "application/json").status == 429


def test_a_key_and_a_call_without_a_request_are_not_counted(site: Site) -> None:
    backend = site.module.GuessBound()
    backend.authenticate(None, username="ada")
    backend.authenticate(request(), token="x")
    site.module.count_failure({"username": "ada"}, None)
    site.module.count_failure({"token": "x"}, request())
    assert site.cache.held == {}


def test_the_right_password_ends_the_count(site: Site) -> None:
    assert site.log_in(request())
    site.module.start_anew(request(), user())
    assert [site.log_in(request()) for _ in range(2)] == [True, True]


def test_without_redis_people_log_in(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> int:
        raise site.redis_error("away")

    for name in ("get", "add", "delete"):
        monkeypatch.setattr(site.cache, name, away)
    assert [site.log_in(request()) for _ in range(4)] == [True] * 4
    site.module.start_anew(request(), user())


@pytest.mark.parametrize(("content_type", "kind"), [("text/html", "page"), ("application/json", "json")])
def test_who_is_refused_reads_why(site: Site, content_type: str, kind: str) -> None:
    for _ in range(3):
        asked = request(user=user(known=False))
        site.log_in(asked)
    found = site.answer(asked, content_type)
    assert (found.kind, found.status) == (kind, 429)
    assert found.headers.given == {"Retry-After": "900", "Cache-Control": "no-store"}
    assert "Warten Sie 15 min" in str(found.content)


def test_other_answers_stay(site: Site) -> None:
    assert site.answer(request(user=user(known=False))).kind == "view"


@pytest.mark.parametrize("who", [user(staff=True), user(superuser=True)])
def test_an_administrator_stays_for_hours(site: Site, who: Any) -> None:
    asked = request(user=who)
    asked.session["_auth_user_id"] = "7"
    site.answer(asked)
    assert asked.session.end == NOW + timedelta(hours=12)
    asked.session.end = None
    site.answer(asked)
    assert asked.session.end is None, "each click would move the end"
    site.module.start_anew(asked, who)
    site.answer(asked)
    assert asked.session.end == NOW + timedelta(hours=12), "a new login is a new day"


@pytest.mark.parametrize(
    ("who", "key", "accessed"),
    [
        (user(), "7", True),
        (user(staff=True, known=False), "7", True),
        # A key of a program: nobody is logged in, or somebody else is.
        (user(staff=True), None, True),
        (user(staff=True), "8", True),
        # A page that asks for nobody makes no session, and no question to the database.
        (user(staff=True), "7", False),
    ],
)
def test_other_sessions_stay_as_they_are(site: Site, who: Any, key: str | None, accessed: bool) -> None:
    asked = request(user=who)
    asked.session.accessed = accessed
    if key:
        asked.session["_auth_user_id"] = key
    before = dict(asked.session)
    site.answer(asked)
    assert (dict(asked.session), asked.session.end) == (before, None)


@pytest.mark.parametrize(
    ("headers", "out"),
    [
        (LINK, True),
        ({}, False),
        (LINK | {"Sec-Fetch-Site": "cross-site"}, False),
        (LINK | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, False),
        (LINK | {"Sec-Fetch-Dest": "iframe"}, False),
    ],
)
def test_a_link_of_the_site_logs_out_and_nothing_else_does(site: Site, headers: dict[str, str], out: bool) -> None:
    view = site.module.LogOut()
    view.post = lambda _: "out"
    view.get_context_data = dict
    view.render_to_response = lambda _: "asked"
    assert view.get(SimpleNamespace(headers=headers)) == ("out" if out else "asked")


def test_django_tells_of_each_login(site: Site) -> None:
    told: dict[str, Any] = {}
    for name in ("user_login_failed", "user_logged_in"):
        signal = getattr(site.module, name)
        signal.connect = lambda receiver, dispatch_uid, name=name: told.update({name: (receiver, dispatch_uid)})
    site.module.install()
    assert told == {
        "user_login_failed": (site.module.count_failure, "cluster"),
        "user_logged_in": (site.module.start_anew, "cluster"),
    }
