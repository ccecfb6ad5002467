"""Requests for a training beyond a user's bound: no Django, no database."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest
from escriptorium_cluster.fair_use import BUSY, REFUSED, REQUEST_SPACE, lock_number

from tests.unit.cluster.tables import Row, get_model, table

if TYPE_CHECKING:
    from collections.abc import Callable

ADA = SimpleNamespace(pk=7, is_authenticated=True)
NOBODY = SimpleNamespace(pk=None, is_authenticated=False)
API_VIEW = SimpleNamespace(actions={"post": "segtrain"})


class Database:
    """A connection to PostgreSQL that knows advisory locks."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.asked: list[str] = []
        self.lost = False

    def cursor(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str, parameters: list[int]) -> None:
        if self.lost:
            raise ConnectionError("gone")
        (number,) = parameters
        self.asked.append(statement)
        if "unlock" in statement:
            self.taken.remove(number)
        else:
            self.answer = number not in self.taken
            self.taken.add(number)

    def fetchone(self) -> tuple[bool]:
        return (self.answer,)


class Site:
    """The middleware, with what it finds in the database."""

    def __init__(self, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = load("django.db").connection = Database()
        load("django.conf").settings = SimpleNamespace(CLUSTER_USER_TRAININGS=2)
        load("django.http").JsonResponse = lambda content, status, headers=None: (
            content, status, *(headers or {}).items()
        )  # fmt: skip
        load("django.utils.translation").get_language = lambda: "de"
        self.module = load("escriptorium_cluster.requests_bound")
        self.found = 0
        self.seconds = 0.0
        monkeypatch.setattr(self.module, "unfinished", lambda user: self.found if user is ADA else 0)
        monkeypatch.setattr(self.module.time, "monotonic", lambda: self.seconds)
        monkeypatch.setattr(self.module.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def ask(self, made: Any, view: Any = API_VIEW) -> Any:
        """Ask for a training; None: the view answers."""

        def answer(request: Any) -> Any:
            found = middleware.process_view(request, view, [], {})
            self.locked = set(self.database.taken)
            return found

        middleware = self.module.TrainingsBound(answer)
        return middleware(made)


@pytest.fixture
def site(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(load, monkeypatch)


def request(method: str = "POST", user: Any = ADA, address: str = "", task: str = "", **headers: str) -> Any:
    match = SimpleNamespace(url_name=address)
    return SimpleNamespace(method=method, user=user, resolver_match=match, POST={"task": task}, headers=headers)


@pytest.mark.parametrize(
    ("made", "view", "kind"),
    [
        (request(), API_VIEW, "api"),
        (request(), SimpleNamespace(actions={"post": "train"}), "api"),
        (request(), SimpleNamespace(actions={"post": "segment"}), ""),
        (request("GET"), API_VIEW, ""),
        (request(address="document-parts-process", task="train"), None, "form"),
        (request(address="document-parts-process", task="segtrain"), SimpleNamespace(actions=None), "form"),
        (request(address="document-parts-process", task="transcribe"), None, ""),
        (request(address="document-edit", task="train"), None, ""),
        (request("GET", address="document-parts-process", task="train"), None, ""),
    ],
)
def test_what_asks_for_a_training(site: Site, made: Any, view: Any, kind: str) -> None:
    assert site.module.asks_for_training(made, view) == kind


def test_a_cancelled_training_of_many_pages_does_not_count(load: Callable[[str], Any]) -> None:
    states = {f"WORKFLOW_STATE_{state}": state for state in ("QUEUED", "STARTED", "CANCELED")}
    rows = [
        Row(user=ADA, method="core.tasks.train", task_id=job, workflow_state=state)
        for job, *found in (("a", "CANCELED", "QUEUED"), ("b", "QUEUED", "QUEUED"), ("c", "STARTED"), ("d", "QUEUED"))
        for state in found
    ]
    load("django.apps").apps.get_model = get_model(reporting_TaskReport=table(rows, **states))
    load("celery.states").REVOKED = "REVOKED"
    load("celery.result").AsyncResult = lambda job: SimpleNamespace(state="REVOKED" if job == "c" else "PENDING")
    assert load("escriptorium_cluster.requests_bound").unfinished(ADA) == 2


def test_within_the_bound_the_view_answers(site: Site) -> None:
    site.found = 1
    assert site.ask(request()) is None
    assert site.locked == {lock_number(REQUEST_SPACE, 7)}, "two requests at once would both be counted before either"
    assert site.database.taken == set()


def test_at_the_bound_a_program_is_refused(site: Site) -> None:
    site.found = 2
    error = {"non_field_errors": [REFUSED["de"].format(count=2, bound=2)]}
    assert site.ask(request()) == ({"status": "error", "error": error}, 400)
    assert site.database.taken == set()


def test_at_the_bound_a_form_is_refused(site: Site) -> None:
    site.found = 3
    content, status = site.ask(request(address="document-parts-process", task="train"), None)
    assert json.loads(content["error"]) == {"__all__": [REFUSED["de"].format(count=3, bound=2)]}
    assert status == 400


@pytest.mark.parametrize("made", [request("GET"), request(user=NOBODY)])
def test_others_are_not_looked_at(site: Site, made: Any) -> None:
    site.found = 9
    assert site.ask(made) is None
    assert site.database.asked == []


def test_an_earlier_request_of_the_same_user_is_waited_for_and_not_for_long(site: Site) -> None:
    other = lock_number(REQUEST_SPACE, 7)
    site.database.taken.add(other)
    content, status = site.ask(request())
    assert content["error"] == {"non_field_errors": [BUSY["de"]]}
    assert status == 400
    assert 5.0 < site.seconds < 5.3
    assert site.database.taken == {other}, "the lock of the other request is not freed"


def test_a_lock_of_a_lost_connection_is_no_error(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def answer(made: Any) -> str:
        made.cluster_trainings_lock = 1
        site.database.lost = True
        return "answer"

    assert site.module.TrainingsBound(answer)(request()) == "answer"
    assert "could not free the lock" in caplog.text


@pytest.mark.parametrize(("key", "user"), [("right", ADA), ("unknown", None), ("wrong", None)])
def test_a_program_is_known_by_its_key(site: Site, load: Callable[[str], Any], key: str, user: Any) -> None:
    framework = load("rest_framework.exceptions")

    class Request:
        """The framework's: asks the view's authenticators when its user is asked for."""

        def __init__(self, made: Any, authenticators: list[str]) -> None:
            assert authenticators == ["by key"]
            self.key = made.headers["Authorization"]

        @property
        def user(self) -> Any:
            if self.key == "wrong":
                raise framework.APIException
            return ADA if self.key == "right" else NOBODY

    load("rest_framework.request").Request = Request
    view = SimpleNamespace(cls=lambda: SimpleNamespace(get_authenticators=lambda: ["by key"]))
    assert site.module.asking_user(request(user=NOBODY, Authorization=key), view) is user


def test_a_key_goes_before_a_session(site: Site, load: Callable[[str], Any]) -> None:
    """The framework asks for it first: a request with both acts as the user of the key."""
    load("rest_framework.request").Request = lambda *_, **__: SimpleNamespace(user=ADA)
    view = SimpleNamespace(cls=lambda: SimpleNamespace(get_authenticators=list))
    other = SimpleNamespace(pk=8, is_authenticated=True)
    assert site.module.asking_user(request(user=other, Authorization="Token ada"), view) is ADA
    assert site.module.asking_user(request(user=other), view) is other
    # A form of the web pages knows sessions only.
    assert site.module.asking_user(request(user=other, Authorization="Token ada"), SimpleNamespace()) is other


def view_of(part: str) -> Any:
    """Return a view of the REST framework that shows rows of a part of the application."""
    queryset = SimpleNamespace(model=SimpleNamespace(_meta=SimpleNamespace(app_label=part)))
    return SimpleNamespace(cls=SimpleNamespace(queryset=queryset))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_reports_of_jobs_are_read_only(site: Site, method: str) -> None:
    """Who writes one, or puts a colleague's name on it, changes what the bound counts."""
    middleware = site.module.ReportsAreRead(str)
    content, status, allow = middleware.process_view(request(method), view_of("reporting"), [], {})
    assert (content["detail"], status) == ("Berichte über Aufträge schreiben die Aufträge selbst.", 405)
    assert allow == ("Allow", "GET, HEAD, OPTIONS")
    assert middleware.process_view(request(method), view_of("core"), [], {}) is None
    assert middleware(5) == "5"


@pytest.mark.parametrize("view", [view_of("reporting"), SimpleNamespace(cls=object), print])
def test_reading_and_other_views_are_not_looked_at(site: Site, view: Any) -> None:
    middleware = site.module.ReportsAreRead(None)
    assert middleware.process_view(request("GET" if hasattr(view, "cls") else "POST"), view, [], {}) is None


def test_who_names_no_key_is_nobody(site: Site) -> None:
    assert site.module.asking_user(request(user=NOBODY), SimpleNamespace(cls=object)) is None
    assert site.module.asking_user(request(user=NOBODY, Authorization="key"), SimpleNamespace()) is None
