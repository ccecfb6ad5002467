"""ZFS and NFS of real kernels: what disks, cables, power and full quotas do to files that are being written.

The checks leave the machines as they found them, but for one series of disks, which a pool never gives back.
`STORAGE_OUTAGE` is the length of the network outage in seconds: 20 by default; 600 was tried by hand.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from machines import machines_of
from support import REPOSITORY, TOOLS, plain_environment, play, wait_for

from module_utils import platform_tunnel, platform_tunnel_keys
from module_utils.platform_secrets import CERTIFICATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from machines import Machine
    from support import Inventory

pytestmark = pytest.mark.scenario("storage")

MEDIA: Final = "/srv/escriptorium/media"
AS_SERVICE: Final = "setpriv --reuid 2000 --regid 2000 --clear-groups"
PROGRAMS: Final = "/opt/verify"  # of the checks, on the machines
DISK: Final = "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_"
OUTAGE: Final = float(os.environ.get("STORAGE_OUTAGE", "20"))
PACKAGE: Final = REPOSITORY / "module_utils/backup_programs"
COPIERS: Final = "/var/lib/zfs-replica/.ssh/authorized_keys"
# Address of a host that no inventory knows at first; it lives in a network namespace of the client.
STRANGER: Final = "10.213.80.31"

# Records what crosses a network card until it is stopped, but for ssh.
RECORDER: Final = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
wire.bind((sys.argv[1], 0))
with open(sys.argv[2], "wb", buffering=0) as file:
    print("ready", flush=True)
    while True:
        packet = wire.recv(1 << 18)[14:]
        if len(packet) < 28 or packet[0] >> 4 != 4:
            continue
        inner = packet[(packet[0] & 15) * 4 :]
        ports = [int.from_bytes(inner[place : place + 2], "big") for place in (0, 2)]
        if 22 not in ports:
            file.write(b"<%d %d>%d " % (packet[9], *ports) + inner)
"""

# Writes files as the service does, each synced, until a file says stop; prints their checksums,
# and in the end, as a comment for sha256sum, how many there are: one that died has not said so.
WRITER: Final = """
import hashlib, os, sys, time
folder, stop, size, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
os.makedirs(folder, exist_ok=True)
number = 0
while not os.path.exists(stop):
    number += 1
    data = os.urandom(size)
    name = f"{folder}/{number:04}"
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view):]
    os.fsync(file)
    os.close(file)
    print(f"{hashlib.sha256(data).hexdigest()}  {name}", flush=True)
    time.sleep(pause)
print(f"# {number} files", flush=True)
"""

# Locks a file and says so; waits for a line on its input, then lets go. `busy` when another has it.
LOCKER: Final = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as error:
    print("busy", flush=True)
    sys.exit(0)
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


@dataclass
class Guest:
    """One machine, and what is run in it."""

    machine: Machine

    def run(self, command: str, timeout: float = 120.0) -> str:
        """Run a command of the shell; answers what it prints."""
        done = self.machine.ssh(command, timeout=timeout)
        assert done.returncode == 0, f"{command!r} on {self.machine.name}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def fails(self, command: str, timeout: float = 120.0) -> str:
        """Run a command that has to fail; answers what it says about it."""
        done = self.machine.ssh(command, timeout=timeout)
        assert done.returncode != 0, f"{command!r} went well: {done.stdout}"
        return done.stdout + done.stderr

    def as_service(self, command: str) -> str:
        """Run a command with the numbers of the service account."""
        return self.run(f"{AS_SERVICE} {command}")

    def put(self, path: str, text: str) -> None:
        """Write a file."""
        self.run(f"cat >{path} <<'END_OF_FILE'\n{text}\nEND_OF_FILE")


@pytest.fixture(scope="module")
def machines(inventory: Inventory) -> dict[str, Machine]:
    return machines_of(inventory)


@pytest.fixture(scope="module")
def storage(machines: dict[str, Machine]) -> Guest:
    guest = Guest(machines["storage"])
    guest.run(f"mkdir -p {PROGRAMS}")
    return guest


@pytest.fixture(scope="module")
def client(machines: dict[str, Machine]) -> Guest:
    guest = Guest(machines["node1"])
    guest.run(f"mkdir -p {PROGRAMS}")
    guest.put(f"{PROGRAMS}/writer.py", WRITER)
    guest.put(f"{PROGRAMS}/locker.py", LOCKER)
    guest.run("sync")  # tests cut its power
    return guest


@pytest.fixture(scope="module")
def declared(inventory: Inventory) -> dict[str, Any]:
    """The pool as the inventory declares it, as arguments of the module zfs_pool."""
    values = inventory.hosts["storage"]
    return {
        "name": "tank",
        "vdevs": values["zfs_vdevs"],
        "spares": values["zfs_spares"],
        "cache": values["zfs_cache"],
        "properties": {"autotrim": "on"},
    }


@pytest.fixture(scope="module", autouse=True)
def _no_snapshots_by_themselves(storage: Guest) -> Iterator[None]:
    """Keep sanoid's timer from taking one: a file that is in a snapshot takes its space until the snapshot goes."""
    still = "/etc/systemd/system/sanoid.service.d"  # lasts: one test cuts the power
    storage.run(
        f"mkdir -p {still} && printf '[Unit]\\nConditionPathExists=/never\\n' >{still}/still.conf "
        "&& sync && systemctl daemon-reload && while systemctl is-active --quiet sanoid.service; do sleep 1; done"
    )
    yield
    storage.run(f"rm -r {still} && systemctl daemon-reload")


def tunnel_address(address: str) -> str:
    """Answer the address in the tunnel of a host with a private address."""
    return platform_tunnel.address(address, "10.213.80.0/24", platform_tunnel.DEFAULT_NETWORK)


