"""A pool that is imported, beside its declaration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .declared import PATHS
from .flat import Flat
from .guard import check_additions, refuse_exchange
from .members import kind_of
from .pairing import pair
from .repairs import Repairs
from .scene import command, layout
from .sizes import format_size
from .status import DATA
from .steps import View

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .declaration import VdevSpec
    from .record import Record
    from .scene import Scene
    from .status import PoolStatus, Vdev


class Changes:
    """What is to be done to an imported pool."""

    def __init__(self, scene: Scene, pool: PoolStatus, record: Record | None = None) -> None:
        self._scene = scene
        self._pool = pool
        self._record = record
        self._draft = scene.draft
        self._members = scene.members
        self._repairs = Repairs(scene, pool)

    def plan(self) -> None:
        """Compare the pool with the declaration."""
        pool = self._pool
        self._draft.view.properties = self._declared_properties()
        for role, vdevs in ((DATA, pool.data), ("special", pool.special), ("log", pool.log)):
            self._compare(role, vdevs)
        for vdev in pool.dedup:
            self._draft.differs(f"{vdev.name} for deduplication in the pool", "no such vdev in the inventory")
        for role, disks in (("cache", pool.cache), ("spare", pool.spares)):
            Flat(self._scene, pool).compare(pool, role, disks)
        self._show()
        self._growth()
        self._properties()
        self._draft.sort()
        self._check_rest()
        check_additions(self._scene, pool, self._record)

    def _check_rest(self) -> None:
        """Refuse a change of the vdevs while that would disturb the pool."""
        pool = self._pool
        # A log may be away.
        away = [vdev for role, vdevs in _by_role(pool) for vdev in vdevs if role != "log" and not vdev.usable]
        blocked = pool.busy or (pool.state if pool.suspended else "")
        blocked = blocked or ", ".join(f"{vdev.name} is {vdev.state}" for vdev in away)
        topology = [step.text for step in self._draft.steps if step.topology]
        if blocked and topology:
            self._draft.refuse(
                "zfs_pool",
                f"{blocked}, and the declaration wants to {'; '.join(topology)}",
                "a pool at rest before its vdevs change",
                f"wait until it has ended (zpool status {pool.name}; zpool wait {pool.name}), then run this again"
                if pool.busy
                else f"mend the pool first: zpool status -v {pool.name}",
            )

    def _compare(self, role: str, vdevs: tuple[Vdev, ...]) -> None:
        pairs = pair(self._scene, role, vdevs)
        # A log can go again: where it is exchanged, the new one comes and the old one goes.
        waiting = list(pairs.undeclared) if role != "log" else []
        for number, spec in enumerate(self._scene.declared.specs(role)):
            path = f"{PATHS[role]}[{number}]"
            if number in pairs.found:
                self._repairs.compare(path, spec, pairs.found[number])
            elif not self._is_like_the_others(path, role, spec):
                continue
            elif waiting:
                refuse_exchange(self._scene, path, role, spec, waiting[0])
                waiting = waiting[1:] or waiting
            else:
                self._add(path, role, spec)
        for vdev in pairs.undeclared:
            self._repairs.health_of(vdev)
            self._undeclared(role, vdev)

    def _is_like_the_others(self, path: str, role: str, spec: VdevSpec) -> bool:
        """Refuse data vdevs of another type or width than those that are there."""
        for vdev in self._pool.data if role == DATA else ():
            kind, width = kind_of(vdev), len(self._members.slots(vdev))
            if (kind, width) != (spec.kind, spec.width):
                self._draft.refuse(
                    path,
                    f"a new {spec.kind} of {spec.width} disks",
                    f"{kind} of {width} disks, as {vdev.name} of the pool {self._pool.name}",
                    "declare it like those that are there, or a pool of its own",
                )
                return False
        return True

    def _add(self, path: str, role: str, spec: VdevSpec) -> None:
        names = [wanted.name for wanted in self._scene.blanks.vdev(path, spec)]
        text = f"add {'' if role == DATA else f'{role} '}{spec.kind} of {spec.width} disks"
        self._draft.step(self._scene.adding(layout(role, spec.kind, names)), text)
        self._draft.view.vdevs.append((role, spec.kind, tuple(names)))

    def _undeclared(self, role: str, vdev: Vdev) -> None:
        pool = self._pool
        disks = ", ".join(self._members.names(vdev))
        if role == "log":
            remove = ("zpool", "remove", pool.name, str(vdev.guid))
            self._draft.step(remove, f"remove the log {vdev.name if vdev.children else disks}")
            return
        removable = all(kind_of(other) in {"disk", "mirror"} for other in pool.data)
        declare = f"{{type: {kind_of(vdev)}, disks: [{disks}]}} in {PATHS[role]}"
        self._draft.differs(
            f"{'the vdev' if role == DATA else f'the {role} vdev'} {vdev.name} ({disks}) that is not declared",
            f"{declare}" + (", or the pool without it" if removable else "; ZFS cannot remove it from this pool"),
            command("remove", pool.name, str(vdev.guid)) if removable else "",
        )

    def _show(self) -> None:
        removed = {step.command[-1] for step in self._draft.steps if step.command[1] == "remove"}
        for role, vdevs in _by_role(self._pool):
            for position, vdev in enumerate(vdevs):
                if str(vdev.guid) not in removed:
                    self._draft.view.vdevs.insert(position, (role, kind_of(vdev), self._members.names(vdev)))

    def before(self) -> str:
        """Return the pool as it is, as a text tree."""
        view = View(self._pool.name)
        for role, vdevs in _by_role(self._pool):
            view.vdevs += [(role, kind_of(vdev), self._members.names(vdev)) for vdev in vdevs]
        for role, leaves in (("cache", self._pool.cache), ("spare", self._pool.spares)):
            view.flat(role, [self._members.shown(leaf) for leaf in leaves])
        view.properties = self._declared_properties()
        return view.text()

    def _growth(self) -> None:
        for vdev in self._pool.data:
            more = max([vdev.growth, *(leaf.growth for leaf in vdev.leaves())])
            if more:
                leaves = " ".join(str(leaf.guid) for leaf in vdev.leaves() if leaf.healthy)
                self._draft.differs(
                    f"{vdev.name} does not use all of its disks: {format_size(more)} more are there",
                    "all of them in use",
                    command("online", "-e", self._pool.name, leaves),
                )

    def _declared_properties(self) -> dict[str, str]:
        known = self._pool.properties
        return {name: self._value(name) for name in self._scene.spec.properties if name in known}

    def _value(self, name: str) -> str:
        value = self._pool.properties.get(name, "")
        # A feature becomes active by itself once it is used.
        return "enabled" if name.startswith("feature@") and value == "active" else "" if value == "-" else value

    def _properties(self) -> None:
        pool = self._pool
        for name, value in self._scene.spec.properties.items():
            if name not in pool.properties:
                mend = f"remove {name}: the ZFS of this host does not know it"
                path = f"zfs_pool_properties.{name}"
                self._draft.refuse(path, f"the property {name}", "a property that it knows", mend)
                continue
            found = self._value(name)
            if found == value:
                continue
            if name.startswith("feature@") and value == "disabled":
                self._draft.differs(f"{name} is {found}", "disabled, which ZFS can only do for a new pool")
                continue
            words = ("zpool", "set", f"{name}={value}", pool.name)
            if pool.suspended:
                self._draft.differs(f"{name}={found}, and the pool is {pool.state}", value, " ".join(words))
                continue
            self._draft.step(words, f"set {name} from {found or 'nothing'} to {value}", topology=False)
            self._draft.view.properties[name] = value


def _by_role(pool: PoolStatus) -> Iterable[tuple[str, tuple[Vdev, ...]]]:
    return ((DATA, pool.data), ("special", pool.special), ("dedup", pool.dedup), ("log", pool.log))
