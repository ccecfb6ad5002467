"""Bounds on guesses of passwords: the decisions. Pure: no Django, no Redis.

Wrong passwords are counted by account and network, never by the account alone: who knows a name could lock its owner
out from anywhere. nginx bounds what one address may ask, whatever the account (role nginx).
"""

from __future__ import annotations

import hashlib
import ipaddress
import unicodedata
from dataclasses import dataclass
from typing import Protocol

from escriptorium_cluster.texts import in_language

#: Bits of an address that name a network: what one customer of a provider has, at the least.
NETWORK_BITS = {4: 24, 6: 48}
#: By language. ``{minutes}``: time until the count starts anew.
REFUSED = {
    "en": "Too many wrong passwords for this account from your network. Wait {minutes} min, then try again.",
    "fr": "Trop de mots de passe erronés pour ce compte depuis votre réseau. Attendez {minutes} min, puis réessayez.",
    "de": "Zu viele falsche Passwörter für dieses Konto aus Ihrem Netz. Warten Sie {minutes} min, und versuchen Sie es "
    "dann noch einmal.",
}


class Cache(Protocol):
    """What is asked of Django's cache on Redis."""

    def add(self, key: str, value: int, timeout: int) -> bool:
        """Set a value for ``timeout`` s where there is none."""

    def incr(self, key: str) -> int:
        """Add one and return the sum, at once for all processes; its time stays. ValueError: there is none."""

    def get(self, key: str, default: int) -> int:
        """Return a value."""

    def ttl(self, key: str) -> int | None:
        """Return the seconds that a value has left; 0: it is gone. None: it stays."""

    def delete(self, key: str) -> bool:
        """Remove a value."""


def network_of(address: str) -> str:
    """Return the network of an address; the text itself where it is none, as of a socket without addresses."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = getattr(found, "ipv4_mapped", None) or found
    return str(ipaddress.ip_network((mapped, NETWORK_BITS[mapped.version]), strict=False))


def key_of(account: str, address: str) -> str:
    """Return the name of a count. It shows neither: what is typed as a name is a password now and then."""
    # As a form compares names; upper and lower case count as one, so that a guesser gains nothing by them.
    name = unicodedata.normalize("NFKC", account).strip().casefold()
    return "guesses:" + hashlib.sha256(f"{name}\0{network_of(address)}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Guesses:
    """The counts. ``bound``: wrong passwords in ``seconds`` from the first one; 0: any number."""

    cache: Cache
    bound: int
    seconds: int

    def wait(self, account: str, address: str) -> int:
        """Return the seconds until somebody may try again; 0: now."""
        key = key_of(account, address)
        if not self.bound or self.cache.get(key, 0) < self.bound:
            return 0
        return self.cache.ttl(key) or 0

    def count(self, account: str, address: str) -> None:
        """Count a wrong password. The time of the first one goes on."""
        if not self.bound:
            return
        key = key_of(account, address)
        self.cache.add(key, 0, self.seconds)
        try:
            self.cache.incr(key)
        except ValueError:
            # It ran out between the two lines.
            self.cache.add(key, 1, self.seconds)

    def forget(self, account: str, address: str) -> None:
        """Start anew: the right password was given."""
        if self.bound:
            self.cache.delete(key_of(account, address))


def refusal(seconds: int, language: str | None) -> str:
    """Return why a login is refused, in the user's language, or in English."""
    return in_language(REFUSED, language, minutes=max(1, -(-seconds // 60)))
