"""The certificate that came by ACME: what root takes of it, and whom it tells where none came."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from roles.acme.files import certificate as program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("ansible_plugins")

KEY = b"-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n"
ONE = b"-----BEGIN CERTIFICATE-----\nREVG\n-----END CERTIFICATE-----\n"
TWO = b"-----BEGIN CERTIFICATE-----\nR0hJ\n-----END CERTIFICATE-----\n"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Commands that the program runs, and what they answer."""
    known: dict[str, Any] = {"said": [], "nginx": 0, "state": "active", "end": "Nov 30 00:00:00 2026 GMT"}

    def answer(*words: str) -> subprocess.CompletedProcess[str]:
        known["said"].append(" ".join(words))
        outputs = {"openssl": f"notAfter={known['end']}\n", "systemctl": known["state"], "journalctl": "ERROR: no\n"}
        status = known["nginx"] if words[0] == "nginx" else 0
        return subprocess.CompletedProcess(words, status, outputs.get(words[0], ""), "[emerg] bad key")

    monkeypatch.setattr(program, "run", answer)
    return known


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    folder.mkdir()
    for name in ("key.pem", "certificate.pem"):
        (folder / name).write_bytes(b"old")
    (folder / "kind.conf").write_text("default self_signed;\n")
    return folder


def test_nginx_gets_key_and_chain_once(calls: dict[str, Any], tls: Path, tmp_path: Path) -> None:
    (tmp_path / "site.pem").write_bytes(KEY + ONE + TWO)
    before = os.umask(0o077)  # that of the service
    try:
        assert program.install(tls, tmp_path / "site.pem")
    finally:
        os.umask(before)
    assert ((tls / "key.pem").read_bytes(), (tls / "certificate.pem").read_bytes()) == (KEY, ONE + TWO)
    assert (tls / "kind.conf").read_text() == "default real;\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in tls.iterdir()}
    assert modes == {"key.pem": 0o600, "certificate.pem": 0o644, "kind.conf": 0o644}
    assert calls["said"][-1] == "systemctl reload-or-restart nginx.service"
    calls["said"].clear()
    assert not program.install(tls, tmp_path / "site.pem")
    assert calls["said"] == []


def test_what_nginx_refuses_is_taken_back(calls: dict[str, Any], tls: Path, tmp_path: Path) -> None:
    (tmp_path / "site.pem").write_bytes(KEY + ONE)
    calls["nginx"] = 1
    with pytest.raises(program.CertificateError, match="bad key"):
        program.install(tls, tmp_path / "site.pem")
    assert ((tls / "key.pem").read_bytes(), (tls / "certificate.pem").read_bytes()) == (b"old", b"old")
    assert (tls / "kind.conf").read_text() == "default self_signed;\n"
    assert not [call for call in calls["said"] if call.startswith("systemctl")]


def test_an_nginx_that_somebody_stopped_stays_so(calls: dict[str, Any], tls: Path, tmp_path: Path) -> None:
    (tmp_path / "site.pem").write_bytes(KEY + ONE)
    calls["state"] = "inactive\n"
    assert program.install(tls, tmp_path / "site.pem")
    assert not [call for call in calls["said"] if "reload" in call]


