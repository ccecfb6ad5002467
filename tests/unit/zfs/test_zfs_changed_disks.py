"""Disks that were exchanged, grown or switched off: nothing is added or made in the place of what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.zfs_pool.record import CACHEFILE, Record, RecordError, SeenVdev, read_record, write_record
from module_utils.zfs_pool.status import Importable, PoolStatus
from tests.unit.zfs.host import POOL, TB, Host, by_id, commands, group, ids, spec

if TYPE_CHECKING:
    from pathlib import Path

    from module_utils.zfs_pool.declaration import PoolSpec
    from module_utils.zfs_pool.plan import Plan
    from module_utils.zfs_pool.status import Vdev

RULE: dict[str, Any] = {"count": 4, "at_least": "9TB"}


def by_rule(**rule: Any) -> PoolSpec:
    return spec([{"type": "raidz2", "disks": {"count": 4, **rule}}])


@pytest.fixture
def host() -> Host:
    """A pool of one raidz2 on a, b, c and d, and four blanks."""
    host = Host()
    host.pools = {"tank": pool(group("raidz2", 0, *map(host.leaf, "abcd")))}
    return host


def pool(*data: Vdev, **others: Any) -> PoolStatus:
    return PoolStatus(**{"name": "tank", "guid": POOL, "state": "ONLINE", "data": data, **others})


def refusal(found: Plan) -> tuple[str, str, str]:
    assert not found.steps, commands(found)
    (problem,) = found.refusals
    return problem.path, problem.found, problem.mend


def test_all_names_replaced_by_larger_disks(host: Host) -> None:
    host.sizes = dict.fromkeys("efgh", 20 * TB)
    path, found, mend = refusal(host.plan(spec([("raidz2", "efgh")])))
    assert path == "zfs_vdevs[0]"
    assert "raidz2-0" in found
    assert f"zpool replace tank 97 {by_id('e')}; zpool replace tank 98 {by_id('f')}" in mend
    assert f"zpool add -o ashift=12 tank raidz2 {' '.join(ids('efgh'))}" in mend


def test_a_rule_for_larger_disks(host: Host) -> None:
    host.sizes = dict.fromkeys("efgh", 20 * TB)
    path, found, mend = refusal(host.plan(by_rule(at_least="18TB")))
    assert path == "zfs_vdevs[0]"
    assert f"{by_id('a')} (10 TB)" in found
    assert f"zpool replace tank 97 {by_id('e')}" in mend
    assert f"zpool add -o ashift=12 tank raidz2 {' '.join(ids('efgh'))}" in mend


def test_one_disk_has_outgrown_its_rule(host: Host) -> None:
    host.sizes["b"] = 20 * TB
    _, found, mend = refusal(host.plan(by_rule(at_most="11TB")))
    assert f"{by_id('b')} (20 TB)" in found
    assert f"zpool replace tank 98 {by_id('e')}" in mend
    assert "zpool replace tank 97" not in mend, "those that fit stay"


def test_a_rule_without_blanks_says_the_same(host: Host) -> None:
    host.pull("efgh")
    _, found, mend = refusal(host.plan(by_rule(at_least="18TB")))
    assert "raidz2-0" in found
    assert "zpool replace tank 97 /dev/disk/by-id/NEW-DISK" in mend


def test_one_of_two_vdevs_is_renamed(host: Host) -> None:
    host.letters = "abcdefghijkl"
    host.pools = {"tank": pool(*(group("raidz2", n, *map(host.leaf, each)) for n, each in enumerate(("abcd", "efgh"))))}
    _, found, _ = refusal(host.plan(spec([("raidz2", "abcd"), ("raidz2", "ijkl")])))
    assert "raidz2-1" in found


def test_a_special_vdev_is_exchanged_by_hand_too(host: Host) -> None:
    special = group("mirror", 1, *(host.leaf(letter, role="special") for letter in "efg"), role="special")
    host.letters = "abcdefghijk"
    host.pools = {"tank": pool(*host.pools["tank"].data, special=(special,))}
    wanted = spec([("raidz2", "abcd")], special=[{"type": "mirror", "disks": ids("ijk")}])
    path, _, mend = refusal(host.plan(wanted))
    assert path == "zfs_special[0]"
    assert f"zpool replace tank 101 {by_id('i')}" in mend


def test_a_wide_rule_leaves_the_vdev_that_a_narrow_one_needs(host: Host) -> None:
    """Each vdev has its rule, whatever the order of the rules."""
    host.letters = "abcdefghijkl"
    host.sizes = dict.fromkeys("abcd", 20 * TB)
    host.pools = {"tank": pool(*(group("raidz2", n, *map(host.leaf, each)) for n, each in enumerate(("abcd", "efgh"))))}
    wanted = [{"type": "raidz2", "disks": RULE}, {"type": "raidz2", "disks": RULE | {"at_least": "18TB"}}]
    found = host.plan(spec(wanted))
    assert (found.steps, found.drift, found.refusals) == ((), (), ())


def test_a_pool_that_is_switched_off_is_not_made_again(host: Host) -> None:
    record = host.plan(spec([("raidz2", "abcd")])).record
    host.pull("abcd")
    host.pools = {}
    path, found, mend = refusal(host.plan(by_rule(at_least="9TB"), record=record))
    assert path == "zfs_pool"
    assert found == (
        f"no pool tank, while this host had tank ({POOL}): raidz2 of {', '.join(ids('abcd'))}; "
        "of its disks there are none"
    )
    assert "zpool import; or" in mend
    assert mend.endswith("forget it: rm /var/lib/zfs-pool/tank.json")
    # A person has done so.
    assert commands(host.plan(by_rule(at_least="9TB")))[0].startswith("zpool create ")


def test_a_pool_that_only_zfs_remembers(host: Host) -> None:
    host.pull("abcd")
    host.pools = {}
    _, found, mend = refusal(host.plan(by_rule(at_least="9TB"), record=Record("tank", POOL, file=CACHEFILE)))
    assert found == f"no pool tank, while this host had tank ({POOL}); its disks are not there"
    assert mend.endswith(f"rm {CACHEFILE}")


def test_a_pool_under_another_name_is_still_there(host: Host) -> None:
    record = host.plan(spec([("raidz2", "abcd")])).record
    host.pools = {"former": replace(host.pools["tank"], name="former")}
    _, found, mend = refusal(host.plan(by_rule(at_least="9TB"), record=record))
    assert found.endswith("it is imported under the name former")
    assert f"zpool export former && zpool import {POOL} tank; or" in mend
    host.pools = {}
    host.importable = (Importable("former", POOL, "ONLINE", foreign=False),)
    _, found, mend = refusal(host.plan(by_rule(at_least="9TB"), record=record))
    assert found.endswith("its name is former by now")
    assert f"zpool import {POOL} tank; or" in mend


def test_another_pool_of_the_same_name_is_not_imported(host: Host) -> None:
    record = Record("tank", 77, (SeenVdev("data", "raidz2", tuple(ids("wxyz"))),), "/file")
    host.pools = {}
    host.importable = (Importable("tank", POOL, "ONLINE", foreign=False),)
    _, found, mend = refusal(host.plan(spec([("raidz2", "abcd")]), record=record))
    assert found == f"a pool tank ({POOL}), while this host had tank (77): raidz2 of {', '.join(ids('wxyz'))}"
    assert mend.endswith("forget it: rm /file")


def test_nothing_is_added_to_another_pool_of_the_same_name(host: Host) -> None:
    record = Record("tank", 77, file="/file")
    found = host.plan(spec([("raidz2", "abcd")]), record=record)
    assert (found.steps, found.refusals, found.record) == ((), (), None)
    assert [drift.command for drift in found.drift] == ["rm /file"]
    for wanted in (spec([("raidz2", "abcd")], spares=ids("e")), spec([("raidz2", "abcd"), ("raidz2", "efgh")])):
        path, text, _ = refusal(host.plan(wanted, record=record))
        assert path == "zfs_pool"
        assert "while this host had tank (77), and the declaration wants to add " in text


def test_a_vdev_that_was_removed_is_asked_for_before_one_is_added() -> None:
    host = Host()
    mirrors = [group("mirror", n, *map(host.leaf, each)) for n, each in enumerate(("ab", "cd"))]
    host.pools = {"tank": pool(*mirrors)}
    record = host.plan(spec([("mirror", "ab"), ("mirror", "cd")])).record
    host.pools = {"tank": pool(mirrors[0])}
    host.members = {letter: ord(letter) for letter in "ab"}
    wanted = spec([("mirror", "ab"), ("mirror", "ef")])
    found = host.plan(wanted, record=record)
    assert found.record is None, "it is asked for again, run after run"
    _, text, mend = refusal(found)
    assert text == (
        f"a pool tank that had mirror of {', '.join(ids('cd'))} and has it no more, "
        "and the declaration wants to add mirror of 2 disks"
    )
    assert mend.endswith("forget it: rm /var/lib/zfs-pool/tank.json")
    # A run that adds nothing takes the pool as it is.
    now = host.plan(spec([("mirror", "ab")]), record=record).record
    assert now is not None
    assert commands(host.plan(wanted, record=now)) == [f"zpool add -o ashift=12 tank mirror {' '.join(ids('ef'))}"]


def test_disks_that_were_all_exchanged_are_no_lost_vdev(host: Host) -> None:
    record = host.plan(spec([("raidz2", "abcd")])).record
    host.letters = "efghijklmnop"
    host.members.clear()
    host.pools = {"tank": pool(group("raidz2", 0, *map(host.leaf, "efgh")))}
    assert commands(host.plan(spec([("raidz2", "efgh"), ("raidz2", "ijkl")]), record=record))


def test_nothing_is_added_while_a_vdev_is_away(host: Host) -> None:
    host.pools = {"tank": pool(replace(host.pools["tank"].data[0], state="CANT_OPEN"))}
    _, found, mend = refusal(host.plan(spec([("raidz2", "abcd"), ("raidz2", "efgh")])))
    assert found == "raidz2-0 is CANT_OPEN, and the declaration wants to add raidz2 of 4 disks"
    assert "zpool status -v tank" in mend


# The file that remembers.


def test_the_file_says_what_was_there(host: Host, tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    record = host.plan(spec([("raidz2", "abcd")])).record
    assert record is not None
    assert record.file == "/var/lib/zfs-pool/tank.json"
    assert read_record("tank", folder) is None
    write_record(record, folder)
    assert read_record("tank", folder) == replace(record, file=f"{folder}/tank.json")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tank.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pool": "tank", "guid": "x", "vdevs": []}'])
def test_a_file_that_says_nothing_is_no_leave_to_make_a_pool(tmp_path: Path, text: str) -> None:
    (tmp_path / "tank.json").write_text(text)
    with pytest.raises(RecordError, match=r"tank\.json does not say which pool was there"):
        read_record("tank", str(tmp_path))
