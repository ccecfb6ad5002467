"""Makes the application's requests to other servers end in time, and those of its imports polite.

Upstream calls ``requests.get`` in many places, half of them without a time limit. Each of them makes a session, and a
session its adapter: that one is replaced here for the whole process, by ``ClusterConfig.ready``. All requests get a
time limit. Those of an import's job wait, too, for a place at the server, which all imports of the platform share,
and for as long as the server asks (429, 503 with ``Retry-After``). The web processes do not wait: somebody sits there.
Schemas (.xsd) are kept for a day: upstream fetches them anew for each page.
"""

from __future__ import annotations

import io
import logging
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from escriptorium_cluster.config import IMPORT
from escriptorium_cluster.politeness import LOOK_SECONDS, BusyError, Patience, Visit, server_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

#: Seconds until a connection is there.
CONNECT_SECONDS = 10.0
#: Seconds that the whole answer to an import may take, however busily it drips.
WHOLE_SECONDS = 900.0
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


class Adapter(HTTPAdapter):
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
        """Send one request; a redirect is another one."""
        limit = (CONNECT_SECONDS, self.policy.silence) if timeout is None else timeout

        def plainly(*, whole: bool = False) -> requests.Response:
            return super(Adapter, self).send(request, whole or stream, limit, verify, cert, proxies)

        if is_schema(request):
            return self.policy.schema(request, plainly)
        return self.policy.politely(request, plainly) if in_import() else plainly()


def is_schema(request: requests.PreparedRequest) -> bool:
    """Whether a request is for an XML schema."""
    return request.method == "GET" and (request.url or "").partition("?")[0].lower().endswith(".xsd")


class Policy:
    """How this site asks other servers.

    :param places: requests to one server at a time, over the whole platform; 0: any number.
    :param patience: seconds that a request waits for what a server asks, in all.
    :param silence: seconds that a server may be silent.
    :param agent: what a request says of who asks.
    """

    def __init__(self, places: int, patience: float, silence: float, agent: str, redis: Callable[[], Any]) -> None:
        self.places = places
        self.patience = patience
        self.silence = silence
        self.agent = agent
        self._redis = redis

    def politely(self, request: requests.PreparedRequest, send: Callable[..., requests.Response]) -> requests.Response:
        """Send a request of an import and read the whole answer, as often as the server asks for.

        :raises BusyServerError: when it asks to wait for too long.
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
                    with Visit(door, secrets.token_hex(8), patience, time.sleep, trouble) as visit:
                        response = send(whole=True)
                        header = response.headers.get("Retry-After")
                        pause = patience.pause(response.status_code, header, datetime.now(UTC))
                        if pause is None:
                            read_whole(response, visit.stay)
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


def read_whole(response: requests.Response, sign_of_life: Callable[[], None]) -> None:
    """Read the content of an answer within the time there is, so that its server is busy no more.

    :raises requests.ConnectionError: when it takes too long or breaks off; upstream repeats the request then.
    """
    end = time.monotonic() + WHOLE_SECONDS
    content = io.BytesIO()
    try:
        for chunk in response.iter_content(CHUNK):
            content.write(chunk)
            sign_of_life()
            if time.monotonic() > end:
                raise requests.exceptions.ConnectionError(f"no whole answer within {WHOLE_SECONDS:.0f} s")
    except requests.exceptions.ChunkedEncodingError as error:
        raise requests.exceptions.ConnectionError(error, request=response.request) from error
    finally:
        response.close()
    # Where the library keeps what it has read.
    response._content = content.getvalue()  # noqa: SLF001


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


def install(places: int, patience: float, silence: float, agent: str, redis_url: str) -> None:
    """Send all requests of this process that way."""
    from redis import Redis

    def redis() -> Any:
        return Redis.from_url(redis_url, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS)

    Adapter.policy = Policy(places, patience, silence, agent, redis)
    # Each session looks its adapter's class up there.
    requests.sessions.HTTPAdapter = Adapter
