"""What a worker, a web process and their sockets may do when they misbehave: as a job that a file has taken over."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import misbehaving
import pytest
from support import reaches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support import Inventory

pytestmark = pytest.mark.scenario("single", "cluster")

#: An address of the host that is in no inventory; its sshd answers there.
ELSEWHERE: Final = "192.0.2.9"
#: Each unit sees a folder of its own there.
SCRATCH: Final = "/tmp"  # noqa: S108 - the name is what is tested
#: Processes of a worker, by their command line.
_MARK: Final = " --hostname {name}@"


@pytest.fixture
def misbehave(frontend: Any) -> Callable[[str, str], dict[str, Any]]:
    """Run a program as a job: ``misbehave(queue, program)`` returns what it has put into ``found``."""
    return partial(misbehaving.misbehave, frontend)


@pytest.fixture
def elsewhere(inventory: Inventory, connect: Callable[[str], Any]) -> Iterator[str]:
    """Give each host an address that belongs to nobody of the platform."""
    hosts = [connect(name) for name in {inventory.frontend, *inventory.compute}]
    for host in hosts:
        host.check_output(f"ip address replace {ELSEWHERE}/32 dev lo")
        assert reaches(host, ELSEWHERE, 22), "others of the host reach it"
    yield ELSEWHERE
    for host in hosts:
        host.check_output(f"ip address delete {ELSEWHERE}/32 dev lo")


def test_a_job_reads_nobody_elses_secrets(misbehave: Any, inventory: Inventory) -> None:
    """Files, and what the kernel tells of processes; those of the same account too."""
    program = """
found["files"] = {path: tried(lambda: read(path)) for path in (
    "/etc/escriptorium/escriptorium.env", "/etc/escriptorium/web.env", "/etc/escriptorium/mail.env", "/etc/shadow",
    "/etc/redis/escriptorium.conf", "/root/.ssh/authorized_keys", "/etc/ssh/ssh_host_ed25519_key")}
found["environments"] = {}
for path in glob.glob("/proc/[0-9]*/environ"):
    right, text = tried(lambda: read(path))
    if right and text:
        found["environments"][read(path.replace("environ", "cmdline")).replace("\\0", " ")] = text
found["processes"] = len(glob.glob("/proc/[0-9]*"))
"""
    found = misbehave("default", program)
    assert [path for path, (right, _) in found["files"].items() if right] == []
    own = _MARK.format(name="default")
    assert found["environments"], "it sees itself"
    assert [words for words in found["environments"] if own not in words] == [], "and no other worker, no web process"
    told = json.dumps(found)
    assert str(inventory.value("secret_django_key")) not in told
    assert str(inventory.value("secret_admin_password")) not in told
    assert "CLUSTER_EMAIL_PASSWORD" not in told
    assert str(inventory.value("secret_redis_password")) in told, "its own are there"


def test_a_job_writes_in_its_folders_only(misbehave: Any) -> None:
    program = """
found["may"] = {folder: tried(lambda: written(folder + "/misbehave"))[0] for folder in (
    "/srv/escriptorium/media", "/var/lib/escriptorium", "/tmp", "/srv/escriptorium", "/srv/escriptorium/releases",
    "/var/lib/escriptorium/static", "/opt/escriptorium/current/app", "/etc", "/etc/escriptorium", "/usr/local/bin",
    "/var/spool", "/home", "/root", "/run", "/run/escriptorium", "/etc/systemd/system", "/proc/sys/kernel", "/sys")}
"""
    may = misbehave("default", program)["may"]
    allowed = sorted(folder for folder, right in may.items() if right)
    assert allowed == ["/srv/escriptorium/media", SCRATCH, "/var/lib/escriptorium"]


def test_tmp_is_a_workers_own(misbehave: Any, inventory: Inventory, connect: Callable[[str], Any]) -> None:
    assert misbehave("default", f"open('{SCRATCH}/misbehave', 'w').close(); found['ok'] = True")["ok"]
    for name in {inventory.frontend, *inventory.compute}:
        assert not connect(name).file(f"{SCRATCH}/misbehave").exists


def test_a_job_gets_no_further(misbehave: Any) -> None:
    """No device, no other account, no namespace in which it would be root, no debugger."""
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found["root"] = tried(lambda: os.setuid(0))
found["namespace"] = libc.unshare(0x10000000)
found["debugger"] = libc.ptrace(16, os.getppid(), 0, 0)
found["devices"] = [name for name in os.listdir("/dev") if name.startswith(("sd", "loop", "kmsg", "mem", "nvidia"))]
about = read("/proc/self/status").splitlines()
found["privileges"] = [line for line in about if line.startswith(("CapBnd", "NoNewPrivs", "Seccomp:"))]
"""
    found = misbehave("default", program)
    assert not found["root"][0]
    assert (found["namespace"], found["debugger"]) == (-1, -1)
    assert found["devices"] == []
    privileges = dict(line.split(":\t")[:2] for line in found["privileges"])
    assert (int(privileges["CapBnd"], 16), privileges["NoNewPrivs"], privileges["Seccomp"]) == (0, "1", "2")


