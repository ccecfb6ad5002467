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
    there = (
        "tank/media\tquota\t1T\tlocal\ntank/media\trefquota\t1T\tdefault\ntank/backups\tquota\t1T\tlocal\n"
        "tank/media/own\trefquota\t1G\tlocal"
    )
    assert FILTERS["zfs_lifted"](datasets, "tank", there) == [{"dataset": "tank/media", "property": "quota"}]


def dataset(name: str, mounted: str = "yes", place: str = "/srv/media", mark: str = "-") -> str:
    values = {"mounted": mounted, "mountpoint": place, "escriptorium:restoring": mark}
    return "".join(f"{name}\t{key}\t{value}\t-\n" for key, value in values.items())


CUT_OFF = "A restore of tank/media was cut off. Repeat it, or type: restore-media tank/media 200.0"
UNMOUNTED = "tank/media is not mounted, and its files would go elsewhere. Type: zfs mount tank/media"


@pytest.mark.parametrize(
    ("shown", "problems"),
    [
        (dataset("tank"), []),
        (dataset("tank/media"), []),
        (dataset("tank/media", "no"), [UNMOUNTED]),
        (dataset("tank/media", "no", "none"), []),
        (dataset("tank/media") + dataset("tank/media-restored-S", mark="200.0 S"), []),
        (dataset("tank/media", "no") + dataset("tank/media-restored-S", mark="200.0 S"), [CUT_OFF]),
        (dataset("tank/media-before-S", "no") + dataset("tank/media-restored-S", mark="200.0 S"), [CUT_OFF]),
        (dataset("tank/media-before-S", "no") + dataset("tank/media", mark="200.0 S"), [CUT_OFF]),
        (dataset("tank/media") + dataset("tank/media-before-S", "no"), []),
    ],
)
def test_datasets_that_are_not_in_their_places_are_refused(shown: str, problems: list[str]) -> None:
    declared = [{"name": "media", "properties": {"quota": "1T"}}]
    assert FILTERS["zfs_out_of_place"](declared, "tank", shown) == problems


def test_a_dataset_that_is_meant_to_stay_unmounted_is_in_its_place() -> None:
    declared = [{"name": "media", "properties": {"canmount": "noauto"}}]
    assert FILTERS["zfs_out_of_place"](declared, "tank", dataset("tank/media", "no")) == []


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
