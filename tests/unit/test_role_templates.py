"""What roles write on hosts, rendered as Ansible does: who gets in, what is kept, and what no host may read."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from configparser import ConfigParser
from typing import TYPE_CHECKING, Any

import pytest
from ansible.parsing.dataloader import DataLoader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("ansible_plugins")

DEBIAN = {"memtotal_mb": 65536, "distribution": "Debian", "distribution_major_version": "12"}


def settings(text: str, separator: str = " ") -> dict[str, str]:
    """Return the lines of a file by their first word."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition(separator) for line in lines)}


def sections(text: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


@pytest.fixture
def database(tmp_path: Path, resolve: Callable[..., Any]) -> Callable[[str, int], str]:
    """Ask a database what it has not taken over of a file: ``database(list of files, status of pg_isready)``."""
    (tmp_path / "pg_isready").write_text('#!/bin/sh\n[ "$*" = "--quiet --port=5433" ] || exit 3\nexit $READY\n')
    # Shows what psql would be asked, and with which values.
    (tmp_path / "runuser").write_text('#!/bin/sh\necho "$@"\ncat\n')
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    facts = {"ansible_facts": DEBIAN, "postgresql_port": 5433, "postgresql_clients": ["10.0.0.2", "10.0.0.3"]}

    def asked(files: str, ready: int) -> str:
        (words,) = (
            entry["pending"] for entry in resolve("postgresql", f"{{{{ {files} }}}}", **facts) if "pending" in entry
        )
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "READY": str(ready)}
        return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout

    return asked


@pytest.mark.parametrize("files", ["__postgresql_files", "__postgresql_access"])
def test_the_database_is_asked_where_it_answers(database: Callable[[str, int], str], files: str) -> None:
    call, _, question = database(files, 0).partition("\n")
    assert call.startswith("-u postgres -- psql --port=5433 -XAt ")
    if files == "__postgresql_files":
        assert question == "SELECT name FROM pg_settings WHERE pending_restart"
    else:
        assert "--set=database=escriptorium --set=user=escriptorium" in call
        clients = call.partition(" --set=clients=")[2].split()
        assert set(clients) == {"127.0.0.1", "::1", "10.0.0.2", "10.0.0.3"}
        assert "datname = :'database' AND usename = :'user' AND NOT client_addr" in question
        assert "string_to_array(:'clients', ' ')" in question
    # One that is starting is left alone; where none answers the port itself waits.
    assert [database(files, 1), database(files, 2)] == ["", "port 5433\n"]


def test_the_database_lets_in_its_user_from_its_clients_only(render: Callable[..., str]) -> None:
    text = render("postgresql", "pg_hba.conf.j2", postgresql_clients=["10.0.0.2", "10.0.0.3"])
    rules = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    assert [rule for rule in rules if rule[0] == "host"] == [
        ["host", "escriptorium", "escriptorium", f"{address}/32", "scram-sha-256"]
        for address in ("127.0.0.1", "10.0.0.2", "10.0.0.3")
    ]
    assert {rule[0] for rule in rules} == {"host", "local"}


def test_clients_of_the_database_come_encrypted_where_that_is_wanted(render: Callable[..., str]) -> None:
    text = render(
        "postgresql", "pg_hba.conf.j2", postgresql_clients=["10.0.0.2", "10.0.0.3"], postgresql_tls_required=True
    )
    kinds = {rule[3]: rule[0] for line in text.splitlines() if (rule := line.split()) and rule[0].startswith("host")}
    assert kinds == {"127.0.0.1/32": "host", "10.0.0.2/32": "hostssl", "10.0.0.3/32": "hostssl"}


def test_services_show_the_certificate_that_they_are_given(render: Callable[..., str]) -> None:
    given: dict[str, Any] = {"postgresql_listen_address": "10.0.0.1", "ansible_facts": DEBIAN}
    assert "ssl" not in settings(render("postgresql", "postgresql.conf.j2", **given), "=")
    found = settings(render("postgresql", "postgresql.conf.j2", postgresql_tls_certificate="x", **given), "=")
    assert (found["ssl"], found["ssl_cert_file"]) == ("on", "'/etc/postgresql/15/main/escriptorium.crt'")
    clear = settings(render("redis", "redis.conf.j2", redis_password="secret"))
    assert (clear["port"], "tls-port" in clear) == ("6379", False)
    both = settings(render("redis", "redis.conf.j2", redis_password="secret", redis_tls_certificate="x"))
    assert (both["port"], both["tls-port"]) == ("6379", "6380")


