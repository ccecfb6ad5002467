"""What the report of space makes of files and dates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from escriptorium_cluster.space import (
    DAY,
    SHOWN,
    Named,
    NamingError,
    ProjectSpace,
    Removable,
    confirmation,
    day,
    explain,
    exported_document,
    finished_because,
    human,
    kind_in_document,
    parse_named,
    walk,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "named"),
    [("12:Charters", Named(12, "Charters")), ("7:a: b", Named(7, "a: b")), ("7: spaced ", Named(7, " spaced "))],
)
def test_a_project_is_named_by_number_and_name(text: str, named: Named) -> None:
    assert parse_named(text) == named
    assert str(named) == text


@pytest.mark.parametrize("text", ["", "12", "12:", ":Charters", "x:Charters", "-1:Charters", "1.5:Charters", "²:x"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(NamingError, match="NUMBER:NAME"):
        parse_named(text)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("page.jpg", "images"),
        ("page.jpg.180x180_q85_crop.jpg", "thumbnails"),
        ("page.jpg.50x50.png", "thumbnails"),
        ("page.v2.jpg", "images"),
        ("page.v2.jpg.card.jpg", "thumbnails"),
        ("page.png", "orphans"),
        ("page", "orphans"),
        ("otherpage.jpg.50x50.jpg", "orphans"),
        (".page.jpg", "orphans"),
    ],
)
def test_files_of_a_document(name: str, kind: str) -> None:
    assert kind_in_document(name, {"page.jpg", "page.v2.jpg"}) == kind


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("users/3/export_doc12_charters_alto_20260101120000.zip", 12),
        ("users/3/export_doc12", None),
        ("users/3/my_export_doc12_x.zip", None),
        ("users/3/notes.txt", None),
    ],
)
def test_exports_name_their_document(name: str, document: int | None) -> None:
    assert exported_document(name) == document


NOW = 1000 * DAY


def project(idle: float, *tags: str) -> ProjectSpace:
    return ProjectSpace(1, "Charters", tags=tags, activity=NOW - idle * DAY)


def test_a_project_is_finished_by_age_or_by_tag() -> None:
    assert finished_because(project(364.9), NOW, 365, []) == ""
    assert finished_because(project(365), NOW, 365, []) == "no activity for 365 days"
    assert finished_because(project(1, "Finished"), NOW, 365, ["finished"]) == "tag 'finished'"
    assert finished_because(project(1, "draft"), NOW, 365, ["finished"]) == ""
    assert finished_because(project(-5), NOW, 365, []) == "", "a clock that was wrong once"


def test_the_confirmation_is_of_these_items_as_they_are_now() -> None:
    one, two = Removable("export", "a", 1, 3, "x"), Removable("orphan", "b", 2, 3, "x")
    word = confirmation([one, two])
    assert word.startswith("2-")
    assert confirmation([two, one]) == word
    assert confirmation([one]) != word
    assert confirmation([one, Removable("orphan", "b", 3, 3, "x")]) != word
    assert confirmation([one, Removable("orphan", "b", 2, 4, "a day later")]) == word


def test_walk_goes_through_folders_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one").write_text("x")
    (tmp_path / "a/b/two").write_text("xy")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    (tmp_path / "a/link").symlink_to(outside)
    found = {file.name: file.size for file in walk(tmp_path, "a")}
    assert {name: size for name, size in found.items() if name != "a/link"} == {"a/one": 1, "a/b/two": 2}
    assert list(walk(tmp_path, "nothing")) == []
    assert list(walk(tmp_path, "a/one")) == []


def test_numbers_for_people() -> None:
    assert [human(size) for size in (0, 999, 1000, 3_200_000_000, 38_600_000_000_000, 10**16)] == [
        "0 B", "999 B", "1.0 kB", "3.2 GB", "38.6 TB", "10000.0 TB",
    ]  # fmt: skip
    assert day(0) == "never"
    assert day(86400 * 365) == "1971-01-01"


def test_the_report_shows_the_largest_first_and_marks_the_finished() -> None:
    small = ProjectSpace(1, "Small", owner="ann", bytes={"images": 10})
    large = ProjectSpace(2, "Large", shared=("bob", "group all"), bytes={"images": 5000, "thumbnails": 0, "imports": 7})
    large.finished = "no activity for 400 days"
    orphans = [Removable("orphan", f"documents/9/{number}.png", 1, 9, "no row knows it") for number in range(SHOWN + 3)]
    lines = explain([small, large], orphans, {"images": 5010, "orphans": 23})
    text = "\n".join(lines)
    assert text.index("2:Large  5.0 kB  FINISHED: no activity for 400 days") < text.index("1:Small  10 B")
    assert "shared with bob, group all" in text
    assert "images 5.0 kB, " not in text.partition("thumbnails")[0].partition("1:Small")[2]
    assert f"files that no row of the database knows: {SHOWN + 3}, 23 B" in text
    assert "... and 3 more" in text
    assert "exports that can go: 0, 0 B" in text
