"""The site's own authority: what is made, when it is renewed, and what is said where it cannot be."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret
from cryptography import x509

from module_utils.platform_certificates import NAMES, RENEW_DAYS, CertificatesError, Result, renew
from module_utils.platform_secrets import CERTIFICATES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SERVER = ("10.10.0.10", "front", "127.0.0.1")
INVENTORY = """---
all:
  vars:
    site_domain: htr.example.org
    site_private_network: 10.10.0.0/24
    site_admin_email: htr@example.org
  children:
    frontend: {hosts: {front: {private_address: 10.10.0.10}}}
    storage: {hosts: {front: {}}}
    compute: {hosts: {node1: {private_address: 10.10.0.21}}}
"""


def made(folder: Path, days: float = 0, names: tuple[str, ...] = SERVER, *, write: bool = True) -> Result:
    return renew(folder, names, NOW + timedelta(days=days), write=write)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def certificate(folder: Path, name: str = "server.crt") -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def test_a_site_without_any_gets_all_of_them_once(tmp_path: Path) -> None:
    assert set(made(tmp_path, write=False).made) == set(NAMES)
    assert contents(tmp_path) == {}
    assert set(made(tmp_path).made) == set(NAMES)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {0o600}
    before = contents(tmp_path)
    assert made(tmp_path, 1) == Result()
    assert contents(tmp_path) == before


def test_openssl_takes_the_certificate_for_its_names_only(tmp_path: Path) -> None:
    made(tmp_path)
    moment = str(int(NOW.timestamp()))
    for check, right in (
        (["-verify_ip", "10.10.0.10"], True),
        (["-verify_hostname", "front"], True),
        (["-verify_ip", "10.10.0.11"], False),
        (["-purpose", "sslclient"], False),
    ):
        words = ["openssl", "verify", "-attime", moment, "-purpose", "sslserver", *check]
        words += ["-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "server.crt")]
        assert (subprocess.run(words, capture_output=True, check=False).returncode == 0) == right, check
    authority = certificate(tmp_path, "ca.crt")
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@pytest.mark.parametrize(("days", "renewed"), [(365 - RENEW_DAYS - 1, False), (365 - RENEW_DAYS, True), (366, True)])
def test_a_certificate_is_renewed_before_it_ends_and_after(tmp_path: Path, days: int, renewed: bool) -> None:
    made(tmp_path)
    before = contents(tmp_path)
    assert set(made(tmp_path, days).made) == ({"server.crt"} if renewed else set())
    after = contents(tmp_path)
    assert {name for name in NAMES if before[name] != after[name]} == ({"server.crt"} if renewed else set())
    assert certificate(tmp_path).not_valid_after_utc > NOW + timedelta(days=days)


def test_a_clock_a_year_ahead(tmp_path: Path) -> None:
    """Runs once a month for three years: there is never a day without a certificate that is good."""
    for month in range(36):
        made(tmp_path, 30 * month)
        left = certificate(tmp_path).not_valid_after_utc - (NOW + timedelta(days=30 * month))
        assert left >= timedelta(days=RENEW_DAYS)
    certificate(tmp_path).verify_directly_issued_by(certificate(tmp_path, "ca.crt"))  # raises where it is not


def test_another_address_is_another_certificate(tmp_path: Path) -> None:
    made(tmp_path)
    result = made(tmp_path, names=("10.10.0.12", "front"))
    assert result.made == {"server.crt": "the one before is for other names"}
    assert made(tmp_path, names=("10.10.0.12",)) == Result(), "fewer names need none"


@pytest.mark.parametrize("lost", ["server.key", "server.crt"])
def test_what_was_lost_is_made_anew(tmp_path: Path, lost: str) -> None:
    made(tmp_path)
    (tmp_path / lost).unlink()
    assert set(made(tmp_path).made) == {lost, "server.crt"}
    key = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")  # raises where they are no pair


def test_another_authority_signs_anew(tmp_path: Path) -> None:
    made(tmp_path)
    for name in ("ca.key", "ca.crt"):
        (tmp_path / name).unlink()
    result = made(tmp_path)
    assert result.made["server.crt"] == "another authority has signed the one before"
    certificate(tmp_path).verify_directly_issued_by(certificate(tmp_path, "ca.crt"))


def test_days_before_the_end_it_is_told_that_it_cannot_be_renewed(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "ca.key").unlink()
    assert made(tmp_path, 100) == Result(), "nobody is bothered before"
    (warning,) = made(tmp_path, 320).warnings
    assert "server.crt ends in 45 days and was not renewed" in warning
    assert "ca.key is missing" in warning
    with pytest.raises(CertificatesError, match=r"ca\.key is missing: bring it back from your copy"):
        made(tmp_path, 366)


def test_the_authority_s_own_end_is_told_a_year_before(tmp_path: Path) -> None:
    made(tmp_path)
    (warning,) = made(tmp_path, 7300 - 400).warnings
    assert "ca.crt ends in 400 days" in warning
    assert certificate(tmp_path).not_valid_after_utc <= certificate(tmp_path, "ca.crt").not_valid_after_utc


def test_keys_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(tmp_path / name)
    (tmp_path / "one" / "ca.key").write_bytes((tmp_path / "two" / "ca.key").read_bytes())
    before = contents(tmp_path / "one")
    with pytest.raises(CertificatesError, match=r"is not the key of ca\.crt"):
        made(tmp_path / "one", names=("10.10.0.99",))
    assert contents(tmp_path / "one") == before


def test_no_message_holds_a_key(tmp_path: Path) -> None:
    shown = repr(made(tmp_path)) + repr(made(tmp_path, 320))
    keys = [line for path in tmp_path.glob("*.key") for line in path.read_text().splitlines()[1:-1]]
    assert keys
    assert not [line for line in keys if line in shown]


def test_a_run_makes_them_beside_the_secrets_and_renews_with_encrypted_keys(
    tmp_path: Path, run_playbook: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "hosts.yml").write_text(INVENTORY)
    folder = site / CERTIFICATES

    trial = run_playbook(site, "generate-secrets.yml", "--check")
    assert trial.returncode == 0, trial.stdout
    assert not folder.exists()

    first = run_playbook(site, "generate-secrets.yml", "-vvv")
    assert first.returncode == 0, first.stdout
    assert set(contents(folder)) == set(NAMES)
    assert "PRIVATE KEY" not in first.stdout + first.stderr

    # As ansible-vault leaves them; the folder is no folder of misnamed variables.
    password = tmp_path / "password"
    password.write_text("unlock\n")
    vault = VaultLib([("default", VaultSecret(b"unlock"))])
    for path in folder.glob("*.key"):
        path.write_bytes(vault.encrypt(path.read_bytes()))
    before = contents(folder)
    second = run_playbook(site, "generate-secrets.yml")
    assert second.returncode == 0, second.stdout
    assert contents(folder) == before, "nothing needs a key"

    (site / "hosts.yml").write_text(INVENTORY.replace("10.10.0.10", "10.10.0.12"))
    locked = run_playbook(site, "generate-secrets.yml")
    assert locked.returncode == 2, locked.stdout
    third = run_playbook(site, "generate-secrets.yml", "--vault-password-file", str(password))
    assert third.returncode == 0, third.stdout
    after = contents(folder)
    assert {name for name in NAMES if before[name] != after[name]} == {"server.crt"}


def test_one_machine_needs_none(tmp_path: Path, run_playbook: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    (tmp_path / "hosts.yml").write_text(INVENTORY.replace("{node1: {private_address: 10.10.0.21}}", "{front: {}}"))
    result = run_playbook(tmp_path, "generate-secrets.yml")
    assert result.returncode == 0, result.stdout
    assert not (tmp_path / CERTIFICATES).exists()
