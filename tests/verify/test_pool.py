"""A compute host joins the platform while jobs run, and leaves it again."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from breaking import break_off, stages
from support import (
    DONE,
    REPOSITORY,
    SEGMENTATION,
    TRAINING,
    Database,
    Inventory,
    PlayRun,
    Site,
    ends,
    paused,
    play,
    reaches,
    starts,
    unit_states,
    wait_for,
    workers_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support import UnitStates

pytestmark = pytest.mark.scenario("cluster")

NEW = "compute3"
TRAINER = "escriptorium-worker@gpu.service"
ADDRESS = "10.213.50.23"
#: Another one, whose joining is broken off.
LATE, LATE_ADDRESS = "compute4", "10.213.50.24"
#: Holds a session with the database.
HOLD_SESSION = """
import django, time
django.setup()
from django.db import connection
connection.ensure_connection()
time.sleep(900)
"""
#: The promises of the project for a host that joins.
TASKS_ON_OTHERS = 10
#: On an idle computer it is 180 s; these tests run beside others.
SECONDS = 360


def write(inventory: Inventory, name: str = NEW, address: str = ADDRESS, **variables: str) -> Inventory:
    """Write the inventory with one host more; what it names beside itself stays where it is."""
    folder = REPOSITORY / ".cache" / f"joined-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(inventory.folder, folder)
    for path in folder.rglob("*.yml"):
        path.write_text(path.read_text().replace("inventory_dir", f"'{inventory.folder}'"))
    tree = yaml.safe_load((folder / "hosts.yml").read_text())
    tree["all"]["children"]["compute"]["hosts"][name] = {"private_address": address, **variables}
    (folder / "hosts.yml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return Inventory.read(folder)


@dataclass(frozen=True)
class Join:
    """The run that took a host in while a training ran."""

    inventory: Inventory
    run: PlayRun
    before: UnitStates
    after: UnitStates
    training: dict[str, Any]


@pytest.fixture(scope="module")
def join(site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]) -> Iterator[Join]:
    document = site.api.training(site.api.held("joined"))
    joined = write(inventory)
    try:
        play(joined, "molecule/resources/create.yml")
        database.running(document)
        before = unit_states(inventory, connect)
        run = play(joined, "site.yml", "--limit", NEW)
        after = unit_states(inventory, connect)
        site.api.release("joined")
        yield Join(joined, run, before, after, database.finished(document, TRAINING, timeout=240))
    finally:
        subprocess.run(["docker", "rm", "--force", joined.container(NEW)], check=True, capture_output=True)
        shutil.rmtree(joined.folder)


def on_others(run: PlayRun) -> list[str]:
    """Return what a run did on hosts that it was not limited to, as ``host: ok`` or ``host: changed``."""
    found = re.findall(rf"^(ok|changed): \[{NEW} -> ([\w.-]+)", run.output, re.MULTILINE)
    return [f"{host}: {what}" for what, host in found]


def test_nothing_else_restarts_and_the_job_goes_on(join: Join) -> None:
    assert join.after == join.before
    assert join.training["workflow_state"] == DONE


def test_others_run_few_tasks(join: Join, inventory: Inventory) -> None:
    told = on_others(join.run)
    print(f"{len(told)} tasks on other hosts, {join.run.seconds:.0f} s")
    assert 0 < len(told) <= TASKS_ON_OTHERS
    assert {line.partition(":")[0] for line in told} <= {inventory.frontend, *inventory.groups["storage"]}
    assert set(join.run.stats) == {NEW}
    assert join.run.seconds < SECONDS


def test_firewalls_of_others_let_the_new_host_in(
    join: Join, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    assert NEW not in inventory.hosts
    assert NEW in join.inventory.hosts
    frontend = connect(inventory.frontend)
    assert ADDRESS in frontend.check_output("nft list table inet escriptorium")
    assert frontend.check_output("escriptorium-firewall pending") == ""
    # The tree is no NFS here: nobody new needs the storage host.
    assert ADDRESS not in connect(*inventory.groups["storage"]).check_output("nft list table inet escriptorium")


def test_each_worker_has_run_a_probe_job(join: Join) -> None:
    for queue in ("default", "live", "low-priority", "gpu"):
        assert re.search(rf"{queue}@{NEW} (ran a probe job|is busy with a job, and looked beside it)", join.run.output)
    assert "NOT RIGHT" not in join.run.output


def test_new_host_takes_jobs(join: Join, site: Site, database: Database) -> None:
    connect = cache(join.inventory.connect)
    documents = []
    for number in range(8):
        document, parts = site.api.document(f"beside others {number}")
        site.api.segment(document, parts)
        documents.append(document)
    reports = [database.finished(document, SEGMENTATION) for document in documents]
    hosts = [host for report in reports for host, _ in workers_of(join.inventory, connect, report["task_id"])]
    assert len(hosts) == len(documents), "each taken once"
    assert NEW in hosts


def test_repeated_run_changes_nothing(join: Join) -> None:
    assert play(join.inventory, "site.yml", "--limit", NEW).changed == []


@pytest.mark.fault
def test_a_join_is_finished_wherever_it_was_broken_off(join: Join, site: Site, database: Database) -> None:
    late = write(join.inventory, LATE, LATE_ADDRESS)
    connect = cache(join.inventory.connect)
    before = unit_states(join.inventory, connect)
    for stage, blow in stages(join.run.output, 4):
        print(f"{blow.name} at '{stage}'")
        try:
            play(late, "molecule/resources/create.yml")
            break_off(late, "site.yml", "--limit", LATE, task=stage, blow=blow)
            run = play(late, "site.yml", "--limit", LATE)
            assert "NOT RIGHT" not in run.output
            assert late.connect(LATE).service(TRAINER).is_running
            assert play(late, "site.yml", "--limit", LATE).changed == []
            document, parts = site.api.document(f"after a join that was broken off at {stage}")
            site.api.segment(document, parts)
            database.finished(document, SEGMENTATION)
            assert unit_states(join.inventory, connect) == before, "nothing else has restarted"
        finally:
            subprocess.run(["docker", "rm", "--force", late.container(LATE)], check=True, capture_output=True)
            # So that the next one is let in anew.
            dead = ("-e", f"host={LATE}", "-e", "host_is_dead=true")
            play(join.inventory, "playbooks/remove-compute.yml", *dead)
    shutil.rmtree(late.folder)


def held_trainings(join: Join, site: Site, database: Database, name: str) -> tuple[int, list[int]]:
    """Start a training on each of the three hosts; answers the document of the new host's, and those of all."""
    model = site.api.held(name)
    documents = [site.api.training(model) for _ in range(len(join.inventory.compute))]

    def worker(document: int) -> str:
        # The report says that it runs a moment before its worker is noted there.
        began = wait_for("its worker", lambda: starts(database.running(document)) or None)
        return began[-1]

    workers = {worker(document): document for document in documents}
    return workers[f"gpu@{NEW}"], documents


