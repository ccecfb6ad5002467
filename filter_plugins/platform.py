"""Filters of the platform: Jinja access to module_utils/platform_capacity.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

try:
    from ansible.module_utils import platform_capacity
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_capacity


def worker_plan(
    queues: Sequence[str], cores: int, memory_mb: int, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Plan the worker units of a host, one for each of its queues. Sizes are processor threads and MB."""
    try:
        return [dict(worker) for worker in platform_capacity.worker_plan(queues, cores, memory_mb, overrides)]
    except ValueError as error:
        raise AnsibleFilterError(f"worker_plan: {error}") from error


def postgresql_memory(memory_mb: int, shared_host: bool = False) -> dict[str, int]:
    """Return the memory settings of PostgreSQL in MB, from the memory of its host in MB."""
    try:
        return dict(platform_capacity.postgresql_memory(memory_mb, shared_host))
    except ValueError as error:
        raise AnsibleFilterError(f"postgresql_memory: {error}") from error


def redis_memory(memory_mb: int) -> int:
    """Return ``maxmemory`` of the broker in MB, from the memory of its host in MB."""
    try:
        return int(platform_capacity.redis_memory(memory_mb))
    except ValueError as error:
        raise AnsibleFilterError(f"redis_memory: {error}") from error


class FilterModule:
    """Names under which Jinja finds the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "worker_plan": worker_plan,
            "postgresql_memory": postgresql_memory,
            "redis_memory": redis_memory,
        }
