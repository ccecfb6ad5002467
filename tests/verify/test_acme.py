"""The site's certificate by ACME, on Debian 12 and 13: issued, renewed, refused, with a CA on the host itself (pebble).

Clocks are moved for the service alone (libfaketime). The CA keeps the real time, and what it shows itself is good for
ten years.
"""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support import play, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support import Inventory, PlayRun

pytestmark = pytest.mark.scenario("services")

PLAYBOOK = "molecule/services/acme.yml"
SERVICE = "escriptorium-acme.service"
SHOW = "/usr/local/lib/escriptorium/show-certificate"
CERTIFICATE = "/etc/nginx/tls/certificate.pem"
BOUND_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
#: Days by which the clock of the service is moved: the certificates of the CA last 90.
LATER = 85


class Authority:
    """Pebble on a host, and the certificate that it shows."""

    def __init__(self, host: Any, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.ca = folder / "ca.pem"

    def start(self) -> None:
        made = self.folder
        for name, more in (
            ("ca", ["-addext", "keyUsage=critical,keyCertSign"]),
            (
                "pebble",
                ["-addext", "subjectAltName=DNS:pebble.test", "-CA", f"{made}/ca.pem", "-CAkey", f"{made}/ca.key"],
            ),
        ):
            words = [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-noenc",
                "-days",
                "3650",
                "-subj",
                f"/CN={name}",
            ]
            files = ["-keyout", f"{made}/{name}.key", "-out", f"{made}/{name}.pem"]
            subprocess.run([*words, *more, *files], check=True, capture_output=True)
        self.host.check_output(
            "apt-get -q update >/dev/null; DEBIAN_FRONTEND=noninteractive "
            "apt-get -qy -o DPkg::Lock::Timeout=600 install --no-install-recommends pebble curl libfaketime >/dev/null "
            "&& mkdir -p /srv/pebble && { grep -q pebble.test /etc/hosts || echo 127.0.0.1 pebble.test >>/etc/hosts; }"
        )
        # A CA that starts anew knows no account of an earlier run, and no site begins with its certificate.
        self.host.check_output(
            "rm -rf /var/lib/private/escriptorium-acme /var/lib/escriptorium-certificate /etc/nginx/tls/certificate.pem"
        )
        for name in ("pebble.pem", "pebble.key"):
            self.write(f"/srv/pebble/{name}", (self.folder / name).read_text())
        self.serve(14000)
        doh = " -doh ''" if "-doh" in self.host.run("pebble-challtestsrv -h").stderr else ""
        self.host.check_output(
            "systemd-run -q --unit=test-dns pebble-challtestsrv -defaultIPv4 127.0.0.1 -defaultIPv6 '' -http01 '' "
            f"-https01 '' -tlsalpn01 ''{doh}"
        )
        # What stands behind nginx answers each page, and says something of HSTS itself.
        self.write(
            "/srv/pebble/site.py",
            "import http.server\n"
            "class Site(http.server.BaseHTTPRequestHandler):\n"
            "    def do_GET(self):\n"
            "        self.send_response(200)\n"
            "        self.send_header('Strict-Transport-Security', 'max-age=1')\n"
            "        self.end_headers()\n"
            "http.server.ThreadingHTTPServer(('127.0.0.1', 8099), Site).serve_forever()\n",
        )
        self.host.check_output("systemd-run -q --unit=test-site python3 /srv/pebble/site.py")

    def serve(self, port: int, **more: Any) -> None:
        """Start a CA; each has its own accounts."""
        settings = {
            "listenAddress": f"127.0.0.1:{port}",
            "managementListenAddress": f"127.0.0.1:{port + 1000}",
            "certificate": "/srv/pebble/pebble.pem",
            "privateKey": "/srv/pebble/pebble.key",
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "certificateValidityPeriod": 90 * 86400,
        }
        self.write(f"/srv/pebble/{port}.json", json.dumps({"pebble": settings | more}))
        self.host.check_output(
            f"systemctl reset-failed test-ca-{port} 2>/dev/null; systemd-run -q --unit=test-ca-{port} "
            "-E PEBBLE_VA_NOSLEEP=1 -E PEBBLE_AUTHZREUSE=0 -E PEBBLE_WFE_NONCEREJECT=0 "
            f"pebble -config /srv/pebble/{port}.json -dnsserver 127.0.0.1:8053"
        )
        asked = f"curl -sf --cacert /srv/pebble/ca.pem https://pebble.test:{port}/dir"
        self.write("/srv/pebble/ca.pem", self.ca.read_text())
        wait_for("the CA", lambda: self.host.run(asked).rc == 0, timeout=60, pause=0.2)

    def write(self, path: str, content: str) -> None:
        coded = base64.b64encode(content.encode()).decode()
        self.host.check_output(f"echo {coded} | base64 -d >{shlex.quote(path)}")

    def point(self, address: str) -> None:
        """Say to which address all names lead; empty: to none."""
        body = shlex.quote(json.dumps({"ip": address}))
        self.host.check_output(f"curl -sf -d {body} http://127.0.0.1:8055/set-default-ipv4")

    def stop(self) -> None:
        self.host.run(
            "systemctl stop 'test-ca-*' test-dns test-site escriptorium-acme.timer nginx; "
            "rm -rf /run/systemd/system/escriptorium-acme.service.d; systemctl daemon-reload; "
            "systemctl reset-failed escriptorium-acme.service; rm -f /usr/sbin/sendmail"
        )


@pytest.fixture(
    scope="module", params=["debian12", pytest.param("debian13", marks=pytest.mark.fault)]
)  # Debian 13 repeats it
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def host(name: str, connect: Callable[[str], Any]) -> Any:
    return connect(name)


@pytest.fixture(scope="module")
def authority(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    made = Authority(host, tmp_path_factory.mktemp("ca"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def deploy(inventory: Inventory, name: str, authority: Authority) -> Callable[..., PlayRun]:
    def run(**given: Any) -> PlayRun:
        values = {"acme_enabled": True, "acme_ca_file": str(authority.ca), **given}
        return play(inventory, PLAYBOOK, "--limit", name, "-e", json.dumps(values))

    return run


@pytest.fixture(scope="module")
def first(host: Any, name: str, deploy: Callable[..., PlayRun]) -> dict[str, str]:
    """A site that starts without ACME, and has it then: what it sent before, and its certificate after."""
    deploy(acme_enabled=False)
    before = ask(host, f"https://{name}.test/")
    deploy()
    return {"before": before, "serial": serial(host)}


def ask(host: Any, *words: str) -> str:
    """Return status, redirect and headers of an answer; all names lead to the host."""
    to = "--connect-to ::127.0.0.1: --write-out '%{http_code} %{redirect_url}'"
    return str(host.run(f"curl -sk -D - -o /dev/null {to} {shlex.join(words)}").stdout)


def serial(host: Any) -> str:
    return str(host.check_output(f"openssl x509 -noout -serial -issuer -in {CERTIFICATE}"))


def move_clock(host: Any, days: int) -> str:
    """Move the clock of the service; answers what does it for any other program."""
    library = host.check_output("dpkg -L libfaketime | grep 'libfaketime.so.1$'")
    moved = f"LD_PRELOAD={library} FAKETIME=+{days}d"
    folder = "/run/systemd/system/escriptorium-acme.service.d"
    host.check_output(
        f"mkdir -p {folder}; printf '[Service]\\nEnvironment={moved}\\n' >{folder}/clock.conf; systemctl daemon-reload"
    )
    return moved


def test_a_site_begins_self_signed_and_gets_the_certificate_of_the_ca(
    host: Any, name: str, first: dict[str, str]
) -> None:
    assert "strict-transport-security" not in first["before"].lower()
    assert "Pebble" in first["serial"]
    shown = ask(host, f"https://{name}.test/").lower()
    assert shown.count("strict-transport-security") == 1
    assert "strict-transport-security: max-age=31536000" in shown
    assert "content-security-policy: frame-ancestors 'none'; object-src 'none'; base-uri 'self'" in shown
    assert host.service("escriptorium-acme.timer").is_enabled
    assert host.service("escriptorium-acme.timer").is_running
    # It served its purpose while the CA asked.
    assert not host.file("/run/escriptorium-acme-answers").exists
    assert "certificate: by CN=Pebble" in host.check_output(SHOW)


def test_a_second_run_asks_for_nothing(host: Any, first: dict[str, str], deploy: Callable[..., PlayRun]) -> None:
    assert deploy().changed == []
    assert serial(host) == first["serial"]
    host.check_output(f"systemctl start {SERVICE}")
    assert serial(host) == first["serial"]


@pytest.mark.usefixtures("first")
def test_other_names_are_refused_and_port_80_leads_to_the_site_alone(host: Any, name: str) -> None:
    own, other = f"{name}.test", "evil.test"

    def status(*words: str) -> str:
        return ask(host, *words).splitlines()[-1].strip()

    assert status(f"http://{own}/a?b=1") == f"301 https://{own}/a?b=1"
    assert status(f"http://{other}/a") == "421"
    assert status(f"https://{own}/") == "200"
    assert status(f"https://{other}/") == "421"
    assert status("-H", f"Host: {own}", f"https://{other}/") == "421"
    assert status("-H", f"Host: {other}", f"https://{own}/") == "421"
    # A program that goes by an address, and names the site in its request.
    assert status("-H", f"Host: {own}", "https://127.0.0.1/") == "200"


@pytest.mark.fault
def test_a_certificate_is_renewed_before_its_end(host: Any, first: dict[str, str]) -> None:
    before = serial(host)
    process = host.check_output("systemctl show --property=MainPID --value nginx")
    moved = move_clock(host, LATER)
    shown = host.run(f"{moved} {SHOW}")
    assert shown.rc == 1
    assert "WARNING: it ends within 14 days" in shown.stdout
    host.check_output(f"systemctl start {SERVICE}")
    assert serial(host) not in {before, first["serial"]}
    assert host.check_output("systemctl show --property=MainPID --value nginx") == process, "it reads it, and goes on"
    served = host.check_output(
        "openssl s_client -connect 127.0.0.1:443 </dev/null 2>/dev/null | openssl x509 -noout -serial"
    )
    assert served in serial(host)


@pytest.mark.fault
@pytest.mark.usefixtures("first")
def test_a_challenge_that_fails_keeps_the_certificate_and_a_person_is_told(host: Any, authority: Authority) -> None:
    before = serial(host)
    authority.write("/usr/sbin/sendmail", "#!/bin/sh\ncat >>/srv/pebble/mails\n")
    host.check_output("chmod 755 /usr/sbin/sendmail; rm -f /srv/pebble/mails")
    moved = move_clock(host, 365)
    authority.point("")
    try:
        for _ in range(2):
            assert host.run(f"systemctl start {SERVICE}").rc != 0
    finally:
        authority.point("127.0.0.1")
    assert serial(host) == before
    assert host.check_output(f"systemctl is-failed {SERVICE}") == "failed"
    shown = host.run(f"{moved} {SHOW}")
    assert "certificate: not renewed: " in shown.stdout
    assert "could not resolve" in shown.stdout or "No valid IP addresses" in shown.stdout
    mails = host.check_output("cat /srv/pebble/mails")
    assert mails.count("To: admin@services.test") == 1, "once a day"
    assert "the certificate of the site ends in -" in mails
    # A year later the CA is there again.
    host.check_output(f"systemctl start {SERVICE}")
    assert serial(host) != before
    assert "not renewed" not in host.check_output(SHOW)


@pytest.mark.fault
@pytest.mark.usefixtures("first")
def test_a_ca_with_external_accounts_takes_the_right_key_only(
    host: Any, authority: Authority, deploy: Callable[..., PlayRun]
) -> None:
    before = serial(host)
    host.run("rm -rf /run/systemd/system/escriptorium-acme.service.d; systemctl daemon-reload")
    authority.serve(14001, externalAccountBindingRequired=True, externalAccountMACKeys={"kid-7": BOUND_KEY})
    given = {"acme_directory": "https://pebble.test:14001/dir", "acme_eab_kid": "kid-7"}
    refused = deploy(**given, acme_eab_hmac_key="AAAAAAAAAAAAAAAAAAAA")
    assert "external account binding" in refused.output
    assert serial(host) == before
    taken = deploy(**given, acme_eab_hmac_key=BOUND_KEY)
    assert "The certificate stays as it is" not in taken.output
    assert BOUND_KEY not in taken.output
    assert serial(host) != before
    assert host.file("/etc/escriptorium-acme/environment").mode == 0o600
    assert BOUND_KEY not in host.check_output("journalctl --no-pager -o cat -u escriptorium-acme")


@pytest.mark.fault
@pytest.mark.usefixtures("first")
def test_a_host_without_port_80_writes_to_the_dns(
    host: Any, authority: Authority, deploy: Callable[..., PlayRun], tmp_path: Path
) -> None:
    hook = tmp_path / "dns-hook"
    hook.write_text(
        '#!/bin/sh\nset -eu\n[ "$DNS_TOKEN" = \'a "b" $c\' ]\ncase $1 in\n'
        'deploy_challenge) curl -sf -d "{\\"host\\": \\"_acme-challenge.$2.\\", \\"value\\": \\"$4\\"}" '
        "http://127.0.0.1:8055/set-txt ;;\n"
        'clean_challenge) curl -sf -d "{\\"host\\": \\"_acme-challenge.$2.\\"}" http://127.0.0.1:8055/clear-txt ;;\n'
        "esac\n"
    )
    before = serial(host)
    authority.serve(14002)
    authority.point("")
    try:
        deploy(
            acme_directory="https://pebble.test:14002/dir",
            acme_challenge="dns-01",
            acme_dns_hook=str(hook),
            acme_environment={"DNS_TOKEN": 'a "b" $c'},
        )
    finally:
        authority.point("127.0.0.1")
    assert serial(host) != before
    deploy(acme_enabled=False)
    assert not host.file("/etc/escriptorium-acme/environment").exists
    assert not host.service("escriptorium-acme.timer").is_running


@pytest.mark.fault
@pytest.mark.usefixtures("first")
def test_what_asks_the_ca_is_shut_in(host: Any, deploy: Callable[..., PlayRun]) -> None:
    deploy()
    found = json.loads(host.check_output(f"systemd-analyze security --json=short {SERVICE}"))
    assert found, "systemd knows the unit"
    shown = host.check_output(f"systemd-analyze security {SERVICE}")
    score = float(shown.rsplit(f"{SERVICE}: ", 1)[1].split()[0])
    assert score <= 2.5
    assert host.check_output("stat -c %U:%a /var/lib/private /etc/nginx/tls").splitlines() == ["root:700"] * 2
