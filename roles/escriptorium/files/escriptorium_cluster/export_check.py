"""Verifies an export against what the database holds. Pure: no Django.

An exporter that meets a page it cannot write leaves it out and goes on, and two pages with one file name would leave
one of them after unpacking: neither shows in an archive that merely opens. So each page's image is compared byte by
byte (by checksum) and each line by identifier and text.
"""

from __future__ import annotations

import hashlib
import posixpath
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

#: Bytes read at once.
CHUNK = 1 << 20
#: Problems that are told; a thousand more would not help.
TOLD = 20
#: Region that upstream's exporters make for lines without one.
DUMMY_REGION = "eSc_dummyblock_"
#: Checksums of an export's files.
SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class ExpectedPage:
    """A page as the database has it: file name of its image, image's checksum, regions, lines as (id, text)."""

    filename: str
    image: str
    regions: int
    lines: tuple[tuple[str, str], ...]


def xml_name(filename: str) -> str:
    """Return the name that upstream's exporters give the XML of a page."""
    return posixpath.splitext(filename)[0] + ".xml"


def image_name(filename: str) -> str:
    """Return the name that ``zipfile`` gives an image."""
    return posixpath.normpath(filename).lstrip("/")


def stem(filename: str) -> str:
    """Return that by which the files of two pages in one archive must differ, without regard to case."""
    return posixpath.splitext(posixpath.normpath(filename))[0].casefold()


def batches(filenames: Mapping[int, str], size: int) -> list[list[int]]:
    """Divide pages into archives of at most ``size``, so that no two pages of one archive have the same file name.

    :param filenames: the file name of each page, by its number, in the order of the document.
    """
    found: list[list[int]] = []
    names: list[set[str]] = []
    open_from = 0
    for pk, filename in filenames.items():
        name = stem(filename)
        for place in range(open_from, len(found)):
            if len(found[place]) < size and name not in names[place]:
                break
        else:
            place = len(found)
            found.append([])
            names.append(set())
        found[place].append(pk)
        names[place].add(name)
        while open_from < len(found) and len(found[open_from]) >= size:
            open_from += 1
    return found


def normal(text: str | None) -> str:
    """Return a text with each run of blanks as one: exporters do not keep more."""
    return " ".join((text or "").split())


def file_sum(handle: IO[bytes]) -> str:
    """Return the SHA-256 of what is left of a file."""
    found = hashlib.sha256()
    while data := handle.read(CHUNK):
        found.update(data)
    return found.hexdigest()


def path_sum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as handle:
        return file_sum(handle)


def read_page(handle: IO[bytes]) -> tuple[str, int, tuple[tuple[str, str], ...]]:
    """Return image name, number of regions and lines of a PAGE XML file.

    :raises ET.ParseError: when it is no XML.
    :raises ValueError: when it is no PAGE XML with one page.
    """
    # Written by this site's own application a moment ago: no hostile entities.
    root = ET.parse(handle).getroot()  # noqa: S314
    space = root.tag.partition("}")[0] + "}"
    pages = root.findall(f"{space}Page")
    if not root.tag.endswith("}PcGts") or len(pages) != 1:
        raise ValueError("no PAGE XML with one page")
    regions = sum(region.get("id") != DUMMY_REGION for region in pages[0].iter(f"{space}TextRegion"))
    lines = tuple(
        (line.get("id", ""), normal(line.findtext(f"{space}TextEquiv/{space}Unicode")))
        for line in pages[0].iter(f"{space}TextLine")
    )
    return pages[0].get("imageFilename", ""), regions, lines


def check_archive(path: Path, pages: Sequence[ExpectedPage], *, images: bool) -> list[str]:
    """Return what is wrong with an archive of PAGE XML; nothing when it holds just these pages.

    :param images: whether the images have to be in it.
    """
    problems: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            names = Counter(archive.namelist())
            problems += [f"{name} is in it {count} times" for name, count in names.items() if count > 1]
            for page in pages:
                problems += _check_page(archive, names, page, images=images)
                if len(problems) > TOLD:
                    break
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        problems.append(f"cannot be read: {error}")
    return [f"{path.name}: {problem}" for problem in problems[:TOLD]]


def _check_page(archive: zipfile.ZipFile, names: Mapping[str, int], page: ExpectedPage, *, images: bool) -> list[str]:
    problems = []
    if images:
        image = image_name(page.filename)
        if image not in names:
            problems.append(f"the image {image} is missing")
        else:
            with archive.open(image) as handle:
                if file_sum(handle) != page.image:
                    problems.append(f"the image {image} differs from the one of the page")
    xml = xml_name(page.filename)
    if xml not in names:
        return [*problems, f"the page {xml} is missing"]
    try:
        with archive.open(xml) as handle:
            filename, regions, lines = read_page(handle)
    except (ET.ParseError, ValueError) as error:
        return [*problems, f"the page {xml} cannot be read: {error}"]
    if filename != page.filename:
        problems.append(f"the page {xml} names the image {filename}, not {page.filename}")
    if regions != page.regions:
        problems.append(f"the page {xml} has {regions} regions, the database {page.regions}")
    wanted = Counter((identifier, normal(text)) for identifier, text in page.lines)
    found = Counter(lines)
    if found != wanted:
        first = next(iter((wanted - found) or (found - wanted)))
        problems.append(
            f"the page {xml} has {found.total()} lines, the database {wanted.total()}; the first that differs: "
            f"{first[0]} '{first[1][:60]}'"
        )
    return problems


def write_sums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Write the checksums as ``sha256sum --check`` reads them, and return them."""
    sums = {name: path_sum(folder / name) for name in sorted(names)}
    (folder / SUMS).write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
    return sums


def check_sums(folder: Path, sums: Mapping[str, str]) -> list[str]:
    """Return what is missing from a folder, or differs."""
    problems = []
    for name, value in sums.items():
        try:
            found = path_sum(folder / name)
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}")
            continue
        if found != value:
            problems.append(f"{name} differs from its checksum")
    return problems
