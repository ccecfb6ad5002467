"""Makes the application's requests to other servers go where they may, end in time, and those of its imports polite.

Upstream calls ``requests.get`` in many places, half of them without a time limit. Each of them makes a session, and a
session its adapter: that one is replaced here for the whole process, by ``ClusterConfig.ready``. All requests get a
time limit, for each silence and for the whole answer, and all answers a largest size (bounded_answer.py). Those of an
import's job wait, too, for a place at the server (import_door.py), and for as long as the server asks (429, 503 with
``Retry-After``). The web processes do not wait: somebody sits there, and few of them serve everybody; they have 5 s and
10 MiB for what a form names. Schemas (.xsd) are kept for a day: upstream fetches them anew for each page.

Which addresses may be asked: guarded_connection.py. Which names: the list of the site, which upstream compares with the
first address only, and not with what a redirect or a manifest names. Schemas are fetched whoever has them.
"""

from __future__ import annotations

import io
import logging
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import requests
import urllib3.connection

from escriptorium_cluster.address_rules import AddressRules, networks
from escriptorium_cluster.bounded_answer import SHORT_SECONDS, Answer, in_time, read_whole
from escriptorium_cluster.config import IMPORT
from escriptorium_cluster.guarded_connection import Guard, GuardedAdapter, RefusedServerError
from escriptorium_cluster.import_door import RedisDoor
from escriptorium_cluster.politeness import BusyError, Patience, Visit, server_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

#: Seconds until a connection is there.
CONNECT_SECONDS = 10.0
#: Seconds that the whole answer to an import may take, however busily it drips.
WHOLE_SECONDS = 900.0
#: Seconds and bytes of an answer to a web process: a form of upstream's fetches in it what its user names.
WEB_SECONDS = 5.0
WEB_BYTES = 10 << 20
#: Seconds that a schema is kept, and that one which could not be fetched is not asked for again.
SCHEMA_SECONDS = 86400
FAILURE_SECONDS = 300
#: Largest schema that is kept, in bytes.
SCHEMA_BYTES = 1 << 20
#: What ``requests`` says of itself; some servers refuse it, and none can tell whom to write to.
PLAIN_AGENT = "python-requests/"
#: Seconds that Redis has for an answer.
REDIS_SECONDS = 5.0


class BusyServerError(requests.exceptions.RequestException):
    """A server asks to wait longer than an import does; the message is for the user."""


class Bounds(NamedTuple):
    """How long the answers to one request may take, redirects and all, and how large each of them may be."""

    seconds: float
    bytes: int


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

        def send() -> requests.Response:
            limit = usual if timeout is None else timeout
            # The answer is read here, whatever the caller wants: in time, and no more than is taken.
            plainly = partial(super(Adapter, self).send, request, stream=True, timeout=limit, verify=verify)
            return self.guarded(request, proxies, lambda: plainly(cert=cert, proxies=proxies))

        def bounded() -> requests.Response:
            with in_time(request, bounds.seconds):
                response = send()
                read_whole(response, lambda: None, bounds.bytes)
                return response

        if is_schema(request):
            return self.policy.schema(request, bounded)
        self.policy.refuse_others(request)
        return self.policy.politely(request, send) if in_import() else bounded()


def is_schema(request: requests.PreparedRequest) -> bool:
    """Whether a request is for an XML schema."""
    return request.method == "GET" and (request.url or "").partition("?")[0].lower().endswith(".xsd")


@dataclass(frozen=True)
class Policy:
    """How this site asks other servers.

    :param places: requests to one server at a time, over the whole platform; 0: any number.
    :param patience: seconds that a request waits for what a server asks, in all.
    :param silence: seconds that a server may be silent.
    :param agent: what a request says of who asks.
    :param redis_url: where the places are kept.
    :param largest: bytes of an answer to a job.
    :param domains: hosts that may be asked, with or without a port; ``*``: any.
    """

    places: int
    patience: float
    silence: float
    agent: str
    redis_url: str
    largest: int = 150 << 20
    domains: Sequence[str] = ("*",)

    def redis(self) -> Any:
        """Return a connection to Redis."""
        from redis import Redis

        return Redis.from_url(self.redis_url, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS)

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
        if not {server, host} & {domain.strip().lower() for domain in self.domains}:
            text = f"This site imports nothing from {host}. Ask its administrator to add the host to the list."
            raise RefusedServerError(text, request=request)

    def politely(self, request: requests.PreparedRequest, send: Callable[[], requests.Response]) -> requests.Response:
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
            with self.redis() as redis:
                door = RedisDoor(redis, server, self.places)
                while True:
                    visiting = Visit(door, secrets.token_hex(8), patience, time.sleep, trouble)
                    with visiting as visit, in_time(request, WHOLE_SECONDS):
                        response = send()
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

    def schema(self, request: requests.PreparedRequest, send: Callable[[], requests.Response]) -> requests.Response:
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


def answer(request: requests.PreparedRequest, content: bytes) -> requests.Response:
    """Return an answer with a content that is there already."""
    made = requests.Response()
    made.status_code, made.reason = 200, "OK"
    made.url, made.request = request.url or "", request
    made.headers["Content-Type"] = "application/xml"
    made.raw = io.BytesIO(content)
    # Where the library keeps what it has read.
    made._content = content  # noqa: SLF001
    made._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    return made


def install(internal: Sequence[str] = (), refused: Sequence[str] = (), **policy: Any) -> None:
    """Send all requests of this process that way.

    :param internal: networks that may be asked though they are not public.
    :param refused: networks that may not, public or not.
    :param policy: what ``Policy`` says of the site.
    :raises ValueError: where one of them is no network.
    """
    Guard.rules = AddressRules(networks(internal), networks(refused))
    Adapter.policy = Policy(**policy)
    urllib3.connection.HTTPConnection.response_class = Answer
    # Each session looks its adapter's class up there.
    requests.sessions.HTTPAdapter = Adapter
