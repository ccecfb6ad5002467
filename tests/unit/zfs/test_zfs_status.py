"""Pools as OpenZFS 2.3.9 described them on a virtual machine with disks of 512 MiB; see samples/."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from module_utils.zfs_pool.declaration import parse_pool
from module_utils.zfs_pool.devices import Devices, Disk, parse_lsblk
from module_utils.zfs_pool.plan import plan
from module_utils.zfs_pool.status import StatusError, parse_importable, parse_status

if TYPE_CHECKING:
    from module_utils.zfs_pool.plan import Plan
    from module_utils.zfs_pool.status import PoolStatus

SAMPLES = Path(__file__).parent / "samples"
BY_ID = "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_"
FOREIGN = """\
   pool: tank
     id: 77
  state: ONLINE
 status: The pool was last accessed by another system.
 action: The pool can be imported using its name or numeric identifier and
\tthe '-f' flag.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-EY
 config:

\ttank    ONLINE
\t  sda   ONLINE

   pool: other
     id: 78
  state: UNAVAIL
 status: One or more devices are missing from the system.
 action: The pool cannot be imported. Attach the missing
\tdevices and try again.
 config:

\tother   UNAVAIL  insufficient replicas
"""


def read(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


def pool(name: str) -> PoolStatus:
    return parse_status(read(f"{name}-status.json"), read("healthy-list.json"), read("healthy-get.json"))["tank"]


def test_a_healthy_pool() -> None:
    found = pool("healthy")
    assert (found.name, found.guid, found.state, found.busy) == ("tank", 9609204759931619213, "ONLINE", "")
    assert [(vdev.name, vdev.kind, len(vdev.children)) for vdev in found.data] == [
        ("raidz2-0", "raidz2", 4),
        ("raidz2-1", "raidz2", 4),
    ]
    assert [(vdev.kind, len(vdev.children)) for vdev in found.log] == [("mirror", 2)]
    assert [leaf.path for leaf in found.cache] == [f"{BY_ID}d11-part1", f"{BY_ID}d12-part1"]
    assert [(leaf.state, leaf.role, leaf.healthy) for leaf in found.spares] == [("AVAIL", "spare", True)] * 2
    assert found.properties["autotrim"] == "on"
    assert found.properties["size"] == "4026531840"
    first = found.data[0].children[0]
    assert first.guid == 5828543322436296768
    assert first.names() == {
        f"{BY_ID}d01-part1",
        "/dev/disk/by-path/pci-0000:00:05.0-scsi-0:0:1:0",
    }


def test_a_spare_in_use() -> None:
    found = pool("spare_in_use")
    assert found.state == "DEGRADED"
    assert found.busy == ""
    spare = found.data[0].children[1]
    assert spare.kind == "spare"
    assert [(leaf.state, leaf.healthy) for leaf in spare.leaves()] == [("REMOVED", False), ("ONLINE", True)]
    assert [leaf.state for leaf in found.spares] == ["INUSE"]


def test_a_resilver() -> None:
    found = pool("replacing")
    assert found.busy == "a resilver runs"
    spare = found.data[0].children[1]
    assert [child.kind for child in spare.children] == ["replacing", "disk"]
    assert [leaf.state for leaf in spare.leaves()] == ["CANT_OPEN", "ONLINE", "ONLINE"]


@pytest.mark.parametrize(
    ("stats", "busy"),
    [
        ({"scan_stats": {"function": "SCRUB", "state": "SCANNING"}}, ""),
        ({"scan_stats": {"function": "RESILVER", "state": "FINISHED"}}, ""),
        ({"scan_stats": {"function": "RESILVER", "state": "SCANNING"}}, "a resilver runs"),
        ({"removal_stats": {"state": "SCANNING"}}, "a vdev is being removed"),
        ({"raidz_expand_stats": {"state": "SCANNING"}}, "a raidz vdev is being widened"),
        ({"raidz_expand_stats": {"state": "FINISHED"}}, ""),
    ],
)
def test_what_keeps_a_pool_busy(stats: dict[str, object], busy: str) -> None:
    document = json.loads(read("healthy-status.json"))
    document["pools"]["tank"].update(stats)
    assert parse_status(json.dumps(document))["tank"].busy == busy


def test_disks_that_could_be_used_more() -> None:
    listing = json.loads(read("healthy-list.json"))
    listing["pools"]["tank"]["vdevs"]["raidz2-1"]["properties"]["expandsize"]["value"] = 2 << 30
    found = parse_status(read("healthy-status.json"), json.dumps(listing))["tank"]
    assert [vdev.growth for vdev in found.data] == [0, 2 << 30]


def test_no_pools() -> None:
    assert parse_status('{"output_version":{"command":"zpool status","vers_major":0,"vers_minor":1},"pools":{}}') == {}


def test_an_old_zfs_has_no_json() -> None:
    with pytest.raises(StatusError, match="did not answer in JSON"):
        parse_status("  pool: tank\n")


def test_pools_that_can_be_imported() -> None:
    (found,) = parse_importable(read("import.txt"))
    assert (found.name, found.guid, found.state, found.foreign) == ("tank", 9609204759931619213, "ONLINE", False)


def test_pools_that_cannot_just_be_imported() -> None:
    foreign, missing = parse_importable(FOREIGN)
    assert (foreign.guid, foreign.state, foreign.foreign) == (77, "ONLINE", True)
    assert (missing.name, missing.state, missing.foreign) == ("other", "UNAVAIL", False)
    assert missing.message.endswith("Attach the missing devices and try again.")
    assert parse_importable("no pools available to import\n") == ()


# The plan for these pools, on the disks that were there.


def compared(name: str, gone: str = "") -> Plan:
    numbers = {json_disk["serial"]: json_disk["name"] for json_disk in json.loads(read("lsblk.json"))["blockdevices"]}
    links = {f"{BY_ID}{serial}": path for serial, path in numbers.items() if serial and serial != gone}
    disks: list[Disk] = []
    for disk in parse_lsblk(read("lsblk.json"), links, {}):
        if disk.serial == gone or disk.parent:
            continue
        part = f"{disk.path}1"
        links |= {f"{BY_ID}{disk.serial}-part1": part}
        disks += [replace(disk, partitions=(part,)), replace(disk, path=part, parent=disk.path, partitions=())]
    vdevs = [
        {"type": "raidz2", "size": "512MiB", "disks": [f"{BY_ID}d{number:02}" for number in numbers]}
        for numbers in (range(1, 5), range(5, 9), range(15, 19))
    ]
    found, problems = parse_pool(
        {"name": "tank", "vdevs": vdevs, "spares": [f"{BY_ID}d09"], "cache": [f"{BY_ID}d11"]},
    )
    assert found is not None, problems
    return plan(found, Devices(disks, links, lambda _path: ()), {"tank": pool(name)})


def test_the_disk_that_was_pulled_is_reported() -> None:
    found = compared("spare_in_use", gone="d02")
    assert (found.steps, found.refusals) == ((), ())
    (drift,) = found.drift
    assert drift.command == "zpool replace tank 8362468074590122375 /dev/disk/by-id/NEW-DISK"
    assert drift.found.startswith(f"the spare {BY_ID}d09 stands in for {BY_ID}d02 ")


def test_another_disk_of_the_same_name_takes_its_place() -> None:
    """The path of the pool leads to a device again, but it carries no label of the old one."""
    (drift,) = compared("spare_in_use").drift
    assert drift.command == f"zpool replace tank 8362468074590122375 {BY_ID}d02"


def test_a_replacement_that_runs_under_a_spare_needs_nobody() -> None:
    found = compared("replacing")
    assert (found.steps, found.drift, found.refusals) == ((), (), ())
