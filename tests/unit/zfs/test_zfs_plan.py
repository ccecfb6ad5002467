"""What happens to a pool: creation, growth, changes, what is left to a person, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from module_utils.zfs_pool.devices import Signature
from module_utils.zfs_pool.status import Importable, PoolStatus
from tests.unit.zfs.host import POOL, TB, Host, by_id, by_path, commands, group, ids, kernel, spec

if TYPE_CHECKING:
    from module_utils.zfs_pool.plan import Plan
    from module_utils.zfs_pool.status import Vdev

FORBIDDEN = {"-f", "-F", "destroy", "labelclear", "offline", "detach", "replace", "attach", "online", "clear"}


@pytest.fixture
def host() -> Host:
    return Host()


def made(host: Host, **others: Any) -> PoolStatus:
    """A pool of one raidz2 on a, b, c and d, imported; more of it by keyword."""
    if "data" not in others:
        others["data"] = (group("raidz2", 0, *map(host.leaf, "abcd")),)
    values: dict[str, Any] = {
        "name": "tank",
        "guid": POOL,
        "state": "ONLINE",
        "properties": {"autotrim": "off", "comment": "-", "feature@async_destroy": "active"},
    }
    pool = PoolStatus(**{**values, **others})
    host.pools = {"tank": pool}
    return pool


def refused(found: Plan) -> dict[str, tuple[str, str]]:
    """Where something was refused: what was found, and how to mend it."""
    assert not found.steps, "with a refusal nothing is done"
    return {problem.path: (problem.found, problem.mend) for problem in found.refusals}


def safe(found: Plan) -> None:
    for step in found.steps:
        assert not FORBIDDEN & set(step.command), step.command


# Creation.


def test_create_everything_at_once(host: Host) -> None:
    host.letters = "abcdefghijklmnop"
    wanted = spec(
        [("raidz2", "abcd"), ("raidz2", "efgh")],
        spares=ids("ij"),
        cache=ids("k"),
        log=[{"type": "mirror", "disks": ids("lm")}],
        special=[{"type": "mirror", "disks": ids("nop")}],
        properties={"autotrim": "on"},
    )
    found = host.plan(wanted, filesystem_properties={"compression": "lz4", "mountpoint": "none"})
    (command,) = commands(found)
    assert command == (
        "zpool create -o ashift=12 -o autotrim=on -O compression=lz4 -O mountpoint=none tank "
        f"raidz2 {' '.join(ids('abcd'))} raidz2 {' '.join(ids('efgh'))} special mirror {' '.join(ids('nop'))} "
        f"log mirror {' '.join(ids('lm'))} cache {by_id('k')} spare {by_id('i')} {by_id('j')}"
    )
    safe(found)
    assert found.before == ""
    assert found.after.splitlines()[:6] == [
        "pool tank",
        "  raidz2",
        "    scsi-a",
        "    scsi-b",
        "    scsi-c",
        "    scsi-d",
    ]
    # 2 x raidz2 of four 10 TB disks, as the reference site has them.
    assert found.expected / TB == pytest.approx(38.6, abs=0.05)


def test_create_with_several_logs_says_log_once(host: Host) -> None:
    wanted = spec([("mirror", "ab")], log=[{"type": "disk", "disks": ids("c")}, {"type": "mirror", "disks": ids("de")}])
    assert commands(host.plan(wanted)) == [
        f"zpool create -o ashift=12 tank mirror {' '.join(ids('ab'))} log {by_id('c')} mirror {' '.join(ids('de'))}"
    ]


def test_create_by_rule_takes_empty_disks_by_place(host: Host) -> None:
    host.carried["b"] = (Signature("ext4"),)
    rule = {"count": 4, "at_least": "9TB", "controller": "0000:3b:00.0", "rotational": True}
    found = host.plan(spec([{"type": "raidz2", "disks": rule}], spares={"count": 1, "at_least": "9TB"}))
    assert commands(found) == [f"zpool create -o ashift=12 tank raidz2 {' '.join(ids('acde'))} spare {by_id('f')}"]


def test_a_rule_leaves_named_disks_alone(host: Host) -> None:
    wanted = spec([{"type": "mirror", "disks": {"count": 2, "rotational": True}}], spares=ids("ab"))
    assert commands(host.plan(wanted)) == [
        f"zpool create -o ashift=12 tank mirror {' '.join(ids('cd'))} spare {' '.join(ids('ab'))}"
    ]


def test_a_rule_with_too_few_empty_disks(host: Host) -> None:
    host.carried["b"] = (Signature("ext4", "home"),)
    found, mend = refused(host.plan(spec([{"type": "raidz3", "disks": {"count": 8, "model": "x"}}])))[
        "zfs_vdevs[0].disks"
    ]
    assert found == f"7 empty disks that fit the rule; {by_id('b')} carries ext4 home"
    assert "widen the rule" in mend


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ((Signature("partition table gpt"),), "partition table gpt"),
        ((Signature("zfs_member", "other", "77", "78"),), "label of the ZFS pool other (77)"),
        ((Signature("zfs_member", "tank", "77", "78"),), "label of the ZFS pool tank (77)"),
        ((Signature("LVM2_member"),), "LVM2_member"),
        ((Signature("linux_raid_member", "md0"),), "linux_raid_member md0"),
        ((Signature("several filesystems or labels at once"),), "several filesystems or labels at once"),
    ],
)
def test_a_disk_that_carries_anything_is_refused(host: Host, content: tuple[Signature, ...], said: str) -> None:
    host.carried["c"] = content
    found, mend = refused(host.plan(spec([("raidz2", "abcd")])))["zfs_vdevs[0].disks[2]"]
    assert found == f"{by_id('c')} carries {said}"
    assert mend.endswith(f"wipefs --all {by_id('c')}")


def test_a_disk_in_use_is_refused_without_a_way_to_wipe_it(host: Host) -> None:
    host.uses["a"] = ("mounted on /",)
    host.busy.add(kernel("b"))
    host.carried["c"] = (Signature("ext4"),)
    host.uses["c"] = ("used as swap",)
    problems = refused(host.plan(spec([("raidz2", "abcd")])))
    assert [problems[f"zfs_vdevs[0].disks[{at}]"][0].partition(" carries ")[2] for at in (0, 1, 2)] == [
        "mounted on /",
        "held by the kernel for something else",
        "used as swap, ext4",
    ]
    assert not any("wipefs" in mend for _, mend in problems.values())


def test_everything_wrong_is_said_at_once(host: Host) -> None:
    host.carried["a"] = (Signature("ext4"),)
    host.sizes["d"] = 4 * TB
    wanted = spec(
        [
            {"type": "raidz2", "size": "10TB", "disks": [by_id("a"), "/dev/disk/by-id/gone", by_id("c"), by_id("d")]},
            {"type": "raidz2", "disks": [by_id("e"), by_path("e"), by_id("f"), by_id("g")]},
        ]
    )
    assert {path: found for path, (found, _) in refused(host.plan(wanted)).items()} == {
        "zfs_vdevs[0].disks[0]": f"{by_id('a')} carries ext4",
        "zfs_vdevs[0].disks[1]": "no device /dev/disk/by-id/gone on this host",
        "zfs_vdevs[0].disks": f"{by_id('d')} has 4 TB, {by_id('c')} has 10 TB",
        "zfs_vdevs[0].size": f"{by_id('d')} has 4 TB",
        "zfs_vdevs[1].disks[1]": f"{by_path('e')}, which is {kernel('e')}",
    }


def test_sizes_may_differ_a_little(host: Host) -> None:
    host.sizes = dict.fromkeys("abcd", 10_100_000_000_000)
    vdev = {"type": "raidz2", "size": "10TB", "disks": ids("abcd")}
    assert host.plan(spec([vdev])).steps
    host.sizes = dict.fromkeys("abcd", 10_300_000_000_000)
    assert "zfs_vdevs[0].size" in refused(host.plan(spec([vdev])))


def test_a_spare_must_be_of_use(host: Host) -> None:
    host.sizes["e"] = 9 * TB
    found, _ = refused(host.plan(spec([("raidz2", "abcd")], spares=ids("e"))))["zfs_spares[0]"]
    assert found.startswith(f"{by_id('e')} has 9 TB")


# A pool that is there.


def test_nothing_to_do(host: Host) -> None:
    made(host)
    found = host.plan(spec([("raidz2", "abcd")]))
    assert (found.steps, found.drift, found.refusals) == ((), (), ())
    assert found.before == found.after


@pytest.mark.parametrize("order", ["abcd", "dcba"])
def test_other_names_of_the_same_disks(host: Host, order: str) -> None:
    made(host)
    found = host.plan(spec([{"type": "raidz2", "disks": [by_path(letter) for letter in order]}]))
    assert (found.steps, found.drift, found.refusals) == ((), (), ())


def test_a_pool_imported_by_kernel_names(host: Host) -> None:
    leaves = [host.leaf(letter, path=f"{kernel(letter)}1", devid="", place="") for letter in "abcd"]
    made(host, data=(group("raidz2", 0, *leaves),))
    found = host.plan(spec([("raidz2", "abcd")]))
    assert (found.steps, found.drift, found.refusals) == ((), (), ())


def test_a_rule_that_the_pool_meets_already(host: Host) -> None:
    made(host, spares=(host.leaf("e", "AVAIL", "spare"),))
    rule = {"count": 4, "at_least": "9TB"}
    found = host.plan(spec([{"type": "raidz2", "disks": rule}], spares={"count": 1, "at_least": "9TB"}))
    assert (found.steps, found.drift, found.refusals) == ((), (), ())
    # A second vdev by the same rule takes new disks.
    host.letters = "abcdefghij"
    both = spec(
        [{"type": "raidz2", "disks": rule}, {"type": "raidz2", "disks": rule}], spares={"count": 1, "at_least": "9TB"}
    )
    assert commands(host.plan(both)) == [f"zpool add -o ashift=12 tank raidz2 {' '.join(ids('fghi'))}"]


def test_growth_and_changes_in_order(host: Host) -> None:
    host.letters = "abcdefghijklm"
    made(
        host,
        spares=(host.leaf("i", "AVAIL", "spare"),),
        cache=(host.leaf("j", role="cache"),),
        log=(host.leaf("k", role="log"),),
    )
    wanted = spec(
        [("raidz2", "abcd"), ("raidz2", "efgh")],
        spares=ids("l"),
        cache=ids("m"),
        properties={"autotrim": "on", "comment": "media"},
    )
    found = host.plan(wanted)
    assert commands(found) == [
        f"zpool add -o ashift=12 tank raidz2 {' '.join(ids('efgh'))}",
        f"zpool add -o ashift=12 tank cache {by_id('m')}",
        f"zpool add -o ashift=12 tank spare {by_id('l')}",
        f"zpool remove tank {ord('k')}",
        f"zpool remove tank {ord('j')}",
        f"zpool remove tank {ord('i')}",
        "zpool set autotrim=on tank",
        "zpool set comment=media tank",
    ]
    safe(found)
    assert "  spare\n    scsi-i\n" in found.before
    assert "  raidz2\n    scsi-e\n" in found.after
    assert "  spare\n    scsi-l\n" in found.after
    assert "    autotrim=on\n" in found.after
    assert "scsi-k" not in found.after


def test_a_log_mirror_comes_and_goes(host: Host) -> None:
    log = group("mirror", 3, host.leaf("e", role="log"), host.leaf("f", role="log"), role="log")
    made(host, log=(log,))
    assert commands(host.plan(spec([("raidz2", "abcd")]))) == ["zpool remove tank 1003"]
    wanted = spec([("raidz2", "abcd")], log=[{"type": "mirror", "disks": ids("fe")}])
    assert not host.plan(wanted).steps
    made(host)
    host.members = {letter: ord(letter) for letter in "abcd"}
    assert commands(host.plan(wanted)) == [f"zpool add -o ashift=12 tank log mirror {by_id('f')} {by_id('e')}"]


@pytest.mark.parametrize(
    "vdev", [("mirror", "ef"), ("raidz1", "efg"), ("raidz3", "efghi"), ("raidz2", "efghi"), ("disk", "e")]
)
def test_a_vdev_of_another_redundancy_is_refused(host: Host, vdev: tuple[str, str]) -> None:
    host.letters = "abcdefghi"
    made(host)
    wanted = spec([("raidz2", "abcd")])
    other = spec([vdev]).vdevs[0]
    found, _ = refused(host.plan(type(wanted)(wanted.name, (*wanted.vdevs, other))))["zfs_vdevs[1]"]
    assert found == f"a new {vdev[0]} of {len(vdev[1])} disks"


def test_a_declared_redundancy_that_the_pool_has_not(host: Host) -> None:
    made(host)
    found, mend = refused(host.plan(spec([("raidz1", "abcd")])))["zfs_vdevs[0].type"]
    assert found == "raidz1, while raidz2-0 of the pool tank is raidz2"
    assert "cannot change" in mend


def test_disks_of_a_pool_are_not_taken_again(host: Host) -> None:
    made(host, cache=(host.leaf("e", role="cache"),))
    other = PoolStatus("other", 77, "ONLINE", data=(host.leaf("f"),))
    host.pools["other"] = other
    problems = refused(host.plan(spec([("raidz2", "abcd")], spares=ids("ef"))))
    assert problems["zfs_spares[0]"] == (
        f"{by_id('e')} is part of its cache of the pool tank",
        f"take it out of the cache first: run once without it, then wipefs --all {by_id('e')}-part1 {by_id('e')}",
    )
    assert problems["zfs_spares[1]"][0] == f"{by_id('f')} is a data disk of the pool other"


def test_vdevs_that_are_not_declared_stay(host: Host) -> None:
    made(
        host,
        data=tuple(
            group("raidz2", number, *map(host.leaf, letters)) for number, letters in enumerate(("abcd", "efgh"))
        ),
    )
    found = host.plan(spec([("raidz2", "abcd")]))
    assert not found.steps
    (drift,) = found.drift
    assert drift.found.startswith("the vdev raidz2-1 (")
    assert drift.command == ""
    mirrors = tuple(group("mirror", number, *map(host.leaf, letters)) for number, letters in enumerate(("ab", "cd")))
    made(host, data=mirrors)
    (drift,) = host.plan(spec([("mirror", "ab")])).drift
    assert drift.command == "zpool remove tank 1001"


# Disks that fail.


def failing(host: Host, state: str, *, gone: bool, **others: Any) -> PoolStatus:
    leaves: list[Vdev] = [host.leaf(letter, state if letter == "b" else "ONLINE") for letter in "abcd"]
    pool = made(host, state="DEGRADED", data=(group("raidz2", 0, *leaves, state="DEGRADED"),), **others)
    if gone:
        host.pull("b")
    return pool


def test_a_disk_that_was_pulled(host: Host) -> None:
    failing(host, "REMOVED", gone=True)
    found = host.plan(spec([("raidz2", "abcd")], properties={"autotrim": "on"}))
    assert commands(found) == ["zpool set autotrim=on tank"]
    (drift,) = found.drift
    assert drift.found == f"{by_id('b')} (guid 98) REMOVED"
    assert drift.command == "zpool replace tank 98 /dev/disk/by-id/NEW-DISK"


@pytest.mark.parametrize(
    ("state", "command"),
    [("REMOVED", "zpool online tank 98"), ("OFFLINE", "zpool online tank 98"), ("FAULTED", "zpool clear tank 98")],
)
def test_a_disk_that_is_there_and_does_not_work(host: Host, state: str, command: str) -> None:
    failing(host, state, gone=False)
    (drift,) = host.plan(spec([("raidz2", "abcd")])).drift
    assert drift.command == command


@pytest.mark.parametrize("state", ["FAULTED", "UNAVAIL", "ONLINE"])
def test_a_replacement_in_the_inventory(host: Host, state: str) -> None:
    failing(host, state, gone=state == "UNAVAIL")
    found = host.plan(spec([("raidz2", "aecd")]))
    assert not found.steps
    (drift,) = found.drift
    assert drift.wanted == f"{by_id('e')} in its place"
    assert drift.command == f"zpool replace tank 98 {by_id('e')}"


def test_two_new_names_take_the_place_of_the_dead_disk_first(host: Host) -> None:
    failing(host, "FAULTED", gone=False)
    found = host.plan(spec([("raidz2", "efcd")]))
    assert [drift.command for drift in found.drift] == [
        f"zpool replace tank 98 {by_id('e')}",
        f"zpool replace tank 97 {by_id('f')}",
    ]


def test_a_replacement_must_be_an_empty_disk_that_is_large_enough(host: Host) -> None:
    failing(host, "FAULTED", gone=False)
    host.carried["e"] = (Signature("ext4"),)
    host.sizes["f"] = 9 * TB
    assert "zfs_vdevs[0].disks[1]" in refused(host.plan(spec([("raidz2", "aecd")])))
    assert "at least" in host.plan(spec([("raidz2", "afcd")])).refusals[0].wanted
    assert "no device" in host.plan(spec([("raidz2", "azcd")])).refusals[0].found


def test_a_new_disk_in_the_same_slot(host: Host) -> None:
    """The name by path is the same, the disk is another one."""
    leaves = [
        host.leaf(letter, "UNAVAIL" if letter == "b" else "ONLINE", path=f"{by_path(letter)}-part1", devid="")
        for letter in "abcd"
    ]
    made(host, state="DEGRADED", data=(group("raidz2", 0, *leaves),))
    host.members["b"] = 999
    host.carried.clear()
    found = host.plan(spec([{"type": "raidz2", "disks": [by_path(letter) for letter in "abcd"]}]))
    assert [drift.command for drift in found.drift] == [f"zpool replace tank 98 {by_path('b')}"]


def test_a_disk_that_came_back_under_another_name(host: Host) -> None:
    leaves = [
        host.leaf(letter, path="/dev/sdz1" if letter == "b" else f"{kernel(letter)}1", devid="", place="")
        for letter in "abcd"
    ]
    made(host, data=(group("raidz2", 0, *leaves),))
    found = host.plan(spec([("raidz2", "abcd")]))
    assert (found.steps, found.drift, found.refusals) == ((), (), ())


def with_spare(host: Host, state: str = "REMOVED") -> None:
    """The spare e stands in for b."""
    stand_in = group("spare", 1, host.leaf("b", state), host.leaf("e"))
    leaves = (host.leaf("a"), stand_in, host.leaf("c"), host.leaf("d"))
    spare = host.leaf("e", "INUSE", "spare")
    made(host, state="DEGRADED", data=(group("raidz2", 0, *leaves),), spares=(spare,))
    if state == "REMOVED":
        host.pull("b")


def test_a_spare_that_stands_in(host: Host) -> None:
    with_spare(host)
    found = host.plan(spec([("raidz2", "abcd")], spares=ids("e")))
    assert not found.steps
    (drift,) = found.drift
    assert drift.found == f"the spare {by_id('e')} stands in for {by_id('b')} (guid 98) REMOVED"
    assert drift.command == "zpool replace tank 98 /dev/disk/by-id/NEW-DISK"
    assert drift.wanted.endswith("the spare for good: zpool detach tank 98")


def with_idle_spares(host: Host, missing: str, spares: str) -> None:
    """Disks are missing since the boot: ZFS puts no spare in their place."""
    leaves = [host.leaf(letter, "UNAVAIL" if letter in missing else "ONLINE") for letter in "abcd"]
    idle = tuple(host.leaf(letter, "AVAIL", "spare") for letter in spares)
    made(host, state="DEGRADED", data=(group("raidz2", 0, *leaves, state="DEGRADED"),), spares=idle)
    host.pull(missing)


def test_an_idle_spare_beside_a_missing_disk(host: Host) -> None:
    with_idle_spares(host, "b", "e")
    found = host.plan(spec([("raidz2", "abcd")], spares=ids("e")))
    assert not found.steps
    (drift,) = found.drift
    assert drift.found == f"{by_id('b')} (guid 98) UNAVAIL, and the spare {by_id('e')} does not stand in"
    assert drift.wanted.endswith("until a disk that works is there: zpool replace tank 98 /dev/disk/by-id/NEW-DISK")
    assert drift.command == f"zpool replace tank 98 {by_id('e')}"


def test_each_idle_spare_is_for_one_disk(host: Host) -> None:
    with_idle_spares(host, "bc", "e")
    commands = [drift.command for drift in host.plan(spec([("raidz2", "abcd")], spares=ids("e"))).drift]
    assert commands == [f"zpool replace tank 98 {by_id('e')}", "zpool replace tank 99 /dev/disk/by-id/NEW-DISK"]


def test_a_new_disk_is_better_than_an_idle_spare(host: Host) -> None:
    with_idle_spares(host, "b", "e")
    (drift,) = host.plan(spec([("raidz2", "afcd")], spares=ids("e"))).drift
    assert drift.command == f"zpool replace tank 98 {by_id('f')}"


def test_a_spare_that_leaves_the_declaration_stands_in_for_nothing(host: Host) -> None:
    with_idle_spares(host, "b", "e")
    drift = host.plan(spec([("raidz2", "abcd")])).drift
    assert [one.command for one in drift] == ["zpool replace tank 98 /dev/disk/by-id/NEW-DISK"]


def test_a_spare_that_stands_in_and_the_new_disk(host: Host) -> None:
    with_spare(host)
    (drift,) = host.plan(spec([("raidz2", "afcd")], spares=ids("e"))).drift
    assert drift.command == f"zpool replace tank 98 {by_id('f')}"


def test_a_spare_that_may_go_back(host: Host) -> None:
    with_spare(host, "ONLINE")
    (drift,) = host.plan(spec([("raidz2", "abcd")], spares=ids("e"))).drift
    assert (drift.wanted, drift.command) == ("the spare back among the spares", "zpool detach tank 101")


def test_a_spare_that_is_declared_as_a_data_disk(host: Host) -> None:
    with_spare(host)
    found = host.plan(spec([("raidz2", "aecd")]))
    assert not found.steps
    assert [drift.command for drift in found.drift] == ["zpool detach tank 98"]


def test_a_spare_in_use_that_is_no_longer_declared_stays(host: Host) -> None:
    with_spare(host, "ONLINE")
    found = host.plan(spec([("raidz2", "abcd")]))
    assert not found.steps
    assert "zpool detach tank 101" in [drift.command for drift in found.drift]


def test_a_spare_that_was_kept_for_good(host: Host) -> None:
    made(host, data=(group("raidz2", 0, *map(host.leaf, "aecd")),))
    host.pull("b")
    found = host.plan(spec([("raidz2", "abcd")], spares=ids("e")))
    assert (found.steps, found.refusals) == ((), ())
    (drift,) = found.drift
    assert (
        drift.wanted == f"an inventory that says so: {by_id('e')} at zfs_vdevs[0].disks[1], and no longer in zfs_spares"
    )


def test_a_replacement_that_runs(host: Host) -> None:
    pair = group("replacing", 1, host.leaf("b", "UNAVAIL"), host.leaf("e"))
    leaves = (host.leaf("a"), pair, host.leaf("c"), host.leaf("d"))
    made(host, state="DEGRADED", data=(group("raidz2", 0, *leaves),), busy="a resilver runs")
    host.pull("b")
    for letters in ("aecd", "abcd"):
        found = host.plan(spec([("raidz2", letters)]))
        assert (found.steps, found.refusals, found.drift) == ((), (), ()), letters


def test_a_spare_that_is_gone(host: Host) -> None:
    made(host, spares=(host.leaf("e", "UNAVAIL", "spare"),))
    host.pull("e")
    found = host.plan(spec([("raidz2", "abcd")], spares=ids("e")))
    assert (found.steps, found.refusals) == ((), ())
    assert [drift.command for drift in found.drift] == ["zpool remove tank 101"]


def test_no_change_of_vdevs_while_the_pool_is_busy(host: Host) -> None:
    made(host, busy="a resilver runs")
    found, mend = refused(host.plan(spec([("raidz2", "abcd")], spares=ids("e"))))["zfs_pool"]
    assert found == f"a resilver runs, and the declaration wants to add spare {by_id('e')}"
    assert "zpool wait tank" in mend
    changed = host.plan(spec([("raidz2", "abcd")], properties={"autotrim": "on"}))
    assert commands(changed) == ["zpool set autotrim=on tank"]


def test_a_suspended_pool_is_left_alone(host: Host) -> None:
    made(host, state="SUSPENDED")
    found = host.plan(spec([("raidz2", "abcd")], properties={"autotrim": "on"}))
    assert not found.steps
    assert [drift.command for drift in found.drift] == ["zpool set autotrim=on tank"]
    assert "zfs_pool" in refused(host.plan(spec([("raidz2", "abcd")], spares=ids("e"))))


# Width, growth and properties.


def test_wider_and_narrower(host: Host) -> None:
    made(host)
    (drift,) = host.plan(spec([("raidz2", "abcde")])).drift
    assert drift.command == f"zpool attach tank raidz2-0 {by_id('e')}"
    found, _ = refused(host.plan(spec([("raidz1", "abc")])))["zfs_vdevs[0].type"]
    made(host, data=(group("raidz1", 0, *map(host.leaf, "abcd")),))
    found, _ = refused(host.plan(spec([("raidz1", "abc")])))["zfs_vdevs[0].disks"]
    assert found == f"fewer disks than raidz1-0 of the pool has: {by_id('d')} is missing"


def test_a_mirror_becomes_wider_and_narrower_by_a_person(host: Host) -> None:
    made(host, data=(group("mirror", 0, host.leaf("a"), host.leaf("b")),))
    (drift,) = host.plan(spec([("mirror", "abc")])).drift
    assert drift.command == f"zpool attach tank 97 {by_id('c')}"
    (drift,) = host.plan(spec([("disk", "a")])).drift
    assert drift.command == "zpool detach tank 98"
    made(host, data=(host.leaf("a"),))
    host.members = {"a": ord("a")}
    (drift,) = host.plan(spec([("mirror", "ab")])).drift
    assert drift.command == f"zpool attach tank 97 {by_id('b')}"


def test_larger_disks_can_be_used(host: Host) -> None:
    made(host, data=(group("raidz2", 0, *map(host.leaf, "abcd"), growth=8 * TB),))
    (drift,) = host.plan(spec([("raidz2", "abcd")])).drift
    assert drift.found == "raidz2-0 does not use all of its disks: 8 TB more are there"
    assert drift.command == "zpool online -e tank 97 98 99 100"


@pytest.mark.parametrize(
    ("name", "value", "steps"),
    [
        ("autotrim", "off", []),
        ("autotrim", "on", ["zpool set autotrim=on tank"]),
        ("feature@async_destroy", "enabled", []),
    ],
)
def test_properties(host: Host, name: str, value: str, steps: list[str]) -> None:
    made(host)
    assert commands(host.plan(spec([("raidz2", "abcd")], properties={name: value}))) == steps


def test_a_property_that_this_zfs_does_not_know(host: Host) -> None:
    made(host)
    assert "zfs_pool_properties.multihost" in refused(
        host.plan(spec([("raidz2", "abcd")], properties={"multihost": "on"}))
    )


# Pools that are not imported.


def exported(host: Host, **others: Any) -> None:
    made(host)
    host.pools = {}
    values: dict[str, Any] = {"name": "tank", "guid": POOL, "state": "ONLINE", "foreign": False}
    host.importable = (Importable(**{**values, **others}),)


def test_an_exported_pool_is_imported(host: Host) -> None:
    exported(host)
    found = host.plan(spec([("raidz2", "abcd")]), directories=["/dev/disk/by-id", "/dev/disk/by-path"])
    assert commands(found) == ["zpool import -d /dev/disk/by-id -d /dev/disk/by-path 4242"]
    safe(found)


def test_a_pool_of_another_system_is_not_taken(host: Host) -> None:
    exported(host, foreign=True)
    _, mend = refused(host.plan(spec([("raidz2", "abcd")])))["zfs_pool"]
    assert mend.endswith("zpool import -f -d /dev/disk/by-id 4242")


def test_a_pool_of_this_name_on_other_disks_is_not_taken(host: Host) -> None:
    exported(host)
    found, _ = refused(host.plan(spec([("raidz2", "efgh")])))["zfs_pool"]
    assert found == "a pool tank (4242) that is on none of the declared data disks"


def test_pools_that_cannot_be_imported(host: Host) -> None:
    exported(host, state="UNAVAIL", message="One or more devices are missing.")
    found, _ = refused(host.plan(spec([("raidz2", "abcd")])))["zfs_pool"]
    assert "UNAVAIL. One or more devices are missing." in found
    host.importable = (*host.importable, Importable("tank", 77, "ONLINE", foreign=False))
    assert "several pools" in refused(host.plan(spec([("raidz2", "abcd")])))["zfs_pool"][0]


def test_another_pool_that_could_be_imported_does_not_matter(host: Host) -> None:
    exported(host, name="other")
    host.members.clear()
    assert commands(host.plan(spec([("raidz2", "abcd")])))[0].startswith("zpool create ")
