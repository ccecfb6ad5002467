"""The health checks' runner, the guard against jobs that start too often, and the site's request: no Django."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import pytest
from escriptorium_cluster.checks import CheckResult, Prober, report
from escriptorium_cluster.guard import StartedTooOftenError, count_start, newest_epoch
from escriptorium_cluster.site_request import RequestError, fingerprint, parse_request, replace_files

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = {
    "admin_name": "chief",
    "admin_email": "chief@example.org",
    "admin_password": "correct-horse",
    "domain": "htr.example.org",
    "site_name": "HTR",
}


class MemoryCounter:
    """A cache with the two methods that the guard uses."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def add(self, key: str, value: int, timeout: int) -> bool:
        assert timeout > 0
        return self.values.setdefault(key, value) == value

    def incr(self, key: str) -> int:
        self.values[key] += 1
        return self.values[key]


def test_all_is_well() -> None:
    content = report(Prober({"database": lambda: "answers", "media": lambda: "readable"}, 5).probe())
    assert content == {
        "ok": True,
        "checks": {"database": {"ok": True, "detail": "answers"}, "media": {"ok": True, "detail": "readable"}},
    }


def test_a_failure_shows_no_reason_but_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> str:
        raise ConnectionError("redis://:secret@10.0.0.1")

    content = report(Prober({"broker": fail, "media": lambda: "readable"}, 5).probe())
    assert content["ok"] is False
    assert content["checks"]["broker"] == {"ok": False, "detail": "failed (ConnectionError), see the log"}
    assert content["checks"]["media"]["ok"] is True
    assert "health check broker failed: ConnectionError" in caplog.text


def test_a_check_that_hangs_is_bounded_and_started_once() -> None:
    release, starts = threading.Event(), []

    def hang() -> str:
        starts.append(1)
        release.wait(30)
        return "back"

    prober = Prober({"media": hang}, 0.05)
    before = time.monotonic()
    silent = {"media": CheckResult(ok=False, detail="no answer within 0.05 s")}
    assert prober.probe() == silent
    assert prober.probe() == silent
    assert time.monotonic() - before < 5
    assert len(starts) == 1
    release.set()
    for thread in threading.enumerate():
        if thread.name == "health-media":
            thread.join(5)
    prober.time_limit = 5
    assert prober.probe() == {"media": CheckResult(ok=True, detail="back")}
    assert len(starts) == 2


def test_a_job_is_given_up_after_its_last_start() -> None:
    counter = MemoryCounter()
    assert [count_start(counter, "job", 0, 3, 60) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(StartedTooOftenError, match="killed 3 times"):
        count_start(counter, "job", 0, 3, 60)
    assert count_start(counter, "other job", 0, 3, 60) == 1


def test_retries_that_a_job_asks_for_do_not_count() -> None:
    counter = MemoryCounter()
    assert [count_start(counter, "job", retries, 1, 60) for retries in range(5)] == [1] * 5


def test_a_job_with_retries_may_be_killed_as_often_as_another_one() -> None:
    counter = MemoryCounter()
    assert [count_start(counter, "job", retries, 2, 60) for retries in (0, 1, 2, 2)] == [1, 1, 1, 2]
    with pytest.raises(StartedTooOftenError, match="killed 2 times"):
        count_start(counter, "job", 2, 2, 60)


def test_the_newest_epoch_that_is_there_is_found(tmp_path: Path) -> None:
    names = [f"models/0a1b2c3d/version_{number}.mlmodel" for number in (2, 1, 0)]
    versions = [{"data": {"file": name}} for name in names]
    assert newest_epoch(versions, tmp_path) is None
    (tmp_path / "models" / "0a1b2c3d").mkdir(parents=True)
    for name in names[1:]:
        (tmp_path / name).write_text("model")
    assert newest_epoch(versions, tmp_path) == tmp_path / names[1]


def test_a_good_request() -> None:
    request = parse_request(json.dumps(REQUEST))
    assert (request.admin_name, request.domain) == ("chief", "htr.example.org")
    assert "correct-horse" not in repr(request)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"admin_password": "admin"}, "too easy to guess"),
        ({"admin_password": "short"}, "too easy to guess"),
        ({"admin_name": "correct-horse"}, "too easy to guess"),
        ({"domain": " "}, "domain is missing"),
        ({"domain": None, "site_name": 5}, "domain is missing; site_name is missing"),
        ({"colour": "red"}, "colour is unknown"),
    ],
)
def test_a_bad_request_is_refused_without_its_password(change: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse_request(json.dumps(REQUEST | change))
    assert "correct-horse" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "correct-horse", '["correct-horse"]'])
def test_what_is_no_json_object_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(RequestError, match="standard input is not") as caught:
        parse_request(text)
    assert "correct-horse" not in str(caught.value)


def test_fingerprint_follows_the_release_and_the_front_end(tmp_path: Path) -> None:
    frontend = tmp_path / "dist"
    (frontend / "fonts").mkdir(parents=True)
    (frontend / "main.js").write_text("one")
    first = fingerprint(tmp_path / "release-1", frontend)
    assert fingerprint(tmp_path / "release-1", frontend) == first
    assert fingerprint(tmp_path / "release-2", frontend) != first
    (frontend / "main.js").write_text("two")
    second = fingerprint(tmp_path / "release-1", frontend)
    (frontend / "main.js").rename(frontend / "fonts" / "main.js")
    assert len({first, second, fingerprint(tmp_path / "release-1", frontend)}) == 3


def test_static_files_take_their_place_one_by_one(tmp_path: Path) -> None:
    root = tmp_path / "static"
    for number, names in enumerate((("a.css", "old/b.js"), ("a.css", "c.js"), ("a.css",), ("c.js",))):
        fresh = tmp_path / f"fresh{number}"
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_text(f"{number}")
        replace_files(fresh, root)
        found = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
        assert (
            found
            == {
                0: {"a.css": "0", "old/b.js": "0"},
                1: {"a.css": "1", "old/b.js": "0", "c.js": "1"},  # pages of the release before may still ask for b.js
                2: {"a.css": "2", "c.js": "1"},
                3: {"a.css": "2", "c.js": "3"},
            }[number]
        )
