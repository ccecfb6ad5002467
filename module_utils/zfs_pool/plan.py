"""What has to happen so that a pool is as declared: steps, what only a person may do, and what is refused.

Nothing here runs a command. A step never destroys anything and never forces: it imports, creates on empty disks, adds,
removes what is idle and can be removed, or sets a property. All else that differs is drift, with the exact command.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from .capacity import pool_capacity, size_fits
from .declaration import SIZE_TOLERANCE, DiskRule, PoolProblem, PoolSpec, VdevSpec
from .devices import fits, whole
from .sizes import format_size
from .status import DATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .devices import Devices, Disk
    from .status import Importable, PoolStatus, Vdev

# zpool takes disks of one vdev for different, and wants to be forced, from this difference on.
FUZZ: Final = 16 << 20
NEW_DISK: Final = "/dev/disk/by-id/NEW-DISK"

_USABLE: Final = frozenset({"ONLINE", "DEGRADED"})
_WRAPPERS: Final = frozenset({"spare", "replacing"})
_PATHS: Final = {"data": "zfs_vdevs", "log": "zfs_log", "special": "zfs_special"}
_LISTS: Final = {"spare": "zfs_spares", "cache": "zfs_cache"}


@dataclass(frozen=True)
class Step:
    """One change: a command, and what it does in words. ``topology`` where it changes the vdevs."""

    command: tuple[str, ...]
    text: str
    topology: bool = True


@dataclass(frozen=True)
class Drift:
    """One difference that is not mended by itself, and the command that mends it; empty where there is none."""

    found: str
    wanted: str
    command: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be done. With any refusal nothing at all is done.

    ``before`` and ``after`` are the pool as a text tree. ``expected`` is how many bytes a pool that is to be created
    will have for files.
    """

    steps: tuple[Step, ...] = ()
    drift: tuple[Drift, ...] = ()
    refusals: tuple[PoolProblem, ...] = ()
    before: str = ""
    after: str = ""
    expected: int = 0


@dataclass
class View:
    """A pool as a text tree, for Ansible's diff."""

    name: str
    vdevs: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    properties: dict[str, str] = field(default_factory=dict)
    exists: bool = True

    def text(self) -> str:
        """Return one line for each pool, vdev, disk and property."""
        if not self.exists:
            return ""
        lines = [f"pool {self.name}"]
        for role in (DATA, "special", "dedup", "log", "cache", "spare"):
            for vdev_role, kind, disks in self.vdevs:
                if vdev_role == role:
                    head = kind if role == DATA else f"{role} {kind}" if kind != "disk" else role
                    lines.append(f"  {head}")
                    lines += [f"    {disk.rpartition('/')[2]}" for disk in disks]
        if self.properties:
            lines.append("  properties")
            lines += [f"    {name}={value}" for name, value in sorted(self.properties.items())]
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class _Wanted:
    """One declared disk: where the inventory says so, by which name, and the device where it is there."""

    path: str
    name: str
    disk: Disk | None
    size: int | None = None


@dataclass(frozen=True)
class _Slot:
    """One place in a vdev: the disk that belongs there, and a spare that stands in for it."""

    vdev: Vdev
    leaves: tuple[Vdev, ...]
    stand_ins: tuple[Vdev, ...]

    @property
    def replacing(self) -> bool:
        """Whether a new disk takes its place already."""
        return any(vdev.kind == "replacing" for vdev in (self.vdev, *self.vdev.children))

    @property
    def first(self) -> Vdev:
        """The disk that belongs there; of two, the one that is being replaced."""
        return next((leaf for leaf in self.leaves if leaf not in self.stand_ins), self.leaves[0])


def _kind(vdev: Vdev) -> str:
    return "disk" if vdev.kind in _WRAPPERS or not vdev.children else vdev.kind


def _slots(vdev: Vdev, spares: frozenset[int]) -> tuple[_Slot, ...]:
    places = (vdev,) if vdev.kind in _WRAPPERS or not vdev.children else vdev.children
    slots = []
    for place in places:
        leaves = tuple(place.leaves())
        stand_ins = tuple(leaf for leaf in leaves if leaf.guid in spares) if place.kind == "spare" else ()
        slots.append(_Slot(place, leaves, stand_ins))
    return tuple(slots)


def _layout(kind: str, names: Iterable[str]) -> list[str]:
    return list(names) if kind == "disk" else [kind, *names]


