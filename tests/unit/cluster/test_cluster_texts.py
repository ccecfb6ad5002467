"""Texts that users read: each in every language of the site, with the same values."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import pytest
from escriptorium_cluster import fair_use, guesses
from escriptorium_cluster.gate import texts as gate
from escriptorium_cluster.texts import LANGUAGES, in_language

TEXTS = {
    f"{module.__name__.removeprefix('escriptorium_cluster.')}.{name}": text
    for module in (fair_use, gate, guesses)
    for name, text in vars(module).items()
    if name.isupper() and isinstance(text, Mapping) and "en" in text
}


def values(text: str) -> set[Any]:
    """Return the names of the values that a text says."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("name", TEXTS)
def test_each_text_is_there_in_every_language_and_says_the_same(name: str) -> None:
    text = TEXTS[name]
    assert tuple(text) == LANGUAGES
    assert len(set(text.values())) == len(LANGUAGES)
    assert values(text["en"]) == values(text["fr"]) == values(text["de"])
    assert all(said.endswith(".") for said in text.values())


def test_all_texts_were_found() -> None:
    assert {"fair_use.BUSY", "guesses.REFUSED", "gate.texts.KEEP", "gate.texts.NOT_YOURS"} <= TEXTS.keys()
    assert values(TEXTS["fair_use.REFUSED"]["de"]) == {"count", "bound"}


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", "2 left"), ("de-ch", "noch 2"), ("FR", "reste 2"), ("la", "2 left"), ("", "2 left"), (None, "2 left")],
)
def test_a_text_is_said_in_the_users_language_or_in_english(language: str | None, said: str) -> None:
    assert in_language({"en": "{n} left", "fr": "reste {n}", "de": "noch {n}"}, language, n=2) == said
