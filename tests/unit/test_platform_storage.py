"""Rules of preflight about storage: the pool, what belongs to it, and quotas that it can hold."""

from __future__ import annotations

from typing import Any

import pytest

from module_utils.platform_problems import UNRESOLVED, Inventory
from module_utils.platform_storage import STORAGE_RULES, rule_pools, rule_pools_have_a_use, rule_quotas, rule_replicas
from module_utils.platform_variables import Catalogue

NOTHING = Catalogue({})
SERIES = [f"/dev/disk/by-id/{letter}" for letter in "abcd"]
OTHERS = [f"/dev/disk/by-id/{letter}" for letter in "efgh"]
# 38.6 TB, which are 35.1 TiB.
POOL = {
    "zfs_pool": "tank",
    "zfs_vdevs": [
        {"type": "raidz2", "size": "10TB", "disks": SERIES},
        {"type": "raidz2", "size": "10TB", "disks": OTHERS},
    ],
}


def site(backend: Any = "zfs", **hosts: dict[str, Any]) -> Inventory:
    """Build a site of a storage host, a compute host and a replica, with variables by host."""
    groups = {"frontend": ("node",), "compute": ("node",), "storage": ("store",)}
    if "copy" in hosts:
        groups["replica"] = ("copy",)
    common = {} if backend is None else {"storage_backend": backend}
    names = ("node", "store", *(("copy",) if "copy" in hosts else ()))
    return Inventory(groups, {name: {**common, **hosts.get(name, {})} for name in names})


def found(inventory: Inventory, *rules: Any) -> list[tuple[str, str]]:
    problems = [problem for rule in rules or STORAGE_RULES for problem in rule(inventory, NOTHING)]
    return [(problem.host, problem.variable) for problem in problems]


@pytest.mark.parametrize(
    "inventory",
    [
        site(None),
        site("directory"),
        site(store=POOL),
        site(store={**POOL, "storage_transport": "preset"}),
        # Without a name the pool has the default one.
        site(store={"zfs_vdevs": POOL["zfs_vdevs"]}),
        site(store=POOL, copy={"zfs_vdevs": [{"type": "mirror", "disks": SERIES[:2]}]}),
        site(store={**POOL, "storage_quotas": {"media": "30T", "releases": "none", "backups": 4 * 2**40}}),
        # What is not known yet, or has a wrong type, is for other rules.
        site(UNRESOLVED, store=POOL),
        site(store={"zfs_vdevs": UNRESOLVED, "storage_quotas": {"media": "900T"}}),
        site(store={"zfs_vdevs": "all disks"}),
        site(store={**POOL, "storage_quotas": {"media": UNRESOLVED}}),
        site(store={**POOL, "storage_quotas": "30T"}),
        # A compute host that is the storage host as well.
        Inventory({"compute": ("one",), "storage": ("one",)}, {"one": {"storage_backend": "zfs", **POOL}}),
    ],
)
def test_sound_sites(inventory: Inventory) -> None:
    assert found(inventory) == []


def test_problems_of_a_pool_name_their_host() -> None:
    wrong = {"zfs_vdevs": [{"type": "raidz2", "disks": ["/dev/sda", *SERIES]}]}
    inventory = site(store=wrong, copy={"zfs_pool": "log", **POOL, "zfs_spares": [SERIES[0]]})
    assert found(inventory, rule_pools) == [("store", "zfs_vdevs[0].disks[0]"), ("copy", "zfs_spares[0]")]


@pytest.mark.parametrize("variables", [{}, {"zfs_vdevs": []}, {"zfs_spares": [SERIES[0]]}])
def test_zfs_needs_a_pool(variables: dict[str, Any]) -> None:
    assert found(site(store=variables)) == [("store", "zfs_vdevs")]


@pytest.mark.parametrize(
    ("ashift", "right"), [(9, True), (12, True), (16, True), (8, False), (17, False), (4096, False)]
)
def test_sizes_of_sectors(ashift: int, right: bool) -> None:
    assert found(site(store={**POOL, "zfs_ashift": ashift})) == ([] if right else [("store", "zfs_ashift")])


def test_a_quota_is_compared_with_the_sectors_that_are_declared() -> None:
    # Small sectors need less padding: 35.1 TiB become 36.1.
    quotas = {"storage_quotas": {"media": "35.5T"}}
    assert found(site(store={**POOL, **quotas, "zfs_ashift": 12})) == [("store", "storage_quotas.media")]
    assert found(site(store={**POOL, **quotas, "zfs_ashift": 9})) == []


def test_a_replica_needs_a_pool() -> None:
    assert found(site(store=POOL, copy={})) == [("copy", "zfs_vdevs")]


def test_a_replica_is_another_machine_with_zfs() -> None:
    assert found(site("directory", copy={}), rule_replicas) == [("copy", "storage_backend")]
    inventory = Inventory({"storage": ("one",), "replica": ("one",)}, {"one": {"storage_backend": "zfs", **POOL}})
    assert found(inventory) == [("inventory", "group replica")]


@pytest.mark.parametrize("backend", [None, "directory"])
def test_parts_of_a_pool_without_one(backend: str | None) -> None:
    assert found(site(backend, store=POOL)) == [("store", "zfs_pool, zfs_vdevs")]
    assert found(site(backend, store={"zfs_spares": SERIES[:1]})) == [("store", "zfs_spares")]


def test_a_pool_on_another_host() -> None:
    assert found(site(store=POOL, node=POOL), rule_pools_have_a_use) == [("node", "zfs_vdevs")]
    assert found(site("directory", node={"zfs_vdevs": []})) == []


@pytest.mark.parametrize("name", ["storage_quotas", "storage_snapshots"])
def test_what_plain_folders_cannot_do(name: str) -> None:
    value = {"media": {"hourly": 24} if name.endswith("snapshots") else "30T"}
    assert found(site("directory", store={name: value})) == [("store", name)]
    assert found(site("directory", store={name: {}})) == []


@pytest.mark.parametrize(
    ("quota", "mend"),
    [
        ("36T", "lower it"),
        ("1P", "lower it"),
        ("30TB", "zfs reads TB as TiB"),
        ("30", "the unit is missing"),
        (30, "the unit is missing"),
        ("much", "a size is a number"),
        (None, "a size is a number"),
    ],
)
def test_quotas_that_are_refused(quota: object, mend: str) -> None:
    inventory = site(store={**POOL, "storage_quotas": {"media": quota, "releases": "200G"}})
    (problem,) = rule_quotas(inventory, NOTHING)
    assert (problem.host, problem.variable) == ("store", "storage_quotas.media")
    assert mend in problem.mend


@pytest.mark.parametrize(
    "vdev",
    [
        {"type": "raidz2", "disks": SERIES},
        {"type": "raidz2", "disks": {"count": 4, "at_least": "4TB"}},
        {"type": "raidz2", "disks": SERIES, "size": "ten"},
    ],
)
def test_a_quota_is_not_compared_with_what_is_not_known(vdev: dict[str, Any]) -> None:
    quotas = {"media": "900T", "releases": "200GB"}
    assert found(site(store={"zfs_vdevs": [vdev], "storage_quotas": quotas}), rule_quotas) == [
        ("store", "storage_quotas.releases")
    ]
