"""What a job needs of its worker: the database, the broker, the media, its memory, and a slice where it has one."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

from escriptorium_cluster.checks import CheckResult, Prober

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from escriptorium_cluster.checks import Check

#: Seconds that all looks together may take: a storage host that is busy answers late.
TIME_LIMIT = 30.0
#: What cgroup v1 calls no bound is a very large number.
UNBOUNDED = 1 << 60
MIB = 1 << 20


class NeedError(RuntimeError):
    """Something that a job needs is not there; the message says what."""


def memory_bound(cgroups: str, root: Path) -> int | None:
    """Return the memory that a process may take in bytes, the least of its groups; None where nothing bounds it.

    :param cgroups: text of ``/proc/self/cgroup``.
    :param root: where the groups are mounted, ``/sys/fs/cgroup``.
    """
    least: int | None = None
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        folder = top / path.lstrip("/")
        while folder == top or top in folder.parents:
            try:
                bound = int((folder / name).read_text())
            except (OSError, ValueError):  # no such group here, or the word max
                bound = UNBOUNDED
            if bound < UNBOUNDED and (least is None or bound < least):
                least = bound
            folder = folder.parent
    return least


def check_memory() -> str:
    """Return how much memory the jobs of this worker share."""
    bound = memory_bound(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))
    return "not bounded" if bound is None else f"{bound / MIB / 1024:.1f} GiB"


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def check_slice(environment: Mapping[str, str]) -> str:
    """Ask the driver for the slice or card that this worker's jobs compute on; only that they are meant to see.

    :raises NeedError: when it is not there.
    """
    device = environment.get("CUDA_VISIBLE_DEVICES", "")
    if not device:
        raise NeedError("this worker is to compute on a card, and none is named to it (CUDA_VISIBLE_DEVICES)")
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise NeedError(f"the driver's library is not there: {error}") from error

    def call(name: str, *arguments: object) -> None:
        status = getattr(driver, name)(*arguments)
        if status:
            raise NeedError(f"{device}: {name} failed with {status}")

    call("nvmlInit_v2")
    try:
        handle, memory = ctypes.c_void_p(), _Memory()
        call("nvmlDeviceGetHandleByUUID", device.encode(), ctypes.byref(handle))
        call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    finally:
        driver.nvmlShutdown()
    return f"{device} with {memory.total // MIB} MiB"


def checks_of(environment: Mapping[str, str]) -> dict[str, Check]:
    """Return what a worker with this environment has to look at."""
    from escriptorium_cluster.health import CHECKS

    found: dict[str, Callable[[], str]] = {**CHECKS, "memory": check_memory}
    if environment.get("KRAKEN_TRAINING_DEVICE", "cpu").startswith("cuda"):
        found["slice"] = lambda: check_slice(environment)
    return found


def with_reasons(checks: Mapping[str, Check], seconds: float) -> dict[str, CheckResult]:
    """Run checks side by side; other than on a public page, what is wrong is told as it is."""
    reasons: dict[str, str] = {}

    def telling(name: str, check: Check) -> Check:
        def run() -> str:
            try:
                return check()
            except Exception as error:
                reasons[name] = f"{type(error).__name__}: {str(error).strip()}"
                raise

        return run

    results = Prober({name: telling(name, check) for name, check in checks.items()}, seconds).probe()
    return {
        name: result if result.ok else CheckResult(ok=False, detail=reasons.get(name, result.detail))
        for name, result in results.items()
    }


def look() -> dict[str, CheckResult]:
    """Look at all that a job of this process needs."""
    return with_reasons(checks_of(os.environ), TIME_LIMIT)