def test_a_job_reaches_the_platform_only(misbehave: Any, inventory: Inventory, elsewhere: str) -> None:
    frontend = inventory.address(inventory.frontend)
    program = f"""
ports = (5432, int(os.environ["REDIS_PORT"]))
found["services"] = [tried(lambda: connected({frontend!r}, port))[0] for port in ports]
found["elsewhere"] = tried(lambda: connected({elsewhere!r}, 22))
def asked():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"secrets", ({elsewhere!r}, 53))
found["a question of names"] = tried(asked)
"""
    for queue in ("default", "live", "low-priority"):
        found = misbehave(queue, program)
        assert found["services"] == [True, True], queue
        assert not found["elsewhere"][0], queue
        assert not found["a question of names"][0], queue
    fetches = misbehave("imports", program)
    assert fetches["elsewhere"][0], "other people's image servers are asked from there"


def test_only_what_mails_knows_the_relay(misbehave: Any) -> None:
    program = "found['own'] = sorted(name for name in os.environ if name.startswith('CLUSTER_EMAIL_'))"
    known = {queue: misbehave(queue, program)["own"] for queue in ("default", "live", "imports", "low-priority")}
    password = ["CLUSTER_EMAIL_PASSWORD", "CLUSTER_EMAIL_USER"]
    for queue, own in known.items():
        assert set(password) & set(own) == (set(password) if queue == "low-priority" else set()), queue


def test_the_key_of_sessions_is_where_sessions_are(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    """On a compute host nothing that an account may read, or root, has the key."""
    for name in {inventory.frontend, *inventory.compute}:
        host = connect(name)
        host.check_output("umask 077; printf %%s %s > /root/key", inventory.value("secret_django_key"))
        files = host.run("grep -rlFf /root/key /etc /var/lib/escriptorium /opt/escriptorium/cluster").stdout.split()
        host.check_output("rm /root/key")
        assert files == (["/etc/escriptorium/web.env"] if name == inventory.frontend else [])
        for file in ("escriptorium", "web", "mail"):
            found = host.file(f"/etc/escriptorium/{file}.env")
            if found.exists:
                assert (found.user, found.group, found.mode) == ("root", "root", 0o600)


def test_systemd_finds_little_to_blame(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    """Each unit as it is loaded, with what else this host says of it."""
    for name in {inventory.frontend, *inventory.compute}:
        host = connect(name)
        units = host.check_output(
            "systemctl list-units --plain --no-legend --all 'escriptorium-*.service' | awk '{print $1}'"
        ).split()
        assert units
        # That of the firewall loads rules as root, and no process stays.
        for unit in set(units) - {"escriptorium-firewall.service"}:
            answer = host.run("systemd-analyze security --threshold=25 --no-pager %s", unit)
            assert answer.rc == 0, (name, unit, answer.stdout.splitlines()[-1:])


def test_sockets_are_for_the_web_server(frontend: Any) -> None:
    """A restart of what answers leaves the socket as it is, and requests wait in it."""
    look = "stat --format '%a %U %G %i' /run/escriptorium/web.socket /run/escriptorium/websocket.socket"
    before = frontend.check_output(look)
    assert [line.split()[:3] for line in before.splitlines()] == [["660", "escriptorium", "www-data"]] * 2
    for socket_ in ("web", "websocket"):
        knock = f"import socket; socket.socket(socket.AF_UNIX).connect('/run/escriptorium/{socket_}.socket')"
        assert frontend.run("runuser -u www-data -- python3 -c %s", knock).rc == 0
        assert "PermissionError" in frontend.run("runuser -u nobody -- python3 -c %s", knock).stderr
    frontend.check_output("systemctl restart escriptorium-websocket.service")
    assert frontend.check_output(look) == before
    assert frontend.check_output("systemctl is-active escriptorium-websocket.socket") == "active"