def zfs_pool(inventory: Inventory, arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Run the module zfs_pool on the storage host; answers what it returns."""
    command = [str(TOOLS / "ansible"), "--inventory", str(inventory.folder), "storage", "--one-line"]
    command += ["--module-name", "zfs_pool", "--args", json.dumps(arguments), *(["--check"] if check else [])]
    done = subprocess.run(command, cwd=REPOSITORY, env=plain_environment(), check=False, capture_output=True, text=True)
    line = next((line for line in done.stdout.splitlines() if " => " in line), "")
    assert line, f"no answer of the module: {done.stdout}{done.stderr}"
    answer: dict[str, Any] = json.loads(line.partition(" => ")[2])
    assert "refusals" in answer or not line.startswith("storage | FAILED"), answer
    return answer


def pool_status(guest: Guest, pool: str = "tank") -> dict[str, Any]:
    """Answer `zpool status` of a pool."""
    told: dict[str, Any] = json.loads(guest.run(f"zpool status -j --json-int {pool}"))["pools"][pool]
    return told


def states(section: dict[str, Any]) -> dict[str, str]:
    """State of each device of a section of the status, by its serial number, inside spares and series too."""
    found: dict[str, str] = {}
    for name, vdev in section.items():
        if "vdevs" in vdev:
            found |= states(vdev["vdevs"])
        else:
            found[name.removeprefix("scsi-0QEMU_QEMU_HARDDISK_").removesuffix("-part1")] = str(vdev["state"])
    return found


def data_vdevs(guest: Guest, pool: str = "tank") -> dict[str, dict[str, Any]]:
    """Answer the series of disks that hold the data, by name."""
    root: dict[str, dict[str, Any]] = pool_status(guest, pool)["vdevs"][pool]["vdevs"]
    return root


def spares_in_use(guest: Guest) -> int:
    """How many spares stand in for another disk."""
    return list(states(pool_status(guest)["spares"]).values()).count("INUSE")


def is_whole(told: dict[str, Any]) -> bool:
    """Answer True when a pool, by its status, has all its disks and repairs nothing."""
    whole = told["state"] == "ONLINE" and set(states(told["vdevs"]).values()) == {"ONLINE"}
    return whole and "scanning" not in str(told.get("scan_stats", "")).lower()


def is_well(guest: Guest) -> bool:
    """Answer True once the pool has all its disks, repairs nothing and all spares wait."""
    told = pool_status(guest)
    return is_whole(told) and set(states(told["spares"]).values()) == {"AVAIL"}


class Writing:
    """A client that writes files while something happens; each is compared in the end, byte by byte."""

    def __init__(self, client: Guest, storage: Guest, name: str, *, size: int, pause: float) -> None:
        self.client, self.storage, self.name = client, storage, name
        self.folder = f"{MEDIA}/{name}"
        self.sums = f"{PROGRAMS}/{name}.sums"
        self.stop = f"{PROGRAMS}/{name}.stop"
        client.run(
            f"rm -f {self.sums} {self.stop}; systemd-run --quiet --collect --unit=write-{name} "
            f"--property=StandardOutput=truncate:{self.sums} --property=StandardError=journal "
            f"{AS_SERVICE} python3 {PROGRAMS}/writer.py {self.folder} {self.stop} {size} {pause}"
        )

    def written(self) -> int:
        """Answer how many files are done."""
        return int(self.client.run(f"sed '/^#/d' {self.sums} 2>/dev/null | wc -l"))

    def await_written(self, number: int, timeout: float = 120.0) -> None:
        """Wait until so many files are done."""
        wait_for(f"{number} files of {self.name}", lambda: self.written() >= number, timeout=timeout)

    def is_running(self) -> bool:
        """Answer True while the client writes."""
        return self.client.machine.ssh(f"systemctl is-active write-{self.name}").stdout.strip() == "active"

    def end(self) -> None:
        """Write no more."""
        self.client.run(f"touch {self.stop}")
        wait_for(f"the end of {self.name}", lambda: not self.is_running(), timeout=300)
        said = self.client.run(f"tail --lines=1 {self.sums}")
        assert said == f"# {self.written()} files", self.client.run(f"journalctl --no-pager --unit=write-{self.name}")

    def check(self) -> None:
        """Write no more, and read all again: by the client from the server, by the server from its disks."""
        self.end()
        sums = self.client.run(f"cat {self.sums}")
        self.client.run("echo 3 >/proc/sys/vm/drop_caches")
        self.client.run(f"sha256sum --check --quiet {self.sums}", timeout=300)
        self.storage.put(self.sums, sums)
        self.storage.run(f"sha256sum --check --quiet {self.sums}", timeout=300)
        self.storage.run("zpool scrub -w tank", timeout=300)
        told = pool_status(self.storage)
        assert told["error_count"] == 0, told
        self.remove()

    def remove(self) -> None:
        """Remove what was written."""
        self.client.run(
            f"systemctl stop write-{self.name} 2>/dev/null; rm -f {self.sums} {self.stop}; "
            f"{AS_SERVICE} rm -rf {self.folder}"
        )


@pytest.fixture
def writing(client: Guest, storage: Guest, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start a client that writes; stopped and cleaned up after the test."""
    started: list[Writing] = []

    def start(size: int = 1 << 20, pause: float = 0.3) -> Writing:
        name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40]
        started.append(Writing(client, storage, name, size=size, pause=pause))
        return started[-1]

    yield start
    for one in started:
        one.remove()


# ---- the pool as it was declared -------------------------------------------------------------------------------------


def test_pool_is_what_the_inventory_says(storage: Guest) -> None:
    told = pool_status(storage)
    assert told["state"] == "ONLINE"
    series = list(data_vdevs(storage).values())
    assert [vdev["name"].partition("-")[0] for vdev in series[:2]] == ["raidz2", "raidz2"]
    assert [set(states(vdev["vdevs"])) for vdev in series[:2]] == [{"a1", "a2", "a3", "a4"}, {"b1", "b2", "b3", "b4"}]
    assert states(told["spares"]) == {"spare1": "AVAIL", "spare2": "AVAIL"}
    assert states(told["l2cache"]) == {"cache1": "ONLINE", "cache2": "ONLINE"}
    assert storage.run("zpool get -H -o value autotrim,ashift tank").split() == ["on", "12"]


def test_datasets(storage: Guest) -> None:
    told = storage.run(
        "zfs list -H -r -t filesystem -o name,mountpoint,recordsize,quota,compression,atime,mounted tank"
    )
    found = {name: values for name, *values in (line.split() for line in told.splitlines())}
    for dataset, *wanted in (
        ("escriptorium", "/srv/escriptorium", "128K", "none"),
        ("escriptorium/media", MEDIA, "1M", "128M"),
        ("escriptorium/releases", "/srv/escriptorium/releases", "128K", "none"),
        ("backups", "/srv/escriptorium-backups", "128K", "none"),
    ):
        assert found[f"tank/{dataset}"] == [*wanted, "lz4", "off", "yes"], dataset


def test_read_cache_is_bounded(storage: Guest) -> None:
    assert storage.run("cat /sys/module/zfs/parameters/zfs_arc_max") == str(512 << 20)


def test_pool_is_watched_and_read_whole_from_time_to_time(storage: Guest) -> None:
    assert (
        storage.run("systemctl is-active zfs-zed.service zfs-scrub-monthly@tank.timer sanoid.timer").split()
        == ["active"] * 3
    )


