"""Probe jobs of workers: real Redis, PostgreSQL and Celery.

APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<stand-in> pytest tests/integration/test_probe.py

Who is proven is asked no more until the process starts anew.
"""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from application_bench import send_trainings, start_worker, until
from client import RUNNING

if TYPE_CHECKING:
    from application_bench import Bench


@pytest.fixture(scope="module")
def pool(bench: Bench) -> Bench:
    """Give two workers."""
    if not bench.stand_in:
        pytest.skip("only the stand-in's trainings take as long as asked")
    bench.prepare()
    start_worker(bench, "default", "default")
    start_worker(bench, "gpu", "gpu")
    return bench


def ask(bench: Bench, *names: str, probe: str = "new", timeout: int = 60) -> tuple[int, dict[str, Any]]:
    """Ask workers for an answer and a proof; return the exit status and what is said."""
    expected = ",".join(f"{name}@host" for name in names)
    arguments = ("--expect", expected, "--timeout", str(timeout), "--probe", probe, "--json")
    result = bench.python("-m", "escriptorium_cluster.workers", *arguments)
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout.splitlines()[-1])


def prove(bench: Bench) -> None:
    """Prove both workers so long after their start that they need no other proof: the age of a worker is rounded."""
    time.sleep(3)
    assert ask(bench, "default", "gpu", probe="all")[0] == 0


def keys(bench: Bench) -> list[str]:
    """Return what a probe could leave behind in the broker."""
    code = (
        "import json; from django.conf import settings; from redis import Redis; "
        "redis = Redis.from_url(settings.CELERY_BROKER_URL); "
        "print(json.dumps(sorted(key.decode() for key in redis.keys('*prob*') + redis.keys('cluster:proofs*'))))"
    )
    found: list[str] = bench.shell(code)
    return found


def test_each_worker_runs_one_probe_job_after_its_start(pool: Bench) -> None:
    status, told = ask(pool, "default", "gpu")
    assert status == 0, told
    proofs = {proof["worker"]: proof for proof in told["proofs"]}
    assert set(proofs) == {"default@host", "gpu@host"}
    for proof in proofs.values():
        assert proof["how"] == "job"
        assert set(proof["checks"]) == {"database", "broker", "media", "memory"}
        assert all(check["ok"] for check in proof["checks"].values())
    assert keys(pool) == []


def test_proven_workers_are_only_pinged(pool: Bench) -> None:
    prove(pool)
    began = time.monotonic()
    status, told = ask(pool, "default", "gpu")
    assert (status, told["proofs"]) == (0, [])
    assert time.monotonic() - began < 10


def test_restarted_worker_is_asked_again(pool: Bench) -> None:
    prove(pool)
    pool.stop("default")
    start_worker(pool, "default", "default")
    status, told = ask(pool, "default", "gpu")
    assert status == 0
    assert [proof["worker"] for proof in told["proofs"]] == ["default@host"]


def test_busy_worker_looks_beside_its_job(pool: Bench) -> None:
    until(pool, send_trainings(pool, ("train", "until-probed")), RUNNING)
    began = time.monotonic()
    status, told = ask(pool, "gpu", probe="all")
    assert status == 0, told
    assert [proof["how"] for proof in told["proofs"]] == ["beside"]
    assert time.monotonic() - began < 30
    assert keys(pool) == []
    pool.end_hold("probed")


def test_worker_without_media_is_found_and_named(pool: Bench) -> None:
    media = pool.folder / "media"
    media.rename(pool.folder / "elsewhere")
    try:
        status, told = ask(pool, "default", probe="all")
    finally:
        shutil.rmtree(media, ignore_errors=True)
        (pool.folder / "elsewhere").rename(media)
    assert status == 1
    media_check = told["proofs"][0]["checks"]["media"]
    assert not media_check["ok"]
    assert "FileNotFoundError" in media_check["detail"]
    assert told["proofs"][0]["checks"]["database"]["ok"]


def test_silent_worker_is_named(pool: Bench) -> None:
    status, told = ask(pool, "default", "nobody", timeout=5)
    assert (status, told["silent"]) == (1, ["nobody@host"])
