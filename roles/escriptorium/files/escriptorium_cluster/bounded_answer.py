"""Answers of other servers that have to be there in time, and no larger than is taken.

A time limit of ``requests`` is one for each silence: a server that sends one byte now and then is never silent. So the
time is looked at before each reading from the network, whoever reads: head, body, or a piece of it.
"""

from __future__ import annotations

import http.client
import io
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import requests

from escriptorium_cluster.politeness import server_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

#: Seconds that an answer may take which nobody has said anything of.
SHORT_SECONDS = 120.0
#: Bytes read at once.
CHUNK = 1 << 16


class SlowServerError(requests.exceptions.RequestException):
    """A server sent no whole answer in the time there is; the message is for the user. Upstream does not repeat it."""


class LargeAnswerError(requests.exceptions.RequestException):
    """An answer is larger than is taken; the message is for the user. Upstream does not repeat it."""


#: When the answers that are awaited now have to be there, by the monotonic clock; elsewhere the short time counts.
answer_end: ContextVar[float] = ContextVar("answer_end")
#: What a request notes beside its hooks: the seconds that the answers to it have taken.
SPENT = "cluster_spent"


class Reading(io.RawIOBase):
    """What comes from a server, until the time for it is over.

    :param raw: reads from the socket.
    """

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, seconds: float) -> None:
        super().__init__()
        self._raw = raw
        self._connection = connection
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what there is, or wait for it.

        :raises TimeoutError: when the server is silent for too long, or the time is over.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole answer within {self._seconds:.0f} s")
        silence = self._connection.gettimeout()
        self._connection.settimeout(left if silence is None else min(silence, left))
        try:
            return self._raw.readinto(buffer)
        finally:
            self._connection.settimeout(silence)

    def close(self) -> None:
        """Let the socket go."""
        self._raw.close()
        super().close()


class Answer(http.client.HTTPResponse):
    """An answer that has to be whole in time. All connections of urllib3, and so of ``requests``, make this one."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        now = time.monotonic()
        seconds = max(0.0, answer_end.get(now + SHORT_SECONDS) - now)
        self.fp = io.BufferedReader(Reading(self.fp.detach(), sock, seconds))


@contextmanager
def in_time(request: requests.PreparedRequest, seconds: float) -> Iterator[None]:
    """Give the answer to a request, and to all to which it is redirected, so much time together.

    :raises SlowServerError: when it is over. A server that was only silent is another thing: it is asked again.
    """
    # The copy of a request that goes where a redirect says has the same hooks.
    left, began = seconds - request.hooks.get(SPENT, 0.0), time.monotonic()
    token = answer_end.set(began + left)
    try:
        yield
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        if time.monotonic() - began < left:
            raise
        name = server_of(request.url or "").rpartition(":")[0]
        text = f"{name} sent no whole answer within {seconds:.0f} s. Import the rest later."
        raise SlowServerError(text, request=request) from error
    finally:
        answer_end.reset(token)
        request.hooks[SPENT] = seconds - left + time.monotonic() - began


def read_whole(response: requests.Response, sign_of_life: Callable[[], None], largest: int) -> None:
    """Read the content of an answer, so that its server is busy no more.

    :param sign_of_life: called now and then, while it comes.
    :param largest: bytes that it may have once it is unpacked; a compressed answer says nothing of that before.
    :raises LargeAnswerError: when it is larger; nothing of it is kept.
    :raises requests.ConnectionError: when it breaks off; upstream repeats the request then.
    """
    content = io.BytesIO()
    try:
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > largest:
            raise LargeAnswerError(_too_large(response, largest), request=response.request)
        for chunk in response.iter_content(CHUNK):
            content.write(chunk)
            if content.tell() > largest:
                raise LargeAnswerError(_too_large(response, largest), request=response.request)
            sign_of_life()
    except requests.exceptions.ChunkedEncodingError as error:
        raise requests.exceptions.ConnectionError(error, request=response.request) from error
    finally:
        response.close()
    # Where the library keeps what it has read.
    response._content = content.getvalue()  # noqa: SLF001


def _too_large(response: requests.Response, largest: int) -> str:
    return f"{server_of(response.url or '').rpartition(':')[0]} sent more than {largest >> 20} MiB in one file."
