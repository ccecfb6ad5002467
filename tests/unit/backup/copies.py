"""A site in one folder for tests of copies: media, backups of a database, targets, and what a unit and root do."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.backup_programs.bring import Copies
from module_utils.backup_programs.files import Account, MediaError
from module_utils.backup_programs.restic import MEDIA, Restic
from module_utils.backup_programs.work import Work

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

needs_restic = pytest.mark.skipif(shutil.which("restic") is None, reason="no restic here: apt-get install restic")

PAGE = "documents/12/page.png"
MODEL = "models/1f/charters.mlmodel"
TREE = {PAGE: "page", MODEL: "epoch", "documents/12/we[ir]d $HOME*é.png": "strange"}
KEEP = {"hourly": 24, "daily": 30, "weekly": 8, "monthly": 12}


def tree(folder: Path, files: Mapping[str, str], written: float = 1000) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (written, written))
    return folder


def target(name: str, place: Path, **further: Any) -> dict[str, Any]:
    return {"name": name, "type": "directory", "repository": str(place), "append_only": False, **further}


class Site:
    """Media, one target or more, and what a unit and root do with them."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.mails: list[str] = []
        self.media = tree(folder / "media", TREE)
        self.secrets, self.state, self.scratch = folder / "secrets", folder / "state", folder / "scratch"
        for place in (self.secrets, self.state, self.scratch):
            place.mkdir()
        (self.secrets / "passphrase").write_text("a passphrase of the tests\n")
        self.settings: dict[str, Any] = {
            "media": str(self.media),
            "backups": str(folder / "backups"),
            "keep": KEEP,
            "keep_database": {"hourly": 24},
            "database_seconds": 60,
            "max_age_days": 9,
            "check_parts": 1,
            "sample_files": 100,
            "sample_mib": 1,
            "mail": "root@example.org",
            "metrics": str(folder / "media.prom"),
        }
        self.settings["targets"] = [target(name, folder / name) for name in names or ("local",)]
        self.restics = [Restic(one, self.secrets) for one in self.settings["targets"]]

    def work(self, number: int = 0) -> Work:
        return Work(self.settings, self.restics[number], self.state)

    def backup(self, number: int = 0) -> dict[str, Any]:
        done = self.work(number).backup()
        if "problem" in done:
            raise MediaError(done["problem"])
        return done

    def drill(self, number: int = 0) -> dict[str, Any]:
        done = self.work(number).drill()
        if "problem" in done:
            raise MediaError(done["problem"])
        return done

    def copies(self) -> Copies:
        return Copies(self.settings, self.restics, self.scratch, Account(os.geteuid(), os.getegid()))

    def names(self, number: int = 0, kind: str = MEDIA) -> set[str]:
        restic = self.restics[number]
        newest = max(restic.snapshots(kind), key=lambda snapshot: snapshot.made)
        return {node.name for node in restic.files(newest)}

    def spoil_packs(self, number: int = 0) -> list[str]:
        """Change each byte of packs that hold contents of files, and none of those with names; answers their names."""
        restic = self.restics[number]
        indexes = [json.loads(restic.ask("cat", "index", name)) for name in restic.ask("list", "index").split()]
        packs = [pack for index in indexes for pack in index["packs"] if pack["blobs"][0]["type"] == "data"]
        for pack in packs:
            path = self.folder / restic.target["name"] / "data" / pack["id"][:2] / pack["id"]
            path.chmod(0o600)
            path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))
        assert packs
        return [pack["id"] for pack in packs]
