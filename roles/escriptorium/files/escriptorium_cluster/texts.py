"""Texts that users read, by language: how one is chosen. Pure: no Django.

No catalogues of gettext: the package has some twenty such sentences, they stand where they are used, in the languages
that upstream has as well, and nothing has to be compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What each text is written in; English is for everybody else.
LANGUAGES = ("en", "fr", "de")


def in_language(text: Mapping[str, str], language: str | None, **values: object) -> str:
    """Return a text in the user's language, or in English.

    :param text: by language; ``{name}`` stands for a value.
    """
    return text.get((language or "en")[:2].lower(), text["en"]).format(**values)