def test_plan_says_what_the_pool_holds(storage: Guest, inventory: Inventory) -> None:
    """`make plan` contacts no host and is within 1 % of what zfs shows."""
    report = play(inventory, "playbooks/plan.yml", "--limit", "storage").output
    said = re.search(r"space: .*\(([\d.]+) GiB\)", report)
    assert said is not None, report
    shown = sum(int(word) for word in storage.run("zfs list -Hp -o used,available tank").split())
    if len(data_vdevs(storage)) == 2:  # one more since the pool was grown
        assert abs(float(said.group(1)) * 2**30 - shown) < 0.01 * shown


def test_second_run_changes_nothing(inventory: Inventory, declared: dict[str, Any]) -> None:
    answer = zfs_pool(inventory, declared)
    assert (answer["changed"], answer["steps"]) == (False, [])


# ---- the tree on the client ------------------------------------------------------------------------------------------


def test_client_mounts_the_tree_with_its_datasets(client: Guest) -> None:
    options = client.run("findmnt --noheadings --output OPTIONS --types nfs4 --mountpoint /srv/escriptorium")
    assert {"vers=4.2", "hard", "nconnect=4"} <= set(options.split(","))
    # The quota of the dataset shows through: it is no folder of the dataset above.
    assert (
        int(client.run(f"stat --file-system --format '%S*%b/1048576' {MEDIA} | xargs -I x sh -c 'echo $((x))'")) <= 128
    )


def test_the_tree_needs_nothing_of_older_nfs(client: Guest, storage: Guest) -> None:
    """The mount of the run above is there, and another one can be made, without rpcbind and statd on either side."""
    for host in (client, storage):
        states = host.run("systemctl show --property=LoadState --value rpcbind.socket rpc-statd.service").split()
        assert states == ["masked", "masked"]
        listening = host.run("ss --no-header --listening --numeric --tcp --udp")
        assert not [line for line in listening.splitlines() if ":111 " in line]
    client.run("mkdir -p /mnt/second")
    server = tunnel_address("10.213.80.11")
    client.run(f"timeout 120 mount -t nfs4 -o vers=4.2,retry=0 {server}:/srv/escriptorium /mnt/second")
    client.run("findmnt --types nfs4 --mountpoint /mnt/second && umount /mnt/second")


def test_root_of_a_client_is_nobody(client: Guest, storage: Guest) -> None:
    client.fails(f"touch {MEDIA}/of-root")
    client.as_service(f"touch {MEDIA}/of-service")
    assert storage.run(f"stat --format %u:%g {MEDIA}/of-service") == "2000:2000"
    client.as_service(f"rm {MEDIA}/of-service")


def test_backups_are_not_exported(client: Guest, storage: Guest) -> None:
    assert "backups" not in storage.run("exportfs -s")
    client.run("mkdir -p /mnt/backups")
    server = tunnel_address("10.213.80.11")
    client.fails(f"timeout 60 mount -t nfs4 -o vers=4.2,retry=0 {server}:/srv/escriptorium-backups /mnt/backups")


# ---- what crosses the private network --------------------------------------------------------------------------------


def recorded(storage: Guest, client: Guest, name: str) -> tuple[str, list[bytes]]:
    """Record the private network while a text is written, and read from the server; answers text and packets.

    A packet begins with ``PROTOCOL PORT>PORT``, as IP has them: 6 is TCP, 17 is UDP.
    """
    recorder = f"{PROGRAMS}/recorder.py"
    storage.put(recorder, RECORDER)
    said = f"{PROGRAMS}/recorder.said"
    storage.run(
        f": >{said}; systemd-run --quiet --collect --unit=recorder --property=StandardOutput=truncate:{said} "
        f"python3 {recorder} eth1 {PROGRAMS}/recording"
    )
    try:
        wait_for("the recorder", lambda: "ready" in storage.run(f"cat {said}"), timeout=60)
        text = client.run("od -A n -N 16 -t x1 /dev/urandom | tr -d ' '")
        client.run(f"{AS_SERVICE} sh -c 'yes unheard-of-{text} | head -n 4000 >{MEDIA}/{name} && sync {MEDIA}/{name}'")
        client.run("echo 3 >/proc/sys/vm/drop_caches")
        for host in (client, storage):
            assert host.run(f"grep --count unheard-of-{text} {MEDIA}/{name}") == "4000"
    finally:
        storage.run("systemctl stop recorder.service")
    wire = base64.b64decode(storage.run(f"gzip --to-stdout {PROGRAMS}/recording | base64 --wrap=0", timeout=300))
    storage.run(f"rm {PROGRAMS}/recording")
    client.as_service(f"rm {MEDIA}/{name}")
    return f"unheard-of-{text}", re.split(rb"<(?=(?:6|17) \d{1,5}>\d{1,5} )", gzip.decompress(wire))[1:]


def heads(packets: list[bytes], protocol: int, port: int) -> int:
    """Count packets of a protocol that come from a port or go there."""
    head = re.compile(rb"%d (?:%d>\d+|\d+>%d) " % (protocol, port, port))
    return sum(head.match(packet) is not None for packet in packets)


def test_a_recording_of_the_private_network_holds_no_text_and_no_nfs(storage: Guest, client: Guest) -> None:
    text, packets = recorded(storage, client, "recorded.txt")
    # The file alone has 176 kB, and went to and fro.
    assert sum(map(len, packets)) > 200_000
    assert heads(packets, 17, 51820) > 100
    assert heads(packets, 6, 2049) == 0
    assert text.encode() not in b"".join(packets)


def test_the_tree_is_served_and_mounted_in_the_tunnel_only(storage: Guest, client: Guest, inventory: Inventory) -> None:
    server = tunnel_address(inventory.address("storage"))
    source = client.run("findmnt --noheadings --output SOURCE --types nfs4 --mountpoint /srv/escriptorium")
    assert source == f"{server}:/srv/escriptorium"
    listening = storage.run("ss --no-header --listening --numeric --tcp sport = :2049 | awk '{print $4}'").split()
    assert set(listening) == {f"{server}:2049"}
    exported = storage.run("exportfs -s")
    assert exported.count(tunnel_address(inventory.address("node1"))) == len(exported.splitlines()) == 1
    # Keys are for root.
    for host in (storage, client):
        assert host.run("stat --format '%a %U' /etc/wireguard/wg-tree.conf") == "600 root"


def test_firewalls_are_in_force_and_answer_nfs_in_the_tunnel_only(storage: Guest, client: Guest) -> None:
    for host in (storage, client):
        assert host.run("escriptorium-firewall pending") == ""
    rules = [line for line in storage.run("nft list table inet escriptorium").splitlines() if "dport 2049" in line]
    assert len(rules) == 1
    assert 'iifname "wg-tree"' in rules[0]
    # Dropped, not refused: nothing that listened there would be reached.
    asked = client.machine.ssh("timeout 10 bash -c '</dev/tcp/10.213.80.11/2049'", timeout=60)
    assert asked.returncode == 124, asked.stdout + asked.stderr


