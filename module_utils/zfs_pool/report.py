"""What a declared pool becomes, for people: a table of its vdevs, how much fits, and what may fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .capacity import ASHIFT, LARGE_RECORD, RECORD, arc_max, disk_size, is_lower_bound, l2arc_headers, pool_capacity
from .declaration import DiskRule, width_of
from .sizes import format_binary, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .capacity import PoolCapacity
    from .declaration import Disks, PoolSpec, VdevSpec

_HEAD: Final = ("vdev", "type", "disks", "size of each", "parity", "usable", "of that in TiB", "may fail")
_UNKNOWN: Final = "?"
_NONE: Final = "-"
# OpenZFS recommends 3 to 9 disks, and no more than about 16.
_WIDE: Final = 16
# Above this part of the ARC, what the L2ARC needs for itself costs more than it brings.
_HEADER_PART: Final = 4
TERABYTE: Final = 10**12


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _counted(number: int, word: str = "disk") -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _size(vdev: VdevSpec) -> str:
    size = disk_size(vdev)
    if size is None:
        return _UNKNOWN
    return f"{format_size(size)} or more" if is_lower_bound(vdev) else format_size(size)


def _may_fail(vdev: VdevSpec) -> str:
    return f"any {vdev.may_fail}" if vdev.may_fail else "none"


def table(pool: PoolSpec, ashift: int = ASHIFT) -> str:
    """Return a table with a row for each data vdev and a last one with the sums.

    What a vdev adds is its share of the whole: the reserve that zfs keeps of the pool (slop) is taken off already.
    """
    capacity = pool_capacity(pool, ashift)
    total = sum(vdev.usable for vdev in capacity.vdevs) if capacity else 0
    rows: list[tuple[str, ...]] = [_HEAD]
    for position, vdev in enumerate(pool.vdevs):
        usable = tib = _UNKNOWN
        if capacity and total:
            share = capacity.usable * capacity.vdevs[position].usable // total
            usable, tib = format_size(share), format_binary(share)
        parity = str(vdev.parity) if vdev.parity else _NONE
        rows.append((str(position), vdev.kind, str(vdev.width), _size(vdev), parity, usable, tib, _may_fail(vdev)))
    sums = (format_size(capacity.usable), format_binary(capacity.usable)) if capacity else (_UNKNOWN, _UNKNOWN)
    disks = str(sum(vdev.width for vdev in pool.vdevs))
    rows.append(("all", "", disks, "", "", *sums, ""))
    return "\n".join(_aligned(rows)) + "\n"


def _space(pool: PoolSpec, capacity: PoolCapacity | None) -> Iterator[str]:
    if capacity is None:
        unknown = [str(position) for position, vdev in enumerate(pool.vdevs) if disk_size(vdev) is None]
        yield f"space: not known; say the size of the disks of vdev {', '.join(unknown)}, e.g. size: 10TB"
        return
    least = "at least " if any(map(is_lower_bound, pool.vdevs)) else ""
    yield (
        f"space: {least}{format_size(capacity.usable)} ({format_binary(capacity.usable)}), "
        "as zfs list will show it (AVAIL of the empty pool)"
    )
    if capacity.large > capacity.usable:
        yield (
            f"  of large files in records of 1 MiB, as media are stored, {least}{format_size(capacity.large)} fit: "
            "zfs shows them smaller than they are"
        )
    yield f"  with parity {format_binary(capacity.raw)}, as zpool list will show it (SIZE)"
    yield f"  keep a tenth free, {format_size(capacity.usable // 10)}: a fuller pool becomes slow"


def _failures(pool: PoolSpec) -> str:
    fails = {vdev.may_fail for vdev in pool.vdevs}
    least = min(fails, default=0)
    which = "the vdev" if len(pool.vdevs) == 1 else "each vdev"
    if not least:
        return "may fail: no disk. There is no redundancy: with any disk the whole pool is lost"
    return f"may fail: any {_counted(least)} of {which}, at the same time. One more in a vdev, and the pool is lost"


def _described(disks: Disks) -> str:
    """Return how disks are found, where a rule finds them."""
    if not isinstance(disks, DiskRule):
        return ""
    parts = [
        f"at least {format_size(disks.at_least)}" if disks.at_least else "",
        f"at most {format_size(disks.at_most)}" if disks.at_most else "",
        f"on controller {disks.controller}" if disks.controller else "",
        {True: "turning", False: "flash", None: ""}[disks.rotational],
        f"model {disks.model}" if disks.model else "",
    ]
    return f" (by rule: {', '.join(part for part in parts if part)})"


def _vdevs(vdevs: Sequence[VdevSpec]) -> str:
    return ", ".join(_counted(1) if vdev.kind == "disk" else f"mirror of {vdev.width}" for vdev in vdevs)


def _helpers(pool: PoolSpec) -> Iterator[str]:
    spares = width_of(pool.spares)
    if spares:
        yield f"spares: {_counted(spares)}{_described(pool.spares)}, for whichever disk of the pool fails first"
    else:
        yield "spares: none; a disk that fails stays missing until somebody replaces it"
    if pool.cache:
        yield f"cache (L2ARC): {_counted(width_of(pool.cache))}{_described(pool.cache)}; its loss harms nothing"
    if pool.log:
        yield f"log (SLOG): {_vdevs(pool.log)}, for synchronous writes"
        if any(not vdev.may_fail for vdev in pool.log):
            yield "  without a mirror: lost in a crash, it takes the last seconds of writes with it"
    if pool.special:
        yield f"special: {_vdevs(pool.special)}, for metadata; the pool is lost with it"
        if any(vdev.parity for vdev in pool.vdevs):
            yield "  it can never be removed from a pool of raidz"


def _rules(pool: PoolSpec) -> Iterator[str]:
    for position, vdev in enumerate(pool.vdevs):
        if isinstance(vdev.disks, DiskRule):
            yield f"vdev {position}: {_counted(vdev.width)}{_described(vdev.disks)}"
        if vdev.width > _WIDE:
            yield f"vdev {position}: {vdev.width} disks are many; repairs take long, several vdevs are faster"


def memory_lines(pool: PoolSpec, memory: int | None, cache: int | None, *, shared: bool) -> list[str]:
    """Return what the pool takes of the host's memory; ``cache`` is the size of all its cache, None if not known."""
    lines = []
    limit = None
    if memory is not None:
        limit = arc_max(memory, shared=shared)
        why = "the host has other services" if shared else "the host serves storage only"
        lines.append(f"memory: cache in memory (ARC) at most {format_binary(limit)} of {format_binary(memory)}; {why}")
    if not pool.cache:
        return lines
    size, what = (TERABYTE, "each TB of cache") if cache is None else (cache, f"a cache of {format_size(cache)}")
    small, large = l2arc_headers(size, RECORD), l2arc_headers(size, LARGE_RECORD)
    lines.append(
        f"  {what} takes {format_binary(large)} of it for its table of large files (records of 1 MiB), "
        f"{format_binary(small)} of small ones (128 KiB)"
    )
    if limit is not None and cache is not None and large > limit // _HEADER_PART:
        lines.append("  that is too much cache for this memory: take less of it, or add memory")
    return lines


def report(
    pool: PoolSpec,
    memory: int | None = None,
    cache: int | None = None,
    *,
    shared: bool = False,
    ashift: int = ASHIFT,
) -> str:
    """Return everything that ``make plan`` shows of a pool; memory and the size of its cache only where known."""
    if cache is None and isinstance(pool.cache, DiskRule) and pool.cache.at_least:
        cache = pool.cache.at_least * pool.cache.count
    lines = [
        f"pool {pool.name}",
        *table(pool, ashift).splitlines(),
        *_space(pool, pool_capacity(pool, ashift)),
        _failures(pool),
        *_rules(pool),
        *_helpers(pool),
        *memory_lines(pool, memory, cache, shared=shared),
    ]
    return "\n".join(lines) + "\n"
