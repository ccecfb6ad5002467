"""Jobs that start again and may leave nothing twice: rows, signals and cache stand in."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cluster.tables import Row, Rows, get_model, table

if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENT, TRANSCRIBE = "core.tasks.segment", "core.tasks.transcribe"
REPLACE = "core.tasks.replace_line_transcriptions_text"

CONVERTED, SEGMENTING, SEGMENTED = 2, 3, 4


class KilledError(BaseException):
    """The end of a process."""


class Table(Rows):
    """Rows that can be deleted."""

    def __init__(self, rows: list[Row], of: list[Row]) -> None:
        super().__init__(rows)
        self.of = of

    def filter(self, **conditions: Any) -> Table:
        return Table(super().filter(**conditions).rows, self.of)

    def delete(self) -> None:
        self.of[:] = [row for row in self.of if row not in self.rows]


class Signal:
    """Django's signal of a row that was saved."""

    def __init__(self) -> None:
        self.receivers: dict[Any, Any] = {}

    def connect(self, receiver: Any, sender: Any, *, weak: bool, dispatch_uid: str) -> None:
        assert not weak
        assert dispatch_uid
        self.receivers[sender] = receiver

    def disconnect(self, *, sender: Any, dispatch_uid: str) -> None:
        assert dispatch_uid
        del self.receivers[sender]


class Cache(dict[str, Any]):
    """Django's cache; ``away``: it does not answer."""

    away = False

    def get(self, key: str, _: Any = None) -> Any:
        if self.away:
            raise ConnectionError
        return copy.copy(super().get(key))

    def set(self, key: str, value: Any, *, timeout: int) -> None:
        if self.away:
            raise ConnectionError
        assert timeout == 60
        self[key] = value

    def add(self, key: str, value: Any, *, timeout: int) -> bool:
        if self.away:
            raise ConnectionError
        assert timeout == 60
        if key in self:
            return False
        self[key] = value
        return True

    def touch(self, _: str, timeout: int) -> None:
        if self.away:
            raise ConnectionError
        assert timeout == 86400