def test_what_is_for_the_tunnel_takes_no_other_way(client: Guest) -> None:
    """Somebody else could answer it there, while the tunnel is down."""
    server = tunnel_address("10.213.80.11")
    client.run("systemctl stop wg-tree.service")
    try:
        said = client.fails(f"ip route get {server}")
        assert re.search("unreachable|No route to host", said), said
    finally:
        client.run("systemctl start wg-tree.service")
    wait_for("the tree", lambda: client.machine.ssh(f"timeout 20 {AS_SERVICE} ls {MEDIA}").returncode == 0, timeout=120)


@pytest.mark.fault
def test_a_client_that_boots_mounts_the_tree_through_the_tunnel(client: Guest) -> None:
    client.machine.power_off()
    client.machine.boot()
    client.machine.await_ssh()
    wait_for(
        "the mount",
        lambda: client.machine.ssh("findmnt --types nfs4 --mountpoint /srv/escriptorium").returncode == 0,
        timeout=180,
    )
    order = client.run("systemctl show --property=After --value srv-escriptorium.mount").split()
    assert "remote-fs-pre.target" in order
    client.as_service(f"touch {MEDIA}/after-boot")
    client.as_service(f"rm {MEDIA}/after-boot")


@pytest.mark.fault
def test_a_tree_in_use_moves_out_of_the_tunnel_and_back(storage: Guest, client: Guest, inventory: Inventory) -> None:
    clear = ("--extra-vars", "storage_encryption=none")
    outside = inventory.address("storage")
    source = "findmnt --noheadings --output SOURCE --types nfs4 --mountpoint /srv/escriptorium"
    # A plain run is refused, before anybody waits for a server that has left its address.
    run = play(inventory, "playbooks/deploy-storage.yml", *clear, check=False)
    assert "playbooks/move-tree.yml mounts it anew" in " ".join(run.output.split())
    client.as_service(f"touch {MEDIA}/still-there")
    client.as_service(f"rm {MEDIA}/still-there")
    try:
        play(inventory, "playbooks/move-tree.yml", *clear)
        assert client.run(source) == f"{outside}:/srv/escriptorium"
        for host in (storage, client):
            host.run("test ! -e /sys/class/net/wg-tree && test ! -e /etc/wireguard/wg-tree.conf")
        text, packets = recorded(storage, client, "clear.txt")
        assert heads(packets, 6, 2049) > 10, "the recorder sees what is there"
        assert text.encode() in b"".join(packets)
        assert play(inventory, "playbooks/deploy-storage.yml", *clear).changed == []
    finally:
        play(inventory, "playbooks/move-tree.yml")
    assert client.run(source) == f"{tunnel_address(outside)}:/srv/escriptorium"
    assert play(inventory, "molecule/storage/converge.yml").changed == []


# ---- what the module refuses -----------------------------------------------------------------------------------------


@pytest.fixture
def used_disks(storage: Guest) -> Iterator[None]:
    """c1 has a partition table, c2 the label of a pool that is exported, c3 swap space."""
    clean = (
        f"zpool labelclear -f {DISK}c2-part1 2>/dev/null; for disk in c1 c2 c3; do "
        f"sgdisk --zap-all {DISK}$disk >/dev/null 2>&1; wipefs --quiet --all {DISK}$disk; done; udevadm settle"
    )
    storage.run(clean)
    storage.run(f"sgdisk --new 1:0:0 {DISK}c1 >/dev/null && mkswap {DISK}c3 >/dev/null")
    storage.run(f"zpool create -O mountpoint=none elsewhere {DISK}c2 && zpool export elsewhere && udevadm settle")
    yield
    storage.run(clean)


def starts_of_disks(storage: Guest) -> str:
    """Checksums of the first part of the disks for growth."""
    return storage.run(f"for disk in c1 c2 c3 c4; do head -c 16777216 {DISK}$disk | sha256sum; done")


@pytest.mark.usefixtures("used_disks")
def test_disks_that_carry_anything_are_refused_all_at_once(
    inventory: Inventory, declared: dict[str, Any], storage: Guest
) -> None:
    before = (starts_of_disks(storage), states(pool_status(storage)["vdevs"]))
    disks = [f"{DISK}{serial}" for serial in ("c1", "c2", "c3", "not-there")]
    answer = zfs_pool(inventory, declared | {"vdevs": [*declared["vdevs"], {"type": "raidz2", "disks": disks}]})
    told = "\n".join(f"{refusal['path']} {refusal['found']} {refusal['mend']}" for refusal in answer["refusals"])
    assert len(answer["refusals"]) == 4, told
    for word in ("partition", "elsewhere", "swap", "not-there"):
        assert word in told, f"{word}: {told}"
    assert (starts_of_disks(storage), states(pool_status(storage)["vdevs"])) == before


@pytest.mark.fault
def test_disk_of_another_size_is_refused(inventory: Inventory, declared: dict[str, Any], storage: Guest) -> None:
    disks = [f"{DISK}{serial}" for serial in ("c1", "c2", "c3", "c4")]
    grown = [*declared["vdevs"], {"type": "raidz2", "disks": disks, "size": "1TB"}]
    answer = zfs_pool(inventory, declared | {"vdevs": grown})
    assert {refusal["path"].partition(".")[0] for refusal in answer["refusals"]}
    assert all("c" in str(refusal) for refusal in answer["refusals"])
    assert len(data_vdevs(storage)) in {2, 3}


@pytest.mark.fault
def test_series_of_another_redundancy_is_refused(inventory: Inventory, declared: dict[str, Any]) -> None:
    disks = [f"{DISK}{serial}" for serial in ("c1", "c2", "c3", "c4")]
    answer = zfs_pool(inventory, declared | {"vdevs": [*declared["vdevs"], {"type": "raidz1", "disks": disks}]})
    assert any("raidz1" in str(refusal) for refusal in answer["refusals"])


# ---- names of devices ------------------------------------------------------------------------------------------------


@contextmanager
def exported_pool(storage: Guest) -> Iterator[None]:
    """Export the pool, and have it back in the end, whoever has imported it: all other checks need it."""
    storage.run("systemctl stop nfs-server.service && zpool export tank")
    try:
        yield
    finally:
        storage.run("zpool list tank >/dev/null 2>&1 || zpool import -d /dev/disk/by-id tank")
        storage.run("systemctl start nfs-server.service")


