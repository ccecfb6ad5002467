"""Rules about queues: each is consumed somewhere, and no worker waits for jobs that never come.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .gpu_partition.cards import has_workers
from .platform_capacity import QUEUES, check_overrides
from .platform_problems import THE_INVENTORY, UNRESOLVED, Inventory, Problem, Rule, did_you_mean, given
from .platform_topology import ABSENT, DRAINED, STATE, Topology, topology

if TYPE_CHECKING:
    from .platform_variables import Catalogue

# What hosts take.
PROCESSOR_QUEUES = ("default", "live", "low-priority")
TRAINING_QUEUE = "gpu"
ALIGNMENT_QUEUE = "jvm"
FRONTEND_QUEUES = ("imports",)
# What the application fills, said apart from what hosts take: a queue that is forgotten there is missed here.
REQUIRED_COMPUTE_QUEUES = ("default", "live", "low-priority", "gpu")
REQUIRED_QUEUES = (*REQUIRED_COMPUTE_QUEUES, "imports")
CARDS = "gpu_partition_cards"
GROUPS_THAT_STAY = ("frontend", "storage", "replica", "hypervisor")


def truth(value: Any) -> bool | None:
    """Return a boolean as Ansible reads it; None where it is not known."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.lower() in ("yes", "true", "on", "1", "y", "t")
    return None


def alignment(inventory: Inventory, catalogue: Catalogue) -> bool | None:
    """Whether text alignment is on; None where that depends on facts."""
    hosts = inventory.members("frontend", "compute")
    values = [inventory.effective(host, "escriptorium_text_alignment", catalogue) for host in hosts]
    if any(value is UNRESOLVED for value in values):
        return None
    return any(truth(value) for value in values)


def has_cards(inventory: Inventory, host: str) -> bool:
    """Return True where a host declares a card that its own workers use."""
    return has_workers(inventory.value(host, CARDS))


def who_is_who(inventory: Inventory) -> Topology:
    """Return what the hosts of an inventory are to one another."""
    return topology(
        inventory.groups, {host: inventory.value(host, STATE) for host in inventory.groups.get("compute", ())}
    )


def gpu_hosts(inventory: Inventory) -> tuple[str, ...]:
    """Return the compute hosts with cards for workers. It looks at all hosts: ask once."""
    hosts = who_is_who(inventory)
    return hosts.gpu_hosts({host: inventory.value(host, CARDS) for host in hosts.compute})


def compute_queues(own: Sequence[str] | None, *, cards: bool, some_have_cards: bool, aligned: bool) -> list[str]:
    """Return the queues that a compute host takes: its ``own`` choice, or all.

    Trainings run on cards where the platform has any. group_vars/all/application.yml asks here too, by a filter.
    """
    if own is not None:
        return list(own)
    training = [TRAINING_QUEUE] if cards or not some_have_cards else []
    return [*PROCESSOR_QUEUES, *training, *([ALIGNMENT_QUEUE] if aligned else [])]


def worker_queues(compute: Sequence[str], frontend: bool) -> list[str]:
    """Return all queues of a host, of those that it takes as a compute host."""
    return [*compute, *(FRONTEND_QUEUES if frontend else ())]


def queues_of(inventory: Inventory, host: str, aligned: bool | None, some_have_cards: bool) -> tuple[str, ...] | None:
    """Queues that a compute host takes; None where that is not known. ``some_have_cards``: whether any host has."""
    value = inventory.value(host, "compute_queues") if inventory.is_set(host, "compute_queues") else ()
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        return None
    return tuple(
        compute_queues(
            value if inventory.is_set(host, "compute_queues") else None,
            cards=has_cards(inventory, host),
            some_have_cards=some_have_cards,
            aligned=bool(aligned),
        )
    )


def consumers(inventory: Inventory, catalogue: Catalogue) -> dict[str, tuple[str, ...]] | None:
    """Return the hosts of each queue that has one; None where that is not known."""
    aligned, some_have_cards = alignment(inventory, catalogue), bool(gpu_hosts(inventory))
    compute, frontend = set(who_is_who(inventory).compute), inventory.members("frontend")
    taken: dict[str, tuple[str, ...]] = {}
    for host in inventory.members("frontend", "compute"):
        queues = queues_of(inventory, host, aligned, some_have_cards) if host in compute else ()
        if queues is None:
            return None
        for queue in worker_queues(queues, host in frontend):
            taken[queue] = (*taken.get(queue, ()), host)
    return taken


