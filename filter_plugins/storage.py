"""Filters of the storage: Jinja access to module_utils/zfs_pool."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

try:
    from ansible.module_utils.zfs_pool import capacity, declaration, report, sizes
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils.zfs_pool import capacity, declaration, report, sizes

# Properties that zfs shows in bytes, whatever they were written in; 0 stands for none.
SIZES = frozenset({"quota", "refquota", "reservation", "refreservation", "recordsize", "special_small_blocks"})


def zfs_arc_max(memory: int, shared: bool = False) -> int:
    """Return the bound of the read cache (ARC) from the memory of its host, both in bytes."""
    return int(capacity.arc_max(memory, shared=shared))


def zfs_properties(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return properties of a dataset as ``zfs get -p`` shows them, so that equal ones are found equal."""
    found: dict[str, str] = {}
    for name, value in properties.items():
        try:
            size = 0 if str(value) == "none" else sizes.parse_size(value) if name in SIZES else 0
        except sizes.SizeError as error:
            raise AnsibleFilterError(f"zfs_properties: {name} {value!r}: {error}") from error
        found[name] = str(size) if name in SIZES else str(value)
    return found


def zfs_report(raw: Mapping[str, Any], shared: bool = False, ashift: int = capacity.ASHIFT) -> str:
    """Return what ``make plan`` shows of a pool: its series, what it holds, what may fail."""
    pool, problems = declaration.parse_pool(raw)
    if pool is None:
        raise AnsibleFilterError(f"zfs_report: {problems}")
    return str(report.report(pool, shared=shared, ashift=ashift))


class FilterModule:
    """Names under which Jinja finds the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"zfs_arc_max": zfs_arc_max, "zfs_properties": zfs_properties, "zfs_report": zfs_report}
