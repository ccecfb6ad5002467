"""Compute hosts that rest: they end their jobs and take no more, until they are told to go on."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
from breaking import break_off, stages
from support import (
    DONE,
    ERROR,
    SEGMENTATION,
    STARTED,
    TRAINING,
    Database,
    Inventory,
    Site,
    boot,
    play,
    starts,
    unit_states,
    wait_for,
    workers_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.scenario("cluster")

DRAIN = "playbooks/drain-compute.yml"
RESUME = "playbooks/resume-compute.yml"


def workers_running(connect: Callable[[str], Any], host: str) -> set[str]:
    shown = connect(host).check_output("/usr/local/lib/escriptorium/show-units")
    return {
        line.split()[0]
        for line in shown.splitlines()
        if line.startswith("escriptorium-worker@") and line.split()[1] in {"active", "activating", "deactivating"}
    }


def started(inventory: Inventory, connect: Callable[[str], Any], database: Database, document: int) -> tuple[str, str]:
    """Wait until a training runs; answers its host and its task's number."""
    report = database.running(document)
    task = report["task_id"]
    ((host, _),) = wait_for("the journal to say where", lambda: workers_of(inventory, connect, task) or None)
    return host, task


@pytest.fixture
def resumed(inventory: Inventory) -> Iterator[None]:
    """Leave no host drained."""
    yield
    play(inventory, RESUME, "--extra-vars", f"host={','.join(inventory.compute)}")


