"""What copies cost, as operators read it."""

from __future__ import annotations

import pytest

from module_utils.backup_programs.space import amount, lasted, space_lines

TARGETS = {"targets": [{"name": "disk", "append_only": False}, {"name": "vault", "append_only": True}]}


@pytest.mark.parametrize(
    ("size", "shown"), [(20e12, "20.0 TB"), (1.26e9, "1.3 GB"), (999e6, "999.0 MB"), (1e6, "1.0 MB"), (1500, "2 kB")]
)
def test_sizes_are_rounded_as_people_do(size: float, shown: str) -> None:
    assert amount(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (119, "119 s"), (120, "2 minutes"), (7199, "120 minutes"), (7200, "2 hours"), (19 * 86400, "19 days")],
)
def test_times_are_rounded_as_people_do(seconds: float, shown: str) -> None:
    assert lasted(seconds) == shown


def test_each_target_has_a_line() -> None:
    copy = {"last_success": 86400, "bytes": 9e11, "files": 7, "added_bytes": 1e9, "database_bytes": 1e11}
    copy |= {"database_added_bytes": 5e8, "seconds": 600}
    removal = {"last_success": 5 * 86400, "target_bytes": 1.2e12, "seconds": 7300}
    disk, vault = space_lines(TARGETS, {"disk": {"backup": copy, "prune": removal}})
    assert disk == (
        "copies at disk: what is stored takes 1.2 TB (counted 1970-01-06 00:00 UTC); the copy of 1970-01-02 00:00 UTC "
        "looked at 1.0 TB in 7 files, added 1.5 GB, and took 10 minutes; the last removal of old copies took 2 hours"
    )
    assert vault == "copies at vault: what is stored is counted by the next trial"


def test_what_nothing_is_removed_from_is_counted_by_its_trials() -> None:
    trial = {"last_success": 86400, "target_bytes": 3e9, "seconds": 9}
    _, vault = space_lines(TARGETS, {"vault": {"drill": trial}})
    assert vault.startswith(
        "copies at vault: what is stored takes 3.0 GB (counted 1970-01-02 00:00 UTC); the last trial"
    )
