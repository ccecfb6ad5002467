"""What a plan consists of: steps, differences that are left to a person, refusals, and the pool as a text tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .declaration import PoolProblem
from .status import DATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .record import Record

_CLASSES: Final = ("special", "log", "cache", "spare")
_ORDER: Final = ("import", "create", "add", "add class", "remove", "set")


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
    will have for files. ``record`` is what the host has to remember from now on; None where nothing new.
    """

    steps: tuple[Step, ...] = ()
    drift: tuple[Drift, ...] = ()
    refusals: tuple[PoolProblem, ...] = ()
    before: str = ""
    after: str = ""
    expected: int = 0
    record: Record | None = None


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

    def flat(self, role: str, names: Sequence[str]) -> None:
        """Show disks that are in no vdev, where there are any."""
        if names:
            self.vdevs.append((role, "disk", tuple(names)))


class Draft:
    """A plan in the making."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.steps: list[Step] = []
        self.drift: list[Drift] = []
        self.refusals: list[PoolProblem] = []
        self.expected = 0

    def step(self, command: Iterable[str], text: str, *, topology: bool = True) -> None:
        """Note one change."""
        self.steps.append(Step(tuple(command), text, topology))

    def differs(self, found: str, wanted: str, command: str = "") -> None:
        """Note one difference that is left to a person."""
        self.drift.append(Drift(found, wanted, command))

    def refuse(self, path: str, found: str, wanted: str, mend: str) -> None:
        """Note one thing that keeps everything from being done."""
        problem = PoolProblem(path, found, wanted, mend)
        if problem not in self.refusals:
            self.refusals.append(problem)

    def sort(self) -> None:
        """Put steps into the order in which they harm least."""
        self.steps.sort(key=lambda step: _ORDER.index(_sort_key(step)))

    def plan(self, before: str) -> Plan:
        """Return the plan. With any refusal nothing at all is done."""
        if self.refusals:
            return Plan((), tuple(self.drift), tuple(self.refusals), before, before)
        return Plan(tuple(self.steps), tuple(self.drift), (), before, self.view.text(), self.expected)


def _sort_key(step: Step) -> str:
    if step.command[1] == "add":
        return "add" if not any(word in _CLASSES for word in step.command) else "add class"
    return step.command[1]
