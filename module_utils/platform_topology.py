"""Who is who: what the hosts of an inventory are to one another, decided once for the check and for the plays.

No Ansible import. The check comes here with what the operator wrote, plays by the lookup ``topology``, from whose
values group_vars/all makes those of the roles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .gpu_partition.cards import has_workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

STATE: Final = "compute_state"
ABSENT: Final = "absent"
DRAINED: Final = "drained"

SSH_PORT: Final = 22

DATABASE: Final = "database"
BROKER: Final = "broker"
TREE: Final = "tree"
POOL: Final = "pool"
SERVICES: Final = (DATABASE, BROKER, TREE, POOL)


def in_order(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return hosts each once, in the order in which files of hosts have them: capital letters make no difference."""
    return tuple(sorted(dict.fromkeys(hosts), key=str.lower))


@dataclass(frozen=True)
class Topology:
    """The hosts of each duty, in the order of the inventory. ``compute`` has those that belong to the platform.

    ``frontend`` and ``storage`` have one host each in an inventory that the check lets pass.
    """

    frontend: tuple[str, ...] = ()
    storage: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    compute: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        """Hosts of the platform, in their order; hypervisors, which know nothing of it, are none."""
        return in_order((*self.frontend, *self.storage, *self.compute, *self.replicas))

    @property
    def application(self) -> tuple[str, ...]:
        """Hosts that run the application: they need the release, the database and the broker."""
        return in_order((*self.frontend, *self.compute))

    def clients(self, service: str) -> tuple[str, ...]:
        """Return the hosts that a service lets in, in their order.

        The shared tree (``tree``) needs no way to the host that carries it; copies go from ``pool`` to pool.

        Raises:
            ValueError: there is no such service.

        """
        if service in (DATABASE, BROKER):
            return self.application
        if service == TREE:
            return tuple(host for host in self.application if host not in self.storage)
        if service == POOL:
            return self.replicas
        raise ValueError(f"unknown service {service!r}; known are {', '.join(SERVICES)}")

    def known_to(self, host: str) -> tuple[str, ...]:
        """Return the hosts whose names a host writes down.

        Compute hosts never talk to one another: one that joins is news to the frontend and the storage servers only.
        """
        servers = (*self.frontend, *self.storage, *self.replicas)
        return self.members if host in servers else in_order((*servers, host))

    def gpu_hosts(self, cards: Mapping[str, object]) -> tuple[str, ...]:
        """Return compute hosts with a card for workers, of ``{host: gpu_partition_cards}``.

        Where there is one, only such hosts take trainings, unless a host says otherwise.
        """
        return tuple(host for host in self.compute if has_workers(cards.get(host)))


def topology(groups: Mapping[str, Sequence[str]], states: Mapping[str, object]) -> Topology:
    """Return who is who, of groups with their hosts and of ``{compute host: its compute_state}`` as it is written.

    Drained hosts belong to the platform, absent ones have left it. A state that is a template is none of both: the
    check refuses it, since plays choose their hosts before they resolve anything.
    """
    compute = groups.get("compute", ())
    absent = {host: None for host in compute if states.get(host) == ABSENT}
    return Topology(
        frontend=tuple(groups.get("frontend", ())),
        storage=tuple(groups.get("storage", ())),
        replicas=tuple(groups.get("replica", ())),
        compute=tuple(host for host in compute if host not in absent),
        absent=tuple(absent),
    )


def ssh_port(values: Mapping[str, Any]) -> int:
    """Return the port on which other hosts reach the ssh of one, from its variables.

    Raises:
        ValueError: it is no number.

    """
    for name in ("private_ssh_port", "ansible_port"):
        if name in values:
            return int(values[name])
    return SSH_PORT
