"""What the report of space finds in a media folder: real files, rows in memory."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cluster.tables import Row, Rows, get_model, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW, DAY = 2_000_000_000.0, 86400.0


class Parts(Rows):
    """Pages; the database compares the folder of each image with that of its document."""

    def exclude(self, **_: Any) -> Rows:
        return Rows(row for row in self.rows if not row.image.startswith(f"documents/{row.document_id}/"))


class Site:
    """A media folder, and the rows that know its files."""

    def __init__(self, load: Callable[[str], Any], media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.media = media
        self.parts: list[Row] = []
        self.models: list[Row] = []
        self.imports: list[Row] = []
        load("django.conf").settings = SimpleNamespace(MEDIA_ROOT=str(media))
        load("django.apps").apps = self
        self.module = load("escriptorium_cluster.space_survey")
        space = load("escriptorium_cluster.space")
        self.project = space.ProjectSpace(3, "Charters", activity=NOW)
        monkeypatch.setattr(self.module.Survey, "_projects", lambda _: {3: self.project})

    def get_model(self, *label: str) -> Any:
        return get_model(
            core_Document=table([Row(pk=7, project_id=3)]),
            core_DocumentPart=SimpleNamespace(objects=Parts(self.parts)),
            core_OcrModel=table(self.models),
            imports_DocumentImport=table(self.imports),
        )(*label)

    def file(self, name: str, size: int = 10, days: float = 5) -> str:
        path = self.media / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (NOW - days * DAY,) * 2)
        return name

    def look(self, **request: Any) -> tuple[dict[str, int], list[tuple[str, str, str]]]:
        """Answer the totals, and kind, name and reason of what can go."""
        found = self.module.survey(NOW, request)
        removable = sorted((item.kind, item.name, item.reason) for item in found.removable)
        return {kind: size for kind, size in found.totals.items() if size}, removable


@pytest.fixture
def site(load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(load, tmp_path, monkeypatch)


def test_images_and_thumbnails_count_for_their_project(site: Site) -> None:
    site.parts = [Row(document_id=7, image=site.file("documents/7/a.jpg"))]
    site.file("documents/7/a.jpg.50x50.jpg", 3)
    assert site.look() == ({"images": 10, "thumbnails": 3}, [])
    assert site.project.total == 13


def test_an_image_that_another_document_names_is_not_forgotten(site: Site) -> None:
    """The row of a page may name a file in the folder of a document that is gone."""
    site.parts = [Row(document_id=7, image=site.file("documents/6/a.jpg"))]
    assert site.look()[1] == []


def test_a_file_without_a_row_can_go_unless_it_is_fresh(site: Site) -> None:
    site.file("documents/7/left.jpg")
    site.file("documents/6/left.jpg")
    site.file("documents/7/fresh.jpg", days=1)
    site.file("import_src/7/left.zip")
    site.imports = [Row(import_file=site.file("import_src/7/known.zip", 4))]
    totals, removable = site.look()
    assert totals == {"orphans": 40, "imports": 4}
    assert removable == [
        ("orphan", "documents/6/left.jpg", "document 6 is gone"),
        ("orphan", "documents/7/left.jpg", "no page has it"),
        ("orphan", "import_src/7/left.zip", "no import has it"),
    ]


def model(file: str, *versions: str, days: float = 60, training: bool = False) -> Row:
    """Make a model whose last change was some days ago."""
    return Row(
        pk=4,
        name="hand",
        file=SimpleNamespace(name=file),
        training=training,
        versions=[{"revision": f"r{place}", "data": {"file": name}} for place, name in enumerate(versions)],
        version_updated_at=datetime.fromtimestamp(NOW - days * DAY, UTC),
    )


@pytest.fixture
def files(site: Site) -> list[str]:
    return [site.file(f"models/ab/{name}.mlmodel") for name in ("hand", "epoch1", "epoch2")]


@pytest.mark.parametrize(
    ("days", "training", "removable"),
    [(60, False, [("versions", "4:hand", "2 versions, the model itself stays")]), (5, False, []), (60, True, [])],
)
def test_old_versions_can_go_when_the_model_rests(
    site: Site, files: list[str], days: float, training: bool, removable: list[Any]
) -> None:
    site.models = [model(*files, days=days, training=training)]
    site.module.version_files = lambda row: [(item["revision"], item["data"]["file"]) for item in row.versions]
    assert site.look() == ({"models": 10, "versions": 20}, removable)


def test_files_beside_a_model_in_training_may_be_its_next_epoch(site: Site, files: list[str]) -> None:
    site.models = [model(files[0], training=True)]
    assert site.look() == ({"models": 10, "versions": 20}, [])


def test_files_that_no_model_names_can_go(site: Site, files: list[str]) -> None:
    site.models = [model(files[0])]
    site.file("models/cd/gone.mlmodel")
    assert [name for _, name, _ in site.look()[1]] == [*files[1:], "models/cd/gone.mlmodel"]


def test_a_version_that_is_some_models_own_file_is_none_to_remove(site: Site) -> None:
    """Upstream's clean-up would take the file of the model itself."""
    row = model("own", "own", "old")
    row.versions.append({"revision": "r2", "data": {"file": None}})
    site.models = [Row(file="own")]
    assert site.module.version_files(row) == [("r1", "old")]


def test_exports_go_with_their_document_or_with_age(site: Site) -> None:
    for name, days in (("7_new", 3), ("7_old", 31), ("6_new", 3)):
        site.file(f"users/1/export_doc{name}.zip", days=days)
    site.file("users/1/notes.txt", 2)
    totals, removable = site.look(export_days=30)
    assert totals == {"exports": 30, "users": 2}
    assert removable == [
        ("export", "users/1/export_doc6_new.zip", "document 6 is gone"),
        ("export", "users/1/export_doc7_old.zip", "of document 7"),
    ]


def test_nothing_that_is_not_known_can_go(site: Site) -> None:
    site.file("fonts/old.ttf", days=900)
    site.file("logo.png", days=900)
    assert site.look() == ({"other": 20}, [])


def test_a_project_that_rests_is_said_to_be_finished(site: Site) -> None:
    site.project.activity = NOW - 100 * DAY
    site.look(idle_days=365)
    assert not site.project.finished
    site.look(idle_days=90)
    assert site.project.finished


@pytest.mark.parametrize("name", ["../outside", "documents/../../outside", "/etc/passwd", "..", "documents/.."])
def test_a_name_that_leads_out_of_the_folder_is_none(site: Site, name: str) -> None:
    (site.media / "documents").mkdir()
    assert site.module.safe_path(name) is None


def test_a_link_stands_for_itself_and_a_folder_for_where_it_leads(site: Site) -> None:
    (site.media / "link").symlink_to("/etc/passwd")
    (site.media / "folder").symlink_to("/etc")
    assert site.module.safe_path("link") == site.media / "link"
    assert site.module.safe_path("folder/passwd") is None
    assert site.module.safe_path("documents/7/a.jpg") == site.media / "documents/7/a.jpg"


def test_who_else_uses_it(site: Site) -> None:
    ada, ben = SimpleNamespace(pk=1, username="ada"), SimpleNamespace(pk=2, username="ben")
    row = Row(owner_id=1, shared_with_users=Rows([ada, ben]), shared_with_groups=Rows([Row(name="readers")]))
    assert site.module.shared_with(row) == {"ben", "group readers"}
