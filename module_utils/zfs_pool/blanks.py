"""Disks that are to be written: which ones a rule takes, and why a disk may not be written over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .capacity import size_fits
from .declaration import SIZE_TOLERANCE, DiskRule
from .declared import Wanted
from .sizes import format_size
from .status import DATA

if TYPE_CHECKING:
    from .declaration import VdevSpec
    from .declared import Declared
    from .devices import Devices, Disk
    from .members import Members
    from .steps import Draft

# zpool takes disks of one vdev for different, and wants to be forced, from this difference on.
FUZZ: Final = 16 << 20


class Blanks:
    """The disks that carry nothing. One that is named somewhere is taken for no other place."""

    def __init__(self, devices: Devices, members: Members, declared: Declared, draft: Draft) -> None:
        self._devices = devices
        self._members = members
        self._declared = declared
        self._draft = draft
        self._taken = declared.devices()

    def check(self, wanted: Wanted, least: int = 0) -> bool:
        """Refuse a disk that may not be written over. Return True where it may."""
        disk = wanted.disk
        if disk is None:
            self._draft.refuse(
                wanted.path,
                f"no device {wanted.name} on this host",
                "a disk that is plugged in",
                "compare with ls -l /dev/disk/by-id, and correct the name or the cabling",
            )
            return False
        nothing = "a disk that carries nothing"
        owner = self._members.owner_of(disk)
        if owner is not None:
            pool, leaf = owner
            what = "a data disk" if leaf.role == DATA else f"part of its {leaf.role}"
            mend = "declare another disk"
            if pool == self._declared.spec.name and leaf.role in {"spare", "cache", "log"}:
                mend = f"take it out of the {leaf.role} first: run once without it, then {self._wipe(disk)}"
            self._draft.refuse(wanted.path, f"{wanted.name} is {what} of the pool {pool}", nothing, mend)
            return False
        content = self._devices.content(disk)
        if content:
            mend = "declare another disk"
            if not any(text.startswith(("mounted", "used as swap", "member of", "held", "write")) for text in content):
                mend = f"declare another disk; or, when nothing on it is wanted any more: {self._wipe(disk)}"
            self._draft.refuse(wanted.path, f"{wanted.name} carries {', '.join(content)}", nothing, mend)
            return False
        if disk.size < least:
            self._draft.refuse(
                wanted.path,
                f"{wanted.name} has {format_size(disk.size)} ({disk.size} bytes)",
                f"at least {format_size(least)} ({least} bytes), as the disks it has to serve",
                "declare a larger disk",
            )
            return False
        return True

    def _wipe(self, disk: Disk) -> str:
        # Partitions first: what they carry would be there again as soon as they are made anew.
        parts = [self._devices.at(path) for path in disk.partitions]
        names = [*(part.name for part in parts if part is not None), disk.name]
        return f"wipefs --all {' '.join(names)}"

    def _open(self, rule: DiskRule) -> list[Disk]:
        """Return the disks that a rule means and that nothing else is declared or used for."""
        return [
            disk
            for disk in self._devices.fitting(rule)
            if not self._taken & {disk.path, *disk.partitions} and self._members.owner_of(disk) is None
        ]

    def free(self, rule: DiskRule) -> list[Disk]:
        """Return the empty disks that a rule means, by place."""
        return [disk for disk in self._open(rule) if not self._devices.content(disk)]

    def pick(self, path: str, rule: DiskRule, count: int, size: int | None = None) -> tuple[Wanted, ...]:
        """Return so many empty disks that fit a rule, by place; refuse where there are fewer."""
        free = self.free(rule)
        if len(free) < count:
            carrying = [
                f"{disk.name} carries {', '.join(content)}"
                for disk in self._open(rule)
                if (content := self._devices.content(disk))
            ]
            self._draft.refuse(
                path,
                "; ".join([f"{len(free)} empty disks that fit the rule", *carrying]),
                f"{count} more",
                "plug disks in, widen the rule, or name the disks",
            )
            return ()
        chosen = free[:count]
        self._taken.update(disk.path for disk in chosen)
        for disk in chosen:
            if size is not None and not size_fits(size, disk.size):
                wanted = f"the declared {format_size(size)}, give or take {SIZE_TOLERANCE:.0%}"
                mend = "correct size, or narrow the rule by at_least and at_most"
                self._draft.refuse(path, f"{disk.name} has {format_size(disk.size)}", wanted, mend)
        return tuple(Wanted(path, disk.name, disk, size) for disk in chosen)

    def vdev(self, path: str, vdev: VdevSpec) -> tuple[Wanted, ...]:
        """Return the disks of a vdev that is to be made; anything wrong with them is refused."""
        if isinstance(vdev.disks, DiskRule):
            disks = self.pick(f"{path}.disks", vdev.disks, vdev.disks.count, vdev.size)
        else:
            disks = tuple(self._declared.disks_of(f"{path}.disks", vdev.disks))
            for wanted in disks:
                self.check(wanted)
        sizes = sorted((wanted.disk.size, wanted.name) for wanted in disks if wanted.disk is not None)
        if sizes and sizes[-1][0] - sizes[0][0] > FUZZ:
            self._draft.refuse(
                f"{path}.disks",
                f"{sizes[0][1]} has {format_size(sizes[0][0])}, {sizes[-1][1]} has {format_size(sizes[-1][0])}",
                "disks of one size in one vdev",
                "declare disks of one size, or narrow the rule by at_least and at_most",
            )
        return disks
