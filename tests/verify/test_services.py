"""PostgreSQL and Redis by themselves on Debian 12 and 13: who gets in and how, and what survives."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any

import pytest
from support import play, reaches, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Inventory

pytestmark = pytest.mark.scenario("services")

NAMES = ("debian12", "debian13")
CERTIFICATES = "group_vars/all/tls"
AUTHORITY = "/root/ca.crt"
CLEAR_PORT, TLS_PORT = 6379, 6380
CLI = f"redis-cli --tls --cacert {AUTHORITY} -p {TLS_PORT}"
# Debian 13 is installed in French: molecule/services/prepare.yml.
FRENCH = "debian13"


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(name: str, connect: Callable[[str], Any]) -> Any:
    return connect(name)


@pytest.fixture
def other(name: str, connect: Callable[[str], Any]) -> Any:
    """The other host that may connect."""
    return connect(next(other for other in NAMES if other != name))


@pytest.fixture(autouse=True, scope="module")
def authority(inventory: Inventory) -> str:
    """Give the hosts that have clients the certificate of who signs the servers', at one path; a stranger has none."""
    text = (inventory.folder / CERTIFICATES / "ca.crt").read_text()
    for name in NAMES:
        inventory.connect(name).check_output("printf %%s %s > %s", text, AUTHORITY)
    return text


def psql(
    client: Any, address: str, password: str, query: str = "SELECT 1", database: str = "escriptorium", **words: str
) -> Any:
    given = {
        "host": address, "user": "escriptorium", "dbname": database,
        "sslmode": "verify-full", "sslrootcert": AUTHORITY, **words,
    }  # fmt: skip
    target = " ".join(f"{name}={value}" for name, value in given.items())
    return client.run(
        f"PGPASSWORD={shlex.quote(password)} PGCONNECT_TIMEOUT=5 psql -X -A -t {shlex.quote(target)} "
        f"-c {shlex.quote(query)}"
    )


def redis(client: Any, address: str, password: str | None, *words: str) -> str:
    login = f"REDISCLI_AUTH={shlex.quote(password)} " if password else ""
    answer = client.run(f"{login}timeout 10 {CLI} -h {address} {shlex.join(words)} 2>&1")
    return str(answer.stdout).strip()


def test_units_run_and_start_at_boot(host: Any) -> None:
    for unit in ("postgresql", "redis-server"):
        assert host.service(unit).is_enabled
        assert host.service(unit).is_running


def test_database_accepts_a_host_of_the_inventory(other: Any, name: str, inventory: Inventory) -> None:
    answer = psql(other, inventory.address(name), inventory.value("scenario_database_password"))
    assert (answer.rc, answer.stdout.strip()) == (0, "1"), answer.stderr


def test_database_refuses_a_wrong_password(other: Any, name: str, inventory: Inventory) -> None:
    answer = psql(other, inventory.address(name), "wrong")
    assert answer.rc != 0
    assert "password authentication failed" in answer.stderr


def test_database_refuses_other_databases(other: Any, name: str, inventory: Inventory) -> None:
    answer = psql(other, inventory.address(name), inventory.value("scenario_database_password"), database="postgres")
    assert answer.rc != 0
    assert "no pg_hba.conf entry" in answer.stderr


def test_database_refuses_a_host_outside_the_inventory(
    name: str, connect: Callable[[str], Any], inventory: Inventory
) -> None:
    """A bare host has no client, so the refusal is read from a start-up message of PostgreSQL's protocol, version 3.

    In TLS: without it everybody is refused, also who is let in.
    """
    program = (
        "import socket,ssl,struct;"
        f"s=socket.create_connection(({inventory.address(name)!r},5432),5);"
        "s.sendall(struct.pack('!ii',8,80877103));assert s.recv(1)==b'S';"
        "s=ssl._create_unverified_context().wrap_socket(s);"
        "b=struct.pack('!i',196608)+b'user\\0escriptorium\\0database\\0escriptorium\\0\\0';"
        "s.sendall(struct.pack('!i',len(b)+4)+b);print(s.recv(4096))"
    )
    refusal = connect("stranger").check_output("python3 -c %s", program)
    assert "no pg_hba.conf entry" in refusal
    assert "no encryption" not in refusal
    assert "28000" in refusal  # invalid_authorization_specification


