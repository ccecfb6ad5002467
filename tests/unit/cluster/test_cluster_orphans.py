"""The end of jobs that no message knows: rows stand in for the database."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cluster.tables import Row, get_model, table

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUED, STARTED, ERROR, DONE, CANCELLED = "queued", "started", "error", "done", "canceled"
TRAIN = "core.tasks.train"


class User:
    """Somebody who is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def notify(self, text: str, **options: Any) -> None:
        self.told.append((text, options["level"]))


class Report(Row):
    """Upstream's report of a job."""

    ocr_model_id: int | None = None
    document = None
    started_at: int | None = None
    queued_at = 5

    def error(self, reason: str) -> None:
        self.workflow_state, self.messages = ERROR, reason

    def end(self) -> None:
        self.workflow_state = DONE


class Site:
    """The tables, and the results of jobs."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.user = User()
        self.reports: list[Report] = []
        self.models: list[Row] = [Row(pk=1, training=True), Row(pk=2, training=False)]
        self.imports: list[Row] = []
        self.results: dict[str, str] = {}
        load("celery.states").SUCCESS = "SUCCESS"
        load("celery.states").REVOKED = "REVOKED"
        load("django.utils.timezone").now = lambda: 9
        load("celery.result").AsyncResult = lambda job: SimpleNamespace(state=self.results.get(job, "PENDING"))
        load("django.db.transaction").atomic = nullcontext
        load("django.apps").apps = self
        self.module = load("escriptorium_cluster.orphans")

    def get_model(self, *label: str) -> Any:
        states = {
            "WORKFLOW_STATE_QUEUED": QUEUED,
            "WORKFLOW_STATE_STARTED": STARTED,
            "WORKFLOW_STATE_CREATED": "created",
            "WORKFLOW_STATE_ERROR": ERROR,
            "WORKFLOW_STATE_CANCELED": CANCELLED,
        }
        return get_model(
            reporting_TaskReport=table(self.reports, **states),
            core_OcrModel=table(self.models),
            imports_DocumentImport=table(self.imports, **states),
        )(*label)

    def report(self, method: str, state: str = QUEUED, task_id: str = "job", **values: Any) -> Report:
        self.reports.append(Report(task_id=task_id, method=method, workflow_state=state, user=self.user, **values))
        return self.reports[-1]


@pytest.fixture
def site(load: Callable[[str], Any]) -> Site:
    return Site(load)


def test_a_lost_training_fails_with_a_reason_and_frees_its_model(site: Site) -> None:
    report = site.report("core.tasks.train", STARTED, ocr_model_id=1)
    assert site.module.mark(["job"], []) == (["job"], [])
    assert (report.workflow_state, report.messages) == (ERROR, site.module.REASON)
    assert [model.training for model in site.models] == [False, False]
    assert site.user.told == [(site.module.REASON, "danger")]


def test_models_alone_are_freed_once(site: Site) -> None:
    assert site.module.mark([], [1, 2, 3]) == ([], [1])
    assert site.module.mark([], [1, 2, 3]) == ([], [])


def test_all_pages_of_a_job_fail_and_its_user_is_told_once(site: Site) -> None:
    reports = [site.report("core.tasks.segment"), site.report("core.tasks.segment", STARTED)]
    assert site.module.mark(["job"], [], "stopped for a new fan") == (["job"], [])
    assert [report.messages for report in reports] == ["stopped for a new fan"] * 2
    assert site.user.told == [("stopped for a new fan", "danger")]
    assert site.models[0].training, "a segmentation does not free a model in training"


def test_a_job_that_ended_meanwhile_stays_as_it_ended(site: Site) -> None:
    report = site.report(TRAIN, ERROR, ocr_model_id=1, messages="out of memory")
    assert site.module.mark(["job", "another"], []) == ([], [])
    assert (report.workflow_state, report.messages) == (ERROR, "out of memory")
    assert site.models[0].training


def test_a_job_that_succeeded_is_noted_as_done(site: Site) -> None:
    """Its database went away just when its report was to say so."""
    site.results["job"] = "SUCCESS"
    report = site.report("core.tasks.train", STARTED, ocr_model_id=1)
    assert site.module.mark(["job"], []) == ([], [])
    assert report.workflow_state == DONE
    assert (site.models[0].training, site.user.told) == (True, [])


@pytest.mark.parametrize("revoked", [False, True], ids=["by a report", "by its result"])
def test_a_cancelled_training_of_many_pages_is_closed_without_a_word(site: Site, revoked: bool) -> None:
    """Upstream marks one of its reports only."""
    if revoked:
        site.results["job"] = "REVOKED"
    else:
        site.report(TRAIN, CANCELLED, ocr_model_id=1)
    left = [site.report(TRAIN, state, ocr_model_id=1, messages="") for state in (QUEUED, STARTED)]
    assert site.module.mark(["job"], []) == ([], [])
    assert [(report.workflow_state, report.done_at, report.messages) for report in left] == [(CANCELLED, 9, "")] * 2
    assert site.user.told == []
    assert not site.models[0].training


@pytest.mark.parametrize("ended", [CANCELLED, STARTED], ids=["cancelled", "lost"])
def test_a_model_that_another_job_trains_stays_in_training(site: Site, ended: str) -> None:
    site.report(TRAIN, ended, ocr_model_id=1)
    site.report(TRAIN, STARTED, ocr_model_id=1)
    site.report(TRAIN, STARTED, "another", ocr_model_id=1)
    site.module.mark(["job"], [])
    assert site.models[0].training
    site.report(TRAIN, CANCELLED, "another", ocr_model_id=1)
    assert site.module.mark([], [1]) == ([], [1]), "a cancelled one trains nothing"


def test_a_cancelled_import_is_ended_as_upstream_ends_it(site: Site) -> None:
    site.results["job"] = "REVOKED"
    report = site.report("imports.tasks.document_import", STARTED, document=7, started_at=6)
    site.imports = [imported(report=report, workflow_state=STARTED)]
    site.module.mark(["job"], [])
    assert (site.imports[0].workflow_state, site.imports[0].error_message) == (ERROR, "canceled")


def imported(**values: Any) -> Row:
    return Row(
        **{
            "report": None,
            "document": 7,
            "started_on": 4,
            "workflow_state": "created",
            "WORKFLOW_STATE_ERROR": ERROR,
            **values,
        }
    )


def test_an_import_that_runs_fails_by_its_report(site: Site) -> None:
    report = site.report("imports.tasks.document_import", STARTED, document=7, started_at=6)
    site.imports = [imported(report=report, workflow_state=STARTED), imported(report="other", workflow_state=STARTED)]
    site.module.mark(["job"], [])
    assert [row.workflow_state for row in site.imports] == [ERROR, STARTED]
    assert (site.imports[0].error_message, site.imports[0].saved) == (site.module.REASON, 1)


def test_an_import_that_waits_is_the_newest_that_fits(site: Site) -> None:
    site.report("imports.tasks.document_import", document=7)
    fitting = {"started_by": site.user}
    site.imports = [
        imported(**fitting, started_on=3),
        imported(**fitting),
        imported(**fitting, started_on=6),
        imported(started_by="somebody else"),
        imported(**fitting, document=8),
        imported(**fitting, report="its own"),
    ]
    site.module.mark(["job"], [])
    assert [row.workflow_state for row in site.imports] == ["created", ERROR, *["created"] * 4]


def test_a_user_who_cannot_be_told_is_no_obstacle(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def notify(*_: Any, **__: Any) -> None:
        raise ConnectionError("no broker")

    site.user.notify = notify  # type: ignore[method-assign]
    site.report("core.tasks.segment")
    assert site.module.mark(["job"], []) == (["job"], [])
    assert "could not tell" in caplog.text
