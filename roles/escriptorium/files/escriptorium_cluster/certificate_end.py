"""When the certificate ends that database and broker show, and what is said of it. No Django.

A run of ``site.yml`` renews it 60 days before. Where nobody has run one for that long, somebody has to be told while
there is time: when it has ended, every process of the platform waits for services that it does not trust any more.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from escriptorium_cluster.config import BrokerConfig

#: Days before the end from which it is told.
TELL_DAYS = 30
#: Seconds that the broker may take.
ANSWER_SECONDS = 10.0
MEND = "Run site.yml with this repository, as for any change: it renews the certificate, and nothing restarts."


def end_of_certificate(broker: BrokerConfig) -> float:
    """Return when the broker's certificate ends, which the database shows too: s since 1970.

    :raises OSError: when the broker does not answer, or shows one that is not good (any more).
    """
    context = broker.tls()
    if context is None:
        raise OSError("connections to the broker are in clear")
    with (
        socket.create_connection((broker.host, broker.port), timeout=ANSWER_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=broker.host) as shielded,
    ):
        shown = shielded.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def warning(broker: BrokerConfig, now: float) -> str:
    """Return what an administrator has to know; nothing where all is well.

    :param now: s since 1970.
    :raises OSError: when the broker does not answer.
    """
    if not broker.authority:
        return ""
    try:
        days = int((end_of_certificate(broker) - now) // 86400)
    except ssl.SSLCertVerificationError as error:
        return f"The certificate of database and broker is refused: {error.verify_message}. {MEND}"
    return f"The certificate of database and broker ends in {days} days. {MEND}" if days < TELL_DAYS else ""