def test_passwords_are_kept_as_scram(host: Any) -> None:
    kept = host.check_output(
        "runuser -u postgres -- psql -X -A -t -c %s", "SELECT rolpassword FROM pg_authid WHERE rolname = 'escriptorium'"
    )
    assert kept.startswith("SCRAM-SHA-256$")


def test_owner_of_the_database_is_nobody_else(host: Any) -> None:
    rights = host.check_output(
        "runuser -u postgres -- psql -X -A -t -c %s",
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles WHERE rolname = 'escriptorium'",
    )
    assert rights == "f|f|f|f"


def test_database_is_sized_from_memory_and_takes_further_settings(host: Any) -> None:
    def setting(name: str) -> str:
        return str(host.check_output("runuser -u postgres -- psql -X -A -t -c %s", f"SHOW {name}"))

    assert setting("shared_buffers") != "128MB"  # what the distribution sets
    assert setting("log_min_duration_statement") == "2s"
    assert setting("password_encryption") == "scram-sha-256"
    assert setting("lc_messages") == "C"


def as_superuser(host: Any, *statements: str) -> Any:
    words = " ".join(f"-c {shlex.quote(statement)}" for statement in statements)
    return host.run(f"runuser -u postgres -- psql -X -A -t {words}")


def test_one_host_is_in_french(connect: Callable[[str], Any]) -> None:
    """What the test below rests on: sessions, services and PostgreSQL's own settings, and translations are there."""
    host = connect(FRENCH)
    assert host.check_output("printenv LANG LANGUAGE").split() == ["fr_FR.UTF-8", "fr_FR:fr"]
    assert "LANG=fr_FR.UTF-8" in host.check_output("systemctl show-environment").split()
    assert "fr_FR.UTF-8" in host.check_output("grep -h ^lc_messages /etc/postgresql/*/main/postgresql.conf")
    said = as_superuser(host, "SET lc_messages = 'fr_FR.UTF-8'", "SELECT 1 FROM nowhere")
    assert "n'existe pas" in said.stderr


def test_database_of_a_host_in_french_speaks_english(connect: Callable[[str], Any], inventory: Inventory) -> None:
    """A job reads what keeps it from connecting, and a restore reads the log: both know English only."""
    host, client = connect(FRENCH), connect("debian12")
    assert 'relation "nowhere" does not exist' in as_superuser(host, "SELECT 1 FROM nowhere").stderr
    refused = psql(client, inventory.address(FRENCH), "wrong").stderr
    assert "FATAL:  password authentication failed" in refused
    wait_for(
        "the refusal in the log",
        lambda: host.run("grep -qs 'FATAL:  password authentication failed' /var/log/postgresql/*.log").rc == 0,
        timeout=10,
    )
    # Rows come in one order on each host.
    query = "SELECT datcollate, datctype FROM pg_database WHERE datname = 'escriptorium'"
    assert as_superuser(host, query).stdout.strip() == "C.UTF-8|C.UTF-8"


def test_database_comes_back_by_itself_when_it_is_killed(host: Any) -> None:
    unit = host.check_output("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d ' ' -f 1")

    def answers() -> bool:
        # It answers a moment before its start has ended, and one that is killed then starts for ever.
        question = "systemctl --quiet is-active %s && runuser -u postgres -- psql -X -c 'SELECT 1'"
        return bool(host.run(question, unit).rc == 0)

    def started() -> str:
        return str(host.check_output("systemctl show --property=InvocationID --value %s", unit))

    for victims in ("main", "all"):
        before = started()
        host.check_output("systemctl kill --kill-whom=%s --signal=KILL %s", victims, unit)
        wait_for("another start of the database", lambda before=before: started() != before, timeout=60)  # type: ignore[misc]
        wait_for("the database", answers, timeout=60)
    # What a person stops stays down.
    version, cluster = unit.split("@")[1].removesuffix(".service").split("-")
    host.check_output("pg_ctlcluster %s %s stop", version, cluster)
    time.sleep(8)
    assert not answers()
    host.check_output("systemctl start %s", unit)


