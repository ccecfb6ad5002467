"""Broker, results, cache, channels and database by TLS, as sites have them: real Redis, PostgreSQL and Celery.

APPLICATION_VENV=<virtual environment> APPLICATION_TREE=<stand-in> pytest tests/integration/test_encrypted.py
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from application_bench import start_worker
from encrypted_services import Services, encrypted_services, other_authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from application_bench import Bench

#: What each client of the application says of its connection, or why it has none.
LOOK = """
import json, os
from asgiref.sync import async_to_sync
from celery import current_app
from channels.layers import get_channel_layer
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from redis import Redis

def database():
    with connection.cursor() as cursor:
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        return cursor.fetchone()[0]

def in_cache():
    cache.set("encrypted", "yes", 60)
    return cache.get("encrypted")

def in_channel():
    layer = get_channel_layer()
    async_to_sync(layer.send)("encrypted", {"type": "seen"})
    return async_to_sync(layer.receive)("encrypted")["type"]

def broker():
    with current_app.connection_for_write() as found:
        found.ensure_connection(max_retries=1, timeout=5)
        return found.connected

def results():
    return current_app.backend.client.ping()

def own_client():
    with Redis.from_url(settings.CELERY_BROKER_URL, socket_timeout=5) as client:
        return sorted({one["laddr"].rpartition(":")[2] for one in client.client_list()})

found = {}
for ask in (database, in_cache, in_channel, broker, results, own_client):
    try:
        found[ask.__name__] = ask()
    except Exception as error:
        causes = []
        while error is not None and error not in causes:  # kombu closes the circle
            causes.append(error)
            error = error.__cause__ or error.__context__
        found[ask.__name__] = "refused: " + " ".join(map(str, causes))
print(json.dumps(found))
"""


def look(services: Services) -> dict[str, Any]:
    """Ask each client of the application."""
    result = services.bench.cold_python("manage.py", "shell", "--command", LOOK)
    assert result.returncode == 0, result.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def services(bench: Bench) -> Iterator[Services]:
    """Give an application whose services take nobody in clear."""
    bench.prepare()
    with encrypted_services(bench) as made:
        bench.environment |= made.environment
        yield made


def test_everything_goes_by_tls(services: Services) -> None:
    found = look(services)
    assert found == {
        "database": True,
        "in_cache": "yes",
        "in_channel": "seen",
        "broker": True,
        "results": True,
        "own_client": [str(services.port)],
    }


def test_a_job_is_sent_run_and_answered(services: Services) -> None:
    """By a worker as a site has it, which waits for its services first; a probe job comes back with its result."""
    bench = services.bench
    waited = bench.python("-m", "escriptorium_cluster.wait", "--timeout", "20")
    assert waited.returncode == 0, waited.stdout + waited.stderr
    start_worker(bench, "default", "default")
    arguments = ("--expect", "default@host", "--timeout", "60", "--probe", "new", "--json")
    asked = bench.python("-m", "escriptorium_cluster.workers", *arguments)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert json.loads(asked.stdout.splitlines()[-1])["proofs"][0]["how"] == "job"


def test_a_renewed_certificate_ends_no_connection(services: Services) -> None:
    bench = services.bench
    worker = bench.processes["default"].pid
    services.certify("127.0.0.1")
    assert look(services)["broker"] is True
    arguments = ("--expect", "default@host", "--timeout", "60", "--json")
    assert bench.python("-m", "escriptorium_cluster.workers", *arguments).returncode == 0
    assert bench.processes["default"].pid == worker
    assert "Connection to broker lost" not in bench.log("default")


def test_another_authority_s_certificate_is_refused_by_each_client(services: Services, tmp_path: Path) -> None:
    with services.trusting(other_authority(tmp_path)):
        found = look(services)
        waited = services.bench.python("-m", "escriptorium_cluster.wait", "--timeout", "1")
    assert {name for name, said in found.items() if "certificate verify failed" in str(said)} == set(found), found
    assert waited.returncode == 1
    assert waited.stderr.count("certificate verify failed") + waited.stdout.count("certificate verify failed") == 2


def test_a_certificate_for_another_address_is_refused_by_each_client(services: Services) -> None:
    services.certify("10.10.0.99")
    try:
        found = look(services)
    finally:
        services.certify("127.0.0.1")
    refused = {name for name, said in found.items() if str(said).startswith("refused")}
    assert refused == set(found), found
    assert "does not match" in found["database"]


def test_nobody_is_let_in_in_clear(services: Services) -> None:
    clear = {"REDIS_PORT": str(services.bench.ports["redis"]), "CLUSTER_SERVICES_CA": "", "PGSSLMODE": "disable"}
    before = dict(services.bench.environment)
    services.bench.environment |= clear
    try:
        found = look(services)
    finally:
        services.bench.environment.clear()
        services.bench.environment |= before
    assert all(str(said).startswith("refused") for said in found.values()), found
    assert "no encryption" in found["database"] or "pg_hba.conf rejects" in found["database"]
