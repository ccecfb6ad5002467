"""When nothing may be added or made: a vdev that the declaration or the memory of the host knows is not there.

What is added to a pool of raidz never goes again, and a second pool beside one that is switched off takes its name and
its mounts. So a person chooses, by one of two commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .declaration import NAME, DiskRule
from .members import kind_of
from .record import record_of
from .scene import NEW_DISK, command, layout
from .sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .declaration import VdevSpec
    from .members import Slot
    from .record import Record
    from .scene import Scene
    from .status import Importable, PoolStatus, Vdev

_LOOK: Final = "switch its enclosure on or plug its disks in, and look with: zpool import"


def refuse_exchange(scene: Scene, path: str, role: str, spec: VdevSpec, vdev: Vdev) -> None:
    """Refuse a declared vdev that the pool has not, while the pool has one that is not declared."""
    least = scene.members.least(vdev)
    if isinstance(spec.disks, DiskRule):
        blanks = scene.blanks.free(spec.disks)
        names = [disk.name for disk in blanks[: spec.width]]
    else:
        blanks = [wanted.disk for wanted in scene.blanks.vdev(path, spec) if wanted.disk is not None]
        names = list(spec.disks)
    new = [disk.name for disk in blanks if disk.size >= least]
    guids = [str(slot.first.guid) for slot in _to_exchange(scene, spec, vdev)]
    pairs = zip(guids, _filled(new, len(guids)), strict=True)
    exchange = "; ".join(command("replace", scene.spec.name, guid, name) for guid, name in pairs)
    ways = [f"exchange its disks, one after the other: {exchange}"] if exchange else []
    add = " ".join(scene.adding(layout(role, spec.kind, _filled(names, spec.width))))
    ways.append(f"keep it and add new disks beside it, declaring both: {add}")
    disks = ", ".join(scene.members.names(vdev))
    ways.append(f"declare what is there: {{type: {kind_of(vdev)}, disks: [{disks}]}}")
    scene.draft.refuse(
        path,
        f"{vdev.name} of the pool {scene.spec.name}, which is not declared ({_sizes(scene, vdev)}), "
        f"and no {spec.kind} of {spec.width} disks as declared here",
        "each vdev of the pool declared, before one more is added",
        "; or ".join(ways),
    )


def _to_exchange(scene: Scene, spec: VdevSpec, vdev: Vdev) -> list[Slot]:
    """Return the places of a vdev that are not as declared; none where it has another shape."""
    slots = [slot for slot in scene.members.slots(vdev) if not slot.replacing]
    if (kind_of(vdev), len(scene.members.slots(vdev))) != (spec.kind, spec.width):
        return []
    rule = spec.disks
    return [slot for slot in slots if not isinstance(rule, DiskRule) or not scene.members.fits(slot.first, rule)]


def _filled(names: Sequence[str], count: int) -> list[str]:
    return [*names[:count], *[NEW_DISK] * (count - len(names))]


def _sizes(scene: Scene, vdev: Vdev) -> str:
    shown = []
    for slot in scene.members.slots(vdev):
        disk = scene.members.whole_device(slot.first)
        shown.append(f"{scene.members.shown(slot.first)} ({format_size(disk.size) if disk else 'gone'})")
    return ", ".join(shown)


def check_additions(scene: Scene, pool: PoolStatus, record: Record | None) -> None:
    """Refuse to add anything to a pool that is not the one of this host, or has lost a vdev since."""
    if record is None:
        return
    adds = [step.text for step in scene.draft.steps if step.command[1] == "add"]
    wish = f", and the declaration wants to {'; '.join(adds)}"
    lost = record.lost(record_of(pool, scene.members))
    forget = f"rm {record.file}"
    if pool.guid != record.guid:
        found = f"a pool {pool.name} ({pool.guid}), while this host had {record.title}"
        if adds:
            mend = f"{_LOOK}; or, when that pool is gone for good, forget it: {forget}"
            scene.draft.refuse(NAME, found + wish, "the pool that this host had", mend)
        else:
            scene.draft.differs(found, "that pool; or, when it is gone for good, forget it", forget)
    elif adds and lost:
        scene.draft.refuse(
            NAME,
            f"a pool {pool.name} that had {'; '.join(vdev.text() for vdev in lost)} and has it no more{wish}",
            "every vdev that it had, before one more is added",
            f"look where it is: zpool history {pool.name}; or, when it was removed on purpose, forget it: {forget}",
        )


def refuse_creation(
    scene: Scene, record: Record, pools: Mapping[str, PoolStatus], importable: Sequence[Importable]
) -> None:
    """Refuse to make a pool that this host has had."""
    imported = next((pool.name for pool in pools.values() if pool.guid == record.guid), "")
    renamed = next((pool.name for pool in importable if pool.guid == record.guid), "")
    known = {disk for vdev in record.vdevs for disk in vdev.disks}
    there = sorted(disk for disk in known if scene.devices.at(disk) is not None)
    back, state = _LOOK, f"of its disks there are {', '.join(there) or 'none'}" if known else "its disks are not there"
    if imported:
        state = f"it is imported under the name {imported}"
        back = f"give it its name back: zpool export {imported} && zpool import {record.guid} {record.pool}"
    elif renamed:
        state = f"its name is {renamed} by now"
        back = f"import it under its old name: zpool import {record.guid} {record.pool}"
    scene.draft.refuse(
        NAME,
        f"no pool {record.pool}, while this host had {record.title}; {state}",
        "that pool, before a new one takes its name",
        f"{back}; or, when it is gone for good, forget it: rm {record.file}",
    )


def is_another(scene: Scene, pool: Importable, record: Record | None) -> bool:
    """Refuse to import a pool that only has the name of the one that this host had."""
    if record is None or pool.guid == record.guid:
        return False
    scene.draft.refuse(
        NAME,
        f"a pool {pool.name} ({pool.guid}), while this host had {record.title}",
        "the pool that this host had",
        f"{_LOOK}; or, when that pool is gone for good, forget it: rm {record.file}",
    )
    return True
