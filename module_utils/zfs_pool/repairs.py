"""One vdev of the pool beside its declaration: disks that fail, spares that stand in, disks that are to be exchanged.

All of it is left to a person, with the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .declaration import SPARES, DiskRule
from .members import kind_of
from .pairing import matches
from .scene import NEW_DISK, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .declaration import VdevSpec
    from .declared import Wanted
    from .members import Slot
    from .scene import Scene
    from .status import PoolStatus, Vdev


class Repairs:
    """Compares vdevs that are in the pool and declared."""

    def __init__(self, scene: Scene, pool: PoolStatus) -> None:
        self._scene = scene
        self._pool = scene.spec.name
        self._draft = scene.draft
        self._members = scene.members
        self._idle = self._idle_spares(pool)

    def _idle_spares(self, pool: PoolStatus) -> list[Vdev]:
        """Return the spares that stand in for no disk, and stay spares."""
        named = [disk for _, disk in self._scene.declared.below(SPARES)]
        return [
            spare
            for spare in pool.spares
            if spare.state == "AVAIL"
            and (disk := self._members.device_of(spare)) is not None
            and (isinstance(self._scene.spec.spares, DiskRule) or any(self._scene.devices.same(disk, d) for d in named))
        ]

    def compare(self, path: str, spec: VdevSpec, vdev: Vdev) -> None:
        """Compare a declared vdev with the one of the pool that it is."""
        slots = self._members.slots(vdev)
        kind = kind_of(vdev)
        if kind != spec.kind and {kind, spec.kind} != {"disk", "mirror"}:
            self._draft.refuse(
                f"{path}.type",
                f"{spec.kind}, while {vdev.name} of the pool {self._pool} is {kind}",
                kind,
                "correct type: ZFS cannot change the redundancy of a vdev",
            )
            return
        if isinstance(spec.disks, DiskRule):
            self.health_of(vdev)
            return
        free_slots = list(slots)
        free_disks = []
        for wanted in self._scene.declared.disks_of(f"{path}.disks", spec.disks):
            own = next((slot for slot in free_slots if matches(self._members, slot, wanted)), None)
            if own is None:
                free_disks.append(wanted)
            else:
                free_slots.remove(own)
                self._health(own, wanted)
        self._unmatched(path, vdev, slots, free_slots, free_disks)

    def health_of(self, vdev: Vdev) -> None:
        """Report the places of a vdev that need a person, whatever is declared."""
        for slot in self._members.slots(vdev):
            self._health(slot, None)

    def _unmatched(
        self, path: str, vdev: Vdev, slots: Sequence[Slot], free_slots: list[Slot], free_disks: list[Wanted]
    ) -> None:
        """Report disks that are to be replaced, and a vdev that is wider or narrower than declared."""
        least = self._members.least(vdev)
        # The disk that fails is the one to go, whatever the order in the inventory.
        free_slots.sort(key=lambda slot: slot.first.healthy)
        while free_slots and free_disks:
            slot, wanted = free_slots.pop(0), free_disks.pop(0)
            if self._exchanged_by_hand(slot, wanted) or not self._may_replace(slot, wanted, least):
                continue
            self._health(slot, wanted, replace=True)
        for wanted in free_disks:
            if self._scene.blanks.check(wanted, least):
                target = vdev.name if vdev.kind.startswith("raidz") else str(slots[0].first.guid)
                self._draft.differs(
                    f"{vdev.name} without {wanted.name}",
                    f"{vdev.name} with {len(slots) + len(free_disks)} disks",
                    command("attach", self._pool, target, wanted.name),
                )
        for slot in free_slots:
            self._too_many(path, vdev, len(slots), slot)

    def _too_many(self, path: str, vdev: Vdev, width: int, slot: Slot) -> None:
        self._health(slot, None)
        shown = self._members.shown(slot.first)
        if kind_of(vdev) == "mirror":
            self._draft.differs(
                f"{shown} in {vdev.name}",
                f"{vdev.name} without it, as declared",
                command("detach", self._pool, str(slot.first.guid)),
            )
        else:
            self._draft.refuse(
                f"{path}.disks",
                f"fewer disks than {vdev.name} of the pool has: {shown} is missing",
                f"its {width} disks",
                "declare the disk: ZFS cannot make a raidz vdev narrower",
            )

    def _exchanged_by_hand(self, slot: Slot, wanted: Wanted) -> bool:
        """Report a spare that somebody kept for good, or one that somebody chose to keep in the inventory."""
        same = self._scene.devices.same
        for leaf in slot.leaves:
            disk = self._members.device_of(leaf)
            if disk is None:
                continue
            if leaf in slot.stand_ins and wanted.disk is not None and same(disk, wanted.disk):
                self._draft.differs(
                    f"the spare {wanted.name} stands in for {self._members.shown(slot.first)} ({slot.first.state})",
                    "the spare for good, as declared",
                    command("detach", self._pool, str(slot.first.guid)),
                )
                return True
            spare = next((one for one, place in self._scene.declared.below(SPARES) if same(disk, place)), None)
            if spare is not None and leaf not in slot.stand_ins and wanted.disk is None:
                self._draft.differs(
                    f"the spare {spare.name} for good in place of {wanted.name}",
                    f"an inventory that says so: {spare.name} at {wanted.path}, and no longer in zfs_spares",
                )
                return True
        return False

    def _may_replace(self, slot: Slot, wanted: Wanted, least: int) -> bool:
        # The resilver onto it may run already.
        if wanted.disk is not None:
            owner = self._members.owner_of(wanted.disk)
            if owner is not None and owner[1] in slot.leaves:
                return True
        return self._scene.blanks.check(wanted, least)

    def _health(self, slot: Slot, wanted: Wanted | None, *, replace: bool = False) -> None:
        """Report a place that needs a person: a disk that fails, a spare that stands in, a replacement that is due."""
        leaf = slot.first
        shown = f"{self._members.shown(leaf)} (guid {leaf.guid}) {leaf.state}"
        new = NEW_DISK
        if wanted is not None and (replace or self._other_disk(slot, wanted)):
            new = wanted.name
        replacement = command("replace", self._pool, str(leaf.guid), new)
        if slot.replacing:
            # It ends by itself, and a spare goes back.
            return
        if slot.stand_ins:
            spare = slot.stand_ins[-1]
            found = f"the spare {self._members.shown(spare)} stands in for {shown}"
            if leaf.healthy and not replace:
                back = command("detach", self._pool, str(spare.guid))
                self._draft.differs(found, "the spare back among the spares", back)
            else:
                wish = f"{new} in its place" if new != NEW_DISK else "a new disk in its place"
                keep = command("detach", self._pool, str(leaf.guid))
                self._draft.differs(found, f"{wish}; or the spare for good: {keep}", replacement)
        elif replace or new != NEW_DISK:
            self._draft.differs(shown, f"{new} in its place", replacement)
        elif not leaf.healthy and self._members.device_of(leaf) is None and self._idle:
            # ZFS puts none in the place of a disk that is missing since the pool was imported.
            idle = self._members.shown(self._idle.pop(0))
            self._draft.differs(
                f"{shown}, and the spare {idle} does not stand in",
                f"the spare in its place, until a disk that works is there: {replacement}",
                command("replace", self._pool, str(leaf.guid), idle),
            )
        elif not leaf.healthy:
            self._draft.differs(shown, "a disk that works", self._remedy(leaf, replacement))

    def _other_disk(self, slot: Slot, wanted: Wanted) -> bool:
        """Whether in the place of a disk that is gone there is now another one by the same name."""
        at_work = [disk for leaf in slot.leaves if (disk := self._members.device_of(leaf)) is not None]
        return (
            self._members.device_of(slot.first) is None
            and wanted.disk is not None
            and not any(self._scene.devices.same(disk, wanted.disk) for disk in at_work)
        )

    def _remedy(self, leaf: Vdev, replacement: str) -> str:
        if self._members.device_of(leaf) is None:
            return replacement
        word = "clear" if leaf.state in {"FAULTED", "DEGRADED"} else "online"
        return command(word, self._pool, str(leaf.guid))