@pytest.mark.fault
def test_pool_under_other_device_names_is_the_same(
    inventory: Inventory, declared: dict[str, Any], storage: Guest
) -> None:
    """As after a move to another controller: by-path names in place of by-id names."""
    with exported_pool(storage):
        storage.run("zpool import -d /dev/disk/by-path tank")
        names = states(pool_status(storage)["vdevs"])
        assert all(name.startswith("pci-") for name in names), names
        answer = zfs_pool(inventory, declared)
        assert (answer["changed"], answer["drift"]) == (False, [])
        storage.run("zpool export tank")
    assert zfs_pool(inventory, declared)["changed"] is False


@pytest.mark.fault
def test_exported_pool_is_imported(inventory: Inventory, declared: dict[str, Any], storage: Guest) -> None:
    with exported_pool(storage):
        asked = zfs_pool(inventory, declared, check=True)
        assert [step[:2] for step in asked["steps"]] == [["zpool", "import"]]
        assert zfs_pool(inventory, declared)["changed"] is True
    assert pool_status(storage)["state"] == "ONLINE"
    assert storage.run(f"findmnt --noheadings --output SOURCE --mountpoint {MEDIA}") == "tank/escriptorium/media"


def by_size(declared: dict[str, Any]) -> dict[str, Any]:
    """A pool of four disks of 512 MiB, whichever."""
    rule = {"count": 4, "at_least": "500M", "at_most": "520M"}
    return declared | {"vdevs": [{"type": "raidz2", "disks": rule}], "spares": [], "cache": []}


@pytest.mark.fault
def test_exchanged_names_are_refused_and_never_added(
    inventory: Inventory, declared: dict[str, Any], storage: Guest
) -> None:
    if len(data_vdevs(storage)) > 2:
        pytest.skip("the pool was grown by an earlier run")
    disks = [f"{DISK}{serial}" for serial in ("c1", "c2", "c3", "c4")]
    exchanged = [declared["vdevs"][0], {"type": "raidz2", "disks": disks}]
    (refusal,) = zfs_pool(inventory, declared | {"vdevs": exchanged})["refusals"]
    assert refusal["path"] == "zfs_vdevs[1]"
    assert refusal["mend"].count("zpool replace tank ") == 4
    assert len(data_vdevs(storage)) == 2


@pytest.mark.fault
def test_pool_that_is_switched_off_is_not_made_again(
    inventory: Inventory, declared: dict[str, Any], storage: Guest
) -> None:
    """The enclosure has no power, blanks are there, and the rule means them."""
    if len(data_vdevs(storage)) > 2:
        pytest.skip("the pool was grown by an earlier run")
    record, cache = "/var/lib/zfs-pool/tank.json", "/etc/zfs/zpool.cache"
    assert zfs_pool(inventory, declared)["changed"] is False
    assert json.loads(storage.run(f"cat {record}"))["guid"] == pool_status(storage)["pool_guid"]
    storage.run(f"cp {cache} {PROGRAMS}/zpool.cache")
    with exported_pool(storage):
        try:
            for serial in (f"{series}{number}" for series in "ab" for number in range(1, 5)):
                storage.machine.pull(serial)
            storage.run("udevadm settle")
            (refusal,) = zfs_pool(inventory, by_size(declared), check=True)["refusals"]
            assert f"{DISK}a1" in refusal["found"]
            assert f"rm {record}" in refusal["mend"]
            # As a host that has no record yet, and was stopped with the pool imported.
            storage.run(f"mv {record} {PROGRAMS}/tank.json && cp {PROGRAMS}/zpool.cache {cache}")
            (refusal,) = zfs_pool(inventory, by_size(declared), check=True)["refusals"]
            assert f"rm {cache}" in refusal["mend"]
        finally:
            storage.run(f"[ ! -e {PROGRAMS}/tank.json ] || mv {PROGRAMS}/tank.json {record}")
            for serial in storage.machine.pulled():
                storage.machine.plug(serial)
            storage.run("udevadm settle; sleep 5")
    wait_for("the pool to be whole", lambda: is_well(storage), timeout=180, pause=3)
    assert zfs_pool(inventory, declared)["changed"] is False


# ---- disks, cables, power --------------------------------------------------------------------------------------------


def bring_back(inventory: Inventory, declared: dict[str, Any], storage: Guest, serials: Sequence[str]) -> None:
    """Plug disks in again and wait until they are whole.

    ZFS takes a spare out by itself for the disk that came back first only; for others the module says how.
    """
    for serial in serials:
        storage.machine.plug(serial)
    storage.run("udevadm settle; sleep 5; zpool clear tank")
    wait_for("the disks to be back", lambda: is_whole(pool_status(storage)), timeout=180, pause=3)
    for drift in zfs_pool(inventory, declared)["drift"]:
        assert drift["command"].startswith("zpool detach tank "), drift
        storage.run(drift["command"])
    wait_for("the spares to be free", lambda: is_well(storage), timeout=180, pause=3)


def await_spares(storage: Guest, number: int) -> None:
    """Wait until so many spares stand in for disks that went."""
    wait_for(f"{number} spares to stand in", lambda: spares_in_use(storage) == number, timeout=120)


def replace_disk(inventory: Inventory, storage: Guest, wanted: dict[str, Any]) -> None:
    """Do what the drift of a declaration says, as docs/storage.md does, and wait for the end of the repair."""
    answer = zfs_pool(inventory, wanted)
    assert answer["changed"] is False, "a disk is never replaced without a person"
    commands = [str(drift["command"]) for drift in answer["drift"]]
    assert len(commands) == 1, answer["drift"]
    assert commands[0].startswith("zpool replace tank "), commands
    storage.run(commands[0])
    wait_for("the new disk to be filled and the spare to be free", lambda: is_well(storage), timeout=180, pause=3)
    again = zfs_pool(inventory, wanted)
    assert (again["changed"], again["drift"]) == (False, [])


def test_disk_fails_during_writes_and_is_replaced(
    writing: Any, inventory: Inventory, declared: dict[str, Any], storage: Guest
) -> None:
    """A spare takes over, no byte is lost, a person is told; then the steps of docs/storage.md."""
    renamed = json.loads(json.dumps(declared).replace("HARDDISK_b4", "HARDDISK_spare3"))
    storage.run("rm -rf /var/mail-out")
    files = writing()
    files.await_written(3)
    storage.machine.pull("b4")
    try:
        await_spares(storage, 1)
        files.await_written(files.written() + 2)
        wait_for(
            "a mail about it", lambda: "tank" in storage.run("cat /var/mail-out/* 2>/dev/null || true"), timeout=60
        )
        letter = storage.run("cat /var/mail-out/*")
        assert "admin@storage.test" in letter
        assert "DEGRADED" in letter or "REMOVED" in letter
        files.check()
        replace_disk(inventory, storage, renamed)
    finally:
        storage.machine.plug("b4", blank=True)
        storage.run("udevadm settle")
    # And back: the disk that works is replaced as well.
    replace_disk(inventory, storage, declared)
    storage.run(
        f"zpool labelclear -f {DISK}spare3-part1 2>/dev/null; sgdisk --zap-all {DISK}spare3 >/dev/null; udevadm settle"
    )