class _Planner:
    def __init__(self, spec: PoolSpec, devices: Devices, pools: Mapping[str, PoolStatus], ashift: int) -> None:
        self.spec = spec
        self.devices = devices
        self.pools = pools
        self.pool = pools.get(spec.name)
        self.ashift = ashift
        self.steps: list[Step] = []
        self.drift: list[Drift] = []
        self.refusals: list[PoolProblem] = []
        self.taken: set[str] = set()
        self._device: dict[int, Disk | None] = {}
        self.owners: dict[str, tuple[str, Vdev]] = {}
        self.view = View(spec.name, exists=self.pool is not None)
        self.expected = 0
        self._find_members()
        self.named = self._named()

    # What is declared, and what is there.

    def _find_members(self) -> None:
        for name, pool in self.pools.items():
            for vdev in pool.vdevs():
                for leaf in vdev.leaves():
                    disk = self.device_of(leaf)
                    if disk is not None:
                        # A spare that stands in is in its vdev and among the spares: it counts as a spare.
                        self.owners[disk.path] = (name, leaf)

    def device_of(self, leaf: Vdev) -> Disk | None:
        """Return the device of a member of a pool, by its label where the path cannot be relied on."""
        if leaf.guid not in self._device:
            disk = self.devices.at(leaf.path)
            if disk is not None and not leaf.healthy and not self._labelled(disk, leaf.guid):
                disk = None
            if disk is None:
                disk = self.devices.with_label(leaf.guid)
            self._device[leaf.guid] = disk
        return self._device[leaf.guid]

    def _labelled(self, disk: Disk, guid: int) -> bool:
        return any(label.part == str(guid) for label in self.devices.labels(disk))

    def owner_of(self, disk: Disk) -> tuple[str, Vdev] | None:
        """Return the imported pool and the member that a device is."""
        for path in (disk.path, *disk.partitions):
            if path in self.owners:
                return self.owners[path]
        return None

    def _named(self) -> dict[str, _Wanted]:
        """Resolve all names of the declaration; one device by two names is refused."""
        found: dict[str, _Wanted] = {}
        for role, path in _PATHS.items():
            for number, vdev in enumerate(self._specs(role)):
                if not isinstance(vdev.disks, DiskRule):
                    for position, name in enumerate(vdev.disks):
                        place = f"{path}[{number}].disks[{position}]"
                        found[place] = _Wanted(place, name, self.devices.at(name), vdev.size)
        for role, path in _LISTS.items():
            disks = self._flat(role)
            if not isinstance(disks, DiskRule):
                for position, name in enumerate(disks):
                    found[f"{path}[{position}]"] = _Wanted(f"{path}[{position}]", name, self.devices.at(name))
        seen: dict[str, _Wanted] = {}
        for wanted in found.values():
            if wanted.disk is not None:
                self._check_named(wanted, wanted.disk, seen)
        return found

    def _check_named(self, wanted: _Wanted, disk: Disk, seen: dict[str, _Wanted]) -> None:
        """Refuse a disk that two names mean, and one of another size than declared."""
        for path in (disk.path, disk.parent, *disk.partitions):
            if path and path in seen:
                mend = f"{seen[path].path} names it already, as {seen[path].name}: correct one of them"
                self.refuse(wanted.path, f"{wanted.name}, which is {disk.path}", "a disk of its own", mend)
                break
        seen[disk.path] = wanted
        self.taken.add(disk.path)
        if wanted.size is not None and not size_fits(wanted.size, disk.size):
            self.refuse(
                f"{wanted.path.rpartition('.')[0]}.size",
                f"{wanted.name} has {format_size(disk.size)}",
                f"the declared {format_size(wanted.size)}, give or take {SIZE_TOLERANCE:.0%}",
                "correct size, or the disk",
            )

    def _specs(self, role: str) -> tuple[VdevSpec, ...]:
        return {"data": self.spec.vdevs, "log": self.spec.log, "special": self.spec.special}[role]

    def _flat(self, role: str) -> Any:
        return self.spec.spares if role == "spare" else self.spec.cache

    def refuse(self, path: str, found: str, wanted: str, mend: str) -> None:
        """Note one thing that keeps everything from being done."""
        problem = PoolProblem(path, found, wanted, mend)
        if problem not in self.refusals:
            self.refusals.append(problem)

    def command(self, *words: str) -> str:
        """Return a command for a person."""
        return " ".join(("zpool", *words))

    def shown(self, leaf: Vdev) -> str:
        """Return the best name of a member: of the device, or the pool's own where that is gone."""
        disk = self.device_of(leaf)
        if disk is not None and disk.parent:
            disk = self.devices.at(disk.parent) or disk
        if disk is not None and disk.names:
            return disk.name
        if leaf.devid:
            return whole(f"/dev/disk/by-id/{leaf.devid}")
        return whole(leaf.path) or str(leaf.guid)

    # Disks that are to be written.

    def check_new(self, wanted: _Wanted, least: int = 0) -> bool:
        """Refuse a disk that may not be written over. Return True where it may."""
        disk = wanted.disk
        if disk is None:
            self.refuse(
                wanted.path,
                f"no device {wanted.name} on this host",
                "a disk that is plugged in",
                "compare with ls -l /dev/disk/by-id, and correct the name or the cabling",
            )
            return False
        owner = self.owner_of(disk)
        if owner is not None:
            pool, leaf = owner
            what = "a data disk" if leaf.role == DATA else f"part of its {leaf.role}"
            mend = "declare another disk"
            if pool == self.spec.name and leaf.role in {"spare", "cache", "log"}:
                mend = f"take it out of the {leaf.role} first: run once without it, then {self._wipe(disk)}"
            self.refuse(wanted.path, f"{wanted.name} is {what} of the pool {pool}", "a disk that carries nothing", mend)
            return False
        content = self.devices.content(disk)
        if content:
            mend = "declare another disk"
            if not any(text.startswith(("mounted", "used as swap", "member of", "held", "write")) for text in content):
                mend = f"declare another disk; or, when nothing on it is wanted any more: {self._wipe(disk)}"
            self.refuse(wanted.path, f"{wanted.name} carries {', '.join(content)}", "a disk that carries nothing", mend)
            return False
        if disk.size < least:
            self.refuse(
                wanted.path,
                f"{wanted.name} has {format_size(disk.size)} ({disk.size} bytes)",
                f"at least {format_size(least)} ({least} bytes), as the disks it has to serve",
                "declare a larger disk",
            )
            return False
        return True

    def _wipe(self, disk: Disk) -> str:
        # Partitions first: what they carry would be there again as soon as they are made anew.
        parts = [self.devices.at(path) for path in disk.partitions]
        names = [*(part.name for part in parts if part is not None), disk.name]
        return f"wipefs --all {' '.join(names)}"

    def _free(self, disk: Disk) -> bool:
        return disk.path not in self.taken and self.owner_of(disk) is None and not self.devices.content(disk)

    def pick(self, path: str, rule: DiskRule, count: int, size: int | None = None) -> tuple[_Wanted, ...]:
        """Return so many empty disks that fit a rule, by place; refuse where there are fewer."""
        fitting = [
            disk for disk in self.devices.fitting(rule) if not any(part in self.taken for part in disk.partitions)
        ]
        free = [disk for disk in fitting if self._free(disk)]
        if len(free) < count:
            carrying = [
                f"{disk.name} carries {', '.join(content)}"
                for disk in fitting
                if disk.path not in self.taken
                and self.owner_of(disk) is None
                and (content := self.devices.content(disk))
            ]
            self.refuse(
                path,
                "; ".join([f"{len(free)} empty disks that fit the rule", *carrying]),
                f"{count} more",
                "plug disks in, widen the rule, or name the disks",
            )
            return ()
        chosen = free[:count]
        self.taken.update(disk.path for disk in chosen)
        for disk in chosen:
            if size is not None and not size_fits(size, disk.size):
                wanted = f"the declared {format_size(size)}, give or take {SIZE_TOLERANCE:.0%}"
                mend = "correct size, or narrow the rule by at_least and at_most"
                self.refuse(path, f"{disk.name} has {format_size(disk.size)}", wanted, mend)
        return tuple(_Wanted(path, disk.name, disk, size) for disk in chosen)

    def new_vdev(self, path: str, vdev: VdevSpec) -> tuple[_Wanted, ...]:
        """Return the disks of a vdev that is to be made; anything wrong with them is refused."""
        if isinstance(vdev.disks, DiskRule):
            disks = self.pick(f"{path}.disks", vdev.disks, vdev.disks.count, vdev.size)
        else:
            disks = tuple(self.named[f"{path}.disks[{position}]"] for position in range(len(vdev.disks)))
            for wanted in disks:
                self.check_new(wanted)
        sizes = sorted((wanted.disk.size, wanted.name) for wanted in disks if wanted.disk is not None)
        if sizes and sizes[-1][0] - sizes[0][0] > FUZZ:
            self.refuse(
                f"{path}.disks",
                f"{sizes[0][1]} has {format_size(sizes[0][0])}, {sizes[-1][1]} has {format_size(sizes[-1][0])}",
                "disks of one size in one vdev",
                "declare disks of one size, or narrow the rule by at_least and at_most",
            )
        return disks

    # A pool that is not imported.

    def plan_import(self, found: Sequence[Importable], directories: Sequence[str]) -> None:
        """Import the pool of this name, if its disks are the declared ones and no other system has it."""
        self.view.exists = True
        name = self.spec.name
        if len(found) > 1:
            self.refuse(
                "zfs_pool",
                f"several pools named {name} on the disks of this host: {', '.join(str(pool.guid) for pool in found)}",
                "one pool of this name",
                f"import the right one by its number (zpool import {found[0].guid}), and unplug or rename the other",
            )
            return
        (pool,) = found
        places = [word for directory in directories for word in ("-d", directory)]
        command = ("zpool", "import", *places, str(pool.guid))
        labels = {label.uuid for disk in self._declared_disks() for label in self.devices.labels(disk) if label.uuid}
        if str(pool.guid) not in labels:
            self.refuse(
                "zfs_pool",
                f"a pool {name} ({pool.guid}) that is on none of the declared data disks",
                "the pool of the declared disks",
                f"declare its disks (zpool import lists them), or import it under another name: "
                f"zpool import {pool.guid} NEW-NAME",
            )
        elif pool.foreign:
            self.refuse(
                "zfs_pool",
                f"a pool {name} ({pool.guid}) that another system used last",
                "a pool that was exported there",
                f"make sure that no other machine has it, then: zpool import -f {' '.join(command[2:])}",
            )
        elif pool.state not in _USABLE:
            self.refuse(
                "zfs_pool",
                f"a pool {name} ({pool.guid}) in the state {pool.state}. {pool.message}".rstrip(),
                "a pool that can be imported",
                "plug its missing disks in; zpool import shows which ones",
            )
        else:
            self.steps.append(Step(command, f"import the pool {name} ({pool.guid}), {pool.state}"))

    def _declared_disks(self) -> list[Disk]:
        found: list[Disk] = []
        for number, vdev in enumerate(self.spec.vdevs):
            if isinstance(vdev.disks, DiskRule):
                found += self.devices.fitting(vdev.disks)
            else:
                places = (self.named[f"zfs_vdevs[{number}].disks[{at}]"].disk for at in range(len(vdev.disks)))
                found += [disk for disk in places if disk is not None]
        return found

    def plan_creation(self, filesystem_properties: Mapping[str, str]) -> None:
        """Create the pool with all its vdevs at once."""
        words = ["-o", f"ashift={self.ashift}"]
        for name, value in self.spec.properties.items():
            words += ["-o", f"{name}={value}"]
        for name, value in filesystem_properties.items():
            words += ["-O", f"{name}={value}"]
        words.append(self.spec.name)
        groups: list[tuple[str, list[str]]] = []
        made: list[VdevSpec] = []
        for role in ("data", "special", "log"):
            layout: list[str] = []
            for number, vdev in enumerate(self._specs(role)):
                disks = self.new_vdev(f"{_PATHS[role]}[{number}]", vdev)
                names = [wanted.name for wanted in disks]
                if role == DATA and disks:
                    size = min(wanted.disk.size if wanted.disk else 0 for wanted in disks)
                    made.append(VdevSpec(vdev.kind, tuple(names), size or None))
                layout += _layout(vdev.kind, names)
                self.view.vdevs.append((role, vdev.kind, tuple(names)))
            groups.append((role, layout))
        for role in ("cache", "spare"):
            names = [wanted.name for wanted in self._new_flat(role, ())]
            groups.append((role, names))
            self._show_flat(role, names)
        for role, layout in groups:
            if layout:
                words += layout if role == "data" else [role, *layout]
        capacity = pool_capacity(replace(self.spec, vdevs=tuple(made)), self.ashift)
        self.expected = capacity.usable if capacity else 0
        self.view.exists = True
        self.view.properties = dict(self.spec.properties)
        text = f"create the pool {self.spec.name}: " + ", ".join(
            f"{vdev.kind} of {vdev.width}" for vdev in self.spec.vdevs
        )
        self.steps.append(Step(("zpool", "create", *words), text))

    def _show_flat(self, role: str, names: Sequence[str]) -> None:
        if names:
            self.view.vdevs.append((role, "disk", tuple(names)))

    # A pool that is imported.

    def plan_changes(self, pool: PoolStatus) -> None:
        """Compare an imported pool with the declaration."""
        self.view.properties = {
            name: self._value(pool, name) for name in self.spec.properties if name in pool.properties
        }
        spares = frozenset(spare.guid for spare in pool.spares)
        for role, vdevs in (("data", pool.data), ("special", pool.special), ("log", pool.log)):
            self._compare_vdevs(pool, role, vdevs, spares)
        for vdev in pool.dedup:
            self.drift.append(Drift(f"{vdev.name} for deduplication in the pool", "no such vdev in the inventory"))
        for role, disks in (("cache", pool.cache), ("spare", pool.spares)):
            self._compare_flat(pool, role, disks)
        self._show(pool, spares)
        self._growth(pool)
        self._properties(pool)
        self.steps.sort(key=lambda step: _ORDER.index(self._sort_key(step)))
        blocked = pool.busy or (pool.state if pool.suspended else "")
        topology = [step.text for step in self.steps if step.topology]
        if blocked and topology:
            self.refuse(
                "zfs_pool",
                f"{blocked}, and the declaration wants to {'; '.join(topology)}",
                "a pool at rest before its vdevs change",
                f"wait until it has ended (zpool status {pool.name}; zpool wait {pool.name}), then run this again"
                if pool.busy
                else f"mend the pool first: zpool status -v {pool.name}",
            )

    @staticmethod
    def _sort_key(step: Step) -> str:
        if step.command[1] == "add":
            return "add" if not any(word in _CLASSES for word in step.command) else "add class"
        return step.command[1]

    def _matches(self, slot: _Slot, wanted: _Wanted) -> bool:
        """Whether a declared disk is at work in this place, or by name the one that should be."""
        for leaf in slot.leaves:
            if leaf in slot.stand_ins:
                continue
            disk = self.device_of(leaf)
            if disk is not None:
                if wanted.disk is not None and self.devices.same(disk, wanted.disk):
                    return True
            elif whole(wanted.name) in {whole(name) for name in leaf.names()}:
                return True
        return False

    def _pairs(self, role: str, vdevs: Sequence[Vdev], spares: frozenset[int]) -> tuple[dict[int, Vdev], list[Vdev]]:
        """Return which declared vdev is which one of the pool, and those of the pool that are not declared."""
        specs = self._specs(role)
        scores = []
        for number, spec in enumerate(specs):
            if isinstance(spec.disks, DiskRule):
                continue
            declared = [self.named[f"{_PATHS[role]}[{number}].disks[{at}]"] for at in range(len(spec.disks))]
            for position, vdev in enumerate(vdevs):
                slots = _slots(vdev, spares)
                score = sum(any(self._matches(slot, wanted) for slot in slots) for wanted in declared)
                if score:
                    scores.append((-score, number, position))
        pairs: dict[int, Vdev] = {}
        used: set[int] = set()
        for _, number, position in sorted(scores):
            if number not in pairs and position not in used:
                pairs[number] = vdevs[position]
                used.add(position)
        for number, spec in enumerate(specs):
            if number in pairs or not isinstance(spec.disks, DiskRule):
                continue
            for position, vdev in enumerate(vdevs):
                if position not in used and self._by_rule(vdev, spec.kind, spec.disks, spares):
                    pairs[number] = vdev
                    used.add(position)
                    break
        return pairs, [vdev for position, vdev in enumerate(vdevs) if position not in used]

    def _by_rule(self, vdev: Vdev, kind: str, rule: DiskRule, spares: frozenset[int]) -> bool:
        slots = _slots(vdev, spares)
        return _kind(vdev) == kind and len(slots) == rule.count and all(self._fits(slot.first, rule) for slot in slots)

    def _fits(self, leaf: Vdev, rule: DiskRule) -> bool:
        """Whether a member fits a rule. One that is gone is given the benefit of the doubt."""
        disk = self._whole_device(leaf)
        return disk is None or fits(disk, rule)

    def _compare_vdevs(self, pool: PoolStatus, role: str, vdevs: Sequence[Vdev], spares: frozenset[int]) -> None:
        pairs, undeclared = self._pairs(role, vdevs, spares)
        for number, spec in enumerate(self._specs(role)):
            path = f"{_PATHS[role]}[{number}]"
            if number in pairs:
                self._compare_vdev(path, spec, pairs[number], spares)
            else:
                self._add_vdev(path, role, spec, pool, spares)
        for vdev in undeclared:
            for slot in _slots(vdev, spares):
                self._health(slot, None)
            self._undeclared(pool, role, vdev, spares)

    def _add_vdev(self, path: str, role: str, spec: VdevSpec, pool: PoolStatus, spares: frozenset[int]) -> None:
        if role == "data":
            for vdev in pool.data:
                kind, width = _kind(vdev), len(_slots(vdev, spares))
                if (kind, width) != (spec.kind, spec.width):
                    self.refuse(
                        path,
                        f"a new {spec.kind} of {spec.width} disks",
                        f"{kind} of {width} disks, as {vdev.name} of the pool {pool.name}",
                        "declare it like those that are there, or a pool of its own",
                    )
                    return
        names = [wanted.name for wanted in self.new_vdev(path, spec)]
        words = [*([] if role == "data" else [role]), *_layout(spec.kind, names)]
        text = f"add {'' if role == 'data' else f'{role} '}{spec.kind} of {spec.width} disks"
        self._add(words, text)
        self.view.vdevs.append((role, spec.kind, tuple(names)))

    def _add(self, words: Sequence[str], text: str) -> None:
        self.steps.append(Step(("zpool", "add", "-o", f"ashift={self.ashift}", self.spec.name, *words), text))

    def _remove(self, leaf: Vdev, what: str) -> None:
        self.steps.append(Step(("zpool", "remove", self.spec.name, str(leaf.guid)), f"remove {what}"))

    def _undeclared(self, pool: PoolStatus, role: str, vdev: Vdev, spares: frozenset[int]) -> None:
        disks = ", ".join(self.shown(slot.first) for slot in _slots(vdev, spares))
        if role == "log":
            self._remove(vdev, f"the log {vdev.name if vdev.children else disks}")
            return
        removable = all(_kind(other) in {"disk", "mirror"} for other in pool.data)
        declare = f"{{type: {_kind(vdev)}, disks: [{disks}]}} in {_PATHS[role]}"
        self.drift.append(
            Drift(
                f"{'the vdev' if role == DATA else f'the {role} vdev'} {vdev.name} ({disks}) that is not declared",
                f"{declare}" + (", or the pool without it" if removable else "; ZFS cannot remove it from this pool"),
                self.command("remove", pool.name, str(vdev.guid)) if removable else "",
            )
        )

    def _compare_vdev(self, path: str, spec: VdevSpec, vdev: Vdev, spares: frozenset[int]) -> None:
        """Compare a declared vdev with the one of the pool that it is."""
        slots = _slots(vdev, spares)
        kind = _kind(vdev)
        if kind != spec.kind and {kind, spec.kind} != {"disk", "mirror"}:
            self.refuse(
                f"{path}.type",
                f"{spec.kind}, while {vdev.name} of the pool {self.spec.name} is {kind}",
                kind,
                "correct type: ZFS cannot change the redundancy of a vdev",
            )
            return
        if isinstance(spec.disks, DiskRule):
            for slot in slots:
                self._health(slot, None)
            return
        declared = [self.named[f"{path}.disks[{at}]"] for at in range(len(spec.disks))]
        free_slots = list(slots)
        free_disks = []
        for wanted in declared:
            own = next((slot for slot in free_slots if self._matches(slot, wanted)), None)
            if own is None:
                free_disks.append(wanted)
            else:
                free_slots.remove(own)
                self._health(own, wanted)
        self._unmatched(path, vdev, slots, free_slots, free_disks)

    def _unmatched(
        self,
        path: str,
        vdev: Vdev,
        slots: Sequence[_Slot],
        free_slots: list[_Slot],
        free_disks: list[_Wanted],
    ) -> None:
        """Report disks that are to be replaced, and a vdev that is wider or narrower than declared."""
        least = min((disk.size for slot in slots if (disk := self._whole_device(slot.first)) is not None), default=0)
        # The disk that fails is the one to go, whatever the order in the inventory.
        free_slots.sort(key=lambda slot: slot.first.healthy)
        while free_slots and free_disks:
            slot, wanted = free_slots.pop(0), free_disks.pop(0)
            if self._exchanged_by_hand(slot, wanted) or not self._may_replace(slot, wanted, least):
                continue
            self._health(slot, wanted, replace=True)
        for wanted in free_disks:
            if self.check_new(wanted, least):
                target = vdev.name if vdev.kind.startswith("raidz") else str(slots[0].first.guid)
                self.drift.append(
                    Drift(
                        f"{vdev.name} without {wanted.name}",
                        f"{vdev.name} with {len(slots) + len(free_disks)} disks",
                        self.command("attach", self.spec.name, target, wanted.name),
                    )
                )
        for slot in free_slots:
            self._health(slot, None)
            if _kind(vdev) == "mirror":
                self.drift.append(
                    Drift(
                        f"{self.shown(slot.first)} in {vdev.name}",
                        f"{vdev.name} without it, as declared",
                        self.command("detach", self.spec.name, str(slot.first.guid)),
                    )
                )
            else:
                self.refuse(
                    f"{path}.disks",
                    f"fewer disks than {vdev.name} of the pool has: {self.shown(slot.first)} is missing",
                    f"its {len(slots)} disks",
                    "declare the disk: ZFS cannot make a raidz vdev narrower",
                )

    def _exchanged_by_hand(self, slot: _Slot, wanted: _Wanted) -> bool:
        """Report a spare that somebody kept for good, or one that somebody chose to keep in the inventory."""
        for leaf in slot.leaves:
            disk = self.device_of(leaf)
            if disk is None:
                continue
            if leaf in slot.stand_ins and wanted.disk is not None and self.devices.same(disk, wanted.disk):
                self.drift.append(
                    Drift(
                        f"the spare {wanted.name} stands in for {self.shown(slot.first)} ({slot.first.state})",
                        "the spare for good, as declared",
                        self.command("detach", self.spec.name, str(slot.first.guid)),
                    )
                )
                return True
            spare = next(
                (
                    other
                    for path, other in self.named.items()
                    if path.startswith("zfs_spares") and other.disk is not None and self.devices.same(disk, other.disk)
                ),
                None,
            )
            if spare is not None and leaf not in slot.stand_ins and wanted.disk is None:
                self.drift.append(
                    Drift(
                        f"the spare {spare.name} for good in place of {wanted.name}",
                        f"an inventory that says so: {spare.name} at {wanted.path}, and no longer in zfs_spares",
                    )
                )
                return True
        return False

    def _may_replace(self, slot: _Slot, wanted: _Wanted, least: int) -> bool:
        # The resilver onto it may run already.
        if wanted.disk is not None:
            owner = self.owner_of(wanted.disk)
            if owner is not None and owner[1] in slot.leaves:
                return True
        return self.check_new(wanted, least)

    def _health(self, slot: _Slot, wanted: _Wanted | None, *, replace: bool = False) -> None:
        """Report a place that needs a person: a disk that fails, a spare that stands in, a replacement that is due."""
        leaf = slot.first
        pool = self.spec.name
        shown = f"{self.shown(leaf)} (guid {leaf.guid}) {leaf.state}"
        new = NEW_DISK
        if wanted is not None and (replace or self._other_disk(slot, wanted)):
            new = wanted.name
        replacement = self.command("replace", pool, str(leaf.guid), new)
        if slot.replacing:
            # It ends by itself, and a spare goes back.
            return
        if slot.stand_ins:
            spare = slot.stand_ins[-1]
            found = f"the spare {self.shown(spare)} stands in for {shown}"
            back = self.command("detach", pool, str(spare.guid))
            keep = self.command("detach", pool, str(leaf.guid))
            if leaf.healthy and not replace:
                self.drift.append(Drift(found, "the spare back among the spares", back))
            else:
                wish = f"{new} in its place" if new != NEW_DISK else "a new disk in its place"
                self.drift.append(Drift(found, f"{wish}; or the spare for good: {keep}", replacement))
        elif replace or new != NEW_DISK:
            self.drift.append(Drift(shown, f"{new} in its place", replacement))
        elif not leaf.healthy:
            self.drift.append(Drift(shown, "a disk that works", self._remedy(leaf, replacement)))

    def _other_disk(self, slot: _Slot, wanted: _Wanted) -> bool:
        """Whether in the place of a disk that is gone there is now another one by the same name."""
        at_work = [disk for leaf in slot.leaves if (disk := self.device_of(leaf)) is not None]
        return (
            self.device_of(slot.first) is None
            and wanted.disk is not None
            and not any(self.devices.same(disk, wanted.disk) for disk in at_work)
        )

    def _remedy(self, leaf: Vdev, replacement: str) -> str:
        if self.device_of(leaf) is None:
            return replacement
        word = "clear" if leaf.state in {"FAULTED", "DEGRADED"} else "online"
        return self.command(word, self.spec.name, str(leaf.guid))

    # Spares and cache.

    def _new_flat(self, role: str, kept: Sequence[Vdev]) -> list[_Wanted]:
        """Return the spares or cache disks that are to be added."""
        disks = self._flat(role)
        path = _LISTS[role]
        least = self._least() if role == "spare" else 0
        if isinstance(disks, DiskRule):
            count = disks.count - len(kept)
            found = list(self.pick(path, disks, count)) if count > 0 else []
            return [wanted for wanted in found if self.check_new(wanted, least)]
        wanted_all = [self.named[f"{path}[{at}]"] for at in range(len(disks))]
        missing = [wanted for wanted in wanted_all if not any(self._is(leaf, wanted) for leaf in kept)]
        return [wanted for wanted in missing if self._kept_for_good(wanted) or self.check_new(wanted, least)]

    def _kept_for_good(self, wanted: _Wanted) -> bool:
        """Whether a declared spare is a data disk by now. That is reported where its vdev is compared."""
        owner = self.owner_of(wanted.disk) if wanted.disk is not None else None
        return owner is not None and owner[0] == self.spec.name and owner[1].role == DATA and self._reported(wanted)

    def _reported(self, wanted: _Wanted) -> bool:
        return any(drift.found.startswith(f"the spare {wanted.name} for good") for drift in self.drift)

    def _least(self) -> int:
        """Return the size from which a disk can take the place of at least one data disk."""
        sizes = [
            wanted.disk.size for path, wanted in self.named.items() if path.startswith("zfs_vdevs") and wanted.disk
        ]
        for vdev in self.pool.data if self.pool else ():
            sizes += [disk.size for leaf in vdev.leaves() if (disk := self._whole_device(leaf)) is not None]
        if not sizes:
            sizes = [
                disk.size
                for vdev in self.spec.vdevs
                if isinstance(vdev.disks, DiskRule)
                for disk in self.devices.fitting(vdev.disks)
            ]
        return min(sizes, default=0)

    def _whole_device(self, leaf: Vdev) -> Disk | None:
        disk = self.device_of(leaf)
        return self.devices.at(disk.parent) if disk is not None and disk.parent else disk

    def _is(self, leaf: Vdev, wanted: _Wanted) -> bool:
        return self._matches(_Slot(leaf, (leaf,), ()), wanted)

    def _compare_flat(self, pool: PoolStatus, role: str, leaves: Sequence[Vdev]) -> None:
        disks = self._flat(role)
        path = _LISTS[role]
        kept: list[Vdev] = []
        for leaf in leaves:
            if isinstance(disks, DiskRule):
                keep = len(kept) < disks.count and self._fits(leaf, disks)
            else:
                keep = any(self._is(leaf, self.named[f"{path}[{at}]"]) for at in range(len(disks)))
            if keep:
                kept.append(leaf)
                if not leaf.healthy:
                    self.drift.append(
                        Drift(
                            f"the {role} {self.shown(leaf)} (guid {leaf.guid}) {leaf.state}",
                            "a disk that works",
                            self.command("remove", pool.name, str(leaf.guid)),
                        )
                    )
            elif leaf.state == "INUSE":
                if not self._chosen(leaf):
                    self.drift.append(
                        Drift(
                            f"the spare {self.shown(leaf)}, which is not declared, stands in for a disk",
                            "it among zfs_spares, or back among the spares before it can go",
                            self.command("detach", pool.name, str(leaf.guid)),
                        )
                    )
            else:
                self._remove(leaf, f"the {role} {self.shown(leaf)}")
        new = [wanted for wanted in self._new_flat(role, kept) if not self._kept_for_good(wanted)]
        if new:
            names = [wanted.name for wanted in new]
            self._add([role, *names], f"add {role} {', '.join(names)}")
        self._show_flat(role, [*(self.shown(leaf) for leaf in kept), *(wanted.name for wanted in new)])

    def _chosen(self, leaf: Vdev) -> bool:
        """Whether a spare that stands in is declared as a data disk: then its vdev has been compared with it."""
        disk = self.device_of(leaf)
        return disk is not None and any(
            path.startswith("zfs_vdevs") and wanted.disk is not None and self.devices.same(disk, wanted.disk)
            for path, wanted in self.named.items()
        )

    # The rest.

    def _show(self, pool: PoolStatus, spares: frozenset[int]) -> None:
        removed = {step.command[-1] for step in self.steps if step.command[1] == "remove"}
        for role, vdevs in ((DATA, pool.data), ("special", pool.special), ("dedup", pool.dedup), ("log", pool.log)):
            for position, vdev in enumerate(vdevs):
                if str(vdev.guid) not in removed:
                    names = tuple(self.shown(slot.first) for slot in _slots(vdev, spares))
                    self.view.vdevs.insert(position, (role, _kind(vdev), names))

    def before(self) -> str:
        """Return the pool as it is, as a text tree."""
        pool = self.pool
        if pool is None:
            return ""
        spares = frozenset(spare.guid for spare in pool.spares)
        view = View(pool.name)
        for role, vdevs in ((DATA, pool.data), ("special", pool.special), ("dedup", pool.dedup), ("log", pool.log)):
            for vdev in vdevs:
                view.vdevs.append((role, _kind(vdev), tuple(self.shown(slot.first) for slot in _slots(vdev, spares))))
        for role, leaves in (("cache", pool.cache), ("spare", pool.spares)):
            if leaves:
                view.vdevs.append((role, "disk", tuple(self.shown(leaf) for leaf in leaves)))
        view.properties = {name: self._value(pool, name) for name in self.spec.properties if name in pool.properties}
        return view.text()

    def _growth(self, pool: PoolStatus) -> None:
        for vdev in pool.data:
            more = max([vdev.growth, *(leaf.growth for leaf in vdev.leaves())])
            if more:
                leaves = " ".join(str(leaf.guid) for leaf in vdev.leaves() if leaf.healthy)
                self.drift.append(
                    Drift(
                        f"{vdev.name} does not use all of its disks: {format_size(more)} more are there",
                        "all of them in use",
                        self.command("online", "-e", pool.name, leaves),
                    )
                )

    @staticmethod
    def _value(pool: PoolStatus, name: str) -> str:
        value = pool.properties.get(name, "")
        # A feature becomes active by itself once it is used.
        return "enabled" if name.startswith("feature@") and value == "active" else "" if value == "-" else value

    def _properties(self, pool: PoolStatus) -> None:
        for name, value in self.spec.properties.items():
            if name not in pool.properties:
                mend = f"remove {name}: the ZFS of this host does not know it"
                self.refuse(f"zfs_pool_properties.{name}", f"the property {name}", "a property that it knows", mend)
                continue
            found = self._value(pool, name)
            if found == value:
                continue
            if name.startswith("feature@") and value == "disabled":
                self.drift.append(Drift(f"{name} is {found}", "disabled, which ZFS can only do for a new pool"))
                continue
            command = ("zpool", "set", f"{name}={value}", pool.name)
            if pool.suspended:
                self.drift.append(Drift(f"{name}={found}, and the pool is {pool.state}", value, " ".join(command)))
                continue
            self.steps.append(Step(command, f"set {name} from {found or 'nothing'} to {value}", topology=False))
            self.view.properties[name] = value


_CLASSES: Final = ("special", "log", "cache", "spare")
_ORDER: Final = ("import", "create", "add", "add class", "remove", "set")


def plan(
    spec: PoolSpec,
    devices: Devices,
    pools: Mapping[str, PoolStatus],
    importable: Sequence[Importable] = (),
    *,
    ashift: int = 12,
    filesystem_properties: Mapping[str, str] | None = None,
    directories: Sequence[str] = ("/dev/disk/by-id",),
) -> Plan:
    """Compare a declared pool with what is on the host.

    ``pools`` are all imported pools, ``importable`` all others that were found, ``directories`` where an import looks
    for disks. After a plan that imports, plan again: only an imported pool can be compared.
    """
    planner = _Planner(spec, devices, pools, ashift)
    before = planner.before()
    same_name = [pool for pool in importable if pool.name == spec.name]
    if planner.pool is not None:
        planner.plan_changes(planner.pool)
    elif same_name:
        planner.plan_import(same_name, directories)
    else:
        planner.plan_creation(filesystem_properties or {})
    if planner.refusals:
        return Plan((), tuple(planner.drift), tuple(planner.refusals), before, before)
    return Plan(tuple(planner.steps), tuple(planner.drift), (), before, planner.view.text(), planner.expected)
