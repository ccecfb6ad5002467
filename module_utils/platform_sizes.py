"""Rules about numbers: sizes that a service can start with.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .platform_facts import DEFAULT_MEMORY_MB
from .platform_problems import Inventory, Problem, did_you_mean, given, show
from .platform_types import is_number, type_fits

if TYPE_CHECKING:
    from .platform_variables import Catalogue

# Celery hands a task to another worker when it is not acknowledged within the visibility timeout.
MIN_VISIBILITY_TIMEOUT_S = 3600


@dataclass(frozen=True)
class _Size:
    """Bounds of all numbers whose name matches."""

    pattern: re.Pattern[str]
    low: int
    high: int
    unit: str


_SIZES = (
    _Size(re.compile(r"_port$"), 1, 65535, "port number"),
    _Size(re.compile(r"concurrency$"), 1, 1024, "processes"),
    _Size(re.compile(r"visibility_timeout(_s)?$"), MIN_VISIBILITY_TIMEOUT_S, 10 * 365 * 86400, "seconds"),
    _Size(re.compile(r"^escriptorium_(lease|orphan)_seconds$"), 30, 86400, "seconds"),
    _Size(re.compile(r"^service_[ug]id$"), 100, 65533, "number that no account of the system has"),
    _Size(re.compile(r"^escriptorium_fetch_timeout_seconds$"), 1, 90, "seconds"),
    _Size(re.compile(r"^escriptorium_import_patience_seconds$"), 0, 86400, "seconds"),
    _Size(re.compile(r"^escriptorium_import_requests_per_host$"), 0, 100, "requests"),
    _Size(re.compile(r"^escriptorium_trainings_(running_)?per_user$"), 0, 1000, "trainings"),
    _Size(re.compile(r"^escriptorium_login_failures$"), 0, 1000, "wrong passwords"),
    _Size(re.compile(r"^escriptorium_login_lock_seconds$"), 10, 86400, "seconds"),
    _Size(re.compile(r"^escriptorium_admin_session_hours$"), 1, 336, "hours"),
    _Size(re.compile(r"^nginx_login_rate$"), 0, 1000, "logins in a minute"),
    _Size(re.compile(r"^nginx_login_burst$"), 0, 1000, "logins"),
    _Size(re.compile(r"(archive|upload)\w*_mib$"), 1, 1024 * 1024, "MiB"),
    _Size(re.compile(r"^escriptorium_archive_max_files$"), 1, 1000000, "files"),
    _Size(re.compile(r"^nginx_media_answer_seconds$"), 1, 3600, "seconds"),
    _Size(re.compile(r"_(mb|mib|gb|gib)$"), 1, 1024 * 1024 * 1024, "units as the name says"),
    _Size(
        re.compile(r"(processes|workers|threads|batch_size|max_connections|keep_releases|releases_kept)$"),
        1,
        100000,
        "items",
    ),
    _Size(re.compile(r""), 0, 2**63 - 1, "number"),
)


def rule_sizes(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Impossible sizes start services that refuse to run: no process, a port that does not exist, a negative size.

    A visibility timeout below an hour makes Celery run a long training twice. Zero is fine where it is the default:
    there it means "derived" or "off".
    """
    for host in inventory.hosts:
        for name, value in inventory.variables.get(host, {}).items():
            variable = catalogue.variables.get(name)
            if variable is None or variable.type not in ("int", "float") or not type_fits(variable.type, value):
                continue
            number = float(value)
            if number == variable.default:
                continue
            size = next(size for size in _SIZES if size.pattern.search(name))
            if isinstance(variable.default, int | float) and variable.default < 0 and size.pattern.pattern == "":
                continue
            if not size.low <= number <= size.high:
                yield Problem(
                    host,
                    name,
                    show(name, value, catalogue),
                    f"{size.low} or more" if number < size.low else f"{size.high} or less",
                    f"correct the {size.unit}",
                )


def rule_memory_wanted(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Check the shape of the memory bounds here, because the facts stage reads them late."""
    for host, value in given(inventory, "preflight_memory_mb"):
        numbers = list(value.items()) if isinstance(value, Mapping) else [("", value)]
        for group, number in numbers:
            path = f"preflight_memory_mb.{group}" if group else "preflight_memory_mb"
            if group and group not in DEFAULT_MEMORY_MB:
                mend = did_you_mean(str(group), DEFAULT_MEMORY_MB) or f"known: {', '.join(DEFAULT_MEMORY_MB)}"
                yield Problem(host, path, "an unknown group", "a group of the platform", mend)
            elif not is_number(number, int) or int(number) < 1:
                yield Problem(host, path, show(path, number, catalogue), "MB, 1 or more", "write a whole number")