@pytest.mark.fault
def test_two_disks_of_one_series_fail_during_writes(
    writing: Any, inventory: Inventory, declared: dict[str, Any], storage: Guest
) -> None:
    files = writing()
    files.await_written(3)
    try:
        for number, serial in enumerate(("a1", "a2"), start=1):
            storage.machine.pull(serial)
            await_spares(storage, number)
            files.await_written(files.written() + 2)
        files.check()
    finally:
        bring_back(inventory, declared, storage, storage.machine.pulled())


@pytest.mark.fault
def test_storage_host_loses_its_power_during_writes(writing: Any, storage: Guest, client: Guest) -> None:
    files = writing()
    files.await_written(5)
    storage.machine.power_off()
    time.sleep(5)
    assert files.is_running(), "the client waits; it does not fail"
    done = files.written()
    storage.machine.boot()
    storage.machine.await_ssh()
    assert storage.run(f"findmnt --noheadings --output SOURCE --mountpoint {MEDIA}") == "tank/escriptorium/media"
    files.await_written(done + 2, timeout=180)
    files.check()
    assert client.run("findmnt --noheadings --types nfs4 --mountpoint /srv/escriptorium")


@pytest.mark.fault
def test_network_is_cut_during_writes(writing: Any, storage: Guest) -> None:
    files = writing()
    files.await_written(3)
    storage.machine.cable(plugged=False)
    try:
        time.sleep(OUTAGE)
        assert files.is_running(), "the client waits; it does not fail"
        stuck = files.written()
    finally:
        storage.machine.cable(plugged=True)
    files.await_written(stuck + 2, timeout=180)
    files.check()


@pytest.mark.fault
def test_full_quota_is_told_and_harms_nothing(writing: Any, storage: Guest, client: Guest) -> None:
    files = writing(pause=0)
    files.await_written(5)
    files.end()
    said = client.fails(
        f"{AS_SERVICE} dd if=/dev/urandom of={MEDIA}/too-much bs=1M count=200 conv=fsync 2>&1 >/dev/null", timeout=240
    )
    assert re.search("quota exceeded|No space left", said), said
    # Full to the brim, and what was there is whole.
    assert int(storage.run("zfs list -Hp -o available tank/escriptorium/media")) < 8 << 20
    client.run("echo 3 >/proc/sys/vm/drop_caches")
    client.run(f"sha256sum --check --quiet {files.sums}")
    client.as_service(f"rm {MEDIA}/too-much")
    # The space comes back with the next transaction group, and other datasets never lost any.
    wait_for(
        "space", lambda: int(storage.run("zfs list -Hp -o available tank/escriptorium/media")) > 64 << 20, timeout=60
    )
    client.as_service(f"dd if=/dev/urandom of={MEDIA}/again bs=1M count=5 conv=fsync status=none")
    client.as_service(f"rm {MEDIA}/again")
    files.check()


# ---- who may mount ---------------------------------------------------------------------------------------------------


@contextmanager
def second_client(client: Guest, inventory: Inventory) -> Iterator[str]:
    """Another host of the private network, in a network namespace of the client; answers how to run commands in it.

    It has a host name of its own: a server knows NFS clients by it. Its end of the tunnel has the key of the host
    ``node2``, as a run would write it.
    """
    content = (inventory.folder / CERTIFICATES / platform_tunnel_keys.FILE).read_text(encoding="utf-8")
    conf = f"{PROGRAMS}/stranger.conf"
    client.put(
        conf,
        f"[Interface]\nPrivateKey = {platform_tunnel_keys.private_key(content, 'node2')}\n"
        f"[Peer]\nPublicKey = {platform_tunnel_keys.public_key(content, 'storage')}\n"
        f"Endpoint = {inventory.address('storage')}:51820\nPersistentKeepalive = 5\n"
        f"AllowedIPs = {tunnel_address(inventory.address('storage'))}/32",
    )
    client.run("ip netns add stranger && ip link add link eth1 name far0 type macvlan mode bridge")
    client.run(
        f"ip link set far0 netns stranger && ip -n stranger address add {STRANGER}/24 dev far0 "
        "&& ip -n stranger link set far0 up && ip -n stranger link set lo up && mkdir -p /mnt/stranger"
    )
    client.run(
        "ip -n stranger link add wg0 type wireguard && ip netns exec stranger wg setconf wg0 "
        f"{conf} && ip -n stranger address add {tunnel_address(STRANGER)}/16 dev wg0 && ip -n stranger link set wg0 up"
    )
    # A process holds the namespaces: of the network, the host name and the mounts.
    client.run(
        "systemd-run --quiet --collect --unit=stranger ip netns exec stranger unshare --uts "
        "sh -c 'hostname stranger && exec sleep 3600'; sleep 1"
    )
    inside = 'nsenter --target "$(systemctl show --property=MainPID --value stranger)" --net --uts --mount '
    try:
        yield inside
    finally:
        client.run(
            f"{inside} umount -f -l /mnt/stranger 2>/dev/null; systemctl stop stranger; ip netns delete stranger"
        )