def finished_elsewhere(join: Join, database: Database, own: int, documents: list[int]) -> None:
    """Wait for the ends of all trainings; that of the new host began again on another one, and ended once."""
    for document in documents:
        database.finished(document, TRAINING, timeout=300)
    report = database.report(own, TRAINING)
    assert report
    first, second = starts(report)
    assert first == f"gpu@{NEW}" != second
    assert ends(map(join.inventory.connect, join.inventory.compute), report["task_id"]) == 1


def await_let_in(join: Join) -> None:
    """Wait until the workers that train there wait for their database."""
    host = join.inventory.connect(NEW)

    def waits() -> bool:
        lines = host.check_output("journalctl --quiet --unit %s --output cat --lines 20", TRAINER)
        return "no pg_hba.conf entry" in lines and not host.service(TRAINER).is_running

    wait_for("the worker to wait", waits, timeout=240)


def known(frontend: Any) -> bool:
    """Whether the host of database and broker knows the new one."""
    lists = "/etc/postgresql/*/main/pg_hba.conf /etc/systemd/system/redis-server.service.d /etc/hosts"
    return bool(frontend.run(f"grep -r {ADDRESS} {lists}").rc == 0)


def broker_answers(join: Join) -> bool:
    """Whether the new host reaches the broker."""
    return reaches(join.inventory.connect(NEW), join.inventory.address(join.inventory.frontend), 6380)


@pytest.mark.fault
def test_host_that_is_deleted_gives_its_jobs_back(
    join: Join, site: Site, database: Database, inventory: Inventory
) -> None:
    """Its line is gone while it works: it is let in no more, and loses no job."""
    own, documents = held_trainings(join, site, database, "deleted")
    # A program that goes on though its host has left.
    join.inventory.connect(NEW).check_output(
        "systemd-run --quiet --collect --unit=stays /usr/local/lib/escriptorium/run-as-service python -c %s",
        HOLD_SESSION,
    )
    sessions = f"SELECT pid FROM pg_stat_activity WHERE client_addr = '{ADDRESS}'"
    wait_for("its session", lambda: database.rows(sessions) or None)
    assert broker_answers(join)
    play(inventory, "playbooks/deploy-database.yml")
    assert database.rows(sessions) == []
    assert not broker_answers(join)
    site.api.release("deleted")
    finished_elsewhere(join, database, own, documents)
    await_let_in(join)


@pytest.mark.fault
def test_dead_host_is_removed_without_a_connection(
    join: Join, site: Site, database: Database, inventory: Inventory, frontend: Any
) -> None:
    play(join.inventory, "playbooks/deploy-database.yml")
    host = join.inventory.connect(NEW)
    wait_for("the worker to be let in again", lambda: host.service(TRAINER).is_running or None, timeout=240)
    own, documents = held_trainings(join, site, database, "dead")
    with paused(join.inventory.container(NEW)):
        run = play(inventory, "playbooks/remove-compute.yml", "-e", f"host={NEW}", "-e", "host_is_dead=true")
        assert NEW not in run.stats
        assert "waits again" in run.output
        assert not known(frontend)
        site.api.release("dead")
        for document in documents:
            database.finished(document, TRAINING, timeout=300)
    finished_elsewhere(join, database, own, documents)
    # The machine lives nevertheless: its workers end, and wait to be let in.
    await_let_in(join)


def test_absent_host_is_cleaned_and_let_in_no_more(
    join: Join, inventory: Inventory, connect: Callable[[str], Any], frontend: Any
) -> None:
    before = unit_states(inventory, connect)
    leaving = write(inventory, compute_state="absent")
    play(leaving, "site.yml")
    assert unit_states(inventory, connect) == before
    gone = join.inventory.connect(NEW)
    for path in ("/etc/escriptorium", "/opt/escriptorium", "/usr/local/lib/escriptorium"):
        assert not gone.file(path).exists
    assert gone.run("ls /etc/systemd/system/escriptorium-worker@*").rc != 0
    assert gone.file("/srv/escriptorium/media").is_directory, "never the data"
    assert not known(frontend)
