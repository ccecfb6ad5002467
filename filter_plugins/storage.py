"""Filters of the storage: Jinja access to module_utils/zfs_pool."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

try:
    from ansible.module_utils.zfs_pool import capacity, declaration, report, sizes
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils.zfs_pool import capacity, declaration, report, sizes

# Properties that zfs shows in bytes, whatever they were written in.
LIMITS = frozenset({"quota", "refquota", "reservation", "refreservation"})
SIZES = LIMITS | {"recordsize", "special_small_blocks"}


def zfs_arc_max(memory: int, shared: bool = False) -> int:
    """Return the bound of the read cache (ARC) from the memory of its host, both in bytes."""
    return int(capacity.arc_max(memory, shared=shared))


def zfs_properties(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return properties of a dataset as ``zfs get -p`` shows them, so that equal ones are found equal.

    A limit of none is left out: it is what a dataset has without one, and ``zfs_lifted`` finds those that have one.
    """
    found: dict[str, str] = {}
    for name, value in properties.items():
        if name in LIMITS and str(value) == "none":
            continue
        try:
            found[name] = str(sizes.parse_size(value)) if name in SIZES else str(value)
        except sizes.SizeError as error:
            raise AnsibleFilterError(f"zfs_properties: {name} {value!r}: {error}") from error
    return found


def zfs_lifted(datasets: Sequence[Mapping[str, Any]], pool: str, limits: str) -> list[dict[str, str]]:
    """Return limits that datasets have and shall have no more.

    ``limits`` is what ``zfs get -H -o name,property`` answers for all limits that are set.
    """
    there = {tuple(line.split("\t")) for line in limits.splitlines()}
    return [
        {"dataset": f"{pool}/{dataset['name']}", "property": name}
        for dataset in datasets
        for name, value in dataset.get("properties", {}).items()
        if name in LIMITS and str(value) == "none" and (f"{pool}/{dataset['name']}", name) in there
    ]


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
        return {
            "zfs_arc_max": zfs_arc_max,
            "zfs_lifted": zfs_lifted,
            "zfs_properties": zfs_properties,
            "zfs_report": zfs_report,
        }
