"""Jobs that an operator ends as failed: broken off at each step, they end so all the same, and never begin again."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster import drain, reaper, stopping
from escriptorium_cluster.lease import DEAD, LEASES, NOTES, RENEWED, RUNNING, UNACKED, UNACKED_INDEX, Note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

REASON = "stopped by the operator: a new fan"
MESSAGE = json.dumps([{"headers": {"id": "job"}, "properties": {}}, "", "gpu"])


class KilledError(BaseException):
    """The command is killed here."""


class Broker:
    """The broker's hashes and what the scripts do with them.

    Attributes:
        steps: changes that the command still makes before it is killed; negative: it is not.
        back: messages that went back to their queues, by delivery tag.
        marked: task ids that were marked as failed, with the reason.

    """

    def __init__(self, **held: str) -> None:
        names = (NOTES, UNACKED, RUNNING, stopping.STOPPING, LEASES, RENEWED, DEAD)
        self.hashes: dict[str, dict[str, str]] = {name: {} for name in names}
        self.steps = -1
        self.back: list[str] = []
        self.marked: list[tuple[str, str]] = []
        self.units = {}
        for tag, node in held.items():
            self.hold(tag, node)
            self.units[node] = "deactivating"

    def hold(self, tag: str, node: str, lease: str = "") -> None:
        note = Note(lease or f"lease of {node}", node, "core.tasks.train", f"job {tag}", 0.0)
        self.hashes[NOTES][tag] = json.dumps(asdict(note))
        self.hashes[UNACKED][tag] = MESSAGE
        self.hashes[RUNNING][note.id] = note.lease

    def step(self) -> None:
        if self.steps == 0:
            raise KilledError
        self.steps -= 1

    def time(self) -> tuple[int, int]:
        return 1000, 0

    def hgetall(self, name: str) -> dict[bytes, bytes]:
        return {key.encode(): value.encode() for key, value in self.hashes[name].items()}

    def hkeys(self, name: str) -> list[bytes]:
        return [key.encode() for key in self.hashes[name]]

    def hget(self, name: str, key: str) -> bytes | None:
        found = self.hashes[name].get(key)
        return found.encode() if found is not None else None

    def smembers(self, _: str) -> set[bytes]:
        return set()

    def eval(self, script: str, count: int, *given: str) -> int:
        names, arguments = given[:count], given[count:]
        self.step()
        scripts: dict[str, Callable[..., int]] = {
            stopping.NOTE: self._note,
            stopping.FORGET: self._forget,
            stopping.DROP: self._drop,
            reaper.GIVE_BACK: self._give_back,
        }
        return scripts[script](names, *arguments)

    def _note(self, names: Sequence[str], *given: str) -> int:
        tag, note, job, lease, order = given
        assert names == (NOTES, UNACKED, RUNNING, stopping.STOPPING)
        held = self.hashes[NOTES].get(tag) == note and tag in self.hashes[UNACKED]
        if not held or self.hashes[RUNNING].get(job, lease) != lease:
            return 0
        self.hashes[stopping.STOPPING][tag] = order
        return 1

    def _forget(self, names: Sequence[str], tag: str, order: str) -> int:
        assert names == (stopping.STOPPING,)
        if self.hashes[stopping.STOPPING].get(tag) != order:
            return 0
        del self.hashes[stopping.STOPPING][tag]
        return 1

    def _drop(self, names: Sequence[str], tag: str, note: str) -> int:
        assert names == (NOTES, UNACKED, UNACKED_INDEX, stopping.STOPPING)
        if self.hashes[NOTES].get(tag) != note:
            return 0
        for name in (NOTES, stopping.STOPPING):
            self.hashes[name].pop(tag, None)
        return int(self.hashes[UNACKED].pop(tag, None) is not None)

    def _give_back(self, _: Sequence[str], tag: str, *__: str) -> int:
        for name in (NOTES, UNACKED):
            del self.hashes[name][tag]
        self.back.append(tag)
        return 1

    # --- who works with it ---------------------------------------------------------------------------------------

    def mark(self, jobs: Iterable[str], models: Sequence[int], reason: str) -> None:
        assert models == []
        for job in jobs:
            self.step()
            self.marked.append((job, reason))

    def kill(self) -> None:
        self.step()
        self.units.clear()

    def stop(self, node: str = "c1", steps: int = -1) -> None:
        """Do what drain-compute.yml does with drain_then=stop; it is killed before one of its steps."""
        self.steps = steps
        try:
            drain.settle(self, node, self.units)
            stopping.note_orders(self, lambda note: note.node.endswith(f"@{node}"), REASON)
            self.kill()
            drain.settle(self, node, self.units)
        finally:
            self.steps = -1

    def declare_dead(self) -> None:
        for node in ("gpu@c1", "live@c1"):
            self.hashes[DEAD][f"lease of {node}"] = "1"


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker(a="gpu@c1", b="live@c1", c="gpu@c2")
    del broker.units["gpu@c2"]  # another host
    for module in (drain, reaper):
        monkeypatch.setattr(module, "mark_with_django", broker.mark)
    return broker


FAILED = [("job a", REASON), ("job b", REASON)]
#: Steps of the command: two orders, the kill, two reports, two messages.
STEPS = 7


def assert_ended(broker: Broker) -> None:
    assert sorted(set(broker.marked)) == FAILED
    assert broker.back == []
    assert list(broker.hashes[UNACKED]) == list(broker.hashes[NOTES]) == ["c"], "what others hold is left alone"
    assert broker.hashes[stopping.STOPPING] == {}


def test_jobs_of_the_host_end_with_the_reason_and_no_others(broker: Broker) -> None:
    broker.stop()
    assert broker.marked == FAILED
    assert_ended(broker)


@pytest.mark.parametrize("steps", range(STEPS))
def test_a_command_that_was_killed_at_any_step_is_finished_by_the_repeated_one(broker: Broker, steps: int) -> None:
    with pytest.raises(KilledError):
        broker.stop(steps=steps)
    broker.stop()
    assert_ended(broker)


def test_there_are_no_more_steps(broker: Broker) -> None:
    broker.stop(steps=STEPS)


@pytest.mark.parametrize("steps", range(3, STEPS))
def test_after_the_kill_the_reaper_finishes_it_without_a_repeat(broker: Broker, steps: int) -> None:
    with pytest.raises(KilledError):
        broker.stop(steps=steps)
    assert reaper.give_back_jobs_of_dead(broker) == []
    assert reaper.end_jobs_of_dead(broker) == [], "their leases may live"
    broker.declare_dead()
    # Also where a new worker of that name has just declared its forerunner dead.
    assert reaper.give_back_jobs_of_dead(broker) == []
    ended = reaper.end_jobs_of_dead(broker)
    assert {(job.node, job.reason) for job in ended} <= {("gpu@c1", REASON), ("live@c1", REASON)}
    assert_ended(broker)


@pytest.mark.parametrize("steps", range(3))
def test_before_the_kill_the_jobs_go_on_when_the_host_is_resumed(broker: Broker, steps: int) -> None:
    with pytest.raises(KilledError):
        broker.stop(steps=steps)
    drain.settle(broker, "c1", broker.units)
    assert (broker.marked, broker.hashes[stopping.STOPPING]) == ([], {})
    # Its machine dies some day: they begin again elsewhere, as others do.
    broker.declare_dead()
    assert [job.id for job in reaper.give_back_jobs_of_dead(broker)] == ["job a", "job b"]


def test_a_worker_that_was_started_anew_does_not_save_the_job_of_its_forerunner(broker: Broker) -> None:
    with pytest.raises(KilledError):
        broker.stop(steps=3)
    broker.declare_dead()
    broker.units["gpu@c1"] = "active"
    drain.settle(broker, "c1", broker.units)
    assert_ended(broker)


def test_a_job_that_ends_or_goes_elsewhere_meanwhile_is_left_alone(broker: Broker) -> None:
    stopping.note_orders(broker, lambda _: True, REASON)
    del broker.hashes[UNACKED]["a"]
    broker.hold("b", "live@c2")
    assert stopping.finish(broker, lambda note: note.node != "gpu@c2", broker.mark) == []
    assert (broker.marked, list(broker.hashes[stopping.STOPPING])) == ([], ["c"])


def test_a_message_whose_job_runs_elsewhere_is_none_of_its_holder(broker: Broker) -> None:
    broker.hashes[RUNNING]["job a"] = "lease of gpu@c2"
    assert [note.id for note in stopping.note_orders(broker, lambda note: note.node == "gpu@c1", REASON)] == []


def test_an_order_waits_for_a_note_that_redis_has_lost(broker: Broker) -> None:
    stopping.note_orders(broker, lambda note: note.node == "gpu@c1", REASON)
    note = broker.hashes[NOTES].pop("a")
    assert stopping.finish(broker, lambda _: True, broker.mark) == []
    broker.hashes[NOTES]["a"] = note
    assert [job.id for job in stopping.finish(broker, lambda _: True, broker.mark)] == ["job a"]


def test_what_cannot_be_read_is_dropped(broker: Broker) -> None:
    broker.hashes[stopping.STOPPING] = {"a": "rubbish", "b": "{}"}
    assert stopping.orders(broker) == {}
    assert stopping.finish(broker, lambda _: True, broker.mark) == []
    assert broker.hashes[stopping.STOPPING] == {}


# --- the command ------------------------------------------------------------------------------------------------------


class RedisError(Exception):
    """What the broker's client raises."""


