"""How much a pool holds, computed before it exists, as OpenZFS itself counts.

Follows vdev_raidz.c, vdev.c and spa_misc.c of OpenZFS 2.3: room for labels, metaslabs, parity and padding, slop space.
Within 1 % of what ``zfs list`` shows as available on the new pool. All sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .declaration import SIZE_TOLERANCE, DiskRule

if TYPE_CHECKING:
    from .declaration import PoolSpec, VdevSpec

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3

ASHIFT: Final = 12
# Record of new datasets, and the block on which zfs bases what it shows as space.
RECORD: Final = 128 * KIB
LARGE_RECORD: Final = MIB

# On Linux a whole disk gets a partition that starts at 1 MiB, and one of 8 MiB behind it.
_PARTITIONS: Final = 9 * MIB
_ALIGNMENT: Final = 256 * KIB
# Two labels and the boot block in front, two labels behind.
_LABELS: Final = 4 * MIB + 512 * KIB
_MINIMUM_BLOCK: Final = 512

# zfs_vdev_default_ms_shift, zfs_vdev_max_ms_shift, SPA_MAXBLOCKSHIFT, then zfs_vdev_{min,default}_ms_count and
# zfs_vdev_ms_count_limit
_SHIFT_DEFAULT: Final = 29
_SHIFT_MOST: Final = 34
_SHIFT_LEAST: Final = 24
_COUNT_LEAST: Final = 16
_COUNT_DEFAULT: Final = 200
_COUNT_MOST: Final = 131072
# zfs_embedded_slog_min_ms: from so many metaslabs on, one of them is kept for the log of synchronous writes.
_COUNT_WITH_LOG: Final = 64

# spa_slop_shift, spa_max_slop, spa_min_slop
_SLOP_SHIFT: Final = 5
_SLOP_MOST: Final = 128 * GIB
_SLOP_LEAST: Final = 128 * MIB

_ARC_LEAST: Final = 512 * MIB
# HDR_L2ONLY_SIZE: what the ARC keeps in memory for each record in the L2ARC.
_L2ARC_HEADER: Final = 96


@dataclass(frozen=True)
class VdevCapacity:
    """What one data vdev adds: ``raw`` with parity, ``usable`` without it, before the slop of the pool."""

    raw: int
    usable: int


@dataclass(frozen=True)
class PoolCapacity:
    """What a pool holds.

    ``raw`` is what ``zpool list`` shows as SIZE, ``usable`` what ``zfs list`` shows as AVAIL, ``large`` how much of
    files in records of 1 MiB fits: more on a raidz, as zfs counts its padding by records of 128 KiB.
    """

    vdevs: tuple[VdevCapacity, ...]
    raw: int
    usable: int
    large: int


def allocated(parity: int, width: int, block: int, ashift: int = ASHIFT) -> int:
    """Return what a block takes on a vdev: with parity and padding on a raidz, once on a mirror."""
    sectors = -(-block >> ashift)
    if parity:
        sectors += parity * -(-sectors // (width - parity))
        sectors = -(-sectors // (parity + 1)) * (parity + 1)
    return sectors << ashift


def _deflate(vdev: VdevSpec, ashift: int) -> int:
    """Return how many bytes zfs counts for 512 bytes of a vdev; a whole number, as in zfs."""
    return RECORD // (allocated(vdev.parity, vdev.width, RECORD, ashift) // _MINIMUM_BLOCK)


def metaslab_shift(asize: int) -> int:
    """Return the power of two that is the size of a vdev's metaslabs."""
    count = asize >> _SHIFT_DEFAULT
    if count < _COUNT_LEAST:
        shift = (asize // _COUNT_LEAST).bit_length()
    elif count > _COUNT_DEFAULT:
        shift = (asize // _COUNT_DEFAULT).bit_length()
    else:
        shift = _SHIFT_DEFAULT
    if shift <= _SHIFT_MOST:
        return max(shift, _SHIFT_LEAST)
    return _SHIFT_MOST if asize >> _SHIFT_MOST <= _COUNT_MOST else (asize // _COUNT_MOST).bit_length()


def _disk_space(size: int) -> int:
    """Return what zfs makes of a whole disk."""
    return max((size - _PARTITIONS) // _ALIGNMENT * _ALIGNMENT - _LABELS, 0)


def disk_size(vdev: VdevSpec) -> int | None:
    """Return the size of each disk as far as the declaration says: a lower bound counts, None where nothing is said."""
    if vdev.size is not None:
        return vdev.size
    return vdev.disks.at_least if isinstance(vdev.disks, DiskRule) else None


def is_lower_bound(vdev: VdevSpec) -> bool:
    """Return True where a vdev is computed from the smallest disks that its rule takes."""
    return vdev.size is None and disk_size(vdev) is not None


def pool_capacity(pool: PoolSpec, ashift: int = ASHIFT) -> PoolCapacity | None:
    """Return what a pool will hold, or ``None`` where the size of some disks is not declared."""
    vdevs: list[VdevCapacity] = []
    raw = normal = log = 0
    large = 0.0
    for vdev in pool.vdevs:
        size = disk_size(vdev)
        if size is None:
            return None
        asize = _disk_space(size) * (vdev.width if vdev.parity else 1)
        shift = metaslab_shift(asize)
        metaslabs = asize >> shift
        ratio = _deflate(vdev, ashift)
        space = (metaslabs << shift) // _MINIMUM_BLOCK * ratio
        kept = (1 << shift) // _MINIMUM_BLOCK * ratio if metaslabs >= _COUNT_WITH_LOG else 0
        vdevs.append(VdevCapacity(metaslabs << shift, space))
        raw += metaslabs << shift
        normal += space - kept
        log += kept
        counted = allocated(vdev.parity, vdev.width, LARGE_RECORD, ashift) // _MINIMUM_BLOCK * ratio
        large += space * LARGE_RECORD / counted
    slop = min(normal >> _SLOP_SHIFT, _SLOP_MOST)
    slop -= min(log, slop >> 1)
    slop = max(slop, min(normal >> 1, _SLOP_LEAST))
    usable = normal - slop
    total = normal + log
    return PoolCapacity(tuple(vdevs), raw, usable, int(large * usable / total) if total else 0)


def size_fits(wanted: int, found: int) -> bool:
    """Return True where a disk has its declared size; disks of one nominal size differ a little."""
    return abs(found - wanted) <= wanted * SIZE_TOLERANCE


def arc_max(memory: int, *, shared: bool) -> int:
    """Return how much memory the ARC may take: most of a storage host's own, a quarter where services share it."""
    return max(memory // 4 if shared else memory * 3 // 4, _ARC_LEAST)


def l2arc_headers(cache: int, record: int = RECORD) -> int:
    """Return how much of the ARC a full L2ARC of this size takes for itself."""
    return cache // record * _L2ARC_HEADER
