"""A host with disks that exist only here: what lsblk, blkid and zpool would answer, for tests of the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from module_utils.zfs_pool.declaration import parse_pool
from module_utils.zfs_pool.devices import Devices, Disk, Signature
from module_utils.zfs_pool.plan import Plan, plan
from module_utils.zfs_pool.status import PoolStatus, Vdev

if TYPE_CHECKING:
    from collections.abc import Sequence

    from module_utils.zfs_pool.declaration import PoolSpec
    from module_utils.zfs_pool.status import Importable

TB = 10**12
POOL = 4242


def by_id(letter: str) -> str:
    return f"/dev/disk/by-id/scsi-{letter}"


def by_path(letter: str) -> str:
    return f"/dev/disk/by-path/pci-0000:00:05.0-scsi-{letter}"


def kernel(letter: str) -> str:
    return f"/dev/sd{letter}"


def ids(letters: str) -> list[str]:
    return [by_id(letter) for letter in letters]


def spec(vdevs: Sequence[Any], **others: Any) -> PoolSpec:
    """A declaration; a vdev is a mapping, or a pair of type and letters of disks."""
    raw = [{"type": vdev[0], "disks": ids(vdev[1])} if isinstance(vdev, tuple) else vdev for vdev in vdevs]
    found, problems = parse_pool({"name": "tank", "vdevs": raw, **others})
    assert found is not None, problems
    return found


@dataclass
class Host:
    """Disks by letter, and the pools on them. A change is made by calling methods, as a person does in the rack."""

    letters: str = "abcdefgh"
    sizes: dict[str, int] = field(default_factory=dict)
    carried: dict[str, tuple[Signature, ...]] = field(default_factory=dict)
    uses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    members: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    pools: dict[str, PoolStatus] = field(default_factory=dict)
    importable: tuple[Importable, ...] = ()

    def devices(self) -> Devices:
        disks: list[Disk] = []
        links: dict[str, str] = {}
        carried: dict[str, tuple[Signature, ...]] = {}
        for letter in self.letters:
            disk, part = kernel(letter), f"{kernel(letter)}1"
            names = (by_id(letter), by_path(letter))
            links |= dict.fromkeys(names, disk)
            common: dict[str, Any] = {"rotational": True, "controllers": ("0000:00:02.0", "0000:3b:00.0"), "model": "X"}
            carried[disk] = self.carried.get(letter, ())
            guid = self.members.get(letter)
            if guid is not None:
                links |= {f"{name}-part1": part for name in names}
                carried[disk] = (Signature("partition table gpt"), *carried[disk])
                carried[part] = (Signature("zfs_member", "tank", str(self.labels.get(letter, POOL)), str(guid)),)
            size = self.sizes.get(letter, 10 * TB)
            uses = self.uses.get(letter, ())
            disks.append(Disk(disk, size, names=names, partitions=(part,) if guid else (), uses=uses, **common))
            if guid is not None:
                disks.append(
                    Disk(part, size - (9 << 20), parent=disk, names=tuple(f"{n}-part1" for n in names), **common)
                )
        return Devices(disks, links, lambda path: carried[path], lambda path: path in self.busy)

    def leaf(self, letter: str, state: str = "ONLINE", role: str = "data", **others: Any) -> Vdev:
        """A member of the pool; its guid is the number of its letter."""
        guid = ord(letter)
        if letter in self.letters:
            self.members[letter] = guid
        return Vdev(
            **{
                "name": f"{by_id(letter)}-part1",
                "kind": "disk",
                "guid": guid,
                "state": state,
                "path": f"{by_id(letter)}-part1",
                "devid": f"scsi-{letter}-part1",
                "place": f"pci-0000:00:05.0-scsi-{letter}-part1",
                "role": role,
                **others,
            }
        )

    def pull(self, letters: str) -> None:
        self.letters = "".join(letter for letter in self.letters if letter not in letters)
        for letter in letters:
            self.members.pop(letter, None)

    def plan(self, wanted: PoolSpec, **others: Any) -> Plan:
        return plan(wanted, self.devices(), self.pools, self.importable, **others)


def group(kind: str, number: int, *children: Vdev, role: str = "data", **others: Any) -> Vdev:
    """A vdev of several disks."""
    values: dict[str, Any] = {"name": f"{kind}-{number}", "kind": kind, "guid": 1000 + number, "state": "ONLINE"}
    return Vdev(**{**values, "role": role, "children": children, **others})


def commands(found: Plan) -> list[str]:
    """The steps as a person would type them; a plan with refusals has none."""
    return [" ".join(step.command) for step in found.steps]
