"""Exports and removals of projects: real files, rows in memory; what the database counts is given."""

from __future__ import annotations

import gzip
import io
import json
import os
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cluster.tables import Row, Rows, get_model, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATE = {"project": "Charters", "pages": 2}


class Project(Row):
    """The project's own class, which is asked for its row."""

    objects: Any = None


class Site:
    """A media folder, a folder of exports, and a project."""

    def __init__(self, load: Callable[[str], Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.media, self.exports = folder / "media", folder / "exports"
        self.media.mkdir()
        self.exports.mkdir()
        self.project = Project(pk=3, name="Charters")
        self.tables: dict[str, Any] = {"core_Project": table([self.project])}
        load("django.conf").settings = SimpleNamespace(MEDIA_ROOT=str(self.media))
        load("django.apps").apps = self
        load("django.utils.text").slugify = str.lower
        load("django.db.transaction").atomic = nullcontext
        self.module = load("escriptorium_cluster.project_removal")
        self.space = load("escriptorium_cluster.space")
        self.patch = monkeypatch
        self.state = dict(STATE)
        monkeypatch.setattr(self.module, "state", lambda _: dict(self.state))
        monkeypatch.setattr(self.module, "needed_bytes", lambda _: 100)

    def get_model(self, *label: str) -> Any:
        return get_model(**self.tables)(*label)

    def export(self, *problems: str, text: str = "rows") -> Path:
        """Make an export whose archives have these problems."""
        module, state = self.module, self.state

        class Export:
            def __init__(self, _: Any, folder: Path, __: Any) -> None:
                self.folder, self.problems = folder, list(problems)

            def write(self) -> None:
                (self.folder / "rows").write_text(text)
                files = module.write_sums(self.folder, ["rows"])
                manifest = {"format": 1, "project": {"id": 3}, "state": state, "files": files}
                (self.folder / module.MANIFEST).write_text(json.dumps(manifest))

        self.patch.setattr(module, "Export", Export)
        return module.make_export(self.project, self.exports, print)  # type: ignore[no-any-return]


@pytest.fixture
def site(load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(load, tmp_path, monkeypatch)


def test_a_project_is_found_by_number_and_name(site: Site) -> None:
    assert site.module.find(site.space.Named(3, "Charters")) is site.project
    with pytest.raises(site.module.RefusedError, match="its name is 'Charters', not 'Letters'"):
        site.module.find(site.space.Named(3, "Letters"))
    with pytest.raises(site.module.RefusedError, match="there is none"):
        site.module.find(site.space.Named(4, "Charters"))


def test_an_export_gets_its_name_when_it_is_whole(site: Site) -> None:
    left = site.exports / ".partial-3-charters-old"
    left.mkdir()
    other = site.exports / ".partial-33-other"
    other.mkdir()
    made = site.export()
    assert made.name.startswith("3-charters-")
    assert sorted(path.name for path in site.exports.iterdir()) == [other.name, made.name]
    assert made.stat().st_mode & 0o777 == 0o700


def test_an_export_that_is_not_whole_gets_none(site: Site) -> None:
    with pytest.raises(site.module.RefusedError, match="not whole, nothing was removed:\n2 lines were exported"):
        site.export("2 lines were exported, the database has 3")
    (left,) = site.exports.iterdir()
    assert left.name.startswith(".partial-3-charters-")


def test_a_file_that_is_not_what_was_written_makes_it_not_whole(site: Site) -> None:
    site.patch.setattr(site.module, "check_sums", lambda *_: ["rows: another checksum"])
    with pytest.raises(site.module.RefusedError, match="another checksum"):
        site.export()


def test_an_export_that_does_not_fit_is_not_begun(site: Site) -> None:
    site.patch.setattr(site.module.shutil, "disk_usage", lambda _: SimpleNamespace(free=(1 << 30) + 99))
    with pytest.raises(site.module.RefusedError, match="the export needs"):
        site.export()
    assert not list(site.exports.iterdir())


def test_an_export_of_before_is_taken_when_it_is_still_right(site: Site) -> None:
    made = site.export()
    assert site.module.verified_export(site.project, site.exports) == made
    site.state["pages"] = 3
    assert site.module.verified_export(site.project, site.exports) is None


@pytest.mark.parametrize("damage", ["content", "sums", "manifest", "format"])
def test_a_damaged_export_is_not_taken(site: Site, damage: str) -> None:
    made = site.export()
    manifest = made / site.module.MANIFEST
    if damage == "content":
        (made / "rows").write_text("rewritten")
    elif damage == "sums":
        (made / site.module.SUMS).unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))
    assert site.module.verified_export(site.project, site.exports) is None


def test_the_newest_of_two_exports_is_taken(site: Site) -> None:
    old = site.export()
    older = old.rename(site.exports / "3-a")
    os.utime(older, (1, 1))
    new = site.export()
    assert site.module.verified_export(site.project, site.exports) == new


def test_a_state_is_that_of_each_column_each_link_and_each_image(
    load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("escriptorium_cluster.project_removal")
    module.settings = SimpleNamespace(MEDIA_ROOT=str(tmp_path))
    (tmp_path / "a.jpg").write_text("image")

    def model(label: str, columns: str, *links: Any, auto: bool = True) -> Any:
        fields = [SimpleNamespace(attname=name) for name in columns.split()]
        about = SimpleNamespace(label=label, concrete_fields=fields, local_many_to_many=links, auto_created=auto)
        return SimpleNamespace(_meta=about, _base_manager=SimpleNamespace(filter=lambda **asked: (label, asked)))

    def link(through: Any) -> Any:
        remote = SimpleNamespace(through=through)
        return SimpleNamespace(remote_field=remote, m2m_field_name=lambda: "document")

    tags = link(model("core.Document_tags", "id document_id tag_id"))
    metadata = link(model("core.DocumentMetadata", "id", auto=False))
    owned = [
        (model("core.Document", "id name", tags, metadata), "documents"),
        (model("core.Page", "id order"), "pages"),
    ]
    monkeypatch.setattr(module, "owned_rows", lambda _: iter(owned))
    monkeypatch.setattr(module, "_sum", lambda query, columns: [query, *columns])
    pages = [SimpleNamespace(iterator=lambda **_: iter(["a.jpg", "lost.jpg"]))]
    query = SimpleNamespace(order_by=lambda _: SimpleNamespace(values_list=lambda *_, **__: pages[0]))
    monkeypatch.setattr(module, "get", lambda _: SimpleNamespace(objects=SimpleNamespace(filter=lambda **_: query)))
    project = SimpleNamespace(name="Charters")
    found = module.state(project)
    assert found["project"] == "Charters"
    assert found["rows"] == {
        "core.Document": ["documents", "id", "name"],
        "core.Document_tags": [
            ("core.Document_tags", {"document__in": "documents"}), "id", "document_id", "tag_id"
        ],
        "core.Page": ["pages", "id", "order"],
    }  # fmt: skip
    images = {found["images"]}
    os.utime(tmp_path / "a.jpg", (1, 1))
    images.add(module.state(project)["images"])
    (tmp_path / "lost.jpg").write_text("found")
    images.add(module.state(project)["images"])
    assert len(images) == 3


def rows_file(folder: Path, *labels: str) -> Path:
    path = folder / "rows.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps({"model": label}) + "\n" for label in labels)
    return path


def test_written_rows_are_counted(site: Site) -> None:
    path = rows_file(site.exports, "core.line", "core.line", "core.document")
    assert site.module.check_rows(path, {"core.Line": 2, "core.Document": 1, "core.Block": 0}) == []
    assert site.module.check_rows(path, {"core.Line": 3}) == [
        "rows.jsonl.gz: core.Line has 2 rows, the database 3"
    ]  # fmt: skip


def test_rows_that_end_too_soon_cannot_be_read(site: Site) -> None:
    path = rows_file(site.exports, *["core.line"] * 100)
    path.write_bytes(path.read_bytes()[:-12])
    (problem,) = site.module.check_rows(path, {"core.Line": 100})
    assert "cannot be read" in problem


def test_sums_of_an_export_are_compared_with_the_database(site: Site) -> None:
    of_project = Row(document=Row(project=site.project))
    texts = [Row(transcription=of_project, line=1, content=content) for content in ("a", "b", "")]
    site.tables["core_LineTranscription"] = table(texts)
    export = site.module.Export(site.project, site.exports, print)
    export.documents = [{"pages": 1, "lines": 2, "texts": 2}, {"pages": 1, "lines": 1, "texts": 0}]
    export._compare({"core.DocumentPart": 2, "core.Line": 3})
    assert export.problems == []
    export._compare({"core.DocumentPart": 3, "core.Line": 4})
    assert export.problems == [
        "2 pages were exported, the database has 3", "3 lines were exported, the database has 4"
    ]  # fmt: skip


class Removal:
    """A project with one document of two pages, and its export."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.export = site.export()
        self.obstacles: list[str] = []
        self.locked: list[Any] = []
        self.rows: dict[str, list[Row]] = {
            "core_Document": [Row(pk=7, project=site.project)],
            "core_DocumentPart": [Row(pk=1, document_id=7), Row(pk=2, document_id=7)],
            "core_Project": [site.project],
        }
        self.imports: list[Row] = []
        for name in ("documents/7/a.jpg", "documents/7/a.jpg.50x50.jpg", "import_src/7/a.zip", "documents/8/b.jpg"):
            path = site.media / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("12345")
        module = site.module
        site.patch.setattr(module, "get", self.get)
        site.patch.setattr(module, "obstacles", lambda _: self.obstacles)
        site.patch.setattr(module, "_lock", self.locked.append)
        site.patch.setattr(module, "_forget_thumbnails", lambda _: None)
        site.patch.setattr(module, "pre_delete", SimpleNamespace(disconnect=lambda **_: None))
        site.patch.setattr(Project, "objects", self.get("core.Project").objects)

    def get(self, label: str) -> Any:
        name = label.replace(".", "_")
        rows = self.rows.get(name, self.imports)

        class Deletable(Rows):
            def filter(self, **conditions: Any) -> Rows:
                return Deletable(super().filter(**conditions).rows)

            def delete(self) -> None:
                for row in self.rows:
                    rows.remove(row)

        return SimpleNamespace(objects=Deletable(rows))

    def run(self) -> Any:
        return self.site.module.remove(self.site.project, self.export)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.site.media)) for path in self.site.media.rglob("*.*"))


@pytest.fixture
def removal(site: Site) -> Removal:
    return Removal(site)


def test_a_removal_takes_rows_and_files_of_the_project_only(removal: Removal) -> None:
    assert removal.run() == {"files": 3, "bytes": 15}
    assert removal.rows == {"core_Document": [], "core_DocumentPart": [], "core_Project": []}
    assert removal.files() == ["documents/8/b.jpg"]
    assert not (removal.site.media / "documents/7").exists()
    assert removal.locked == [removal.site.project]


@pytest.mark.parametrize(
    ("obstacles", "changed", "reason"),
    [
        (["model 4:hand is being trained on it"], False, "is being trained on it"),
        ([], True, "it was changed after the export"),
    ],
)
def test_a_project_in_use_or_changed_stays(removal: Removal, obstacles: list[str], changed: bool, reason: str) -> None:
    removal.obstacles = obstacles
    if changed:
        removal.site.state["pages"] = 3
    with pytest.raises(removal.site.module.RefusedError, match=reason):
        removal.run()
    assert removal.rows["core_Project"] == [removal.site.project]
    assert len(removal.files()) == 4


def test_a_file_that_another_row_names_stays(removal: Removal) -> None:
    removal.imports.append(Row(import_file="import_src/7/a.zip"))
    assert removal.run() == {"files": 2, "bytes": 10}
    assert removal.files() == ["documents/8/b.jpg", "import_src/7/a.zip"]


# --- The commands ------------------------------------------------------------------------------------------------


class Cursor:
    """A connection whose lock is free or not."""

    def __init__(self, *, free: bool) -> None:
        self.free = free
        self.asked: list[str] = []

    def cursor(self) -> Any:
        return nullcontext(self)

    def execute(self, statement: str, _: list[int]) -> None:
        self.asked.append(statement.partition("(")[0])

    def fetchone(self) -> tuple[bool]:
        return (self.free,)


class Commanded:
    """A management command, with the functions that look at database and files replaced."""

    def __init__(self, site: Site, load: Callable[[str], Any], name: str) -> None:
        self.site = site
        self.database = load("django.db").connection = Cursor(free=True)
        self.module = load(f"escriptorium_cluster.management.commands.{name}")
        self.command = self.module.Command()
        self.error = self.module.CommandError

    def replace(self, **functions: Any) -> None:
        for name, function in functions.items():
            self.site.patch.setattr(self.module, name, function)

    def run(self, request: Any, **options: Any) -> Any:
        text = request if isinstance(request, str) else json.dumps(request)
        self.site.patch.setattr("sys.stdin", io.StringIO(text))
        self.command.stdout, self.command.stderr = io.StringIO(), io.StringIO()
        self.command.handle(**options)
        return self.command.stdout.getvalue()


@pytest.fixture
def reclaim(site: Site, load: Callable[[str], Any]) -> Commanded:
    made = Commanded(site, load, "reclaim_space")
    made.done = []  # type: ignore[attr-defined]
    site.tables["core_OcrModel"] = table()
    made.replace(
        counts=lambda _: {"pages": 2},
        obstacles=lambda _: [],
        verified_export=lambda *_: None,
        make_export=lambda *_: made.done.append("export") or site.exports / "3-charters",  # type: ignore[attr-defined]
        remove=lambda *_: made.done.append("remove") or {"files": 3, "bytes": 15},  # type: ignore[attr-defined]
    )
    return made


def asking(site: Site, **values: Any) -> dict[str, Any]:
    return {"project": "3:Charters", "exports": str(site.exports), **values}


@pytest.mark.parametrize(
    ("values", "done"),
    [
        ({}, []),
        ({"export_only": True}, ["export"]),
        ({"confirm": "3:Charters"}, ["export", "remove"]),
    ],
)
def test_without_a_confirmation_nothing_is_removed(site: Site, reclaim: Any, values: Any, done: list[str]) -> None:
    answer = json.loads(reclaim.run(asking(site, **values)))
    assert reclaim.done == done
    assert answer["changed"] is bool(done)
    assert reclaim.database.asked == ["SELECT pg_try_advisory_lock", "SELECT pg_advisory_unlock"]


def test_an_export_of_before_is_not_made_again(site: Site, reclaim: Any) -> None:
    reclaim.replace(verified_export=lambda *_: site.exports / "3-old")
    answer = json.loads(reclaim.run(asking(site, export_only=True)))
    assert (reclaim.done, answer["changed"]) == ([], False)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"confirm": "3:Letters"}, "the confirmation says '3:Letters'"),
        ({"confirm": "3:Charters", "exports": "exports"}, "is not there"),
        ({"confirm": "3:Charters", "exports": "/nowhere/at/all"}, "is not there"),
        ({"project": "Charters"}, "NUMBER:NAME"),
    ],
)
def test_a_removal_that_is_not_clear_is_refused(site: Site, reclaim: Any, values: Any, reason: str) -> None:
    with pytest.raises(reclaim.error, match=reason):
        reclaim.run(asking(site, **values))
    assert reclaim.done == []


def test_an_export_is_not_shown_to_everybody(site: Site, reclaim: Any) -> None:
    inside = site.media / "exports"
    inside.mkdir()
    link = site.exports / "link"
    link.symlink_to(inside)
    for folder in (inside, link):
        with pytest.raises(reclaim.error, match="lies in the media folder"):
            reclaim.run(asking(site, exports=str(folder), confirm="3:Charters"))
    assert reclaim.done == []


def test_a_project_in_use_stays_and_may_be_exported(site: Site, reclaim: Any) -> None:
    reclaim.replace(obstacles=lambda _: ["job core.tasks.train runs (report 9)"])
    with pytest.raises(reclaim.error, match="project 3:Charters stays:\njob core"):
        reclaim.run(asking(site, confirm="3:Charters"))
    reclaim.run(asking(site, export_only=True))
    assert reclaim.done == ["export"]


def test_a_second_run_is_kept_out(site: Site, reclaim: Any) -> None:
    reclaim.database.free = False
    with pytest.raises(reclaim.error, match="another removal is running"):
        reclaim.run(asking(site, confirm="3:Charters"))
    assert reclaim.done == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "request: "),
        ("[]", "wanted an object"),
        ('{"projects": "3:Charters"}', "wanted an object"),
        ("{}", "name one project, or items"),
        ('{"project": "3:Charters", "items": ["a"]}', "and not both"),
    ],
)
def test_requests_that_are_none(reclaim: Any, text: str, reason: str) -> None:
    with pytest.raises(reclaim.error, match=reason):
        reclaim.run(text)
    assert reclaim.database.asked == []


@pytest.fixture
def items(site: Site, reclaim: Any) -> list[str]:
    """Three files that the report shows as removable; answer their names."""
    names = ["documents/7/left.jpg", "users/1/export_doc7.zip", "4:hand"]
    kinds = ["orphan", "export", "versions"]
    for name in names[:2]:
        path = site.media / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
    found = [site.space.Removable(kind, name, 10, 9, "why") for kind, name in zip(kinds, names, strict=True)]
    reclaim.replace(survey=lambda *_: SimpleNamespace(removable=found), version_files=lambda row: row.old)
    return names


def test_items_go_when_the_word_of_the_dry_run_is_repeated(site: Site, reclaim: Any, items: list[str]) -> None:
    dry = json.loads(reclaim.run({"items": items[:2]}))
    assert (dry["changed"], (site.media / items[0]).exists()) == (False, True)
    answer = json.loads(reclaim.run({"items": items[:2], "confirm": dry["confirm"]}))
    assert (answer["files"], answer["bytes"]) == (2, 20)
    assert not [name for name in items[:2] if (site.media / name).exists()]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"items": ["documents/7/left.jpg"], "confirm": "yes"}, "the confirmation says 'yes'"),
        ({"items": ["documents/7/a.jpg"]}, "'documents/7/a.jpg' is not in the report"),
    ],
)
def test_other_items_and_words_are_refused(
    site: Site, reclaim: Any, items: list[str], asked: dict[str, Any], reason: str
) -> None:
    with pytest.raises(reclaim.error, match=reason):
        reclaim.run(asked)
    assert all((site.media / name).exists() for name in items[:2])


@pytest.mark.parametrize("training", [False, True])
def test_versions_go_first_and_not_while_their_model_is_in_training(
    site: Site, reclaim: Any, items: list[str], training: bool
) -> None:
    gone: list[str] = []
    model = Row(pk=4, training=training, old=[("r1", "a"), ("r2", "b")], delete_revision=gone.append)
    site.tables["core_OcrModel"] = table([model])
    word = json.loads(reclaim.run({"items": items}))["confirm"]
    if training:
        with pytest.raises(reclaim.error, match="is being trained"):
            reclaim.run({"items": items, "confirm": word})
        assert (gone, (site.media / items[0]).exists()) == ([], True)
    else:
        reclaim.run({"items": items, "confirm": word})
        assert (gone, model.saved, (site.media / items[0]).exists()) == (["r1", "r2"], 1, False)


def test_the_report_shows_the_largest_project_first(site: Site, load: Callable[[str], Any]) -> None:
    report = Commanded(site, load, "report_space")
    projects = {number: site.space.ProjectSpace(number, f"P{number}") for number in (1, 2)}
    projects[2].add("images", 50)
    seen: list[Any] = []

    def survey(_: float, asked: Any) -> Any:
        seen.append(asked)
        return SimpleNamespace(projects=projects, removable=[], totals={"images": 50})

    report.replace(survey=survey)
    found = json.loads(report.run({"idle_days": 90}, json=True))
    assert [(project["pk"], project["total"]) for project in found["projects"]] == [(2, 50), (1, 0)]
    assert "\n".join(found["text"]) == report.run("", json=False)
    assert seen == [{"idle_days": 90}, {}]
    with pytest.raises(report.error, match="request: "):
        report.run("{", json=True)