def test_a_setting_that_waits_for_a_restart_does_not_wait_for_ever(
    inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    """As where a run was broken off between reload and restart: no file is younger than the server."""
    host = connect(NAMES[0])

    def sql(query: str) -> str:
        return str(host.check_output("runuser -u postgres -- psql -XAtc %s", query))

    waiting = "SELECT count(*) FROM pg_settings WHERE pending_restart"
    for change in ("ALTER SYSTEM SET max_connections = 91", "ALTER SYSTEM RESET max_connections"):
        sql(change)
        sql("SELECT pg_reload_conf()")
        wait_for("a setting that waits", lambda: sql(waiting) == "1", timeout=20)
        run = play(inventory, "molecule/services/converge.yml", "--limit", NAMES[0])
        assert any("Restart PostgreSQL where a setting waits for it" in task for task in run.changed)
        assert sql(waiting) == "0"
    assert play(inventory, "molecule/services/converge.yml", "--limit", NAMES[0]).changed == []


def test_services_listen_on_loopback_and_the_private_address_only(host: Any, name: str, inventory: Inventory) -> None:
    for port in (5432, TLS_PORT):
        listening = host.check_output(
            f"ss --no-header --listening --tcp --numeric 'sport = :{port}' | awk '{{print $4}}'"
        )
        assert set(listening.split()) == {f"127.0.0.1:{port}", f"{inventory.address(name)}:{port}"}


def test_broker_refuses_without_the_password(other: Any, name: str, inventory: Inventory) -> None:
    assert "NOAUTH" in redis(other, inventory.address(name), None, "PING")
    assert "WRONGPASS" in redis(other, inventory.address(name), "wrong", "PING")


def test_broker_answers_with_the_password(other: Any, name: str, inventory: Inventory) -> None:
    assert redis(other, inventory.address(name), inventory.value("scenario_broker_password"), "PING") == "PONG"


def test_broker_never_throws_jobs_away(host: Any, name: str, inventory: Inventory) -> None:
    password = inventory.value("scenario_broker_password")
    wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes", "maxmemory": str(256 * 1024 * 1024)}
    for key, value in wanted.items():
        assert redis(host, inventory.address(name), password, "CONFIG", "GET", key).split()[1] == value


def test_jobs_survive_a_crash_of_the_broker(host: Any, name: str, inventory: Inventory) -> None:
    password, address = inventory.value("scenario_broker_password"), inventory.address(name)
    assert redis(host, address, password, "RPUSH", "survives", "a", "b") == "2"
    # The log reaches the disk once a second. After that even a killed server has lost nothing.
    host.check_output("sleep 1.5 && systemctl kill --signal=KILL redis-server")
    host.check_output(
        f"for i in $(seq 50); do REDISCLI_AUTH={shlex.quote(password)} {CLI} -h {address} PING 2>/dev/null | "
        "grep -q PONG && exit 0; sleep 0.2; done; exit 1"
    )
    assert redis(host, address, password, "LRANGE", "survives", "0", "-1").split() == ["a", "b"]
    assert redis(host, address, password, "DEL", "survives") == "1"


def test_password_of_the_broker_is_not_readable_by_everybody(host: Any) -> None:
    readable = host.run("runuser -u nobody -- grep -rs requirepass /etc/redis")
    assert readable.stdout == ""


def test_new_clients_are_let_in_without_a_restart(
    host: Any, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    """Access is changed without a restart: the servers' main processes stay."""
    stranger = connect("stranger")
    address = inventory.address(host.check_output("hostname"))
    processes = "systemctl show --property=MainPID --value 'postgresql@*.service' redis-server.service"
    before = host.check_output(processes)
    assert not reaches(stranger, address, TLS_PORT)
    clients = [*(inventory.address(name) for name in NAMES), inventory.address("stranger")]
    run = play(
        inventory,
        "molecule/services/converge.yml",
        "--limit",
        host.check_output("hostname"),
        "--extra-vars",
        json.dumps({"postgresql_clients": clients, "redis_clients": clients}),
    )
    assert any("configure PostgreSQL" in change for change in run.changed)
    assert inventory.address("stranger") in host.check_output(
        "runuser -u postgres -- psql -X -A -t -c %s", "SELECT string_agg(address, ' ') FROM pg_hba_file_rules"
    )
    assert reaches(stranger, address, TLS_PORT)
    play(inventory, "molecule/services/converge.yml", "--limit", host.check_output("hostname"))
    assert not reaches(stranger, address, TLS_PORT)
    assert host.check_output(processes) == before


def shown(client: Any, address: str, port: int, *words: str) -> tuple[str, str]:
    """Return the number of the certificate that a server shows, and whether it is the site's for that address."""
    command = f"openssl s_client -connect {address}:{port} {shlex.join(words)} -CAfile {AUTHORITY} -verify_ip {address}"
    answer = client.check_output(f"true | {command} 2>/dev/null")
    serial = client.check_output("printf %%s %s | openssl x509 -noout -serial", answer)
    return str(serial), "good" if "Verify return code: 0 (ok)" in answer else "not good"


def test_nobody_is_let_in_in_clear(other: Any, name: str, inventory: Inventory) -> None:
    address, password = inventory.address(name), inventory.value("scenario_database_password")
    refused = psql(other, address, password, sslmode="disable")
    assert refused.rc != 0
    assert "no encryption" in refused.stderr
    asked = psql(other, address, password, "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert asked.stdout.strip() in {"TLSv1.2", "TLSv1.3"}
    assert not reaches(other, address, CLEAR_PORT)


def test_servers_are_known_by_their_certificate(other: Any, name: str, inventory: Inventory) -> None:
    address, password = inventory.address(name), inventory.value("scenario_database_password")
    assert shown(other, address, TLS_PORT)[1] == shown(other, address, 5432, "-starttls", "postgres")[1] == "good"
    stranger = "/etc/ssl/certs/ssl-cert-snakeoil.pem"
    assert "certificate verify failed" in psql(other, address, password, sslrootcert=stranger).stderr
    refused = other.run(f"redis-cli --tls --cacert {stranger} -p {TLS_PORT} -h {address} PING 2>&1").stdout
    assert "certificate verify failed" in refused


def test_keys_are_readable_by_their_server_only(host: Any) -> None:
    keys = host.check_output("ls /etc/redis/escriptorium.key /etc/postgresql/*/main/escriptorium.key").split()
    assert len(keys) == 2
    for key in keys:
        assert host.run("runuser -u nobody -- cat %s", key).rc != 0
    assert host.run("runuser -u redis -- cat %s", keys[0]).rc != 0


def test_a_renewed_certificate_is_taken_over_without_a_restart(
    other: Any, host: Any, name: str, inventory: Inventory
) -> None:
    """As 60 days before the end: the run makes another, and connections that are there stay."""
    processes = "systemctl show --property=MainPID --value 'postgresql@*.service' redis-server.service"
    address = inventory.address(name)
    before = host.check_output(processes), shown(other, address, TLS_PORT)
    (inventory.folder / CERTIFICATES / "server.crt").unlink()
    play(inventory, "molecule/services/converge.yml")
    assert host.check_output(processes) == before[0]
    now = shown(other, address, TLS_PORT)
    assert now == shown(other, address, 5432, "-starttls", "postgres")
    assert now[1] == "good"
    assert now != before[1]
    assert play(inventory, "molecule/services/converge.yml").changed == []


def test_a_port_in_clear_that_somebody_uses_is_closed_after_them(
    other: Any, host: Any, name: str, inventory: Inventory
) -> None:
    """As when a running site changes over: who came before goes on, and could come back meanwhile."""
    address, password = inventory.address(name), inventory.value("scenario_broker_password")
    process = host.check_output("systemctl show --property=MainPID --value redis-server.service")
    play(inventory, "molecule/services/converge.yml", "--limit", name, "--extra-vars", '{"redis_tls_required": false}')
    unit = "clear-client"
    login = f"--setenv=REDISCLI_AUTH={shlex.quote(password)}"
    other.check_output(f"systemd-run --unit={unit} {login} redis-cli -h {address} BLPOP nothing 0")
    try:
        held = play(inventory, "molecule/services/converge.yml", "--limit", name)
        assert f"stays open for {inventory.address(other.check_output('hostname'))}" in " ".join(held.output.split())
        assert reaches(other, address, CLEAR_PORT)
    finally:
        other.check_output(f"systemctl stop {unit}")
    play(inventory, "molecule/services/converge.yml", "--limit", name)
    assert not reaches(other, address, CLEAR_PORT)
    assert host.check_output("systemctl show --property=MainPID --value redis-server.service") == process
