"""Connections of the application's ``requests`` that go to allowed addresses only.

The address that the rules have seen is the one that is connected to: between a check of a name and a second look at it
its owner could change it (DNS rebinding). Each redirect and each address inside a manifest makes a connection, and so
comes here too. The name goes on to TLS and to the ``Host`` header as ever.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import urllib3
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectTimeout, RequestException
from requests.utils import select_proxy
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from escriptorium_cluster.address_rules import AddressRules
from escriptorium_cluster.bounded_answer import answer_end
from escriptorium_cluster.bounded_lookup import addresses_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests


class RefusedAddressError(Exception):
    """A name has no address that may be asked. Not an OSError: urllib3 would take it for trouble of the network."""


class RefusedServerError(RequestException):
    """A server may not be asked; the message is for the user. Upstream does not repeat it."""


class Guard:
    """The rules of this process; ``install`` of fetching.py sets them. Without them only the public may be asked."""

    rules = AddressRules()


def allowed_addresses(host: str, port: int, rules: AddressRules, seconds: float | None) -> list[str]:
    """Return the addresses of a name that may be asked, in the resolver's order.

    :param seconds: time for looking the name up, None: the system's.
    :raises socket.gaierror: when the name has none at all.
    :raises TimeoutError: when the time is over.
    :raises RefusedAddressError: when it has none that may be asked.
    """
    addresses = addresses_of(host.strip("[]"), port, seconds)
    allowed = [address for address in addresses if rules.allow(address)]
    if not allowed:
        raise RefusedAddressError(host)
    return allowed


def connect(host: str, port: int, seconds: float | None, *options: Any) -> socket.socket:
    """Connect to one of a name's addresses that may be asked.

    :param seconds: time for looking the name up and for all of them together, None: the system's. Nor is there more
        than the answer has.
    :param options: source address and socket options, as urllib3 passes them.
    :raises OSError: the last one's, where none answers; TimeoutError when the time is over.
    :raises RefusedAddressError: when none may be asked.
    """
    ends = [answer_end.get(None), None if seconds is None else time.monotonic() + seconds]
    end = min((one for one in ends if one is not None), default=None)
    error: OSError = TimeoutError(f"no connection within {seconds} s")
    for address in allowed_addresses(host, port, Guard.rules, left_until(end)):
        left = left_until(end)
        if left == 0:
            break
        try:
            return create_connection((address, port), left, *options)
        except OSError as caught:
            error = caught
    raise error


def left_until(end: float | None) -> float | None:
    """Return the seconds until a moment of the monotonic clock, 0 after it; None where there is none."""
    return None if end is None else max(0.0, end - time.monotonic())


class _Guarded:
    """What both kinds of connections do in urllib3's place."""

    def _new_conn(self: Any) -> socket.socket:
        try:
            return connect(self._dns_host, self.port, self.timeout, self.source_address, self.socket_options)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"no connection to {self.host} within {self.timeout} s") from error
        except OSError as error:
            raise NewConnectionError(self, f"no connection to {self.host}: {error}") from error


class GuardedConnection(_Guarded, urllib3.connection.HTTPConnection):
    """One without TLS."""


class GuardedTlsConnection(_Guarded, urllib3.connection.HTTPSConnection):
    """One with TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = GuardedConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = GuardedTlsConnection


class GuardedAdapter(HTTPAdapter):
    """Sends requests to allowed addresses."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def guarded(
        self,
        request: requests.PreparedRequest,
        proxies: Mapping[str, str] | None,
        send: Callable[[], requests.Response],
    ) -> requests.Response:
        """Send a request, or refuse it.

        A proxy of the site makes the connection itself: there the address is looked at before, and a name that this
        host cannot resolve is the proxy's to judge.

        :raises RefusedServerError: when its server may not be asked.
        """
        url = urllib3.util.parse_url(request.url or "")
        name = url.host or ""
        try:
            if select_proxy(request.url or "", dict(proxies or {})):
                with suppress(socket.gaierror):
                    allowed_addresses(name, url.port or 0, Guard.rules, left_until(answer_end.get(None)))
            return send()
        except TimeoutError as error:
            raise ConnectTimeout(error, request=request) from error
        except RefusedAddressError as error:
            text = f"{name} has no address on the public internet, and this site does not allow its network."
            raise RefusedServerError(text, request=request) from error
