"""Waiting for workers, with a clock and a broker that are not real."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from escriptorium_cluster import workers
from escriptorium_cluster.workers import explain, main, parse_expected, wait_for_workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Clock:
    """Time that passes only by sleeping or asking."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Pool:
    """Workers that start to answer at a given time; asking takes as long as it may when somebody is silent."""

    def __init__(self, clock: Clock, ready_at: dict[str, float], broker_at: float = 0.0) -> None:
        self.clock, self.ready_at, self.broker_at = clock, ready_at, broker_at
        self.asked: list[tuple[str, ...]] = []

    def ping(self, names: Sequence[str], seconds: float) -> Iterable[str]:
        self.asked.append(tuple(names))
        if self.clock.time < self.broker_at:
            raise ConnectionRefusedError("refused")
        answers = [name for name in names if self.ready_at.get(name, 1e9) <= self.clock.time]
        self.clock.time += 0.1 if len(answers) == len(names) else seconds
        return [*answers, "stranger@elsewhere"]


def test_all_answer_at_once() -> None:
    clock = Clock()
    pool = Pool(clock, {"default@c1": 0, "gpu@c1": 0})
    answer = wait_for_workers(["default@c1", "gpu@c1"], 90, pool.ping, clock.now, clock.sleep)
    assert (answer.ok, answer.answered, answer.silent) == (True, ("default@c1", "gpu@c1"), ())
    assert len(pool.asked) == 1
    assert explain(answer) == "all 2 workers answered within 0.1 s"


def test_only_the_silent_are_asked_again() -> None:
    clock = Clock()
    pool = Pool(clock, {"default@c1": 0, "gpu@c1": 8})
    answer = wait_for_workers(["default@c1", "gpu@c1"], 90, pool.ping, clock.now, clock.sleep)
    assert answer.ok
    assert pool.asked[0] == ("default@c1", "gpu@c1")
    assert set(pool.asked[1:]) == {("gpu@c1",)}
    assert 8 <= answer.seconds <= 12


def test_the_silent_are_named_when_time_is_up() -> None:
    clock = Clock()
    answer = wait_for_workers(["default@c1", "gpu@c1"], 10, Pool(clock, {"default@c1": 0}).ping, clock.now, clock.sleep)
    assert (answer.ok, answer.silent, clock.time) == (False, ("gpu@c1",), 10)
    assert explain(answer) == "1 of 2 workers did not answer:\n  gpu@c1"


def test_a_broker_that_comes_late_is_waited_for() -> None:
    clock = Clock()
    pool = Pool(clock, {"default@c1": 0}, broker_at=5)
    assert wait_for_workers(["default@c1"], 30, pool.ping, clock.now, clock.sleep).ok
    assert len(pool.asked) == 6, "a refused connection is tried once a second, not in a busy loop"


def test_a_broker_that_stays_away_is_named() -> None:
    clock = Clock()
    answer = wait_for_workers(["d@c"], 5, Pool(clock, {}, broker_at=99).ping, clock.now, clock.sleep)
    assert "the broker: ConnectionRefusedError: refused" in explain(answer)


def test_expected_names_are_sorted_and_single() -> None:
    assert parse_expected(" gpu@c1, default@c1,gpu@c1,") == ("default@c1", "gpu@c1")


@pytest.mark.parametrize("text", ["", " , ", "default", "@c1", "default@", "a@b@c", "de fault@c1"])
def test_wrong_names_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--expect", text])
    assert caught.value.code == 2
    assert "QUEUE@HOST" in capsys.readouterr().err


def test_without_an_environment_the_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REDIS_HOST", raising=False)
    assert main(["--expect", "default@c1"]) == 1
    assert "REDIS_HOST is not set" in capsys.readouterr().err


def test_json_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REDIS_HOST", "10.0.0.1")
    monkeypatch.setenv("CLUSTER_REDIS_PASSWORD", "secret-password")
    monkeypatch.setattr(workers, "celery_app", lambda _broker: None)
    monkeypatch.setattr(workers, "celery_ping", lambda _app: lambda names, _seconds: names)
    assert main(["--expect", "default@c1", "--json"]) == 0
    output = capsys.readouterr().out
    assert '"answered": ["default@c1"], "silent": []' in output
    assert json.loads(output)["lines"][0].startswith("all 1 workers answered")
    assert "secret-password" not in output


def test_how_the_units_of_silent_workers_are_is_told_on_their_host(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_HOST", "10.0.0.1")
    monkeypatch.setenv("CLUSTER_REDIS_PASSWORD", "secret-password")
    monkeypatch.setattr(workers, "celery_app", lambda _broker: None)
    monkeypatch.setattr(workers, "celery_ping", lambda _app: lambda names, _seconds: [names[0]])
    monkeypatch.setattr(workers, "unit_states", dict.fromkeys)
    arguments = ["--expect", "default@c1,live@c1", "--timeout", "0.1", "--json"]
    assert main([*arguments, "--node", "c1"]) == 1
    assert json.loads(capsys.readouterr().out)["units"] == {"live@c1": "c1"}
    main(arguments)
    assert json.loads(capsys.readouterr().out)["units"] == {}
