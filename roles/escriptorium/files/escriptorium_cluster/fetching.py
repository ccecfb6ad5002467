"""Makes the application's requests to other servers go where they may, end in time, and those of its imports polite.

Upstream calls ``requests.get`` in many places, half of them without a time limit. Each of them makes a session, and a
session its adapter: that one is replaced here for the whole process, by ``ClusterConfig.ready``. All requests get a
time limit, for each silence and for the whole answer: a server that sends one byte now and then is never silent. The
second is looked at before each reading from the network, whoever reads: head, body, or a piece of it. Those of an
import's job wait, too, for a place at the server, which all imports of the platform share,
and for as long as the server asks (429, 503 with ``Retry-After``). The web processes do not wait: somebody sits there,
and few of them serve everybody; they have 5 s and 10 MiB for what a form names.
Schemas (.xsd) are kept for a day: upstream fetches them anew for each page.

Which addresses may be asked: guarded_connection.py. Which names: the list of the site, which upstream compares with the
first address only, and not with what a redirect or a manifest names. Schemas are fetched whoever has them.
"""

from __future__ import annotations

import http.client
import io
import logging
import secrets
import time
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import requests
import urllib3.connection

from escriptorium_cluster.address_rules import AddressRules, networks
from escriptorium_cluster.config import IMPORT
from escriptorium_cluster.guarded_connection import Guard, GuardedAdapter, RefusedServerError
from escriptorium_cluster.politeness import LOOK_SECONDS, BusyError, Patience, Visit, server_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

#: Seconds until a connection is there.
CONNECT_SECONDS = 10.0
#: Seconds that the whole answer to an import may take, however busily it drips, and one to another job, or a schema.
WHOLE_SECONDS = 900.0
SHORT_SECONDS = 120.0
#: Seconds and bytes of an answer to a web process: a form of upstream's fetches in it what its user names.
WEB_SECONDS = 5.0
WEB_BYTES = 10 << 20
#: Seconds that a place is kept without a sign of life: longer than a server may be silent.
PLACE_SECONDS = 120
#: Bytes read at once.
CHUNK = 1 << 16
#: Seconds that a schema is kept, and that one which could not be fetched is not asked for again.
SCHEMA_SECONDS = 86400
FAILURE_SECONDS = 300
#: Largest schema that is kept, in bytes.
SCHEMA_BYTES = 1 << 20
#: What ``requests`` says of itself; some servers refuse it, and none can tell whom to write to.
PLAIN_AGENT = "python-requests/"
#: Seconds that Redis has for an answer.
REDIS_SECONDS = 5.0

#: Takes a place: 0, or milliseconds to wait. Places whose process died end by themselves.
_ENTER = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local shut = redis.call('PTTL', KEYS[2])
if shut > 0 then return shut end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return tonumber(ARGV[4]) end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 0
"""
_STAY = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'XX', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
#: Never shortens what an earlier answer has asked for.
_SHUT = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], 1, 'PX', ARGV[1]) end
"""


class BusyServerError(requests.exceptions.RequestException):
    """A server asks to wait longer than an import does; the message is for the user."""


class SlowServerError(requests.exceptions.RequestException):
    """A server sent no whole answer in the time there is; the message is for the user. Upstream does not repeat it."""


class LargeAnswerError(requests.exceptions.RequestException):
    """An answer is larger than is taken; the message is for the user. Upstream does not repeat it."""


class Bounds(NamedTuple):
    """How long the answers to one request may take, redirects and all, and how large each of them may be."""

    seconds: float
    bytes: int


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
def in_time(request: requests.PreparedRequest, whole: float | None = None) -> Iterator[None]:
    """Give the answer to a request, and to all to which it is redirected, so much time together.

    :param whole: seconds; None: those of an import.
    :raises SlowServerError: when it is over. A server that was only silent is another thing: it is asked again.
    """
    seconds = WHOLE_SECONDS if whole is None else whole
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


