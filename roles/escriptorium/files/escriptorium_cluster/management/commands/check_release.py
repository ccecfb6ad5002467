"""Looks whether this release can run here, and what its migrations mean. Changes nothing.

    manage.py check_release [--applied core.0075_x,users.0023_y]
    manage.py check_release --before /opt/escriptorium/current/app --environment /etc/escriptorium/candidate.env

Run beside the current release before an upgrade. The last line of standard output is one JSON object:

- ``problems``: why this release cannot run (imports, Django's checks, versions of packages, views that the gate does
  not know);
- ``findings``: what it asks of the platform that it does not give, each with ``name`` and ``text``
  (release_demands.py); settings with a new name only where ``--before`` names the source of the release that runs;
- ``missing``: migrations that the database lacks, with their operations;
- ``harms``: what processes of the release before would run into once they are applied;
- ``unknown``: applied migrations that this release does not know, as after going back to it;
- ``targets``: for each application with such migrations, the newest one that this release knows;
- ``decision`` and ``why``: how the release before can run again after the migrations named by ``--applied``, of which
  ``applied`` repeats those that this release knows: others are older than it, and were left by an earlier one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import global_settings, settings
from django.core.checks import ERROR, run_checks
from django.core.management.base import BaseCommand
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import NOT_PROVIDED

from escriptorium_cluster import release_demands
from escriptorium_cluster.gate.release import view_problems
from escriptorium_cluster.migration_plan import Change, decide_back, harm, normal_name, pin_problems, reasons
from escriptorium_cluster.site_request import LOCK_NUMBER

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterable, Iterator

#: What web processes and workers import first.
ENTRIES = ("escriptorium.wsgi", "escriptorium.asgi", "escriptorium_cluster.asgi", "escriptorium.celery")


class Command(BaseCommand):
    """The management command."""

    help = "Look whether this release can run on this host and database, and what its migrations mean."
    # They are run below, and their words are a part of the answer.
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare ``--applied``, ``--before`` and ``--environment``."""
        parser.add_argument("--applied", default="", help="judge the way back of these migrations, comma-separated")
        parser.add_argument("--before", default="", help="folder with the source of the release that runs")
        parser.add_argument("--environment", default="", help="file with the environment that this release will have")

    def handle(self, *args: Any, **options: Any) -> None:
        """Look at everything; prints one JSON line."""
        with contextlib.redirect_stdout(sys.stderr):
            answer = self._look([name for name in options["applied"].split(",") if name])
            answer["findings"] = release_demands.told(self._findings(options["before"], options["environment"]))
        self.stdout.write(json.dumps(answer))

    def _look(self, applied: list[str]) -> dict[str, Any]:
        # Migrations of a run that was broken off may go on still (migrate_site). Given back with the connection.
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock_shared(%s)", [LOCK_NUMBER])
        executor = MigrationExecutor(connection)
        loader = executor.loader
        plan = [migration for migration, _ in executor.migration_plan(loader.graph.leaf_nodes())]
        changes = {f"{m.app_label}.{m.name}": list(self._changes(loader, m, data=False)) for m in plan}
        known = set(loader.graph.nodes) | set(loader.disk_migrations)
        known |= {name for migration in loader.disk_migrations.values() for name in migration.replaces}
        unknown = sorted(key for key in loader.applied_migrations if key not in known)
        own = [name for name in applied if self._key(name) in loader.graph.nodes]
        back = [change for name in own for change in self._changes(loader, self._migration(loader, name), data=True)]
        decision, why = decide_back(back)
        return {
            "problems": [*self._imports(), *self._checks(), *self._pins(), *view_problems()],
            "missing": [{"name": name, "operations": self._texts(loader, name)} for name in changes],
            "harms": reasons(harm(change) for found in changes.values() for change in found),
            "unknown": [".".join(key) for key in unknown],
            "targets": {app: self._newest(loader, app) for app in sorted({app for app, _ in unknown})},
            "applied": own,
            "decision": decision,
            "why": why,
        }

    def _imports(self) -> Iterator[str]:
        for name in ENTRIES:
            try:
                module = importlib.import_module(name)
                if name.endswith(".celery"):
                    module.app.loader.import_default_modules()
            except Exception as error:  # whatever it is, processes of this release would not start
                yield f"{name} cannot be imported: {type(error).__name__}: {error}"

    def _checks(self) -> Iterator[str]:
        try:
            found = run_checks(include_deployment_checks=False)
        except Exception as error:  # checks import all URLs, and what is wrong with them
            yield f"Django's checks end with {type(error).__name__}: {error}"
        else:
            yield from (f"{message.id}: {message.msg}" for message in found if message.level >= ERROR)

    def _pins(self) -> list[str]:
        constraints = Path(settings.BASE_DIR).parent / "constraints.txt"
        if not constraints.is_file():
            return [f"{constraints} is missing"]
        installed = {normal_name(item.metadata["Name"]): item.version for item in importlib.metadata.distributions()}
        return pin_problems(constraints.read_text().splitlines(), installed)

    def _findings(self, before: str, environment: str) -> Iterator[release_demands.Finding]:
        source = release_demands.read_source(Path(settings.BASE_DIR))
        upstream = importlib.import_module("escriptorium.settings")
        queues = {queue.name for queue in upstream.CELERY_TASK_QUEUES} | release_demands.routed(
            upstream.CELERY_TASK_ROUTES
        )
        yield from release_demands.unserved(queues | source.queues | {upstream.CELERY_TASK_DEFAULT_QUEUE})
        # One that cannot be imported is a problem, and told there.
        with contextlib.suppress(Exception):
            app = importlib.import_module("escriptorium.celery").app
            app.loader.import_default_modules()
            yield from release_demands.unknown_tasks(app.tasks)
        if before:
            # What Django and Celery read by themselves works whatever the release names.
            names = [
                name
                for name in dir(importlib.import_module("escriptorium_cluster.settings"))
                if name.isupper() and not name.startswith("CELERY_") and not hasattr(global_settings, name)
            ]
            names += release_demands.variables(Path(environment).read_text()) if environment else []
            yield from release_demands.renamed(names, release_demands.read_source(Path(before)), source)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield from release_demands.other_kraken(importlib.metadata.version("kraken"))

    @staticmethod
    def _newest(loader: Any, app: str) -> str:
        """Return the newest migration of an application that this release knows, or ``zero``."""
        leaves = [name for label, name in loader.graph.leaf_nodes(app) if label == app]
        return leaves[0] if leaves else "zero"

    @staticmethod
    def _key(name: str) -> tuple[str, str]:
        app, _, migration = name.partition(".")
        return app, migration

    def _migration(self, loader: Any, name: str) -> Any:
        return loader.graph.nodes[self._key(name)]

    def _texts(self, loader: Any, name: str) -> list[str]:
        return [operation.describe() for operation in self._migration(loader, name).operations]

    def _changes(self, loader: Any, migration: Any, *, data: bool) -> Iterator[Change]:
        """Yield what a migration changes; with ``data``, it is applied, and what it made may hold something."""
        state = loader.project_state((migration.app_label, migration.name), at_end=False)
        for operation in migration.operations:
            before = state.clone()
            operation.state_forwards(migration.app_label, state)
            # One part of it changes the database, the other only what Django knows.
            if type(operation).__name__ == "SeparateDatabaseAndState":
                inner_before = before
                for inner in operation.database_operations:
                    inner_after = inner_before.clone()
                    inner.state_forwards(migration.app_label, inner_after)
                    yield self._change(migration, inner, inner_before, inner_after, data)
                    inner_before = inner_after
            else:
                yield self._change(migration, operation, before, state.clone(), data)

    def _change(self, migration: Any, operation: Any, before: Any, after: Any, data: bool) -> Change:
        kind = type(operation).__name__
        app = migration.app_label
        names = (getattr(operation, attribute, None) for attribute in ("model_name", "old_name", "name"))
        subject = f"{app}.{migration.name if kind in {'RunPython', 'RunSQL'} else next(filter(None, names), '')}"
        facts: dict[str, Any] = {"reversible": bool(operation.reversible), "idle_back": idle_back(operation)}
        if kind in {"AddField", "RemoveField", "AlterField", "RenameField"}:
            name = operation.old_name if kind == "RenameField" else operation.name
            subject = f"{app}.{operation.model_name}.{name}"
        if kind == "AddField":
            found = after.apps.get_model(app, operation.model_name)
            field = meta(found).get_field(operation.name)
            facts["in_database"] = meta(found).managed and not meta(found).proxy
            facts["required"] = is_required(field)
            data = data and facts["in_database"]
            facts["holds_data"] = data and column_holds_data(found, field)
            facts["links"] = frozenset(linked_tables(found, [field]) if data else ())
        elif kind == "AlterField":
            old = meta(before.apps.get_model(app, operation.model_name)).get_field(operation.name)
            new = meta(after.apps.get_model(app, operation.model_name)).get_field(operation.name)
            with connection.schema_editor(collect_sql=True) as editor:
                facts["in_database"] = bool(editor._field_should_be_altered(old, new))  # noqa: SLF001 - what Django itself asks
            facts["widens"] = widens(old, new)
        elif kind == "RenameField":
            old = meta(before.apps.get_model(app, operation.model_name)).get_field(operation.old_name)
            new = meta(after.apps.get_model(app, operation.model_name)).get_field(operation.new_name)
            facts["in_database"] = old.column != new.column or old.many_to_many
        elif kind in {"CreateModel", "DeleteModel"}:
            found = (after if kind == "CreateModel" else before).apps.get_model(app, operation.name)
            facts["in_database"] = meta(found).managed and not meta(found).proxy
            if kind == "CreateModel":
                facts["table"] = meta(found).db_table if facts["in_database"] else ""
                data = data and facts["in_database"]
                facts["holds_data"] = data and table_holds_data(meta(found).db_table)
                fields = [*meta(found).local_fields, *meta(found).local_many_to_many]
                facts["links"] = frozenset(linked_tables(found, fields) if data else ())
        return Change(kind, subject, **facts)