@pytest.mark.fault
def test_only_hosts_of_the_inventory_mount(
    writing: Any, storage: Guest, client: Guest, inventory: Inventory, tmp_path: Path
) -> None:
    """A host that is added can mount after one run, while another writes; both see each other's locks.

    The run is limited to one host: what the others were allowed stays, and what none of them needs is gone.
    """
    server_address = tunnel_address(inventory.address("storage"))
    mount = f"timeout 60 mount -t nfs4 -o vers=4.2,retry=0 {server_address}:/srv/escriptorium /mnt/stranger"
    more = tmp_path / "more.yml"
    # The machines of the scenario are reached by forwarded ports; this one is no machine.
    stranger = {"private_address": STRANGER, "ansible_host": STRANGER, "ansible_port": 22}
    more.write_text(json.dumps({"compute": {"hosts": {"node2": stranger}}}), encoding="utf-8")
    invocations = "systemctl show --property=InvocationID nfs-server.service wg-tree.service"
    before = storage.run(invocations)
    with second_client(client, inventory) as inside:
        client.fails(inside + mount)
        files = writing(size=1 << 16, pause=0.5)
        files.await_written(1)
        try:
            # Of a second storage server that the inventory does not know any more.
            storage.run(f"""echo 'restrict,from="{STRANGER}" ssh-ed25519 AAAA gone' >>{COPIERS}""")
            run = play(inventory, "playbooks/deploy-base.yml", "--inventory", str(more), "--limit", "storage")
            assert run.stats["storage"]["changed"] <= 2, run.changed
            run = play(inventory, "playbooks/deploy-storage.yml", "--inventory", str(more), "--limit", "storage")
            assert run.stats["storage"]["changed"] <= 3, run.changed
            keys = storage.run(f"cut --delimiter=, --fields=1-2 {COPIERS}").split()
            assert keys == [f'restrict,from="{inventory.address("node1")}"']
            client.run(inside + mount)
            lock = f"{MEDIA}/lock"
            locked = f"{AS_SERVICE} python3 {PROGRAMS}/locker.py"
            client.run(f"systemd-run --quiet --unit=hold-lock sh -c '{locked} {lock} 60'")
            wait_for(
                "the lock",
                lambda: "locked" in client.run("journalctl --quiet --output=cat --unit=hold-lock"),
                timeout=60,
            )
            assert client.run(f"{inside} {locked} /mnt/stranger/media/lock 0") == "busy"
            client.run("systemctl stop hold-lock")
            assert client.run(f"{inside} {locked} /mnt/stranger/media/lock 0") == "locked"
        finally:
            client.run(f"systemctl stop hold-lock 2>/dev/null; {AS_SERVICE} rm -f {MEDIA}/lock")
            # What a run of another host tells the storage host: its inventory has that one no more.
            play(inventory, "playbooks/deploy-base.yml", "--limit", "node1")
            play(inventory, "playbooks/deploy-storage.yml", "--limit", "node1")
        files.check()
    assert len(storage.run("wg show wg-tree peers").splitlines()) == 1
    assert STRANGER not in storage.run("nft list table inet escriptorium")
    assert tunnel_address(STRANGER) not in storage.run("exportfs -s")
    assert storage.run(invocations) == before, "never restarted"


# ---- snapshots and copies --------------------------------------------------------------------------------------------


def test_snapshots_are_taken_and_bring_a_file_back(storage: Guest, client: Guest) -> None:
    client.as_service(f"sh -c 'echo text >{MEDIA}/page.txt'")
    storage.run(
        "sanoid --take-snapshots --force-update --verbose >/dev/null; zfs snapshot tank/escriptorium/media@verify"
    )
    try:
        taken = storage.run("zfs list -H -t snapshot -o name tank/escriptorium/media").split()
        assert any("autosnap" in name and name.endswith("hourly") for name in taken), taken
        client.as_service(f"rm {MEDIA}/page.txt")
        assert storage.run(f"cat {MEDIA}/.zfs/snapshot/verify/page.txt") == "text"
    finally:
        storage.run("zfs destroy tank/escriptorium/media@verify")


@pytest.mark.fault
def test_second_storage_server_gets_a_copy(storage: Guest, client: Guest) -> None:
    storage.run("sanoid --take-snapshots --force-update")
    client.run("systemctl start zfs-replica.service", timeout=300)
    asked = "zfs list -H -t snapshot -o guid -s guid"
    own = storage.run(f"{asked} tank/escriptorium/media").split()
    copied = client.run(f"{asked} copies/replica/escriptorium/media").split()
    assert copied
    assert set(copied) <= set(own)
    assert client.run("zfs get -H -o value mounted copies/replica/escriptorium/media") == "no"


def test_the_key_of_the_copies_starts_nothing_else(storage: Guest, client: Guest, inventory: Inventory) -> None:
    ssh = (
        "ssh -i /root/.ssh/zfs-replica -o BatchMode=yes -o UserKnownHostsFile=/root/.ssh/zfs-replica.known_hosts "
        f"-o StrictHostKeyChecking=yes zfs-replica@{inventory.address('storage')}"
    )
    asked = "zfs get -H -o value type tank"
    assert storage.run(asked) == "filesystem"
    for command in ("id", asked, "'zfs send tank@x'", "'echo -n; id'"):
        assert "for copies of snapshots only" in client.fails(f"{ssh} {command}")
    read = client.run(f"{ssh} zfs get -H syncoid:sync tank/escriptorium/media")
    assert read.startswith("tank/escriptorium/media")


# ---- back to a moment ------------------------------------------------------------------------------------------------
# Snapshots and moments count whole seconds: what comes after one has to lie in a later second.


def put_program(storage: Guest, name: str) -> None:
    """Put a program of the backups and the package that it imports on a machine, as the role does."""
    storage.run(f"mkdir -p {PROGRAMS}/{PACKAGE.name}")
    for path in PACKAGE.glob("*.py"):
        storage.put(f"{PROGRAMS}/{PACKAGE.name}/{path.name}", path.read_text(encoding="utf-8"))
    program = REPOSITORY / "roles/backup_repository/files" / name
    storage.put(f"{PROGRAMS}/{name}", program.read_text(encoding="utf-8"))


def test_media_go_back_to_a_moment(storage: Guest, client: Guest) -> None:
    """What restore.yml does: the newest snapshot before the moment, then what was written up to it; nothing is lost."""
    put_program(storage, "restore-media")
    quota = storage.run("zfs get -Hp -o value quota tank/escriptorium/media")
    client.as_service(f"sh -c 'mkdir {MEDIA}/moments && cd {MEDIA}/moments && echo old >kept && echo old >deleted'")
    # The snapshot holds a link in the place of what is a folder at the moment.
    client.as_service(f"ln -s /root {MEDIA}/trap")
    storage.run("zfs snapshot tank/escriptorium/media@moment && sleep 1.1")
    client.as_service(f"sh -c 'rm {MEDIA}/trap && mkdir {MEDIA}/trap && echo evil >{MEDIA}/trap/evil'")
    client.as_service(f"sh -c 'echo new >{MEDIA}/moments/between'")
    moment = storage.run("sleep 1.1; date +%s; sleep 1.1")
    client.as_service(f"sh -c 'cd {MEDIA}/moments && rm deleted && echo late >late'")
    answer = json.loads(storage.run(f"python3 {PROGRAMS}/restore-media tank/escriptorium/media {moment}"))
    # As the playbook does: else the client may go on with the dataset that left its place, where it has not noticed.
    left = client.machine.ssh(f"umount --lazy {MEDIA}")
    assert left.returncode == 0 or "not mounted" in left.stderr, left.stderr
    assert answer["snapshot"] == "tank/escriptorium/media@moment"
    assert (answer["copied"], answer["left_out"]) == (1, 1)
    storage.run("test ! -e /root/evil")
    assert client.run(f"cd {MEDIA}/moments && grep . *").split() == ["between:new", "deleted:old", "kept:old"]
    client.as_service(f"sh -c 'echo more >{MEDIA}/moments/more'")
    assert storage.run("zfs get -Hp -o value quota tank/escriptorium/media") == quota
    # The media as they were are all there.
    storage.run(f"mkdir -p /mnt/before && mount -t zfs -o zfsutil {answer['before']} /mnt/before")
    assert storage.run("cd /mnt/before/moments && grep . *").split() == ["between:new", "kept:old", "late:late"]
    storage.run(f"umount /mnt/before && zfs destroy -r {answer['before']}")
    client.as_service(f"rm -r {MEDIA}/moments {MEDIA}/trap")


