"""What a worker does about its lease: no Redis, no Celery."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import asdict, replace
from typing import Any

import pytest
from escriptorium_cluster import lease as module
from escriptorium_cluster.lease import (
    Fence,
    Holder,
    Lease,
    Verdict,
    beat_of,
    descendants,
    host_of,
    parse_holder,
    parse_note,
    process_ticks,
    send,
    surely_gone,
    this_process,
)

HOLDER = Holder("gpu0@compute1", "machine", "boot", 4711, 99, 1.5)


class Broker:
    """Answers scripts as told, and keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []

    def eval(self, script: str, _count: int, *arguments: str) -> Any:
        self.asked.append((script, *arguments))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def given_back() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def fates(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep what would be sent to processes, and the end of this one."""
    seen: list[Any] = []
    monkeypatch.setattr(module, "descendants", lambda _: [12, 13])
    monkeypatch.setattr(module, "send", lambda processes, number: seen.append((list(processes), number)))

    def leave(status: int) -> None:
        seen.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    return seen


def lease(broker: Broker, given_back: list[tuple[str, str]] | None = None, seconds: float = 900) -> Lease:
    def give_back(_: Any, tag: str, note: str) -> None:
        assert given_back is not None
        given_back.append((tag, note))

    return Lease(broker, HOLDER, seconds, give_back)


def test_renewals_are_regular_and_never_in_a_rush() -> None:
    assert [beat_of(seconds) for seconds in (1, 6, 60, 900, 86400)] == [0.5, 0.6, 6, 10, 10]


def test_the_host_is_part_of_the_node() -> None:
    assert [host_of("gpu0-2g.10gb-0@compute1"), host_of("compute1"), HOLDER.host] == ["compute1"] * 3


def test_jobs_are_halted_before_the_lease_can_be_dead_and_go_on_afterwards() -> None:
    fence = Fence(900, now=100)
    assert not fence.must_halt(100 + 880)
    assert fence.must_halt(100 + 881)
    assert not fence.must_halt(100 + 890), "once is enough"
    assert fence.may_resume(1000)
    assert not fence.may_resume(1010)
    assert not fence.must_halt(1880)
    assert fence.must_halt(1891)


def test_a_worker_that_is_told_to_end_does_not_wait_for_the_broker_for_ever() -> None:
    fence = Fence(900, now=0)
    assert not fence.must_end(60, busy=False)
    assert fence.must_end(61, busy=False)
    assert fence.must_halt(881)
    assert not fence.must_end(1800, busy=True), "its jobs may go on"
    assert fence.must_end(1801, busy=True)
    fence.may_resume(1802)
    assert not fence.must_end(1803, busy=False)


def test_a_renewal_in_time_halts_nothing() -> None:
    fence = Fence(60, now=0)
    assert not fence.may_resume(40)
    assert not fence.must_halt(88)


@pytest.mark.parametrize(
    ("former", "ticks", "gone"),
    [
        ({}, 99, False),
        ({}, None, True),
        ({}, 100, True),
        ({"boot": "former"}, 99, True),
        ({"machine": "another"}, None, False),
        ({"node": "gpu1@compute1"}, None, False),
    ],
    ids=["lives", "ended", "its number was given again", "rebooted", "another machine", "another worker"],
)
def test_a_successor_knows_whether_its_predecessor_is_gone(
    former: dict[str, Any], ticks: int | None, gone: bool
) -> None:
    assert surely_gone(replace(HOLDER, **former), HOLDER, lambda _: ticks) is gone


def test_machines_without_an_identity_know_nothing() -> None:
    nameless = replace(HOLDER, machine="")
    assert not surely_gone(nameless, nameless, lambda _: None)


def test_what_cannot_be_read_is_nothing() -> None:
    assert parse_holder(json.dumps(asdict(HOLDER))) == HOLDER
    assert [parse_holder(text) for text in ("", "[]", "{}", '{"node": "a@b"}')] == [None] * 4
    assert [parse_note(text) for text in ("", "3", "{}")] == [None] * 3


def test_a_process_and_what_it_started_are_found() -> None:
    own = this_process("default@here")
    assert (own.process, own.ticks) == (os.getpid(), process_ticks(os.getpid()))
    process = subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    child, *grandchildren = [pid for pid in descendants(os.getpid()) if pid >= process.pid]
    assert (child, len(grandchildren)) == (process.pid, 1)
    send([*grandchildren, child], signal.SIGKILL)
    process.stdout.close()
    process.wait(10)
    send([child], signal.SIGKILL)
    assert process_ticks(child) is None


def test_a_message_is_noted_and_renewed_until_it_is_held_no_more() -> None:
    broker = Broker(b"taken", [b"alive"], [b"alive", b"t1"], [b"alive"])
    own = lease(broker)
    assert own.take("t1", "core.tasks.train", "id-1") is Verdict.BEGIN
    note = parse_note(broker.asked[0][9])
    assert note
    assert (note.lease, note.node, note.task, note.id) == (own.id, "gpu0@compute1", "core.tasks.train", "id-1")
    for _ in range(3):
        own.check()
    assert [asked[-4] == "t1" for asked in broker.asked[1:]] == [True, True, False]


def test_what_runs_is_renewed_as_running_and_what_has_ended_elsewhere_is_dropped() -> None:
    broker = Broker(b"taken", [b"alive"], b"done")
    own = Lease(broker, HOLDER, 900, lambda *_: None, lambda: frozenset({"id-1"}))
    own.take("t1", "core.tasks.train", "id-1")
    own.check()
    assert broker.asked[1][-1] == "1"
    assert own.take("t2", "core.tasks.train", "id-2") is Verdict.DROP


def test_a_broker_that_is_away_holds_nothing_up() -> None:
    own = lease(Broker(OSError("away"), OSError("away"), [b"alive"]))
    assert own.take("t1", "core.tasks.train", "id-1") is Verdict.BEGIN
    own.check()
    own.check()


def test_a_job_that_runs_elsewhere_goes_back_later(
    monkeypatch: pytest.MonkeyPatch, given_back: list[tuple[str, str]]
) -> None:
    broker = Broker(b"another lease")
    own = lease(broker, given_back)
    now = 50.0
    monkeypatch.setattr(module, "boot_seconds", lambda: now)
    assert own.take("t1", "core.tasks.train", "id-1") is Verdict.LATER
    own._put_back()
    assert given_back == []
    now += module.PUT_BACK_SECONDS
    own._put_back()
    own._put_back()
    assert given_back == [("t1", broker.asked[0][9])]


def test_a_message_that_is_handed_out_once_more_is_left_to_the_job_that_runs_here() -> None:
    """Redis has lost its last second: it gives the same message again, under the same tag."""
    broker = Broker(b"taken", [b"alive"])
    active: list[str] = []
    own = Lease(broker, HOLDER, 900, lambda *_: None, lambda: frozenset(active))
    assert own.take("t1", "core.tasks.train", "id-1") is Verdict.BEGIN
    active.append("id-1")
    assert own.take("t1", "core.tasks.train", "id-1") is Verdict.KEEP
    own.check()
    assert broker.asked[1][-4:] == ("t1", broker.asked[0][9], "id-1", "1"), "it is held as before"


@pytest.mark.parametrize("answer", ["lease", OSError("away")], ids=["noted", "a broker that is away"])
def test_another_message_of_a_job_that_runs_here_goes_back_later(
    given_back: list[tuple[str, str]], answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUT_BACK_SECONDS", 0)
    broker = Broker(answer)
    own = Lease(broker, HOLDER, 900, lambda _, *what: given_back.append(what), lambda: frozenset({"id-1"}))
    assert own.take("t2", "core.tasks.train", "id-1") is Verdict.LATER
    assert broker.asked[0][-1] == "1", "Redis may have lost that it runs"
    own._put_back()
    assert [tag for tag, _ in given_back] == ["t2"]


def test_what_could_not_be_put_back_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def give_back(_: Any, tag: str, note: str) -> None:
        tries.append(f"{tag} {bool(note)}")
        if len(tries) == 1:
            raise OSError("away")

    own = Lease(Broker(b"another lease"), HOLDER, 900, give_back)
    monkeypatch.setattr(module, "PUT_BACK_SECONDS", 0)
    own.take("t1", "core.tasks.train", "id-1")
    with pytest.raises(OSError, match="away"):
        own._put_back()
    own._put_back()
    own._put_back()
    assert tries == ["t1 True", "t1 True"]


@pytest.mark.parametrize("when", ["renewing", "taking a job"])
def test_a_dead_lease_ends_the_worker_and_its_jobs(fates: list[Any], when: str) -> None:
    own = lease(Broker([b"dead"] if when == "renewing" else b"dead"))
    with pytest.raises(SystemExit):
        own.check() if when == "renewing" else own.take("t1", "core.tasks.train", "id-1")
    assert fates == [([12, 13], signal.SIGKILL), module.EXIT_STATUS]


def test_halted_jobs_go_on_with_the_next_renewal(fates: list[Any]) -> None:
    own = lease(Broker([b"alive"], [b"alive"]))
    own._fence.halted = True
    own.check()
    own.check()
    assert fates == [([12, 13], signal.SIGCONT)]


def test_jobs_that_are_halted_and_resumed_at_once_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread has just decided to stop them when the broker answers the other one."""
    seen: list[signal.Signals] = []
    stopping = threading.Event()

    def slowly(_: Any, number: signal.Signals) -> None:
        if number is signal.SIGSTOP:
            stopping.set()
            time.sleep(0.2)
        seen.append(number)

    monkeypatch.setattr(module, "send", slowly)
    own = lease(Broker([b"alive"], [b"alive"]), seconds=5)
    own._fence._renewed -= 100
    thread = threading.Thread(target=own._beat)
    thread.start()
    assert stopping.wait(10)
    own.check()
    own._ended = True
    thread.join(10)
    assert seen == [signal.SIGSTOP, signal.SIGCONT]


def test_of_two_renewals_the_later_one_counts() -> None:
    fence = Fence(60, now=0)
    fence.may_resume(40)
    fence.may_resume(30)
    assert not fence.must_halt(88)


def test_an_orderly_end_gives_the_lease_up_once_and_only_in_its_own_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(b"taken", 1)
    own = lease(broker)
    own.take("t1", "core.tasks.train", "id-1")
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 1)
        own.end()
    assert len(broker.asked) == 1
    own.end()
    own.end()
    assert len(broker.asked) == 2
    assert "1 jobs not acknowledged" in caplog.text
