"""What operators write in zfs_vdevs and beside it: what it becomes, and every mistake found at once."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from module_utils.zfs_pool.declaration import DiskRule, PoolProblem, PoolSpec, VdevSpec, parse_pool

BY_ID = "/dev/disk/by-id/"
T = 10**12


def names(prefix: str, count: int) -> list[str]:
    return [f"{BY_ID}{prefix}{number}" for number in range(count)]


def vdev(kind: str, prefix: str, count: int, **more: Any) -> dict[str, Any]:
    return {"type": kind, "disks": names(prefix, count), **more}


def pool(**raw: Any) -> PoolSpec:
    """Read a pool that must be right."""
    found, problems = parse_pool({"name": "tank", **raw})
    assert problems == ()
    assert found is not None
    return found


def wrong(**raw: Any) -> list[PoolProblem]:
    """Read a pool that must be refused."""
    found, problems = parse_pool({"name": "tank", **raw})
    assert found is None
    assert problems
    return list(problems)


def paths(**raw: Any) -> list[str]:
    return [problem.path for problem in wrong(**raw)]


REFERENCE = """
name: tank
vdevs:
  - {type: raidz2, size: 10TB, disks: [/dev/disk/by-id/a, /dev/disk/by-id/b, /dev/disk/by-id/c, /dev/disk/by-path/d]}
  - {type: raidz2, size: 10TB, disks: {count: 4, at_least: 9TB, controller: "0000:3B:00.0", rotational: true}}
