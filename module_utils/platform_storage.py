"""Rules about storage: the pool can be made as declared, and what belongs to it is given where there is one.

No Ansible import. See platform_inventory.py for how rules are used, zfs_pool/declaration.py for how pools are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from .platform_problems import THE_INVENTORY, UNRESOLVED, Inventory, Problem, Rule, given, listed, quote
from .zfs_pool.capacity import ASHIFT, is_lower_bound, pool_capacity
from .zfs_pool.declaration import (
    CACHE,
    LOG,
    NAME,
    PROPERTIES,
    SPARES,
    SPECIAL,
    VDEVS,
    PoolProblem,
    PoolSpec,
    parse_pool,
)
from .zfs_pool.sizes import SizeError, format_binary, parse_size

if TYPE_CHECKING:
    from .platform_variables import Catalogue

BACKEND: Final = "storage_backend"
QUOTAS: Final = "storage_quotas"
ZFS_ONLY: Final = (QUOTAS, "storage_snapshots")
# Groups whose hosts carry a pool.
POOL_GROUPS: Final = ("storage", "replica")

DEFAULT_POOL: Final = "tank"
SECTORS: Final = "zfs_ashift"
# 512 bytes to 64 KiB: what zpool takes.
_SECTORS: Final = range(9, 17)
# Key of parse_pool, its variable, and the type that it must have (None: parse_pool says what is wrong).
_PARTS: Final[tuple[tuple[str, str, type | None], ...]] = (
    ("name", NAME, None),
    ("vdevs", VDEVS, list),
    ("spares", SPARES, None),
    ("cache", CACHE, None),
    ("log", LOG, list),
    ("special", SPECIAL, list),
    ("properties", PROPERTIES, dict),
)
_NO_QUOTA: Final = "none"
# zfs reads TB as TiB.
_DECIMAL: Final = re.compile(r"[kmgtpe]b\s*$", re.IGNORECASE)
# Whoever writes less has forgotten the unit.
_SMALLEST_QUOTA: Final = 1024**2


def backend(inventory: Inventory, host: str, catalogue: Catalogue) -> Any:
    """Return what carries a host's storage: ``zfs``, ``directory``, or ``UNRESOLVED``."""
    value = inventory.effective(host, BACKEND, catalogue)
    return "directory" if value is None else value


def pool_of(
    inventory: Inventory, host: str, catalogue: Catalogue
) -> tuple[PoolSpec | None, tuple[PoolProblem, ...]] | None:
    """Return a host's pool and what is wrong with it; ``None`` where a part is not known, or has no type at all."""
    raw: dict[str, Any] = {}
    for key, name, kind in _PARTS:
        value = inventory.effective(host, name, catalogue)
        if value is UNRESOLVED:
            return None
        # Wrong types are reported by the rule of types.
        if kind and value is not None and not isinstance(value, Mapping if kind is dict else (list, tuple)):
            return None
        raw[key] = value
    if raw["name"] is None:
        raw["name"] = DEFAULT_POOL
    return parse_pool(raw)


def _is_unused(vdevs: object) -> bool:
    return vdevs is None or vdevs == []


def _ashift(inventory: Inventory, host: str, catalogue: Catalogue) -> int:
    """Return the exponent of the sector size; the usual one where it is not known, or no number."""
    value = inventory.effective(host, SECTORS, catalogue)
    return value if isinstance(value, int) and not isinstance(value, bool) else ASHIFT


