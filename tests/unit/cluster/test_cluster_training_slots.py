"""Slots and held messages, with a database and a broker of the test's own; the real ones are in tests/integration."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from escriptorium_cluster.config import HELD_QUEUE
from escriptorium_cluster.fair_use import HELD_HEADER, SLOT_SPACE, HeldJob, lock_number
from escriptorium_cluster.training_slots import KEEPALIVE, LOOKED_PREFIX, Slot, held, hold, look, release, release_next

if TYPE_CHECKING:
    from collections.abc import Callable


def message(task_id: str, user: int, queue: str = "gpu") -> dict[str, Any]:
    body = base64.b64encode(json.dumps([[], {"user_pk": user}, {}]).encode()).decode()
    properties = {"delivery_info": {"exchange": "default", "routing_key": queue}}
    return {"body": body, "headers": {"id": task_id}, "properties": properties}


class Broker:
    """The few commands of Redis that are used; the first element of a list is its left end."""

    def __init__(self) -> None:
        self.lists: dict[str, list[bytes]] = {HELD_QUEUE: []}
        self.unacked: dict[str, bytes] = {}
        self.keys: set[str] = set()

    def deliver(self, tag: str, content: dict[str, Any]) -> None:
        self.unacked[tag] = json.dumps([content, "default", "gpu"]).encode()

    def hget(self, _: str, tag: str) -> bytes | None:
        return self.unacked.get(tag)

    def lrange(self, name: str, _: int, __: int) -> list[bytes]:
        return list(self.lists.get(name, []))

    def set(self, key: str, _: int, *, ex: int, nx: bool = False) -> bool:
        assert ex > 0
        if nx and key in self.keys:
            return False
        self.keys.add(key)
        return True

    def eval(self, script: str, _: int, *arguments: Any) -> int:
        if "HDEL" in script:
            name, tag, payload, command = arguments
            if self.unacked.pop(tag, None) is None:
                return 0
            self.lists[name].insert(0 if command == "LPUSH" else len(self.lists[name]), payload)
            return 1
        name, queue, payload = arguments
        if payload not in self.lists[name]:
            return 0
        self.lists[name].remove(payload)
        self.lists.setdefault(queue, []).append(payload)
        return 1

    def ids(self, name: str) -> list[str]:
        """Jobs of a list, the next to be taken first."""
        return [json.loads(payload)["headers"]["id"] for payload in reversed(self.lists.get(name, []))]


def holding(*jobs: tuple[str, int] | tuple[str, int, str]) -> Broker:
    broker = Broker()
    for number, job in enumerate(jobs):
        broker.deliver(str(number), message(*job))
        assert hold(broker, str(number)) is not None
    broker.keys.clear()
    return broker


def test_a_held_job_is_in_one_place_and_keeps_its_content() -> None:
    broker = Broker()
    broker.deliver("tag", message("a", 7, "gpu-large"))
    job = hold(broker, "tag")
    assert job is not None
    assert (job.id, job.user, job.queue) == ("a", 7, "gpu-large")
    assert (broker.ids(HELD_QUEUE), broker.unacked) == (["a"], {})
    assert hold(broker, "tag") is None, "it was not handed out any more"
    assert release(broker, job)
    assert (broker.ids("gpu-large"), broker.ids(HELD_QUEUE)) == (["a"], [])
    assert not release(broker, job), "released once"
    back = json.loads(broker.lists["gpu-large"][0])
    assert back["headers"].pop(HELD_HEADER) == 1
    assert back == message("a", 7, "gpu-large")


def test_a_job_that_is_held_again_keeps_its_turn() -> None:
    broker = holding(("a", 7), ("b", 7))
    assert release_next(broker, 7)
    again = json.loads(broker.lists["gpu"].pop())
    broker.deliver("again", again)
    assert hold(broker, "again") is not None
    assert broker.ids(HELD_QUEUE) == ["a", "b"]


def test_the_end_of_a_training_brings_back_one_of_the_same_user() -> None:
    broker = holding(("a", 1), ("b", 2), ("c", 1))
    assert release_next(broker, 1)
    assert not release_next(broker, 3)
    assert (broker.ids("gpu"), broker.ids(HELD_QUEUE)) == (["a"], ["b", "c"])


def test_an_idle_worker_brings_back_one_of_each_user_now_and_then() -> None:
    broker = holding(("a", 1), ("b", 1), ("c", 2), ("d", 3, "gpu-large"), ("e", 1))
    gpu = frozenset({"gpu"})
    assert [job.id for _ in range(4) for job in look(broker, gpu, 1)] == ["a", "c"]
    assert broker.keys == {f"{LOOKED_PREFIX}1", f"{LOOKED_PREFIX}2"}
    assert [job.id for job in look(broker, frozenset({"gpu-large"}), 1)] == ["d"]
    broker.lists["gpu"].clear()
    assert look(broker, gpu, 1) == [], "looked at a moment ago"
    broker.keys.clear()
    assert [job.id for job in look(broker, gpu, 1)] == ["b"]
    broker.keys.clear()
    assert look(broker, gpu, 1) == [], "the last one was not taken yet, and would come after the next"


def test_a_worker_that_is_busy_brings_jobs_back_too(load: Callable[[str], Any]) -> None:
    """Where queues are full nobody is ever idle, and who has cancelled a training would wait for days."""
    broker = holding(("a", 1))
    held_step = load("escriptorium_cluster.training_slots")._looking_step(lambda: broker, 1)
    step = held_step(None)
    timer = SimpleNamespace(call_repeatedly=lambda *_: None)
    tasks = SimpleNamespace(queues=[SimpleNamespace(name="gpu")])
    consumer = SimpleNamespace(timer=timer, task_consumer=tasks, pool=SimpleNamespace(num_processes=1))
    step.start(consumer)
    step.look(consumer)
    assert broker.ids("gpu") == ["a"]


def test_a_user_whose_job_has_just_looked_is_left_in_peace() -> None:
    broker = Broker()
    broker.deliver("tag", message("a", 7))
    assert hold(broker, "tag") is not None
    assert look(broker, frozenset({"gpu"}), 1) == []


def test_without_a_bound_all_come_back_in_their_order() -> None:
    broker = holding(("a", 1), ("b", 1), ("c", 2), ("d", 3, "jvm"))
    assert len(look(broker, frozenset({"gpu"}), 0)) == 3
    assert (broker.ids("gpu"), broker.ids(HELD_QUEUE)) == (["a", "b", "c"], ["d"])


def test_a_message_that_cannot_be_read_hurts_nobody() -> None:
    broker = holding(("a", 1))
    broker.lists[HELD_QUEUE].append(b"rubbish")
    assert len(held(broker)) == 2
    assert isinstance(look(broker, frozenset({"gpu"}), 1)[0], HeldJob)


class Database:
    """A connection and its cursor; ``busy`` are locks that others hold."""

    def __init__(self, busy: set[int]) -> None:
        self.busy = busy
        self.asked: list[int] = []
        self.settings: list[str] = []
        self.autocommit = False
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cursor(self) -> Database:
        return self

    def execute(self, query: str, parameters: list[int] | None = None) -> None:
        assert self.autocommit, "a transaction that stays open for days stops the vacuum"
        if parameters:
            self.asked += parameters
        else:
            self.settings.append(query)

    def fetchone(self) -> tuple[bool]:
        return (self.asked[-1] not in self.busy,)

    def close(self) -> None:
        self.closed = True


def test_a_slot_is_a_lock_of_the_user() -> None:
    database = Database({lock_number(SLOT_SPACE, 7, 0)})
    slot = Slot(lambda: database)
    assert slot.take(7, 2)
    assert database.asked == [lock_number(SLOT_SPACE, 7, 0), lock_number(SLOT_SPACE, 7, 1)]
    assert [line.split()[1] for line in database.settings] == list(KEEPALIVE)
    slot.close()
    assert database.closed


def test_all_slots_taken() -> None:
    assert not Slot(lambda: Database({lock_number(SLOT_SPACE, 7, 0)})).take(7, 1)
