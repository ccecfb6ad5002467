"""Jobs outlive what happens to workers and hosts, and each ends exactly once.

The scenario's lease is 30 s (`escriptorium_lease_seconds`); the reaper's timer runs once a minute, so that silence adds
up slowly there. The checks run it themselves, more often.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support import DONE, TRAINING, Database, Inventory, Site, ends, paused, starts, wait_for, workers_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.scenario("cluster")

REAPER = "python -m escriptorium_cluster.reaper --json"
UNIT = "escriptorium-worker@gpu.service"
#: Exit status of a worker that found its lease declared dead.
DECLARED_DEAD = 75


def reap(frontend: Any, arguments: str = "") -> dict[str, Any]:
    report: dict[str, Any] = json.loads(
        frontend.check_output(f"/usr/local/lib/escriptorium/run-as-service {REAPER} {arguments}")
    )
    return report


def finished_once(
    database: Database, inventory: Inventory, connect: Callable[[str], Any], document: int
) -> dict[str, Any]:
    """Wait for the end of a training; nothing of it is left in the broker, and it ended once."""
    report = database.finished(document, TRAINING, timeout=300)
    assert ends(map(connect, inventory.compute), report["task_id"]) == 1
    frontend = connect(inventory.frontend)
    assert reap(frontend)["restored"] == []
    assert not database.in_training(report["task_id"])
    return report


def test_every_worker_holds_a_lease(frontend: Any, inventory: Inventory) -> None:
    workers = 4 * len(inventory.compute) + 1
    wait_for("all leases", lambda: reap(frontend)["living"] == workers, timeout=60)
    assert frontend.service("escriptorium-reaper.timer").is_enabled
    frontend.check_output("systemctl start escriptorium-reaper.service")
    lines = frontend.check_output("journalctl --quiet --unit escriptorium-reaper --output cat --lines 1")
    assert json.loads(lines)["trouble"] == ""


def test_a_job_outlives_its_worker(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    document = site.api.training(site.api.held("killed"))
    ((host, unit),) = workers_of(inventory, connect, database.running(document)["task_id"])
    assert unit == UNIT
    connect(host).check_output("systemctl kill --kill-whom=main --signal=KILL %s", UNIT)
    wait_for("the job to start again", lambda: len(starts(database.running(document))) == 2)
    site.api.release("killed")
    report = finished_once(database, inventory, connect, document)
    assert len(starts(report)) == 2
    wait_for("the worker to run again", lambda: connect(host).service(UNIT).is_running or None, timeout=60)


def test_a_job_outlives_a_host_that_hangs_and_comes_back(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    frontend = connect(inventory.frontend)
    document = site.api.training(site.api.held("paused"))
    ((host, _),) = workers_of(inventory, connect, database.running(document)["task_id"])
    (other,) = (name for name in inventory.compute if name != host)

    def restored() -> dict[str, Any] | None:
        report = reap(frontend)
        return report if report["restored"] else None

    with paused(inventory.container(host)):
        report = wait_for("the job to go back", restored, timeout=240, pause=3)
        assert f"gpu@{host}" in report["dead"]
        wait_for(
            "the job to start elsewhere",
            lambda: starts(database.running(document)) == [f"gpu@{host}", f"gpu@{other}"],
            timeout=60,
        )

    def fenced() -> bool:
        journal = connect(host).check_output(f"journalctl --quiet --unit {UNIT} --output cat --lines 200")
        return "was declared dead" in journal

    wait_for("the former worker to end", fenced, timeout=60)
    site.api.release("paused")
    report = finished_once(database, inventory, connect, document)
    assert (report["workflow_state"], starts(report)) == (DONE, [f"gpu@{host}", f"gpu@{other}"])
    workers = 4 * len(inventory.compute) + 1
    wait_for("all leases", lambda: reap(frontend)["living"] == workers, timeout=120)


def test_a_host_that_is_away_for_a_moment_keeps_its_job(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    document = site.api.training(site.api.held("short"))
    ((host, _),) = workers_of(inventory, connect, database.running(document)["task_id"])
    frontend = connect(inventory.frontend)
    with paused(inventory.container(host)):
        reap(frontend)
        reap(frontend)
    site.api.release("short")
    assert len(starts(finished_once(database, inventory, connect, document))) == 1


@pytest.mark.fault
def test_a_host_is_declared_dead_by_hand(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    """The machine lives nevertheless: its workers end before the job goes to others."""
    document = site.api.training(site.api.held("declared"))
    ((host, _),) = workers_of(inventory, connect, database.running(document)["task_id"])
    frontend = connect(inventory.frontend)
    report = reap(frontend, f"--dead {host}")
    assert len(report["dead"]) == 4
    assert len(report["restored"]) == 1
    wait_for("the job to start again", lambda: len(starts(database.running(document))) == 2)
    site.api.release("declared")
    assert len(starts(finished_once(database, inventory, connect, document))) == 2

    def status() -> bool:
        journal = connect(host).check_output(f"journalctl --quiet --unit {UNIT} --output cat --lines 200")
        return f"status={DECLARED_DEAD}" in journal

    wait_for("the worker to start anew", status, timeout=60)
    workers = 4 * len(inventory.compute) + 1
    wait_for("all leases", lambda: reap(frontend)["living"] == workers, timeout=120)
