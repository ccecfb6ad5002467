"""When the certificates end that the frontend shows, and what is said of it. No Django.

    python -m escriptorium_cluster.certificate_end

Prints what ends within 30 days of those inside: of database, broker and the authority of both. A timer looks at them
once a day, and at that of the site where no CA renews it (management command ``check_certificates``).

A run of ``site.yml`` renews those inside 60 days before. Where nobody has run one for that long, somebody has to be
told while there is time: when one has ended, every process of the platform waits for services that it does not trust.
Each is looked at where it is shown: a file that a server has not read yet helps nobody.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from escriptorium_cluster.config import ConfigError, load_services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from escriptorium_cluster.config import BrokerConfig, DatabaseConfig

    # What it is called, what looks when it ends (s since 1970), days before from which it is told, and what mends it.
    Look = tuple[str, Callable[[], float], int, str]

#: Days before the end from which it is told.
TELL_DAYS: Final = 30
#: The same for the site's own: a run makes a self-signed one anew 30 days before, and people renew theirs about then.
SITE_TELL_DAYS: Final = 21
#: Seconds that a server may take.
ANSWER_SECONDS: Final = 10.0
DAY: Final = 86400
#: Address of the site, if its certificate is to be looked at: ``127.0.0.1:443``.
SITE_VARIABLE: Final = "CLUSTER_CERTIFICATE_ADDRESS"
#: With these PostgreSQL is asked for TLS before anything else is said: a length, and the number of that question.
ASK_FOR_TLS: Final = bytes.fromhex("0000000804d2162f")
MEND: Final = "Run site.yml with this repository, as for any change: it renews the certificate, and nothing restarts."
AUTHORITY_MEND: Final = "docs/security.md of this repository says how another one takes its place."
SITE_MEND: Final = (
    "Where it is your own, name the next one with nginx_tls_certificate and nginx_tls_key; then run site.yml with this "
    "repository, which makes a self-signed one anew."
)


def _end(text: str) -> float:
    return float(ssl.cert_time_to_seconds(text))


def end_at(service: BrokerConfig | DatabaseConfig, first: bytes = b"") -> float:
    """Return when the certificate ends that a service shows: s since 1970.

    :param first: what is said before TLS, and answered with one letter.
    :raises OSError: when the service does not answer, or shows one that is not good (any more).
    """
    context = ssl.create_default_context(cafile=service.authority)
    with socket.create_connection((service.host, service.port), timeout=ANSWER_SECONDS) as connection:
        if first:
            connection.sendall(first)
            if connection.recv(1) != b"S":
                raise OSError("it speaks no TLS")
        with context.wrap_socket(connection, server_hostname=service.host) as shielded:
            return _end(str((shielded.getpeercert() or {})["notAfter"]))


def end_of_authority(file: str) -> float:
    """Return when the certificate of an authority ends: s since 1970.

    :raises OSError: when there is none to read.
    """
    ends = [_end(str(known["notAfter"])) for known in ssl.create_default_context(cafile=file).get_ca_certs()]
    if not ends:
        raise OSError(f"{file} holds no authority")
    return min(ends)


def end_of_site(address: str) -> float:
    """Return when the certificate ends that the site shows, whoever has signed it: s since 1970.

    :param address: host and port.
    :raises OSError: when nobody answers there.
    """
    host, _, port = address.rpartition(":")
    shown = ssl.get_server_certificate((host, int(port)), timeout=ANSWER_SECONDS)
    # Python reads only what it has verified, and a self-signed one cannot be.
    words = ["openssl", "x509", "-noout", "-enddate"]
    read = subprocess.run(words, input=shown, capture_output=True, text=True, check=False)
    if read.returncode != 0:
        raise OSError(f"openssl cannot read it: {read.stderr.strip()}")
    return _end(read.stdout.strip().removeprefix("notAfter="))


def looks(environment: Mapping[str, str]) -> Iterator[Look]:
    """Yield what there is to look at.

    :raises ConfigError: naming every missing or wrong variable.
    """
    services = load_services(environment)
    broker, database = services.broker, services.database
    if broker.authority:
        yield "the broker", lambda: end_at(broker), TELL_DAYS, MEND
        yield "the database", lambda: end_at(database, ASK_FOR_TLS), TELL_DAYS, MEND
        yield "the authority inside", lambda: end_of_authority(broker.authority), TELL_DAYS, AUTHORITY_MEND
    if address := environment.get(SITE_VARIABLE):
        yield "the site", lambda: end_of_site(address), SITE_TELL_DAYS, SITE_MEND


def warnings(wanted: Sequence[Look], now: float) -> tuple[list[str], list[str]]:
    """Return what an administrator has to know, and why something could not be looked at; nothing where all is well.

    :param now: s since 1970.
    """
    told, unknown = [], []
    for name, end, days, mend in wanted:
        try:
            last = end()
        except ssl.SSLCertVerificationError as error:
            told.append(f"The certificate of {name} is refused: {error.verify_message}. {mend}")
        except OSError as error:
            unknown.append(f"The certificate of {name} could not be looked at: {error}")
        else:
            left = int((last - now) // DAY)
            if left < days:
                date = time.strftime("%Y-%m-%d", time.gmtime(last))
                told.append(f"The certificate of {name} ends in {left} days ({date}). {mend}")
    return told, unknown


def main() -> int:
    """Print what ends soon; returns the exit status."""
    try:
        told, unknown = warnings(list(looks(os.environ)), time.time())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(told + unknown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
