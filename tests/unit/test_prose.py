"""Prose that is too wide is found and wrapped, and pages mean the same afterwards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from tests.tools.wrap_prose import ALL, ROOT, WIDTH, main, paragraphs, wide, wrap

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted({page for glob in ALL for page in ROOT.glob(glob)})
#: Words that fill more than two lines.
LONG = " ".join(["word"] * 60)


def shown(text: str) -> str:
    """Return a page as a reader sees it: an end of a line is a blank, but where the page asks for it."""
    return re.sub(r"\s+", " ", MarkdownIt("commonmark").enable("table").render(text))


def others(text: str) -> list[str]:
    """Return the lines that are in no paragraph."""
    taken = {place for paragraph in paragraphs(text) for place in range(paragraph.first, paragraph.end)}
    return [line for place, line in enumerate(text.split("\n")) if place not in taken]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_means_the_same_when_it_is_wrapped(page: Path) -> None:
    text = page.read_text()
    wrapped = wrap(text)
    assert shown(wrapped) == shown(text)
    assert others(wrapped) == others(text)
    assert wide(wrapped) == []
    assert wrap(wrapped) == wrapped


def test_pages_are_all_that_people_write() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "CHANGELOG.md", "docs/operate.md", "docs/decisions/0001-derived-variables.md"} <= names
    assert not any(name.startswith(("roles/", ".venv", ".cache")) for name in names)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        (f"{LONG}\n", "word ", "word "),
        (f"- {LONG}\n", "- word", "  word"),
        (f"1. one\n2. {LONG}\n", "2. word", "   word"),
        (f"- one\n\n  {LONG}\n", "  word", "  word"),
        (f"> {LONG}\n", "> word", "> word"),
        (f"> - {LONG}\n", "> - word", ">   word"),
        (f"short\n{LONG}\n", "short word", "word "),
    ],
)
def test_lines_keep_their_place(text: str, before: str, after: str) -> None:
    (paragraph, *_) = [found for found, _ in wide(text)]
    lines = paragraph.wrapped()
    assert len(lines) == 3
    assert lines[0].startswith(before)
    assert all(line.startswith(after) for line in lines[1:])
    assert all(len(line) <= WIDTH for line in lines)
    assert shown(wrap(text)) == shown(text)


@pytest.mark.parametrize(
    "text",
    [
        f"# {LONG}\n",
        f"| a |\n|---|\n| {LONG} |\n",
        f"```\n{LONG}\n```\n",
        f"words\n\n    {LONG}\n",
        f"<!-- {LONG} -->\n",
        f"[a]: https://example.org/{'a' * 150}\n",
        f"https://example.org/{'a' * 150}\n",
        f"see `{LONG}`\n".replace(LONG, "x " * 70),
        "short\nand short\n",
    ],
)
def test_what_is_no_prose_or_cannot_be_wrapped_stays(text: str) -> None:
    if text.startswith("see "):
        # The span stands alone, and stays as it is.
        assert wrap(text).split("\n")[1:] == text[4:].split("\n")
    else:
        assert wide(text) == []
        assert wrap(text) == text


@pytest.mark.parametrize(
    "word", ["-", "+", "*", "1.", "12)", "#", "###", ">", "|", "---", "===", "<div>", "```", ":--", "|a"]
)
def test_no_line_begins_with_what_begins_something_else(word: str) -> None:
    # The word is the first that does not fit.
    text = f"{'w' * 58} {'w' * 59} {word} {'w' * 20}\n"
    wrapped = wrap(text)
    assert wrapped != text
    assert not any(line.startswith(word) for line in wrapped.split("\n"))
    assert shown(wrapped) == shown(text)


@pytest.mark.parametrize("ending", ["  ", "\\"])
def test_an_end_of_a_line_that_was_asked_for_stays(ending: str) -> None:
    text = f"{LONG}{ending}\nnext\n"
    assert "<br" in shown(text)
    assert shown(wrap(text)) == shown(text)
    assert wrap(text).endswith(f"{ending}\nnext\n")


def test_the_program_names_lines_and_mends_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Head\n\nshort\n{LONG}\n")
    assert main([str(page)]) == 1
    assert capsys.readouterr().out.startswith(f"{page}:4: wider than 120 characters; ")
    assert main(["--fix", str(page)]) == 0
    assert main([str(page)]) == 0
    assert page.read_text().startswith("# Head\n\nshort word")


@pytest.mark.parametrize("arguments", [[], ["--all", "README.md"], ["/nonexistent/page.md"]])
def test_a_wrong_call_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
