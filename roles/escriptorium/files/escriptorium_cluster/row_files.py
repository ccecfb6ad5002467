"""Images and models that rows name and that are not below the media folder: after a restore, what is still missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from django.apps import apps
from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Tables whose rows are worth nothing without their file, and the column that names it.
COLUMNS: Final = (("core", "DocumentPart", "image"), ("core", "OcrModel", "file"))
#: Rows that are read at a time.
CHUNK: Final = 5000


def named() -> Iterator[str]:
    """Yield the names of all files that rows name, below the media folder; one that several rows name comes again."""
    for app, model, column in COLUMNS:
        rows = apps.get_model(app, model).objects.values_list(column, flat=True)
        for name in rows.iterator(chunk_size=CHUNK):
            if name:
                yield str(name)


def missing() -> list[str]:
    """Return those of them that are not there, each once."""
    found = (name for name in named() if not os.path.isfile(os.path.join(settings.MEDIA_ROOT, name)))  # noqa: PTH113, PTH118 - millions
    return list(dict.fromkeys(found))
