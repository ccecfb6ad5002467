"""A pool that is not imported: it is imported where its disks are there, and made where there never was one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from .capacity import pool_capacity
from .declaration import VdevSpec
from .declared import PATHS
from .flat import Flat
from .guard import is_another
from .scene import layout
from .status import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .record import Record
    from .scene import Scene
    from .status import Importable

_USABLE: Final = frozenset({"ONLINE", "DEGRADED"})


def plan_import(
    scene: Scene, found: Sequence[Importable], directories: Sequence[str], record: Record | None = None
) -> None:
    """Import the pool of this name, if its disks are the declared ones and no other system has it."""
    draft = scene.draft
    draft.view.exists = True
    name = scene.spec.name
    if len(found) > 1:
        draft.refuse(
            "zfs_pool",
            f"several pools named {name} on the disks of this host: {', '.join(str(pool.guid) for pool in found)}",
            "one pool of this name",
            f"import the right one by its number (zpool import {found[0].guid}), and unplug or rename the other",
        )
        return
    (pool,) = found
    places = [word for directory in directories for word in ("-d", directory)]
    command = ("zpool", "import", *places, str(pool.guid))
    labels = {label.uuid for disk in scene.declared.data_disks() for label in scene.devices.labels(disk)}
    if str(pool.guid) not in labels:
        draft.refuse(
            "zfs_pool",
            f"a pool {name} ({pool.guid}) that is on none of the declared data disks",
            "the pool of the declared disks",
            f"declare its disks (zpool import lists them), or import it under another name: "
            f"zpool import {pool.guid} NEW-NAME",
        )
    elif is_another(scene, pool, record):
        return
    elif pool.foreign:
        draft.refuse(
            "zfs_pool",
            f"a pool {name} ({pool.guid}) that another system used last",
            "a pool that was exported there",
            f"make sure that no other machine has it, then: zpool import -f {' '.join(command[2:])}",
        )
    elif pool.state not in _USABLE:
        draft.refuse(
            "zfs_pool",
            f"a pool {name} ({pool.guid}) in the state {pool.state}. {pool.message}".rstrip(),
            "a pool that can be imported",
            "plug its missing disks in; zpool import shows which ones",
        )
    else:
        draft.step(command, f"import the pool {name} ({pool.guid}), {pool.state}")


def plan_creation(scene: Scene, filesystem_properties: Mapping[str, str]) -> None:
    """Create the pool with all its vdevs at once."""
    spec, view = scene.spec, scene.draft.view
    words = ["-o", f"ashift={scene.ashift}"]
    for name, value in spec.properties.items():
        words += ["-o", f"{name}={value}"]
    for name, value in filesystem_properties.items():
        words += ["-O", f"{name}={value}"]
    words.append(spec.name)
    made: list[VdevSpec] = []
    for role in (DATA, "special", "log"):
        together: list[str] = []
        for number, vdev in enumerate(scene.declared.specs(role)):
            disks = scene.blanks.vdev(f"{PATHS[role]}[{number}]", vdev)
            names = [wanted.name for wanted in disks]
            if role == DATA and disks:
                size = min(wanted.disk.size if wanted.disk else 0 for wanted in disks)
                made.append(VdevSpec(vdev.kind, tuple(names), size or None))
            together += layout(DATA, vdev.kind, names)
            view.vdevs.append((role, vdev.kind, tuple(names)))
        # zpool takes the word log once.
        words += [role, *together] if together and role != DATA else together
    for role in ("cache", "spare"):
        names = Flat(scene, None).new(role)
        words += [role, *names] if names else []
        view.flat(role, names)
    capacity = pool_capacity(replace(spec, vdevs=tuple(made)), scene.ashift)
    scene.draft.expected = capacity.usable if capacity else 0
    view.exists = True
    view.properties = dict(spec.properties)
    vdevs = ", ".join(f"{vdev.kind} of {vdev.width}" for vdev in spec.vdevs)
    scene.draft.step(("zpool", "create", *words), f"create the pool {spec.name}: {vdevs}")
