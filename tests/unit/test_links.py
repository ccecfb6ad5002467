"""Links between pages lead somewhere: to a file that is there and, where they name a part of it, to a heading of it."""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from markdown_it.token import Token

ROOT: Final = Path(__file__).resolve().parents[2]
#: Folders of tools, and of what a run makes.
OTHERS: Final = frozenset({".git", ".venv", ".cache", "__pycache__", "node_modules", ".mypy_cache", ".ruff_cache"})
#: Files that people and programs read, in which a page of docs is named.
TEXTS: Final = frozenset({".j2", ".md", ".py", ".sh", ".yml", ""})
#: A page as a comment or a message names it.
NAMED: Final = re.compile(r"(?<![\w./-])docs/[\w./-]+\.md(?:#[\w-]+)?")
#: Pages of other repositories.
FOREIGN: Final = frozenset({"docs/mig.md"})


def files(suffixes: frozenset[str]) -> list[Path]:
    """Return the files of the repository with one of these suffixes."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(set(folders) - OTHERS)
        found += [path for name in names if (path := Path(folder, name)).suffix in suffixes and not path.is_symlink()]
    return sorted(found)


PAGES = files(frozenset({".md"}))


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead, but for those to other sites."""
    found = []
    for token in tokens(page):
        for part in token.children or []:
            target = part.attrs.get("href", part.attrs.get("src"))
            if target is not None and not re.match(r"[a-z][a-z0-9+.-]*:", str(target)):
                found.append(str(target))
    return found


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the names that headings have, as the hosts of repositories make them."""
    found: list[str] = []
    parts = tokens(page)
    for opening, inline in pairwise(parts):
        if opening.type == "heading_open":
            text = "".join(part.content for part in inline.children or [] if part.type in {"text", "code_inline"})
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            again = found.count(name)
            found.append(name)
            if again:
                found.append(f"{name}-{again}")
    return frozenset(found)


def wrong(page: Path, target: str) -> str:
    """Say what is wrong with a link of a page; nothing where it leads somewhere."""
    name, _, anchor = target.partition("#")
    there = (page.parent / name).resolve() if name else page
    if not there.exists():
        return f"{target}: there is no such file"
    if anchor and anchor not in anchors(there):
        return f"{target}: there is no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert [said for target in links(page) if (said := wrong(page, target))] == []


def test_pages_that_are_named_are_there() -> None:
    """In comments, messages and descriptions: from the root of the repository."""
    found = [
        (path.relative_to(ROOT), name)
        for path in files(TEXTS)
        for name in NAMED.findall(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert len(found) > 50, "or the pattern finds nothing"
    own = [(str(path), name) for path, name in found if name not in FOREIGN]
    assert [(path, said) for path, name in own if (said := wrong(ROOT / "x", name))] == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        named = [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
        waiting += [one for one in named if one.is_file()]
    unreached = {page for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in reached}
    # The folder of decisions shows its pages.
    assert {page for page in unreached if page.parent.name != "decisions"} == set()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "LICENSE", tmp_path / "LICENSE")
    page = tmp_path / "page.md"
    page.write_text("# One, *two* & `three`\n\n## Again\n\n## Again\n\n```\n# no heading\n[no](link)\n```\n")
    return page


@pytest.mark.parametrize(
    "target", ["LICENSE", "page.md", "#one-two--three", "page.md#again", "#again-1", "../" + "{folder}/LICENSE"]
)
def test_a_link_that_leads_somewhere_passes(page: Path, target: str) -> None:
    assert wrong(page, target.format(folder=page.parent.name)) == ""


@pytest.mark.parametrize("target", ["LICENCE", "pages.md#again", "#no-heading", "page.md#again-2", "#One"])
def test_a_link_that_leads_nowhere_is_named(page: Path, target: str) -> None:
    assert wrong(page, target).startswith(f"{target}: there is no such ")


def test_links_are_found(page: Path) -> None:
    page.write_text(
        "[a](b.md), [c\nd](e.md#f), ![g](h.png) and [i]\n\n| x |\n|---|\n| [j](k.md) |\n\n`[no](no.md)`\n\n"
        "[l](https://example.org), <mailto:a@example.org>\n\n[i]: m.md\n"
    )
    assert links(page) == ["b.md", "e.md#f", "h.png", "m.md", "k.md"]
