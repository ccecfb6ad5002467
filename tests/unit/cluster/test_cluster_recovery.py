"""What comes back from a copy of the database, and what does not: rows in memory, one set of today, one of before."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cluster.tables import Row, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

CASCADE, SET_NULL = "cascade", "set null"


def field(name: str, target: Any = None, *, null: bool = False, on_delete: str = CASCADE, **facts: Any) -> Any:
    """Return a column, or a link to another model."""
    about = {"primary_key": False, "is_relation": target is not None, "db_constraint": True, **facts}
    return SimpleNamespace(
        name=name,
        attname=f"{name}_id" if target else name,
        null=null,
        related_model=target,
        target_field=SimpleNamespace(primary_key=True),
        remote_field=SimpleNamespace(on_delete=on_delete),
        **about,
    )


class Model(Row):
    """A row; its class has the rows of both databases."""


def model(label: str, *fields: Any) -> Any:
    """Return a model class without rows."""
    made: Any = type(label, (Model,), {"rows": {"default": [], "recovered": []}})
    made._meta = SimpleNamespace(label=label, local_concrete_fields=fields, concrete_model=made)
    made._base_manager = SimpleNamespace(using=lambda alias: Rows(made.rows[alias]))
    return made


class Site:
    """Users, projects, documents and pages: yesterday's and today's."""

    def __init__(self, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        load("django.db.models").CASCADE = CASCADE
        self.user = model("users.User", field("username"))
        self.project = model("core.Project", field("slug"), field("owner", self.user, null=True, on_delete=SET_NULL))
        self.document = model(
            "core.Document", field("project", self.project), field("script", self.user, null=True, on_delete=SET_NULL)
        )
        self.page = model("core.DocumentPart", field("document", self.document), field("order"))
        self.checked = 0
        self.inserted: list[tuple[str, list[Any]]] = []
        load("django.db.transaction").atomic = nullcontext
        load("django.db").connections = {"default": SimpleNamespace(check_constraints=self.check)}
        load("django.db.models.query").QuerySet = lambda made: SimpleNamespace(
            _insert=lambda rows, *, fields, using, raw: self.insert(made, rows, fields, (using, raw))
        )
        self.module = load("escriptorium_cluster.recovery")
        self.keys: dict[Any, set[int]] = {}
        monkeypatch.setattr(self.module, "taken_along", lambda _: self.keys)
        self.add(self.user, 1, username="ada")

    def check(self) -> None:
        self.checked += 1

    def insert(self, made: Any, rows: list[Any], fields: Any, way: Any) -> None:
        assert fields == list(made._meta.local_concrete_fields)
        assert way == ("default", True), "the dates of the last change would be today's"
        self.inserted.append((made._meta.label, [row.pk for row in rows]))

    def add(self, made: Any, pk: int, databases: tuple[str, ...] = ("default", "recovered"), **values: Any) -> Any:
        """Put a row into one or both databases; answer that of yesterday."""
        for alias in databases:
            row = made(pk=pk, **values)
            made.rows[alias].append(row)
        if databases == ("recovered",):
            self.keys.setdefault(made, set()).add(pk)
        return row

    def lost(self, made: Any, pk: int, **values: Any) -> Any:
        return self.add(made, pk, ("recovered",), **values)

    def lost_document(self, **values: Any) -> Any:
        return self.lost(self.document, 7, **{"project_id": 3, "script_id": None, "name": "Charters", **values})

    def with_project(self) -> None:
        self.add(self.project, 3, slug="p", owner_id=1, name="Project")

    def recover(self, root: Any, kind: str = "document") -> Any:
        return self.module.Recovery(kind, root)


@pytest.fixture
def site(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(load, monkeypatch)


def test_a_document_comes_back_with_its_pages(site: Site) -> None:
    site.with_project()
    root = site.lost_document()
    for pk in (11, 12):
        site.lost(site.page, pk, document_id=7, order=pk)
    found = site.recover(root)
    assert found.numbers() == {"core.Document": 1, "core.DocumentPart": 2}
    assert found.lines() == ["document 7:Charters: 1 core.Document, 2 core.DocumentPart"]
    found.bring()
    assert site.inserted == [("core.Document", [7]), ("core.DocumentPart", [11, 12])]
    assert site.checked == 1


def test_a_row_that_is_there_stays_as_it_is(site: Site) -> None:
    site.with_project()
    root = site.lost_document()
    site.keys[site.page] = {11, 12}
    site.lost(site.page, 12, document_id=7, order=2)
    site.add(site.page, 11, document_id=7, order=1)
    found = site.recover(root)
    assert found.numbers() == {"core.Document": 1, "core.DocumentPart": 1}
    assert "1 core.DocumentPart are there already and stay as they are" in found.lines()


def test_a_number_that_another_row_has_today_is_not_overwritten(site: Site) -> None:
    site.with_project()
    root = site.lost_document()
    site.lost(site.page, 11, document_id=7, order=1)
    site.add(site.page, 11, ("default",), document_id=8, order=1)
    with pytest.raises(site.module.RefusedError, match=r"1 numbers belong to other rows today, such as core\.Documen"):
        site.recover(root)


def test_without_its_project_a_document_does_not_come_back(site: Site) -> None:
    root = site.lost_document()
    with pytest.raises(site.module.RefusedError, match=r"document 7: core\.Project 3 is gone; bring that back first"):
        site.recover(root)


def test_what_depends_on_something_that_is_gone_is_left_out_with_all_below(site: Site) -> None:
    """A page belongs to a document that comes back with it, and that one to a project that is gone."""
    site.add(site.project, 3, slug="p", owner_id=1, name="Project")
    root = site.lost_document()
    site.lost(site.document, 8, project_id=4, script_id=None, name="Other")
    site.lost(site.page, 11, document_id=7, order=1)
    site.lost(site.page, 12, document_id=8, order=1)
    found = site.recover(root)
    assert found.numbers() == {"core.Document": 1, "core.DocumentPart": 1}
    assert found.lines()[1:] == [
        "left out: 1 core.Document, since core.Project 4 is gone",
        "left out: 1 core.DocumentPart, since core.Document 8 is gone",
    ]


def test_a_link_that_may_be_empty_comes_back_empty_when_its_target_is_gone(site: Site) -> None:
    site.with_project()
    root = site.lost_document(script_id=9)
    found = site.recover(root)
    assert "1 core.Document come back without their script, which is gone" in found.lines()
    found.bring()
    assert root.script_id is None


def test_a_project_without_its_owner_does_not_come_back(site: Site) -> None:
    root = site.lost(site.project, 3, slug="p", owner_id=9, owner="ben", name="Project")
    with pytest.raises(site.module.RefusedError, match="its owner, ben, is gone"):
        site.recover(root, "project")


def test_an_address_that_is_taken_is_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.module.time, "time", lambda: 255.0)
    site.add(site.project, 5, ("default",), slug="p", owner_id=1, name="New")
    root = site.lost(site.project, 3, slug="p", owner_id=1, name="Project")
    found = site.recover(root, "project")
    assert found.notes == ["its address in the application is 'pff': another project has 'p' today"]
    found.bring()
    assert root.slug == "pff"


def test_a_refusal_of_the_database_is_told(site: Site, load: Callable[[str], Any]) -> None:
    site.with_project()
    found = site.recover(site.lost_document())

    def check() -> None:
        raise load("django.db").IntegrityError("violates\n foreign key")

    site.module.connections["default"].check_constraints = check
    with pytest.raises(site.module.RefusedError, match="violates foreign key"):
        found.bring()


def test_files_are_those_of_the_rows_that_come_back(site: Site, load: Callable[[str], Any]) -> None:
    class FileField(SimpleNamespace):
        pass

    load("django.db.models").FileField = FileField
    file = FileField(**vars(field("file")))
    trained = model("core.OcrModel", field("name"), file, field("versions"))
    root = site.lost(
        trained, 4, name="hand", file="models/hand", versions=[{"data": {"file": "models/old"}}, {"data": {}}]
    )
    site.lost(trained, 5, name="none", file="", versions=None)
    found = site.recover(root, "model")
    assert found.files() == ["models/hand", "models/old"]


def test_a_job_of_that_moment_has_ended(site: Site) -> None:
    trained = model("core.OcrModel")(training=True)
    site.module._end_jobs(trained)
    assert not trained.training
    states = {"WORKFLOW_STATE_STARTED": 1, "WORKFLOW_STATE_ERROR": 2}
    running, done = (model("imports.DocumentImport")(workflow_state=state, **states) for state in (1, 3))
    site.module._end_jobs(running)
    site.module._end_jobs(done)
    assert (running.workflow_state, done.workflow_state) == (2, 3)


@pytest.mark.parametrize(
    ("today", "before", "reason"),
    [
        ("Charters", "Charters", "is still there"),
        ("Letters", "Charters", "is 'Letters' today"),
        (None, None, "there was none at that moment"),
        (None, "Letters", "its name was 'Letters', not 'Charters'"),
        (None, "Charters", None),
    ],
)
def test_what_is_to_come_back_is_found_by_number_and_name(
    site: Site, monkeypatch: pytest.MonkeyPatch, today: str | None, before: str | None, reason: str | None
) -> None:
    for alias, name in (("default", today), ("recovered", before)):
        if name:
            site.document.rows[alias].append(site.document(pk=7, name=name))
    monkeypatch.setattr(site.module, "get", {"core.Document": site.document}.get)
    named = site.module.Named(7, "Charters")
    if reason is None:
        assert site.module.find("document", named).name == "Charters"
    else:
        with pytest.raises(site.module.RefusedError, match=reason):
            site.module.find("document", named)


def test_a_row_is_known_by_its_birth_or_its_owners(site: Site) -> None:
    born = model("core.Note", field("text"), field("made", auto_now_add=True), field("page", site.page))
    assert site.module.identity(born) == ["made"]
    assert site.module.identity(site.page) == ["document_id"]
    assert site.module.identity(model("core.Word", field("id", primary_key=True), field("text"))) == ["text"]


def test_many_keys_are_read_some_at_a_time(site: Site) -> None:
    assert [len(chunk) for chunk in site.module.chunks(range(1001))] == [500, 500, 1]
    assert list(site.module.chunks({3, 1, 2})) == [[1, 2, 3]]


class Server:
    """Both databases, by the migrations that were applied to them."""

    def __init__(self, load: Callable[[str], Any], site: Site, applied: Any) -> None:
        class Connections(dict[str, Any]):
            databases: dict[str, Any] = {}  # noqa: RUF012 - one for each

        own = SimpleNamespace(settings_dict={"NAME": "escriptorium", "PASSWORD": "secret", "HOST": "db", "PORT": 5432})
        self.connections = Connections(default=own, recovered="the copy")
        site.module.connections = self.connections
        error = load("django.db").DatabaseError

        def recorder(connection: Any) -> Any:
            found = {("core", "1"), ("core", "2")} if connection is own else applied
            if found is None:
                raise error("no socket")
            return SimpleNamespace(applied_migrations=lambda: found)

        site.module.MigrationRecorder = recorder


def test_the_copy_is_reached_without_the_password(site: Site, load: Callable[[str], Any]) -> None:
    server = Server(load, site, {("core", "1"), ("core", "2")})
    site.module.connect({"host": "/run/copy", "port": 5433})
    assert server.connections.databases["recovered"] == {
        "NAME": "escriptorium", "PASSWORD": "", "HOST": "/run/copy", "PORT": "5433", "CONN_MAX_AGE": 0
    }  # fmt: skip
    assert server.connections["default"].settings_dict["PASSWORD"] == "secret"


@pytest.mark.parametrize(
    ("applied", "reason"), [({("core", "1")}, r"another release .* such as core\.2"), (None, "does not answer: no soc")]
)
def test_a_copy_of_another_release_is_refused(
    site: Site, load: Callable[[str], Any], applied: Any, reason: str
) -> None:
    Server(load, site, applied)
    with pytest.raises(site.module.RefusedError, match=reason):
        site.module.connect({})


@pytest.fixture
def recover(site: Site, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command; answer what it prints and whether something was brought back."""
    command = load("escriptorium_cluster.management.commands.recover")
    brought: list[int] = []
    site.with_project()
    root = site.lost_document()
    monkeypatch.setattr(command, "connect", lambda _: None)
    monkeypatch.setattr(command, "find", lambda *_: root)
    monkeypatch.setattr(command.Recovery, "bring", lambda _: brought.append(1))

    def run(text: str) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        made = command.Command()
        made.stdout = io.StringIO()
        made.handle()
        return json.loads(made.stdout.getvalue()), len(brought)

    run.error = command.CommandError  # type: ignore[attr-defined]
    return run


def test_without_the_word_nothing_is_brought_back(recover: Callable[..., Any]) -> None:
    request = {"kind": "document", "named": "7:Charters", "server": {"host": "/run/copy"}}
    answer, brought = recover(json.dumps(request))
    assert (answer["changed"], answer["rows"], answer["files"], brought) == (False, {"core.Document": 1}, [], 0)
    answer, brought = recover(json.dumps(request | {"bring": True}))
    assert (answer["changed"], brought) == (True, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "request: "),
        ("[]", "wanted an object"),
        ('{"kind": "document", "server": "/run/copy"}', "wanted an object"),
        ('{"kind": "document", "server": {}, "bringg": true}', "wanted an object"),
        ('{"kind": "line", "server": {}}', "kind is 'line'"),
        ('{"kind": "document", "server": {}, "named": "Charters"}', "refused: .*NUMBER:NAME"),
    ],
)
def test_requests_that_are_none(recover: Any, text: str, reason: str) -> None:
    with pytest.raises(recover.error, match=reason):
        recover(text)
