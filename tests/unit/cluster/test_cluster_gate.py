"""The gate's table, keys in requests, and views that the table does not know: no Django."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster.gate.keys import BadKeyError, carries_key, find, name_of_key, number
from escriptorium_cluster.gate.rules import ASKED, SITE_RIGHTS, Rule, read_site_rule
from escriptorium_cluster.gate.table import VIEWS

from tests.unit.cluster.tables import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Form(dict[str, list[str]]):
    """Fields of a form, of which each may come several times."""

    def getlist(self, name: str) -> list[str]:
        return self.get(name, [])

    def lists(self) -> Any:
        return self.items()


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "key"), [(7, 7), ("7", 7), (0, 0), (None, None), ("", None), ("007", 7)])
def test_keys_are_numbers(value: object, key: int | None) -> None:
    assert number(value) == key


@pytest.mark.parametrize(
    "value", [True, -1, 5.0, " 7", "7 ", "1_0", "\u0665", "+7", "x", [7], {"pk": 7}, "9" * 19, 10**18]
)
def test_what_some_view_might_read_as_a_key_is_none(value: object) -> None:
    with pytest.raises(BadKeyError):
        number(value)


LINES = {"lines": [{"pk": 1, "transcriptions": [{"transcription": 5}]}, {"pk": "2"}, {}]}


@pytest.mark.parametrize(
    ("data", "place", "found"),
    [
        ({"model": 3}, "model", [3]),
        ({}, "model", []),
        ({"parts": [1, "2"]}, "parts[]", [1, "2"]),
        ({"parts": None}, "parts[]", []),
        (LINES, "lines[].pk", [1, "2"]),
        (LINES, "lines[].transcriptions[].transcription", [5]),
        (Form(tags=["1", "2"]), "tags[]", ["1", "2"]),
        (Form(model=["1", "2"]), "model", ["1", "2"]),
        (Form(), "lines[].pk", []),
    ],
)
def test_keys_are_found_in_bodies(data: Any, place: str, found: list[object]) -> None:
    assert list(find(data, place)) == found


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"lines": "12"}, "lines[]"),
        ({"lines": {"pk": 1}}, "lines[].pk"),
        ({"lines": [1]}, "lines[].pk"),
        ([1], "lines[]"),
        (Form(lines=["[1]"]), "lines[].pk"),
    ],
)
def test_what_a_view_would_take_apart_in_its_own_way_is_refused(data: Any, place: str) -> None:
    with pytest.raises(BadKeyError):
        list(find(data, place))


@pytest.mark.parametrize("name", ["pk", "document", "part_pk", "filters.line_id", "lines[]", "owner", "Document_PK"])
def test_names_of_keys(name: str) -> None:
    assert name_of_key(name)
    assert carries_key({"a": [{name: 1}]})


def test_other_names_are_none() -> None:
    assert not carries_key({"content": "pk", "order": [1, {"angle": 2}], "q": ["document"]})


# --- the table ----------------------------------------------------------------------------------------------------


def test_each_right_of_the_table_and_each_check_is_there(load: Callable[[str], Any]) -> None:
    rights = set(load("escriptorium_cluster.gate.rights").RIGHTS) | {ASKED}
    checks = set(load("escriptorium_cluster.gate.checks").CHECKS) | {""}
    for view, rule in VIEWS.items():
        named = {*rule.url.values(), *rule.query.values(), *rule.body.values()}
        assert named <= rights, view
        assert rule.check in checks, view
    assert set(SITE_RIGHTS) <= rights


def test_what_a_right_lies_in_is_named_before_it() -> None:
    needs = {"part": "document", "line": "part", "line_text": "part", "region": "document", "transcription": "document"}
    for view, rule in VIEWS.items():
        order = [*rule.url.values(), *rule.body.values()]
        for place, right in enumerate(order):
            before = {name.removeprefix("own_").removesuffix("_or_staff") for name in order[:place]}
            assert needs.get(right, "document") in {*before, "document" if right not in needs else ""}, view


def test_sites_name_views_of_their_own() -> None:
    assert read_site_rule("our_app.views.Statistics") == ("our_app.views.Statistics", Rule())
    view, rule = read_site_rule(" our_app.views.Crop  document_pk=document part_pk=part ")
    assert (view, rule.url) == ("our_app.views.Crop", {"document_pk": "document", "part_pk": "part"})
    assert list(rule.url) == ["document_pk", "part_pk"]


@pytest.mark.parametrize(
    "text", ["", "Crop", "our_app.views.Crop pk", "our_app.views.Crop pk=nobody", "a.b pk=x=y", "a/b"]
)
def test_what_is_no_view_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no view|is not KEY=RIGHT"):
        read_site_rule(text)


# --- the middleware ------------------------------------------------------------------------------------------------


class Authenticated(SimpleNamespace):
    """A user who is logged in."""

    pk = 7
    is_authenticated = True
    is_staff = is_superuser = False


class Site:
    """The middleware of a site, with a view and rights that a test makes up."""

    def __init__(self, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        load("django.http").JsonResponse = lambda content, status: Row(content=content, status_code=status)
        self.denied = load("django.core.exceptions").PermissionDenied = type("PermissionDenied", (Exception,), {})
        load("django.contrib.auth.views").redirect_to_login = lambda path: f"login for {path}"
        load("django.conf").settings = SimpleNamespace(CLUSTER_GATE_VIEWS={})
        self.language = "en"
        load("django.utils.translation").get_language = lambda: self.language
        self.module = load("escriptorium_cluster.gate.middleware")
        self.asked: list[tuple[str, set[int]]] = []
        self.own = {"document": {1}, "model": {5}}

        def right(name: str) -> Any:
            def admits(_: Any, keys: set[int]) -> bool:
                self.asked.append((name, set(keys)))
                return set(keys) <= self.own[name]

            return SimpleNamespace(admits=admits, column="pk", names=name, status=403)

        monkeypatch.setattr(self.module, "RIGHTS", {name: right(name) for name in self.own})
        self.rules: dict[str, Rule] = {}
        self.made: Any = None

    def ask(self, method: str = "GET", kwargs: Mapping[str, Any] | None = None, **request: Any) -> Any:
        """Ask for a page; None: the view answers."""

        def view() -> None:
            pass

        view.__module__, view.__qualname__ = "our.views", "Page"
        form = Form({name: [value] for name, value in request.pop("form", {}).items()})
        made = SimpleNamespace(
            method=method, path="/page/", user=Authenticated(), headers={}, GET=Form(request.pop("query", {})),
            POST=form,
            content_type="application/x-www-form-urlencoded", get_full_path=lambda: "/page/?x",
            resolver_match=SimpleNamespace(app_names=[], route=""),
        )  # fmt: skip
        vars(made).update(request)
        self.made = made
        gate = self.module.Gate(lambda _: None)
        gate.views = self.rules
        return gate.process_view(made, view, [], kwargs or {})


@pytest.fixture
def site(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(load, monkeypatch)


def test_a_known_view_answers_its_users_and_nobody_else(site: Site) -> None:
    site.rules["our.views.Page"] = Rule(url={"pk": "document"})
    assert site.ask(kwargs={"pk": 1}) is None
    with pytest.raises(site.denied):
        site.ask(kwargs={"pk": 2})
    assert site.asked == [("document", {1}), ("document", {2})]
    anonymous = SimpleNamespace(is_authenticated=False)
    assert site.ask(kwargs={"pk": 1}, user=anonymous) == "login for /page/?x"


def test_a_key_in_a_body_is_asked_for_where_it_is_sent(site: Site) -> None:
    site.rules["our.views.Page"] = Rule(body={"model": "model"})
    assert site.ask("POST", form={"model": "5"}) is None
    assert site.ask("POST", form={"name": "x"}) is None
    with pytest.raises(site.denied):
        site.ask("POST", form={"model": "6"})
    with pytest.raises(site.denied):
        site.ask("POST", form={"model": "6_0"})
    assert site.asked == [("model", {5}), ("model", {6})]


@pytest.mark.parametrize(
    "request_",
    [
        {"kwargs": {"pk": 1}},
        {"query": {"document": ["1"]}},
        {"method": "POST", "form": {"line_pk": "1"}},
        {"method": "POST", "content_type": "application/octet-stream"},
    ],
)
def test_an_unknown_view_that_carries_a_key_is_refused(site: Site, request_: dict[str, Any]) -> None:
    with pytest.raises(site.denied):
        site.ask(**request_)


def test_an_unknown_view_that_carries_none_answers(site: Site) -> None:
    assert site.ask() is None
    assert site.ask(query={"q": ["word"]}) is None
    assert site.ask("POST", form={"message": "hello"}) is None


def test_a_part_of_an_address_that_the_table_does_not_know_is_refused(site: Site) -> None:
    site.rules["our.views.Page"] = Rule(url={"pk": "document"})
    with pytest.raises(site.denied):
        site.ask(kwargs={"pk": 1, "version": 3})


@pytest.mark.parametrize(("header", "login"), [("Token 0123", True), ("x Token 0123", True), ("Basic 0123", False)])
def test_a_key_of_programs_opens_no_page(site: Site, header: str, login: bool) -> None:
    site.rules["our.views.Page"] = Rule(url={"pk": "document"})
    site.module.get_user = lambda _: SimpleNamespace(is_authenticated=False, pk=None)
    answer = site.ask(kwargs={"pk": 1}, headers={"Authorization": header})
    assert answer == ("login for /page/?x" if login else None), "another header is a proxy's before the site"


def test_a_page_with_a_key_is_for_the_user_of_the_session(site: Site) -> None:
    site.rules["our.views.Page"] = Rule(url={"pk": "document"})
    site.module.get_user = lambda _: Authenticated(is_account_expired=lambda: False)
    assert site.ask(kwargs={"pk": 1}, headers={"Authorization": "Token 0123"}) is None
    site.module.get_user = lambda _: Authenticated(is_account_expired=lambda: True)
    with pytest.raises(site.denied):
        site.ask(kwargs={"pk": 1}, headers={"Authorization": "Token 0123"})


def test_a_key_opens_what_is_there_for_programs(site: Site) -> None:
    site.rules["our.views.Page"] = Rule(programs=True)
    site.module.get_user = lambda _: SimpleNamespace(is_authenticated=False, pk=None)
    assert site.ask(headers={"Authorization": "Token 0123"}) is None
    assert site.made.user.pk == Authenticated.pk, "the view sees the key's user"
    assert VIEWS["escriptorium_cluster.media.media"].programs, "nginx asks with the key of a program"
    assert [name for name, rule in VIEWS.items() if rule.programs] == ["escriptorium_cluster.media.media"]


IN_ENGLISH = (
    "This is not yours.",
    "A key is not understood: a key is not a number.",
    "This site does not open our.views.Page.",
)


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en-gb", IN_ENGLISH),
        ("la", IN_ENGLISH),
        (
            "fr",
            (
                "Ceci ne vous appartient pas.",
                "Une clé n'est pas comprise : a key is not a number.",
                "Ce site n'ouvre pas our.views.Page.",
            ),
        ),
        (
            "de",
            (
                "Das gehört Ihnen nicht.",
                "Ein Schlüssel ist nicht zu verstehen: a key is not a number.",
                "Diese Site öffnet our.views.Page nicht.",
            ),
        ),
    ],
)
def test_what_is_refused_is_said_in_the_language_of_the_request(
    site: Site, caplog: pytest.LogCaptureFixture, language: str, texts: tuple[str, ...]
) -> None:
    site.language = language
    said = []
    for rule, form in (
        (Rule(body={"model": "model"}), {"model": "6"}),
        (Rule(body={"model": "model"}), {"model": "6_0"}),
        (None, {"line_pk": "1"}),
    ):
        site.rules = {"our.views.Page": rule} if rule else {}
        with pytest.raises(site.denied) as refused:
            site.ask("POST", form=form)
        said.append(str(refused.value))
    assert tuple(said) == texts
    assert "the gate does not know our.views.Page" in caplog.text, "the journal has its own words"


def test_a_check_is_said_in_the_language_of_the_request_and_noted_in_english(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site.rules["our.views.Page"] = Rule(check="profile")
    site.language = "de"
    monkeypatch.setattr(site.module, "CHECKS", {"profile": lambda _: site.module.texts.FOREIGN_MODEL})
    with pytest.raises(site.denied, match="Nur wem ein Modell gehört, darf es überschreiben"):
        site.ask("POST", form={"name": "x"})
    assert "our.views.Page: Only its owner writes over a model." in caplog.text


# --- what a release has ---------------------------------------------------------------------------------------------


class Route(SimpleNamespace):
    """A beginning of addresses, with the names of its parts."""

    def __str__(self) -> str:
        return str(self.text)


def pattern(text: str, view: Any, *parts: str) -> Any:
    return SimpleNamespace(
        pattern=Route(text=text, regex=SimpleNamespace(groupindex=dict.fromkeys(parts))), callback=view
    )


def page(name: str, **handlers: Any) -> Any:
    return SimpleNamespace(view_class=type(name, (), {"__module__": "our.views", **handlers}))


def test_views_of_a_release_that_the_gate_does_not_know_are_named(load: Callable[[str], Any]) -> None:
    module = load("escriptorium_cluster.gate.release")
    rest = SimpleNamespace(
        cls=type("Lines", (), {"__module__": "our.views", "get_authenticators": None}), actions={"post": "split"}
    )
    inner = pattern("api/", None)
    inner.url_patterns, inner.app_name = [pattern("lines/<part_pk>/split/", rest, "part_pk")], "api"
    admin = pattern("admin/", None)
    admin.url_patterns, admin.app_name = [pattern("<path:object_id>/", page("Admin"), "object_id")], "admin"
    views = {"our.views.Known": Rule(url={"pk": ASKED})}
    patterns = [
        inner,
        admin,
        pattern("about/", page("About")),
        pattern("send/", page("Send", post=None)),
        pattern("known/<pk>/", page("Known"), "pk"),
        pattern("known/<pk>/<version>/", page("Known"), "pk", "version"),
    ]
    found = list(module.unknown(patterns, views))
    assert [line.partition(" (")[0] for line in found] == [
        "the gate does not know our.views.Lines.split",
        "the gate does not know our.views.Send",
        "the gate does not know version of our.views.Known",
    ]
    assert "(/api/lines/<part_pk>/split/)" in found[0]


def test_a_release_without_addresses_has_a_problem(load: Callable[[str], Any]) -> None:
    def fails() -> None:
        raise ImportError("no urls")

    load("django.urls").get_resolver = fails
    module = load("escriptorium_cluster.gate.release")
    assert module.view_problems() == ["the gate cannot read the addresses: ImportError: no urls"]
