"""The pool as it was last seen on a host, in a small file there: a pool that is switched off tells nothing itself.

``FOLDER`` has one file for each pool. ZFS's own ``CACHEFILE`` knows pools that were imported when the host stopped.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .members import kind_of
from .status import DATA

if TYPE_CHECKING:
    from .members import Members
    from .status import PoolStatus

FOLDER: Final = "/var/lib/zfs-pool"
CACHEFILE: Final = "/etc/zfs/zpool.cache"


#: A pool in what ``zdb -C`` shows: its name, and on the same level its number.
_CACHED: Final = re.compile(r"^    name: '(?P<name>[^']+)'\n(?:    .*\n)*?    pool_guid: (?P<guid>\d+)$", re.MULTILINE)


class RecordError(ValueError):
    """A file that does not say which pool was there."""


@dataclass(frozen=True)
class SeenVdev:
    """One vdev that holds data or metadata, with the names of its disks."""

    role: str
    kind: str
    disks: tuple[str, ...]

    def text(self) -> str:
        """Return it in one line."""
        return f"{'' if self.role == DATA else f'{self.role} '}{self.kind} of {', '.join(self.disks)}"


@dataclass(frozen=True)
class Record:
    """A pool as it was last seen; ``file`` is what has to go where it is to be forgotten."""

    pool: str
    guid: int
    vdevs: tuple[SeenVdev, ...] = ()
    file: str = ""

    @property
    def title(self) -> str:
        """Its name and number, and its disks where they are known."""
        disks = "; ".join(vdev.text() for vdev in self.vdevs)
        return f"{self.pool} ({self.guid})" + (f": {disks}" if disks else "")

    def lost(self, now: Record) -> tuple[SeenVdev, ...]:
        """Return the vdevs that the pool had and has no more. One whose disks were all exchanged is still there."""
        there = {disk for vdev in now.vdevs for disk in vdev.disks}
        lost: list[SeenVdev] = []
        for role in dict.fromkeys(vdev.role for vdev in self.vdevs):
            before = [vdev for vdev in self.vdevs if vdev.role == role]
            fewer = len(before) - sum(vdev.role == role for vdev in now.vdevs)
            lost += sorted(before, key=lambda vdev: bool(there & set(vdev.disks)))[: max(fewer, 0)]
        return tuple(lost)


def path_of(pool: str, folder: str = FOLDER) -> Path:
    """Return the file of a pool."""
    return Path(folder, f"{pool}.json")


def record_of(pool: PoolStatus, members: Members) -> Record:
    """Return what is to be remembered of an imported pool: log, cache and spares can go, all else may not."""
    vdevs = (*pool.data, *pool.special, *pool.dedup)
    seen = tuple(SeenVdev(vdev.role, kind_of(vdev), members.names(vdev)) for vdev in vdevs)
    return Record(pool.name, pool.guid, seen, str(path_of(pool.name)))


def parse_cached(output: str) -> dict[str, int]:
    """Return the numbers of pools by their names, from ``zdb -C -U CACHEFILE``, which needs none of their disks."""
    return {found["name"]: int(found["guid"]) for found in _CACHED.finditer(output)}


def read_record(pool: str, folder: str = FOLDER) -> Record | None:
    """Return what is remembered of a pool, None where there is nothing.

    Raises:
        RecordError: the file cannot be read.

    """
    path = path_of(pool, folder)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        vdevs = (SeenVdev(vdev["role"], vdev["kind"], tuple(vdev["disks"])) for vdev in raw["vdevs"])
        return Record(raw["pool"], int(raw["guid"]), tuple(vdevs), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} does not say which pool was there ({error})") from error


def write_record(record: Record, folder: str = FOLDER) -> None:
    """Write what is to be remembered, whole or not at all.

    Raises:
        OSError: the file cannot be written.

    """
    path = path_of(record.pool, folder)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    known = {name: value for name, value in asdict(record).items() if name != "file"}
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(json.dumps(known, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
