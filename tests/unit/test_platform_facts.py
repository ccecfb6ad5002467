"""The check of hosts by their facts: each that cannot carry the platform gives its problem."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from module_utils import platform_facts
from module_utils.platform_facts import GB, FactsHost, FactsSettings, HostFacts, check_facts
from tests.unit.sound_inventory import only

if TYPE_CHECKING:
    from module_utils.platform_problems import Problem

DEBIAN_12 = HostFacts("Debian", "12", "12.7", "x86_64", 16000, 8, 50 * GB)
DEBIAN_13 = replace(DEBIAN_12, major_version="13", version="13.1")
UBUNTU_24 = HostFacts("Ubuntu", "24", "24.04", "x86_64", 16000, 8, 50 * GB)


def host(name: str, facts: HostFacts, *roles: str, **settings: Any) -> FactsHost:
    return FactsHost(name, facts, frozenset(roles), FactsSettings(**settings))


def test_supported_hosts() -> None:
    hosts = [
        host("web", DEBIAN_12, "frontend"),
        host("files", DEBIAN_13, "storage"),
        host("cpu1", replace(DEBIAN_12, version="12.9"), "compute"),
    ]
    assert check_facts(hosts) == []


@pytest.mark.parametrize(
    ("facts", "roles", "settings", "accepted"),
    [
        (DEBIAN_13, ("frontend",), {}, False),
        (DEBIAN_13, ("storage", "compute"), {}, False),
        (DEBIAN_13, ("storage",), {}, True),
        (UBUNTU_24, ("frontend",), {}, False),
        (UBUNTU_24, ("frontend",), {"allow_untested": True}, True),
        (replace(UBUNTU_24, version="24.10"), ("frontend",), {"allow_untested": True}, False),
        (replace(UBUNTU_24, major_version="22", version="22.04"), ("storage",), {"allow_untested": True}, True),
        (replace(DEBIAN_12, distribution="Rocky", major_version="9"), ("storage",), {"allow_untested": True}, False),
    ],
)
def test_operating_system(facts: HostFacts, roles: tuple[str, ...], settings: dict[str, Any], accepted: bool) -> None:
    found = check_facts([host("a", facts, *roles, **settings)])
    assert (found == []) is accepted
    assert accepted or only(found).variable == "operating system"


def test_architecture() -> None:
    assert only(check_facts([host("a", replace(DEBIAN_12, architecture="aarch64"), "compute")])).found == "aarch64"


def test_another_firewall_is_refused_where_the_platform_has_its_own() -> None:
    other = replace(DEBIAN_12, other_firewalls=("firewalld",))
    (found,) = check_facts([FactsHost("web", other, frozenset({"frontend"}))])
    assert (found.variable, found.found) == ("firewall_enabled", "firewalld, switched on")
    assert "firewall_enabled: false" in found.mend
    assert check_facts([FactsHost("web", other, frozenset({"frontend"}), FactsSettings(firewall=False))]) == []


def test_a_tunnel_needs_a_kernel_that_knows_it() -> None:
    (found,) = check_facts([FactsHost("cpu", replace(DEBIAN_12, has_wireguard=False), frozenset({"compute"}))])
    assert (found.variable, found.found) == ("storage_encryption", "no WireGuard in the kernel")
    assert "linux-image-amd64" in found.mend


def test_a_tree_that_is_mounted_keeps_its_address() -> None:
    """Its clients would wait for the server at the old one, and nothing would end them."""
    mounted = replace(DEBIAN_12, tree_clients=(("10.10.0.11", "10.10.0.21"), ("198.18.0.11", "198.18.0.22")))

    def problems_of(address: str) -> list[Problem]:
        return check_facts([FactsHost("files", mounted, frozenset({"storage"}), FactsSettings(tree_address=address))])

    (found,) = problems_of("198.18.0.11")
    assert found.found == "the tree, mounted from 10.10.0.11 by 10.10.0.21"
    assert "playbooks/move-tree.yml" in found.mend
    assert problems_of("") == [], "the site has another way"
    unmoved = replace(mounted, tree_clients=(("10.10.0.11", "10.10.0.21"),))
    settings = FactsSettings(tree_address="10.10.0.11")
    assert check_facts([FactsHost("files", unmoved, frozenset({"storage"}), settings)]) == []


def test_web_server_without_ipv6() -> None:
    without = replace(DEBIAN_12, has_ipv6=False)
    (found,) = check_facts([FactsHost("web", without, frozenset({"frontend"}))])
    assert found.mend.startswith("set nginx_ipv6: false")
    assert check_facts([FactsHost("web", without, frozenset({"frontend"}), FactsSettings(ipv6=False))]) == []
    assert check_facts([FactsHost("cpu", without, frozenset({"compute"}))]) == []


def test_time_zone_that_a_host_lacks() -> None:
    settings = FactsSettings(timezone="US/Eastern")
    (found,) = check_facts(
        [FactsHost("store", replace(DEBIAN_12, has_timezone=False), frozenset({"storage"}), settings)]
    )
    assert (found.variable, found.found) == ("base_timezone", "'US/Eastern'")


def test_application_hosts_run_the_same_system() -> None:
    hosts = [
        host("web", DEBIAN_12, "frontend"),
        host("cpu1", UBUNTU_24, "compute", allow_untested=True),
        host("files", DEBIAN_13, "storage"),
    ]
    assert only(check_facts(hosts)).found == "Debian 12 x86_64 on web; Ubuntu 24.04 x86_64 on cpu1"


def test_disk_for_releases() -> None:
    small = replace(DEBIAN_12, release_free_bytes=6 * GB)
    assert only(check_facts([host("a", small, "compute")])).wanted == "20 GB or more"
    assert check_facts([host("a", replace(small, has_release=True), "compute")]) == []
    assert check_facts([host("a", small, "storage")]) == []
    assert check_facts([host("a", small, "compute", release_disk_gb=1)]) == []
    assert check_facts([host("a", replace(small, release_free_bytes=None), "compute")]) == []


def test_memory_of_the_largest_role() -> None:
    small = replace(DEBIAN_12, memory_mb=5000)
    assert only(check_facts([host("a", small, "compute", "storage")])).wanted == "8000 MB or more for a compute host"
    assert check_facts([host("a", small, "frontend")]) == []
    assert check_facts([host("a", small, "compute", memory_mb={"compute": 4000})]) == []
    assert only(check_facts([host("a", small, "storage", memory_mb=6000)])).found == "5000 MB"


def test_all_problems_of_all_hosts_at_once() -> None:
    bad = HostFacts("Rocky", "9", "9.4", "aarch64", 100, 1, 1)
    found = check_facts([host("a", bad, "frontend"), host("b", bad, "frontend"), host("c", DEBIAN_12, "compute")])
    assert [problem.host for problem in found] == ["a, b"] * 4 + ["frontend and compute hosts"]


def test_every_rule_is_asked_once() -> None:
    written = {one for name, one in vars(platform_facts).items() if name.startswith("fact_")}
    # Asked apart: it compares hosts.
    assert written - {platform_facts.fact_same_family} == set(platform_facts.HOST_FACT_RULES)
    assert len(platform_facts.HOST_FACT_RULES) == len(written) - 1