def test_the_daily_look_knows_where_the_certificate_is_shown(render: Callable[..., str]) -> None:
    unit = "escriptorium-manage@.service.j2"
    text = render("escriptorium_web", unit, escriptorium_web_certificate_address="127.0.0.1:443")
    assert "Environment=CLUSTER_CERTIFICATE_ADDRESS=127.0.0.1:443" in text.splitlines()
    assert "Environment=CLUSTER_CERTIFICATE_ADDRESS=" in render("escriptorium_web", unit).splitlines()


def test_the_database_listens_where_it_is_told(render: Callable[..., str]) -> None:
    found = settings(render("postgresql", "postgresql.conf.j2", postgresql_listen_address="10.0.0.1"), "=")
    assert found["listen_addresses"] == "'127.0.0.1, 10.0.0.1'"
    assert found["password_encryption"] == "scram-sha-256"
    assert found["lc_messages"] == "'C'", "a job reads what keeps it from connecting"


def test_a_start_of_the_database_ends_or_begins_anew(resolve: Callable[..., Any]) -> None:
    files = resolve("postgresql", "{{ __postgresql_files }}", ansible_facts=DEBIAN, postgresql_start_timeout=900)
    (drop_in,) = [file["content"] for file in files if file["path"].startswith("/etc/systemd/") and "content" in file]
    service = sections(drop_in)["Service"]
    assert (service["TimeoutStartSec"], service["Restart"]) == ("900", "on-failure")


@pytest.mark.parametrize("device", ["", "gpu0-2g.10gb-0"])
def test_a_worker_starts_in_its_turn(render: Callable[..., str], device: str) -> None:
    """What tells systemd of progress is the unit's main process: systemd hears no other."""
    worker = {
        "name": device or "default", "queues": ["default"], "device": device, "card": "", "overflow": "",
        "concurrency": 1, "tasks_per_child": 10, "omp_threads": 1, "memory_max_mb": 512,
    }  # fmt: skip
    text = render(
        "celery_worker", "escriptorium-worker.service.j2",
        item=worker, celery_worker_node="c1", celery_worker_fingerprint="f",
    )  # fmt: skip
    service = sections(text.replace("\\\n", ""))["Service"]
    slice_of = ["/usr/local/sbin/gpu-partition", "exec", "--setenv", "KRAKEN_TRAINING_DEVICE=cuda:0", device, "--"]
    launcher = ["/usr/local/lib/escriptorium/run-release", "python", "-m", "escriptorium_cluster.starting", "celery"]
    words = service["ExecStart"].split()
    wanted = (slice_of if device else []) + launcher
    assert words[: len(wanted)] == wanted
    assert service["Type"] == "notify"
    assert "NotifyAccess" not in service, "that of a main process"
    assert float(service["TimeoutStartSec"]) > 2 * 60, "the steps before have their own time"


@pytest.mark.parametrize(
    ("role", "files", "witness"),
    [
        ("postgresql", "__postgresql_access", "postgresql@15-main.service"),
        ("redis", "__redis_access", "redis-server.service"),
        ("nginx", "__nginx_site", "nginx.service"),
    ],
)
def test_handlers_that_never_ran_are_made_up_for(
    resolve: Callable[..., Any], role: str, files: str, witness: str
) -> None:
    for file in resolve(role, f"{{{{ {files} }}}}", ansible_facts=DEBIAN):
        assert witness in file["since"], file["path"]


@pytest.mark.parametrize(
    ("role", "files", "units", "service"),
    [
        ("nfs_server", "__nfs_server_access", "__nfs_server_units", "nfs-server.service"),
        ("nfs_server", "__nfs_server_access", "__nfs_server_told", "nfs-server.service"),
        ("wireguard", "__wireguard_access", "__wireguard_units", "wg-tree.service"),
        ("wireguard", "__wireguard_access", "__wireguard_told", "wg-tree.service"),
    ],
)
def test_who_may_come_is_told_without_a_restart(
    resolve: Callable[..., Any], role: str, files: str, units: str, service: str
) -> None:
    (unit,) = resolve(role, f"{{{{ {units} }}}}")
    paths = [file["path"] for file in resolve(role, f"{{{{ {files} }}}}")]
    assert (unit["name"], unit["reload_on"]) == (service, paths)
    assert not set(paths) & {*unit.get("restart_on", [])}


#: What `ss` of a storage host says of clients by two addresses.
CONNECTED = """#!/bin/sh
[ "$*" = '--no-header --tcp --numeric state established ( sport = :2049 )' ] || exit 9
printf '0 0 10.0.0.1:2049 10.0.0.%s:800\\n' 21 22
"""


