"""The disks of a host: what they are called, and what they carry.

Nothing here writes. What is read comes from ``lsblk``, from ``blkid``, which looks at the disk itself (udev does not
hear of labels that the kernel writes), and from the links in ``/dev/disk``. All sizes are in bytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .declaration import DiskRule

LSBLK: Final = (
    "lsblk",
    "--json",
    "--bytes",
    "--paths",
    "--output",
    "NAME,TYPE,SIZE,ROTA,RO,MODEL,SERIAL,WWN,MOUNTPOINTS,FSTYPE,PTTYPE",
)
BLKID: Final = ("blkid", "--probe", "--output", "export")
# What blkid answers where it finds nothing, and where it finds more than one thing.
_NOTHING: Final = 2
_AMBIVALENT: Final = 8

ZFS_MEMBER: Final = "zfs_member"
_PCI: Final = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_PART: Final = re.compile(r"-part[0-9]+$")
# The names that say most to the person before the rack come first: a serial number, then a world wide name, a place.
_PREFERRED: Final = ("by-vdev/", "by-id/ata-", "by-id/nvme-", "by-id/scsi-", "by-id/virtio-", "by-id/", "by-path/")
# Names of one disk that a person cannot read as well as the others.
_POOR: Final = ("by-id/wwn-", "by-id/nvme-eui.", "by-id/nvme-nvme.")


@dataclass(frozen=True)
class Signature:
    """One thing that a disk or partition carries: ``kind`` is ``ext4``, ``zfs_member``, ``partition table gpt``.

    ``uuid`` and ``part`` are the guids of the pool and of the vdev where it is a label of ZFS.
    """

    kind: str
    name: str = ""
    uuid: str = ""
    part: str = ""


@dataclass(frozen=True)
class Disk:
    """One disk, or one partition of it (then ``parent`` is the path of the disk).

    ``names`` are its stable names, best first. ``controllers`` are the PCI addresses on the way to it, the nearest
    last. ``uses`` says what the running system does with it: mounts, swap, RAID, LVM; partitions are not among it.
    """

    path: str
    size: int
    parent: str = ""
    partitions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    rotational: bool = False
    read_only: bool = False
    controllers: tuple[str, ...] = ()
    model: str = ""
    serial: str = ""
    wwn: str = ""
    uses: tuple[str, ...] = ()
    known: tuple[Signature, ...] = ()

    @property
    def controller(self) -> str:
        """PCI address of the controller that it hangs on."""
        return self.controllers[-1] if self.controllers else ""

    @property
    def name(self) -> str:
        """Its best stable name, or the kernel's where it has none."""
        return self.names[0] if self.names else self.path

    @property
    def place(self) -> str:
        """Name by place in the machine, for an order that stays."""
        return next((name for name in self.names if "/by-path/" in name), self.path)


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """Return a key that puts slot 2 before slot 10."""
    return tuple((int(part) if part.isdecimal() else -1, part) for part in re.split(r"([0-9]+)", text))


def whole(name: str) -> str:
    """Return the name of the disk for the name of a partition under ``/dev/disk``."""
    return _PART.sub("", name) if name.startswith("/dev/disk/") else name


def _words(value: object) -> str:
    return str(value).strip() if value else ""


def _uses(node: Mapping[str, Any], *, of_partition: bool) -> list[str]:
    """Return in words what the running system does with a node of lsblk, apart from partitions."""
    found = [
        "used as swap" if place == "[SWAP]" else f"mounted on {place}"
        for place in node.get("mountpoints") or []
        if place
    ]
    found += [
        f"member of {child.get('type')} {child.get('name')}"
        for child in node.get("children") or []
        if child.get("type") != "part" or of_partition
    ]
    return found


def _known(node: Mapping[str, Any]) -> tuple[Signature, ...]:
    kinds = [_words(node.get("fstype"))]
    if node.get("pttype") and node.get("type") != "part":
        kinds.insert(0, f"partition table {node['pttype']}")
    return tuple(Signature(kind) for kind in kinds if kind)


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    def rank(name: str) -> tuple[int, str]:
        short = name.removeprefix("/dev/disk/")
        if short.startswith(_POOR):
            return len(_PREFERRED), name
        return next((at for at, start in enumerate(_PREFERRED) if short.startswith(start)), len(_PREFERRED) + 1), name

    return tuple(sorted(names, key=rank))


def parse_lsblk(text: str, links: Mapping[str, str], sysfs: Mapping[str, str]) -> tuple[Disk, ...]:
    """Return disks and partitions from the answer of ``LSBLK``.

    ``links`` maps the names under ``/dev/disk`` to the kernel's, ``sysfs`` a disk's path to its real place in sysfs.
    """
    names: dict[str, list[str]] = {}
    for name, path in links.items():
        names.setdefault(path, []).append(name)
    found: list[Disk] = []
    for node in json.loads(text)["blockdevices"]:
        if node.get("type") not in {"disk", "mpath"}:
            continue
        path = str(node["name"])
        parts = [child for child in node.get("children") or [] if child.get("type") == "part"]
        controllers = tuple(_PCI.findall(sysfs.get(path, "")))
        common: dict[str, Any] = {
            "rotational": node.get("rota") in {True, "1"},
            "read_only": node.get("ro") in {True, "1"},
            "controllers": controllers,
            "model": _words(node.get("model")),
            "serial": _words(node.get("serial")),
            "wwn": _words(node.get("wwn")),
        }
        found.append(
            Disk(
                path,
                int(node["size"]),
                partitions=tuple(str(part["name"]) for part in parts),
                names=_ordered(names.get(path, ())),
                uses=tuple(_uses(node, of_partition=False)),
                known=_known(node),
                **common,
            )
        )
        found += [
            Disk(
                str(part["name"]),
                int(part["size"]),
                parent=path,
                names=_ordered(names.get(str(part["name"]), ())),
                uses=tuple(_uses(part, of_partition=True)),
                known=_known(part),
                **common,
            )
            for part in parts
        ]
    return tuple(found)