spares: [/dev/disk/by-id/e, /dev/disk/by-id/f]
cache: {count: 2, at_least: 1TB, rotational: false, model: PM9A3}
log: [{type: mirror, disks: [/dev/disk/by-id/h, /dev/disk/by-id/i]}]
special: [{type: mirror, disks: [/dev/disk/by-id/j, /dev/disk/by-id/k, /dev/disk/by-id/l]}]
properties: {autotrim: on, failmode: wait, comment: the pool, feature@lz4_compress: enabled}
"""


def test_a_whole_pool() -> None:
    found, problems = parse_pool(yaml.safe_load(REFERENCE))
    assert problems == ()
    first = tuple(BY_ID + letter for letter in "abc")
    assert found == PoolSpec(
        "tank",
        (
            VdevSpec("raidz2", (*first, "/dev/disk/by-path/d"), 10 * T),
            VdevSpec("raidz2", DiskRule(4, 9 * T, controller="0000:3b:00.0", rotational=True), 10 * T),
        ),
        (BY_ID + "e", BY_ID + "f"),
        DiskRule(2, T, rotational=False, model="PM9A3"),
        (VdevSpec("mirror", (BY_ID + "h", BY_ID + "i")),),
        (VdevSpec("mirror", (BY_ID + "j", BY_ID + "k", BY_ID + "l")),),
        # YAML reads on as a boolean; zpool wants the word.
        {"autotrim": "on", "failmode": "wait", "comment": "the pool", "feature@lz4_compress": "enabled"},
    )
    assert [vdev.width for vdev in found.vdevs] == [4, 4]
    assert [vdev.may_fail for vdev in (*found.vdevs, *found.special)] == [2, 2, 2]


def test_empty_lists_are_nothing() -> None:
    found = pool(vdevs=[vdev("mirror", "a", 2)], spares=[], cache=None, log=[], special=None, properties={})
    assert found == PoolSpec("tank", (VdevSpec("mirror", tuple(names("a", 2))),))


@pytest.mark.parametrize("vdevs", [None, [], "zfs", {}, [[]], ["/dev/sda"]])
def test_a_pool_needs_vdevs(vdevs: object) -> None:
    assert all(path.startswith("zfs_vdevs") for path in paths(vdevs=vdevs))


@pytest.mark.parametrize("name", [None, "", 5, "-x", "1tank", "tank/a", "ta nk", "mirror", "raidz-a", "spares", "log"])
def test_names_that_zpool_refuses(name: object) -> None:
    assert paths(vdevs=[vdev("mirror", "a", 2)], name=name) == ["zfs_pool"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("/dev/sda", "kernel names change"),
        ("sdb", "kernel names change"),
        ("/dev/nvme0n1", "kernel names change"),
        ("/dev/disk/by-uuid/1-2", "by-id or /dev/disk/by-path"),
        ("/dev/disk/by-id/a/../b", "by-id or /dev/disk/by-path"),
        ("/dev/disk/by-id/a b", "by-id or /dev/disk/by-path"),
        ("/srv/disk.img", "the name of a disk"),
        ("/dev/disk/by-id/a-part1", "a whole disk"),
        ("", "the name of a disk"),
        (5, "the name of a disk"),
    ],
)
def test_names_of_disks_that_are_refused(name: object, wanted: str) -> None:
    (problem,) = wrong(vdevs=[{"type": "mirror", "disks": [BY_ID + "a", name]}])
    assert problem.path == "zfs_vdevs[0].disks[1]"
    assert wanted in problem.wanted


def test_a_disk_is_named_once_in_the_whole_pool() -> None:
    found = wrong(
        vdevs=[vdev("mirror", "a", 2), {"type": "mirror", "disks": [BY_ID + "a0", BY_ID + "x"]}],
        spares=[BY_ID + "a1"],
        cache=[BY_ID + "x"],
        log=[{"type": "disk", "disks": [BY_ID + "l"]}, {"type": "disk", "disks": [BY_ID + "l"]}],
    )
    assert [(problem.path, problem.mend.split()[0]) for problem in found] == [
        ("zfs_vdevs[1].disks[0]", "zfs_vdevs[0].disks[0]"),
        ("zfs_spares[0]", "zfs_vdevs[0].disks[1]"),
        ("zfs_cache[0]", "zfs_vdevs[1].disks[1]"),
        ("zfs_log[1].disks[0]", "zfs_log[0].disks[0]"),
    ]


@pytest.mark.parametrize(("kind", "least"), [("disk", 1), ("mirror", 2), ("raidz1", 3), ("raidz2", 4), ("raidz3", 5)])
def test_how_many_disks_a_vdev_needs(kind: str, least: int) -> None:
    assert pool(vdevs=[vdev(kind, "a", least)]).vdevs[0].width == least
    for count in range(least):
        assert paths(vdevs=[vdev(kind, "a", count)]) == ["zfs_vdevs[0].disks"]


def test_a_single_disk_vdev_has_one_disk() -> None:
    assert paths(vdevs=[vdev("disk", "a", 2)]) == ["zfs_vdevs[0].disks"]


@pytest.mark.parametrize(
    "second",
    [vdev("raidz1", "b", 4), vdev("raidz2", "b", 5), vdev("mirror", "b", 3), vdev("disk", "b", 1)],
    ids=lambda entry: f"{len(entry['disks'])} x {entry['type']}",
)
def test_all_data_vdevs_are_alike(second: dict[str, Any]) -> None:
    assert paths(vdevs=[vdev("raidz2", "a", 4), second]) == ["zfs_vdevs[1]"]


def test_data_vdevs_may_have_disks_of_other_sizes() -> None:
    assert len(pool(vdevs=[vdev("raidz2", "a", 4, size="10TB"), vdev("raidz2", "b", 4, size="20TB")]).vdevs) == 2


@pytest.mark.parametrize(
    ("data", "special", "right"),
    [
        (("raidz2", 4), ("mirror", 3), True),
        (("raidz2", 4), ("mirror", 2), False),
        (("raidz1", 3), ("mirror", 2), True),
        (("raidz1", 3), ("disk", 1), False),
        (("mirror", 2), ("mirror", 2), True),
        (("disk", 1), ("disk", 1), True),
        (("mirror", 2), ("raidz2", 4), False),
    ],
)
def test_special_vdevs_are_as_safe_as_the_data(data: tuple[str, int], special: tuple[str, int], right: bool) -> None:
    raw = {"vdevs": [vdev(data[0], "a", data[1])], "special": [vdev(special[0], "s", special[1])]}
    if right:
        assert pool(**raw).special[0].width == special[1]
    else:
        assert paths(**raw)[0].startswith("zfs_special[0]")


def test_logs_need_no_redundancy_but_are_no_raidz() -> None:
    data = [vdev("raidz2", "a", 4)]
    assert pool(vdevs=data, log=[vdev("disk", "l", 1)]).log[0].may_fail == 0
    assert paths(vdevs=data, log=[vdev("raidz1", "l", 3)]) == ["zfs_log[0].type"]


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({"count": 4}, ""),
        ({"at_least": "4TB"}, ".count"),
        ({"count": 0, "at_least": "4TB"}, ".count"),
        ({"count": "4", "at_least": "4TB"}, ".count"),
        ({"count": 4, "at_least": "much"}, ".at_least"),
        ({"count": 4, "at_least": "4TB", "at_most": "3TB"}, ".at_most"),
        ({"count": 4, "controller": "3b"}, ".controller"),
        # 0000:17:00.0 without quotes.
        ({"count": 4, "controller": 1020.0}, ".controller"),
        ({"count": 4, "rotational": "yes"}, ".rotational"),
        ({"count": 4, "model": ""}, ".model"),
        ({"count": 4, "model": "HGST", "colour": "blue"}, ""),
        ({"count": 2, "model": "HGST"}, ""),
    ],
)
def test_rules_that_are_refused(rule: dict[str, Any], path: str) -> None:
    assert paths(vdevs=[{"type": "raidz2", "disks": rule}]) == [f"zfs_vdevs[0].disks{path}"]


def test_a_short_pci_address_is_completed() -> None:
    disks = pool(vdevs=[{"type": "mirror", "disks": {"count": 2, "controller": "3b:00.0"}}]).vdevs[0].disks
    assert disks == DiskRule(2, controller="0000:3b:00.0")


@pytest.mark.parametrize(("key", "bound"), [("at_least", "12TB"), ("at_most", "8TB")])
def test_a_rule_that_shuts_out_the_declared_size(key: str, bound: str) -> None:
    disks = {"count": 2, key: bound}
    assert paths(vdevs=[{"type": "mirror", "size": "10TB", "disks": disks}]) == [f"zfs_vdevs[0].disks.{key}"]


@pytest.mark.parametrize("size", ["10", 10, "10MB", "10 apples", None, 1.5])
def test_sizes_that_are_refused(size: object) -> None:
    assert paths(vdevs=[vdev("mirror", "a", 2, size=size)]) == ["zfs_vdevs[0].size"]


def test_spares_that_are_too_small() -> None:
    data = [vdev("raidz2", "a", 4, size="10TB")]
    assert pool(vdevs=data, spares={"count": 1, "at_least": "9TB"}).spares == DiskRule(1, 9 * T)
    assert paths(vdevs=data, spares={"count": 1, "at_most": "8TB"}) == ["zfs_spares.at_most"]
    assert paths(vdevs=data, spares={"count": 1, "at_least": "4TB"}) == ["zfs_spares.at_least"]
    by_rule = [{"type": "mirror", "disks": {"count": 2, "at_least": "9TB"}}]
    assert paths(vdevs=by_rule, spares={"count": 1, "at_least": "4TB"}) == ["zfs_spares.at_least"]
    assert pool(vdevs=[vdev("raidz2", "a", 4)], spares={"count": 1, "at_least": "4TB"})


@pytest.mark.parametrize(
    ("properties", "path", "mend"),
    [
        ({"autotrm": "on"}, ".autotrm", "autotrim"),
        ({"autotrim": "yes"}, ".autotrim", ""),
        ({"failmode": "reboot"}, ".failmode", ""),
        ({"ashift": 12}, ".ashift", "zfs_ashift"),
        ({"compression": "lz4"}, ".compression", "datasets"),
        ({"comment": ["a"]}, ".comment", ""),
        (["autotrim"], "", ""),
    ],
)
def test_properties_that_are_refused(properties: object, path: str, mend: str) -> None:
    (problem,) = wrong(vdevs=[vdev("mirror", "a", 2)], properties=properties)
    assert problem.path == f"zfs_pool_properties{path}"
    assert mend in problem.mend


@pytest.mark.parametrize(
    ("entry", "path", "mend"),
    [
        ({"type": "raidz", "disks": names("a", 4)}, "zfs_vdevs[0].type", "raidz1"),
        ({"type": "miror", "disks": names("a", 2)}, "zfs_vdevs[0].type", "mirror"),
        ({"disks": names("a", 2)}, "zfs_vdevs[0].type", "there are"),
        ({"type": "mirror", "devices": names("a", 2)}, "zfs_vdevs[0]", "there are: disks"),
        ({"type": "mirror", "disks": BY_ID + "a"}, "zfs_vdevs[0].disks", "list"),
    ],
)
def test_keys_and_words_that_are_misspelt(entry: dict[str, Any], path: str, mend: str) -> None:
    first = wrong(vdevs=[entry])[0]
    assert first.path == path
    assert mend in first.mend


def test_all_mistakes_are_found_at_once() -> None:
    found = paths(
        name="log",
        vdevs=[{"type": "raidz", "disks": ["sda", "sdb"]}, vdev("raidz2", "b", 3), vdev("mirror", "c", 2)],
        spares=["/dev/sdc"],
        log=[{"type": "mirror", "disks": []}],
        properties={"autotrim": "maybe"},
    )
    assert found == [
        "zfs_pool",
        "zfs_vdevs[0].type",
        "zfs_vdevs[0].disks[0]",
        "zfs_vdevs[0].disks[1]",
        "zfs_vdevs[1].disks",
        "zfs_spares[0]",
        "zfs_log[0].disks",
        "zfs_pool_properties.autotrim",
    ]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats() | st.text(max_size=8) | st.just(BY_ID + "a"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "disks", "size", "count", "at_least", "model", "autotrim", 7]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["name", "vdevs", "spares", "cache", "log", "special", "properties"]), ANYTHING, max_size=7
    )
)
def test_nothing_that_is_written_makes_it_fail(raw: dict[str, Any]) -> None:
    found, problems = parse_pool(raw)
    assert (found is None) == bool(problems)
    for problem in problems:
        assert problem.path.startswith("zfs_")
        assert all((problem.found, problem.wanted, problem.mend))
        assert "\n" not in problem.found