def rule_queue_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a queue that nobody fills: its worker idles for ever while its jobs wait in another one."""
    aligned = alignment(inventory, catalogue)
    usable = REQUIRED_COMPUTE_QUEUES + ((ALIGNMENT_QUEUE,) if aligned is not False else ())
    for host in inventory.hosts:
        if not inventory.is_set(host, "compute_queues"):
            continue
        # Its own choice: no other host counts.
        queues = queues_of(inventory, host, aligned, some_have_cards=False) or ()
        for queue in dict.fromkeys(queues):
            if queues.count(queue) > 1:
                yield Problem(
                    host,
                    "compute_queues",
                    f"{queue!r} {queues.count(queue)} times",
                    "each queue once",
                    "keep one of them",
                )
            if queue in usable:
                continue
            if queue in FRONTEND_QUEUES:
                mend = "take it out: the frontend takes imports, with one bound for the whole cluster"
            elif queue == ALIGNMENT_QUEUE:
                mend = "take it out, or set escriptorium_text_alignment: true"
            else:
                mend = did_you_mean(queue, usable, 0.5) or f"known queues: {', '.join(usable)}"
            yield Problem(
                host, "compute_queues", f"{queue!r}, a queue that nobody fills", "queues that are filled", mend
            )


def rule_queues_consumed(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Jobs of a queue that nobody consumes wait for ever and no error says so (seen in the field with jvm)."""
    taken = consumers(inventory, catalogue)
    if taken is None or not who_is_who(inventory).compute or not inventory.members("frontend"):
        return
    needed = REQUIRED_QUEUES + ((ALIGNMENT_QUEUE,) if alignment(inventory, catalogue) else ())
    for queue in needed:
        if queue not in taken:
            yield Problem(
                THE_INVENTORY,
                f"queue {queue}",
                "no host that consumes it",
                "one compute host or more",
                f"add {queue!r} to compute_queues of a compute host",
            )


def resting_queues(inventory: Inventory, catalogue: Catalogue) -> dict[str, tuple[str, ...]]:
    """Return the queues that drained hosts alone consume, with these hosts. Right during maintenance, so no problem."""
    taken = consumers(inventory, catalogue) or {}
    drained = {host for host in who_is_who(inventory).compute if inventory.value(host, STATE) == DRAINED}
    return {queue: hosts for queue, hosts in taken.items() if drained.issuperset(hosts)}


def rule_absent_hosts(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Without any compute host jobs wait for ever; and what a host with other duties has must not be cleaned away."""
    del catalogue
    others = set(inventory.members(*GROUPS_THAT_STAY))
    compute = inventory.members("compute")
    for host, value in given(inventory, STATE, str):
        if host not in compute and value != "active":
            mend = "take it out, or put the host into the group compute"
            yield Problem(host, STATE, repr(value), "a compute host", mend)
        elif value == ABSENT and host in others:
            mend = "take the host out of the group compute: its workers go with the next run, its other duties stay"
            yield Problem(host, STATE, "'absent' on a host with other duties", "active or drained", mend)
    if compute and not who_is_who(inventory).compute:
        yield Problem(
            THE_INVENTORY,
            STATE,
            "absent on every compute host",
            "one that stays or more",
            "set compute_state: drained where a host is to come back",
        )


def rule_worker_overrides(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse overrides without effect (a misspelt queue or key) and workers without a process."""
    del catalogue
    for host, value in given(inventory, "celery_worker_overrides"):
        if not isinstance(value, Mapping):
            continue
        for text in check_overrides(value):
            queue = next((str(name) for name in value if name not in QUEUES and repr(name) in text), "")
            yield Problem(
                host,
                "celery_worker_overrides",
                text,
                "{queue: {concurrency: number, memory_mb: number}}",
                (did_you_mean(queue, QUEUES, 0.5) if queue else "") or "correct it",
            )


QUEUE_RULES: tuple[Rule, ...] = (rule_queue_names, rule_queues_consumed, rule_absent_hosts, rule_worker_overrides)
