"""Spares and cache disks, which come and go as declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .declaration import VDEVS, DiskRule
from .declared import LISTS
from .members import Slot
from .pairing import matches
from .scene import command
from .status import DATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .declared import Wanted
    from .scene import Scene
    from .status import PoolStatus, Vdev


class Flat:
    """The spares and cache disks of a pool; ``pool`` is None before there is one."""

    def __init__(self, scene: Scene, pool: PoolStatus | None) -> None:
        self._scene = scene
        self._pool = pool
        self._draft = scene.draft
        self._members = scene.members

    def new(self, role: str, kept: Sequence[Vdev] = ()) -> list[str]:
        """Return the names of the spares or cache disks that are to be added."""
        disks = self._scene.declared.flat(role)
        path = LISTS[role]
        least = self._least() if role == "spare" else 0
        if isinstance(disks, DiskRule):
            count = disks.count - len(kept)
            missing = self._scene.blanks.pick(path, disks, count) if count > 0 else ()
        else:
            wanted_all = self._scene.declared.disks_of(path, disks)
            missing = tuple(
                wanted
                for wanted in wanted_all
                if not any(self._is(leaf, wanted) for leaf in kept) and not self._kept_for_good(wanted)
            )
        return [wanted.name for wanted in missing if self._scene.blanks.check(wanted, least)]

    def _kept_for_good(self, wanted: Wanted) -> bool:
        """Whether a declared spare is a data disk by now. That is reported where its vdev is compared."""
        owner = self._members.owner_of(wanted.disk) if wanted.disk is not None else None
        return owner is not None and owner[0] == self._scene.spec.name and owner[1].role == DATA and self._told(wanted)

    def _told(self, wanted: Wanted) -> bool:
        return any(drift.found.startswith(f"the spare {wanted.name} for good") for drift in self._draft.drift)

    def _least(self) -> int:
        """Return the size from which a disk can take the place of at least one data disk."""
        sizes = [disk.size for _, disk in self._scene.declared.below(VDEVS)]
        for vdev in self._pool.data if self._pool else ():
            sizes += [disk.size for leaf in vdev.leaves() if (disk := self._members.whole_device(leaf)) is not None]
        return min(sizes or [disk.size for disk in self._scene.declared.data_disks()], default=0)

    def _is(self, leaf: Vdev, wanted: Wanted) -> bool:
        return matches(self._members, Slot(leaf, (leaf,)), wanted)

    def compare(self, pool: PoolStatus, role: str, leaves: Sequence[Vdev]) -> None:
        """Compare those of the pool with those declared: add, remove what is idle, and report all else."""
        kept: list[Vdev] = []
        for leaf in leaves:
            if self._declared(role, leaf, len(kept)):
                kept.append(leaf)
                if not leaf.healthy:
                    self._draft.differs(
                        f"the {role} {self._members.shown(leaf)} (guid {leaf.guid}) {leaf.state}",
                        "a disk that works",
                        command("remove", pool.name, str(leaf.guid)),
                    )
            elif leaf.state != "INUSE":
                remove = ("zpool", "remove", pool.name, str(leaf.guid))
                self._draft.step(remove, f"remove the {role} {self._members.shown(leaf)}")
            elif not self._chosen(leaf):
                self._draft.differs(
                    f"the spare {self._members.shown(leaf)}, which is not declared, stands in for a disk",
                    "it among zfs_spares, or back among the spares before it can go",
                    command("detach", pool.name, str(leaf.guid)),
                )
        names = self.new(role, kept)
        if names:
            self._draft.step(self._scene.adding([role, *names]), f"add {role} {', '.join(names)}")
        self._draft.view.flat(role, [*(self._members.shown(leaf) for leaf in kept), *names])

    def _declared(self, role: str, leaf: Vdev, kept: int) -> bool:
        disks = self._scene.declared.flat(role)
        if isinstance(disks, DiskRule):
            return kept < disks.count and self._members.fits(leaf, disks)
        return any(self._is(leaf, wanted) for wanted in self._scene.declared.disks_of(LISTS[role], disks))

    def _chosen(self, leaf: Vdev) -> bool:
        """Whether a spare that stands in is declared as a data disk: then its vdev has been compared with it."""
        disk = self._members.device_of(leaf)
        return disk is not None and any(
            self._scene.devices.same(disk, other) for _, other in self._scene.declared.below(VDEVS)
        )
