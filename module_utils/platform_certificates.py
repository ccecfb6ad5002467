"""The site's own certificate authority: makes it once, and the certificate of the server that database and broker show.

Four files beside the secrets. Keys are written once and never again, so that ``ansible-vault encrypt`` may hide them;
certificates are public. No Ansible import; no private key is ever part of a message.

Rules of X.509 that are kept here: RFC 5280 (extensions, an authority that signs servers only), RFC 6125 (names and
addresses are in the subject's alternative names, never in its common name).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .platform_secrets import SecretsError, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CA_KEY: Final = "ca.key"
CA: Final = "ca.crt"
KEY: Final = "server.key"
CERTIFICATE: Final = "server.crt"
NAMES: Final = (CA_KEY, CA, KEY, CERTIFICATE)

#: Days that an authority and a certificate are good for.
CA_DAYS: Final = 7300
DAYS: Final = 365
#: A run renews a certificate that has this many days left, or fewer.
RENEW_DAYS: Final = 60
#: Before these many days the authority's own end is told: replacing it is a decision.
CA_TELL_DAYS: Final = DAYS + RENEW_DAYS
#: Clocks of hosts may be behind.
BACKDATE: Final = timedelta(days=1)


class CertificatesError(Exception):
    """The certificates cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Result:
    """Files that were made (or would be), why, and what an operator should know."""

    made: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def renew(
    folder: Path,
    names: Sequence[str],
    now: datetime,
    *,
    write: bool,
    read: Callable[[Path], bytes] = Path.read_bytes,
    shown: str = "",
) -> Result:
    """Make what is missing, and renew what ends soon or is for other names.

    Args:
        folder: where the four files lie.
        names: DNS names and IP addresses under which the server is asked.
        now: the time, with its zone.
        write: false makes nothing, and says what would be made.
        read: gives the content of a file, decrypted.
        shown: the folder as messages have it.

    Raises:
        CertificatesError: what there is cannot be used, or cannot be written.

    """
    files = _Files(folder, read, shown or str(folder))
    made: dict[str, str] = {}
    signer: ec.EllipticCurvePrivateKey | None = None
    if files.has(CA):
        authority = files.certificate(CA)
    elif files.has(CA_KEY):
        raise CertificatesError(f"{files.shown(CA)} is missing, and its key is not: bring it back, or remove both")
    else:
        signer, authority = _new_authority(now)
        made |= {CA_KEY: _pem_of(signer), CA: _pem(authority)}

    warnings = _about_the_authority(authority, now, files.shown(CA))
    reason, left = _why(files, authority, names, now)
    if reason:
        try:
            signer = signer or _signer(files, authority, now)
            server = files.key(KEY) if files.has(KEY) else ec.generate_private_key(ec.SECP256R1())
        except CertificatesError as error:
            if left <= 0:
                raise
            told = f"{files.shown(CERTIFICATE)} ends in {left} days and was not renewed: {error}"
            return Result({}, (*warnings, told))
        if not files.has(KEY):
            made[KEY] = _pem_of(server)
        made[CERTIFICATE] = _pem(_issue(server, names, authority, signer, now))
    if write:
        try:
            # Keys first: a run that is broken off between the two leaves no certificate without its key.
            for name in sorted(made, key=lambda name: not name.endswith(".key")):
                write_private(folder / name, made[name])
        except SecretsError as error:
            raise CertificatesError(str(error)) from error
    return Result({name: reason if name == CERTIFICATE else "there was none" for name in made}, warnings)


@dataclass(frozen=True)
class _Files:
    """The files that are there. Keys are read where they are needed only: they may be encrypted."""

    folder: Path
    read: Callable[[Path], bytes]
    place: str

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def shown(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _content(self, name: str) -> bytes:
        try:
            return self.read(self.folder / name)
        except OSError as error:
            raise CertificatesError(f"cannot read {self.shown(name)}: {error.strerror or error}") from error

    def certificate(self, name: str) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._content(name))
        except ValueError as error:
            raise CertificatesError(f"{self.shown(name)} is no certificate: bring it back from your copy") from error

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(self._content(name), password=None)
        except (TypeError, ValueError) as error:
            raise CertificatesError(f"{self.shown(name)} is no private key that can be read") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CertificatesError(f"{self.shown(name)} is no key of an elliptic curve, as this repository makes them")
        return key


def _signer(files: _Files, authority: x509.Certificate, now: datetime) -> ec.EllipticCurvePrivateKey:
    if not files.has(CA_KEY):
        raise CertificatesError(f"{files.shown(CA_KEY)} is missing: bring it back from your copy")
    key = files.key(CA_KEY)
    if key.public_key() != authority.public_key():
        raise CertificatesError(f"{files.shown(CA_KEY)} is not the key of {CA}: bring back both from one copy")
    if authority.not_valid_after_utc <= now:
        raise CertificatesError(f"{files.shown(CA)} has ended: remove its folder and repeat the run")
    return key


def _why(files: _Files, authority: x509.Certificate, names: Sequence[str], now: datetime) -> tuple[str, int]:
    """Return why the server needs another certificate (empty: it needs none), and the days for which this is good."""
    if not files.has(CERTIFICATE):
        return "there was none", 0
    if not files.has(KEY):
        return "its key is missing", 0
    certificate = files.certificate(CERTIFICATE)
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError):
        return "another authority has signed the one before", 0
    if not _names_of(certificate) >= set(names):
        return "the one before is for other names", 0
    end = certificate.not_valid_after_utc
    return ("" if end - now > timedelta(days=RENEW_DAYS) else f"the one before ends on {end:%Y-%m-%d}"), (
        end - now
    ).days


def _about_the_authority(authority: x509.Certificate, now: datetime, shown: str) -> tuple[str, ...]:
    left = (authority.not_valid_after_utc - now).days
    if left > CA_TELL_DAYS:
        return ()
    return (f"{shown} ends in {left} days: docs/security.md says how another one takes its place",)


def _names_of(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subject(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        **dict.fromkeys(
            ("content_commitment", "data_encipherment", "decipher_only", "encipher_only", "key_agreement",
             "key_encipherment"), False,
        ),
    )  # fmt: skip


def _builder(subject: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _new_authority(now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    # The day tells two authorities of one site apart.
    name = f"eScriptorium services, made {now.astimezone(UTC):%Y-%m-%d}"
    certificate = (
        _builder(name, _subject(name), key.public_key())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _issue(
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    end = min(now + timedelta(days=DAYS), authority.not_valid_after_utc)
    alternatives = [_alternative(name) for name in dict.fromkeys(names)]
    return (
        _builder("eScriptorium services", authority.subject, key.public_key())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
