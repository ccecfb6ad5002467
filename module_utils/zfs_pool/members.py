"""What is there: the members of the imported pools, the devices that they are, and their places in vdevs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .devices import fits, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .declaration import DiskRule
    from .devices import Devices, Disk
    from .status import PoolStatus, Vdev

_WRAPPERS: Final = frozenset({"spare", "replacing"})


@dataclass(frozen=True)
class Slot:
    """One place in a vdev: the disk that belongs there, and a spare that stands in for it."""

    vdev: Vdev
    leaves: tuple[Vdev, ...]
    stand_ins: tuple[Vdev, ...] = ()

    @property
    def replacing(self) -> bool:
        """Whether a new disk takes its place already."""
        return any(vdev.kind == "replacing" for vdev in (self.vdev, *self.vdev.children))

    @property
    def first(self) -> Vdev:
        """The disk that belongs there; of two, the one that is being replaced."""
        return next((leaf for leaf in self.leaves if leaf not in self.stand_ins), self.leaves[0])


def kind_of(vdev: Vdev) -> str:
    """Return the type of a vdev as a declaration says it."""
    return "disk" if vdev.kind in _WRAPPERS or not vdev.children else vdev.kind


class Members:
    """The members of all imported pools."""

    def __init__(self, devices: Devices, pools: Mapping[str, PoolStatus]) -> None:
        self.devices = devices
        self._spares = frozenset(spare.guid for pool in pools.values() for spare in pool.spares)
        self._device: dict[int, Disk | None] = {}
        self._owners: dict[str, tuple[str, Vdev]] = {}
        for name, pool in pools.items():
            for leaf in (leaf for vdev in pool.vdevs() for leaf in vdev.leaves()):
                disk = self.device_of(leaf)
                if disk is not None:
                    # A spare that stands in is in its vdev and among the spares: it counts as a spare.
                    self._owners[disk.path] = (name, leaf)

    def device_of(self, leaf: Vdev) -> Disk | None:
        """Return the device of a member of a pool, by its label where the path cannot be relied on."""
        if leaf.guid not in self._device:
            disk = self.devices.at(leaf.path)
            if disk is not None and not leaf.healthy and not self._labelled(disk, leaf.guid):
                disk = None
            if disk is None:
                disk = self.devices.with_label(leaf.guid)
            self._device[leaf.guid] = disk
        return self._device[leaf.guid]

    def _labelled(self, disk: Disk, guid: int) -> bool:
        return any(label.part == str(guid) for label in self.devices.labels(disk))

    def whole_device(self, leaf: Vdev) -> Disk | None:
        """Return the disk of a member, also where that is a partition."""
        disk = self.device_of(leaf)
        return self.devices.at(disk.parent) if disk is not None and disk.parent else disk

    def owner_of(self, disk: Disk) -> tuple[str, Vdev] | None:
        """Return the imported pool and the member that a device is."""
        for path in (disk.path, *disk.partitions):
            if path in self._owners:
                return self._owners[path]
        return None

    def slots(self, vdev: Vdev) -> tuple[Slot, ...]:
        """Return the places of a vdev."""
        slots = []
        for place in (vdev,) if kind_of(vdev) == "disk" else vdev.children:
            leaves = tuple(place.leaves())
            stand_ins = tuple(leaf for leaf in leaves if leaf.guid in self._spares) if place.kind == "spare" else ()
            slots.append(Slot(place, leaves, stand_ins))
        return tuple(slots)

    def fits(self, leaf: Vdev, rule: DiskRule) -> bool:
        """Whether a member fits a rule. One that is gone is given the benefit of the doubt."""
        disk = self.whole_device(leaf)
        return disk is None or fits(disk, rule)

    def least(self, vdev: Vdev) -> int:
        """Return the size of the smallest disk of a vdev."""
        disks = (self.whole_device(slot.first) for slot in self.slots(vdev))
        return min((disk.size for disk in disks if disk is not None), default=0)

    def shown(self, leaf: Vdev) -> str:
        """Return the best name of a member: of the device, or the pool's own where that is gone."""
        disk = self.device_of(leaf)
        if disk is not None and disk.parent:
            disk = self.devices.at(disk.parent) or disk
        if disk is not None and disk.names:
            return disk.name
        if leaf.devid:
            return whole(f"/dev/disk/by-id/{leaf.devid}")
        return whole(leaf.path) or str(leaf.guid)

    def names(self, vdev: Vdev) -> tuple[str, ...]:
        """Return the names of the disks that belong into a vdev."""
        return tuple(self.shown(slot.first) for slot in self.slots(vdev))
