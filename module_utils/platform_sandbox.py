"""What a unit of the platform is shut into: the lines of systemd that all of its units share, in one place.

No Ansible import. Templates of units come here by the filter ``sandbox``; ``systemd-analyze security`` is asked about
what they make of it by tests/unit/test_sandbox.py. Why each line is as it is, and which are missing on purpose:
docs/decisions/0033-sandboxes.md.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Lines = tuple[tuple[str, str], ...]

#: For each process that runs as the service account.
EVERYBODY: Final[Lines] = (
    ("NoNewPrivileges", "yes"),
    ("CapabilityBoundingSet", ""),
    ("ProtectSystem", "strict"),
    ("ProtectHome", "yes"),
    ("PrivateTmp", "yes"),
    ("ProtectProc", "invisible"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
    ("LockPersonality", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallErrorNumber", "EPERM"),
    # nginx hands these files out: only what is deployed lies there.
    ("ReadOnlyPaths", "-/var/lib/escriptorium/static"),
)
#: For those that need no device. A user namespace of its own keeps a unit from reading the environment of others that
#: run as the same account, and these from its own.
WITHOUT_DEVICES: Final[Lines] = (("PrivateDevices", "yes"), ("PrivateUsers", "yes"), ("ProtectClock", "yes"))
#: For those that compute on a card: NVIDIA's device files and no others but null, zero, full, random and terminals.
#: ProtectClock= would add a list of its own, and of user namespaces below MPS nobody says that they work.
WITH_CARDS: Final[Lines] = (("DevicePolicy", "closed"), ("DeviceAllow", "char-nvidia* rw"))
#: Where CUDA finds the daemons of shared cards. Not the folder of one: it comes anew with each start of its daemon.
CARD_FOLDERS: Final = ("-/run/nvidia-mps", "-/var/log/nvidia-mps")
#: Names that mean the host itself, whose own addresses are always let in.
OWN_NAMES: Final = ("", "localhost")


def reach(hosts: Iterable[str]) -> list[str] | None:
    """Return the networks of these hosts; None where one is known by its name only, so that nobody can be shut out.

    :param hosts: addresses, networks in CIDR notation, names. A unit always reaches its own host by its own names.
    """
    known: dict[str, None] = {}
    for host in hosts:
        if host in OWN_NAMES:
            continue
        try:
            network = ipaddress.ip_network(host)
        except ValueError:
            return None
        if not network.is_loopback:
            known[str(network)] = None
    return list(known)


def lines(writes: Sequence[str] = (), networks: Sequence[str] | None = None, *, cards: bool = False) -> Lines:
    """Return the lines of a unit that runs as the service account.

    :param writes: folders in which it may write, beside those that its unit has systemd make.
    :param networks: with whom it may speak beside its own host; None for everybody.
    :param cards: whether it computes on NVIDIA's cards.
    """
    found = [*EVERYBODY, *(WITH_CARDS if cards else WITHOUT_DEVICES)]
    # A folder that is not there yet is waited for by the process, which says so (escriptorium_cluster.wait).
    found += [("ReadWritePaths", f"-{path}") for path in writes]
    if cards:
        found += [("ReadWritePaths", path) for path in CARD_FOLDERS]
    if networks is not None:
        found += [("IPAddressDeny", "any"), ("IPAddressAllow", " ".join(["localhost", *networks]))]
    return tuple(found)


def text(writes: Sequence[str] = (), networks: Sequence[str] | None = None, *, cards: bool = False) -> str:
    """Return these lines as a unit has them, in its section Service."""
    return "\n".join(f"{name}={value}" for name, value in lines(writes, networks, cards=cards))
