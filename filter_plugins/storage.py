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
# Mark of a dataset that is about to take the place of another one: module_utils/backup_programs/restore_media.py.
RESTORING = "escriptorium:restoring"


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


def zfs_shown(output: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Read ``zfs get -H -o name,property,value,source``: value and source of each property of each dataset."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for line in output.splitlines():
        name, key, value, source = line.split("\t")
        found.setdefault(name, {})[key] = (value, source)
    return found


def zfs_lifted(datasets: Sequence[Mapping[str, Any]], pool: str, output: str) -> list[dict[str, str]]:
    """Return limits that datasets have by themselves and shall have no more; ``output`` as ``zfs_shown`` reads it."""
    shown = zfs_shown(output)
    return [
        {"dataset": full, "property": key}
        for full, properties in ((f"{pool}/{dataset['name']}", dataset.get("properties", {})) for dataset in datasets)
        for key, value in properties.items()
        if key in LIMITS and str(value) == "none" and shown.get(full, {}).get(key, ("", ""))[1] == "local"
    ]


def zfs_out_of_place(datasets: Sequence[Mapping[str, Any]], pool: str, output: str) -> list[str]:
    """Say which datasets are not where their files are looked for, and what helps.

    What is written then goes to the folder below, or into an empty dataset of that name. ``output`` is as ``zfs_shown``
    reads it, with mounted, mountpoint and the mark of a restore.
    """
    shown, problems = zfs_shown(output), []
    marks = {name: values[RESTORING][0] for name, values in shown.items() if values[RESTORING][0] != "-"}
    for dataset in datasets:
        full = f"{pool}/{dataset['name']}"
        found = {key: value for key, (value, _) in shown.get(full, {}).items()}
        begun = [mark for name, mark in marks.items() if name == full or name.startswith(f"{full}-restored-")]
        unmounted = found.get("mounted") == "no" and found.get("mountpoint", "").startswith("/")
        if begun and (not found or unmounted or full in marks):
            moment = begun[0].split()[0]
            problems.append(f"A restore of {full} was cut off. Repeat it, or type: restore-media {full} {moment}")
        elif unmounted and dataset.get("properties", {}).get("canmount", "on") == "on":
            problems.append(f"{full} is not mounted, and its files would go elsewhere. Type: zfs mount {full}")
    return problems


def zfs_kept(kept: Mapping[str, Mapping[str, int]], datasets: Mapping[str, str], place: str) -> list[dict[str, Any]]:
    """Return which snapshots of datasets in ``place`` stay, of ``{name: {period: number}}`` and ``{name: dataset}``."""
    return [{"name": f"{place}/{below}", "keep": dict(kept[name])} for name, below in datasets.items()]


def zfs_report(raw: Mapping[str, Any], shared: bool = False, ashift: int = capacity.ASHIFT) -> str:
    """Return what ``make plan`` shows of a pool: its vdevs, what it holds, what may fail."""
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
            "zfs_kept": zfs_kept,
            "zfs_lifted": zfs_lifted,
            "zfs_out_of_place": zfs_out_of_place,
            "zfs_properties": zfs_properties,
            "zfs_report": zfs_report,
        }
