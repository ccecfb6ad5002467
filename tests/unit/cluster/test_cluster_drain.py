"""What is left on a host that is being drained, as a person is told it."""

from __future__ import annotations

import pytest
from escriptorium_cluster.drain import describe, units_left
from escriptorium_cluster.jobs import Job, duration

LISTED = """\
escriptorium-web.service active running
escriptorium-worker@default.service active running
escriptorium-worker@gpu0-2g.10gb-0.service deactivating stop-sigterm
escriptorium-worker@live.service inactive dead
escriptorium-worker@low-priority.service failed failed
drained: by drain-compute.yml since 2026-11-21 10:00 UTC
"""


def test_units_left_are_the_workers_that_run() -> None:
    assert units_left(LISTED, "c1") == {"default@c1": "active", "gpu0-2g.10gb-0@c1": "deactivating"}


def test_units_left_of_a_host_at_rest() -> None:
    assert units_left("drained: by the inventory\n", "c1") == {}


def test_describe_names_each_job_with_its_time() -> None:
    units = {"gpu@c1": "deactivating", "default@c1": "active"}
    jobs = [
        Job("gpu@c1", "core.tasks.train", "id-1", 4325.0),
        Job("gpu@c2", "core.tasks.train", "id-2", 10.0),
    ]
    assert describe(units, jobs) == [
        "default@c1 is active: no job that is known",
        "gpu@c1 ends: core.tasks.train for 1 h 12 min (id-1)",
    ]


def test_describe_says_when_nothing_is_left() -> None:
    assert describe({}, []) == ["no worker runs"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 0 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
