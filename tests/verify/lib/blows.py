"""What a cluster has to bear while it works: blows drawn at random from a seed, the same for the same seed.

No Ansible, no Docker: `plan` is pure, and test_soak.py strikes.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: What happens, and the bounds of the seconds that it lasts; none where it is over at once.
KINDS: Final[dict[str, tuple[float, float]]] = {
    "kill worker": (0, 0),  # SIGKILL to the main process of a unit
    "kill job": (0, 0),  # SIGKILL to what the main process has started, as for want of memory
    "restart worker": (0, 0),  # the unit is told to stop, and starts again when its job has ended
    "cut shortly": (4, 12),  # no network, for less than the lease
    "cut for long": (45, 60),  # no network, for longer than the lease
    "pause": (4, 12),  # nothing runs on the host
    "power cut": (2, 6),
    "stop redis": (0, 10),
    "kill redis": (0, 0),
    "stop postgresql": (0, 10),
    "kill postgresql": (0, 0),
    "deploy": (0, 0),  # with a setting that restarts everything; a worker is killed meanwhile
}
#: Those that concern the whole cluster and no compute host.
COMMON: Final = frozenset({"stop redis", "kill redis", "stop postgresql", "kill postgresql"})
#: Bounds of the seconds between two blows, and what each takes beside them.
REST: Final = (2.0, 8.0)
OVERHEAD: Final = 5.0
DEPLOY: Final = 60.0


@dataclass(frozen=True)
class Blow:
    """One thing that happens.

    Attributes:
        kind: one of `KINDS`.
        host: where; empty where it concerns the whole cluster.
        queue: whose worker, on that host.
        rest: seconds that are quiet before it.
        seconds: how long it lasts.

    """

    kind: str
    host: str
    queue: str
    rest: float
    seconds: float

    def __str__(self) -> str:
        where = f" of {self.queue}@{self.host}" if self.host else ""
        return f"{self.kind}{where}" + (f" for {self.seconds:.0f} s" if self.seconds else "")


def plan(seed: int, minutes: float, hosts: Sequence[str], queues: Sequence[str]) -> list[Blow]:
    """Return the blows of a soak, in their order.

    Each kind comes once before any comes again; the first round is complete however few the minutes are.

    Args:
        seed: of the random numbers.
        minutes: how long the blows and the rests between them last, about.
        hosts: compute hosts.
        queues: queues whose workers are killed.

    """
    random = Random(seed)  # noqa: S311 - to be the same again

    def rounds() -> Iterator[str]:
        while True:
            yield from random.sample(list(KINDS), len(KINDS))

    blows: list[Blow] = []
    spent = 0.0
    for kind in rounds():
        if spent >= minutes * 60 and len(blows) >= len(KINDS):
            return blows
        host, queue = random.choice(hosts), random.choice(queues)
        rest, seconds = round(random.uniform(*REST), 1), round(random.uniform(*KINDS[kind]), 1)
        blows.append(Blow(kind, "" if kind in COMMON else host, "" if kind in COMMON else queue, rest, seconds))
        spent += rest + seconds + (DEPLOY if kind == "deploy" else OVERHEAD)
    raise AssertionError("there is always one more round")
