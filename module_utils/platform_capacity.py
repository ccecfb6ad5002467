"""Sizes of workers, database and broker, derived from what a host has.

All memory figures are MB of 1024 * 1024 bytes, as Ansible's facts and systemd's ``MemoryMax=...M`` count them.
Sources of the figures: eScriptorium's docker-compose.yml (flags of each worker, concurrency 10 for live and
low-priority, 1 for gpu and jvm), Kraken issue 765 (segmentation of one page may take more than 8 GB and the process is
killed), Kraken issue 423 (training a segmenter takes 32 GB).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

QUEUES = ("default", "live", "low-priority", "gpu", "imports", "jvm")

# What a process of the default queue is counted with. Most pages need less, some need twice as much.
PROCESS_BUDGET_MB = 4096
# Room for one page that takes more than 8 GB and for its neighbours.
DEFAULT_CEILING_FLOOR_MB = 12288
SMALL_CEILING_FLOOR_MB = 4096
# Training of a segmenter, and of a recogniser: upstream's compose file gives its GPU container 15 GB.
TRAINING_MB = 32768
RECOGNITION_MB = 16384
JVM_MB = 8192
IMPORTS_MB = 4096
# An interpreter with Django takes about 100 MB before its first task.
MIN_CEILING_MB = 256

SYSTEM_RESERVE_MIN_MB = 512
SYSTEM_RESERVE_MAX_MB = 8192
SMALL_QUEUE_MAX = 10
STEP_MB = 256
MIN_WEB_PROCESSES = 2
MAX_WEB_PROCESSES = 16
IMPORTS_CONCURRENCY = 2
# Threads that a training on a GPU can use beside it: it reads and augments lines of text on the processor.
MAX_TRAINING_THREADS = 8

# Trainings of segmenters wait in a queue of their own, so that none lands on a slice too small for it. eScriptorium
# knows `gpu` only: see docs/decisions/0010-training-routes.md.
LARGE_QUEUE = "gpu-large"

# Upstream's --max-tasks-per-child: what a process leaks ends with it.
TASKS_PER_CHILD = {"default": 10, "live": 10, "low-priority": 10, "gpu": 1, "imports": 10, "jvm": 1}


class Worker(TypedDict):
    """Settings of one worker unit.

    ``device`` is what ``gpu-partition exec`` gives the unit and ``card`` the card it is on, both empty where it needs
    no GPU. ``overflow`` is the queue from which it helps out when jobs have waited there for a while, empty where there
    is none.
    """

    name: str
    queues: list[str]
    overflow: str
    device: str
    card: str
    concurrency: int
    memory_max_mb: int
    tasks_per_child: int
    omp_threads: int


class GpuWorker(TypedDict):
    """What a worker on a GPU or a slice is to the plan: its name, its card and the kinds of training that fit."""

    name: str
    card: str
    trainings: Sequence[str]


class PostgresqlMemory(TypedDict):
    """Memory settings of PostgreSQL in MB."""

    shared_buffers: int
    effective_cache_size: int
    work_mem: int
    maintenance_work_mem: int


@dataclass(frozen=True)
class _Host:
    cores: int
    available_mb: int
    training_mb: int

    @property
    def cpu_mb(self) -> int:
        """Memory for everything but trainings."""
        return self.available_mb - self.training_mb


def steady(memory_mb: int) -> int:
    """Round memory in MB down to a multiple of 256.

    What the kernel reports changes by a few MB with every kernel; without this, an upgrade of the kernel would change
    the size of each service and the next deploy would restart them all.
    """
    return memory_mb - memory_mb % STEP_MB if memory_mb >= STEP_MB else memory_mb


def system_reserve(memory_mb: int) -> int:
    """Memory in MB kept for the system: an eighth, at least 512 MB, at most 8 GB, never more than half."""
    reserve = min(max(memory_mb // 8, SYSTEM_RESERVE_MIN_MB), SYSTEM_RESERVE_MAX_MB)
    return min(reserve, memory_mb // 2)


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _concurrency(queue: str, host: _Host) -> int:
    """Count the processes of a worker. Shares are independent, so that more cores never mean fewer processes."""
    slots = max(1, host.cpu_mb // PROCESS_BUDGET_MB)
    if queue == "default":
        return _clamp(slots * 3 // 4, 1, host.cores)
    if queue in ("live", "low-priority"):
        return _clamp(min(host.cores // 4, slots // 8), 1, SMALL_QUEUE_MAX)
    if queue == "imports":
        return IMPORTS_CONCURRENCY
    return 1


def _ceiling(queue: str, host: _Host) -> int:
    """Memory ceiling of a worker in MB.

    A ceiling keeps one worker from taking the system down; it is no reservation. On small hosts the ceilings
    overlap, because a page that needs 8 GB must pass wherever the host has 8 GB. None exceeds what the system leaves.
    """
    if queue == "gpu":
        wanted = host.available_mb
    elif queue == "default":
        wanted = max(host.cpu_mb * 3 // 4, DEFAULT_CEILING_FLOOR_MB)
    elif queue in ("live", "low-priority"):
        wanted = max(host.cpu_mb // 8, SMALL_CEILING_FLOOR_MB)
    elif queue == "jvm":
        wanted = JVM_MB
    else:
        wanted = IMPORTS_MB
    return min(wanted, host.available_mb)


def _positive(value: Any, what: str) -> int:
    number = 0
    if isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            number = int(value)
    if number < 1:
        raise ValueError(f"{what} must be a whole number from 1, not {value!r}")
    return number


def check_overrides(overrides: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with ``{queue: {concurrency: int, memory_mb: int}}``, in words; empty where nothing is."""
    wrong: list[str] = []
    for queue, part in overrides.items():
        if queue not in QUEUES:
            wrong.append(f"unknown queue {queue!r}; known are {', '.join(QUEUES)}")
            continue
        if not isinstance(part, Mapping):
            wrong.append(f"{queue} must be a mapping with concurrency and memory_mb, not {part!r}")
            continue
        for key, value in part.items():
            if key not in ("concurrency", "memory_mb"):
                wrong.append(f"{queue} has the unknown key {key!r}; known are concurrency and memory_mb")
                continue
            try:
                number = _positive(value, f"{queue}.{key}")
            except ValueError as error:
                wrong.append(str(error))
                continue
            if key == "memory_mb" and number < MIN_CEILING_MB:
                wrong.append(f"{queue}.memory_mb must be at least {MIN_CEILING_MB}, not {number}")
    return wrong


