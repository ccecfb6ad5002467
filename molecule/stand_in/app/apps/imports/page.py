"""Reads the small part of PAGE XML that an import needs. Pure: no Django."""

from dataclasses import dataclass
from typing import IO
from xml.etree import ElementTree

Points = list[list[int]]


class ParseError(ValueError):
    """The file is not PAGE XML."""


@dataclass(frozen=True, slots=True)
class PageLine:
    """A line: identifier, baseline and mask in pixels, text."""

    identifier: str
    baseline: Points
    mask: Points
    text: str


@dataclass(frozen=True, slots=True)
class PageRegion:
    """A region: identifier, outline in pixels, lines."""

    identifier: str
    box: Points
    lines: tuple[PageLine, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A page: the name of its image and its regions."""

    filename: str
    regions: tuple[PageRegion, ...]


def parse_points(text: str) -> Points:
    """Return ``[[x, y], ...]`` of ``x,y x,y``."""
    return [[int(float(number)) for number in pair.split(",")] for pair in text.split()]


def parse_page(handle: IO[bytes]) -> list[Page]:
    """Return the pages of a file.

    :raises ParseError: when it is no PAGE XML.
    """
    try:
        root = ElementTree.parse(handle).getroot()
    except ElementTree.ParseError as error:
        raise ParseError(f"not XML: {error}") from None
    if not root.tag.endswith("}PcGts"):
        raise ParseError("not PAGE XML")
    space = {"p": root.tag[1:].partition("}")[0]}

    def points(element: ElementTree.Element, path: str) -> Points:
        found = element.find(path, space)
        return parse_points(found.get("points", "")) if found is not None else []

    return [
        Page(
            page.get("imageFilename", ""),
            tuple(
                PageRegion(
                    region.get("id", ""),
                    points(region, "p:Coords"),
                    tuple(
                        PageLine(
                            line.get("id", ""),
                            points(line, "p:Baseline"),
                            points(line, "p:Coords"),
                            line.findtext("p:TextEquiv/p:Unicode", "", space),
                        )
                        for line in region.findall("p:TextLine", space)
                    ),
                )
                for region in page.findall("p:TextRegion", space)
            ),
        )
        for page in root.findall("p:Page", space)
    ]
