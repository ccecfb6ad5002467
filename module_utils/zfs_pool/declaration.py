"""A pool as the inventory declares it in ``zfs_vdevs`` and the variables beside it.

``parse_pool`` reads and checks it without a disk: on the control machine before anything is touched, and on the host
before anything is compared. All sizes are in bytes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeGuard

from .sizes import SizeError, format_binary, format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

# Variables of the inventory, as problems call them.
NAME: Final = "zfs_pool"
VDEVS: Final = "zfs_vdevs"
SPARES: Final = "zfs_spares"
CACHE: Final = "zfs_cache"
LOG: Final = "zfs_log"
SPECIAL: Final = "zfs_special"
PROPERTIES: Final = "zfs_pool_properties"

KINDS: Final = ("disk", "mirror", "raidz1", "raidz2", "raidz3")
# Log and special vdevs are small: a mirror serves each redundancy.
FLAT_KINDS: Final = ("disk", "mirror")
# Disks that a raidz vdev may lose, which is also how many of them hold parity.
PARITY: Final[Mapping[str, int]] = {"raidz1": 1, "raidz2": 2, "raidz3": 3}
# A disk whose size differs more than this from the declared one is another disk.
SIZE_TOLERANCE: Final = 0.02
# SPA_MINDEVSIZE of OpenZFS.
SMALLEST_DISK: Final = 64 * 1024**2
# Properties of pools that can be set, with their values; an empty tuple where any text is one.
SETTABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "autoexpand": ("on", "off"),
    "autoreplace": ("on", "off"),
    "autotrim": ("on", "off"),
    "bootfs": (),
    "cachefile": (),
    "comment": (),
    "compatibility": (),
    "dedup_table_quota": (),
    "delegation": ("on", "off"),
    "failmode": ("wait", "continue", "panic"),
    "feature@": ("enabled", "disabled"),
    "listsnapshots": ("on", "off"),
    "multihost": ("on", "off"),
}

_RULE_KEYS: Final = ("count", "at_least", "at_most", "controller", "rotational", "model")
_VDEV_KEYS: Final = ("type", "size", "disks")
_NAME_LENGTH: Final = 64
_NAME: Final = re.compile(rf"[A-Za-z][A-Za-z0-9_-]{{0,{_NAME_LENGTH - 1}}}")
_RESERVED: Final = ("mirror", "raidz", "draid", "spare")
_BY_NAME: Final = re.compile(r"/dev/disk/by-(id|path)/[^/\s]+")
_PARTITION: Final = re.compile(r"-part[0-9]+$")
_PCI: Final = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")
_MIRROR_WIDTH: Final = 2
_WIDEST: Final = 255
_SPARE_BOUND: Final = 0.85
_SHOWN_LENGTH: Final = 100


@dataclass(frozen=True)
class DiskRule:
    """Disks by rule: so many of those that fit, in the order of their names by-path.

    ``controller`` is a PCI address (``0000:3b:00.0``), empty for any. ``rotational`` and the sizes are None where they
    do not matter. ``model`` is a part of the disk's model, empty for any.
    """

    count: int
    at_least: int | None = None
    at_most: int | None = None
    controller: str = ""
    rotational: bool | None = None
    model: str = ""


Disks = tuple[str, ...] | DiskRule


def width_of(disks: Disks) -> int:
    """Return how many disks are meant."""
    return disks.count if isinstance(disks, DiskRule) else len(disks)


@dataclass(frozen=True)
class VdevSpec:
    """One vdev; ``size`` is the nominal size of each of its disks, None where it is not said."""

    kind: str
    disks: Disks
    size: int | None = None

    @property
    def width(self) -> int:
        """How many disks it has."""
        return width_of(self.disks)

    @property
    def parity(self) -> int:
        """Disks of it that hold parity: 0 for mirrors and single disks."""
        return PARITY.get(self.kind, 0)

    @property
    def may_fail(self) -> int:
        """How many of its disks may fail at once without a loss."""
        return self.width - 1 if self.kind == "mirror" else self.parity


@dataclass(frozen=True)
class PoolSpec:
    """One pool: vdevs that hold data, and the disks that serve them."""

    name: str
    vdevs: tuple[VdevSpec, ...]
    spares: Disks = ()
    cache: Disks = ()
    log: tuple[VdevSpec, ...] = ()
    special: tuple[VdevSpec, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PoolProblem:
    """One thing that is wrong: where, what was found, what is wanted, and how to mend it."""

    path: str
    found: str
    wanted: str
    mend: str


class _Unreadable(Exception):  # noqa: N818 - no error of the program: it ends the reading of one value
    """A value was refused; its problem is recorded already."""


def _shown(value: object) -> str:
    """Return a value as a message shows it: one line, short."""
    if value is None or value == "":
        return "nothing"
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _near(word: object, known: Iterable[str]) -> str:
    choices = sorted(known)
    near = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(choices)}"


class _Reader:
    """Reads the variables of one pool and collects everything that is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[PoolProblem] = []

    def problem(self, path: str, found: str, wanted: str, mend: str) -> None:
        self.problems.append(PoolProblem(path, found, wanted, mend))

    def refuse(self, path: str, value: object, wanted: str, mend: str) -> NoReturn:
        """Record a problem and end the reading of the value."""
        self.problem(path, _shown(value), wanted, mend)
        raise _Unreadable

    def keys(self, path: str, raw: Mapping[Any, Any], known: Sequence[str]) -> None:
        for key in raw:
            if key not in known:
                self.problem(path, f"the key {_shown(key)}", "only known keys", _near(key, known))

    def name(self, value: object) -> str:
        mend = "choose a plain name, e.g. tank"
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            wanted = f"a letter, then letters, digits, hyphens and underscores, at most {_NAME_LENGTH}"
            self.refuse(NAME, value, wanted, mend)
        if value == "log" or value.startswith(_RESERVED):
            wanted = f"a name that does not begin with {', '.join(_RESERVED)} and is not log: zpool keeps those"
            self.refuse(NAME, value, wanted, mend)
        return value

    def size(self, path: str, value: object) -> int:
        try:
            size = parse_size(value)
        except SizeError:
            wanted = "a size with its unit, e.g. 10TB (as disks are sold) or 512GiB"
            self.refuse(path, value, wanted, "write the size as it stands on the disk")
        if size < SMALLEST_DISK:
            wanted = f"{format_binary(SMALLEST_DISK)} or more: zfs takes no smaller disk"
            self.refuse(path, value, wanted, "correct the size, or add its unit")
        return size

    def count(self, path: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(path, value, "a whole number from 1", "say how many disks are meant, without quotes")
        return value

    def disk(self, path: str, value: object) -> str:
        name = value if isinstance(value, str) else ""
        found = _BY_NAME.fullmatch(name)
        if found is None:
            if re.fullmatch(r"(/dev/)?[a-z]+[0-9a-z]*", name):
                wanted = "a name that stays: kernel names change from one boot to the next"
            elif "/by-" in name:
                wanted = "a name in /dev/disk/by-id or /dev/disk/by-path"
            else:
                wanted = "the name of a disk in /dev/disk/by-id or /dev/disk/by-path"
            self.refuse(path, value, wanted, "look it up on the host: ls -l /dev/disk/by-id /dev/disk/by-path")
        if _PARTITION.search(name):
            self.refuse(path, value, "a whole disk: only disks that carry nothing are taken", "name it without -partN")
        return name

    def disks(self, path: str, value: object) -> Disks:
        """Return disks by name, or the rule that finds them."""
        if isinstance(value, Mapping):
            return self.rule(path, value)
        if not _is_list(value):
            wanted = "a list of disks, or a rule such as {count: 4, at_least: 9TB, rotational: true}"
            self.refuse(path, value, wanted, "write a list: one disk is a list of one")
        names = []
        for position, name in enumerate(value):
            with suppress(_Unreadable):
                names.append(self.disk(f"{path}[{position}]", name))
        if len(names) < len(value):
            raise _Unreadable
        return tuple(names)

    def rule(self, path: str, raw: Mapping[Any, Any]) -> DiskRule:
        before = len(self.problems)
        self.keys(path, raw, _RULE_KEYS)
        if not any(key in raw for key in _RULE_KEYS[1:]):
            example = "e.g. at_least: 9TB"
            self.problem(path, "nothing but a count", "what the disks have in common", f"say which disks, {example}")
        readers: dict[str, Callable[[str, object], Any]] = {
            "count": self.count,
            "at_least": self.size,
            "at_most": self.size,
            "controller": self.controller,
            "rotational": self.boolean,
            "model": self.text,
        }
        fields = {}
        for key, read in readers.items():
            if key in raw or key == "count":
                with suppress(_Unreadable):
                    fields[key] = read(f"{path}.{key}", raw.get(key))
        least, most = fields.get("at_least"), fields.get("at_most")
        if least and most and least > most:
            found = f"{format_size(most)}, below at_least"
            self.problem(f"{path}.at_most", found, f"{format_size(least)} or more", "correct one of the two")
        if len(self.problems) > before:
            raise _Unreadable
        return DiskRule(**fields)

    def controller(self, path: str, value: object) -> str:
        found = _PCI.fullmatch(value.lower()) if isinstance(value, str) else None
        if found is None:
            mend = "copy it from lspci -D, and write it in quotes: YAML takes 0000:17:00.0 without them for a number"
            self.refuse(path, value, 'a PCI address as "0000:3b:00.0"', mend)
        return f"{int(found[1] or '0', 16):04x}:{found[2]}"

    def boolean(self, path: str, value: object) -> bool:
        if not isinstance(value, bool):
            self.refuse(path, value, "true (turning disks) or false (flash)", "write true or false, without quotes")
        return value

    def text(self, path: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            self.refuse(path, value, "text", "write a part of the model as lsblk -o MODEL shows it, in quotes")
        return value.strip()

    def vdev(self, path: str, raw: object, kinds: Sequence[str]) -> VdevSpec:
        if not isinstance(raw, Mapping):
            self.refuse(path, raw, "a mapping with type and disks", "write e.g. {type: mirror, disks: [...]}")
        before = len(self.problems)
        self.keys(path, raw, _VDEV_KEYS)
        kind, disks, size = "", None, None
        if raw.get("type") in kinds:
            kind = str(raw["type"])
        else:
            word = raw.get("type")
            # What people write for the first level of parity.
            mend = "write raidz1" if word == "raidz" and "raidz1" in kinds else _near(word, kinds)
            self.problem(f"{path}.type", _shown(word), f"one of {', '.join(kinds)}", mend)
        with suppress(_Unreadable):
            disks = self.disks(f"{path}.disks", raw.get("disks"))
        if "size" in raw:
            with suppress(_Unreadable):
                size = self.size(f"{path}.size", raw["size"])
        if kind and disks is not None:
            self.width(path, kind, width_of(disks))
        if size and isinstance(disks, DiskRule):
            self.rule_fits_size(path, disks, size)
        if len(self.problems) > before or disks is None:
            raise _Unreadable
        return VdevSpec(kind, disks, size)

    def width(self, path: str, kind: str, width: int) -> None:
        """Refuse vdevs that zpool cannot make, and a raidz that would be a mirror with more work."""
        found = "1 disk" if width == 1 else f"{width} disks"
        if kind == "disk":
            if width != 1:
                mend = "write one entry for each disk; all is lost with any of them, so better a mirror or a raidz"
                self.problem(f"{path}.disks", found, "one disk for type disk", mend)
        elif kind == "mirror":
            if width < _MIRROR_WIDTH:
                self.problem(f"{path}.disks", found, "two disks or more for a mirror", "add a disk, or set type: disk")
        elif width < PARITY[kind] + 2:
            wanted = f"{PARITY[kind] + 2} disks or more for {kind}, which keeps parity of {PARITY[kind]}"
            self.problem(f"{path}.disks", found, wanted, "add disks, or take a mirror, which is as safe and faster")
        elif width > _WIDEST:
            self.problem(f"{path}.disks", found, f"{_WIDEST} disks or fewer", "make several vdevs of them")

    def rule_fits_size(self, path: str, rule: DiskRule, size: int) -> None:
        for key, bound, outside in (
            ("at_least", rule.at_least, rule.at_least and size < rule.at_least * (1 - SIZE_TOLERANCE)),
            ("at_most", rule.at_most, rule.at_most and size > rule.at_most * (1 + SIZE_TOLERANCE)),
        ):
            if bound and outside:
                wanted = f"a bound that lets disks of {format_size(size)} in, as size says"
                self.problem(f"{path}.disks.{key}", format_size(bound), wanted, f"correct {key} or size")

    def vdevs(self, path: str, raw: object, kinds: Sequence[str]) -> list[tuple[str, VdevSpec]]:
        """Return (path, vdev) of those that can be read."""
        if raw is None:
            return []
        if not _is_list(raw):
            wanted = "a list of mappings with type and disks"
            self.problem(path, _shown(raw), wanted, "write a list; leave the variable out where there is none")
            return []
        found = []
        for position, entry in enumerate(raw):
            with suppress(_Unreadable):
                found.append((f"{path}[{position}]", self.vdev(f"{path}[{position}]", entry, kinds)))
        return found

    def serving(self, path: str, raw: object) -> Disks:
        """Return spares or caches; an empty list and nothing are the same."""
        if raw is None:
            return ()
        try:
            return self.disks(path, raw)
        except _Unreadable:
            return ()

    def properties(self, raw: object) -> dict[str, str]:
        if raw is None:
            return {}
        if not isinstance(raw, Mapping):
            self.problem(PROPERTIES, _shown(raw), 'a mapping such as {autotrim: "on"}', "write a mapping")
            return {}
        found = {}
        for key, value in raw.items():
            name = str(key)
            # YAML takes on and off for booleans.
            text = ("on" if value else "off") if isinstance(value, bool) else str(value)
            choices = SETTABLE.get("feature@" if name.startswith("feature@") else name)
            path = f"{PROPERTIES}.{name}"
            if choices is None:
                self.problem(path, "an unknown property", "a property of pools that can be set", _mend_property(name))
            elif not isinstance(value, str | int) or not text or (choices and text not in choices):
                wanted = f"one of {', '.join(choices)}" if choices else "text"
                self.problem(path, _shown(value), wanted, f"correct {name}")
            else:
                found[name] = text
        return found

    def check_once(self, places: Iterable[tuple[str, Disks]]) -> None:
        """Refuse a disk that is named twice, wherever in the pool."""
        first: dict[str, str] = {}
        for path, disks in places:
            for position, name in enumerate(() if isinstance(disks, DiskRule) else disks):
                here = f"{path}[{position}]"
                owner = first.setdefault(name, here)
                if owner != here:
                    mend = f"{owner} names it already: correct one of them"
                    self.problem(here, _shown(name), "a disk of its own", mend)

    def check_redundancy(self, vdevs: Sequence[tuple[str, VdevSpec]], special: Sequence[tuple[str, VdevSpec]]) -> None:
        """Want all vdevs alike: a pool is as safe as the weakest of them, and zpool takes others by force only."""
        if not vdevs:
            return
        first_path, first = vdevs[0]
        for path, vdev in vdevs[1:]:
            if (vdev.kind, vdev.width) != (first.kind, first.width):
                wanted = f"{first.width} x {first.kind}, as {first_path}: all data vdevs of a pool are alike"
                mend = "give it the same type and number of disks, or make another pool of it"
                self.problem(path, f"{vdev.width} x {vdev.kind}", wanted, mend)
        for path, vdev in special:
            if vdev.may_fail != first.may_fail:
                disks = "a mirror of 1 disk" if vdev.kind == "disk" else f"a mirror of {vdev.width} disks"
                wanted = (
                    f"a mirror of {first.may_fail + 1} disks: the pool is lost with it, and its data vdevs "
                    f"outlive {first.may_fail} lost disks each"
                    if first.may_fail
                    else "type disk, as the data vdevs have no redundancy either"
                )
                self.problem(path, disks, wanted, "give the special vdev the redundancy of the data vdevs")

    def check_spares(self, vdevs: Sequence[tuple[str, VdevSpec]], spares: Disks) -> None:
        """Refuse spares that could stand in for no disk, or for some only."""
        if not isinstance(spares, DiskRule):
            return
        known = [vdev.size or (vdev.disks.at_least if isinstance(vdev.disks, DiskRule) else None) for _, vdev in vdevs]
        largest = max((size for size in known if size), default=0)
        for key, bound in (("at_most", spares.at_most), ("at_least", spares.at_least)):
            # Disks of one nominal size differ a little, and a bound is often written somewhat below it.
            if bound and bound < largest * _SPARE_BOUND:
                wanted = f"a bound near {format_size(largest)}, the size of the disks that they stand in for"
                self.problem(
                    f"{SPARES}.{key}", format_size(bound), wanted, f"raise {key}: a smaller spare is of no use"
                )


def _mend_property(name: str) -> str:
    if name == "ashift":
        return "it is set when the pool is made, by zfs_ashift"
    near = difflib.get_close_matches(name, SETTABLE, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "take it out; properties of file systems belong to the datasets"


def parse_pool(raw: Mapping[str, Any]) -> tuple[PoolSpec | None, tuple[PoolProblem, ...]]:
    """Return the pool and everything that is wrong with its declaration. Never raises on wrong input.

    ``raw`` has the keys ``name``, ``vdevs``, ``spares``, ``cache``, ``log``, ``special`` and ``properties``, all but
    the first two optional; problems call them by their variables. There is a pool only where there is no problem.
    """
    reader = _Reader()
    name = ""
    with suppress(_Unreadable):
        name = reader.name(raw.get("name"))
    vdevs = reader.vdevs(VDEVS, raw.get("vdevs"), KINDS)
    if raw.get("vdevs") in (None, [], ()):
        example = "{type: raidz2, size: 10TB, disks: [...]}"
        reader.problem(VDEVS, "nothing", "one vdev or more", f"name the disks of the pool, e.g. {example}")
    spares = reader.serving(SPARES, raw.get("spares"))
    cache = reader.serving(CACHE, raw.get("cache"))
    log = reader.vdevs(LOG, raw.get("log"), FLAT_KINDS)
    special = reader.vdevs(SPECIAL, raw.get("special"), FLAT_KINDS)
    properties = reader.properties(raw.get("properties"))
    places = [(f"{path}.disks", vdev.disks) for path, vdev in vdevs]
    places += [(SPARES, spares), (CACHE, cache)]
    places += [(f"{path}.disks", vdev.disks) for path, vdev in (*log, *special)]
    reader.check_once(places)
    reader.check_redundancy(vdevs, special)
    reader.check_spares(vdevs, spares)
    if reader.problems:
        return None, tuple(reader.problems)
    return (
        PoolSpec(
            name,
            tuple(vdev for _, vdev in vdevs),
            spares,
            cache,
            tuple(vdev for _, vdev in log),
            tuple(vdev for _, vdev in special),
            properties,
        ),
        (),
    )