class RedisDoor:
    """One server's places, in Redis."""

    def __init__(self, redis: Any, server: str, places: int) -> None:
        self._redis = redis
        self._busy = f"cluster:imports:busy:{server}"
        self._shut = f"cluster:imports:shut:{server}"
        self._places = places
        self._stayed = 0.0

    def enter(self, token: str) -> float:
        """Take a place, or return how many seconds to wait."""
        look = round(LOOK_SECONDS * 1000)
        # No bound is the same as more places than there are processes.
        places = self._places or 1 << 20
        wait = self._redis.eval(_ENTER, 2, self._busy, self._shut, places, token, PLACE_SECONDS * 1000, look)
        self._stayed = time.monotonic()
        return int(wait) / 1000

    def stay(self, token: str) -> None:
        """Keep the place; asks Redis no more often than needed."""
        if time.monotonic() - self._stayed > PLACE_SECONDS / 8:
            self._redis.eval(_STAY, 1, self._busy, token, PLACE_SECONDS * 1000)
            self._stayed = time.monotonic()

    def leave(self, token: str) -> None:
        """Give the place back."""
        self._redis.zrem(self._busy, token)

    def shut(self, seconds: float) -> None:
        """Let nobody in for some time."""
        if seconds > 0:
            self._redis.eval(_SHUT, 1, self._shut, round(seconds * 1000))


def in_import() -> bool:
    """Whether this code runs for an import's job, which may wait."""
    from celery import current_task

    return bool(current_task) and current_task.name == IMPORT


def in_job() -> bool:
    """Whether this code runs for a job; else somebody waits for a page."""
    from celery import current_task

    return bool(current_task)


