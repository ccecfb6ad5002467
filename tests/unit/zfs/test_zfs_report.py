"""What make plan says of a pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from module_utils.zfs_pool.capacity import GIB
from module_utils.zfs_pool.declaration import DiskRule, PoolSpec, VdevSpec
from module_utils.zfs_pool.report import report, table

TB = 10**12


def names(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"/dev/disk/by-id/{prefix}{number}" for number in range(count))


CREMMA = PoolSpec(
    "tank",
    (VdevSpec("raidz2", names("a", 4), 10 * TB), VdevSpec("raidz2", names("b", 4), 10 * TB)),
    names("s", 2),
    names("c", 2),
)


def test_the_pool_of_cremma() -> None:
    assert table(CREMMA) == (
        "vdev  type    disks  size of each  parity  usable    of that in TiB  may fail\n"
        "----  ------  -----  ------------  ------  --------  --------------  --------\n"
        "0     raidz2  4      10 TB         2       19.3 TB   17.56 TiB       any 2\n"
        "1     raidz2  4      10 TB         2       19.3 TB   17.56 TiB       any 2\n"
        "all           8                            38.61 TB  35.11 TiB\n"
    )
    text = report(CREMMA, 64 * GIB, 2 * TB)
    for part in (
        "pool tank\n",
        "space: 38.61 TB (35.11 TiB)",
        "records of 1 MiB, as media are stored, 39.78 TB fit",
        "may fail: any 2 disks of each vdev",
        "spares: 2 disks",
        "cache (L2ARC): 2 disks",
        "at most 48 GiB of 64 GiB; the host serves storage only",
        "a cache of 2 TB takes 175 MiB",
    ):
        assert part in text
    assert "too much cache" not in text


def test_what_is_not_known_is_said() -> None:
    text = report(replace(CREMMA, vdevs=(CREMMA.vdevs[0], VdevSpec("raidz2", names("b", 4)))))
    assert "say the size of the disks of vdev 1" in text
    assert "AVAIL" not in text
    assert "memory" not in text
    assert "each TB of cache takes" in text


def test_disks_by_rule() -> None:
    rule = DiskRule(4, 9 * TB, controller="0000:3b:00.0", rotational=True)
    text = report(replace(CREMMA, vdevs=(VdevSpec("raidz2", rule),)))
    assert "9 TB or more" in text
    assert "space: at least 17.3 TB" in text
    assert "any 2 disks of the vdev" in text
    assert "vdev 0: 4 disks (by rule: at least 9 TB, on controller 0000:3b:00.0, turning)" in text


def test_a_pool_without_redundancy_is_named_so() -> None:
    text = report(PoolSpec("tank", (VdevSpec("disk", names("a", 1), TB),)))
    assert "There is no redundancy" in text
    assert "spares: none" in text
    assert "records of 1 MiB" not in text


@pytest.mark.parametrize(("memory", "warned"), [(256 * GIB, False), (4 * GIB, True)])
def test_a_cache_too_large_for_the_memory(memory: int, warned: bool) -> None:
    text = report(replace(CREMMA, cache=DiskRule(2, 8 * TB)), memory, shared=True)
    assert "the host has other services" in text
    assert "a cache of 16 TB" in text
    assert ("too much cache" in text) == warned


def test_log_and_special() -> None:
    text = report(replace(CREMMA, log=(VdevSpec("disk", names("l", 1)),), special=(VdevSpec("mirror", names("m", 3)),)))
    assert "log (SLOG): 1 disk" in text
    assert "without a mirror" in text
    assert "special: mirror of 3" in text
    assert "never be removed" in text
    safe = report(replace(CREMMA, log=(VdevSpec("mirror", names("l", 2)),)))
    assert "without a mirror" not in safe
