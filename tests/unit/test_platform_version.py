"""Changes of this repository that stop a run until the operator has seen to them."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

import pytest

from module_utils.platform_version import BREAKING, BreakingChange, note_of, refusals

if TYPE_CHECKING:
    from pathlib import Path

CHANGES = (BreakingChange("two", 2, "Do this."), BreakingChange("three", 3, "Do that."))


@pytest.mark.parametrize(
    ("text", "deployed", "wanted"), [("", False, None), ("", True, 1), ("4\n", True, 4), ("4\n", False, 4)]
)
def test_the_note_says_what_a_site_was_deployed_with(text: str, deployed: bool, wanted: int | None) -> None:
    assert note_of(text, deployed) == wanted


def test_a_note_that_is_none_is_no_older_version() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        note_of("two", deployed=True)


@pytest.mark.parametrize(
    ("noted", "version", "read", "names"),
    [
        (None, 3, (), []),
        (3, 3, (), []),
        (1, 3, (), ["two", "three"]),
        (1, 3, ("two",), ["three"]),
        (2, 3, (), ["three"]),
        (1, 2, (), ["two"]),
        (1, 3, ("two", "three"), []),
        (4, 3, (), ["older-repository"]),
        (4, 3, ("older-repository",), []),
    ],
)
def test_what_stops_a_run(noted: int | None, version: int, read: tuple[str, ...], names: list[str]) -> None:
    assert [text.partition(":")[0] for text in refusals(noted, version, read, CHANGES)] == names


def test_a_misspelt_name_is_refused() -> None:
    (text,) = refusals(3, 3, ("tow",), CHANGES)
    assert text == "breaking_change_read=tow: there is none of this name; there are: older-repository, three, two"


def test_the_file_counts_all_of_them(root: Path) -> None:
    """By its number each change is told from the others; 1 is what there was before the first."""
    numbers = [change.number for change in BREAKING]
    assert numbers == [*range(2, int((root / "BREAKING_CHANGES").read_text()) + 1)]
    assert len({change.name for change in BREAKING}) == len(BREAKING)


def test_the_changelog_has_a_part_for_each_version(root: Path) -> None:
    heads = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = heads[1:] if heads[0] == "Unreleased" else heads
    parts = [re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*) - (\S+)", head) for head in released]
    assert all(parts), released
    versions = [tuple(map(int, part.groups()[:3])) for part in parts if part]
    days = [date.fromisoformat(part[4]) for part in parts if part]
    assert versions == sorted(set(versions), reverse=True)
    assert days == sorted(days, reverse=True)
    assert (root / "VERSION").read_text() == ".".join(map(str, versions[0])) + "\n"