@pytest.mark.usefixtures("calls")
def test_root_follows_no_link_of_the_account_and_reads_no_pipe(tls: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(KEY + ONE)
    (tmp_path / "link").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        program.install(tls, tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(program.CertificateError):
        program.install(tls, tmp_path / "pipe")
    (tmp_path / "large").write_bytes(KEY + ONE + b" " * program.BOUND)
    with pytest.raises(program.CertificateError):
        program.install(tls, tmp_path / "large")
    assert (tls / "key.pem").read_bytes() == b"old"


@pytest.mark.parametrize("content", [b"", KEY, ONE, KEY + KEY + ONE, b"garbage"])
def test_half_a_certificate_is_none(content: bytes) -> None:
    with pytest.raises(program.CertificateError):
        program.parts(content)


@pytest.fixture
def mails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is sent is appended to this file."""
    sent, sendmail = tmp_path / "sent", tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat >>{sent}\n")
    sendmail.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(sendmail))
    sent.touch()
    return sent


@pytest.mark.usefixtures("calls")
def test_a_person_is_told_days_before_the_end_and_once_a_day(
    tls: Path, tmp_path: Path, mails: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "record"
    record.mkdir()
    end = ssl.cert_time_to_seconds("Nov 30 00:00:00 2026 GMT")
    monkeypatch.setenv("SERVICE_RESULT", "exit-code")

    def told(days: float) -> int:
        program.report(tls, 14, "admin@example.org", record=record, now=end - days * program.DAY)
        return mails.read_text().count("Subject:")

    assert told(20) == 0
    assert (record / "problem").read_text() == "ERROR: no\n"
    assert told(13.9) == 1
    assert told(13.4) == 1
    assert told(12.9) == 2
    assert told(-300) == 3, "a clock a year ahead"
    assert "To: admin@example.org\n" in mails.read_text()
    assert "ends in 13 days" in mails.read_text()
    monkeypatch.setenv("SERVICE_RESULT", "success")
    assert told(12) == 3
    assert sorted(path.name for path in record.iterdir()) == ["asked"]


def test_the_ca_is_asked_again_where_it_gave_nothing_or_settings_are_younger(tmp_path: Path) -> None:
    record, settings = tmp_path / "record", tmp_path / "settings"
    record.mkdir()
    settings.mkdir()
    (settings / "config").touch()

    def pending() -> str:
        return str(program.pending(record, settings))

    assert pending() == "the CA has not been asked yet"
    (record / "asked").touch()
    now = time.time()
    os.utime(settings / "config", (now - 60, now - 60))
    assert pending() == ""
    os.utime(record / "asked", (now - 90, now - 90))
    assert pending().startswith("config: younger")
    os.utime(record / "asked", (now + 9000, now + 9000))
    assert pending() == "the CA has not been asked yet", "asked by a clock that was wrong"
    (record / "problem").write_text("no\n")
    assert pending() == "the last question came to nothing"


def test_the_key_of_an_external_account_is_in_no_arguments(render: Callable[..., str], tmp_path: Path) -> None:
    given = {"acme_server_name": "htr.example.org", "acme_email": "a@example.org"}
    (tmp_path / "config").write_text(render("acme", "config.j2", **given))
    for name in ("openssl", "python3"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$0 $*" >>{tmp_path}/said\nexec /usr/bin/{name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    script = (
        f". {tmp_path}/config\n"
        'printf abc | "$OPENSSL" dgst -binary -sha256 -mac HMAC -macopt hexkey:6b6579 | od -An -tx1 | tr -d " \\n"\n'
        '"$OPENSSL" version >/dev/null\n'
    )
    answer = subprocess.run(
        ["bash", "-euc", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    # HMAC-SHA256 of "abc" with the key "key".
    assert answer.stdout == "9c196e32dc0175f86f4b1cb89289d6619de6bee699e4c378e68309ed97a1a6ab"
    said = (tmp_path / "said").read_text()
    assert "6b6579" not in said
    assert re.findall(r"openssl (.*)", said) == ["version"]


def test_secrets_are_for_the_service_alone(resolve: Callable[..., Any], render: Callable[..., str]) -> None:
    given = {
        "acme_server_name": "htr.example.org",
        "acme_email": "a@example.org",
        "acme_eab_kid": "kid-7",
        "acme_eab_hmac_key": "c2VjcmV0",
        "acme_environment": {"DNS_TOKEN": 'a "b" c'},
    }
    files = {file["path"].rpartition("/")[2]: file for file in resolve("acme", "{{ __acme_files }}", **given)}
    assert files["environment"]["mode"] == "0600"
    assert files["environment"]["secret"]
    text = render("acme", "environment.j2", **given)
    assert text.splitlines()[-3:] == ['DNS_TOKEN="a \\"b\\" c"', 'EAB_HMAC_KEY="c2VjcmV0"', 'EAB_KID="kid-7"']
    for template in ("config.j2", "escriptorium-acme.service.j2"):
        assert "c2VjcmV0" not in render("acme", template, **given)


def test_a_ca_for_trials_keeps_its_certificates_to_itself(render: Callable[..., str]) -> None:
    def folder(**more: str) -> str:
        text = render("acme", "config.j2", acme_server_name="a.example.org", acme_email="a@example.org", **more)
        (found,) = re.findall(r"^CERTDIR=(.*)$", text, re.MULTILINE)
        return str(found)

    assert folder() == folder()
    assert len({folder(), folder(acme_directory="https://trial.example.org/"), folder(acme_key_algorithm="rsa")}) == 3
