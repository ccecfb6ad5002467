"""Which declared vdev is which one of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .declaration import DiskRule
from .declared import PATHS
from .devices import whole
from .members import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .declaration import VdevSpec
    from .declared import Wanted
    from .members import Members, Slot
    from .scene import Scene
    from .status import Vdev


@dataclass(frozen=True)
class Pairs:
    """The vdevs of one role: those of the pool by the number of the declaration, and those that none declares."""

    found: Mapping[int, Vdev]
    undeclared: tuple[Vdev, ...]


def matches(members: Members, slot: Slot, wanted: Wanted) -> bool:
    """Whether a declared disk is at work in this place, or by name the one that should be."""
    for leaf in slot.leaves:
        if leaf in slot.stand_ins:
            continue
        disk = members.device_of(leaf)
        if disk is not None:
            if wanted.disk is not None and members.devices.same(disk, wanted.disk):
                return True
        elif whole(wanted.name) in {whole(name) for name in leaf.names()}:
            return True
    return False


def pair(scene: Scene, role: str, vdevs: Sequence[Vdev]) -> Pairs:
    """Return the pairs of one role: by name where most disks are the same ones, then by rule."""
    by_number = _by_name(scene, role, vdevs)
    fitting = {
        number: [at for at, vdev in enumerate(vdevs) if at not in by_number.values() and _by_rule(scene, spec, vdev)]
        for number, spec in enumerate(scene.declared.specs(role))
        if number not in by_number
    }
    by_number |= _assigned(fitting)
    found = {number: vdevs[at] for number, at in by_number.items()}
    return Pairs(found, tuple(vdev for at, vdev in enumerate(vdevs) if at not in by_number.values()))


def _by_name(scene: Scene, role: str, vdevs: Sequence[Vdev]) -> dict[int, int]:
    scores = []
    for number, spec in enumerate(scene.declared.specs(role)):
        declared = scene.declared.disks_of(f"{PATHS[role]}[{number}].disks", spec.disks)
        for at, vdev in enumerate(vdevs):
            slots = scene.members.slots(vdev)
            score = sum(any(matches(scene.members, slot, wanted) for slot in slots) for wanted in declared)
            if score:
                scores.append((-score, number, at))
    pairs: dict[int, int] = {}
    for _, number, at in sorted(scores):
        if number not in pairs and at not in pairs.values():
            pairs[number] = at
    return pairs


def _by_rule(scene: Scene, spec: VdevSpec, vdev: Vdev) -> bool:
    rule = spec.disks
    slots = scene.members.slots(vdev)
    return (
        isinstance(rule, DiskRule)
        and kind_of(vdev) == spec.kind
        and len(slots) == rule.count
        and all(scene.members.fits(slot.first, rule) for slot in slots)
    )


def _assigned(fitting: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Give as many rules as possible a vdev of their own: a wide rule leaves the one that a narrow rule needs."""
    owner: dict[int, int] = {}

    def place(number: int, tried: set[int]) -> bool:
        for at in fitting[number]:
            if at not in tried:
                tried.add(at)
                if at not in owner or place(owner[at], tried):
                    owner[at] = number
                    return True
        return False

    for number in fitting:
        place(number, set())
    return {number: at for at, number in owner.items()}
