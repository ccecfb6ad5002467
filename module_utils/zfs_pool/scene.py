"""All that a plan is made from: what is declared, what is there, and the plan so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .blanks import Blanks
from .declared import Declared
from .members import Members

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .declaration import PoolSpec
    from .devices import Devices
    from .status import PoolStatus
    from .steps import Draft

NEW_DISK: Final = "/dev/disk/by-id/NEW-DISK"


@dataclass(frozen=True)
class Scene:
    """What is declared, what is there, and the plan so far."""

    spec: PoolSpec
    devices: Devices
    members: Members
    declared: Declared
    blanks: Blanks
    draft: Draft
    ashift: int

    @staticmethod
    def of(spec: PoolSpec, devices: Devices, pools: Mapping[str, PoolStatus], draft: Draft, ashift: int = 12) -> Scene:
        """Return the scene of a declaration on a host."""
        members = Members(devices, pools)
        declared = Declared(spec, devices, draft)
        return Scene(spec, devices, members, declared, Blanks(devices, members, declared, draft), draft, ashift)

    def adding(self, layout: Iterable[str]) -> tuple[str, ...]:
        """Return the command that adds vdevs, spares or cache disks."""
        return ("zpool", "add", "-o", f"ashift={self.ashift}", self.spec.name, *layout)


def command(*words: str) -> str:
    """Return a command for a person."""
    return " ".join(("zpool", *words))


def layout(role: str, kind: str, names: Sequence[str]) -> list[str]:
    """Return a vdev as zpool takes it behind ``add``."""
    return [*([] if role == "data" else [role]), *([] if kind == "disk" else [kind]), *names]