def meta(model: Any) -> Any:
    """Return what Django knows of a model."""
    return model._meta  # noqa: SLF001 - Django documents it


def idle_back(operation: Any) -> bool:
    """Whether undoing an operation by code or SQL means doing nothing."""
    kind = type(operation).__name__
    if kind == "RunPython":
        return operation.reverse_code is operation.noop or operation.reverse_code is type(operation).noop
    return kind == "RunSQL" and operation.reverse_sql == operation.noop


def is_required(field: Any) -> bool:
    """Whether a row needs a value for a field that the database does not give by itself."""
    return bool(
        field.column
        and not field.null
        and not field.many_to_many
        and getattr(field, "db_default", NOT_PROVIDED) is NOT_PROVIDED
    )


def widens(old: Any, new: Any) -> bool:
    """Whether an altered field takes all that it took before."""
    before, after = old.db_parameters(connection), new.db_parameters(connection)
    if old.column != new.column or (old.null and not new.null) or (new.unique and not old.unique):
        return False
    if old.remote_field or new.remote_field:
        return before == after and getattr(old, "related_model", None) == getattr(new, "related_model", None)
    longer = (old.max_length or 0) <= (new.max_length or sys.maxsize) and type(old) is type(new)
    return bool(before == after or (longer and old.get_internal_type() == "CharField"))