@pytest.mark.usefixtures("resumed")
def test_drained_host_ends_its_job_and_takes_no_more(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    document = site.api.training(site.api.held("rested"))
    host, task = started(inventory, connect, database, document)
    other = next(name for name in inventory.compute if name != host)
    run = play(
        inventory, DRAIN, "--extra-vars", json.dumps({"host": host, "drain_timeout": 5, "drain_reason": "a new fan"})
    )
    # What is left is shown: the worker, its job, and for how long it runs.
    assert f"gpu@{host} ends: core.tasks.train for " in run.output, run.output
    assert task in run.output
    assert workers_running(connect, host) == {"escriptorium-worker@gpu.service"}
    # Others take what comes meanwhile, and a deployment changes nothing about it.
    before = unit_states(inventory, connect)
    repeat = play(inventory, "playbooks/deploy-application.yml")
    assert repeat.changed == []
    assert unit_states(inventory, connect) == before
    second, parts = site.api.document("while one rests", pages=3)
    site.api.segment(second, parts)
    assert database.finished(second, SEGMENTATION)["messages"].count(f"default@{other}") == 1
    site.api.release("rested")
    report = database.finished(document, TRAINING)
    assert report["task_id"] == task
    assert workers_of(inventory, connect, task) == [(host, "escriptorium-worker@gpu.service")], "nowhere else"
    wait_for("the host to be at rest", lambda: not workers_running(connect, host), timeout=60)
    status = play(inventory, "playbooks/show-status.yml", "--limit", host).output
    assert "drained: by drain-compute.yml since " in status
    assert "a new fan" in status


@pytest.mark.fault
def test_drained_host_stays_drained_after_a_boot(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    host = inventory.compute[0]
    drained = play(inventory, DRAIN, "--extra-vars", f"host={host}")
    assert f"{host} is drained." in drained.output
    assert workers_running(connect, host) == set()
    again = play(inventory, DRAIN, "--extra-vars", f"host={host}")
    assert again.changed == []
    boot(inventory, connect, host)
    assert workers_running(connect, host) == set()
    assert play(inventory, "playbooks/deploy-application.yml", "--limit", host).changed == []
    assert workers_running(connect, host) == set()
    resumed = play(inventory, RESUME, "--extra-vars", f"host={host}")
    assert len(workers_running(connect, host)) == len(inventory.hosts[host].get("compute_queues", range(4)))
    assert play(inventory, RESUME, "--extra-vars", f"host={host}").changed == [], resumed.output


@pytest.mark.fault
def test_inventory_drains_and_resumes(inventory: Inventory, connect: Callable[[str], Any], tmp_path: Path) -> None:
    host = inventory.compute[1]
    more = tmp_path / "more.yml"
    more.write_text(json.dumps({"compute": {"hosts": {host: {"compute_state": "drained"}}}}), encoding="utf-8")
    drained = ("--inventory", str(more), "--limit", host)
    play(inventory, "playbooks/deploy-application.yml", *drained)
    wait_for("the workers to end", lambda: not workers_running(connect, host), timeout=60)
    assert play(inventory, "playbooks/deploy-application.yml", *drained).changed == []
    # The playbook does not undo what the inventory says.
    refused = play(inventory, RESUME, "--inventory", str(more), "--extra-vars", f"host={host}", check=False)
    assert "compute_state: drained" in refused.output
    assert workers_running(connect, host) == set()
    play(inventory, "playbooks/deploy-application.yml", "--limit", host)
    wait_for("the workers to run", lambda: len(workers_running(connect, host)) >= 4, timeout=60)
    assert play(inventory, "playbooks/deploy-application.yml", "--limit", host).changed == []


@pytest.mark.fault
@pytest.mark.usefixtures("resumed")
def test_jobs_that_run_too_long_begin_again_elsewhere(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    document = site.api.training(site.api.held("requeued"))
    host, task = started(inventory, connect, database, document)
    play(inventory, DRAIN, "--extra-vars", f"host={host} drain_timeout=2 drain_then=requeue")
    assert workers_running(connect, host) == set()
    site.api.release("requeued")
    report = database.finished(document, TRAINING)
    assert report["task_id"] == task
    other = next(name for name in inventory.compute if name != host)
    assert starts(report) == [f"gpu@{host}", f"gpu@{other}"]


@pytest.mark.fault
@pytest.mark.usefixtures("resumed")
def test_jobs_that_run_too_long_end_with_a_reason(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    document = site.api.training(site.api.held("never"))
    host, _ = started(inventory, connect, database, document)
    play(inventory, DRAIN, *ending(host))
    assert_ended(inventory, connect, database, document)


def ending(host: str) -> tuple[str, str]:
    """Arguments of a drain that ends jobs as failed."""
    given = {"host": host, "drain_timeout": 2, "drain_then": "stop", "drain_reason": "a new fan"}
    return "--extra-vars", json.dumps(given)


def assert_ended(
    inventory: Inventory, connect: Callable[[str], Any], database: Database, document: int, timeout: float = 60
) -> None:
    """A training has ended with the operator's reason, and begins nowhere again."""

    def ended() -> dict[str, Any] | None:
        report = database.report(document, TRAINING)
        return report if report and report["workflow_state"] not in {STARTED, DONE} else None

    report = wait_for("the end of the training", ended, timeout=timeout)
    assert report["workflow_state"] == ERROR
    assert "a new fan" in report["messages"]
    assert database.rows("SELECT count(*) FROM core_ocrmodel WHERE training")[0]["count"] == 0
    assert len(workers_of(inventory, connect, report["task_id"])) == 1, "and never again"
    assert len(starts(report)) == 1


@pytest.mark.fault
@pytest.mark.usefixtures("resumed")
def test_a_drain_that_ends_jobs_is_finished_wherever_it_was_broken_off(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    def begin() -> tuple[int, str]:
        play(inventory, RESUME, "--extra-vars", f"host={','.join(inventory.compute)}")
        document = site.api.training(site.api.held("never"))
        return document, started(inventory, connect, database, document)[0]

    document, host = begin()
    whole = play(inventory, DRAIN, *ending(host))
    assert_ended(inventory, connect, database, document)
    for stage, blow in stages(whole.output, 7):
        print(f"{blow.name} at '{stage}'")
        document, host = begin()
        break_off(inventory, DRAIN, *ending(host), task=stage, blow=blow)
        again = play(inventory, DRAIN, *ending(host))
        assert f"{host} is drained." in again.output
        assert workers_running(connect, host) == set()
        assert_ended(inventory, connect, database, document)
        assert play(inventory, DRAIN, *ending(host)).changed == []


@pytest.mark.fault
@pytest.mark.usefixtures("resumed")
def test_jobs_of_a_drain_that_was_broken_off_never_begin_again(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    """Nobody repeats it, and its host stays down: the reaper ends them when the lease of their worker is over."""
    document = site.api.training(site.api.held("never"))
    host, _ = started(inventory, connect, database, document)
    break_off(
        inventory,
        DRAIN,
        *ending(host),
        task="End the workers and their jobs",
        blow=signal.SIGKILL,
        pause=0,
        until=lambda: not workers_running(connect, host),
    )
    # Its silence counts a third of its 30 s with each run of the reaper, once a minute.
    assert_ended(inventory, connect, database, document, timeout=420)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("drain_reason=none", "Say which host"),
        ("host=nobody", "nobody is no compute host"),
        ("host=frontend", "frontend is no compute host"),
        ("host=compute1 drain_then=kill", "drain_then: found 'kill', wanted one of wait, requeue, stop"),
    ],
)
def test_what_is_not_clear_is_refused(inventory: Inventory, arguments: str, said: str) -> None:
    run = play(inventory, DRAIN, "--extra-vars", arguments, check=False)
    assert said in " ".join(run.output.split())
    assert all(counts["changed"] == 0 for counts in run.stats.values())
