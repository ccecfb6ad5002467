"""What a release asks for that nobody serves: files and names, no Django."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster.config import HELD_QUEUE, IMPORT, QUEUES, TRAININGS
from escriptorium_cluster.release_demands import (
    TASKS,
    Finding,
    Source,
    other_kraken,
    read_source,
    renamed,
    routed,
    told,
    unknown_tasks,
    unserved,
    variables,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def names(findings: Iterable[Finding]) -> list[str]:
    return [finding.name for finding in findings]


def test_a_queue_without_a_worker_is_found() -> None:
    assert names(unserved([*set(QUEUES) - {HELD_QUEUE}, "intensive-inference"])) == ["queue:intensive-inference"]
    assert names(unserved([HELD_QUEUE])) == [f"queue:{HELD_QUEUE}"], "no worker takes what is held back"
    assert told(unserved(["new"])) == [
        {"name": "queue:new", "text": "queue new: no worker takes its jobs; they would wait, and be marked as lost"}
    ]


@pytest.mark.parametrize(
    ("routes", "queues"),
    [
        ({"a.*": {"queue": "live"}, "b": {"queue": "gpu", "priority": 1}, "c": {"exchange": "x"}}, {"live", "gpu"}),
        ({"a": "jvm"}, {"jvm"}),
        ((), set()),
    ],
)
def test_queues_of_routes(routes: Any, queues: set[str]) -> None:
    assert routed(routes) == queues


def test_a_task_that_is_not_known_is_found_and_celerys_own_are_not() -> None:
    assert names(unknown_tasks([*TASKS, "celery.chain", "core.tasks.train_from_collection"])) == [
        "task:core.tasks.train_from_collection"
    ]
    assert {IMPORT, *TRAININGS} <= TASKS, "what the package treats by its name"


def test_the_source_is_read_without_its_tests(tmp_path: Path) -> None:
    (tmp_path / "apps/core/tests").mkdir(parents=True)
    (tmp_path / "apps/core/tests/test_tasks.py").write_text('QUEUE_OF_TESTS = dict(queue="of-tests")\n')
    (tmp_path / "apps/core/tasks.py").write_text(
        "task.apply_async(queue='intensive-inference')\nA_B1 = {'queue': 'x'}\n"
    )
    (tmp_path / "settings.py").write_bytes(b"ES_SEARCH_URL = os.getenv('ES_SEARCH_URL')  # \xff\nqueue = name\n")
    assert read_source(tmp_path) == Source(
        frozenset({"A_B1", "ES_SEARCH_URL"}), frozenset({"intensive-inference", "x"})
    )
    assert read_source(tmp_path / "nowhere") == Source(frozenset(), frozenset())


def test_a_setting_that_only_the_release_before_reads_is_found() -> None:
    before = Source(frozenset({"ELASTICSEARCH_URL", "GPU_COST", "GONE"}), frozenset())
    after = Source(frozenset({"ES_SEARCH_URL", "GPU_COST"}), frozenset())
    # HTTPS_PROXY is read by a library, and by neither of the two.
    assert names(renamed(["ELASTICSEARCH_URL", "GPU_COST", "HTTPS_PROXY"], before, after)) == [
        "setting:ELASTICSEARCH_URL"
    ]


def test_of_an_environment_only_the_names_are_read() -> None:
    assert variables('# MADE=by\n[x]\nSECRET_KEY="a=b OTHER=c"\nGPU_COST="1"\n') == ["SECRET_KEY", "GPU_COST"]


@pytest.mark.parametrize(("version", "found"), [("5.3.0", []), ("6.0.3", ["kraken:6"]), ("15.0", ["kraken:15"])])
def test_another_kraken_is_found(version: str, found: list[str]) -> None:
    assert names(other_kraken(version)) == found
