"""Requests to other people's servers: no network, no Redis, no Celery; the library that sends is the real one."""

from __future__ import annotations

import http.client
import io
import itertools
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest
import requests
import urllib3.connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMPORT = "imports.tasks.document_import"
#: The clock's own, which a site's stands in for.
PAUSE = time.sleep
PAGE = "https://Images.example.org/page.jpg"
SCHEMA = "https://example.org/alto-4-2.XSD?version=2"


def prepared(url: str = PAGE, method: str = "GET", agent: str = "python-requests/2") -> requests.PreparedRequest:
    return requests.Request(method, url, headers={"User-Agent": agent}).prepare()


def response(status: int = 200, content: bytes = b"content", **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code, made.raw = status, io.BytesIO(content)
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


class Redis:
    """Takes the scripts for places; ``waits``: what they answer, in milliseconds."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.waits: list[int] = []
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def eval(self, script: str, number: int, *rest: Any) -> int:
        if self.error:
            raise self.error
        self.asked.append(("enter" if "ZCARD" in script else "shut" if "SET'" in script else "stay", *rest[:number]))
        self.last = rest[number:]
        return self.waits.pop(0) if self.waits else 0

    def zrem(self, key: str, _: str) -> None:
        self.asked.append(("leave", key))


class Cache:
    """Django's cache."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.seconds: list[int] = []
        self.broken = False

    def get(self, key: str) -> Any:
        if self.broken:
            raise ConnectionError
        return self.kept.get(key)

    def set(self, key: str, value: Any, seconds: int) -> None:
        if self.broken:
            raise ConnectionError
        self.kept[key] = value
        self.seconds.append(seconds)


class Site:
    """The module, its broker, and a clock that moves by sleeping."""

    def __init__(self, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = load("escriptorium_cluster.fetching")
        self.bounded = load("escriptorium_cluster.bounded_answer")
        self.redis, self.cache, self.slept = Redis(), Cache(), list[float]()
        load("django.core.cache").cache = self.cache
        monkeypatch.setattr(self.module.time, "sleep", self.slept.append)
        monkeypatch.setattr(self.module.Policy, "redis", lambda _: self.redis)
        self.policy = self.module.Policy(2, 60.0, 30.0, "eScriptorium (+https://htr)", "redis://")

    def install(self, **settings: Any) -> None:
        usual = {"places": 2, "patience": 60.0, "silence": 30.0, "agent": "agent", "redis_url": "redis://"}
        self.module.install(**usual | settings)

    def politely(self, *answers: requests.Response, agent: str = "python-requests/2") -> requests.Response:
        self.request = prepared(agent=agent)
        left = list(answers)
        found = self.policy.politely(self.request, lambda: left.pop(0))
        assert left == []
        return found  # type: ignore[no-any-return]


@pytest.fixture
def site(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(load, monkeypatch)


BUSY, SHUT = "cluster:imports:busy:images.example.org:443", "cluster:imports:shut:images.example.org:443"


def test_a_request_takes_a_place_and_gives_it_back(site: Site) -> None:
    assert site.politely(response()).content == b"content"
    assert [asked[:2] for asked in site.redis.asked] == [("enter", BUSY), ("leave", BUSY)]
    assert site.request.headers["User-Agent"] == "eScriptorium (+https://htr)"


def test_an_agent_that_somebody_chose_stays(site: Site) -> None:
    site.politely(response(), agent="upstream")
    assert site.request.headers["User-Agent"] == "upstream"


def test_a_place_that_is_taken_is_waited_for(site: Site) -> None:
    site.redis.waits = [250, 250]
    site.politely(response())
    assert site.slept == [0.25, 0.25]
    assert site.redis.last[0] == 2, "so many places there are"


def test_without_a_bound_there_are_places_for_all(site: Site) -> None:
    site.module.RedisDoor(site.redis, "server", 0).enter("token")
    assert site.redis.last[0] > 100_000


def test_a_busy_server_is_asked_again_when_it_says_and_nobody_else_asks_meanwhile(site: Site) -> None:
    site.politely(response(429, Retry_After="7"), response())
    assert site.slept == [7.0]
    assert [asked[:2] for asked in site.redis.asked] == [
        ("enter", BUSY), ("shut", SHUT), ("leave", BUSY), ("enter", BUSY), ("leave", BUSY)
    ]  # fmt: skip


def test_who_asks_for_too_long_ends_the_import_with_a_reason(site: Site) -> None:
    with pytest.raises(
        site.module.BusyServerError, match=r"images\.example\.org answered 503 .* wait for 60 s at most"
    ):
        site.politely(response(503, Retry_After="3600"))
    assert site.redis.asked[-1] == ("leave", BUSY)


def test_a_broker_that_is_away_does_not_stop_an_import(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.redis.error = ConnectionError("away")
    assert site.politely(response(429, Retry_After="1"), response()).status_code == 200
    assert "requests to images.example.org:443 are not counted: away" in caplog.text


def test_a_door_that_is_shut_for_no_time_is_not_shut(site: Site) -> None:
    door = site.module.RedisDoor(site.redis, "server", 1)
    door.shut(0)
    assert site.redis.asked == []
    door.shut(1.5)
    assert site.redis.last == (1500,)


def test_a_place_is_kept_now_and_then(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(site.module.time, "monotonic", lambda: clock[0])
    door = site.module.RedisDoor(site.redis, "server", 1)
    door.enter("token")
    for clock[0] in (101.0, 114.0, 116.0, 117.0):
        door.stay("token")
    assert [asked[0] for asked in site.redis.asked] == ["enter", "stay"]
    assert site.redis.last == ("token", 120_000)


def test_an_answer_that_breaks_off_is_one_that_upstream_repeats(site: Site) -> None:
    def breaks(_: int) -> Any:
        yield b"half"
        raise requests.exceptions.ChunkedEncodingError("broken")

    broken = response()
    broken.iter_content = breaks  # type: ignore[assignment]
    with pytest.raises(requests.exceptions.ConnectionError):
        site.module.read_whole(broken, lambda: None, 1 << 20)


@pytest.mark.parametrize(
    ("made", "schema"),
    [
        (prepared(SCHEMA), True),
        (prepared(SCHEMA, "HEAD"), False),
        (prepared(), False),
        (prepared(f"{PAGE}?a.xsd"), False),
    ],
)
def test_what_is_a_schema(site: Site, made: requests.PreparedRequest, schema: bool) -> None:
    assert site.module.is_schema(made) is schema


def test_a_schema_is_fetched_once_a_day(site: Site) -> None:
    first = site.policy.schema(prepared(SCHEMA), lambda: response(content=b"<schema/>"))
    second = site.policy.schema(prepared(SCHEMA), lambda: pytest.fail("fetched again"))
    assert first.content == second.content == b"<schema/>"
    assert (second.status_code, second.url, second.ok) == (200, SCHEMA, True)
    assert site.cache.seconds == [86400]


def test_a_schema_that_could_not_be_fetched_is_left_alone_for_a_while(site: Site) -> None:
    def fails() -> Any:
        raise requests.exceptions.ReadTimeout("slow")

    with pytest.raises(requests.exceptions.ReadTimeout):
        site.policy.schema(prepared(SCHEMA), fails)
    with pytest.raises(requests.exceptions.ConnectionError, match="ReadTimeout, asked some minutes ago"):
        site.policy.schema(prepared(SCHEMA), lambda: pytest.fail("fetched again"))
    assert site.cache.seconds == [300]


@pytest.mark.parametrize(
    "made", [response(404), response(301, location="/elsewhere"), response(content=b"x" * ((1 << 20) + 1))]
)
def test_what_is_no_schema_is_not_kept(site: Site, made: requests.Response) -> None:
    assert site.policy.schema(prepared(SCHEMA), lambda: made) is made
    assert site.cache.kept == {}


def test_without_a_cache_a_schema_is_fetched(site: Site) -> None:
    site.cache.broken = True
    assert site.policy.schema(prepared(SCHEMA), response).content == b"content"


#: How a server drips one byte at a time: what comes at once, and what follows.
DRIPS = {
    "head": (b"", b"HTTP/1.1 200 OK\r\nX-Long: "),
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b""),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"63\r\n"),
    "end": (b"HTTP/1.1 200 OK\r\n\r\n", b""),
}
#: Seconds between two bytes, for which a server drips, of silence, and of a whole answer.
PACE, DRIPPING, SILENCE, WHOLE = 0.05, 3.0, 0.5, 0.4


@pytest.fixture
def dripping(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Run servers that drip; the process sends its requests as a host does, with short times."""
    monkeypatch.setattr(requests.sessions, "HTTPAdapter", requests.sessions.HTTPAdapter)
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "response_class", http.client.HTTPResponse)
    site.install(silence=SILENCE, internal=["127.0.0.0/8"])
    servers: list[socket.socket] = []

    def drip(server: socket.socket, at_once: bytes, rest: bytes) -> None:
        with suppress(OSError):
            client, _ = server.accept()
            with client:
                client.sendall(at_once)
                end = time.monotonic() + DRIPPING
                for byte in itertools.chain(rest, itertools.repeat(120)):
                    if time.monotonic() > end:
                        return
                    client.sendall(bytes([byte]))
                    PAUSE(PACE)

    def start(how: str) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=drip, args=(server, *DRIPS[how]), daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/image.jpg"

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("how", DRIPS)
def test_an_import_ends_where_a_server_drips(
    site: Site, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, dripping: Callable[[str], str], how: str
) -> None:
    load("celery").current_task = SimpleNamespace(name=IMPORT)
    monkeypatch.setattr(site.module, "WHOLE_SECONDS", WHOLE)
    began = time.monotonic()
    with pytest.raises(site.bounded.SlowServerError, match=r"127\.0\.0\.1 sent no whole answer within 0 s") as caught:
        requests.get(dripping(how), stream=True, timeout=SILENCE)
    assert not isinstance(caught.value, (requests.exceptions.ConnectionError, requests.exceptions.Timeout)), (
        "upstream would ask again, and again"
    )
    assert WHOLE <= time.monotonic() - began < DRIPPING / 2


@pytest.mark.parametrize("how", DRIPS)
@pytest.mark.parametrize(
    ("name", "task", "bound"),
    [("image.jpg", None, "WEB_SECONDS"), ("page.xsd", None, "WEB_SECONDS"), ("page.xsd", IMPORT, "SHORT_SECONDS")],
)
def test_others_wait_for_a_server_that_drips_for_less(  # noqa: PLR0917 - fixtures and a table
    site: Site,
    load: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    dripping: Callable[[str], str],
    how: str,
    name: str,
    task: str | None,
    bound: str,
) -> None:
    """A web process, where somebody waits, and the schema of an import, which it can do without."""
    load("celery").current_task = SimpleNamespace(name=task) if task else None
    monkeypatch.setattr(site.module, bound, WHOLE)
    began = time.monotonic()
    with pytest.raises(site.bounded.SlowServerError):
        requests.get(dripping(how).replace("image.jpg", name), timeout=SILENCE)
    assert WHOLE <= time.monotonic() - began < DRIPPING / 2


def test_redirects_share_the_time_of_a_request(site: Site) -> None:
    def fails(request: requests.PreparedRequest, seconds: float) -> None:
        with site.module.in_time(request, WHOLE):
            PAUSE(seconds)
            raise requests.exceptions.ConnectionError

    request = prepared()
    with pytest.raises(requests.exceptions.ConnectionError):
        fails(request, WHOLE * 0.7)
    with pytest.raises(site.bounded.SlowServerError):
        fails(request.copy(), WHOLE * 0.4)


def test_a_silent_server_is_one_that_upstream_asks_again(
    load: Callable[[str], Any], dripping: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load("celery").current_task = SimpleNamespace(name=IMPORT)
    monkeypatch.setitem(DRIPS, "silent", (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b"x"))
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(dripping("silent"), timeout=PACE / 5)


@pytest.fixture
def sent(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Install the adapter; note which way each request goes, and its time limit."""
    found: list[Any] = []

    def plainly(*_: Any, stream: bool, timeout: Any, **__: Any) -> requests.Response:
        assert stream, "the answer is read by who bounds it"
        found.append(timeout)
        return response()

    def by(name: str) -> Callable[..., requests.Response]:
        def go(_: Any, __: Any, send: Callable[[], requests.Response]) -> requests.Response:
            found.append(name)
            return send()

        return go

    monkeypatch.setattr(requests.sessions, "HTTPAdapter", requests.sessions.HTTPAdapter)
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "response_class", http.client.HTTPResponse)
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", plainly)
    monkeypatch.setattr(site.module.Policy, "politely", by("politely"))
    monkeypatch.setattr(site.module.Policy, "schema", by("schema"))
    site.install()
    return found


@pytest.mark.parametrize(
    ("task", "url", "timeout", "way"),
    [
        (IMPORT, PAGE, None, ["politely", (10.0, 30.0)]),
        ("core.tasks.train", PAGE, None, [(10.0, 30.0)]),
        (None, PAGE, 5, [5]),
        (None, PAGE, None, [(5.0, 5.0)]),
        (IMPORT, SCHEMA, None, ["schema", (10.0, 30.0)]),
    ],
)
def test_each_request_of_the_process_goes_its_way(  # noqa: PLR0917 - fixtures and a table
    load: Callable[[str], Any], sent: list[Any], task: str | None, url: str, timeout: float | None, way: list[Any]
) -> None:
    load("celery").current_task = SimpleNamespace(name=task) if task else None
    requests.Session().get(url, timeout=timeout)
    assert sent == way
