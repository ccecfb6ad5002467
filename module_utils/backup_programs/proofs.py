"""What a trial compares: a sample of a copy, brought back, with what is here, and whether a copy has all there was."""

from __future__ import annotations

import os
import random
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .files import MediaError, digest_of, open_below
from .locks import REPOSITORY
from .restic import batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .restic import Node, Restic, Snapshot

#: What pgBackRest calls its lists of backups and of changes: they are in each sample.
LISTS: Final = ".info"
#: What it calls a file until that is whole.
UNFINISHED_BACKUPS: Final = ".pgbackrest.tmp"


def sample(nodes: Iterable[Node], most: int, size: int, first: str = "") -> list[Node]:
    """Return files of a copy at random, of bounded number and sizes (bytes); those that end with ``first`` all."""
    chosen: list[Node] = []
    always: list[Node] = []
    seen = 0
    for node in nodes:
        if first and node.name.endswith(first):
            always.append(node)
        elif len(chosen) < most:
            chosen.append(node)
            seen += 1
        else:
            if (place := random.randint(0, seen)) < most:  # noqa: S311 - a sample, and no secret
                chosen[place] = node
            seen += 1
    taken = []
    for node in [*always, *chosen]:
        if node.size <= size:
            size -= node.size
            taken.append(node)
    return taken


def compare(restic: Restic, snapshot: Snapshot, chosen: Sequence[Node], live: Path, scratch: Path) -> int:
    """Bring a sample beside what is here; answers how many were compared, as others were changed since.

    Raises:
        MediaError: one is otherwise.

    """
    compared = 0
    with tempfile.TemporaryDirectory(prefix="drill-", dir=scratch) as place:
        for batch in batches(chosen):
            restic.fetch(snapshot, [node.name for node in batch], Path(place))
        for node in chosen:
            here, copy = open_below(live, node.name), open_below(Path(place), node.name)
            if copy is None:
                raise MediaError(f"{node.name} did not come back from {snapshot.name[:8]}")
            if here is None:
                continue
            with here, copy:
                status = os.fstat(here.fileno())
                if status.st_size != node.size or int(status.st_mtime) != int(node.written):
                    continue
                if digest_of(here) != digest_of(copy):
                    raise MediaError(f"{node.name} came back otherwise than it is from {snapshot.name[:8]}")
                compared += 1
    return compared


def settled(backups: Path, moment: float) -> dict[str, int]:
    """Return the files of the repository that are in their places since before a moment, with their sizes in bytes."""
    found = {}
    for folder, _, names in os.walk(backups / REPOSITORY):
        for name in names:
            path = Path(folder, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_ctime < moment and not name.endswith(UNFINISHED_BACKUPS):
                found[str(path.relative_to(backups))] = status.st_size
    return found