@pytest.mark.parametrize(("address", "refused"), [("10.0.0.1", False), ("10.0.0.11", True), ("198.18.0.1", True)])
def test_a_server_with_clients_keeps_its_address(
    resolve: Callable[..., Any], tmp_path: Path, address: str, refused: bool
) -> None:
    program = tmp_path / "ss"
    program.write_text(CONNECTED)
    program.chmod(0o755)
    words = shlex.split(resolve("nfs_server", "{{ __nfs_server_moved }}", nfs_server_listen_address=address))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(words, check=False, capture_output=True, text=True, env={"PATH": path})
    assert (done.returncode, bool(done.stderr)) == ((1, True) if refused else (0, False)), done.stderr
    assert not refused or "mounted from 10.0.0.1:2049: playbooks/move-tree.yml" in done.stderr
    program.write_text("#!/bin/sh\n")
    assert subprocess.run(words, check=False, env={"PATH": path}).returncode == 0, "nobody is connected"


def test_a_limited_run_lets_nobody_in_by_an_address_that_the_server_does_not_have(
    resolve: Callable[..., Any], tmp_path: Path
) -> None:
    """It would put those out who come by the address of before."""
    conf = tmp_path / "nfs.conf"
    given = {"nfs_server_listen_address": "198.18.0.11", "__nfs_server_conf": str(conf)}
    words = shlex.split(resolve("nfs_server", "{{ __nfs_server_not_moved }}", **given))
    for text, refused in (("[nfsd]\nhost=10.0.0.1\n", True), ("[nfsd]\nhost=198.18.0.11\n", False)):
        conf.write_text(text)
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert (done.returncode == 1) is refused
        assert not refused or "run site.yml without --limit first" in done.stderr


