"""The jobs that workers hold, as the broker tells them: no broker."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from escriptorium_cluster.jobs import Job, explain, held_jobs, open_broker, read_jobs
from escriptorium_cluster.lease import NOTES, UNACKED

NOW = 1000.0


def note(node: str, task_id: str, since: float) -> str:
    return json.dumps({"lease": "l", "node": node, "task": "core.tasks.train", "id": task_id, "since": since})


def job(node: str, task_id: str, seconds: float) -> Job:
    return Job(node, "core.tasks.train", task_id, seconds)


def test_jobs_that_have_ended_are_held_by_nobody() -> None:
    notes = {"1": note("gpu@c1", "a", 990.0), "2": note("gpu@c1", "b", 980.0), "3": "no note"}
    assert held_jobs(notes, {"1", "3"}, NOW) == [job("gpu@c1", "a", 10.0)]


def test_the_oldest_job_comes_first_and_none_began_in_the_future() -> None:
    notes = {"1": note("b@c1", "a", 990.0), "2": note("a@c1", "b", 980.0), "3": note("a@c1", "c", 1001.0)}
    assert [(held.id, held.seconds) for held in held_jobs(notes, set(notes), NOW)] == [("b", 20), ("a", 10), ("c", 0)]


class Redis:
    """The broker's hashes."""

    def __init__(self, held: dict[str, str], acknowledged: tuple[str, ...] = ()) -> None:
        self.notes = {tag.encode(): text.encode() for tag, text in held.items()}
        self.unacknowledged = [tag for tag in self.notes if tag.decode() not in acknowledged]

    def hgetall(self, name: str) -> dict[bytes, bytes]:
        assert name == NOTES
        return dict(self.notes)

    def hkeys(self, name: str) -> list[bytes]:
        assert name == UNACKED
        return list(self.unacknowledged)


def test_jobs_are_read_from_the_broker() -> None:
    redis = Redis({"1": note("gpu@c1", "a", 990.0), "2": note("gpu@c1", "b", 980.0)}, acknowledged=("2",))
    assert read_jobs(redis, NOW) == [job("gpu@c1", "a", 10.0)]


def test_the_broker_is_asked_within_a_time(load: Any, environment: dict[str, str]) -> None:
    asked: list[Any] = []
    load("redis").Redis = SimpleNamespace(from_url=lambda url, **limits: asked.append((url, limits)))
    open_broker(environment | {"CLUSTER_REDIS_PASSWORD": "secret"})
    limits = {"socket_connect_timeout": 2.0, "socket_timeout": 2.0}
    assert asked == [("redis://:secret@10.10.0.1:6379/0", limits)]


def test_people_read_what_runs_and_what_waits() -> None:
    assert explain([job("gpu@c1", "a", 61.0)], {"gpu": 2, "live": 0}) == (
        "1 running\n  gpu@c1  core.tasks.train  for 1 min  (a)\nwaiting: gpu 2"
    )
    assert explain([], {"gpu": 0}) == "0 running\nwaiting: none"
