"""Rules about GPUs: the cards of a host can be cut as declared, and every kind of training has a place to run.

No Ansible import. See platform_inventory.py for how rules are used, gpu_partition/cards.py for how cards are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .gpu_partition.cards import DEFAULT_TRAINING_MEMORY, CardProblem, check_training_memory, parse_cards
from .gpu_partition.workers import KINDS, GpuWorker, gpu_workers
from .platform_problems import THE_INVENTORY, UNRESOLVED, Inventory, Problem, Rule, given, listed, quote
from .platform_queues import CARDS, TRAINING_QUEUE, gpu_hosts, has_cards, queues_of, who_is_who

if TYPE_CHECKING:
    from .gpu_partition.card import Card
    from .platform_variables import Catalogue

MEMORY = "gpu_training_memory_mib"

# NVIDIA, "CUDA Compatibility", minor version compatibility: first branch of the driver for each major version of CUDA.
CUDA_DRIVERS = ((580, 13), (525, 12), (450, 11))


def cuda_of_driver(version: str) -> int:
    """Return the newest major version of CUDA that a driver knows; ``version`` starts with its branch ("535.261.03").

    A text that does not start with a number, such as a pattern of apt's preferences, counts as new enough: 99.
    """
    branch = re.match(r"\d+", version)
    if branch is None:
        return 99
    return next((cuda for first, cuda in CUDA_DRIVERS if int(branch.group()) >= first), 0)


def training_memory(inventory: Inventory, host: str) -> Mapping[str, int]:
    """Memory in MiB that a training of each kind needs; the default where the inventory's is missing or wrong."""
    memory, problems = check_training_memory(inventory.value(host, MEMORY), MEMORY)
    return DEFAULT_TRAINING_MEMORY if problems else memory


def cards_of(inventory: Inventory, host: str) -> tuple[tuple[Card, ...], tuple[CardProblem, ...]]:
    """Return a host's cards and what is wrong with them."""
    return parse_cards(inventory.value(host, CARDS) or [], training_memory(inventory, host))


def rule_cards(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a layout that the driver would refuse, before a job is stopped for it."""
    del catalogue
    for host, value in given(inventory, CARDS):
        if not isinstance(value, list | tuple):
            continue
        for problem in cards_of(inventory, host)[1]:
            yield Problem(host, problem.path, problem.found, problem.wanted, problem.mend)


def rule_cards_have_a_use(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse cards on a host that does nothing with them, most often because it is in the wrong group."""
    del catalogue
    compute, hypervisors = inventory.members("compute"), inventory.members("hypervisor")
    for host, value in given(inventory, CARDS):
        for position, card in enumerate(value if isinstance(value, list | tuple) else ()):
            if not isinstance(card, Mapping):
                continue
            virtual = card.get("backend") == "vgpu"
            if host not in (hypervisors if virtual else compute):
                group = "hypervisor" if virtual else "compute"
                yield Problem(
                    host,
                    f"{CARDS}[{position}]",
                    f"a card with backend {quote(card.get('backend', 'none'))} on a host that is not in {group}",
                    f"a host of the group {group}",
                    f"put the host into the group {group}, or take the card out",
                )


def rule_overrides_of_cards(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse several processes for a slice: each would believe that it has all of its memory."""
    del catalogue
    for host, value in given(inventory, "celery_worker_overrides"):
        override = value.get(TRAINING_QUEUE) if isinstance(value, Mapping) else None
        if isinstance(override, Mapping) and "concurrency" in override and has_cards(inventory, host):
            yield Problem(
                host,
                f"celery_worker_overrides.{TRAINING_QUEUE}.concurrency",
                quote(override["concurrency"]),
                "nothing: a slice has one process",
                "take it out; several trainings on one card are its key workers",
            )


def rule_training_memory(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want both kinds: slices are chosen, and trainings are sent, by these two figures."""
    del catalogue
    for host, value in given(inventory, MEMORY):
        if isinstance(value, Mapping) and set(value) != set(KINDS):
            found = ", ".join(map(str, value)) or "nothing"
            yield Problem(host, MEMORY, found, " and ".join(KINDS), "name both kinds, in MiB, and no other")


def _pool(inventory: Inventory) -> list[tuple[str, GpuWorker | None]] | None:
    """(host, GPU worker) of all that take trainings, None for one on processors; None where a part is not known."""
    pool: list[tuple[str, GpuWorker | None]] = []
    some_have_cards = bool(gpu_hosts(inventory))
    for host in who_is_who(inventory).compute:
        if inventory.value(host, CARDS) is UNRESOLVED:
            return None
        queues = queues_of(inventory, host, aligned=False, some_have_cards=some_have_cards)
        if queues is None:
            return None
        if TRAINING_QUEUE not in queues:
            continue
        if not has_cards(inventory, host):
            pool.append((host, None))
            continue
        cards, problems = cards_of(inventory, host)
        if problems:
            return None
        pool += [(host, worker) for worker in gpu_workers(cards, training_memory(inventory, host))]
    return pool


def rule_trainings_have_a_place(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a pool where a kind of training fits nowhere: its jobs would wait for ever."""
    del catalogue
    pool = _pool(inventory)
    if not pool or any(worker is None for _, worker in pool):
        return
    workers = [worker for _, worker in pool if worker is not None]
    largest = max(workers, key=lambda worker: worker.memory_mib)
    for kind in KINDS:
        if any(kind in worker.trainings for worker in workers):
            continue
        needed = training_memory(inventory, pool[0][0])[kind]
        yield Problem(
            THE_INVENTORY,
            f"{kind} trainings",
            f"no place: the largest of {len(workers)} GPU workers ({largest.name}) has {largest.memory_mib} MiB",
            f"one slice or card with {needed} MiB or more",
            f"cut a card of {listed(sorted({host for host, _ in pool}))} into larger slices "
            f"(want: {{{kind}_trainings: 1, ...}} plans it), or lower {MEMORY}.{kind}",
        )


GPU_RULES: tuple[Rule, ...] = (
    rule_training_memory,
    rule_cards,
    rule_cards_have_a_use,
    rule_overrides_of_cards,
    rule_trainings_have_a_place,
)
