"""What the hosts of a cluster answer, to a host of no inventory and to one another; and rules that shut out ssh."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import Inventory, boot, play, reaches, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.scenario("cluster")

SCAN = Path(__file__).resolve().parent / "lib" / "scan.py"
#: A network with IPv6, which the containers have beside their own while these tests run.
SUBNETS = ("10.213.59.0/24", "fd00:213:59::/64")
#: The table of docs/security.md, of a cluster whose tree is no NFS.
EVERYBODY = {"frontend": [22, 80, 443]}
COMPUTE = {"frontend": [22, 80, 443, 5432, 6380]}
SSH = [22]
#: The first tier looks at ports up to here, the second at all.
SOME, ALL = 10_000, 65_535
#: Where no computer that runs Ansible is.
ELSEWHERE = {"firewall_admin_networks": ["192.0.2.0/24"], "firewall_seconds_to_prove": 30}
RULES = "nft --stateless list table inet escriptorium"


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Outside:
    """A host of no inventory in the same networks, and what it needs to look at the others."""

    inventory: Inventory
    container: str
    network: str

    @cached_property
    def second_addresses(self) -> dict[str, list[str]]:
        """IPv4 and IPv6 of each host in the second network."""
        found = {}
        for host in self.inventory.hosts:
            networks = json.loads(
                docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", self.inventory.container(host))
            )
            found[host] = [networks[self.network][key] for key in ("IPAddress", "GlobalIPv6Address")]
        return found

    def scan(self, last: int, addresses: list[str], container: str = "") -> dict[str, list[list[int]]]:
        """Ask ports of addresses from a container (this one); by address: those that take connections, that refuse."""
        seen_from = container or self.container
        docker("cp", str(SCAN), f"{seen_from}:/root/scan.py")
        found: dict[str, list[list[int]]] = json.loads(
            docker("exec", seen_from, "python3", "/root/scan.py", str(last), *addresses)
        )
        return found


@pytest.fixture(scope="module")
def outside(inventory: Inventory) -> Iterator[Outside]:
    name, network = (f"{inventory.value('node_cluster')}-{end}" for end in ("stranger", "outside"))
    hosts = [inventory.container(host) for host in inventory.hosts]
    rights = [word for right in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE") for word in ("--cap-add", right)]
    flags = ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--cgroupns", "private"]
    image = inventory.value("node_image")
    try:
        docker("network", "create", "--internal", "--ipv6", *(f"--subnet={subnet}" for subnet in SUBNETS), network)
        for host in hosts:
            docker("network", "connect", network, host)
        docker("run", "--detach", "--name", name, *rights, *flags, "--tmpfs", "/run", "--network",
               inventory.value("node_network_name"), image)  # fmt: skip
        docker("network", "connect", network, name)
        yield Outside(inventory, name, network)
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)
        for host in hosts:
            subprocess.run(
                ["docker", "network", "disconnect", "--force", network, host], check=False, capture_output=True
            )
        subprocess.run(["docker", "network", "rm", network], check=False, capture_output=True)


@contextmanager
def listener(host: Any, port: int) -> Iterator[None]:
    """Something on a host that listens for everybody, as a program that somebody forgot."""
    program = (
        "import socket, time; "
        f"s = socket.create_server(('::', {port}), family=socket.AF_INET6, dualstack_ipv6=True); time.sleep(900)"
    )
    host.check_output("systemd-run --quiet --collect --unit=forgotten python3 -c %s", program)
    try:
        wait_for("the listener", lambda: host.run("ss -Hltn sport = :%s | grep -q .", str(port)).rc == 0)
        yield
    finally:
        host.run("systemctl stop forgotten.service")


@pytest.mark.parametrize("last", [SOME, pytest.param(ALL, marks=pytest.mark.fault)])
def test_from_outside_hosts_answer_on_the_ports_of_the_table_and_no_other(
    last: int, outside: Outside, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    with listener(connect(inventory.compute[0]), 8000):
        addresses = {host: [inventory.address(host), *outside.second_addresses[host]] for host in inventory.hosts}
        answers = outside.scan(last, [address for several in addresses.values() for address in several])
        for host in inventory.hosts:
            wanted = EVERYBODY["frontend"] if host == inventory.frontend else SSH
            for address in addresses[host]:
                taken, refused = answers[address]
                print(host, address, taken, refused)
                assert taken == wanted
                # The port of the image server is open to the private network, and nothing listens there now.
                assert set(refused) <= ({8099} if address == inventory.address(host) else set())


def test_a_compute_host_reaches_what_it_needs_and_no_more(
    outside: Outside, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    one, other = inventory.compute
    with listener(connect(other), 8000):
        found = outside.scan(
            SOME, [inventory.address(host) for host in (inventory.frontend, other)], inventory.container(one)
        )
    # Redis in clear: open for processes of before TLS, and nothing listens there.
    assert found[inventory.address(inventory.frontend)] == [COMPUTE["frontend"], [6379]]
    assert found[inventory.address(other)] == [SSH, []]


def test_the_dry_run_shows_what_would_change_and_changes_nothing(
    inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    host = inventory.compute[0]
    before = connect(host).check_output(RULES)
    extra = {"firewall_extra_rules": [{"ports": [10050], "networks": ["192.0.2.7"]}]}
    run = play(
        inventory, "playbooks/deploy-base.yml", "--check", "--diff", "--limit", host, "--extra-vars", json.dumps(extra)
    )
    assert "+    ip saddr { 192.0.2.7 } tcp dport { 10050 } accept" in run.output
    assert connect(host).check_output(RULES) == before


def test_rules_that_shut_out_ssh_are_taken_back_by_the_host(
    inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    host = inventory.compute[0]
    before = connect(host).check_output(RULES)
    run = play(
        inventory, "playbooks/deploy-base.yml", "--limit", host, "--extra-vars", json.dumps(ELSEWHERE), check=False
    )
    assert run.stats[host]["failed"] == 1
    assert "the new rules of the firewall are not kept" in run.output
    assert reaches(connect(inventory.frontend), inventory.address(host), 22)
    assert connect(host).check_output(RULES) == before
    assert connect(host).check_output("escriptorium-firewall pending") == "not proved yet"
    # The next run makes it right, and the one after it changes nothing.
    assert play(inventory, "playbooks/deploy-base.yml", "--limit", host).changed
    assert play(inventory, "playbooks/deploy-base.yml", "--limit", host).changed == []
    assert connect(host).check_output("escriptorium-firewall pending") == ""


def test_tables_of_others_stay(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    host = inventory.compute[0]
    connect(host).check_output("nft add table inet others")
    try:
        connect(host).check_output("nft delete table inet escriptorium")
        assert play(inventory, "playbooks/deploy-base.yml", "--limit", host).changed, (
            "rules that somebody flushed come back"
        )
        connect(host).check_output("nft list table inet others")
        assert connect(host).run(RULES).rc == 0
    finally:
        connect(host).check_output("nft delete table inet others")


@pytest.mark.fault
def test_rules_are_in_force_after_a_boot(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    host = inventory.compute[0]
    before = connect(host).check_output(RULES)
    assert boot(inventory, connect, host).check_output(RULES) == before
