"""How much a pool holds, against figures that others published of real pools."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils.zfs_pool.capacity import (
    GIB,
    MIB,
    allocated,
    arc_max,
    disk_size,
    l2arc_headers,
    metaslab_shift,
    pool_capacity,
    size_fits,
)
from module_utils.zfs_pool.declaration import DiskRule, PoolSpec, VdevSpec

TB = 10**12
TIB = 2**40


def pool(count: int, kind: str, width: int, size: int | None) -> PoolSpec:
    """Build a pool of vdevs that are all alike."""
    disks = [tuple(f"/dev/disk/by-id/{vdev}-{number}" for number in range(width)) for vdev in range(count)]
    return PoolSpec("tank", tuple(VdevSpec(kind, own, size) for own in disks))


@pytest.mark.parametrize(
    ("count", "kind", "width", "size", "usable"),
    [
        # CREMMA's two series of four disks, and what other sites reported of theirs.
        (2, "raidz2", 4, 10 * TB, 38.6 * TB),
        (2, "raidz2", 7, 4 * TB, 37.1 * TB),
        (2, "raidz2", 7, 3_840_000_000_000, 35.7 * TB),
        (2, "raidz2", 9, 3 * TB, 41.0 * TB),
        (2, "raidz2", 17, 18 * TB, 457 * TIB),
        (2, "raidz1", 17, 18 * TB, 523 * TIB),
        # Half of two disks, and slop.
        (1, "mirror", 2, 4 * TB, 4 * TB * 31 / 32),
        (3, "disk", 1, 4 * TB, 12 * TB - 128 * GIB),
    ],
)
def test_usable_space(count: int, kind: str, width: int, size: int, usable: float) -> None:
    found = pool_capacity(pool(count, kind, width, size))
    assert found is not None
    assert found.usable == pytest.approx(usable, rel=0.006)


@pytest.mark.parametrize(
    ("width", "shown", "large"),
    [(4, 0.485, 0.499), (5, 0.593, 0.597), (6, 0.667, 0.667), (7, 0.667, 0.711), (9, 0.762, 0.776), (12, 0.762, 0.829)],
)
def test_parity_and_padding_by_width(width: int, shown: float, large: float) -> None:
    assert 128 * 1024 / allocated(2, width, 128 * 1024) == pytest.approx(shown, abs=0.001)
    assert MIB / allocated(2, width, MIB) == pytest.approx(large, abs=0.001)


def test_large_files_take_less_than_zfs_shows() -> None:
    found = pool_capacity(pool(2, "raidz2", 7, 4 * TB))
    assert found is not None
    assert found.large == pytest.approx(39.7 * TB, rel=0.005)
    mirror = pool_capacity(pool(2, "mirror", 2, 4 * TB))
    assert mirror is not None
    assert mirror.large == pytest.approx(mirror.usable, rel=1e-6)


@pytest.mark.parametrize(
    ("asize", "shift"), [(2 * GIB, 28), (2 * GIB - MIB, 27), (16 * GIB, 29), (TIB, 33), (40 * TB, 34), (4096 * TIB, 36)]
)
def test_metaslabs_grow_with_the_vdev(asize: int, shift: int) -> None:
    assert metaslab_shift(asize) == shift


def test_the_size_of_disks_by_rule_is_a_lower_bound() -> None:
    assert disk_size(VdevSpec("mirror", DiskRule(2, 9 * TB))) == 9 * TB
    assert disk_size(VdevSpec("mirror", DiskRule(2, 9 * TB), 10 * TB)) == 10 * TB
    assert disk_size(VdevSpec("mirror", DiskRule(2, model="x"))) is None


def test_without_sizes_there_is_no_figure() -> None:
    assert pool_capacity(pool(2, "raidz2", 4, None)) is None


@settings(max_examples=200)
@given(
    st.integers(1, 20),
    st.sampled_from(["disk", "mirror", "raidz1", "raidz2", "raidz3"]),
    st.integers(5, 24),
    st.integers(64 * MIB, 40 * TB),
)
def test_never_more_than_the_disks_without_parity(count: int, kind: str, width: int, size: int) -> None:
    width = 1 if kind == "disk" else width
    declared = pool(count, kind, width, size)
    found = pool_capacity(declared)
    assert found is not None
    data = 1 if kind == "mirror" else width - declared.vdevs[0].parity
    assert 0 <= found.usable <= found.large + 1
    assert found.large <= count * data * size
    assert found.usable <= found.raw
    assert sum(vdev.raw for vdev in found.vdevs) == found.raw


def test_disks_of_one_nominal_size_differ_a_little() -> None:
    assert size_fits(10 * TB, 10_000_831_348_736)
    assert size_fits(10 * TB, 9_900_000_000_000)
    assert not size_fits(10 * TB, 9_700_000_000_000)
    # 10 TB bought, 10 TiB written.
    assert not size_fits(10 * TIB, 10 * TB)


def test_memory_of_the_cache() -> None:
    assert arc_max(64 * GIB, shared=False) == 48 * GIB
    assert arc_max(64 * GIB, shared=True) == 16 * GIB
    assert arc_max(GIB, shared=True) == 512 * MIB
    assert l2arc_headers(2 * TB, MIB) == pytest.approx(183e6, rel=0.01)
