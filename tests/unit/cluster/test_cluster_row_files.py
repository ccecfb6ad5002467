"""Which files of rows are missing: real files, rows in memory."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.unit.cluster.tables import Row, get_model, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_images_and_models_that_are_not_there_are_named_once(load: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "documents/7").mkdir(parents=True)
    (tmp_path / "documents/7/there.png").write_text("image")
    pages = [Row(image=f"documents/7/{name}") for name in ("there.png", "gone.png", "gone.png")]
    models = [Row(file="models/ab/gone.mlmodel"), Row(file=""), Row(file=None), Row(file="documents")]
    load("django.conf").settings = SimpleNamespace(MEDIA_ROOT=str(tmp_path))
    load("django.apps").apps = SimpleNamespace(
        get_model=get_model(core_DocumentPart=table(pages), core_OcrModel=table(models))
    )
    module = load("escriptorium_cluster.row_files")
    gone = ["documents/7/gone.png", "models/ab/gone.mlmodel", "documents"]
    assert module.missing() == gone
    command = load("escriptorium_cluster.management.commands.missing_files").Command()
    said: list[str] = []
    command.stdout = SimpleNamespace(write=said.append)
    command.handle()
    assert [json.loads(line) for line in said] == [gone], "one line, which the restore reads"