def run(words: list[str]) -> int:
    return subprocess.run(words, check=False, capture_output=True).returncode


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_a_self_signed_certificate_is_made_anew_for_other_names_and_before_its_end(
    resolve: Callable[..., Any], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"

    def wanted(*names: str) -> dict[str, Any]:
        given = {
            "nginx_server_name": names[0],
            "nginx_server_aliases": list(names[1:]),
            "__nginx_tls_folder": str(tmp_path),
        }
        file, _ = resolve("nginx", "{{ __nginx_self_signed }}", **given)
        return dict(file)

    site = wanted("htr.example.org", "10.0.0.1")
    assert run(site["valid"]) != 0, "there is none"
    assert run(site["command"]) == 0
    assert run(site["valid"]) == 0
    assert run(wanted("htr.example.org", "10.0.0.2")["valid"]) != 0
    assert run(wanted("other.example.org", "10.0.0.1")["valid"]) != 0
    old = [word.replace("-days 825", "-days 29").replace("rsa:3072", "rsa:2048") for word in site["command"]]
    assert run(old) == 0
    assert run(site["valid"]) != 0, "it ends within 30 days"
    assert run(site["command"]) == 0
    assert run(["openssl", "genrsa", "-out", str(key), "2048"]) == 0
    assert run(site["valid"]) != 0, "the run was broken off between the two"
    request = [
        "openssl",
        "x509",
        "-in",
        str(certificate),
        "-x509toreq",
        "-signkey",
        str(key),
        "-out",
        f"{tmp_path}/request",
    ]
    assert run(request) == 0
    authority = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=Authority"]
    assert run([*authority, "-keyout", f"{tmp_path}/ca.key", "-out", f"{tmp_path}/ca"]) == 0
    signed = [
        "openssl",
        "x509",
        "-req",
        "-in",
        f"{tmp_path}/request",
        "-CA",
        f"{tmp_path}/ca",
        "-CAkey",
        f"{tmp_path}/ca.key",
    ]
    assert run([*signed, "-days", "1", "-out", str(certificate)]) == 0
    assert run(site["valid"]) == 0, "that of an authority is not ours to replace"


def test_the_broker_keeps_its_jobs_and_has_a_password(render: Callable[..., str]) -> None:
    found = settings(render("redis", "redis.conf.j2", redis_listen_address="10.0.0.1", redis_password="secret"))
    wanted = {
        "bind": "127.0.0.1 10.0.0.1",
        "requirepass": '"secret"',
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    assert {name: found[name] for name in wanted} == wanted


# Blanks, quotes and backslashes, as people and password managers make them.
AWKWARD = ("correct horse battery staple", "'f9aeK2mQw8xZup", 'Zup"f9aeK2mQw8x', "a\\\\b\\\"c\\n d'e", "é#ü% $x{y}")


@pytest.mark.skipif(not shutil.which("redis-server"), reason="the broker itself reads its password here")
@pytest.mark.parametrize("password", AWKWARD)
def test_the_broker_reads_the_password_that_was_given(
    render: Callable[..., str], tmp_path: Path, password: str
) -> None:
    text = render("redis", "redis.conf.j2", redis_listen_address="127.0.0.1", redis_password=password)
    (line,) = [line for line in text.splitlines() if line.startswith("requirepass")]
    socket = tmp_path / "socket"
    (tmp_path / "redis.conf").write_text(f'{line}\nport 0\nsave ""\nunixsocket {socket}\n')
    with subprocess.Popen(["redis-server", "redis.conf"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            while server.poll() is None and not socket.exists():
                time.sleep(0.01)
            assert server.poll() is None, server.communicate()[0]
            command = ["redis-cli", "-s", str(socket), "--no-auth-warning", "-a", password, "PING"]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "PONG\n"
        finally:
            server.kill()


@pytest.mark.skipif(not shutil.which("postgres"), reason="the database itself reads its settings here")
@pytest.mark.parametrize("value", ["%m [%p] ", "it's", "a\\b \\n", "C:\\\\x"])
def test_the_database_reads_the_settings_that_were_given(
    render: Callable[..., str], tmp_path: Path, value: str
) -> None:
    settings = {"log_line_prefix": value}
    text = render("postgresql", "postgresql.conf.j2", postgresql_listen_address="::1", postgresql_settings=settings)
    (tmp_path / "postgresql.conf").write_text(text)
    command = ["postgres", "-C", "log_line_prefix", "-D", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{value}\n"


def test_the_broker_lets_in_its_clients_only(render: Callable[..., str]) -> None:
    text = render("redis", "clients.conf.j2", redis_listen_address="10.0.0.1", redis_clients=["10.0.0.2", "10.0.0.1"])
    assert re.findall(r"^IPAddress(\w+=.*)$", text, re.MULTILINE) == [
        "Deny=any", "Allow=localhost", "Allow=10.0.0.1", "Allow=10.0.0.2"
    ]  # fmt: skip


def test_the_tree_is_exported_to_its_clients_without_their_root(render: Callable[..., str]) -> None:
    text = render("nfs_server", "exports.j2", nfs_server_clients=["10.0.0.2", "10.0.0.3"])
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    options = "rw,sync,no_subtree_check,root_squash,crossmnt"
    assert lines == [f"/srv/escriptorium {address}({options})" for address in ("10.0.0.2", "10.0.0.3")]
    alone = render("nfs_server", "exports.j2", nfs_server_clients=["10.0.0.2"], nfs_server_path_is_mounted=True)
    assert "crossmnt,mp)" in alone, "an empty folder would be exported where the pool is not there"


def test_nfs_answers_in_one_version_on_one_address(render: Callable[..., str]) -> None:
    nfsd = sections(render("nfs_server", "nfs.conf.j2", nfs_server_listen_address="10.0.0.1"))["nfsd"]
    versions = {name: value for name, value in nfsd.items() if name.startswith("vers")}
    assert versions == {"vers3": "n", "vers4": "y", "vers4.0": "n", "vers4.1": "n", "vers4.2": "y"}
    assert nfsd["host"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("security", "tls"),
    [
        ("none", {"tls": "off"}),
        ("starttls", {"tls": "on", "tls_starttls": "on"}),
        ("tls", {"tls": "on", "tls_starttls": "off"}),
    ],
)
def test_mails_go_as_the_mail_server_wants_them(render: Callable[..., str], security: str, tls: dict[str, str]) -> None:
    given = {"mail_relay_host": "mail.example.org", "mail_relay_user": "htr", "mail_relay_password": "secret"}
    found = settings(render("mail_relay", "msmtprc.j2", mail_relay_security=security, **given))
    assert {name: value for name, value in found.items() if name in {"tls", "tls_starttls"}} == tls
    assert (found["host"], found["user"], found["password"]) == ("mail.example.org", '"htr"', '"secret"')
    assert found["tls_trust_file"] == "/etc/ssl/certs/ca-certificates.crt"


def tasks(root: Path, role: str, *names: str) -> list[dict[str, Any]]:
    loader = DataLoader()
    return [task for name in names for task in loader.load_from_file(str(root / "roles" / role / "tasks" / name))]


def test_the_password_of_the_mail_server_is_for_root_only(root: Path) -> None:
    files = [file for task in tasks(root, "mail_relay", "main.yml") for file in task["host_config"]["files"]]
    (file,) = [file for file in files if file.get("template") == "msmtprc.j2"]
    assert (file["mode"], file.get("owner", "root"), file["secret"]) == ("0600", "root", True)


def test_a_licence_token_is_shown_to_nobody_and_read_anew(root: Path) -> None:
    (copy,) = [task for task in tasks(root, "vgpu_licence", "licence.yml") if "ansible.builtin.copy" in task]
    assert (copy["no_log"], copy["diff"]) == (True, False)
    changing = [task for task in tasks(root, "vgpu_licence", "licence.yml") if "notify" in task]
    handlers = DataLoader().load_from_file(str(root / "roles/vgpu_licence/handlers/main.yml"))
    assert {task["notify"] for task in changing} == {handler["name"] for handler in handlers}
    assert len(changing) == 2, "the token, and what it is for"


def test_snapshots_are_kept_as_each_dataset_says(render: Callable[..., str]) -> None:
    datasets = [{"name": "tank/media", "keep": {"hourly": 24, "daily": 30}}, {"name": "tank/backups", "keep": {}}]
    found = sections(render("zfs_snapshots", "sanoid.conf.j2", zfs_snapshots_datasets=datasets))
    assert found.sections() == ["tank/media", "tank/backups"]
    media = dict(found["tank/media"])
    assert (media["hourly"], media["daily"], media["weekly"]) == ("24", "30", "0")
    assert (media["autosnap"], media["autoprune"]) == ("yes", "yes")
    copied = render("zfs_snapshots", "sanoid.conf.j2", zfs_snapshots_datasets=datasets, zfs_snapshots_taken=False)
    assert sections(copied)["tank/media"]["autosnap"] == "no", "a copy would get snapshots that its source lacks"


def test_a_copy_never_goes_back_nor_mounts_nor_trusts_a_stranger(render: Callable[..., str]) -> None:
    given = {
        "zfs_replica_datasets": ["escriptorium/media", "backups"],
        "zfs_replica_source": "10.0.0.1",
        "zfs_replica_source_pool": "tank",
        "zfs_replica_target": "copies/replica",
        "zfs_replica_source_ssh_port": 2222,
    }
    lines = list(re.sub(r"\\\n\s*", "", render("zfs_replica", "zfs-replica.service.j2", **given)).splitlines())
    commands = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    assert [command.split()[-2:] for command in commands] == [
        ["zfs-replica@10.0.0.1:tank/escriptorium/media", "copies/replica/escriptorium/media"],
        ["zfs-replica@10.0.0.1:tank/backups", "copies/replica/backups"],
    ]
    for command in commands:
        assert "--sshport 2222 " in command
        assert "--no-rollback" in command, "what the copy alone has would be lost"
        assert '--recvoptions "u o canmount=noauto"' in command
        assert "StrictHostKeyChecking=yes" in command


def test_the_watcher_of_pools_tells_a_person(render: Callable[..., str]) -> None:
    found = settings(render("zfs", "zed.rc.j2", zfs_alert_email="admin@example.org"), "=")
    assert found["ZED_EMAIL_ADDR"] == '"admin@example.org"'
    assert (found["ZED_NOTIFY_VERBOSE"], found["ZED_SCRUB_AFTER_RESILVER"]) == ("1", "1")


def test_the_site_is_reached_by_tls_and_its_metrics_from_inside(render: Callable[..., str]) -> None:
    text = render("nginx", "site.conf.j2", nginx_server_name="htr.example.org", nginx_private_network="10.0.0.0/24")
    plain, tls, others = re.split(r"^server \{", text, flags=re.MULTILINE)[1:]
    assert "return 301 https://$host" in plain
    assert re.findall(r"server_name (.*);", plain + tls) == ["htr.example.org"] * 2
    assert "default_server" not in plain + tls
    assert "proxy_pass" not in plain
    assert re.findall(r"ssl_protocols (.*);", tls + others) == ["TLSv1.2 TLSv1.3"] * 2
    assert others.count("default_server;") == 4
    assert "return 421" in others
    assert "proxy_pass" not in others
    (metrics,) = re.findall(r"location = /metrics \{(.*?)\}", tls, re.DOTALL)
    rules = [line.strip() for line in metrics.splitlines() if line.strip()][:3]
    assert rules == ["allow 127.0.0.1;", "allow 10.0.0.0/24;", "deny all;"]


def blocks(text: str, name: str) -> list[str]:
    """Return what stands in blocks that begin with a name, without the blocks in them."""
    return [
        re.sub(r"\w[^;{}]*\{[^{}]*\}", "", found)
        for found in re.findall(name + r" \{((?:[^{}]|\{[^{}]*\})*)\}", text, re.DOTALL)
    ]


def test_guesses_of_passwords_are_bounded_by_address_and_pages_are_not(render: Callable[..., str]) -> None:
    limit = render("nginx", "clients.conf.j2")
    assert "limit_req_zone $login_attempt zone=logins:10m rate=10r/m;" in limit
    assert "limit_req_status 429;" in limit
    assert re.search(r'map \$request_method \$login_attempt \{\s*POST \$login_network;\s*default "";\s*\}', limit)
    (pattern,) = re.findall(r'"~(\^.*)" \$groups;', limit)
    networks = {
        # Addresses of one customer, as nginx writes them.
        "2001:db8:7:1::1": "2001:db8:7:1:",
        "2001:db8:7:1:8000::": "2001:db8:7:1:",
        "2001:db8::1": "2001:db8:",
        "192.0.2.7": "",
    }
    found = {address: re.match(pattern.replace("?<", "?P<"), address) for address in networks}
    assert {address: match["groups"] if match else "" for address, match in found.items()} == networks
    places = render("nginx", "logins.conf.j2")
    doors = re.findall(r"location ~ (\S+) \{\s*limit_req zone=logins burst=20 nodelay;", places)
    for path in ("/login/", "/password_reset/", "/api/token-auth/", "/api/api-auth/login/", "/admin/login/"):
        assert any(re.match(door, path) for door in doors), path
    for path in ("/", "/projects/", "/admin/core/", "/api/documents/", "/logout/", "/profile/login/"):
        assert not any(re.match(door, path) for door in doors), path
    assert places.count("proxy_pass http://unix:/run/escriptorium/web.socket;") == 3
    assert blocks(places, "location @too_many_logins")


def test_a_site_without_that_bound_is_still_served(render: Callable[..., str]) -> None:
    assert "limit_req" not in render("nginx", "clients.conf.j2", nginx_login_rate="0")
    places = render("nginx", "logins.conf.j2", nginx_login_rate="0")
    assert "limit_req" not in places
    assert "@too_many_logins" not in places
    assert places.count("proxy_pass") == 3


def test_the_administration_is_open_to_its_networks_only(render: Callable[..., str]) -> None:
    def rules(**given: Any) -> list[str]:
        (found,) = blocks(render("nginx", "logins.conf.j2", **given), r"location \^~ /admin/")
        return [line.strip() for line in found.splitlines() if line.strip()]

    assert rules() == ["proxy_pass http://unix:/run/escriptorium/web.socket;"]
    assert rules(nginx_admin_networks=["192.0.2.0/24", "2001:db8:7::/48"])[:3] == [
        "allow 192.0.2.0/24;",
        "allow 2001:db8:7::/48;",
        "deny all;",
    ]


def test_a_request_says_where_it_comes_from_to_known_proxies_only(render: Callable[..., str]) -> None:
    assert "real_ip" not in render("nginx", "clients.conf.j2")
    text = render("nginx", "clients.conf.j2", nginx_trusted_proxies=["192.0.2.10"])
    assert re.findall(r"^(?:set_real_ip_from|real_ip_\w+) .*;$", text, re.MULTILINE) == [
        "set_real_ip_from 192.0.2.10;",
        "real_ip_header X-Forwarded-For;",
        "real_ip_recursive on;",
    ]


def test_the_site_has_its_logins_settings(render: Callable[..., str], resolve: Callable[..., Any]) -> None:
    given = {"nginx_server_name": "htr.example.org", "nginx_private_network": "10.0.0.0/24"}
    path = resolve("nginx", "{{ __nginx_logins }}")
    assert f"include {path};" in render("nginx", "site.conf.j2", **given)
    written = [file["path"] for file in resolve("nginx", "{{ __nginx_site }}", **given)]
    # Read by nginx before the sites, which name its zone.
    assert written[:2] == ["/etc/nginx/conf.d/escriptorium-clients.conf", path]


def test_the_site_answers_to_its_own_names_and_to_a_ca_on_port_80(render: Callable[..., str]) -> None:
    given = {"nginx_server_name": "htr.example.org", "nginx_server_aliases": ["www.example.org", "10.0.0.1"]}
    text = render("nginx", "site.conf.j2", **given, nginx_acme=True)
    plain, tls, _ = re.split(r"^server \{", text, flags=re.MULTILINE)[1:]
    for server in (plain, tls):
        assert "server_name htr.example.org www.example.org 10.0.0.1;" in server
    (names,) = blocks(text, r"map \$ssl_server_name \$foreign_name")
    assert [line.split() for line in names.strip().splitlines()] == [
        ["hostnames;"],
        ["default", "yes;"],
        ['""', '"";'],
        ["htr.example.org", '"";'],
        ["www.example.org", '"";'],
        ["10.0.0.1", '"";'],
    ]
    (answers,) = blocks(plain, r"location \^~ /.well-known/acme-challenge/")
    assert "alias /run/escriptorium-acme-answers/;" in answers
    assert "disable_symlinks on;" in answers
    assert "acme-challenge" not in render("nginx", "site.conf.j2", **given)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_a_certificate_of_a_ca_is_told_from_a_self_signed_one(resolve: Callable[..., Any], tmp_path: Path) -> None:
    given = {"nginx_server_name": "htr.example.org", "__nginx_tls_folder": str(tmp_path)}
    made, kind = resolve("nginx", "{{ __nginx_self_signed }}", **given)
    assert run(made["command"]) == 0
    assert run(kind["valid"]) != 0, "there is no answer yet"
    assert run(kind["command"]) == 0
    assert (tmp_path / "kind.conf").read_text() == "default self_signed;\n"
    assert run(kind["valid"]) == 0
    issued = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=CA", "-days", "9"]
    assert run([*issued, "-keyout", f"{tmp_path}/ca.key", "-out", f"{tmp_path}/ca.pem"]) == 0
    request = ["openssl", "req", "-new", "-key", f"{tmp_path}/key.pem", "-subj", "/CN=site", "-out", f"{tmp_path}/csr"]
    assert run(request) == 0
    words = ["openssl", "x509", "-req", "-in", f"{tmp_path}/csr", "-CA", f"{tmp_path}/ca.pem"]
    assert run([*words, "-CAkey", f"{tmp_path}/ca.key", "-out", f"{tmp_path}/certificate.pem", "-days", "9"]) == 0
    assert run(kind["valid"]) != 0, "it is another one now"
    assert run(kind["command"]) == 0
    assert (tmp_path / "kind.conf").read_text() == "default real;\n"


def test_the_site_listens_on_ipv6_where_there_is_any(render: Callable[..., str]) -> None:
    given = {"nginx_server_name": "htr.example.org", "nginx_private_network": "10.0.0.0/24"}
    both = re.findall(r"listen ([^\s;]+)", render("nginx", "site.conf.j2", **given))
    assert sorted(both) == ["443", "443", "80", "80", "[::]:443", "[::]:443", "[::]:80", "[::]:80"]
    for without in (False, "false"):
        assert re.findall(r"listen ([^\s;]+)", render("nginx", "site.conf.j2", **given, nginx_ipv6=without)) == [
            "80",
            "443",
            "80",
            "443",
        ]


def test_a_part_of_debian_is_added_once_and_to_debians_own_sources(resolve: Callable[..., Any]) -> None:
    def added(line: str, path: str = "/etc/apt/sources.list") -> str:
        pattern = resolve("debian_components", "{{ __debian_components_pattern }}", item=[{"path": path}, "contrib"])
        return re.sub(pattern, r"\1 contrib\2", line, flags=re.MULTILINE)

    main = "deb http://mirror.example.org/debian bookworm main"
    assert added(f"{main} non-free") == f"{main} contrib non-free"
    assert added(f"{main} non-free contrib") == f"{main} non-free contrib"
    assert added("deb https://example.org/tools bookworm main") == "deb https://example.org/tools bookworm main"
    assert added("Components: main", "/etc/apt/sources.list.d/debian.sources") == "Components: main contrib"


def test_a_job_waits_for_the_tree_through_an_outage(resolve: Callable[..., Any]) -> None:
    options = resolve("nfs_mount", "{{ __nfs_mount_options }}")
    assert {"vers=4.2", "hard", "_netdev", "bg", "nconnect=4", "rsize=1048576", "wsize=1048576"} <= set(options)


def test_the_daemon_of_a_shared_card_sees_that_card_as_the_service(render: Callable[..., str]) -> None:
    text = render("nvidia_mps", "nvidia-mps@.service.j2", nvidia_mps_user="escriptorium")
    service = sections(text.replace("Wants", "\nWants"))["Service"]
    assert service["User"] == "escriptorium"
    for command in ("ExecStart", "ExecStop"):
        assert service[command].startswith("/usr/local/sbin/gpu-partition exec %i -- ")


@pytest.mark.parametrize("changed", ["escriptorium_version", "constraints.txt", "profile.yml", "patch"])
def test_a_release_is_named_by_all_that_decides_its_content(
    resolve: Callable[..., Any], tmp_path: Path, changed: str
) -> None:
    def name(**values: Any) -> str:
        return str(resolve("escriptorium", "{{ __escriptorium_described_release }}", **given, **values))

    for file in ("constraints.txt", "profile.yml", "patch"):
        (tmp_path / file).write_text("as it was")
    patches = [str(tmp_path / "patch")]
    given = {"escriptorium_profile": str(tmp_path), "escriptorium_patches": patches, "escriptorium_front_dist": ""}
    before = name(escriptorium_version="05d3a0d4")
    assert name(escriptorium_version="05d3a0d4") == before
    if changed == "escriptorium_version":
        assert name(escriptorium_version="another") != before
    else:
        (tmp_path / changed).write_text("changed")
        assert name(escriptorium_version="05d3a0d4") != before


@pytest.mark.parametrize(("jump_host", "forwarding"), [(False, "no"), (True, "local")])
def test_ssh_takes_no_password_and_forwards_nothing(
    render: Callable[..., str], jump_host: bool, forwarding: str
) -> None:
    lines = render("base", "sshd.conf.j2", base_ssh_jump_host=jump_host).splitlines()
    assert dict(line.split() for line in lines if line and not line.startswith("#")) == {
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "X11Forwarding": "no",
        "AllowAgentForwarding": "no",
        "AllowStreamLocalForwarding": "no",
        "AllowTcpForwarding": forwarding,
        "PermitTunnel": "no",
    }


def test_settings_of_ssh_are_left_alone_where_ansible_does_not_come_by_ssh(resolve: Callable[..., Any]) -> None:
    """Who runs it on the host itself may have come there with a password."""
    wanted = "{{ __base_ssh_harden }}"
    assert resolve("base", wanted) is True
    assert resolve("base", wanted, ansible_connection="local") is False
    assert resolve("base", wanted, base_ssh_harden=False) is False
    assert resolve("base", wanted, base_ssh_harden="false") is False


@pytest.mark.parametrize("hold_kernel", [False, True])
def test_upgrades_that_would_be_an_outage_are_held(resolve: Callable[..., Any], hold_kernel: bool) -> None:
    held = resolve("base", "{{ __base_held_packages }}", base_hold_kernel=hold_kernel)

    def is_held(package: str) -> bool:
        return any(re.match(pattern, package) for pattern in held)  # as unattended-upgrades compares

    assert all(is_held(name) for name in ("postgresql-15", "redis-server", "redis-tools"))
    assert not any(is_held(name) for name in ("nginx-light", "openssl", "libpq5", "linux-libc-dev", "libvips42"))
    modules = ("linux-image-amd64", "linux-headers-6.1.0-30-amd64", "zfs-dkms", "libzfs4linux", "libcuda1")
    assert all(is_held(name) is hold_kernel for name in (*modules, "nvidia-driver", "libegl-nvidia0"))


def test_upgrades_are_security_ones_and_restart_nothing(render: Callable[..., str]) -> None:
    text = render("base", "unattended-upgrades.conf.j2")
    origins = re.findall(r'"(origin=[^"]*)"', text)
    assert origins
    assert all(origin.endswith("label=Debian-Security") for origin in origins)
    assert text.index("#clear Unattended-Upgrade::Origins-Pattern;") < text.index("Origins-Pattern {"), (
        "Debian has more"
    )
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in text
    assert "$nrconf{restart} = 'l';" in render("base", "needrestart.conf.j2").splitlines()


def test_a_second_storage_server_starts_one_program_on_the_first(resolve: Callable[..., Any], root: Path) -> None:
    (let_in,) = [task for task in tasks(root, "zfs_replica", "source.yml") if "host_config" in task]
    (line,) = [file for file in let_in["host_config"]["files"] if file.get("state") == "line"]
    given = {
        "zfs_replica_datasets": ["escriptorium/media", "backups"],
        "zfs_replica_source_pool": "tank",
        "zfs_replica_address": "10.0.0.2",
        "__zfs_replica_keypair": {"public_key": "ssh-ed25519 AAAA"},
    }
    program = "/usr/local/lib/zfs-replica/serve tank/escriptorium/media tank/backups"
    wanted = f'restrict,from="10.0.0.2",command="{program}" ssh-ed25519 AAAA zfs-replica'
    content = str(resolve("zfs_replica", line["content"], **given))
    assert content == wanted
    # Also the line of an earlier version, which let a shell in.
    assert str(resolve("zfs_replica", line["replaces"], **given)) in 'restrict,from="10.0.0.2" ssh-ed25519 AAAA'
    (revoke,) = tasks(root, "zfs_replica", "revoke.yml")
    (kept,) = [file for file in revoke["host_config"]["files"] if file.get("state") == "without"]
    gone = str(resolve("zfs_replica", kept["replaces"], zfs_replica_clients=["10.0.0.2"]))
    assert not re.search(gone, content)
    assert re.search(gone, wanted.replace("10.0.0.2", "10.0.0.20"))
