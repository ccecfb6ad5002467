"""Another release of the application, and the way back, beside requests and jobs that go on all the time.

Three releases follow the one of the scenario: `added` has a migration that leaves room for processes of the release
before; `bound` makes a field that every row needs, which that release cannot write, and has a queue that no worker
takes; the migration of `broken` fails. At the end the scenario's own runs again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from breaking import break_off
from load import Load
from support import (
    CANCELED,
    DONE,
    ERROR,
    SEGMENTATION,
    TRAINING,
    Api,
    Database,
    Inventory,
    PlayRun,
    Site,
    play,
    starts,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.scenario("cluster")

#: Seconds within which the release before answers again after roll-back.yml was called.
WAY_BACK = 60.0
#: A queue that upstream has since, and its name as a finding.
QUEUE, FINDING = "intensive-inference", "queue:intensive-inference"
MODEL = "    name = models.CharField(max_length=512)\n    slug = models.SlugField(unique=True)\n    guidelines"
ADDED = """from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("core", "0004_sharing")]

    operations = [
        migrations.CreateModel(name="Remark", fields=[("id", models.AutoField(primary_key=True, serialize=False))]),
        migrations.AddField("project", "remark", models.TextField(null=True)),
    ]
"""
BOUND = """from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("core", "0004_sharing")]

    operations = [migrations.AddField("project", "rank", models.IntegerField(default=7))]
"""


BROKEN = """from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("core", "0004_sharing")]

    operations = [
        migrations.AddField("project", "rank", models.IntegerField(default=7)),
        migrations.RunSQL("SELECT 1 / 0"),
    ]
"""


@dataclass(frozen=True)
class Releases:
    """A repository with releases that follow the scenario's.

    Attributes:
        folder: the repository, on the control machine.
        own: commit of the scenario's release.
        added: commit with a migration that only adds.
        bound: commit with a field that every row needs, and a queue that no worker takes.
        broken: the same, and its migration fails at its end.

    """

    folder: Path
    own: str
    added: str
    bound: str
    broken: str

    def arguments(self, commit: str, **more: str) -> list[str]:
        """Arguments of upgrade.yml that bring a release, on a cluster that lives not for the first time."""
        return self.described(commit, upgrade_again="yes", upgrade_findings_read=FINDING, **more)

    def described(self, commit: str, **more: str) -> list[str]:
        """Arguments of ansible-playbook in place of an inventory that describes a release."""
        values = {"escriptorium_repo": str(self.folder), "escriptorium_version": commit, **more}
        return [part for name, value in values.items() for part in ("--extra-vars", f"{name}={value}")]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Stand-in", "-c", "user.email=stand-in@example.org"]
    # The same content is the same commit in every session, and so the same release: a cluster may have it already.
    dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2025-01-02T00:00:00+00:00")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, env=os.environ | dates, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def releases(inventory: Inventory, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    folder = tmp_path_factory.mktemp("releases") / "source"
    git(inventory.folder, "clone", "--quiet", str(inventory.folder.parents[2] / ".cache/stand-in/source"), str(folder))
    own = git(folder, "rev-parse", "HEAD")

    def commit(mark: str, migration: str, field: str, queue: str = "") -> str:
        git(folder, "checkout", "--quiet", own)
        settings = folder / "app/escriptorium/settings.py"
        assert settings.read_text().count('"gpu", "jvm")') == 1
        if queue:
            settings.write_text(settings.read_text().replace('"gpu", "jvm")', f'"gpu", "jvm", "{queue}")'))
        base = folder / "app/escriptorium/templates/base.html"
        base.write_text(base.read_text().replace("</body>", f"<p>release {mark}</p></body>"))
        style = folder / "front/src/main.css"
        style.write_text(f"{style.read_text()}\n/* {mark} */\n")
        (folder / f"app/apps/core/migrations/0005_{mark}.py").write_text(migration)
        models = folder / "app/apps/core/models.py"
        assert MODEL in models.read_text()
        models.write_text(models.read_text().replace(MODEL, f"    {field}\n{MODEL}"))
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--no-gpg-sign", "--message", mark)
        return git(folder, "rev-parse", "HEAD")

    rank = "rank = models.IntegerField(default=7)"
    return Releases(
        folder,
        own,
        added=commit("added", ADDED, "remark = models.TextField(null=True)"),
        bound=commit("bound", BOUND, rank, QUEUE),
        broken=commit("broken", BROKEN, rank),
    )


def shown(site: Site) -> str:
    """Which release the site shows."""
    with site.session() as session:
        page = session.get(f"{site.base}/login/", timeout=60).text
    return page.partition("<p>release ")[2].partition("<")[0] or "own"


class Jobs:
    """Jobs that are asked for all the time, until `end`; each has to end well, once."""

    def __init__(self, site: Site, database: Database) -> None:
        self.site = site
        self.database = database
        self.document, self.parts = site.api.document("jobs beside an upgrade")
        self.asked = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="jobs")
        self._thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            self.site.api.segment(self.document, self.parts)
            self.asked += 1
            self._over.wait(2.0)

    def end(self) -> list[dict[str, Any]]:
        """Ask for no more, wait for the end of all, and return their reports."""
        self._over.set()
        self._thread.join()
        query = (
            "SELECT task_id, workflow_state, messages FROM reporting_taskreport "
            f"WHERE document_id = {self.document} AND method = '{SEGMENTATION}'"
        )

        def ended() -> list[dict[str, Any]] | None:
            rows = self.database.rows(query)
            over = [row for row in rows if row["workflow_state"] in {DONE, ERROR, CANCELED}]
            return over if len(over) == len(rows) else None

        return wait_for("the end of all jobs", ended, timeout=300)


def train(api: Api, database: Database, model: str) -> int:
    """Start a training, and wait until it runs; answers its document."""
    document = api.training(model, pages=1)
    database.running(document)
    return document


def folder_of(host: Any, unit: str) -> str:
    """Folder of the release that a unit's main process runs from; empty while it has none."""
    process = host.check_output("systemctl show --property=MainPID --value %s", unit)
    if process == "0":
        return ""
    return str(host.check_output("readlink /proc/%s/cwd", process)).rsplit("/", 1)[0]


