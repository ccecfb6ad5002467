"""The commands that look at a release, prepare a site and reap jobs: no Django, no database."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cluster.tables import Row, Rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# --- check_release -----------------------------------------------------------------------------------------------


class Schema:
    """Which columns a query or an operation would change."""

    def __init__(self) -> None:
        self.tables: dict[str, list[int]] = {}
        #: Values of columns, by table.
        self.columns: dict[str, dict[str, list[int]]] = {}
        self.altered = True
        self.introspection = SimpleNamespace(
            table_names=lambda _: [*self.tables, *self.columns],
            get_table_description=lambda _, table: [SimpleNamespace(name=name) for name in self.columns[table]],
        )
        self.ops = SimpleNamespace(quote_name=lambda name: f'"{name}"')

    def cursor(self) -> Any:
        return nullcontext(self)

    def execute(self, statement: str, _: Any = None) -> None:
        if "lock" in statement:
            self.found = []
            return
        _, table, *column = statement.split('"')[:4]
        self.found = self.columns[table][column[1]] if "IS NOT NULL" in statement else self.tables[table]

    def fetchone(self) -> int | None:
        return self.found[0] if self.found else None

    def schema_editor(self, *, collect_sql: bool) -> Any:
        assert collect_sql, "the database would be changed"
        return nullcontext(SimpleNamespace(_field_should_be_altered=lambda *_: self.altered))


@pytest.fixture
def schema(load: Callable[[str], Any]) -> Schema:
    made = load("django.db").connection = Schema()
    return made


@pytest.fixture
def check(load: Callable[[str], Any], schema: Schema) -> Any:
    assert schema is not None
    return load("escriptorium_cluster.management.commands.check_release")


def operation(kind: str, **values: Any) -> Any:
    """Return an operation of a migration, whose name is its class."""
    about = {"reversible": True, "state_forwards": lambda _, state: state.done.append(kind), **values}
    return type(kind, (SimpleNamespace,), {"noop": staticmethod(noop) if kind == "RunPython" else ""})(**about)


def noop() -> None:
    """Do nothing: the way back that Django offers."""


def column(**values: Any) -> Any:
    """Return a field as Django describes it."""
    about = {
        "column": "title", "attname": "title", "null": False, "unique": False, "many_to_many": False, "max_length": 50,
        "remote_field": None, "db_constraint": True, "get_internal_type": lambda: "CharField",
        "get_default": lambda: "",
        "db_parameters": lambda _: {"type": f"varchar({values.get('max_length', 50)})"}, **values,
    }  # fmt: skip
    return SimpleNamespace(**about)


class State:
    """What the models are at some point of a migration."""

    def __init__(self, fields: dict[str, Any], done: list[str] | None = None, **meta: Any) -> None:
        self.fields, self.done, self.meta = fields, done or [], {"managed": True, "proxy": False, **meta}
        self.rows: list[Any] = []
        self.apps = self

    def clone(self) -> State:
        made = State(self.fields, list(self.done), **self.meta)
        made.rows = self.rows
        return made

    def get_model(self, *_: str) -> Any:
        many = [field for field in self.fields.values() if field.many_to_many]
        about = SimpleNamespace(
            get_field=self.fields.__getitem__, db_table="core_document", local_many_to_many=many,
            local_fields=[field for field in self.fields.values() if not field.many_to_many], **self.meta,
        )  # fmt: skip
        return SimpleNamespace(_meta=about, _base_manager=Rows(self.rows))


def changes(check: Any, *operations: Any, data: bool = False, state: State | None = None) -> list[Any]:
    """Return what a migration with these operations changes."""
    found = state or State({})
    loader = SimpleNamespace(
        project_state=lambda node, at_end: found if (node, at_end) == (("core", "2"), False) else None
    )
    migration = SimpleNamespace(app_label="core", name="2", operations=operations)
    return list(check.Command()._changes(loader, migration, data=data))


def test_code_is_known_by_its_migration_and_its_way_back(check: Any) -> None:
    idle = operation("RunPython", reverse_code=noop)
    real = operation("RunPython", reverse_code=print)
    sql = operation("RunSQL", reverse_sql="", reversible=False)
    found = changes(check, idle, real, sql)
    assert [(item.kind, item.subject, item.reversible, item.idle_back) for item in found] == [
        ("RunPython", "core.2", True, True), ("RunPython", "core.2", True, False), ("RunSQL", "core.2", False, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "required"),
    [
        ({}, True),
        ({"null": True}, False),
        ({"many_to_many": True}, False),
        ({"column": None}, False),
        ({"db_default": 1}, False),
    ],
)
def test_a_new_field_needs_a_value_or_not(check: Any, values: dict[str, Any], required: bool) -> None:
    state = State({"title": column(**values)})
    (found,) = changes(check, operation("AddField", model_name="document", name="title"), state=state)
    assert (found.subject, found.required, found.in_database) == ("core.document.title", required, True)
    assert not found.holds_data, "nobody has asked what it holds"


@pytest.mark.parametrize(("titles", "holds"), [([], False), (["", ""], False), (["", "Charters"], True), (None, True)])
def test_a_field_holds_something_when_a_row_has_more_than_its_default(
    check: Any, schema: Schema, titles: list[str] | None, holds: bool
) -> None:
    state = State({"title": column()})
    schema.columns = {"core_document": {"title": []} if titles is not None else {"headline": []}}
    state.rows = [Row(title=title) for title in titles or ()]
    (found,) = changes(check, operation("AddField", model_name="document", name="title"), data=True, state=state)
    assert found.holds_data is holds


def test_a_model_that_django_does_not_manage_is_not_in_the_database(check: Any) -> None:
    (found,) = changes(check, operation("CreateModel", name="Document"), state=State({}, managed=False))
    assert (found.subject, found.in_database) == ("core.Document", False)
    (found,) = changes(check, operation("DeleteModel", name="Document"), state=State({}, proxy=True))
    assert not found.in_database


@pytest.mark.parametrize(("rows", "holds"), [(None, True), ([], False), ([1], True)])
def test_a_table_holds_something_when_it_has_a_row(
    check: Any, schema: Schema, rows: list[int] | None, holds: bool
) -> None:
    schema.tables = {} if rows is None else {"core_document": rows}
    (found,) = changes(check, operation("CreateModel", name="Document"), data=True)
    assert found.holds_data is holds
    (found,) = changes(check, operation("CreateModel", name="Document"))
    assert not found.holds_data


def model(table: str, *fields: Any, auto: bool = False) -> Any:
    return SimpleNamespace(_meta=SimpleNamespace(db_table=table, local_fields=fields, auto_created=auto))


def link(name: str, table: str, **values: Any) -> Any:
    return column(column=f"{name}_id", remote_field=SimpleNamespace(model=model(table)), **values)


@pytest.mark.parametrize(
    ("rows", "links"),
    [
        ({"page_id": [1], "user_id": [], "mark_id": [1]}, {"core_page"}),
        ({"page_id": [], "user_id": [1], "mark_id": [1]}, {"users_user"}),
        # Renamed by a later migration: nobody can ask for it under its old name.
        ({"page_id": [], "mark_id": [1]}, {"users_user"}),
    ],
)
def test_a_new_table_keeps_rows_of_others_where_a_row_links_to_them(
    check: Any, schema: Schema, rows: dict[str, list[int]], links: set[str]
) -> None:
    fields = {
        "page": link("page", "core_page"),
        "user": link("user", "users_user", null=True),
        "mark": link("mark", "core_mark", db_constraint=False),
        "title": column(),
    }
    schema.columns, schema.tables = {"core_document": rows}, {"core_document": [1]}
    (found,) = changes(check, operation("CreateModel", name="Document"), data=True, state=State(fields))
    assert (found.table, found.links) == ("core_document", links)
    (found,) = changes(check, operation("CreateModel", name="Document"), state=State(fields))
    assert found.links == frozenset(), "nobody has asked what it holds"


@pytest.mark.parametrize("auto", [True, False])
def test_links_to_many_keep_rows_on_both_sides(check: Any, schema: Schema, auto: bool) -> None:
    through = model("core_page_tags", link("page", "core_page"), link("tag", "core_tag"), auto=auto)
    tags = column(many_to_many=True, column=None, remote_field=SimpleNamespace(through=through))
    schema.columns, schema.tables = {"core_page_tags": {"page_id": [1], "tag_id": [1]}}, {"core_page_tags": [1]}
    adding = operation("AddField", model_name="page", name="tags")
    (found,) = changes(check, adding, data=True, state=State({"tags": tags}))
    # Another model in between has a migration of its own.
    assert found.links == ({"core_page", "core_tag"} if auto else set())


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        ({}, {}, True),
        ({"max_length": 50}, {"max_length": 100}, True),
        ({"max_length": 50}, {"max_length": 20}, False),
        ({"null": True}, {}, False),
        ({}, {"null": True}, True),
        ({}, {"unique": True}, False),
        ({}, {"column": "name"}, False),
        ({"remote_field": 1, "related_model": "a"}, {"remote_field": 1, "related_model": "b"}, False),
        ({"remote_field": 1, "related_model": "a"}, {"remote_field": 1, "related_model": "a"}, True),
        ({"max_length": 50, "get_internal_type": lambda: "SlugField"}, {"max_length": 100}, False),
    ],
)
def test_an_altered_field_takes_all_that_it_took(check: Any, old: Any, new: Any, wider: bool) -> None:
    assert check.widens(column(**old), column(**new)) is wider


@pytest.mark.parametrize("altered", [False, True])
def test_django_says_whether_an_altered_field_changes_the_database(check: Any, schema: Schema, altered: bool) -> None:
    schema.altered = altered
    state = State({"title": column()})
    (found,) = changes(check, operation("AlterField", model_name="document", name="title"), state=state)
    assert (found.in_database, found.widens) == (altered, True)


def test_of_an_operation_in_two_parts_that_of_the_database_counts(check: Any) -> None:
    inner = operation("RemoveIndex", model_name="document", name="index")
    outer = operation("SeparateDatabaseAndState", database_operations=[inner, inner])
    assert [item.kind for item in changes(check, outer)] == ["RemoveIndex", "RemoveIndex"]


def test_a_release_whose_packages_are_others_has_a_problem(
    check: Any, load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("django.conf").settings.BASE_DIR = str(tmp_path / "app")
    assert check.Command()._pins() == [f"{tmp_path}/constraints.txt is missing"]
    (tmp_path / "constraints.txt").write_text("Django_Rest==1\nkraken==7\n")
    installed = [
        SimpleNamespace(metadata={"Name": "django.rest"}, version="1"),
        SimpleNamespace(metadata={"Name": "kraken"}, version="6"),
    ]
    monkeypatch.setattr(check.importlib.metadata, "distributions", lambda: installed)
    assert check.Command()._pins() == ["kraken is 6, and constraints.txt says 7"]


def test_a_release_that_cannot_be_imported_has_a_problem(
    check: Any, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise ImportError("no module named kraken")

    monkeypatch.setitem(sys.modules, "escriptorium_cluster.asgi", ModuleType("asgi"))
    load("escriptorium.celery").app = SimpleNamespace(loader=SimpleNamespace(import_default_modules=fails))
    assert list(check.Command()._imports()) == [
        "escriptorium.celery cannot be imported: ImportError: no module named kraken"
    ]


def test_errors_of_djangos_checks_are_problems_and_warnings_are_not(check: Any) -> None:
    check.ERROR = 40
    messages = [SimpleNamespace(id="core.E001", msg="wrong", level=40), SimpleNamespace(id="w", msg="so so", level=30)]
    check.run_checks = lambda **_: messages
    assert list(check.Command()._checks()) == ["core.E001: wrong"]

    def fails(**_: Any) -> None:
        raise ImportError("no urls")

    check.run_checks = fails
    assert list(check.Command()._checks()) == ["Django's checks end with ImportError: no urls"]


def test_the_answer_names_what_is_missing_and_what_is_not_known(
    check: Any, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.columns = {"core_document": {"title": []}}
    add = operation("AddField", model_name="document", name="title", describe=lambda: "Add field title")
    first = SimpleNamespace(app_label="core", name="1", operations=[], replaces=[("core", "0")])
    second = SimpleNamespace(app_label="core", name="2", operations=[add], replaces=[])
    nodes = {("core", "1"): first, ("core", "2"): second}
    graph = SimpleNamespace(nodes=nodes, leaf_nodes=lambda *_: [("core", "2")])
    state = State({"title": column()})
    loader = SimpleNamespace(
        graph=graph,
        disk_migrations=nodes,
        applied_migrations={("core", "1"): 1, ("core", "0"): 1, ("core", "3"): 1, ("old", "1"): 1},
        project_state=lambda *_, **__: state,
    )
    executor = SimpleNamespace(loader=loader, migration_plan=lambda leaves: [(second, False)] if leaves else [])
    check.MigrationExecutor = lambda _: executor
    for name in ("_imports", "_checks", "_pins"):
        monkeypatch.setattr(check.Command, name, lambda _, name=name: [name])
    monkeypatch.setattr(check, "view_problems", lambda: ["views"])
    command = check.Command()
    command.stdout = io.StringIO()
    finding = check.release_demands.Finding
    command._findings = lambda *folders: [finding(f"setting:{name}", "gone") for name in folders]
    command.handle(applied="core.2,core.9", before="/current/app", environment="/env")
    answer = json.loads(command.stdout.getvalue())
    harm = "core.document.title has to have a value, and the release before gives none"
    assert answer == {
        "problems": ["_imports", "_checks", "_pins", "views"],
        "missing": [{"name": "core.2", "operations": ["Add field title"]}],
        "harms": [harm],
        "unknown": ["core.3", "old.1"],
        "targets": {"core": "2", "old": "zero"},
        "applied": ["core.2"],
        "decision": "back",
        "why": [harm],
        "findings": [{"name": "setting:/current/app", "text": "gone"}, {"name": "setting:/env", "text": "gone"}],
    }


def test_what_a_release_asks_for_and_nobody_serves_is_told(
    check: Any, load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queues from settings, routes and calls, tasks, settings of the package and of the site, and Kraken."""
    (app, before) = (tmp_path / "app", tmp_path / "before")
    app.mkdir()
    before.mkdir()
    (app / "tasks.py").write_text('task.apply_async(queue="called")\nNEW_URL = 1\n')
    (before / "tasks.py").write_text("OLD_URL, OLD_PRECISION, EMAIL_PORT, CELERY_OLD = 1\n")
    (tmp_path / "environment").write_text('OLD_URL="http://search"\nSECRET_KEY="x"\n')
    load("django.conf").settings.BASE_DIR = str(app)
    check.global_settings = SimpleNamespace(EMAIL_PORT=25)
    upstream = load("escriptorium.settings")
    upstream.CELERY_TASK_QUEUES = [SimpleNamespace(name=name) for name in ("default", "declared")]
    upstream.CELERY_TASK_ROUTES = {"core.tasks.train": {"queue": "gpu"}, "core.tasks.x": {"queue": "routed"}}
    upstream.CELERY_TASK_DEFAULT_QUEUE = "default"
    tasks = {"core.tasks.train": 1, "core.tasks.qualify_model": 1, "celery.chord": 1}
    load("escriptorium.celery").app = SimpleNamespace(
        tasks=tasks, loader=SimpleNamespace(import_default_modules=lambda: None)
    )
    ours = SimpleNamespace(OLD_PRECISION="32", EMAIL_PORT=25, CELERY_OLD=1, _config=1)
    importing = check.importlib.import_module
    stand_in = SimpleNamespace(
        import_module=lambda name: ours if name == "escriptorium_cluster.settings" else importing(name),
        metadata=SimpleNamespace(version=lambda _: "7.1.1", PackageNotFoundError=ImportError),
    )
    monkeypatch.setattr(check, "importlib", stand_in)
    found = [item.name for item in check.Command()._findings(str(before), str(tmp_path / "environment"))]
    assert found == [
        "queue:called", "queue:declared", "queue:routed", "task:core.tasks.qualify_model",
        "setting:OLD_PRECISION", "setting:OLD_URL", "kraken:7",
    ]  # fmt: skip
    assert not any(item.name.startswith("setting:") for item in check.Command()._findings("", ""))


