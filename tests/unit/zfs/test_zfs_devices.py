"""Disks of a host, read from what lsblk and blkid answered on real machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.zfs_pool.declaration import DiskRule
from module_utils.zfs_pool.devices import Devices, Signature, fits, parse_lsblk, parse_probe, whole

if TYPE_CHECKING:
    from module_utils.zfs_pool.devices import Disk

SYSFS = {
    "/dev/sda": "/sys/devices/pci0000:00/0000:00:02.0/0000:3b:00.0/host0/target0:0:0/0:0:0:0/block/sda",
    "/dev/nvme0n1": "/sys/devices/pci0000:17/0000:17:02.0/0000:18:00.0/nvme/nvme0/nvme0n1",
}
LINKS = {
    "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4": "/dev/sda",
    "/dev/disk/by-id/ata-ST10000_ZA1": "/dev/sda",
    "/dev/disk/by-path/pci-0000:3b:00.0-sas-phy0-lun-0": "/dev/sda",
    "/dev/disk/by-id/ata-ST10000_ZA1-part1": "/dev/sda1",
    "/dev/disk/by-id/nvme-eui.0025385": "/dev/nvme0n1",
    "/dev/disk/by-id/nvme-Samsung_S1": "/dev/nvme0n1",
}


def node(name: str, kind: str = "disk", **others: Any) -> dict[str, Any]:
    values = {"name": name, "type": kind, "size": 10**13, "rota": True, "ro": False, "model": None, "serial": None}
    return {**values, "wwn": None, "mountpoints": [None], "fstype": None, "pttype": None, **others}


def read(*nodes: dict[str, Any]) -> dict[str, Disk]:
    return {disk.path: disk for disk in parse_lsblk(json.dumps({"blockdevices": nodes}), LINKS, SYSFS)}


def test_a_disk_and_its_names() -> None:
    found = read(
        node("/dev/sda", model="ST10000 ", serial="ZA1", children=[node("/dev/sda1", "part", size=10**12)]),
        node("/dev/nvme0n1", rota=False),
        node("/dev/sr0", "rom"),
        node("/dev/loop0", "loop"),
    )
    assert list(found) == ["/dev/sda", "/dev/sda1", "/dev/nvme0n1"]
    disk = found["/dev/sda"]
    assert disk.name == "/dev/disk/by-id/ata-ST10000_ZA1"
    assert disk.names[-1] == "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4"
    assert disk.place == "/dev/disk/by-path/pci-0000:3b:00.0-sas-phy0-lun-0"
    assert (disk.controller, disk.model, disk.serial, disk.rotational) == ("0000:3b:00.0", "ST10000", "ZA1", True)
    assert disk.partitions == ("/dev/sda1",)
    assert (found["/dev/sda1"].parent, found["/dev/sda1"].size) == ("/dev/sda", 10**12)
    assert found["/dev/nvme0n1"].name == "/dev/disk/by-id/nvme-Samsung_S1"


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (DiskRule(1), True),
        (DiskRule(1, at_least=10**13, at_most=10**13), True),
        (DiskRule(1, at_least=10**13 + 1), False),
        (DiskRule(1, at_most=10**13 - 1), False),
        (DiskRule(1, controller="0000:3B:00.0"), True),
        (DiskRule(1, controller="0000:00:02.0"), True),
        (DiskRule(1, controller="0000:3c:00.0"), False),
        (DiskRule(1, rotational=True), True),
        (DiskRule(1, rotational=False), False),
        (DiskRule(1, model="st10000"), True),
        (DiskRule(1, model="WDC"), False),
    ],
)
def test_rules(rule: DiskRule, *, matches: bool) -> None:
    assert fits(read(node("/dev/sda", model="ST10000"))["/dev/sda"], rule) is matches


def test_what_the_running_system_does_with_a_disk() -> None:
    raid = node("/dev/md0", "raid1", mountpoints=["/srv"])
    volume = node("/dev/mapper/a-b", "lvm")
    found = read(
        node(
            "/dev/sda",
            pttype="gpt",
            children=[
                node("/dev/sda1", "part", mountpoints=["/", "/boot"]),
                node("/dev/sda2", "part", mountpoints=["[SWAP]"]),
                node("/dev/sda3", "part", children=[volume]),
            ],
        ),
        node("/dev/sdb", children=[raid]),
    )
    devices = Devices(list(found.values()), LINKS, lambda _path: ())
    assert devices.content(found["/dev/sda"]) == (
        "partition table gpt",
        "mounted on /",
        "mounted on /boot",
        "used as swap",
        "member of lvm /dev/mapper/a-b",
    )
    assert devices.content(found["/dev/sdb"]) == ("member of raid1 /dev/md0",)


def test_an_empty_disk_carries_nothing_unless_the_kernel_holds_it() -> None:
    found = read(node("/dev/sda"), node("/dev/nvme0n1", ro=True))
    assert Devices(list(found.values()), LINKS, lambda _path: ()).content(found["/dev/sda"]) == ()
    held = Devices(list(found.values()), LINKS, lambda _path: (), lambda _path: True)
    assert held.content(found["/dev/sda"]) == ("held by the kernel for something else",)
    assert held.content(found["/dev/nvme0n1"]) == ("write protected",)


def test_names_of_all_kinds_find_a_disk() -> None:
    devices = Devices(list(read(node("/dev/sda")).values()), LINKS, lambda _path: ())
    for name in (
        "/dev/sda",
        "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4",
        "/dev/disk/by-path/pci-0000:3b:00.0-sas-phy0-lun-0",
    ):
        found = devices.at(name)
        assert found is not None
        assert found.path == "/dev/sda"
    assert devices.at("/dev/disk/by-id/gone") is None


def test_disks_come_in_the_order_of_their_slots() -> None:
    places = {f"/dev/disk/by-path/pci-0000:00:05.0-scsi-0:0:{slot}:0": f"/dev/sd{slot}" for slot in (10, 2, 1)}
    disks = parse_lsblk(json.dumps({"blockdevices": [node(path) for path in places.values()]}), places, {})
    assert [disk.path for disk in Devices(disks, places, lambda _path: ()).disks] == [
        "/dev/sd1",
        "/dev/sd2",
        "/dev/sd10",
    ]


def test_a_label_is_found_wherever_the_disk_is() -> None:
    found = read(node("/dev/sda", children=[node("/dev/sda1", "part")]))
    label = Signature("zfs_member", "tank", "4242", "98")
    devices = Devices(list(found.values()), LINKS, lambda path: (label,) if path == "/dev/sda1" else ())
    assert devices.with_label(98) == found["/dev/sda1"]
    assert devices.with_label(99) is None
    assert devices.labels(found["/dev/sda"]) == (label,)


@pytest.mark.parametrize(
    ("status", "output", "errors", "found"),
    [
        (2, "", "", ()),
        (0, "DEVNAME=/dev/sda\nPTUUID=7f\nPTTYPE=gpt\n", "", (Signature("partition table gpt", uuid="7f"),)),
        (
            0,
            "DEVNAME=/dev/sda1\nLABEL=tank\nUUID=4242\nUUID_SUB=98\nTYPE=zfs_member\nPART_ENTRY_NAME=zfs-1\n",
            "",
            (Signature("zfs_member", "tank", "4242", "98"),),
        ),
        (8, "", "/dev/sda: ambivalent result", (Signature("several filesystems or labels at once"),)),
        (
            2,
            "",
            "error: /dev/sda: I/O error",
            (Signature("something that cannot be read (error: /dev/sda: I/O error)"),),
        ),
        (1, "", "", (Signature("something that cannot be read (blkid: status 1)"),)),
    ],
)
def test_answers_of_blkid(status: int, output: str, errors: str, found: tuple[Signature, ...]) -> None:
    assert parse_probe(status, output, errors) == found


@pytest.mark.parametrize(
    ("name", "disk"),
    [
        ("/dev/disk/by-id/ata-X-part1", "/dev/disk/by-id/ata-X"),
        ("/dev/disk/by-id/ata-X-part", "/dev/disk/by-id/ata-X-part"),
        ("/dev/sda1", "/dev/sda1"),
    ],
)
def test_the_disk_of_a_partition(name: str, disk: str) -> None:
    assert whole(name) == disk