@pytest.mark.fault
def test_a_restore_that_is_killed_is_finished_and_nothing_is_made_in_its_place(
    storage: Guest, client: Guest, inventory: Inventory
) -> None:
    """Killed when the media have lost their name, and the restored ones do not have it yet."""
    put_program(storage, "restore-media")
    storage.run(f"mkdir -p {PROGRAMS}/deadly")
    storage.put(
        f"{PROGRAMS}/deadly/zfs",
        '#!/bin/sh\n$(PATH=/usr/sbin:/sbin command -v zfs) "$@" || exit\n'
        'case "$1 $*" in "rename "*-before-*) kill -KILL $PPID ;; esac',
    )
    storage.run(f"chmod 755 {PROGRAMS}/deadly/zfs")
    client.as_service(f"sh -c 'mkdir {MEDIA}/killed && echo old >{MEDIA}/killed/page'")
    storage.run("zfs snapshot tank/escriptorium/media@killed && sleep 1.1")
    moment = storage.run("date +%s; sleep 1.1")
    client.as_service(f"sh -c 'echo new >{MEDIA}/killed/page'")
    command = f"python3 {PROGRAMS}/restore-media tank/escriptorium/media {moment}"
    storage.fails(f"PATH={PROGRAMS}/deadly:$PATH {command}")
    storage.fails("zfs list tank/escriptorium/media")
    run = play(inventory, "playbooks/deploy-storage.yml", "--limit", "storage", check=False)
    assert "A restore of tank/escriptorium/media was cut off" in " ".join(run.output.split())
    storage.fails("zfs list tank/escriptorium/media")
    answer = json.loads(storage.run(command))
    assert answer["finished"]
    client.machine.ssh(f"umount --lazy {MEDIA}")
    assert client.run(f"cat {MEDIA}/killed/page") == "old"
    assert play(inventory, "playbooks/deploy-storage.yml", "--limit", "storage").changed == []
    storage.run(f"zfs destroy -r {answer['before']}")
    client.as_service(f"rm -r {MEDIA}/killed")


def test_one_file_comes_back_from_a_snapshot(storage: Guest, client: Guest) -> None:
    """What recover.yml does for the files of a document."""
    put_program(storage, "recover-files")
    client.as_service(f"sh -c 'mkdir {MEDIA}/one && cd {MEDIA}/one && echo gone >gone && echo there >there'")
    storage.run("zfs snapshot tank/escriptorium/media@one && sleep 1.1")
    client.as_service(f"sh -c 'cd {MEDIA}/one && rm gone && echo newer >there'")
    request = {
        "media": MEDIA,
        "files": ["one/gone", "one/there", "one/never"],
        "uid": 2000,
        "gid": 2000,
        "dry_run": False,
        "dataset": "tank/escriptorium/media",
        "moment": int(storage.run("date +%s")),
    }
    answer = json.loads(storage.run(f"echo '{json.dumps(request)}' | python3 {PROGRAMS}/recover-files"))
    assert (answer["copied"], answer["there"], answer["missing"]) == (1, 1, ["one/never"])
    assert client.run(f"cd {MEDIA}/one && grep . *").split() == ["gone:gone", "there:newer"]
    assert client.run(f"stat --format %u:%g {MEDIA}/one/gone") == "2000:2000"
    client.as_service(f"rm -r {MEDIA}/one")


# ---- growth: last, since a series of disks stays for ever -----------------------------------------------------------


@pytest.mark.fault
def test_pool_grows(inventory: Inventory, declared: dict[str, Any], storage: Guest) -> None:
    if len(data_vdevs(storage)) > 2:
        pytest.skip("the pool was grown by an earlier run")
    disks = [f"{DISK}{serial}" for serial in ("c1", "c2", "c3", "c4")]
    wanted = declared | {
        "vdevs": [*declared["vdevs"], {"type": "raidz2", "size": "512M", "disks": disks}],
        "spares": [*declared["spares"], f"{DISK}spare3"],
        "cache": declared["cache"][:1],
        "log": [{"type": "mirror", "disks": [f"{DISK}log1", f"{DISK}log2"]}],
        "properties": {"autotrim": "off"},
    }
    before = storage.run("zpool status -P tank")
    asked = zfs_pool(inventory, wanted, check=True)
    assert len(asked["steps"]) >= 4
    assert storage.run("zpool status -P tank") == before, "a dry run changes nothing"
    assert zfs_pool(inventory, wanted)["changed"] is True
    told = pool_status(storage)
    assert set(states(list(data_vdevs(storage).values())[2]["vdevs"])) == {"c1", "c2", "c3", "c4"}
    assert set(states(told["spares"])) == {"spare1", "spare2", "spare3"}
    assert set(states(told["l2cache"])) == {"cache1"}
    assert set(states(told["logs"])) == {"log1", "log2"}
    assert storage.run("zpool get -H -o value autotrim tank") == "off"
    assert zfs_pool(inventory, wanted)["changed"] is False
    # Back, but for the series. A disk that was in a pool is taken again only when a person has wiped it.
    refusals = zfs_pool(inventory, declared)["refusals"]
    assert [refusal["path"] for refusal in refusals] == ["zfs_cache[1]"]
    wipe = re.search(r"wipefs --all .*", str(refusals[0]["mend"]))
    assert wipe is not None, refusals
    storage.run(wipe.group())
    answer = zfs_pool(inventory, declared)
    assert any("raidz2-2" in str(drift) for drift in answer["drift"]), answer["drift"]
    told = pool_status(storage)
    assert set(states(told["spares"])) == {"spare1", "spare2"}
    assert set(states(told["l2cache"])) == {"cache1", "cache2"}
    assert not told.get("logs")
    assert len(data_vdevs(storage)) == 3