def table_holds_data(table: str) -> bool:
    """Whether a table has a row. One that was renamed since cannot be asked, and may have."""
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor):
            return True
        cursor.execute(f"SELECT 1 FROM {connection.ops.quote_name(table)} LIMIT 1")  # noqa: S608 - a name of a model
        return cursor.fetchone() is not None


def has_column(table: str, column: str) -> bool:
    """Whether a table and its column have their names still."""
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor):
            return False
        return column in {item.name for item in connection.introspection.get_table_description(cursor, table)}


def column_holds_data(model: Any, field: Any) -> bool:
    """Whether a row has another value than the field's default. A renamed column cannot be asked, and may have."""
    if field.many_to_many:
        return table_holds_data(meta(field.remote_field.through).db_table)
    if not field.column:
        return False
    if not has_column(meta(model).db_table, field.column):
        return True
    rows = model._base_manager.all()  # noqa: SLF001 - Django documents it
    default = field.get_default()
    ordinary = {f"{field.attname}__isnull": True} if default is None else {field.attname: default}
    return bool(rows.exclude(**ordinary).exists())


def column_has_value(table: str, column: str) -> bool:
    """Whether a row has a value in a column. A renamed one cannot be asked, and may have."""
    if not has_column(table, column):
        return True
    table, column = connection.ops.quote_name(table), connection.ops.quote_name(column)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL LIMIT 1")  # noqa: S608 - names of a model
        return cursor.fetchone() is not None


def linked_tables(model: Any, fields: Iterable[Any]) -> Iterator[str]:
    """Yield the tables to which rows link by these fields, so that the database lets nobody delete what is there."""
    for field in fields:
        if field.many_to_many:
            through = field.remote_field.through
            # Others have a model of their own, and that its migration.
            if meta(through).auto_created:
                yield from linked_tables(through, meta(through).local_fields)
            continue
        checked = field.column and field.remote_field and field.db_constraint
        if checked and column_has_value(meta(model).db_table, field.column):
            yield meta(field.remote_field.model).db_table
