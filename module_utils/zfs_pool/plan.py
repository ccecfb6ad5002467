"""What has to happen so that a pool is as declared: steps, what only a person may do, and what is refused.

Nothing here runs a command. A step never destroys anything and never forces: it imports, creates on empty disks, adds,
removes what is idle and can be removed, or sets a property. All else that differs is drift, with the exact command.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .absent import plan_creation, plan_import
from .changes import Changes
from .guard import refuse_creation
from .record import record_of
from .scene import Scene
from .steps import Draft, Plan, View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .declaration import PoolSpec
    from .devices import Devices
    from .record import Record
    from .status import Importable, PoolStatus

__all__ = ["Plan", "plan"]


def plan(
    spec: PoolSpec,
    devices: Devices,
    pools: Mapping[str, PoolStatus],
    importable: Sequence[Importable] = (),
    *,
    ashift: int = 12,
    filesystem_properties: Mapping[str, str] | None = None,
    directories: Sequence[str] = ("/dev/disk/by-id",),
    record: Record | None = None,
) -> Plan:
    """Compare a declared pool with what is on the host.

    ``pools`` are all imported pools, ``importable`` all others that were found, ``directories`` where an import looks
    for disks, ``record`` what the host remembers of the pool. After a plan that imports, plan again: only an imported
    pool can be compared.
    """
    pool = pools.get(spec.name)
    draft = Draft(View(spec.name, exists=pool is not None))
    scene = Scene.of(spec, devices, pools, draft, ashift)
    same_name = [found for found in importable if found.name == spec.name]
    before = ""
    if pool is not None:
        changes = Changes(scene, pool, record)
        before = changes.before()
        changes.plan()
    elif same_name:
        plan_import(scene, same_name, directories, record)
    elif record is not None:
        refuse_creation(scene, record, pools, importable)
    else:
        plan_creation(scene, filesystem_properties or {})
    found = draft.plan(before)
    # What is refused leaves the memory as it is; the first look counts in any case.
    if pool is not None and (record is None or (record.guid == pool.guid and not found.refusals)):
        return replace(found, record=record_of(pool, scene.members))
    return found
