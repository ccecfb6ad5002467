"""Every host: account, names, limits; the storage host: tree and exports. Debian 12 and 13."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
from support import play, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Inventory

pytestmark = pytest.mark.scenario("base")

SSH_SETTINGS: Final = "/etc/ssh/sshd_config.d/00-escriptorium.conf"
#: Seconds after which settings of ssh that nobody has proved are taken back.
SSH_PATIENCE: Final = 120


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


def test_ssh_takes_keys_only_and_forwards_nothing(host: Any) -> None:
    """As sshd itself has read its settings, with all that other files say."""
    known = dict(line.split(" ", 1) for line in host.check_output("sshd -T").splitlines() if " " in line)
    shut = ("password", "kbdinteractive")
    assert [known[f"{name}authentication"] for name in shut] == ["no", "no"]
    forwards = ("x11forwarding", "allowagentforwarding", "allowtcpforwarding", "allowstreamlocalforwarding")
    assert [known[name] for name in (*forwards, "permittunnel")] == ["no"] * 5
    assert known["pubkeyauthentication"] == "yes"


@pytest.mark.parametrize("name", ["debian12", "debian13"])
def test_ssh_offers_no_password(name: str, inventory: Inventory) -> None:
    options = ["PreferredAuthentications=password,keyboard-interactive", "StrictHostKeyChecking=no", "BatchMode=yes"]
    words = [f"-o{option}" for option in (*options, "UserKnownHostsFile=/dev/null", "ControlPath=none")]
    done = subprocess.run(
        ["ssh", *words, f"root@{inventory.address(name)}", "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_settings_of_ssh_were_proved_and_stay(host: Any) -> None:
    assert host.file("/etc/escriptorium/ssh-proved").exists
    assert not host.service("escriptorium-ssh-back.timer").is_running


@pytest.mark.fault
def test_settings_that_shut_ansible_out_are_taken_back(inventory: Inventory) -> None:
    """Its key is gone, and the connection that is kept would go on for ten minutes."""

    def inside(command: str) -> str:
        words = ["docker", "exec", inventory.container("debian13"), "sh", "-c", command]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout

    base = ("playbooks/deploy-base.yml", "--limit", "debian13")
    play(inventory, *base)
    inside(f"rm {SSH_SETTINGS}; mv /root/.ssh/authorized_keys /root/.ssh/away; systemctl reload ssh")
    try:
        run = play(inventory, *base, check=False)
        assert "No new connection comes in to debian13" in " ".join(run.output.split())
        wait_for(
            "the settings of ssh as they were",
            lambda: "passwordauthentication yes" in inside(f"test -e {SSH_SETTINGS} || sshd -T"),
            timeout=SSH_PATIENCE + 60,
        )
    finally:
        inside("mv /root/.ssh/away /root/.ssh/authorized_keys")
    play(inventory, *base)
    assert "passwordauthentication no" in inside("sshd -T")
    assert play(inventory, *base).stats["debian13"]["changed"] == 0


def test_security_upgrades_come_and_the_broker_is_held(host: Any) -> None:
    tried = host.check_output("unattended-upgrade --dry-run --verbose 2>&1")
    (origins,) = re.findall(r"^Allowed origins are: (.*)$", tried, re.MULTILINE)
    assert {origin.rpartition("=")[2] for origin in origins.split(", ")} == {"Debian-Security"}
    (held,) = re.findall(r"^Initial blacklist: (.*)$", tried, re.MULTILINE)
    assert {"postgresql", "redis"} <= set(held.split())
    assert host.check_output("apt-config shell on APT::Periodic::Unattended-Upgrade") == "on='1'"


def test_no_service_restarts_by_itself_after_an_upgrade(host: Any) -> None:
    """A library that runs is replaced: what uses it is named, and goes on."""
    unit = "systemctl show --property=InvocationID ssh.service"
    before = host.check_output(unit)
    libraries = "dpkg-query --search '*/libcrypto.so.3' | cut -d : -f 1 | sort -u"
    host.check_output(f"DEBIAN_FRONTEND=noninteractive apt-get install --reinstall --yes --quiet $({libraries})")
    assert host.check_output(unit) == before
    waiting = host.check_output("show-waiting")
    assert re.search(r"^wait for a restart: .*\bssh\.service", waiting, re.MULTILINE)
    # The image of the test bed keeps them off.
    assert "security upgrades do not come by themselves" in waiting
    host.check_output("systemctl restart ssh.service")
