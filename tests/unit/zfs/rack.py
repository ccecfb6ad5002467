"""A storage host over its life: disks come, go, grow and are exchanged, the inventory changes, and runs look at it.

``Rack`` knows what really is there. It carries out what a plan says as ZFS would, and what the host remembers is what
plans told it to remember.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import TYPE_CHECKING, Any, Final

from module_utils.zfs_pool.declaration import SETTABLE
from module_utils.zfs_pool.status import Importable, PoolStatus, Vdev
from tests.unit.zfs.host import POOL, TB, Host, by_id, group, ids, spec

if TYPE_CHECKING:
    from module_utils.zfs_pool.plan import Plan
    from module_utils.zfs_pool.record import Record

LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SMALL, LARGE = 10 * TB, 20 * TB
RULES: Final[tuple[dict[str, Any], ...]] = (
    {"at_least": "9TB"},
    {"at_least": "18TB"},
    {"at_most": "11TB"},
    {"at_least": "9TB", "at_most": "11TB"},
)
Declared = tuple[str, ...] | dict[str, Any]


class Rack:
    """Each change takes a number, from which it chooses what it changes. One that makes no sense now does nothing."""

    def __init__(self, kind: str, width: int) -> None:
        self.kind, self.width = kind, width
        self._letters = iter(LETTERS)
        self.sizes: dict[str, int] = {}
        self.plugged: set[str] = set()
        self.pool: list[tuple[str, ...]] = []  # what ZFS wrote on the disks, whether it can be seen or not
        self.guid = POOL
        self.name = "tank"
        self.imported = False
        self.seen = 0  # the vdevs of the pool when a run last accepted it
        self.record: Record | None = None
        self.declared: list[Declared] = []
        for _ in range(width):
            self.plug(0)
        self.declared = [tuple(self.sizes)]
        self.added = self.made = 0

    # What is there.

    def members(self) -> set[str]:
        return {letter for vdev in self.pool for letter in vdev}

    def blanks(self) -> list[str]:
        return sorted(self.plugged - self.members())

    def up(self, vdev: tuple[str, ...]) -> bool:
        gone = len(set(vdev) - self.plugged)
        return gone < self.width if self.kind == "mirror" else gone <= 1

    def host(self) -> Host:
        host = Host("".join(sorted(self.plugged)), dict(self.sizes))
        host.labels = dict.fromkeys(self.members(), self.guid)
        host.members = {letter: ord(letter) for letter in self.members() & self.plugged}
        if not self.pool:
            return host
        whole = all(map(self.up, self.pool))
        if self.imported:
            status = PoolStatus(
                self.name,
                self.guid,
                "ONLINE" if whole else "SUSPENDED",
                data=tuple(self._vdev(host, number, vdev) for number, vdev in enumerate(self.pool)),
                properties=dict.fromkeys(SETTABLE, "-"),
            )
            host.pools = {self.name: status}
        elif self.members() & self.plugged:
            host.importable = (Importable(self.name, self.guid, "ONLINE" if whole else "UNAVAIL", foreign=False),)
        return host

    def _vdev(self, host: Host, number: int, letters: tuple[str, ...]) -> Vdev:
        leaves = [host.leaf(letter, "ONLINE" if letter in self.plugged else "REMOVED") for letter in letters]
        return group(self.kind, number, *leaves, state="ONLINE" if self.up(letters) else "UNAVAIL")

    # What people do to disks.

    def plug(self, number: int) -> None:
        """Plug a new disk in."""
        letter = next(self._letters, "")
        if letter:
            self.sizes[letter] = LARGE if number % 2 else SMALL
            self.plugged.add(letter)

    def plug_many(self, number: int) -> None:
        """Plug as many equal blanks in as a vdev has disks."""
        for _ in range(self.width):
            self.plug(number)

    def unplug_all(self, _: int) -> None:
        """Switch the enclosure of the whole pool off."""
        self.plugged -= self.members()

    def unplug_vdev(self, number: int) -> None:
        """Switch one enclosure of several off."""
        if self.pool:
            self.plugged -= set(self.pool[number % len(self.pool)])

    def unplug(self, number: int) -> None:
        """Pull one disk."""
        letters = sorted(self.plugged)
        if letters:
            self.plugged.discard(letters[number % len(letters)])

    def plug_back(self, _: int) -> None:
        """Switch everything on again."""
        self.plugged = set(self.sizes)

    def grow(self, number: int) -> None:
        """Make one disk larger, as a volume of a disk array."""
        letters = sorted(self.sizes)
        self.sizes[letters[number % len(letters)]] = LARGE

    # What people do with ZFS.

    def _exchange(self, vdev: int, slot: int) -> None:
        old = self.pool[vdev][slot]
        new = next((letter for letter in self.blanks() if self.sizes[letter] >= self.sizes[old]), "")
        if new:
            self.pool[vdev] = tuple(new if letter == old else letter for letter in self.pool[vdev])
            self.sizes.pop(old)  # it goes to the shelf
            self.plugged.discard(old)

    def replace(self, number: int) -> None:
        """Replace one disk, and leave the inventory as it is."""
        if self.imported and all(map(self.up, self.pool)):
            self._exchange(number % len(self.pool), number // 7 % self.width)

    def replace_all(self, number: int) -> None:
        """Replace all disks of a vdev, one after the other."""
        if self.imported and all(map(self.up, self.pool)):
            for slot in range(self.width):
                self._exchange(number % len(self.pool), slot)

    def export(self, _: int) -> None:
        self.imported = False

    def reboot(self, _: int) -> None:
        """Start the host: a pool that is whole is imported, another one is not."""
        self.imported = bool(self.pool) and all(map(self.up, self.pool))

    def rename(self, number: int) -> None:
        """Import the pool under another name, or under its own again."""
        if self.pool and all(map(self.up, self.pool)):
            self.name, self.imported = ("former" if number % 2 else "tank"), True

    def remove(self, number: int) -> None:
        """Take a vdev out of the pool: only mirrors can go."""
        if self.imported and self.kind == "mirror" and len(self.pool) > 1 and all(map(self.up, self.pool)):
            self.pool.pop(number % len(self.pool))

    def forget(self, _: int) -> None:
        """Confirm that the pool is gone for good."""
        self.record, self.seen = None, 0

    # What people write into the inventory.

    def declare_pool(self, _: int) -> None:
        if self.pool:
            self.declared = list(self.pool)

    def declare_more(self, _: int) -> None:
        """Declare what is there and one vdev of blanks."""
        self.declare_pool(0)
        named = {letter for vdev in self.declared if isinstance(vdev, tuple) for letter in vdev}
        blanks = [letter for letter in self.blanks() if letter not in named]
        size = next((size for size in (SMALL, LARGE) if sum(self.sizes[b] == size for b in blanks) >= self.width), 0)
        if size:
            self.declared.append(tuple([letter for letter in blanks if self.sizes[letter] == size][: self.width]))

    def declare_blanks(self, number: int) -> None:
        """Write blanks in the place of all disks of one vdev."""
        blanks = self.blanks()[: self.width]
        if len(blanks) == self.width and self.declared:
            self.declared[number % len(self.declared)] = tuple(blanks)

    def declare_rule(self, number: int) -> None:
        """Declare one vdev by rule."""
        rule = RULES[number % len(RULES)]
        self.declared[number // 5 % len(self.declared)] = {"count": self.width, **rule}

    def declare_rules(self, number: int) -> None:
        """Declare as many vdevs as there are, or one more, by rules."""
        count = len(self.pool) + number % 2
        rules = (RULES[(number // 3 + at * (number // 11)) % len(RULES)] for at in range(max(count, 1)))
        self.declared = [{"count": self.width, **rule} for rule in rules]

    # A run.

    def run(self, _: int = 0) -> Plan | None:
        """Look at the host as the module does, and carry the plan out. None where two vdevs name one disk."""
        named = [letter for vdev in self.declared if isinstance(vdev, tuple) for letter in vdev]
        if len(named) > len(set(named)):
            return None
        vdevs = [{"type": self.kind, "disks": v if isinstance(v, dict) else ids("".join(v))} for v in self.declared]
        found = self.host().plan(spec(vdevs), record=self.record)
        self.judge(found)
        self.record = found.record or self.record
        if self.imported and self.name == "tank" and not (self.seen and found.refusals):
            self.seen = len(self.pool)
        for step in found.steps:
            self._carry_out(step.command)
        if any(step.command[1] in {"create", "import", "add"} for step in found.steps):
            self.run()
        return found

    def _carry_out(self, command: tuple[str, ...]) -> None:
        letters = {by_id(letter): letter for letter in LETTERS}
        new = tuple(letters[word] for word in command if word in letters)
        chunks = [new[at : at + self.width] for at in range(0, len(new), self.width)]
        if command[1] == "import":
            self.imported = True
        elif command[1] == "add":
            self.pool += chunks
            self.added += 1
        elif command[1] == "create":
            self.guid += 1 if self.pool else 0
            self.pool, self.name, self.imported = chunks, "tank", True
            self.made += 1

    # The oracle.

    def judge(self, found: Plan) -> None:
        """Whatever happened: nothing is added or made unless every vdev of the pool as it was is there and declared."""
        words = {step.command[1] for step in found.steps}
        assert words <= {"create", "import", "add", "set"}, words
        if "create" in words:
            assert not self.seen, "this host has had a pool"
        if "add" in words:
            assert self.imported
            assert self.name == "tank"
            assert all(map(self.up, self.pool)), "a vdev is away"
            assert len(self.pool) >= self.seen, "a vdev was lost"
            assert self.all_declared(), "a vdev of the pool is not declared"

    def all_declared(self) -> bool:
        """Whether each vdev of the pool can have a declaration of its own."""
        if len(self.pool) > len(self.declared):
            return False
        chosen = permutations(self.declared, len(self.pool))
        return any(all(map(self.is_declared, self.pool, each)) for each in chosen)

    def is_declared(self, vdev: tuple[str, ...], declared: Declared) -> bool:
        if not isinstance(declared, dict):
            return bool(set(vdev) & set(declared))
        least, most = ({"9TB": 9, "18TB": 18}.get(declared.get("at_least", ""), 0), 11 if "at_most" in declared else 99)
        return all(least * TB <= self.sizes[letter] <= most * TB for letter in set(vdev) & self.plugged)


Change = Callable[[Rack, int], object]
CHANGES: Final[tuple[Change, ...]] = (
    Rack.plug_many,
    Rack.plug,
    Rack.unplug_all,
    Rack.unplug_vdev,
    Rack.unplug,
    Rack.plug_back,
    Rack.grow,
    Rack.replace,
    Rack.replace_all,
    Rack.export,
    Rack.reboot,
    Rack.rename,
    Rack.remove,
    Rack.forget,
    Rack.declare_pool,
    Rack.declare_more,
    Rack.declare_blanks,
    Rack.declare_rule,
    Rack.declare_rules,
    Rack.run,
)
