"""What a worker tells systemd, and when: no systemd, no Celery."""

from __future__ import annotations

import logging
import socket
from queue import Empty
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster.watchdog import (
    ALIVE,
    BEAT_SECONDS,
    OOM_SCORE,
    PATIENCE,
    READY,
    SETTLED_SECONDS,
    STOPPING,
    Ear,
    Orders,
    Watchdog,
    deaf,
    offer_to_kernel,
    read_orders,
    tell,
)

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 180.0


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class Watched:
    """A watchdog with its clock, and what it has sent."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.clock = Clock()
        self.sent: list[str] = []
        self.settled: list[float] = []
        self.dog = Watchdog(self.sent.append, seconds, lambda: self.settled.append(self.clock.time), self.clock)

    def turn(self, seconds: float, *deaf: str) -> list[str]:
        """Let time go by, the loop turn and look at itself if that is due; answer what was sent."""
        before = len(self.sent)
        self.clock.time += seconds
        if self.dog.is_due():
            self.dog.turned(list(deaf))
        return self.sent[before:]


@pytest.mark.parametrize(
    ("environment", "orders"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000000"}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, None),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, Orders("/run/systemd/notify", 0.0)),
        ({"NOTIFY_SOCKET": "@notify", "WATCHDOG_USEC": "180000000"}, Orders("@notify", 180.0)),
        ({"NOTIFY_SOCKET": "@notify", "WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "7"}, Orders("@notify", 180.0)),
        ({"NOTIFY_SOCKET": "@notify", "WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "8"}, Orders("@notify", 0.0)),
        ({"NOTIFY_SOCKET": "@notify", "WATCHDOG_USEC": "soon"}, Orders("@notify", 0.0)),
        ({"NOTIFY_SOCKET": "@notify", "WATCHDOG_USEC": "-1"}, Orders("@notify", 0.0)),
    ],
)
def test_orders(environment: dict[str, str], orders: Orders | None) -> None:
    assert read_orders(environment, 7) == orders


@pytest.mark.parametrize("name", ["path", "abstract"])
def test_a_message_arrives(tmp_path: Path, name: str) -> None:
    address = str(tmp_path / "notify") if name == "path" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + address[1:] if address.startswith("@") else address)
        tell(address, READY)
        assert systemd.recv(100) == READY.encode()


def test_nobody_who_listens_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tell(str(tmp_path / "nothing"), ALIVE)
    assert "systemd does not take 'WATCHDOG=1'" in caplog.text


def test_the_loop_gives_signs_of_life_often_enough_and_not_more_often() -> None:
    watched = Watched()
    assert watched.turn(1) == [], "before it is ready, its start has a limit of its own"
    watched.dog.ready()
    assert watched.sent == [READY]
    assert watched.turn(0) == [ALIVE]
    assert [watched.turn(BEAT_SECONDS / 4) for _ in range(4)] == [[], [], [], [ALIVE]]
    short = Watched(6)
    short.dog.ready()
    assert [short.turn(1) for _ in range(3)] == [[ALIVE]] * 3


def test_a_worker_that_does_not_hear_is_silent_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    watched.dog.ready()
    watched.turn(0)
    assert [watched.turn(BEAT_SECONDS, "BRPOP") for _ in range(3)] == [[]] * 3
    assert caplog.text.count("nothing is heard from the broker (BRPOP)") == 1
    assert watched.turn(1) == [ALIVE], "it looks again soon"
    watched.turn(BEAT_SECONDS, "BRPOP", "LISTEN")
    assert "(BRPOP, LISTEN)" in caplog.text


def test_a_broker_that_does_not_answer_is_no_fault_of_the_worker() -> None:
    watched = Watched()
    watched.dog.excuse()
    assert watched.sent == [], "before it is ready"
    watched.dog.ready()
    watched.dog.excuse()
    assert watched.sent == [READY, ALIVE]


def test_a_worker_that_stops_tells_and_is_watched_no_more() -> None:
    watched = Watched()
    watched.dog.ready()
    watched.dog.stopping()
    assert watched.turn(BEAT_SECONDS) == []
    watched.dog.turned([])
    watched.dog.excuse()
    assert watched.sent == [READY, STOPPING]


def test_it_has_started_for_good_after_a_minute_and_once() -> None:
    watched = Watched()
    watched.dog.ready()
    for _ in range(20):
        watched.turn(BEAT_SECONDS)
    assert watched.settled == [1000 + SETTLED_SECONDS]


def test_without_a_limit_it_says_that_it_is_ready_and_counts_its_start() -> None:
    watched = Watched(0)
    watched.dog.ready()
    for _ in range(20):
        watched.turn(BEAT_SECONDS)
    watched.dog.excuse()
    assert watched.sent == [READY]
    assert len(watched.settled) == 1


def test_a_loop_that_stood_still_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    watched = Watched()
    watched.dog.ready()
    watched.turn(BEAT_SECONDS)
    assert caplog.text == ""
    assert watched.turn(SECONDS / 2 + 1) == [ALIVE]
    assert "stood still for 91 s" in caplog.text


class Channel:
    """A channel of kombu's, as far as its ears are concerned."""

    def __init__(self, *, asks: bool = True, queues: bool = True, fanout: bool = False) -> None:
        self.asks = asks
        self.active_queues = {"gpu"} if queues else set()
        self.active_fanout_queues = {"celery.pidbox"} if fanout else set()
        self.qos = SimpleNamespace(can_consume=lambda: self.asks)
        self.nothing = False
        self.handlers: dict[str, Any] = {"BRPOP": self.read, "LISTEN": self.read}

    def read(self) -> None:
        if self.nothing:
            raise Empty