def _gpu_ceiling(worker: GpuWorker, host: _Host) -> int:
    wanted = TRAINING_MB if "segmentation" in worker["trainings"] else RECOGNITION_MB
    return min(wanted, host.available_mb)


def _training_reserve(queues: Sequence[str], gpu_workers: Sequence[GpuWorker]) -> int:
    """Memory in MB that trainings may take together; a training on the processor counts as one of a segmenter."""
    if gpu_workers:
        return sum(TRAINING_MB if "segmentation" in worker["trainings"] else RECOGNITION_MB for worker in gpu_workers)
    return TRAINING_MB if "gpu" in queues else 0


def worker_plan(
    queues: Sequence[str],
    cores: int,
    memory_mb: int,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    gpu_workers: Sequence[GpuWorker] = (),
) -> list[Worker]:
    """Plan the worker units of one host: one for each queue, in the order given, then one for each GPU worker.

    ``cores`` are processor threads of the host, ``memory_mb`` its memory. One core and some memory stay with the
    system. ``overrides`` are ``{queue: {concurrency: int, memory_mb: int}}`` and win; those of queues that the host
    does not take have no effect. With ``gpu_workers`` the queue gpu has no worker on the processors: the slices take
    its jobs, each one at a time, and the memory of the override ``gpu`` is that of each of them.
    Raises ValueError on an unknown or doubled queue and on sizes below 1.
    """
    unknown = [queue for queue in queues if queue not in QUEUES]
    if unknown:
        raise ValueError(f"unknown queues {', '.join(map(repr, unknown))}; known are {', '.join(QUEUES)}")
    if len(set(queues)) != len(queues):
        raise ValueError(f"a queue is named twice: {', '.join(queues)}")
    overrides = overrides or {}
    wrong = check_overrides(overrides)
    if wrong:
        raise ValueError("; ".join(wrong))

    # A host that does not take trainings leaves its slices to others.
    gpu_workers = gpu_workers if "gpu" in queues else ()
    cores = _positive(cores, "cores")
    memory_mb = steady(_positive(memory_mb, "memory_mb"))
    available = max(1, memory_mb - system_reserve(memory_mb))
    training = min(available // 2, _training_reserve(queues, gpu_workers))
    host = _Host(max(1, cores - 1), available, training)

    plan: list[Worker] = []
    for queue in queues:
        if queue == "gpu" and gpu_workers:
            continue
        override = overrides.get(queue, {})
        plan.append(
            Worker(
                name=queue,
                queues=["gpu", LARGE_QUEUE] if queue == "gpu" else [queue],
                overflow="",
                device="",
                card="",
                concurrency=int(override.get("concurrency", _concurrency(queue, host))),
                memory_max_mb=int(override.get("memory_mb", _ceiling(queue, host))),
                tasks_per_child=TASKS_PER_CHILD[queue],
                # Many processes with many threads each fight for the same cores, so one thread a process, as
                # upstream; a training is one process on its own.
                omp_threads=max(1, host.cores // 2) if queue == "gpu" else 1,
            )
        )
    for worker in gpu_workers:
        large = "segmentation" in worker["trainings"]
        plan.append(
            Worker(
                name=worker["name"],
                queues=[LARGE_QUEUE if large else "gpu"],
                overflow="gpu" if large and "recognition" in worker["trainings"] else "",
                device=worker["name"],
                card=worker["card"],
                concurrency=1,
                memory_max_mb=int(overrides.get("gpu", {}).get("memory_mb", _gpu_ceiling(worker, host))),
                tasks_per_child=TASKS_PER_CHILD["gpu"],
                omp_threads=_clamp(host.cores // (2 * len(gpu_workers)), 1, MAX_TRAINING_THREADS),
            )
        )
    return plan


def web_processes(cores: int) -> int:
    """Count the processes of uwsgi on a frontend with this many processor threads: half of them, 2 to 16.

    A request of eScriptorium is short and waits for the database most of its time; two are the least that answer while
    one of them is replaced. Raises ValueError below 1.
    """
    return _clamp(_positive(cores, "cores") // 2, MIN_WEB_PROCESSES, MAX_WEB_PROCESSES)


def postgresql_memory(memory_mb: int, shared_host: bool) -> PostgresqlMemory:
    """Memory settings of PostgreSQL for a host with ``memory_mb``.

    PostgreSQL's manual (section 20.4) gives a quarter of a dedicated server's memory to shared_buffers. The frontend
    runs the web application and the broker too, so half of the host counts as PostgreSQL's, and an eighth where
    workers or the storage share the host (``shared_host``). Raises ValueError below 1 MB.
    """
    memory_mb = steady(_positive(memory_mb, "memory_mb"))
    share = memory_mb // 8 if shared_host else memory_mb // 2
    return PostgresqlMemory(
        shared_buffers=_clamp(share // 4, 64, 16384),
        effective_cache_size=_clamp(share * 3 // 4, 128, 131072),
        work_mem=_clamp(share // 512, 4, 64),
        maintenance_work_mem=_clamp(share // 16, 64, 2048),
    )


def redis_memory(memory_mb: int) -> int:
    """``maxmemory`` of the broker in MB: a sixteenth of the host, from 128 MB to 4 GB.

    Redis holds queued messages, results and WebSocket traffic: little, but with ``noeviction`` a full Redis refuses
    new jobs. A rewrite of its append-only file may need the same amount again for a moment. Raises ValueError below 1.
    """
    return _clamp(steady(_positive(memory_mb, "memory_mb")) // 16, 128, 4096)
