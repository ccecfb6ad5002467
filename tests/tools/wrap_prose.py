"""Find prose that is wider than 120 characters, and wrap it: what `tests/lint prose` runs.

    python tests/tools/wrap_prose.py [--fix] PAGE...
    python tests/tools/wrap_prose.py [--fix] --all

Prose is what Markdown takes for a paragraph, in lists and quotes too. Headings, tables, code and HTML stay as they are,
and so does a paragraph whose lines all fit. A page means the same before and after: no line begins with what would
begin a list, a heading, a quote or a table.

Exit status 0: all fits, or was wrapped. 1: something does not, and is named. 2: wrong usage, or a page cannot be read.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
#: Characters of a line.
WIDTH: Final = 120
#: What people write: READMEs of roles are made.
ALL: Final = ("*.md", "docs/**/*.md", "tests/README.md", "molecule/**/*.md")

#: A word, with all that no line may end in: a code span has its blanks.
_WORD = re.compile(r"(?:(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)|\S)+")
#: What may begin something else than prose where a line begins with it.
_BLOCK = re.compile(r"[-+*=]+$|\d{1,9}[.)]$|#{1,6}$|[<>|]|:?-+|`{3}|~{3}")
#: Where Markdown keeps the end of a line.
_HARD_BREAK = re.compile(r"(?: {2,}|\\)$")


@dataclass(frozen=True)
class Paragraph:
    """Lines of a page from ``first`` up to before ``end``: what precedes the text of each, and that text."""

    first: int
    end: int
    lines: tuple[tuple[str, str], ...]

    def wrapped(self, width: int = WIDTH) -> list[str]:
        """Return the lines as they are to be: words that are wider than ``width`` characters stand alone."""
        before = self.lines[0][0]
        # Of a single line: the place below its text, beside the marks of quotes.
        after = self.lines[1][0] if len(self.lines) > 1 else re.sub(r"[^>\s]", " ", before)
        made: list[str] = []
        for text in self._pieces():
            for line in _fill(_words(text), width - max(len(before), len(after))):
                made.append((after if made else before) + line)
            made[-1] += _ending(text)
        return made

    def _pieces(self) -> Iterator[str]:
        """Yield the text between ends of lines that Markdown keeps."""
        waiting: list[str] = []
        for place, (_, text) in enumerate(self.lines):
            waiting.append(text)
            if _HARD_BREAK.search(text) or place == len(self.lines) - 1:
                yield " ".join(waiting)
                waiting = []


def _ending(text: str) -> str:
    """Return the blanks with which a text asks for the end of its line; a backslash is part of its last word."""
    found = _HARD_BREAK.search(text)
    return found[0] if found and not found[0].startswith("\\") else ""


def _words(text: str) -> list[str]:
    """Return the words of a text. One that may not begin a line is one with the word before it."""
    words: list[str] = []
    for found in _WORD.finditer(text):
        if words and _BLOCK.match(found[0]):
            words[-1] += f" {found[0]}"
        else:
            words.append(found[0])
    return words


def _fill(words: Sequence[str], width: int) -> list[str]:
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def paragraphs(text: str) -> list[Paragraph]:
    """Return the paragraphs of a page."""
    raw = text.split("\n")
    found = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for opening, inline in pairwise(tokens):
        if opening.type != "paragraph_open" or opening.map is None:
            continue
        first, end = opening.map
        inner = inline.content.split("\n")
        # The last line's blanks are not in the content; a definition of a link is in no paragraph's.
        if len(inner) != end - first:
            continue
        both = zip(raw[first:end], inner, strict=True)
        found.append(Paragraph(first, end, tuple((line[: line.index(part.rstrip())], part) for line, part in both)))
    return found


def wide(text: str) -> list[tuple[Paragraph, int]]:
    """Return the paragraphs that are to be wrapped, each with the number of its first line that is too wide, from 1."""
    raw = text.split("\n")
    return [
        (paragraph, next(place for place in range(paragraph.first, paragraph.end) if len(raw[place]) > WIDTH) + 1)
        for paragraph in paragraphs(text)
        if any(len(line) > WIDTH for line in raw[paragraph.first : paragraph.end])
        and paragraph.wrapped() != raw[paragraph.first : paragraph.end]
    ]


def wrap(text: str) -> str:
    """Return a page with all of its prose wrapped."""
    raw = text.split("\n")
    for paragraph, _ in reversed(wide(text)):
        raw[paragraph.first : paragraph.end] = paragraph.wrapped()
    return "\n".join(raw)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="wrap_prose.py", description="Find prose that is too wide, and wrap it.")
    parser.add_argument("--fix", action="store_true", help="wrap it")
    parser.add_argument("--all", action="store_true", help="all pages that people write")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    if options.all == bool(options.pages):
        parser.error("name pages, or --all")
    pages = sorted({page for glob in ALL for page in ROOT.glob(glob)}) if options.all else options.pages
    failed = False
    for page in pages:
        try:
            text = page.read_text(encoding="utf-8")
        except OSError as error:
            parser.error(str(error))
        if options.fix:
            page.write_text(wrap(text), encoding="utf-8")
            continue
        for _, number in wide(text):
            failed = True
            print(f"{page}:{number}: wider than {WIDTH} characters; python tests/tools/wrap_prose.py --fix {page}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