@dataclass(frozen=True)
class Beside:
    """A playbook that ran beside requests, short jobs and a training.

    Attributes:
        run: the playbook's run.
        load: the requests.
        jobs: reports of the short jobs.
        asked: how many of them were asked for.
        training: report of the training.
        seconds: time until the wanted release answered; negative where it never did.

    """

    run: PlayRun
    load: Load
    jobs: list[dict[str, Any]]
    asked: int
    training: dict[str, Any]
    seconds: float


class Surroundings:
    """The site, with requests and jobs that go on while a playbook runs."""

    def __init__(self, site: Site, database: Database, inventory: Inventory) -> None:
        self.site = site
        self.database = database
        self.inventory = inventory

    def play(self, playbook: str, *arguments: str, wanted: str, early: int = 0) -> Beside:
        """Run a playbook that brings a release, beside a load and a training.

        The training starts when web processes of the wanted release answer, and so on a worker of the release before
        that is about to be told to restart; it ends when the playbook has ended. With `early`, it starts before the
        playbook, which waits for it, and lasts so many seconds.
        """
        mark = f"release_{wanted}"
        model = f"hold-{early}" if early else self.site.api.held(mark)
        trainings = [train(Api(self.site), self.database, model)] if early else []
        jobs = Jobs(self.site, self.database)
        arrived: list[float] = []
        began = time.monotonic()

        def watch() -> None:
            while not arrived:
                if shown(self.site) == wanted:
                    arrived.append(time.monotonic() - began)
                    if not early:
                        trainings.append(train(Api(self.site), self.database, model))
                time.sleep(0.3)

        watcher = threading.Thread(target=watch, name="watcher")
        with Load(self.site) as load:
            watcher.start()
            try:
                run = play(self.inventory, playbook, *arguments)
            finally:
                arrived.append(-1.0)  # only the first counts
                watcher.join()
                self.site.api.release(mark)
                reports = jobs.end()
        print(f"{playbook}: {run.seconds:.0f} s, release {wanted} after {arrived[0]:.0f} s; {load.summary()}")
        (document,) = trainings
        training = self.database.finished(document, TRAINING, timeout=300)
        return Beside(run, load, reports, jobs.asked, training, arrived[0])


