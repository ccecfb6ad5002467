"""A site that comes back from copies elsewhere: which target may be named, and what is said of what came back."""

from __future__ import annotations

import pytest

from module_utils.platform_rebuild import refusal, report

TARGETS = [
    {"name": "local", "database": False},
    {"name": "faculty", "database": True},
    {"name": "vault", "database": True},
]


@pytest.mark.parametrize("moment", ["", "2026-11-21T10:00:00+01", "2026-11-21 10:00Z"])
def test_a_target_with_copies_of_the_database_is_taken(moment: str) -> None:
    assert refusal(TARGETS, "faculty", moment) == ""


@pytest.mark.parametrize(
    ("name", "moment", "words"),
    [
        ("", "", "-e rebuild_from=NAME; these have copies of the database: faculty, vault"),
        ("local", "", "these have copies of the database: faculty, vault"),
        ("facluty", "", "did you mean 'faculty'?"),
        ("faculty", "2026-11-21T10:00:00", "write a moment with its time zone"),
        ("faculty", "yesterday", "rebuild_time is 'yesterday'"),
    ],
)
def test_what_cannot_be_brought_back_is_refused_with_what_helps(name: str, moment: str, words: str) -> None:
    assert words in refusal(TARGETS, name, moment)


def test_a_site_without_targets_elsewhere_is_told() -> None:
    assert refusal(TARGETS[:1], "", "").endswith("no target of backup_targets has any")


def test_sizes_and_times_are_told() -> None:
    done = {"target": "faculty", "snapshot": "ab12", "bytes": 2_000_000_000, "seconds": 30.04, "again": False}
    assert report(done) == {
        "target": "faculty",
        "copy": "ab12",
        "gigabytes": 2.0,
        "seconds": 30.0,
        "seconds_per_gigabyte": 15.0,
    }
    small = report(
        {"target": "faculty", "snapshot": "ab12", "bytes": 5, "seconds": 3, "missing": ["a"], "problems": ["b"]}
    )
    assert "seconds_per_gigabyte" not in small
    assert (small["missing"], small["problems"]) == (["a"], ["b"])
