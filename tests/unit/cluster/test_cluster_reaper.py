"""When a worker counts as dead and a job as lost: no Redis, no database."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster.config import ConfigError, load_reaper
from escriptorium_cluster.lease import Holder
from escriptorium_cluster.reaper import (
    SEPARATOR,
    Moment,
    Pending,
    Report,
    Restored,
    Seen,
    State,
    dump_state,
    look,
    main,
    orphans,
    parse_state,
    queues_of,
    redelivered,
    regular_seconds,
    ripe,
    task_ids,
)
from escriptorium_cluster.stopping import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRONMENT = {
    "REDIS_HOST": "10.0.0.1",
    "CLUSTER_REDIS_PASSWORD": "secret",
    "SQL_HOST": "10.0.0.1",
    "POSTGRES_DB": "escriptorium",
    "POSTGRES_USER": "escriptorium",
    "POSTGRES_PASSWORD": "secret",
}


def silence(runs: list[Moment], marks: list[str], wanted: float = 900) -> float:
    """Return for how long one lease counts as silent after runs at which it had these marks."""
    state = State()
    for now, mark in zip(runs, marks, strict=True):
        seen = look(state.leases, {"lease": mark}, regular_seconds(state, now, wanted))
        state = State(now.time, now.instance, seen)
    return state.leases["lease"].seconds


def minutes(count: int, first: float = 6000.0, instance: str = "a", uptime: float = 9000.0) -> list[Moment]:
    return [Moment(first + 60 * number, instance, uptime + 60 * number) for number in range(count)]


def test_silence_adds_up_over_regular_runs() -> None:
    assert silence(minutes(16), ["1.5"] * 16) == 900
    assert silence(minutes(15), ["1.5"] * 15) == 840


def test_one_renewal_ends_the_silence() -> None:
    assert silence(minutes(16), ["1.5"] * 15 + ["2.5"]) == 0


def test_the_first_run_knows_nothing() -> None:
    assert silence(minutes(1), ["1.5"]) == 0


def test_a_broker_that_was_away_kills_nobody() -> None:
    """It stopped for an hour between two runs, and has another instance since."""
    runs = [*minutes(10), *minutes(2, first=6000 + 600 + 3600, instance="b", uptime=20)]
    assert silence(runs, ["1.5"] * 12) == 540 + 60
    assert regular_seconds(State(6000, "a"), Moment(6060, "b", 30), 900) == 0
    assert regular_seconds(State(6000, "b"), Moment(6060, "b", 30), 900) == 30


def test_a_frontend_that_stood_still_kills_nobody() -> None:
    runs = [*minutes(2), Moment(6060 + 7200, "a", 99999)]
    assert silence(runs, ["1.5"] * 3) == 60 + 120


def test_no_single_pause_is_enough_for_a_short_lease() -> None:
    assert silence([Moment(100, "a", 999), Moment(400, "a", 1299)], ["1", "1"], wanted=30) == 10


def test_a_clock_that_goes_back_counts_nothing() -> None:
    assert regular_seconds(State(6000, "a"), Moment(5000, "a", 99999), 900) == 0


def test_ripe_is_what_was_seen_long_enough() -> None:
    assert ripe({"b": Seen("", 900), "a": Seen("", 901), "c": Seen("", 899.9)}, 900) == ["a", "b"]


def test_a_state_is_kept_as_text_and_a_damaged_one_is_new() -> None:
    state = State(5.5, "a", {"lease": Seen("1.5", 60)}, {"job:x": Seen("", 1)})
    assert parse_state(dump_state(state)) == state
    damaged = (None, "", "{", "[]", '{"time": 1}', '{"time": 1, "instance": "a", "leases": 1, "orphans": {}}')
    assert [parse_state(text) for text in damaged] == [State()] * len(damaged)


def test_a_message_goes_to_the_queues_of_its_exchange() -> None:
    bindings = [SEPARATOR.join(words) for words in (("gpu", "", "gpu"), ("gpu-large", "", "gpu-large"))]
    assert queues_of(bindings, "gpu-large") == ["gpu-large"]
    assert queues_of(bindings, "lost") == ["lost"]
    assert queues_of([], "gpu") == ["gpu"]
    assert queues_of(["damaged", SEPARATOR.join(("gpu", "", ""))], "gpu") == ["gpu"]


def test_a_message_that_goes_back_says_so_and_nothing_else_changes() -> None:
    message = {"headers": {"id": "x", "errbacks": [], "timelimit": [None, None]}, "properties": {"delivery_info": {}}}
    assert redelivered(json.loads(json.dumps(message))) == {
        "headers": {"id": "x", "errbacks": [], "timelimit": [None, None], "redelivered": True},
        "properties": {"delivery_info": {"redelivered": True}},
    }
    assert redelivered([]) == []


def test_ids_are_those_of_messages_that_can_be_read() -> None:
    assert task_ids(['{"headers": {"id": "a"}}', "{}", "nonsense", "[]"]) == {"a"}


def test_only_what_nobody_knows_is_lost() -> None:
    pending = Pending(
        frozenset({"waits", "runs", "lost"}),
        {1: frozenset({"runs", "old"}), 2: frozenset({"old"}), 3: frozenset(), 4: frozenset({"waits"})},
    )
    found = orphans(pending, lambda: frozenset({"waits"}), frozenset({"runs"}))
    assert set(found) == {"job:lost", "model:2", "model:3"}


def test_a_cancelled_job_is_not_lost() -> None:
    pending = Pending(frozenset({"a", "b"}), cancelled=frozenset({"a"}))
    assert list(orphans(pending, frozenset, frozenset())) == ["job:b"]


def test_queues_are_not_read_without_need() -> None:
    def read() -> frozenset[str]:
        raise AssertionError("all jobs run")

    assert orphans(Pending(frozenset({"a"}), {1: frozenset({"a"})}), read, frozenset({"a"})) == {}


def test_a_person_reads_what_was_done() -> None:
    report = Report(
        living=3,
        silent={"gpu0@c": 61.2},
        dead=["default@b"],
        restored=[Restored("default@b", "core.tasks.train", "id-1", ("gpu",))],
        stopped=[Stopped("default@b", "core.tasks.train", "id-3", 0.0, "a new fan")],
        failed_jobs=["id-2"],
        freed_models=[7],
        trouble="none really",
    )
    assert report.lines() == [
        "3 workers live",
        "gpu0@c is silent for 61 s",
        "default@b was declared dead",
        "id-1 (core.tasks.train) of default@b waits again: gpu",
        "id-3 (core.tasks.train) of default@b ended as failed: a new fan",
        "id-2: no message knows this job, it is marked as failed",
        "model 7 is not in training any more",
        "trouble: none really",
    ]


def test_the_environment_is_read_and_every_problem_named() -> None:
    config = load_reaper(ENVIRONMENT | {"CLUSTER_LEASE_SECONDS": "60"})
    assert (config.lease_seconds, config.orphan_seconds, config.database.port) == (60, 300, 5432)
    assert "secret" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        load_reaper({"CLUSTER_LEASE_SECONDS": "1", "SQL_PORT": "x"})
    assert len(caught.value.problems) == 8


def test_wrong_use_and_a_wrong_environment_have_their_own_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert main([]) == 1
    assert "REDIS_HOST is not set" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--dead", " "])
    assert caught.value.code == 2


class Redis:
    """The broker's hashes."""

    def __init__(self, **hashes: dict[str, str]) -> None:
        self.hashes = {name.replace("_", ":"): items for name, items in hashes.items()}

    def hgetall(self, name: str) -> dict[bytes, bytes]:
        return {key.encode(): value.encode() for key, value in self.hashes.get(name, {}).items()}


