"""The hooks around a job that may have been started before: cache, models and files stand in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cluster.tables import Row, Rows, get_model, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRAIN, IMPORT = "core.tasks.train", "imports.tasks.document_import"


class Site:
    """The process of a worker that begins a job."""

    def __init__(self, load: Callable[[str], Any], media: Path) -> None:
        self.media = media
        self.starts = 0
        self.model = Row(pk=4, training=True, file=None, versions=[])
        self.imported = Row(pk=9, workflow_state="started", WORKFLOW_STATE_ERROR="error")
        self.reports: list[Row] = []
        self.claimed: list[str] = []
        load("django.conf").settings = SimpleNamespace(
            CLUSTER_TASK_MAX_STARTS=2, CELERY_VISIBILITY_TIMEOUT=60, MEDIA_ROOT=str(media)
        )
        load("django.core.cache").cache = self
        states = {"WORKFLOW_STATE_STARTED": "started", "WORKFLOW_STATE_CREATED": "created"}
        load("django.apps").apps.get_model = get_model(
            core_OcrModel=table([self.model]),
            imports_DocumentImport=table([self.imported], **states),
            reporting_TaskReport=self,
        )
        load("celery.states").REVOKED = "REVOKED"
        load("celery.result").AsyncResult = lambda _: SimpleNamespace(state="STARTED")
        self.lease = load("escriptorium_cluster.lease")
        self.lease.current = SimpleNamespace(claim=self.claimed.append, release=self.claimed.remove)
        self.module = load("escriptorium_cluster.guard")

    WORKFLOW_STATE_QUEUED, WORKFLOW_STATE_STARTED, WORKFLOW_STATE_CANCELED = "queued", "started", "canceled"

    @property
    def objects(self) -> Rows:
        return Rows(self.reports)

    def report(self, job: str, state: str) -> None:
        self.reports.append(Row(task_id=job, method=TRAIN, ocr_model_id=4, workflow_state=state))

    def add(self, _: str, __: int, timeout: int) -> None:
        assert timeout == 60

    def incr(self, _: str) -> int:
        self.starts += 1
        return self.starts

    def begin(self, name: str = TRAIN, retries: int = 0, **keywords: Any) -> None:
        task = SimpleNamespace(name=name, request=SimpleNamespace(retries=retries))
        self.module.before_start(task, "job", (), {"model_pk": 4, "import_pk": 9, **keywords})

    def file(self, name: str) -> Any:
        path = self.media / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(path=str(path))


@pytest.fixture
def site(load: Callable[[str], Any], tmp_path: Path) -> Site:
    return Site(load, tmp_path)


def test_a_first_start_is_noted_and_touches_nothing(site: Site) -> None:
    site.model.file = site.file("models/hand")
    site.begin()
    assert (site.claimed, site.model.saved, site.imported.workflow_state) == (["job"], 0, "started")
    site.module.after_return(None, "SUCCESS", None, "job")
    assert site.claimed == []


def test_a_killed_training_goes_on_from_its_newest_epoch(site: Site) -> None:
    site.model.file = site.file("models/hand")
    (site.media / "models/epoch1").write_text("trained")
    site.model.versions = [{"data": {"file": name}} for name in ("models/epoch2", "models/epoch1")]
    site.starts = 1
    site.begin()
    assert [path.read_text() for path in sorted((site.media / "models").iterdir())] == ["trained", "trained"]
    assert (site.model.versions, site.model.saved) == ([], 1)


def test_a_training_killed_before_its_first_epoch_starts_from_nothing(site: Site) -> None:
    site.model.file = site.file("models/hand")
    site.starts = 1
    site.begin()
    assert (site.model.file, site.model.saved) == (None, 1)


def test_a_training_that_asks_for_its_own_retry_can_load_its_base(site: Site) -> None:
    """Out of memory: upstream has noted the name of a file that is not written."""
    site.model.file = site.file("models/hand")
    site.starts = 1
    site.begin(retries=1)
    assert (site.model.file, site.model.saved) == (None, 1)


def test_a_base_that_is_there_stays(site: Site) -> None:
    site.model.file = site.file("models/hand")
    (site.media / "models/hand").write_text("base")
    site.starts = 1
    site.begin()
    assert site.model.saved == 0


def test_a_killed_import_begins_again(site: Site) -> None:
    site.starts = 1
    site.begin(IMPORT)
    assert site.imported.workflow_state == "created"


def test_a_job_that_kills_its_process_is_given_up_and_frees_its_model(site: Site) -> None:
    site.starts = 2
    site.report("job", "started")
    site.report("another", "canceled")
    with pytest.raises(site.module.StartedTooOftenError):
        site.begin()
    assert (site.model.training, site.claimed) == (False, [])


def test_a_job_that_is_given_up_does_not_free_what_another_one_trains(site: Site) -> None:
    site.starts = 2
    site.report("another", "started")
    with pytest.raises(site.module.StartedTooOftenError):
        site.begin()
    assert site.model.training


@pytest.mark.parametrize(("before", "after"), [("started", "error"), ("created", "error"), ("done", "done")])
def test_an_import_that_is_given_up_ends_with_the_reason(site: Site, before: str, after: str) -> None:
    """Else its document would take no other one, and its project could not be removed."""
    site.starts = 2
    site.imported.workflow_state = before
    with pytest.raises(site.module.StartedTooOftenError, match="killed 2 times") as caught:
        site.begin(IMPORT)
    assert (site.imported.workflow_state, site.model.training) == (after, True)
    assert getattr(site.imported, "error_message", "") == (str(caught.value) if after == "error" else "")


def test_another_job_that_is_given_up_frees_no_model(site: Site) -> None:
    site.starts = 2
    with pytest.raises(site.module.StartedTooOftenError):
        site.begin("core.tasks.segment")
    assert site.model.training


def test_a_job_that_cannot_be_counted_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: str) -> int:
        raise ConnectionError("no cache")

    monkeypatch.setattr(site, "incr", refuses)
    site.begin()
    assert site.claimed == ["job"]


def test_a_broker_that_is_away_keeps_no_job_from_its_end(site: Site) -> None:
    def refuses(_: str) -> None:
        raise ConnectionError("no broker")

    site.lease.current = SimpleNamespace(claim=refuses, release=refuses)
    site.begin()
    site.module.after_return(None, "SUCCESS", None, "job")
    assert site.starts == 1