@pytest.fixture
def command(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, broker: Broker) -> Any:
    """The module of the command, on a host whose workers are those of the broker."""
    load("redis").RedisError = RedisError
    module = load("escriptorium_cluster.drain")
    monkeypatch.setattr(module, "open_broker", lambda _: broker)
    monkeypatch.setattr(module, "unknown_host", lambda *_: "")
    monkeypatch.setattr(module, "mark_with_django", broker.mark)
    listed = "".join(f"escriptorium-worker@{node.partition('@')[0]}.service active running\n" for node in broker.units)
    program = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(stdout=listed))
    monkeypatch.setattr(module, "subprocess", program)
    return module


def test_each_job_is_told(command: Any, broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--node", "c1", "--stop", REASON]) == 0
    assert [line.partition(" after ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "gpu@c1: core.tasks.train",
        "live@c1: core.tasks.train",
    ]
    broker.declare_dead()
    assert command.main(["--node", "c1", "--settle"]) == 0
    assert capsys.readouterr().out.count("core.tasks.train after ") == 2
    assert command.main(["--node", "c1", "--settle"]) == 0
    assert capsys.readouterr().out == ""
    assert_ended(broker)


@pytest.mark.parametrize("arguments", [["--stop", REASON], ["--settle"]])
def test_a_broker_that_is_away_is_one_clear_line(
    command: Any,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    def away(_: str) -> None:
        raise RedisError("Connection refused")

    for name in ("hgetall", "hkeys"):
        monkeypatch.setattr(broker, name, away)
    assert command.main(["--node", "c1", *arguments]) == 75
    assert capsys.readouterr() == ("", "the broker does not answer: Connection refused\n")


def test_a_database_that_is_away_leaves_all_as_it_is(
    command: Any, broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: Any) -> None:
        raise OSError("no route to host")

    command.main(["--node", "c1", "--stop", REASON])
    broker.declare_dead()
    monkeypatch.setattr(command, "mark_with_django", away)
    assert command.main(["--node", "c1", "--settle"]) == 75
    assert capsys.readouterr().err == "2 jobs could not be marked as failed: OSError: no route to host\n"
    assert set(broker.hashes[UNACKED]) == {"a", "b", "c"}
    assert set(broker.hashes[stopping.STOPPING]) == {"a", "b"}
