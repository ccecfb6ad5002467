"""Which addresses a request to another server may go to. Pure: nothing is asked for, nothing is connected to.

An import fetches what a user names, from a host inside: the broker, the router's page and a cloud's metadata would
answer it as they answer the platform. So a request goes to the public internet, and to the networks that the operator
names. What counts is the address that is connected to, never a name: a name means another address a moment later, and
``127.1``, ``0x7f000001`` and ``::ffff:127.0.0.1`` mean the same as ``127.0.0.1``.

The sources are IANA's registries of special-purpose addresses (RFC 6890). Python's ``is_global`` knows most of them;
which ones depends on its version, so that those which matter are named here.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: What ``is_global`` takes for public in some version, and is not: protocol assignments, the relays of 6to4, multicast;
#: and in IPv6 Teredo and its neighbours, 6to4, documentation. The two tunnels carry an IPv4 address to anywhere.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4", "2001::/23", "2002::/16", "3fff::/20")
)
#: The only part of IPv6 that is given out for the public internet.
_UNICAST = ipaddress.IPv6Network("2000::/3")
#: An IPv4 address as networks without IPv4 see it (NAT64, RFC 6052): that address is what is reached.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return networks as they are written: ``10.10.0.0/24``, ``2001:db8::/32``, or one address.

    :raises ValueError: where one is no network, or has bits beyond its prefix.
    """
    return tuple(ipaddress.ip_network(text) for text in texts)


def reached(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address only wraps, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, and to one host of it."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not any(address in network for network in _SPECIAL)


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What this site adds to the public internet, and takes from it.

    :param internal: networks that may be asked though they are not public: a library's own image server.
    :param refused: networks that may not, public or not: the platform's own.
    """

    internal: tuple[Network, ...] = ()
    refused: tuple[Network, ...] = ()

    def allow(self, text: str) -> bool:
        """Whether a request may go to an address, as the resolver writes it; what is no address may not."""
        try:
            address = reached(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        if any(address in network for network in self.internal):
            return True
        return is_public(address) and not any(address in network for network in self.refused)