# --- migrate_site ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "calls"),
    [([], [()]), (["core=0004_sharing", "users=zero"], [("core", "0004_sharing"), ("users", "zero")])],
)
def test_migrations_wait_for_those_of_a_run_that_was_broken_off(
    load: Callable[[str], Any], targets: list[str], calls: list[tuple[str, ...]]
) -> None:
    done: list[Any] = []
    cursor = SimpleNamespace(execute=lambda statement, values: done.append((statement, values)))
    load("django.db").connection = SimpleNamespace(cursor=lambda: nullcontext(cursor))
    load("django.core.management").call_command = lambda command, *words, **_: done.append((command, *words))
    module = load("escriptorium_cluster.management.commands.migrate_site")
    module.Command().handle(targets=targets)
    lock = ("SELECT pg_advisory_lock(%s)", [module.LOCK_NUMBER])
    assert done == [lock, *(("migrate", *words) for words in calls)]


# --- prepare_site ------------------------------------------------------------------------------------------------

REQUEST = {
    "admin_name": "chief",
    "admin_email": "chief@example.org",
    "admin_password": "correct-horse",
    "domain": "htr.example.org",
    "site_name": "H" * 60,
}


class User(Row):
    """An account."""

    def check_password(self, password: str) -> bool:
        return bool(self.password == password)

    def set_password(self, password: str) -> None:
        self.password = password