def parse_probe(status: int, output: str, errors: str) -> tuple[Signature, ...]:
    """Return what ``blkid`` found on one device. A device that cannot be read counts as one that carries something."""
    # The same status for an empty disk and for one that cannot be opened; only the latter has an error to tell.
    if status == _NOTHING and not errors.strip():
        return ()
    if status == _AMBIVALENT:
        return (Signature("several filesystems or labels at once"),)
    values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    found = []
    if status != 0:
        found.append(Signature(f"something that cannot be read ({errors.strip() or f'blkid: status {status}'})"))
    if values.get("PTTYPE"):
        found.append(Signature(f"partition table {values['PTTYPE']}", uuid=values.get("PTUUID", "")))
    if values.get("TYPE"):
        found.append(
            Signature(values["TYPE"], values.get("LABEL", ""), values.get("UUID", ""), values.get("UUID_SUB", ""))
        )
    return tuple(found)


class Devices:
    """The disks of a host by all their names.

    ``probe`` returns what a device carries by its path; it is asked once for each device, and only for those that
    matter. ``busy`` says whether the kernel holds a device for something.
    """

    def __init__(
        self,
        disks: Sequence[Disk],
        links: Mapping[str, str],
        probe: Callable[[str], tuple[Signature, ...]],
        busy: Callable[[str], bool] = lambda _path: False,
    ) -> None:
        self._by_path = {disk.path: disk for disk in disks}
        self._links = dict(links)
        self._probe = probe
        self._busy = busy
        self._probed: dict[str, tuple[Signature, ...]] = {}

    @property
    def disks(self) -> tuple[Disk, ...]:
        """Whole disks, by place."""
        return tuple(
            sorted((disk for disk in self._by_path.values() if not disk.parent), key=lambda disk: _natural(disk.place))
        )

    def at(self, name: str) -> Disk | None:
        """Return the disk or partition with this name, whatever kind of name it is; None where it is not there."""
        return self._by_path.get(self._links.get(name, name))

    def same(self, one: Disk, other: Disk) -> bool:
        """Return True where they are one, or one is a partition of the other."""
        return other.path in {one.path, one.parent} or other.parent == one.path

    def signatures(self, disk: Disk) -> tuple[Signature, ...]:
        """Return what a device carries itself, without its partitions."""
        if disk.path not in self._probed:
            self._probed[disk.path] = self._probe(disk.path) or disk.known
        return self._probed[disk.path]

    def _parts(self, disk: Disk) -> list[Disk]:
        return [self._by_path[path] for path in disk.partitions if path in self._by_path]

    def labels(self, disk: Disk) -> tuple[Signature, ...]:
        """Return the labels of ZFS on a device and its partitions."""
        return tuple(
            found for one in (disk, *self._parts(disk)) for found in self.signatures(one) if found.kind == ZFS_MEMBER
        )

    def with_label(self, guid: int) -> Disk | None:
        """Return the device whose label names this vdev, wherever it is by now."""
        for disk in self._by_path.values():
            if any(found.kind == ZFS_MEMBER and found.part == str(guid) for found in self.signatures(disk)):
                return disk
        return None

    def content(self, disk: Disk) -> tuple[str, ...]:
        """Return in words everything that a device carries or is used for; nothing where it may be written over."""
        found = list(disk.uses)
        if disk.read_only:
            found.append("write protected")
        for one in (disk, *self._parts(disk)):
            if one is not disk:
                found += one.uses
            for signature in self.signatures(one):
                found.append(self._said(signature) + ("" if one is disk else f" on {one.path}"))
        if disk.partitions and not any(text.startswith("partition table") for text in found):
            found.append(f"{len(disk.partitions)} partitions")
        if not found and self._busy(disk.path):
            found.append("held by the kernel for something else")
        return tuple(dict.fromkeys(found))

    @staticmethod
    def _said(signature: Signature) -> str:
        if signature.kind == ZFS_MEMBER:
            if not signature.uuid:
                return "label of ZFS without a pool, as former spares and cache disks have it"
            return f"label of the ZFS pool {signature.name} ({signature.uuid})"
        return f"{signature.kind} {signature.name}".rstrip()

    def fitting(self, rule: DiskRule) -> tuple[Disk, ...]:
        """Return the whole disks that a rule means, by place, whether they are free or not."""
        return tuple(disk for disk in self.disks if fits(disk, rule))


def fits(disk: Disk, rule: DiskRule) -> bool:
    """Return True where a rule means this disk."""
    return (
        (rule.at_least is None or disk.size >= rule.at_least)
        and (rule.at_most is None or disk.size <= rule.at_most)
        and (not rule.controller or rule.controller.lower() in disk.controllers)
        and (rule.rotational is None or rule.rotational == disk.rotational)
        and rule.model.lower() in disk.model.lower()
    )
