"""Old releases go: which ones, and as whom in the shared tree, where root of this host is nobody."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PRUNE = Path(__file__).resolve().parents[3] / "roles/escriptorium/files/bin/prune"


def test_archives_go_as_their_owner_removes_them(shared_path: Path) -> None:
    home, shared, rm = shared_path / "home", shared_path / "shared", shared_path / "bin/rm"
    for path in (home / "cluster", shared, rm.parent):
        path.mkdir(parents=True)
    for age, name in enumerate(["new", "old"]):
        (home / "releases" / name).mkdir(parents=True)
        os.utime(home / "releases" / name, (1000 - age, 1000 - age))
        (shared / f"{name}.tar.zst").touch()
    (home / "current").symlink_to(home / "releases/new")
    os.chown(shared, 2000, 2000)
    rm.write_text('#!/bin/sh\necho "$(id -u) $*" >&2\nexec /bin/rm "$@"\n')
    rm.chmod(0o755)
    done = subprocess.run(
        [PRUNE, home, "1", shared],
        env={"PATH": f"{rm.parent}:/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{home}/releases/old\n"
    assert done.stderr.splitlines() == [
        f"0 -rf {home}/releases/old {home}/releases/old.sha256",
        f"2000 -f {shared}/old.tar.zst",
    ]
    assert [path.name for path in shared.iterdir()] == ["new.tar.zst"]
