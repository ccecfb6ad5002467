"""A cluster in operation: deployments beside running jobs, changed settings, hosts that stop, a broker that is away."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from breaking import break_off, stages
from support import (
    DONE,
    JOB_TIMEOUT,
    SEGMENTATION,
    TRAINING,
    Database,
    Inventory,
    PlayRun,
    Site,
    play,
    unit_states,
    wait_for,
    workers_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import UnitStates

pytestmark = pytest.mark.scenario("cluster")

# What a run that changes nothing may cost, by kind of host (docs/performance.md).
BUDGET = Path(__file__).with_name("tasks.yml")
SHARED = "/srv/escriptorium"


@dataclass(frozen=True)
class Repeat:
    """A deployment that had nothing to change, while a training ran."""

    run: PlayRun
    before: UnitStates
    after: UnitStates
    training: dict[str, Any]


@pytest.fixture(scope="module")
def repeat(site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]) -> Repeat:
    document = site.api.training(site.api.held("repeated"))
    database.running(document)
    before = unit_states(inventory, connect)
    run = play(inventory, "site.yml")
    after = unit_states(inventory, connect)
    site.api.release("repeated")
    return Repeat(run, before, after, database.finished(document, TRAINING, timeout=240))


def test_repeated_deployment_changes_nothing(repeat: Repeat) -> None:
    assert repeat.run.changed == []
    assert {host: counts["changed"] for host, counts in repeat.run.stats.items() if counts["changed"]} == {}


def test_repeated_deployment_restarts_nothing(repeat: Repeat) -> None:
    assert repeat.after == repeat.before
    assert len(repeat.before) >= 14  # web, WebSocket, imports, nginx, PostgreSQL, Redis; four queues on two hosts


def test_repeated_deployment_costs_what_it_did(repeat: Repeat, inventory: Inventory) -> None:
    """Counts do not depend on the machine, times do: those come from `make bench`."""
    budget = yaml.safe_load(BUDGET.read_text())

    def kind(host: str) -> str:
        return "+".join(group for group in ("compute", "frontend", "storage") if host in inventory.groups[group])

    counted = {
        host: {"executed": counts["ok"], "skipped": counts["skipped"]} for host, counts in repeat.run.stats.items()
    }
    print(f"{counted}, {repeat.run.seconds:.1f} s")
    grown = {
        host: (figures, budget[kind(host)])
        for host, figures in counted.items()
        if any(figures[name] > budget[kind(host)][name] for name in figures)
    }
    assert grown == {}, f"more than {BUDGET.name} allows"


def test_running_training_outlives_a_deployment(
    repeat: Repeat, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    assert repeat.training["workflow_state"] == DONE
    assert len(workers_of(inventory, connect, repeat.training["task_id"])) == 1, "started once, and never again"


def restarted(before: UnitStates, after: UnitStates) -> set[tuple[str, str]]:
    return {unit for unit in before if before[unit] != after.get(unit)}


def units_of_the_application(inventory: Inventory, connect: Callable[[str], Any]) -> set[tuple[str, str]]:
    found = {unit for unit in unit_states(inventory, connect) if unit[1].startswith("escriptorium-")}
    return {unit for unit in found if unit[1] != "escriptorium-firewall.service"}


def deploy_and_compare(
    inventory: Inventory, connect: Callable[[str], Any], wanted: set[tuple[str, str]], settings: dict[str, Any]
) -> set[tuple[str, str]]:
    """Deploy with other settings; answers the units that were restarted, once those wanted were (or time is up)."""
    before = unit_states(inventory, connect)
    play(inventory, "playbooks/deploy-application.yml", "--extra-vars", json.dumps(settings))
    answer: set[tuple[str, str]] = set()

    def all_there() -> bool:
        nonlocal answer
        after = unit_states(inventory, connect)
        answer = restarted(before, after)
        return answer >= wanted and before.keys() <= after.keys()

    # Starts come in turn, and each takes what the machine's load makes of it.
    wait_for(f"the restart of {sorted(wanted)}", all_there, timeout=300)
    return answer


def test_changed_worker_restarts_that_worker_only(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    overrides = inventory.value("celery_worker_overrides") | {"live": {"concurrency": 2}}
    wanted = {(host, "escriptorium-worker@live.service") for host in inventory.compute}
    assert deploy_and_compare(inventory, connect, wanted, {"celery_worker_overrides": overrides}) == wanted
    for host in inventory.compute:
        shown = connect(host).check_output("systemctl show --property=ExecStart escriptorium-worker@live.service")
        assert "--concurrency 2" in shown


def test_changed_setting_restarts_the_application_only(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    application = units_of_the_application(inventory, connect)
    overrides = inventory.value("celery_worker_overrides") | {"live": {"concurrency": 2}}
    settings = {
        "celery_worker_overrides": overrides,
        "escriptorium_environment": {"QUOTA_CPU_MINUTES": "600"},
        "escriptorium_web_timers": {"check_quotas": "*-*-* 06:00:00"},
    }
    frontend = connect(inventory.frontend)
    strange = "/etc/systemd/system/escriptorium-of-the-lab.timer"
    frontend.check_output("printf '[Timer]\\nOnCalendar=yearly\\n' > %s", strange)
    try:
        assert deploy_and_compare(inventory, connect, application, settings) == application
        assert frontend.file(strange).exists, "a timer that the role has not made"
    finally:
        frontend.check_output("rm %s", strange)
    timers = frontend.check_output("systemctl list-timers --all --no-legend 'escriptorium-*'")
    assert "escriptorium-check_quotas.timer" in timers
    assert "escriptorium-cleanup_models_versioning.timer" not in timers, "one that is wanted no more is removed"
    for host in {inventory.frontend, *inventory.compute}:
        assert connect(host).file("/etc/escriptorium/escriptorium.env").contains("^QUOTA_CPU_MINUTES=.*600")


def test_own_settings_come_back(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    """The same the other way round, and the checks that follow find the cluster as its inventory describes it."""
    application = units_of_the_application(inventory, connect)
    assert deploy_and_compare(inventory, connect, application, {}) == application
    nodes = [f"{queue}@{host}" for host in inventory.compute for queue in ("default", "live", "low-priority", "gpu")]
    answer = answers(connect, inventory.frontend, nodes)
    assert answer.rc == 0, answer.stdout


def answers(connect: Callable[[str], Any], frontend: str, nodes: list[str], timeout: int = 90) -> Any:
    return connect(frontend).run(
        "/usr/local/lib/escriptorium/run-as-service python -m escriptorium_cluster.workers --timeout %s --expect %s",
        str(timeout),
        ",".join(nodes),
    )


def sql(frontend: Any, query: str) -> str:
    return str(frontend.check_output("runuser -u postgres -- psql -XAtc %s", query))


def all_changed(number: int) -> tuple[str, str]:
    """Arguments that change settings of the database, the application and all of its processes to a number."""
    given = {
        "postgresql_max_connections": number,
        "escriptorium_environment": {"QUOTA_CPU_MINUTES": str(number)},
        "escriptorium_upload_max_mib": number,
    }
    return "--extra-vars", json.dumps(given)


def assert_in_force(inventory: Inventory, connect: Callable[[str], Any], number: int) -> None:
    """What runs has taken over all of it."""
    frontend = connect(inventory.frontend)
    assert sql(frontend, "SHOW max_connections") == str(number)
    assert sql(frontend, "SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"
    hosts = {inventory.frontend, *inventory.compute}

    def everywhere() -> bool:
        """Of each process of the application; workers restart without being waited for."""
        program = (
            "for unit in $(systemctl list-units --plain --no-legend --state=active 'escriptorium-w*.service' "
            "| cut -d ' ' -f 1); do tr '\\0' '\\n' "
            '</proc/$(systemctl show --property=MainPID --value "$unit")/environ | grep QUOTA_CPU_MINUTES; done'
        )
        shown = [line for host in hosts for line in connect(host).run(program).stdout.splitlines()]
        return len(shown) >= 11 and set(shown) == {f"QUOTA_CPU_MINUTES={number}"}

    wait_for("the processes with the new setting", everywhere, timeout=180)


@pytest.mark.fault
def test_a_deployment_is_finished_wherever_it_was_broken_off(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    try:
        whole = play(inventory, "site.yml", *all_changed(301))
        assert_in_force(inventory, connect, 301)
        for number, (stage, blow) in enumerate(stages(whole.output, 6), start=302):
            print(f"{blow.name} at '{stage}'")
            break_off(inventory, "site.yml", *all_changed(number), task=stage, blow=blow)
            play(inventory, "site.yml", *all_changed(number))
            assert_in_force(inventory, connect, number)
            assert play(inventory, "site.yml", *all_changed(number)).changed == []
            document, parts = site.api.document(f"after a deployment that was broken off at {stage}")
            site.api.segment(document, parts)
            database.finished(document, SEGMENTATION)
    finally:
        play(inventory, "site.yml")


@pytest.mark.fault
def test_a_database_that_was_reloaded_and_not_restarted_is_restarted_by_the_next_run(
    inventory: Inventory, frontend: Any
) -> None:
    arguments = ("--extra-vars", json.dumps({"postgresql_max_connections": 299}))
    playbook = "playbooks/deploy-database.yml"
    try:
        handler = "Look for settings that wait for a restart"
        break_off(inventory, playbook, *arguments, task=handler, blow=signal.SIGKILL, pause=0)
        assert sql(frontend, "SELECT name FROM pg_settings WHERE pending_restart") == "max_connections"
        dry = play(inventory, playbook, *arguments, "--check", "--diff")
        assert "max_connections: waits" in dry.output
        play(inventory, playbook, *arguments)
        assert sql(frontend, "SHOW max_connections") == "299"
        assert play(inventory, playbook, *arguments).changed == []
    finally:
        play(inventory, playbook)


@pytest.mark.fault
def test_other_compute_host_takes_over(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    for stopped in inventory.compute:
        connect(stopped).check_output("systemctl stop 'escriptorium-worker@*.service'")
        try:
            document, parts = site.api.document(f"without {stopped}")
            site.api.segment(document, parts)
            report = database.finished(document, SEGMENTATION)
            taken = workers_of(inventory, connect, report["task_id"])
            assert [host for host, _ in taken] == [host for host in inventory.compute if host != stopped]
        finally:
            connect(stopped).check_output("systemctl start --all 'escriptorium-worker@*.service'")
    nodes = [f"{queue}@{host}" for host in inventory.compute for queue in ("default", "live", "low-priority", "gpu")]
    answer = answers(connect, inventory.frontend, nodes)
    assert answer.rc == 0, answer.stdout


def test_stopped_worker_ends_its_job_first(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    document, parts = site.api.document("hold-15 for the stop")
    site.api.segment(document, parts)

    report = database.running(document, SEGMENTATION)
    ((host, unit),) = workers_of(inventory, connect, report["task_id"])
    connect(host).check_output("systemctl stop %s", unit)
    try:
        after_stop = database.report(document, SEGMENTATION)
        assert after_stop is not None
        assert after_stop["workflow_state"] == DONE, "systemctl came back before the job had ended"
        assert workers_of(inventory, connect, report["task_id"]) == [(host, unit)]
    finally:
        connect(host).check_output("systemctl start %s", unit)


def test_worker_waits_for_a_broker_that_is_away(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    """Started against a broker that is down, Celery would stay deaf for ever though its process lives."""
    host = inventory.compute[0]
    frontend = connect(inventory.frontend)
    frontend.check_output("systemctl stop redis-server")
    try:
        connect(host).check_output("systemctl restart --no-block escriptorium-worker@default.service")

        def waits() -> bool:
            state = connect(host).check_output(
                "systemctl show --property=ActiveState --value escriptorium-worker@default"
            )
            return bool(state == "activating")

        wait_for("the worker to wait for its broker", waits, timeout=60)
    finally:
        frontend.check_output("systemctl start redis-server")
    nodes = [f"{queue}@{name}" for name in inventory.compute for queue in ("default", "live", "low-priority", "gpu")]
    answer = answers(connect, inventory.frontend, [*nodes, f"imports@{inventory.frontend}"], timeout=150)
    assert answer.rc == 0, answer.stdout


@pytest.mark.fault
def test_compute_host_comes_back_after_a_power_cut(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    host, other = inventory.compute
    subprocess.run(["docker", "kill", inventory.container(host)], check=True, capture_output=True)
    subprocess.run(["docker", "start", inventory.container(host)], check=True, capture_output=True)
    nodes = [f"{queue}@{host}" for queue in ("default", "live", "low-priority", "gpu")]
    answer = answers(connect, inventory.frontend, nodes, timeout=150)
    assert answer.rc == 0, answer.stdout
    connect(other).check_output("systemctl stop escriptorium-worker@default.service")
    try:
        document, parts = site.api.document("after the power cut")
        site.api.segment(document, parts)
        database.finished(document, SEGMENTATION)
    finally:
        connect(other).check_output("systemctl start escriptorium-worker@default.service")


def test_a_project_goes_only_when_it_is_named_and_exported(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    name = "Finished: the 'last' one"
    document, parts = site.api.document(name, pages=3)
    site.api.segment(document, parts)
    done = (
        f"SELECT id FROM reporting_taskreport WHERE document_id = {document} AND method = 'core.tasks.segment' "
        f"AND workflow_state = {DONE}"
    )
    wait_for("the end of all three jobs", lambda: len(database.rows(done)) == len(parts), timeout=JOB_TIMEOUT)
    (row,) = database.rows(f"SELECT project_id FROM core_document WHERE id = {document}")
    named = f"{row['project_id']}:{name}"
    frontend = connect(inventory.frontend)
    media = f"{SHARED}/media/documents/{document}"

    shown = play(inventory, "playbooks/report-space.yml")
    assert f"{row['project_id']}:Finished" in shown.output
    assert shown.changed == []

    def reclaim(check: bool = True, **settings: Any) -> PlayRun:
        return play(inventory, "playbooks/reclaim-space.yml", "--extra-vars", json.dumps(settings), check=check)

    def pages() -> int:
        return len(database.rows(f"SELECT id FROM core_documentpart WHERE document_id = {document}"))

    assert reclaim(reclaim_project=named).changed == [], "the dry run is the default"
    wrong = reclaim(check=False, reclaim_project=named, reclaim_confirm=f"{row['project_id']}:Another")
    assert "refused" in wrong.output
    assert pages() == 3
    assert frontend.file(media).is_directory

    removed = reclaim(reclaim_project=named, reclaim_confirm=named)
    assert any("Export, verify and remove" in task for task in removed.changed)
    assert pages() == 0
    assert not frontend.file(media).exists
    exports = f"{SHARED}/reclaimed"
    found = frontend.check_output("find %s -name SHA256SUMS", exports).splitlines()
    assert len(found) == 1
    frontend.check_output("cd $(dirname %s) && sha256sum --check --quiet SHA256SUMS", found[0])
    assert frontend.file(exports).mode == 0o700
