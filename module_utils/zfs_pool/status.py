"""A pool as it is: ``zpool status``, ``zpool list`` and ``zpool get`` in JSON, and the text of ``zpool import``.

Vdevs are known by their guid. Names and paths change with every import; a guid stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS: Final = ("zpool", "status", "-j", "--json-int", "-P", "-p")
LIST: Final = ("zpool", "list", "-j", "--json-int", "-v", "-p")
GET: Final = ("zpool", "get", "-j", "-p", "all")
IMPORTABLE: Final = ("zpool", "import")

DATA: Final = "data"
# Names of the sections in JSON, and what they are called here.
_SECTIONS: Final = {"special": "special", "dedup": "dedup", "logs": "log", "l2cache": "cache", "spares": "spare"}
_HEALTHY: Final = frozenset({"ONLINE", "AVAIL", "INUSE"})
_PARITY: Final = re.compile(r"^(raidz[123]|draid[123]?)")
_IMPORT: Final = re.compile(r"^ *(pool|id|state|status|action|comment|see|config): ?(.*)$")


class StatusError(ValueError):
    """An answer of zpool that cannot be read."""


@dataclass(frozen=True)
class Vdev:
    """One vdev with what is below it. ``kind`` is disk, mirror, raidz1 and so on, spare, replacing or file.

    ``devid`` and ``place`` are what the pool remembers of the names by-id and by-path, without ``/dev/disk``.
    ``growth`` is how many bytes more it could use.
    """

    name: str
    kind: str
    guid: int
    state: str
    path: str = ""
    devid: str = ""
    place: str = ""
    role: str = DATA
    size: int = 0
    growth: int = 0
    children: tuple[Vdev, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether it does its work."""
        return self.state in _HEALTHY

    @property
    def usable(self) -> bool:
        """Whether it gives what it holds, with all of its disks or with some."""
        return self.state in {"ONLINE", "DEGRADED"}

    def leaves(self) -> Iterator[Vdev]:
        """Yield its disks; itself where it is one."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    def names(self) -> frozenset[str]:
        """Return the names under which the pool knows a disk."""
        found = {self.path}
        if self.devid:
            found.add(f"/dev/disk/by-id/{self.devid}")
        if self.place:
            found.add(f"/dev/disk/by-path/{self.place}")
        return frozenset(name for name in found if name)


@dataclass(frozen=True)
class PoolStatus:
    """One imported pool. ``busy`` says what a change of its vdevs would disturb, empty where nothing."""

    name: str
    guid: int
    state: str
    data: tuple[Vdev, ...] = ()
    special: tuple[Vdev, ...] = ()
    dedup: tuple[Vdev, ...] = ()
    log: tuple[Vdev, ...] = ()
    cache: tuple[Vdev, ...] = ()
    spares: tuple[Vdev, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    busy: str = ""
    errors: int = 0
    message: str = ""

    @property
    def suspended(self) -> bool:
        """Whether the pool takes no writes, not even of a property."""
        return self.state in {"SUSPENDED", "FAULTED", "UNAVAIL"}

    def vdevs(self) -> tuple[Vdev, ...]:
        """Return its vdevs of the highest level, of every role."""
        return (*self.data, *self.special, *self.dedup, *self.log, *self.cache, *self.spares)


@dataclass(frozen=True)
class Importable:
    """A pool that is on disks of this host and not imported. ``foreign`` where another system had it last."""

    name: str
    guid: int
    state: str
    foreign: bool
    message: str = ""


def _number(value: object) -> int:
    """Return a number of zpool, which writes ``-`` where it has none."""
    try:
        return int(str(value))
    except ValueError:
        return 0


def _kind(raw: Mapping[str, Any]) -> str:
    kind = str(raw.get("vdev_type", ""))
    parity = _PARITY.match(str(raw.get("name", "")))
    return parity[1] if parity and kind in {"raidz", "draid"} else kind


def _vdev(raw: Mapping[str, Any], role: str, growth: Mapping[int, int]) -> Vdev:
    guid = _number(raw.get("guid"))
    return Vdev(
        name=str(raw.get("name", "")),
        kind=_kind(raw),
        guid=guid,
        state=str(raw.get("state", "")),
        path=str(raw.get("path", "")),
        devid=str(raw.get("devid", "")),
        place=str(raw.get("phys_path", "")),
        role=role,
        size=_number(raw.get("phys_space")),
        growth=growth.get(guid, 0),
        children=tuple(_vdev(child, role, growth) for child in (raw.get("vdevs") or {}).values()),
    )


def _section(raw: object, role: str, growth: Mapping[int, int]) -> tuple[Vdev, ...]:
    """Return the vdevs of one section. Holes are left by what was removed: they are nothing."""
    if not isinstance(raw, Mapping):
        return ()
    vdevs = (_vdev(vdev, role, growth) for vdev in raw.values())
    return tuple(vdev for vdev in vdevs if vdev.kind not in {"hole", "indirect"})


_WORK: Final = {
    "scan_stats": {"RESILVER": "a resilver runs"},
    "removal_stats": {"": "a vdev is being removed"},
    "raidz_expand_stats": {"": "a raidz vdev is being widened"},
}


def _busy(raw: Mapping[str, Any]) -> str:
    for key, kinds in _WORK.items():
        stats = raw.get(key)
        if isinstance(stats, Mapping) and str(stats.get("state", "")).upper() in {"SCANNING", "ACTIVE", "IN_PROGRESS"}:
            text = kinds.get(str(stats.get("function", "")).upper()) or kinds.get("")
            if text:
                return text
    if isinstance(raw.get("checkpoint_stats"), Mapping) and raw["checkpoint_stats"].get("state") not in {None, "NONE"}:
        return "the pool has a checkpoint"
    return ""


def _document(text: str, key: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text or "{}")
    except ValueError as error:
        raise StatusError(f"zpool did not answer in JSON ({error}): {text[:200]}") from error
    found = document.get(key) if isinstance(document, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _growth(text: str) -> dict[int, int]:
    """Return from ``zpool list -v`` for each vdev by guid how many bytes it could grow."""
    found: dict[int, int] = {}

    def walk(raw: Mapping[str, Any]) -> None:
        more = raw.get("properties", {}).get("expandsize", {})
        bytes_more = _number(more.get("value") if isinstance(more, Mapping) else more)
        if bytes_more:
            found[_number(raw.get("guid"))] = bytes_more
        for child in (raw.get("vdevs") or {}).values():
            walk(child)

    for pool in _document(text, "pools").values():
        for vdev in (pool.get("vdevs") or {}).values():
            walk(vdev)
    return found


def parse_status(status: str, listing: str = "", properties: str = "") -> dict[str, PoolStatus]:
    """Return the imported pools by name from the answers of ``STATUS``, ``LIST`` and ``GET``."""
    growth = _growth(listing)
    values = _document(properties, "pools")
    pools = {}
    for name, raw in _document(status, "pools").items():
        root = (raw.get("vdevs") or {}).get(name) or {}
        pool = PoolStatus(
            name=name,
            guid=_number(raw.get("pool_guid")),
            state=str(raw.get("state", "")),
            data=_section(root.get("vdevs"), DATA, growth),
            busy=_busy(raw),
            errors=_number(raw.get("error_count")),
            message=" ".join(str(raw.get(key, "")).strip() for key in ("status", "action")).strip(),
            properties={
                str(key): str(value.get("value", ""))
                for key, value in ((values.get(name) or {}).get("properties") or {}).items()
            },
        )
        sections = {role: _section(raw.get(key), role, growth) for key, role in _SECTIONS.items()}
        pools[name] = replace(
            pool,
            special=sections["special"],
            dedup=sections["dedup"],
            log=sections["log"],
            cache=sections["cache"],
            spares=sections["spare"],
        )
    return pools


def parse_importable(text: str) -> tuple[Importable, ...]:
    """Return the pools that ``zpool import`` lists. It has no JSON; only names, ids, states and its advice are read."""
    found: list[dict[str, str]] = []
    last = ""
    for line in text.splitlines():
        match = _IMPORT.match(line)
        if match:
            last = match[1]
            if last == "pool":
                found.append({})
            if found:
                found[-1][last] = match[2].strip()
        elif found and last not in {"config", ""} and line.strip():
            found[-1][last] = f"{found[-1][last]} {line.strip()}"
    return tuple(
        Importable(
            name=pool.get("pool", ""),
            guid=_number(pool.get("id")),
            state=pool.get("state", ""),
            foreign="'-f'" in pool.get("action", "") or "another system" in pool.get("status", ""),
            message=" ".join(pool.get(key, "") for key in ("status", "action")).strip(),
        )
        for pool in found
    )
