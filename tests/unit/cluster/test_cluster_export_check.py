"""Whether a wrong export is found: each way in which an archive can differ from the database."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import pytest
from escriptorium_cluster.export_check import (
    TOLD,
    ExpectedPage,
    batches,
    check_archive,
    check_sums,
    stem,
    write_sums,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
IMAGE = b"an image"
PAGE = ExpectedPage(
    "scan 1.png",
    hashlib.sha256(IMAGE).hexdigest(),
    1,
    (("l1", "first & <second>"), ("l2", ""), ("l2", ""), ("None", "a  loose\tline ")),
)


def xml(page: ExpectedPage) -> str:
    lines = [
        f'<TextLine id="{identifier}"><TextEquiv>\n<Unicode>{escape(text)}</Unicode></TextEquiv></TextLine>'
        for identifier, text in page.lines
    ]
    regions = "".join(f'<TextRegion id="r{number}"></TextRegion>' for number in range(page.regions))
    return (
        f'<?xml version="1.0"?><PcGts xmlns="{SPACE}"><Page imageFilename="{page.filename}">{regions}'
        f'<TextRegion id="eSc_dummyblock_">{"".join(lines)}</TextRegion></Page></PcGts>'
    )


def archive(folder: Path, *entries: tuple[str, Any]) -> Path:
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, content in entries:
            made.writestr(name, content)
    return path


def good(page: ExpectedPage = PAGE) -> list[tuple[str, Any]]:
    return [("scan 1.png", IMAGE), ("scan 1.xml", xml(page)), ("METS.xml", "<mets/>")]


def test_a_whole_archive_has_no_problems(tmp_path: Path) -> None:
    assert check_archive(archive(tmp_path, *good()), [PAGE], images=True) == []
    assert check_archive(archive(tmp_path, *good()[1:]), [PAGE], images=False) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(IMAGE)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_archive_is_found(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = archive(tmp_path, *good())
    damage(path)
    (problem,) = check_archive(path, [PAGE], images=True)
    assert "archive.zip: cannot be read" in problem


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (good()[1:], "the image scan 1.png is missing"),
        ([("scan 1.png", b"other"), *good()[1:]], "the image scan 1.png differs"),
        ([good()[0]], "the page scan 1.xml is missing"),
        ([good()[0], ("scan 1.xml", "no xml")], "cannot be read"),
        ([good()[0], ("scan 1.xml", "<html/>")], "no PAGE XML"),
        ([good()[0], ("scan 1.xml", xml(replace(PAGE, filename="scan 2.png")))], "names the image scan 2.png"),
        ([good()[0], ("scan 1.xml", xml(replace(PAGE, regions=0)))], "has 0 regions, the database 1"),
        ([good()[0], ("scan 1.xml", xml(replace(PAGE, lines=PAGE.lines[:-1])))], "has 3 lines, the database 4"),
        ([good()[0], ("scan 1.xml", xml(replace(PAGE, lines=(*PAGE.lines, ("l9", "")))))], "5 lines, the database 4"),
        ([good()[0], ("scan 1.xml", xml(PAGE).replace("first", "frist"))], "differs: l1 'first & <second>'"),
    ],
)
def test_what_differs_is_found(tmp_path: Path, entries: list[tuple[str, Any]], words: str) -> None:
    problems = check_archive(archive(tmp_path, *entries), [PAGE], images=True)
    assert len(problems) == 1, problems
    assert words in problems[0]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_pages_of_one_name_are_found(tmp_path: Path) -> None:
    path = archive(tmp_path, *good(), *good()[:2])
    assert "scan 1.png is in it 2 times" in check_archive(path, [PAGE, PAGE], images=True)[0]


def test_not_all_of_a_thousand_problems_are_told(tmp_path: Path) -> None:
    pages = [replace(PAGE, filename=f"{number}.png") for number in range(1000)]
    assert len(check_archive(archive(tmp_path), pages, images=True)) == TOLD


def test_batches_keep_the_order_and_never_two_of_one_name() -> None:
    names = dict(enumerate(["a.png", "b.png", "A.jpg", "c.png", "a.png", "d.v1.png", "b"]))
    found = batches(names, 3)
    assert sorted(pk for batch in found for pk in batch) == list(names)
    for batch in found:
        assert len(batch) <= 3
        stems = [stem(names[pk]) for pk in batch]
        assert len(stems) == len(set(stems))
        assert batch == sorted(batch)


def test_batches_of_many_pages_of_different_names_are_full() -> None:
    found = batches({number: f"{number}.png" for number in range(5000)}, 200)
    assert [len(batch) for batch in found] == [200] * 25


def test_sums_are_read_by_sha256sum(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    sums = write_sums(tmp_path, ["a", "b"])
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    assert check_sums(tmp_path, sums) == []
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").unlink()
    assert check_sums(tmp_path, sums) == ["a differs from its checksum", "b cannot be read: No such file or directory"]