class Users(Rows):
    """Accounts that can be made."""

    def create_superuser(self, name: str, email: str, password: str) -> None:
        self.rows.append(User(username=name, email=email, password=password, is_superuser=True))


class Prepared:
    """A site, and the command that prepares it."""

    def __init__(self, load: Callable[[str], Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.users = Users([])
        self.sites: list[Row] = []
        self.plan: list[str] = []
        self.called: list[tuple[str, str | None]] = []
        self.free = True
        self.static = folder / "static"
        self.static.mkdir()
        settings = {"SITE_ID": 1, "STATIC_ROOT": str(self.static), "BASE_DIR": str(folder), "FRONTEND_DIR": str(folder)}
        load("django.conf").settings = SimpleNamespace(**settings)
        load("django.contrib.auth").get_user_model = lambda: SimpleNamespace(objects=self.users)
        load("django.contrib.sites.models").Site = SimpleNamespace(objects=self)
        load("django.contrib.staticfiles.storage").staticfiles_storage = SimpleNamespace()
        load("django.contrib.staticfiles.management.commands").collectstatic = SimpleNamespace(
            Command=lambda **_: SimpleNamespace()
        )
        load("django.db").connection = SimpleNamespace(cursor=lambda: nullcontext(self))
        load("django.core.management").call_command = self.call
        self.module = load("escriptorium_cluster.management.commands.prepare_site")
        loader = SimpleNamespace(graph=SimpleNamespace(leaf_nodes=lambda: "leaves"))
        executor = SimpleNamespace(loader=loader, migration_plan=lambda leaves: self.plan if leaves == "leaves" else [])
        self.module.MigrationExecutor = lambda _: executor
        monkeypatch.setattr(self.module, "fingerprint", lambda *_: "abc")
        monkeypatch.setattr(self.module, "replace_files", lambda _, root: (root / "app.js").write_text("new"))

    def filter(self, pk: int) -> Rows:
        return Rows(self.sites).filter(pk=pk)

    def update_or_create(self, pk: int, defaults: dict[str, str]) -> None:
        self.sites[:] = [Row(pk=pk, **defaults)]

    def execute(self, statement: str, _: list[int]) -> None:
        self.called.append((statement.partition("(")[0], None))

    def fetchone(self) -> tuple[bool]:
        return (self.free,)

    def call(self, command: Any, **_: Any) -> None:
        self.called.append(
            (command if isinstance(command, str) else "collectstatic", os.environ.get("DJANGO_SU_PASSWORD"))
        )

    def run(self, *, dry_run: bool = False, **values: str) -> list[str]:
        self.patch.setattr("sys.stdin", io.StringIO(json.dumps(REQUEST | values)))
        command = self.module.Command()
        command.stdout = command.stderr = io.StringIO()
        command.handle(dry_run=dry_run)
        return list(json.loads(command.stdout.getvalue())["changed"])


@pytest.fixture
def site(load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    return Prepared(load, tmp_path, monkeypatch)


ALL = ["migrations (2)", "site", "administrator", "static files"]


def test_a_new_site_gets_all_and_a_second_run_changes_nothing(site: Prepared) -> None:
    site.plan = ["one", "two"]
    assert site.run() == ALL
    assert site.called == [
        ("SELECT pg_try_advisory_lock", None),
        ("migrate", "correct-horse"),
        ("collectstatic", None),
        ("SELECT pg_advisory_unlock", None),
    ]
    assert "DJANGO_SU_PASSWORD" not in os.environ
    assert [(row.domain, row.name) for row in site.sites] == [("htr.example.org", "H" * 50)]
    assert [(user.username, user.is_superuser) for user in site.users] == [("chief", True)]
    assert (site.static / ".collected").read_text() == "abc\n"
    site.plan = []
    assert site.run() == []


def test_a_dry_run_says_the_same_and_does_nothing(site: Prepared) -> None:
    site.plan = ["one", "two"]
    assert site.run(dry_run=True) == ["migrations (2)", "site", "administrator (after the migrations)", "static files"]
    site.plan = []
    assert site.run(dry_run=True) == ALL[1:]
    assert (site.sites, len(site.users), list(site.static.iterdir())) == ([], 0, [])
    assert {name for name, _ in site.called} == {"SELECT pg_try_advisory_lock", "SELECT pg_advisory_unlock"}


def test_an_administrators_password_is_left_alone(site: Prepared) -> None:
    site.users.rows.append(User(username="chief", password="changed by hand", is_superuser=True))
    assert "administrator" not in site.run()
    assert site.users[0].password == "changed by hand"


def test_nobody_can_log_in_as_admin_with_that_password(site: Prepared) -> None:
    site.users.rows += [
        User(username="admin", password="admin", is_superuser=True),
        User(username="chief", password="", is_superuser=True),
    ]
    assert "password of the account 'admin' (it was 'admin')" in site.run(dry_run=True)
    assert site.users[0].password == "admin"
    assert "password of the account 'admin' (it was 'admin')" in site.run()
    assert (site.users[0].password, site.users[0].saved) == ("correct-horse", 1)
    assert site.run() == []


def test_an_ordinary_account_is_not_made_an_administrator(site: Prepared) -> None:
    site.users.rows.append(User(username="chief", password="x", is_superuser=False))
    with pytest.raises(site.module.CommandError, match="'chief' exists and is no administrator"):
        site.run()
    assert not site.users[0].is_superuser
    assert site.called[-1][0] == "SELECT pg_advisory_unlock"


def test_the_folder_of_static_files_is_made(site: Prepared) -> None:
    site.static.rmdir()
    assert "static files" in site.run(dry_run=True)
    assert not site.static.exists()
    site.run()
    assert (site.static / ".collected").read_text() == "abc\n"


def test_static_files_of_another_release_are_replaced(site: Prepared) -> None:
    site.run()
    (site.static / ".collected").write_text("of another release\n")
    assert site.run() == ["static files"]


def test_a_second_run_is_kept_out_and_a_wrong_request_refused(site: Prepared) -> None:
    with pytest.raises(site.module.CommandError, match="admin_password"):
        site.run(admin_password="admin")
    assert site.called == []
    site.free = False
    with pytest.raises(site.module.CommandError, match="another prepare_site is running"):
        site.run()
    assert len(site.users) == 0


def test_the_environment_is_as_it_was(site: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "before")
    with site.module.environment({"KEPT": "inside", "NEW": "inside"}):
        assert (os.environ["KEPT"], os.environ["NEW"]) == ("inside", "inside")
    assert os.environ["KEPT"] == "before"
    assert "NEW" not in os.environ


# --- reap_jobs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dead", "arguments"), [(None, ["--json"]), ("compute1", ["--json", "--dead", "compute1"])])
def test_reap_jobs_runs_the_reaper(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, dead: str | None, arguments: list[str]
) -> None:
    module = load("escriptorium_cluster.management.commands.reap_jobs")
    load("django.core.management.base")
    asked: list[Any] = []
    monkeypatch.setattr(module, "main", asked.append)
    module.Command().handle(dead=dead)
    assert asked == [arguments]


def test_reap_jobs_fails_where_the_reaper_does(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class CommandError(Exception):
        def __init__(self, text: str, returncode: int) -> None:
            super().__init__(text)
            self.returncode = returncode

    load("django.core.management.base").CommandError = CommandError
    module = load("escriptorium_cluster.management.commands.reap_jobs")
    monkeypatch.setattr(module, "main", lambda _: 75)
    with pytest.raises(CommandError) as caught:
        module.Command().handle(dead=None)
    assert caught.value.returncode == 75
