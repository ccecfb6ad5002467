"""How to ask other people's servers: when to ask again, and how many requests at once. Pure: no network, no Redis.

Upstream's imports handle "too many requests" (429) by sleeping for the text of the header ``Retry-After``, which is a
TypeError that ends the import, and wait nowhere else for what a server asks. See fetching.py for what uses this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

#: Status of an answer to too many requests.
TOO_MANY = 429
#: Status of a server that is busy or in maintenance; asked again only where it says when.
UNAVAILABLE = 503
#: Seconds before the first repetition where a server does not say when; they double each time, up to the second number.
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0
#: Seconds between two looks whether a request may go.
LOOK_SECONDS = 0.25


class BusyError(Exception):
    """A server asks to wait longer than a job does."""


def server_of(url: str) -> str:
    """Return the name and port of the server that an address names, in small letters."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{(parts.hostname or '').lower()}:{port}"


def asked_pause(value: str | None, now: datetime) -> float | None:
    """Return how many seconds a header ``Retry-After`` asks to wait, or None when there is none that can be read.

    :param value: seconds or a date, as RFC 9110 has it.
    """
    text = (value or "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        # A date without a zone is meant as GMT.
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


class Patience:
    """What one request waits for in all, before it is given up.

    :param seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._attempts = 0

    def pause(self, status: int, header: str | None, now: datetime) -> float | None:
        """Return how many seconds to wait before the request is repeated; None: the answer stands.

        :param header: ``Retry-After`` of the answer.
        :raises BusyError: when that would be too long.
        """
        asked = asked_pause(header, now)
        if status != TOO_MANY and (status != UNAVAILABLE or asked is None):
            return None
        own: float = min(FIRST_PAUSE * 2.0**self._attempts, LONGEST_PAUSE)
        # A server that asks for no time at all, again and again, is not taken at its word.
        pause = own if asked is None else max(asked, min(own, 1.0))
        self._attempts += 1
        self.spend(pause, f"answered {status} and asks")
        return pause

    def spend(self, seconds: float, why: str) -> None:
        """Count a wait.

        :raises BusyError: when it would be too long; nothing is counted then.
        """
        if seconds > self.left:
            raise BusyError(f"{why} to wait for {seconds:.0f} s")
        self.left -= seconds


class Door(Protocol):
    """What all processes of the platform know of one server."""

    def enter(self, token: str) -> float:
        """Take one of the places; returns 0, or how many seconds to wait before the next try."""

    def stay(self, token: str) -> None:
        """Keep the place for some more time."""

    def leave(self, token: str) -> None:
        """Give the place back."""

    def shut(self, seconds: float) -> None:
        """Let nobody in for some time: the server has asked for it."""


@dataclass
class Visit:
    """One request's place at a server, as a context. Without an answer of the door, the request goes all the same."""

    door: Door
    token: str
    patience: Patience
    sleep: Callable[[float], None]
    trouble: Callable[[Exception], None]

    def __enter__(self) -> Self:
        """Wait for a place.

        :raises BusyError: when the server is shut for longer than the patience lasts.
        """
        while wait := self._ask():
            if wait > LOOK_SECONDS:
                # Somebody else was told to wait. Then this request waits as well, at its own expense.
                self.patience.spend(wait, "has asked")
            self.sleep(wait)
        return self

    def _ask(self) -> float:
        try:
            return self.door.enter(self.token)
        except Exception as error:
            self.trouble(error)
            return 0.0

    def stay(self) -> None:
        """Keep the place."""
        try:
            self.door.stay(self.token)
        except Exception as error:
            self.trouble(error)

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        try:
            self.door.leave(self.token)
        except Exception as error:
            self.trouble(error)