class Site:
    """Pages with lines and regions, and the process of a worker."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.rows: dict[str, list[Row]] = {"Line": [], "Block": []}
        self.pages = [Row(pk=pk, workflow_state=CONVERTED) for pk in (1, 2, 3)]
        self.signal = load("django.db.models.signals").post_save = Signal()
        self.cache = load("django.core.cache").cache = Cache()
        self.number = 0
        self.ran: list[int] = []
        load("django.conf").settings = SimpleNamespace(CELERY_VISIBILITY_TIMEOUT=60)
        self.models = {kind: self.model(kind) for kind in self.rows}
        load("django.apps").apps.get_model = get_model(
            core_DocumentPart=table(self.pages, WORKFLOW_STATE_SEGMENTED=SEGMENTED),
            **{f"core_{kind}": model for kind, model in self.models.items()},
        )
        self.module = load("escriptorium_cluster.once_only")

    def model(self, kind: str) -> Any:
        rows = self.rows[kind]
        return type(kind, (), {"objects": property(lambda _: Table(rows, rows))})()

    def make(self, kind: str, page: int) -> None:
        self.number += 1
        row = Row(pk=self.number, document_part_id=page)
        self.rows[kind].append(row)
        receiver = self.signal.receivers.get(self.models[kind])
        if receiver is not None:
            receiver(type(self.models[kind]), row, created=True)
            receiver(type(self.models[kind]), row, created=False)

    def run(self, *stops: tuple[str, int], name: str = SEGMENT, **options: Any) -> Any:
        """Run a job; it is killed at a moment on a page."""

        def segment(instance_pks: list[int] | None = None, instance_pk: int = 0) -> str:
            for pk in instance_pks or [instance_pk]:
                page = self.pages[pk - 1]
                page.workflow_state = SEGMENTING
                self.ran.append(pk)
                for kind in ("Block", "Line", "Line"):
                    self.make(kind, pk)
                if ("made", pk) in stops:
                    raise KilledError
                page.workflow_state = SEGMENTED
                if ("finished", pk) in stops:
                    raise KilledError
            return "done"

        guarded = self.module.once_only(name, segment, lambda: "job")
        try:
            return guarded(**options)
        except KilledError:
            return "killed"
        finally:
            assert self.signal.receivers == {}

    def lines(self) -> list[int]:
        """Return how many lines each page has, and check that it has half as many regions."""
        lines, regions = (
            [sum(row.document_part_id == page.pk for row in rows) for page in self.pages] for rows in self.rows.values()
        )
        assert [2 * count for count in regions] == lines
        return lines


@pytest.fixture
def site(load: Callable[[str], Any]) -> Site:
    return Site(load)


@pytest.mark.parametrize("options", [{"instance_pks": [1]}, {"instance_pk": 1}], ids=["some", "one"])
def test_a_page_that_was_finished_is_not_segmented_again(site: Site, options: dict[str, Any]) -> None:
    assert site.run(("finished", 1), **options) == "killed"
    assert site.run(**options) is None
    assert (site.ran, site.lines()) == ([1], [2, 0, 0])


def test_what_was_made_on_an_unfinished_page_is_made_once(site: Site) -> None:
    assert site.run(("made", 1), instance_pk=1) == "killed"
    assert site.run(("made", 1), instance_pk=1) == "killed"
    assert site.run(instance_pk=1) == "done"
    assert (site.ran, site.lines()) == ([1, 1, 1], [2, 0, 0])


def test_a_page_that_failed_afterwards_is_done_anew(site: Site) -> None:
    """Upstream takes the page back where it could not be put in order, for want of memory, and asks for a retry."""
    assert site.run(("finished", 1), instance_pk=1) == "killed"
    site.pages[0].workflow_state = CONVERTED
    assert site.run(instance_pk=1) == "done"
    assert site.lines() == [2, 0, 0]


def test_of_many_pages_those_left_are_done_and_what_users_drew_stays(site: Site) -> None:
    for kind in ("Block", "Line", "Line"):
        site.make(kind, 2)
        site.make(kind, 3)
    assert site.run(("made", 2), instance_pks=[1, 2, 3]) == "killed"
    assert site.run(instance_pks=[1, 2, 3]) == "done"
    assert (site.ran, site.lines()) == ([1, 2, 2, 3], [2, 4, 4])


def test_another_job_adds_its_own_lines(site: Site) -> None:
    site.run(instance_pk=1)
    site.cache.clear()
    assert site.run(instance_pk=1) == "done"
    assert site.lines() == [4, 0, 0]


def test_a_cache_that_is_away_holds_nothing_up(site: Site) -> None:
    site.cache.away = True
    assert site.run(instance_pk=1) == "done"
    assert site.run(name=REPLACE, instance_pk=1) == "done"


def test_a_replacement_that_was_stopped_is_not_begun_again(site: Site) -> None:
    assert site.run(("made", 1), name=REPLACE, instance_pk=1) == "killed"
    with pytest.raises(site.module.HalfDoneError, match="Some lines may hold the new text"):
        site.run(name=REPLACE, instance_pk=1)
    assert site.ran == [1]


class Reading:
    """A transcription: texts of pages, which users correct meanwhile."""

    def __init__(self, site: Site, load: Callable[[str], Any]) -> None:
        self.site = site
        self.patience = load("escriptorium_cluster.patience").patience
        self.calls: list[list[int]] = []
        self.texts: dict[int, str] = {}

    def run(self, *pages: int, stop: int = 0, fail: int = 0, lose: int = 0) -> Any:
        """Run the job; on a page it is killed after half of it, fails, or loses its database and says nothing."""

        def transcribe(*, instance_pks: list[int], model_pk: int) -> str:
            assert model_pk == 7
            self.calls.append(instance_pks)
            for page in instance_pks:
                if page == stop:
                    raise KilledError
                if page == fail:
                    raise ValueError
                if page == lose:
                    self.patience.losses += 1
                    continue
                self.texts[page] = "read"
            return "done"

        guarded = self.site.module.once_only(TRANSCRIBE, transcribe, lambda: "job")
        try:
            return guarded(instance_pks=list(pages), model_pk=7)
        except KilledError:
            return "killed"


@pytest.fixture
def reading(site: Site, load: Callable[[str], Any]) -> Reading:
    return Reading(site, load)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_transcription_goes_on_with_the_pages_that_are_left(reading: Reading, stop: int) -> None:
    assert reading.run(1, 2, 3, stop=stop) == "killed"
    corrected = dict.fromkeys(reading.texts, "corrected")
    reading.texts |= corrected
    assert reading.run(1, 2, 3) == "done"
    assert reading.texts == dict.fromkeys((1, 2, 3), "read") | corrected
    assert reading.calls == [[page] for page in (*range(1, stop + 1), *range(stop, 4))]
    # And where it is killed once more, after all of it: nothing is left.
    assert reading.run(1, 2, 3) is None


def test_a_retry_goes_on_with_the_page_that_failed(reading: Reading) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - it says nothing
        reading.run(1, 2, 3, fail=2)
    assert reading.run(1, 2, 3) == "done"
    assert reading.calls == [[1], [2], [2], [3]]


def test_a_page_that_lost_its_database_counts_as_not_done(reading: Reading) -> None:
    reading.run(1, 2, 3, lose=2)
    reading.run(1, 2, 3)
    assert reading.calls == [[1], [2], [3], [2]]


def test_a_transcription_of_one_page_is_as_it_was(reading: Reading) -> None:
    reading.run(1)
    reading.run(1)
    assert reading.calls == [[1], [1]]
    assert not [key for key in reading.site.cache if key.startswith("cluster:pages:")]


def test_pages_of_another_job_are_read(reading: Reading) -> None:
    reading.run(1, 2)
    reading.site.cache.clear()
    reading.run(1, 2)
    assert reading.calls == [[1], [2], [1], [2]]


def test_without_a_cache_all_pages_are_read(reading: Reading) -> None:
    reading.site.cache.away = True
    assert reading.run(1, 2) == "done"
    assert reading.texts == {1: "read", 2: "read"}


def test_other_tasks_are_as_they_were(site: Site) -> None:
    def run() -> None:
        pass

    assert site.module.once_only("core.tasks.align", run, str) is run
