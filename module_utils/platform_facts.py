"""The check of hosts by their facts, before anything is changed: what they are must carry the platform.

One small function per rule, as for the inventory (platform_inventory.py); ``check_facts`` returns all problems at once.

No Ansible import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .platform_gpu import cuda_of_driver
from .platform_problems import Problem, collapse, listed, quote

DEFAULT_MEMORY_MB: Final[Mapping[str, int]] = {"frontend": 4000, "storage": 1500, "compute": 8000}
DEFAULT_RELEASE_DISK_GB = 20
APPLICATION_ROLES = frozenset({"frontend", "compute"})
TESTED_APPLICATION = frozenset({"Debian 12"})
TESTED_STORAGE = frozenset({"Debian 12", "Debian 13"})
UNTESTED = frozenset({"Ubuntu 22.04", "Ubuntu 24.04"})
GB = 1000**3
# Newest branch of the driver in each Debian release.
DEBIAN_DRIVERS: Final[Mapping[str, str]] = {"12": "535", "13": "550"}
# Upstream's compose file gives its one GPU container 3 GB (shm_size) for up to eight loading processes; a batch of
# eight lines takes some tens of MB.
SHARED_MEMORY_PER_TRAINING = GB


@dataclass(frozen=True)
class HostFacts:
    """What a host is made of.

    ``version`` is the whole version of the distribution ("12.7", "24.04"), ``memory_mb`` MB of 1024 * 1024 bytes as
    Ansible's facts count them, ``release_free_bytes`` the free space under /opt, ``has_release`` whether the host
    carries a release already, ``driver_version`` the version of NVIDIA's driver that is loaded (empty where none is),
    ``shared_memory_bytes`` the size of /dev/shm, ``has_ipv6`` whether its kernel knows IPv6,
    ``has_timezone`` whether it knows the site's time zone, ``other_firewalls`` those that are switched on there beside
    the platform's own, ``has_wireguard`` whether a host that is to have WireGuard knows it, ``tree_clients`` who is
    connected to the NFS server: (its address, the client's). None where not known.
    """

    distribution: str
    major_version: str
    version: str
    architecture: str
    memory_mb: int | None = None
    processors: int | None = None
    release_free_bytes: int | None = None
    has_release: bool = False
    driver_version: str = ""
    shared_memory_bytes: int | None = None
    has_ipv6: bool = True
    has_timezone: bool = True
    other_firewalls: tuple[str, ...] = ()
    has_wireguard: bool = True
    tree_clients: tuple[tuple[str, str], ...] = ()

    @property
    def system(self) -> str:
        """Distribution and release family: ``Debian 12``, ``Ubuntu 24.04``."""
        return f"{self.distribution} {self.version if self.distribution == 'Ubuntu' else self.major_version}"


@dataclass(frozen=True)
class GpuSettings:
    """What the cards of a host mean for its driver.

    ``workers`` counts the workers on cards, ``load_threads`` the processes with which each reads its training data.
    ``managed`` says whether this repository installs the driver, ``version`` what it stays on (empty: the newest of the
    Debian release), ``cuda`` the CUDA version that the release's PyTorch is made for, e.g. "12.1".
    """

    workers: int
    load_threads: int
    managed: bool
    version: str
    cuda: str


@dataclass(frozen=True)
class FactsSettings:
    """Bounds of the facts stage for one host (site variables preflight_*).

    ``gpu`` is None where it has no cards; ``ipv6`` says whether the web server is to listen there, ``firewall`` whether
    the host is to have the platform's own, ``tree_address`` where it is to serve the tree (empty: nowhere).
    """

    allow_untested: bool = False
    release_disk_gb: float = DEFAULT_RELEASE_DISK_GB
    memory_mb: int | Mapping[str, int] | None = None
    gpu: GpuSettings | None = None
    ipv6: bool = True
    timezone: str = "Etc/UTC"
    firewall: bool = True
    tree_address: str = ""

    def memory_for(self, role: str) -> int:
        """Memory in MB that a host of the group ``role`` must have."""
        if isinstance(self.memory_mb, Mapping):
            return int(self.memory_mb.get(role, DEFAULT_MEMORY_MB.get(role, 0)))
        return int(self.memory_mb) if self.memory_mb is not None else DEFAULT_MEMORY_MB.get(role, 0)


@dataclass(frozen=True)
class FactsHost:
    """One host of the facts stage: its facts, its groups of the platform, its bounds."""

    name: str
    facts: HostFacts
    roles: frozenset[str]
    settings: FactsSettings = FactsSettings()

    @property
    def runs_application(self) -> bool:
        """True where the host gets the release."""
        return bool(self.roles & APPLICATION_ROLES)


def fact_system(host: FactsHost) -> Iterator[Problem]:
    """Want a tested system: the application needs Python 3.11 or 3.12, and other systems were never tried."""
    tested = TESTED_APPLICATION if host.runs_application else TESTED_STORAGE
    if host.facts.system in tested:
        return
    wanted = " or ".join(sorted(tested))
    if host.facts.system in UNTESTED:
        if host.settings.allow_untested:
            return
        mend = "install a tested system, or set preflight_allow_untested: true at your own risk"
    else:
        mend = "install a tested system"
    yield Problem(host.name, "operating system", host.facts.system, wanted, mend)


def fact_architecture(host: FactsHost) -> Iterator[Problem]:
    """Want x86_64: the pinned packages of a release are wheels for x86_64."""
    if host.facts.architecture != "x86_64":
        yield Problem(host.name, "architecture", host.facts.architecture, "x86_64", "use an x86_64 host")


def fact_disk(host: FactsHost) -> Iterator[Problem]:
    """Want room for releases: each takes several GB, and a disk that fills stops the host."""
    free = host.facts.release_free_bytes
    if free is None or not host.runs_application:
        return
    wanted = host.settings.release_disk_gb / (4 if host.facts.has_release else 1)
    if free < wanted * GB:
        yield Problem(
            host.name,
            "free disk space under /opt",
            f"{free / GB:.1f} GB",
            f"{wanted:g} GB or more",
            "free some space, give /opt a larger file system, or lower preflight_release_disk_gb",
        )


def fact_memory(host: FactsHost) -> Iterator[Problem]:
    """Below this a service is killed for memory in the middle of somebody's job."""
    if host.facts.memory_mb is None or not host.roles:
        return
    role = max(sorted(host.roles), key=host.settings.memory_for)
    wanted = host.settings.memory_for(role)
    if host.facts.memory_mb < wanted:
        yield Problem(
            host.name,
            "memory",
            f"{host.facts.memory_mb} MB",
            f"{wanted} MB or more for a {role} host",
            "give the host more memory, or lower preflight_memory_mb",
        )


def fact_ipv6(host: FactsHost) -> Iterator[Problem]:
    """Without IPv6 in the kernel nginx does not start with an address of it, and there is no site at all."""
    if "frontend" in host.roles and host.settings.ipv6 and not host.facts.has_ipv6:
        mend = "set nginx_ipv6: false, or boot the host with IPv6 (without ipv6.disable=1)"
        yield Problem(host.name, "IPv6", "none in the kernel", "IPv6, which nginx is to listen on", mend)


def fact_timezone(host: FactsHost) -> Iterator[Problem]:
    """Want a time zone that the host has: it shows UTC else, and old names are in a package of their own by now."""
    if not host.facts.has_timezone:
        mend = "write the zone's present name (America/New_York for US/Eastern), or install tzdata-legacy there"
        yield Problem(host.name, "base_timezone", quote(host.settings.timezone), "a time zone of the host", mend)


def fact_firewall(host: FactsHost) -> Iterator[Problem]:
    """Two firewalls of one host: what one lets in the other drops, and which one did it nobody sees."""
    if host.settings.firewall and host.facts.other_firewalls:
        names = ", ".join(host.facts.other_firewalls)
        yield Problem(
            host.name,
            "firewall_enabled",
            f"{names}, switched on",
            "one firewall on a host",
            f"choose: switch {names} off, or set firewall_enabled: false and open there what docs/security.md lists",
        )


def fact_wireguard(host: FactsHost) -> Iterator[Problem]:
    """Without WireGuard in the kernel there is no tunnel, and no tree: a run would stop in its middle."""
    if not host.facts.has_wireguard:
        mend = "boot a kernel of Debian's (linux-image-amd64, linux-image-cloud-amd64), or set storage_encryption: none"
        yield Problem(host.name, "storage_encryption", "no WireGuard in the kernel", "a kernel with its module", mend)


def fact_tree_moves(host: FactsHost) -> Iterator[Problem]:
    """Refuse another address of a tree that is mounted: its clients would wait for the one of before, for ever."""
    wanted = host.settings.tree_address
    left = [(own, client) for own, client in host.facts.tree_clients if own != wanted]
    if wanted and left:
        owners = listed(dict.fromkeys(own for own, _ in left))
        found = f"the tree, mounted from {owners} by {listed(dict.fromkeys(client for _, client in left))}"
        mend = (
            "ansible-playbook playbooks/move-tree.yml stops the application and mounts the tree anew: docs/storage.md"
        )
        yield Problem(host.name, "storage_encryption", found, f"no mount but from {wanted}", mend)


def fact_driver(host: FactsHost) -> Iterator[Problem]:
    """Want a driver that knows the release's CUDA: with an older one every training fails at its start."""
    gpu = host.settings.gpu
    if gpu is None or not gpu.cuda:
        return
    own = DEBIAN_DRIVERS.get(host.facts.major_version, "") if host.facts.distribution == "Debian" else ""
    version = (gpu.version or own) if gpu.managed else host.facts.driver_version
    if not version:
        if not gpu.managed:
            mend = "install and load it, or take nvidia_driver_managed: false out"
            yield Problem(host.name, "NVIDIA driver", "none that is loaded", "the site's own driver", mend)
        return
    known = cuda_of_driver(version)
    wanted = int(gpu.cuda.split(".")[0])
    if known < wanted:
        yield Problem(
            host.name,
            "NVIDIA driver",
            f"{version}, which ends at CUDA {known}",
            f"a driver for CUDA {wanted}, as the PyTorch of the release needs",
            "choose a release profile with an older PyTorch, or a newer driver "
            "(nvidia_driver_version, or your own with nvidia_driver_managed: false)",
        )


def fact_shared_memory(host: FactsHost) -> Iterator[Problem]:
    """Want room in /dev/shm: PyTorch's loading processes hand batches over there, and a full one kills the training."""
    gpu, size = host.settings.gpu, host.facts.shared_memory_bytes
    if gpu is None or size is None or not gpu.workers or not gpu.load_threads:
        return
    wanted = gpu.workers * SHARED_MEMORY_PER_TRAINING
    if size < wanted:
        yield Problem(
            host.name,
            "shared memory (/dev/shm)",
            f"{size / GB:.1f} GB",
            f"{wanted / GB:g} GB or more for {gpu.workers} trainings at once",
            f"mount it larger (in /etc/fstab: tmpfs /dev/shm tmpfs size={-(-wanted // GB)}G 0 0), "
            "or set escriptorium_training_load_threads: 0",
        )


def fact_same_family(hosts: Iterable[FactsHost]) -> Iterator[Problem]:
    """One release is built once and copied bit for bit, so all application hosts must run the same system."""
    families: dict[str, list[str]] = {}
    for host in hosts:
        if host.runs_application:
            families.setdefault(f"{host.facts.system} {host.facts.architecture}", []).append(host.name)
    if len(families) > 1:
        found = "; ".join(f"{family} on {listed(names)}" for family, names in sorted(families.items()))
        yield Problem(
            "frontend and compute hosts",
            "operating system",
            found,
            "the same system and architecture on all of them",
            "install the same release of the same distribution: releases are copied bit for bit",
        )


HOST_FACT_RULES: tuple[Callable[[FactsHost], Iterator[Problem]], ...] = (
    fact_system,
    fact_architecture,
    fact_disk,
    fact_memory,
    fact_ipv6,
    fact_timezone,
    fact_firewall,
    fact_wireguard,
    fact_tree_moves,
    fact_driver,
    fact_shared_memory,
)


def check_facts(hosts: Iterable[FactsHost]) -> list[Problem]:
    """All problems that the facts of the hosts show, merged over hosts; empty where there is none."""
    everyone = list(hosts)
    problems = [problem for rule in HOST_FACT_RULES for host in everyone for problem in rule(host)]
    problems.extend(fact_same_family(everyone))
    return collapse(problems, [host.name for host in everyone])