def rule_pools(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a pool that zpool would refuse, or make otherwise than meant, before a disk is touched."""
    for host in inventory.members(*POOL_GROUPS):
        if backend(inventory, host, catalogue) != "zfs":
            continue
        found = pool_of(inventory, host, catalogue)
        for problem in found[1] if found else ():
            yield Problem(host, problem.path, problem.found, problem.wanted, problem.mend)
        if _ashift(inventory, host, catalogue) not in _SECTORS:
            wanted = f"{_SECTORS[0]} to {_SECTORS[-1]}: the power of two that is the size of a sector in bytes"
            value = quote(inventory.value(host, SECTORS))
            yield Problem(host, SECTORS, value, wanted, "take it out: 12 is right for the disks of today")


def rule_pools_have_a_use(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse what belongs to a pool where no pool is made: the operator would believe in redundancy or a quota."""
    carriers = inventory.members(*POOL_GROUPS)
    for host in inventory.hosts:
        if host in carriers:
            names = [name for name in inventory.variables.get(host, {}) if name.startswith("zfs_")]
            if names and backend(inventory, host, catalogue) == "directory":
                yield Problem(
                    host,
                    listed(sorted(names)),
                    "a pool, or parts of one",
                    f"nothing with {BACKEND}: directory",
                    f"set {BACKEND}: zfs for the site, or take them out",
                )
        elif not _is_unused(inventory.value(host, VDEVS)):
            yield Problem(
                host,
                VDEVS,
                "a pool on a host that is not in storage or replica",
                "a host of the group storage or replica",
                "write it at the storage host itself, in host_vars, or put the host into the group storage",
            )
    for name in ZFS_ONLY:
        for host, value in given(inventory, name):
            if value and backend(inventory, host, catalogue) == "directory":
                yield Problem(
                    host,
                    name,
                    quote(value),
                    f"nothing with {BACKEND}: directory",
                    f"set {BACKEND}: zfs, or take {name} out: plain folders have neither quotas nor snapshots",
                )


def rule_replicas(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want a second machine with a pool: snapshots go from pool to pool, and a copy beside the original is none."""
    for host in inventory.members("replica"):
        if backend(inventory, host, catalogue) == "directory":
            yield Problem(
                host,
                BACKEND,
                "'directory'",
                "zfs: a replica takes snapshots of the storage host's pool",
                f"set {BACKEND}: zfs and declare both pools, or take the host out of the group replica",
            )
        if host in inventory.members("storage"):
            yield Problem(
                THE_INVENTORY,
                "group replica",
                f"{host}, which is the storage host",
                "another machine",
                "name another host, or take it out: a copy on the same machine is lost with it",
            )


def _bytes_of_quota(value: object) -> int | None:
    """Return a quota in bytes, ``None`` for none; raise ``SizeError`` where zfs would read it otherwise, or not."""
    if isinstance(value, str) and value.strip().lower() == _NO_QUOTA:
        return None
    if isinstance(value, str) and _DECIMAL.search(value):
        raise SizeError("zfs reads TB as TiB: write 30T")
    size = parse_size(value)
    if size < _SMALLEST_QUOTA:
        raise SizeError("the unit is missing: write 30T, 500G or none")
    return size


def rule_quotas(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a quota that zfs does not understand, or that the pool can never hold: it would protect nothing."""
    for host in inventory.members("storage"):
        quotas = inventory.value(host, QUOTAS)
        if not isinstance(quotas, Mapping) or backend(inventory, host, catalogue) != "zfs":
            continue
        found = pool_of(inventory, host, catalogue)
        pool = found[0] if found else None
        known = pool is not None and not any(map(is_lower_bound, pool.vdevs))
        capacity = pool_capacity(pool, _ashift(inventory, host, catalogue)) if pool is not None and known else None
        for name, value in quotas.items():
            if value is UNRESOLVED:
                continue
            path = f"{QUOTAS}.{name}"
            try:
                size = _bytes_of_quota(value)
            except SizeError as error:
                yield Problem(host, path, quote(value), "a size as zfs writes it, e.g. 30T or 500G", str(error))
                continue
            if size is not None and capacity is not None and size > capacity.usable:
                yield Problem(
                    host,
                    path,
                    quote(value),
                    f"{format_binary(capacity.usable)} or less: more never fits into the pool",
                    "lower it, or add disks; make plan shows what the pool holds",
                )


STORAGE_RULES: tuple[Rule, ...] = (rule_pools, rule_pools_have_a_use, rule_replicas, rule_quotas)