class Adapter(GuardedAdapter):
    """Sends requests as said above. ``policy`` is set by ``install``."""

    policy: Policy

    def send(  # noqa: PLR0917 - the library's signature
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request; a redirect is another one.

        :raises RefusedServerError: when its server may not be asked.
        """
        bounds = self.policy.bounds(job=in_job())
        usual = (min(CONNECT_SECONDS, bounds.seconds), min(self.policy.silence, bounds.seconds))

        def send(*, whole: bool) -> requests.Response:
            limit = usual if timeout is None else timeout
            plainly = super(Adapter, self).send
            return self.guarded(request, proxies, lambda: plainly(request, whole, limit, verify, cert, proxies))

        def bounded() -> requests.Response:
            with in_time(request, bounds.seconds):
                response = send(whole=True)
                read_whole(response, lambda: None, bounds.bytes)
                return response

        if is_schema(request):
            return self.policy.schema(request, bounded)
        self.policy.refuse_others(request)
        return self.policy.politely(request, send) if in_import() else bounded()


def is_schema(request: requests.PreparedRequest) -> bool:
    """Whether a request is for an XML schema."""
    return request.method == "GET" and (request.url or "").partition("?")[0].lower().endswith(".xsd")


class Policy:
    """How this site asks other servers.

    :param places: requests to one server at a time, over the whole platform; 0: any number.
    :param patience: seconds that a request waits for what a server asks, in all.
    :param silence: seconds that a server may be silent.
    :param agent: what a request says of who asks.
    :param largest: bytes of an answer to a job.
    :param domains: hosts that may be asked, with or without a port; ``*``: any.
    """

    def __init__(  # noqa: PLR0917 - one for each setting
        self,
        places: int,
        patience: float,
        silence: float,
        agent: str,
        redis: Callable[[], Any],
        largest: int = 150 << 20,
        domains: Sequence[str] = ("*",),
    ) -> None:
        self.largest = largest
        self.domains = frozenset(domain.strip().lower() for domain in domains)
        self.places = places
        self.patience = patience
        self.silence = silence
        self.agent = agent
        self._redis = redis

    def bounds(self, *, job: bool) -> Bounds:
        """Return how long an answer may take and how large it may be, where it does not go to an import."""
        return Bounds(SHORT_SECONDS, self.largest) if job else Bounds(WEB_SECONDS, WEB_BYTES)

    def refuse_others(self, request: requests.PreparedRequest) -> None:
        """Stop a request that goes where the site does not import from.

        :raises RefusedServerError: naming the host.
        """
        if "*" in self.domains:
            return
        server = server_of(request.url or "")
        host = server.rpartition(":")[0]
        if not self.domains & {server, host}:
            text = f"This site imports nothing from {host}. Ask its administrator to add the host to the list."
            raise RefusedServerError(text, request=request)

    def politely(self, request: requests.PreparedRequest, send: Callable[..., requests.Response]) -> requests.Response:
        """Send a request of an import and read the whole answer, as often as the server asks for.

        :raises BusyServerError: when it asks to wait for too long.
        :raises SlowServerError: when it takes too long.
        :raises LargeAnswerError: when the answer is too large.
        """
        if str(request.headers.get("User-Agent", "")).startswith(PLAIN_AGENT):
            request.headers["User-Agent"] = self.agent
        server = server_of(request.url or "")
        patience = Patience(self.patience)

        def trouble(error: Exception) -> None:
            logger.warning("requests to %s are not counted: %s", server, error)

        try:
            with self._redis() as redis:
                door = RedisDoor(redis, server, self.places)
                while True:
                    with Visit(door, secrets.token_hex(8), patience, time.sleep, trouble) as visit, in_time(request):
                        response = send(whole=True)
                        header = response.headers.get("Retry-After")
                        pause = patience.pause(response.status_code, header, datetime.now(UTC))
                        if pause is None:
                            read_whole(response, visit.stay, self.largest)
                            return response
                        response.close()
                        logger.info("%s answered %s: again in %.1f s", server, response.status_code, pause)
                        try:
                            door.shut(pause)
                        except Exception as error:
                            trouble(error)
                    # Beyond what the door knows, so that its last moment is over.
                    time.sleep(pause)
        except BusyError as error:
            raise BusyServerError(
                f"{server.partition(':')[0]} {error}; imports here wait for {self.patience:.0f} s at most. "
                "Import the rest later.",
                request=request,
            ) from error

    def schema(self, request: requests.PreparedRequest, send: Callable[..., requests.Response]) -> requests.Response:
        """Send a request for a schema, or answer it from what is kept.

        :raises requests.ConnectionError: when it could not be fetched some minutes ago.
        """
        from django.core.cache import cache

        key = f"cluster:schema:{request.url}"
        try:
            kept = cache.get(key)
        except Exception:
            return send()
        if isinstance(kept, bytes):
            return answer(request, kept)
        if kept:
            raise requests.exceptions.ConnectionError(f"{kept}, asked some minutes ago", request=request)
        try:
            response = send()
            content = response.content
        except requests.exceptions.RequestException as error:
            _keep(cache, key, type(error).__name__, FAILURE_SECONDS)
            raise
        if response.ok and len(content) <= SCHEMA_BYTES and not response.is_redirect:
            _keep(cache, key, content, SCHEMA_SECONDS)
        return response


def _keep(cache: Any, key: str, value: Any, seconds: int) -> None:
    try:
        cache.set(key, value, seconds)
    except Exception:
        logger.warning("could not keep %s", key, exc_info=True)


def read_whole(response: requests.Response, sign_of_life: Callable[[], None], largest: int) -> None:
    """Read the content of an answer, so that its server is busy no more.

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


def answer(request: requests.PreparedRequest, content: bytes) -> requests.Response:
    """Return an answer with a content that is there already."""
    made = requests.Response()
    made.status_code, made.reason = 200, "OK"
    made.url, made.request = request.url or "", request
    made.headers["Content-Type"] = "application/xml"
    made.raw = io.BytesIO(content)
    made._content = content  # noqa: SLF001 - as above
    made._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    return made


def install(  # noqa: PLR0917 - one for each setting
    places: int,
    patience: float,
    silence: float,
    agent: str,
    redis_url: str,
    largest: int = 150 << 20,
    domains: Sequence[str] = ("*",),
    internal: Sequence[str] = (),
    refused: Sequence[str] = (),
) -> None:
    """Send all requests of this process that way.

    :param internal: networks that may be asked though they are not public.
    :param refused: networks that may not, public or not.
    :raises ValueError: where one of them is no network.
    """
    from redis import Redis

    def redis() -> Any:
        return Redis.from_url(redis_url, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS)

    Guard.rules = AddressRules(networks(internal), networks(refused))
    Adapter.policy = Policy(places, patience, silence, agent, redis, largest, domains)
    urllib3.connection.HTTPConnection.response_class = Answer
    # Each session looks its adapter's class up there.
    requests.sessions.HTTPAdapter = Adapter