@pytest.fixture(scope="module")
def surroundings(site: Site, database: Database, inventory: Inventory) -> Surroundings:
    return Surroundings(site, database, inventory)


def assert_nothing_lost(found: Beside) -> None:
    assert found.load.failures() == []
    assert all(count.done > 20 for count in found.load.counts.values()), found.load.summary()
    assert len(found.jobs) == found.asked
    assert [report for report in found.jobs if report["workflow_state"] != DONE or len(starts(report)) != 1] == []
    assert found.training["workflow_state"] == DONE
    assert len(starts(found.training)) == 1


@pytest.fixture(scope="module")
def built(inventory: Inventory, releases: Releases) -> PlayRun:
    """Release `added`, built and checked while the scenario's own goes on."""
    return play(inventory, "playbooks/upgrade.yml", *releases.arguments(releases.added, upgrade_until="check"))


def test_a_release_is_built_and_checked_beside_the_one_that_runs(built: PlayRun, site: Site) -> None:
    assert "core.0005_added" in built.output
    assert "Create model Remark" in built.output
    assert not any("Restart" in task or "Migrate" in task for task in built.changed)
    assert shown(site) == "own"


@pytest.fixture(scope="module")
def upgraded(built: PlayRun, surroundings: Surroundings, releases: Releases) -> Beside:
    assert built
    arguments = releases.arguments(releases.added)
    return surroundings.play("playbooks/upgrade.yml", *arguments, wanted="added")


def test_upgrade_loses_no_request_and_no_job(upgraded: Beside, site: Site) -> None:
    assert_nothing_lost(upgraded)
    assert shown(site) == "added"


def test_a_worker_ends_its_job_on_the_release_before(upgraded: Beside) -> None:
    assert "ends its job on the release before" in upgraded.run.output


