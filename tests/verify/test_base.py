"""Every host: account, names, limits; the storage host: tree and exports. Debian 12 and 13."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Inventory

pytestmark = pytest.mark.scenario("base")


@pytest.fixture(params=["debian12", "debian13"])
def host(request: pytest.FixtureRequest, connect: Callable[[str], Any]) -> Any:
    return connect(request.param)


def test_release_is_the_one_that_its_name_says(host: Any) -> None:
    assert f"debian{host.system_info.release.partition('.')[0]}" == host.check_output("hostname")


def test_service_account_has_its_numbers_and_no_shell(host: Any) -> None:
    user = host.user("escriptorium")
    assert (user.uid, user.gid, user.shell) == (2000, 2000, "/usr/sbin/nologin")


def test_settings_are_for_root_and_the_service_only(host: Any) -> None:
    folder = host.file("/etc/escriptorium")
    assert (folder.user, folder.group, folder.mode) == ("root", "escriptorium", 0o750)


def test_every_host_knows_the_others_by_name(host: Any, inventory: Inventory) -> None:
    for name in ("debian12", "debian13"):
        found = host.check_output("getent hosts %s", name).splitlines()
        assert {line.split()[0] for line in found} == {inventory.address(name)}


def test_journal_is_kept_and_bounded(host: Any) -> None:
    assert host.run("systemd-analyze cat-config systemd/journald.conf | grep -x SystemMaxUse=512M").rc == 0
    assert host.file("/var/log/journal").is_directory


def test_new_services_get_many_files(host: Any) -> None:
    assert host.check_output("systemd-run --quiet --pipe --wait sh -c 'ulimit -n'") == "10000"


def test_time_zone(host: Any) -> None:
    assert host.check_output("readlink -f /etc/localtime") == "/usr/share/zoneinfo/Europe/Paris"


def test_all_units_are_well(host: Any) -> None:
    assert host.check_output("systemctl is-system-running") == "running"


def test_shared_tree_belongs_to_the_service(connect: Callable[[str], Any]) -> None:
    storage = connect("debian13")
    for name in ("media", "releases"):
        folder = storage.file(f"/srv/escriptorium/{name}")
        assert (folder.uid, folder.gid, folder.mode) == (2000, 2000, 0o755)


def test_only_application_hosts_may_mount_the_tree(connect: Callable[[str], Any], inventory: Inventory) -> None:
    """Asks for what is exported, not for what a file says."""
    exported = connect("debian13").check_output("exportfs -v").split()
    assert exported[0] == "/srv/escriptorium"
    client, _, options = exported[1].rstrip(")").partition("(")
    assert client == inventory.address("debian12")
    assert {"rw", "sync", "root_squash"} <= set(options.split(","))
    assert len(exported) == 2, "one folder, one client"


def test_nothing_of_older_nfs_listens(connect: Callable[[str], Any]) -> None:
    """Debian starts rpcbind with the server's package, on all addresses; NFS 4.2 needs none of it."""
    storage = connect("debian13")
    for unit in ("rpcbind.socket", "rpcbind.service", "rpc-statd.service", "rpc-statd-notify.service"):
        assert storage.check_output("systemctl show --property=LoadState --value %s", unit) == "masked"
    listening = storage.check_output("ss --no-header --listening --numeric --tcp --udp")
    assert not [line for line in listening.splitlines() if ":111 " in line]


def test_nfs_is_served_in_version_4_2_only_and_on_the_private_address(
    connect: Callable[[str], Any], inventory: Inventory
) -> None:
    storage = connect("debian13")
    wanted = {"vers3": "n", "vers4.0": "n", "vers4.1": "n", "vers4.2": "y", "host": inventory.address("debian13")}
    for key, value in wanted.items():
        # nfsconf is what the server itself reads its settings with.
        assert storage.check_output("nfsconf --get nfsd %s", key) == value
    assert storage.service("nfs-server").is_enabled
    assert storage.service("nfs-server").is_running