def test_a_connection_that_is_read_hears() -> None:
    clock, taking = Clock(), Channel()
    assert deaf([taking], clock) == []
    clock.time += PATIENCE["BRPOP"]
    taking.handlers["BRPOP"]()
    assert deaf([taking], clock) == []
    clock.time += PATIENCE["BRPOP"]
    taking.nothing = True
    with pytest.raises(Empty):
        taking.handlers["BRPOP"]()
    clock.time += PATIENCE["BRPOP"]
    assert deaf([taking], clock) == [], "no job is an answer, too"
    clock.time += 1
    assert deaf([taking], clock) == ["BRPOP"]
    taking.nothing = False
    taking.handlers["BRPOP"]()
    assert deaf([taking], clock) == []
    ears = list(taking.handlers.values())
    assert [type(ear) for ear in ears] == [Ear, Ear]
    deaf([taking], clock)
    assert list(taking.handlers.values()) == ears, "one ear for each connection"


def test_each_connection_is_listened_to_for_itself() -> None:
    clock, taking, controlled = Clock(), Channel(), Channel(queues=False, fanout=True)
    assert deaf([taking, controlled], clock) == []
    clock.time += PATIENCE["LISTEN"] + 1
    taking.handlers["BRPOP"]()
    assert deaf([taking, controlled], clock) == ["LISTEN"]
    assert deaf([taking], clock) == []
    controlled.handlers["LISTEN"]()
    assert deaf([taking, controlled], clock) == []


def test_a_worker_whose_places_are_taken_asks_for_nothing() -> None:
    clock, taking = Clock(), Channel(asks=False)
    deaf([taking], clock)
    clock.time += 3600
    assert deaf([taking], clock) == []
    taking.asks = True
    assert deaf([taking], clock) == [], "its time begins now"
    clock.time += PATIENCE["BRPOP"] + 1
    assert deaf([taking], clock) == ["BRPOP"]
    taking.active_queues = set()
    assert deaf([taking], clock) == [], "nor does one that is drained"


def test_a_job_is_the_first_to_be_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    score = tmp_path / "oom_score_adj"
    offer_to_kernel(score, sender=None)
    assert score.read_text() == str(OOM_SCORE)
    offer_to_kernel(tmp_path / "nowhere" / "oom_score_adj")
    assert "not the first to be killed" in caplog.text