def await_release(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    """Wait until every worker has ended its job and runs the release that is the current one."""
    for name in inventory.compute:
        host = connect(name)
        current = host.check_output("readlink --canonicalize /opt/escriptorium/current")

        def everywhere(host: Any = host, current: str = current) -> bool:
            units = [f"escriptorium-worker@{queue}.service" for queue in ("default", "live", "low-priority", "gpu")]
            return all(folder_of(host, unit) == current for unit in units)

        wait_for(f"the workers of {name} to run the new release", everywhere, timeout=120)


def test_workers_run_the_new_release_when_their_jobs_have_ended(
    upgraded: Beside, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    assert upgraded
    await_release(inventory, connect)


@pytest.mark.fault
def test_a_second_upgrade_changes_nothing(
    upgraded: Beside, inventory: Inventory, releases: Releases, connect: Callable[[str], Any]
) -> None:
    assert upgraded
    await_release(inventory, connect)
    assert play(inventory, "playbooks/upgrade.yml", *releases.arguments(releases.added)).changed == []


@pytest.fixture(scope="module")
def rolled_back(upgraded: Beside, surroundings: Surroundings) -> Beside:
    assert upgraded
    return surroundings.play("playbooks/roll-back.yml", wanted="own")


def test_roll_back_loses_no_request_and_no_job(rolled_back: Beside, site: Site, database: Database) -> None:
    assert_nothing_lost(rolled_back)
    assert shown(site) == "own"
    assert "0005_added" in rolled_back.run.output
    assert database.rows("SELECT 1 AS row FROM django_migrations WHERE name = '0005_added'"), "what it added stays"


def test_roll_back_takes_less_than_a_minute(rolled_back: Beside) -> None:
    assert 0 < rolled_back.seconds < WAY_BACK


@pytest.mark.fault
def test_a_release_that_was_rolled_back_does_not_come_again_by_itself(
    rolled_back: Beside, inventory: Inventory, releases: Releases, site: Site
) -> None:
    assert rolled_back
    run = play(inventory, "playbooks/deploy-application.yml", *releases.described(releases.added), check=False)
    assert "this site was taken back from it" in run.output
    assert shown(site) == "own"


@pytest.mark.fault
def test_the_inventory_describes_what_runs_after_the_way_back(rolled_back: Beside, inventory: Inventory) -> None:
    assert rolled_back
    assert play(inventory, "playbooks/deploy-application.yml").changed == []


def test_there_is_nothing_to_roll_back_twice(rolled_back: Beside, inventory: Inventory) -> None:
    assert rolled_back
    run = play(inventory, "playbooks/roll-back.yml", check=False)
    assert "No upgrade is noted" in run.output


@pytest.mark.fault
def test_a_release_with_a_queue_that_nobody_takes_is_refused_before_anything_changes(
    inventory: Inventory, releases: Releases, site: Site, database: Database
) -> None:
    arguments = releases.described(releases.bound, upgrade_again="yes", pause_jobs="yes")
    run = play(inventory, "playbooks/upgrade.yml", *arguments, check=False)
    assert f"queue {QUEUE}: no worker takes its jobs" in run.output
    assert f"-e upgrade_findings_read={FINDING}" in run.output
    assert not any("Restart" in task or "Migrate" in task or "Back up" in task for task in run.changed)
    assert shown(site) == "own"
    assert not database.rows("SELECT 1 AS row FROM django_migrations WHERE name = '0005_bound'")


@pytest.mark.fault
def test_migrations_that_jobs_may_not_outlive_are_refused(
    inventory: Inventory, releases: Releases, site: Site, database: Database
) -> None:
    run = play(inventory, "playbooks/upgrade.yml", *releases.arguments(releases.bound), check=False)
    assert "core.project.rank has to have a value" in run.output
    assert "-e pause_jobs=yes" in run.output
    assert shown(site) == "own"
    assert not database.rows("SELECT 1 AS row FROM django_migrations WHERE name = '0005_bound'")


@pytest.mark.fault
def test_a_migration_that_fails_changes_nothing_and_all_goes_on(
    inventory: Inventory, releases: Releases, site: Site, database: Database
) -> None:
    arguments = releases.arguments(releases.broken, pause_jobs="yes")
    with Load(site) as load:
        run = play(inventory, "playbooks/upgrade.yml", *arguments, check=False)
    assert "division by zero" in run.output
    assert "goes on." in run.output
    assert load.failures() == []
    assert shown(site) == "own"
    assert not database.rows("SELECT 1 AS row FROM django_migrations WHERE name = '0005_broken'")
    document, parts = site.api.document("after a migration that failed")
    site.api.segment(document, parts)
    assert database.finished(document, SEGMENTATION)["workflow_state"] == DONE


@pytest.fixture(scope="module")
def paused(surroundings: Surroundings, releases: Releases) -> Beside:
    """Release `bound`, whose migration waits for jobs, and for which requests wait."""
    arguments = releases.arguments(releases.bound, pause_jobs="yes")
    return surroundings.play("playbooks/upgrade.yml", *arguments, wanted="bound", early=20)


@pytest.mark.fault
def test_requests_wait_for_such_migrations_and_none_is_lost(paused: Beside, site: Site) -> None:
    assert_nothing_lost(paused)
    assert shown(site) == "bound"


@pytest.mark.fault
def test_a_way_back_that_loses_something_is_refused(paused: Beside, inventory: Inventory, database: Database) -> None:
    assert paused
    database.frontend.check_output(
        "runuser -u postgres -- psql -d escriptorium -X -c %s",
        "UPDATE core_project SET rank = 8 WHERE id = (SELECT min(id) FROM core_project)",
    )
    try:
        run = play(inventory, "playbooks/roll-back.yml", "--extra-vars", "pause_jobs=yes", check=False)
    finally:
        database.frontend.check_output(
            "runuser -u postgres -- psql -d escriptorium -X -c %s", "UPDATE core_project SET rank = 7"
        )
    assert "core.project.rank holds what users did since" in run.output
    assert "playbooks/restore.yml -e restore_target_time=" in run.output


@pytest.mark.fault
def test_migrations_are_taken_back_where_nothing_is_lost(
    paused: Beside, surroundings: Surroundings, database: Database, inventory: Inventory
) -> None:
    assert paused
    refused = play(inventory, "playbooks/roll-back.yml", check=False)
    assert "-e pause_jobs=yes" in refused.output
    back = surroundings.play("playbooks/roll-back.yml", "--extra-vars", "pause_jobs=yes", wanted="own", early=10)
    assert_nothing_lost(back)
    assert not database.rows("SELECT 1 AS row FROM django_migrations WHERE name = '0005_bound'")
    assert play(inventory, "playbooks/deploy-application.yml").changed == []


INTERRUPT, KILL = signal.SIGINT, signal.SIGKILL
#: Where upgrade.yml is broken off, and where the way back from what it did is: the first task of each stage.
BROKEN_OFF = [
    ("Keep workers from starting", KILL, "Keep workers from starting", INTERRUPT),
    ("Wait for the requests that have begun", INTERRUPT, "Wait for the requests that have begun", KILL),
    (
        "Note from which release to which the site goes, and when",
        KILL,
        "Take the migrations of each application back",
        KILL,
    ),
    (
        "Let jobs start again with the workers of the release",
        INTERRUPT,
        "Remember that the site was taken back",
        INTERRUPT,
    ),
    ("Ask eScriptorium to prepare its site", KILL, "Make the release before the current one", KILL),
    ("Run the web processes and the timers", INTERRUPT, "Let its web processes answer", INTERRUPT),
    ("Run the workers", KILL, "Run the workers", KILL),
    ("Ask the workers of this host", INTERRUPT, "Ask the workers of this host", INTERRUPT),
]


def applied(database: Database) -> bool:
    return bool(database.rows("SELECT 1 AS row FROM django_migrations WHERE name = '0005_bound'"))


def assert_nothing_runs_on_the_wrong_release(
    inventory: Inventory, database: Database, connect: Callable[[str], Any], own: str
) -> None:
    """Beside a migration that the release before cannot live with, none of its processes takes anything."""
    if not applied(database):
        return
    frontend = connect(inventory.frontend)
    process = frontend.check_output("systemctl show --property=MainPID --value escriptorium-web.service")
    if own[:12] in folder_of(frontend, "escriptorium-web.service"):
        assert frontend.file("/run/escriptorium/paused").content_string.strip() == process
    for name in inventory.compute:
        host = connect(name)
        units = host.check_output("systemctl list-units --plain --no-legend --state=active 'escriptorium-worker@*'")
        running = [line.split()[0] for line in units.splitlines()]
        assert [unit for unit in running if own[:12] in folder_of(host, unit)] == []


@pytest.mark.fault
@pytest.mark.parametrize(("stage", "blow", "stage_back", "blow_back"), BROKEN_OFF)
def test_an_upgrade_and_its_way_back_are_finished_wherever_they_were_broken_off(  # noqa: PLR0917 - fixtures
    site: Site,
    database: Database,
    inventory: Inventory,
    connect: Callable[[str], Any],
    releases: Releases,
    stage: str,
    blow: signal.Signals,
    stage_back: str,
    blow_back: signal.Signals,
) -> None:
    arguments = releases.arguments(releases.bound, pause_jobs="yes")
    break_off(inventory, "playbooks/upgrade.yml", *arguments, task=stage, blow=blow)
    assert_nothing_runs_on_the_wrong_release(inventory, database, connect, releases.own)
    with Load(site) as load:
        play(inventory, "playbooks/upgrade.yml", *arguments)
    assert load.failures() == []
    assert shown(site) == "bound"
    assert applied(database)

    pause = ("--extra-vars", "pause_jobs=yes")
    break_off(inventory, "playbooks/roll-back.yml", *pause, task=stage_back, blow=blow_back)
    assert_nothing_runs_on_the_wrong_release(inventory, database, connect, releases.own)
    with Load(site) as load:
        play(inventory, "playbooks/roll-back.yml", *pause)
    assert load.failures() == []
    assert shown(site) == "own"
    assert not applied(database)
    document, parts = site.api.document(f"after a way back that was broken off at {stage_back}")
    site.api.segment(document, parts)
    assert database.finished(document, SEGMENTATION)["workflow_state"] == DONE
