"""What is declared: each disk with the place in the inventory that names it, and the device that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .capacity import size_fits
from .declaration import CACHE, LOG, SIZE_TOLERANCE, SPARES, SPECIAL, VDEVS, DiskRule
from .sizes import format_size

if TYPE_CHECKING:
    from .declaration import Disks, PoolSpec, VdevSpec
    from .devices import Devices, Disk
    from .steps import Draft

# Where the inventory says what has this role.
PATHS: Final = {"data": VDEVS, "log": LOG, "special": SPECIAL}
LISTS: Final = {"spare": SPARES, "cache": CACHE}


@dataclass(frozen=True)
class Wanted:
    """One declared disk: where the inventory says so, by which name, and the device where it is there."""

    path: str
    name: str
    disk: Disk | None
    size: int | None = None


class Declared:
    """A declaration on the disks of this host. One device by two names, or of another size, is refused."""

    def __init__(self, spec: PoolSpec, devices: Devices, draft: Draft) -> None:
        self.spec = spec
        self._devices = devices
        self._draft = draft
        self._named = self._resolve()
        seen: dict[str, Wanted] = {}
        for wanted in self._named.values():
            if wanted.disk is not None:
                self._check(wanted, wanted.disk, seen)

    def _resolve(self) -> dict[str, Wanted]:
        found: dict[str, Wanted] = {}
        for role, path in PATHS.items():
            for number, vdev in enumerate(self.specs(role)):
                if not isinstance(vdev.disks, DiskRule):
                    for position, name in enumerate(vdev.disks):
                        place = f"{path}[{number}].disks[{position}]"
                        found[place] = Wanted(place, name, self._devices.at(name), vdev.size)
        for role, path in LISTS.items():
            disks = self.flat(role)
            if not isinstance(disks, DiskRule):
                for position, name in enumerate(disks):
                    found[f"{path}[{position}]"] = Wanted(f"{path}[{position}]", name, self._devices.at(name))
        return found

    def _check(self, wanted: Wanted, disk: Disk, seen: dict[str, Wanted]) -> None:
        for path in (disk.path, disk.parent, *disk.partitions):
            if path and path in seen:
                mend = f"{seen[path].path} names it already, as {seen[path].name}: correct one of them"
                self._draft.refuse(wanted.path, f"{wanted.name}, which is {disk.path}", "a disk of its own", mend)
                break
        seen[disk.path] = wanted
        if wanted.size is not None and not size_fits(wanted.size, disk.size):
            self._draft.refuse(
                f"{wanted.path.rpartition('.')[0]}.size",
                f"{wanted.name} has {format_size(disk.size)}",
                f"the declared {format_size(wanted.size)}, give or take {SIZE_TOLERANCE:.0%}",
                "correct size, or the disk",
            )

    def specs(self, role: str) -> tuple[VdevSpec, ...]:
        """Return the vdevs of a role."""
        return {"data": self.spec.vdevs, "log": self.spec.log, "special": self.spec.special}[role]

    def flat(self, role: str) -> Disks:
        """Return the spares or the cache disks, by name or by rule."""
        return self.spec.spares if role == "spare" else self.spec.cache

    def disks_of(self, path: str, disks: Disks) -> list[Wanted]:
        """Return the disks that a place of the inventory names; none where it has a rule."""
        return [] if isinstance(disks, DiskRule) else [self._named[f"{path}[{at}]"] for at in range(len(disks))]

    def below(self, path: str) -> list[tuple[Wanted, Disk]]:
        """Return the disks that a variable names and that are there."""
        return [
            (wanted, wanted.disk)
            for place, wanted in self._named.items()
            if place.startswith(path) and wanted.disk is not None
        ]

    def devices(self) -> set[str]:
        """Return the paths of all disks that are named anywhere."""
        return {wanted.disk.path for wanted in self._named.values() if wanted.disk is not None}

    def data_disks(self) -> list[Disk]:
        """Return the disks that may be meant for data: those named, and all that fit a rule."""
        found = [disk for _, disk in self.below(VDEVS)]
        for vdev in self.spec.vdevs:
            if isinstance(vdev.disks, DiskRule):
                found += self._devices.fitting(vdev.disks)
        return found