def test_a_host_that_nobody_has_heard_of_is_not_declared_dead(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip of the pen: its jobs would wait for days, and the command had said that all is well."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    holder = Holder("gpu@compute1", "machine", "boot", 1, 1, 0.0)
    note = {"lease": "lost", "node": "gpu@compute2", "task": "train", "id": "a", "since": 1.0}
    redis = Redis(
        cluster_leases={"1": json.dumps(asdict(holder)), "2": "rubbish"},
        cluster_deliveries={"tag": json.dumps(note)},
        cluster_hosts={"compute3": "1.0"},
    )
    load("redis").Redis = SimpleNamespace(from_url=lambda *_, **__: redis)
    module = load("escriptorium_cluster.reaper")
    monkeypatch.setattr(module, "bury_host", lambda _, host, __: module.Report(dead=[host]))
    assert module.main(["--dead", "compute4"]) == 68
    assert capsys.readouterr() == (
        "",
        "no worker of compute4 was heard in the last 60 days; known: compute1, compute2, compute3\n",
    )
    drain = load("escriptorium_cluster.drain")
    assert drain.main(["--node", "compute4", "--stop", "a new fan"]) == 68
    assert "known: compute1, compute2, compute3" in capsys.readouterr().err
    for number in (1, 2, 3):
        assert module.main(["--dead", f"compute{number}"]) == 0
        assert f"compute{number} was declared dead" in capsys.readouterr().out
