"""Filters of the storage: what Jinja sees of the pool's logic."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from filter_plugins.storage import FilterModule

FILTERS = FilterModule().filters()
GIB = 1024**3


def test_properties_are_written_as_zfs_shows_them() -> None:
    wanted = {"recordsize": "1048576", "quota": "32985348833280", "atime": "off", "copies": "2"}
    given = {"recordsize": "1M", "quota": "30T", "refquota": "none", "atime": "off", "copies": 2}
    assert FILTERS["zfs_properties"](given) == wanted


def test_only_limits_that_are_set_are_lifted() -> None:
    datasets = [
        {"name": "media", "properties": {"quota": "none", "refquota": "none"}},
        {"name": "backups", "properties": {"quota": "1T"}},
    ]
    there = "tank/media\tquota\ntank/backups\tquota\ntank/media/own\trefquota"
    assert FILTERS["zfs_lifted"](datasets, "tank", there) == [{"dataset": "tank/media", "property": "quota"}]


def test_a_property_without_a_size_names_itself() -> None:
    with pytest.raises(AnsibleFilterError, match="quota 'much'"):
        FILTERS["zfs_properties"]({"quota": "much"})


@pytest.mark.parametrize(("shared", "wanted"), [(False, 192 * GIB), (True, 64 * GIB)])
def test_the_cache_in_memory_leaves_room_for_others(shared: bool, wanted: int) -> None:
    assert FILTERS["zfs_arc_max"](256 * GIB, shared) == wanted


def pool(**changes: Any) -> dict[str, Any]:
    disks = [[f"/dev/disk/by-id/{series}{number}" for number in range(4)] for series in "ab"]
    vdevs = [{"type": "raidz2", "size": "10TB", "disks": names} for names in disks]
    return {
        "name": "tank",
        "vdevs": vdevs,
        "spares": [],
        "cache": [],
        "log": [],
        "special": [],
        "properties": {},
        **changes,
    }


def test_the_report_shows_what_two_series_of_four_disks_hold() -> None:
    assert "38.61 TB (35.11 TiB)" in FILTERS["zfs_report"](pool())


def test_a_wrong_pool_has_no_report() -> None:
    with pytest.raises(AnsibleFilterError, match="zfs_report"):
        FILTERS["zfs_report"](pool(vdevs=[]))
