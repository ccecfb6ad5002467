"""Which servers a request may go to: the rules, and real requests to a real server by names that lie."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import requests
import urllib3.connection
from escriptorium_cluster.address_rules import AddressRules, is_public, networks, reached
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable, Iterator

IMPORT = "imports.tasks.document_import"
RESOLVE = socket.getaddrinfo
#: Of the public internet: whoever connects to one of them has passed the rules.
PUBLIC, PUBLIC_6 = "93.184.216.34", "2606:2800:220:1::1"
METADATA = "169.254.169.254"
REFUSED = (
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",  # noqa: S104 - nothing is bound to it
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    METADATA,
    "100.64.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2001:0:7f00:1::1",
    "2001:db8::1",
    "3fff::1",
    "fc00::1",
    "fd00::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "localhost",
    "",
)


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not AddressRules().allow(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", PUBLIC_6, f"::ffff:{PUBLIC}", f"64:ff9b::{PUBLIC}"])
def test_the_public_internet_is_allowed(address: str) -> None:
    assert AddressRules().allow(address)


@given(st.ip_addresses(v=6))
def test_no_wrapper_opens_what_is_refused(address: ipaddress.IPv6Address) -> None:
    inner = reached(address)
    if AddressRules().allow(str(address)):
        assert is_public(inner)
        assert not inner.is_private
        assert not inner.is_multicast


def test_a_site_opens_its_own_image_server_and_nothing_beside_it() -> None:
    rules = AddressRules(internal=networks(["10.20.30.40/32", "fd00:1::/64"]))
    assert rules.allow("10.20.30.40")
    assert rules.allow("::ffff:10.20.30.40")
    assert rules.allow("fd00:1::7")
    assert not rules.allow("10.20.30.41")
    assert not rules.allow("fd00:2::7")


def test_hosts_of_the_platform_with_public_addresses_are_refused() -> None:
    rules = AddressRules(internal=networks(["93.184.216.7/32"]), refused=networks(["93.184.216.0/24"]))
    assert not rules.allow(PUBLIC)
    assert rules.allow("93.184.216.7"), "what the operator has named"
    assert rules.allow("93.184.217.1")


def test_a_network_with_bits_beyond_its_prefix_is_no_network() -> None:
    with pytest.raises(ValueError, match="host bits"):
        networks(["10.0.0.1/8"])


class Answers(http.server.BaseHTTPRequestHandler):
    """Redirects where the path says, sends a large answer, or says what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers['Host']}{self.path}")
        head, _, rest = self.path.partition("=")
        content = b"x" * int(rest) if head == "/large" else b"content"
        self.send_response(302 if head == "/to" else 200)
        if head == "/to":
            self.send_header("Location", rest)
        if head == "/large":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", rest if head == "/announced" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


class World:
    """A server on this computer, a resolver that says what a test wants, and the application's ``requests``."""

    def __init__(self, load: Callable[[str], Any], asked: list[str], port: int) -> None:
        self.load, self.asked, self.port = load, asked, port
        self.fetching = load("escriptorium_cluster.fetching")
        self.bounded = load("escriptorium_cluster.bounded_answer")
        self.names: dict[str, list[list[str]]] = {}
        self.resolved: list[str] = []
        self.connected: list[str] = []

    def resolve(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        """Answer as ``getaddrinfo``; a name with several answers gives them in turn, the last one for ever."""
        answers = self.names.get(host)
        if answers is None:
            # Addresses, however they are written.
            return RESOLVE(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        self.resolved.append(host)
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [(kind, socket.SOCK_STREAM, 6, "", (address, port)) for kind, address in zip(kinds, found, strict=True)]

    def reach(self, address: tuple[str, int], *_: Any) -> socket.socket:
        """Connect as urllib3 does: public addresses lead to the server here, all others are noted."""
        self.connected.append(address[0])
        if address[0] == "93.184.216.1":
            raise ConnectionRefusedError("nobody there")
        return socket.create_connection(("127.0.0.1", self.port), 5)

    def install(self, **settings: Any) -> None:
        usual = {"places": 0, "patience": 5.0, "silence": 5.0, "agent": "agent", "redis_url": "redis://"}
        self.fetching.install(**usual | settings)

    def get(self, url: str, task: str | None = None, **options: Any) -> requests.Response:
        self.load("celery").current_task = SimpleNamespace(name=task) if task else None
        return requests.get(url, timeout=5, **options)


@pytest.fixture
def world(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answers,), {"asked": asked}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    made = World(load, asked, server.server_address[1])
    guarded = load("escriptorium_cluster.guarded_connection")
    monkeypatch.setattr(guarded.socket, "getaddrinfo", made.resolve)
    monkeypatch.setattr(guarded, "create_connection", made.reach)
    monkeypatch.setattr(requests.sessions, "HTTPAdapter", requests.sessions.HTTPAdapter)
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "response_class", http.client.HTTPResponse)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made.install()
    monkeypatch.setattr(made.fetching.Policy, "politely", lambda _, __, send: send())
    yield made
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("task", [None, "core.tasks.convert", IMPORT])
def test_a_public_server_is_asked_by_its_name(world: World, task: str | None) -> None:
    world.names["iiif.example.org"] = [[PUBLIC]]
    assert world.get("http://iiif.example.org/page", task).content == b"content"
    assert (world.connected, world.asked) == ([PUBLIC], ["iiif.example.org/page"])


@pytest.mark.parametrize("task", [None, IMPORT])
@pytest.mark.parametrize("address", [METADATA, "10.0.0.1", "::1", "::ffff:169.254.169.254", "fe80::1%eth0"])
def test_a_name_that_means_a_host_inside_is_refused(world: World, task: str | None, address: str) -> None:
    world.names["evil.example.org"] = [[address]]
    with pytest.raises(requests.exceptions.RequestException, match=r"evil\.example\.org has no address") as caught:
        world.get("http://evil.example.org/", task)
    assert not isinstance(caught.value, requests.exceptions.ConnectionError), "upstream would ask again, and again"
    assert world.connected == []


@pytest.mark.parametrize("host", [METADATA, "[::1]", "[::ffff:169.254.169.254]", "2130706433", "127.1", "0x7f.1"])
def test_addresses_are_refused_however_they_are_written(world: World, host: str) -> None:
    with pytest.raises(requests.exceptions.RequestException, match="has no address"):
        world.get(f"http://{host}:{world.port}/")
    assert (world.connected, world.asked) == ([], [])


def test_the_address_that_was_looked_at_is_the_one_that_is_asked(world: World) -> None:
    """A name that means a public host first and one inside a moment later: it is resolved once, and not again."""
    world.names["rebind.example.org"] = [[PUBLIC], ["127.0.0.1"]]
    assert world.get("http://rebind.example.org/a").ok
    assert (world.resolved, world.connected) == (["rebind.example.org"], [PUBLIC])
    with pytest.raises(requests.exceptions.RequestException):
        world.get("http://rebind.example.org/b")
    assert world.connected == [PUBLIC]


def test_of_several_addresses_only_public_ones_are_tried_one_after_the_other(world: World) -> None:
    world.names["both.example.org"] = [["10.0.0.1", "93.184.216.1", "::1", PUBLIC]]
    assert world.get("http://both.example.org/").ok
    assert world.connected == ["93.184.216.1", PUBLIC]


@pytest.mark.parametrize("task", [None, IMPORT])
def test_a_redirect_to_a_host_inside_is_refused(world: World, task: str | None) -> None:
    world.names |= {"iiif.example.org": [[PUBLIC]], METADATA: [[METADATA]]}
    with pytest.raises(requests.exceptions.RequestException, match=METADATA):
        world.get(f"http://iiif.example.org/to=http://{METADATA}/latest/", task)
    assert (world.connected, len(world.asked)) == ([PUBLIC], 1)


def test_an_address_inside_a_manifest_is_refused(world: World) -> None:
    """Each is a request of its own to upstream: the manifest of a public host names a host inside."""
    world.names |= {"iiif.example.org": [[PUBLIC]], "broker": [["10.0.0.5"]]}
    assert world.get("http://iiif.example.org/manifest.json", IMPORT).ok
    with pytest.raises(requests.exceptions.RequestException, match="broker"):
        world.get("http://broker:6379/full/full/0/default.jpg", IMPORT, stream=True, verify=False)
    assert world.connected == [PUBLIC]


def test_a_librarys_own_server_is_asked_where_the_site_says_so(world: World) -> None:
    world.names["iiif.library.test"] = [["10.20.30.40"]]
    with pytest.raises(requests.exceptions.RequestException):
        world.get("http://iiif.library.test/")
    world.install(internal=["10.20.30.40/32"])
    assert world.get("http://iiif.library.test/").ok


def test_hosts_that_the_site_does_not_import_from_are_refused_wherever_they_are_named(world: World) -> None:
    world.names |= {name: [[PUBLIC]] for name in ("iiif.example.org", "other.example.org", "images.example.org")}
    world.install(domains=["IIIF.example.org", "images.example.org:8080"])
    assert world.get("http://iiif.example.org/").ok
    assert world.get("http://images.example.org:8080/").ok
    for url in (
        "http://other.example.org/",
        "http://iiif.example.org/to=http://other.example.org/",
        "http://images.example.org/",
        "http://iiif.example.org@other.example.org/",
    ):
        with pytest.raises(requests.exceptions.RequestException, match="imports nothing from"):
            world.get(url)


def test_schemas_are_fetched_whoever_has_them(world: World) -> None:
    world.names["www.loc.example.org"] = [[PUBLIC]]
    world.install(domains=["iiif.example.org"])
    cache = SimpleNamespace(get=lambda _: None, set=lambda *_: None)
    world.load("django.core.cache").cache = cache
    assert world.get("http://www.loc.example.org/alto.xsd").ok
    world.names["www.loc.example.org"] = [["10.0.0.1"]]
    with pytest.raises(requests.exceptions.RequestException):
        world.get("http://www.loc.example.org/alto.xsd")


@pytest.mark.parametrize("host", ["10.0.0.1", "[::ffff:169.254.169.254]", "inside.example.org"])
def test_a_proxy_of_the_site_is_asked_for_public_servers_only(world: World, host: str) -> None:
    """The proxy's own address is the operator's choice; what only the proxy can resolve is the proxy's to judge."""
    world.names["inside.example.org"] = [["10.0.0.2"]]
    proxies = {"http": f"http://127.0.0.1:{world.port}"}
    assert world.get("http://only-the-proxy-knows.example/", proxies=proxies).ok
    with pytest.raises(requests.exceptions.RequestException, match="has no address"):
        world.get(f"http://{host}/", proxies=proxies)
    assert len(world.asked) == 1


@pytest.mark.parametrize("path", ["/large=", "/announced="])
@pytest.mark.parametrize(("task", "largest"), [(None, 10 << 20), ("core.tasks.convert", 1 << 20), (IMPORT, 1 << 20)])
def test_answers_are_bounded(world: World, task: str | None, largest: int, path: str) -> None:
    """In a web process 10 MiB, in a job what somebody may upload."""
    world.names["iiif.example.org"] = [[PUBLIC]]
    world.install(largest=1 << 20)
    if task == IMPORT:
        policy = world.fetching.Adapter.policy
        world.fetching.Policy.politely = _bounded(world.fetching, policy)
    if path == "/large=":
        assert len(world.get(f"http://iiif.example.org{path}{largest}", task, stream=True).content) == largest
    with pytest.raises(world.bounded.LargeAnswerError, match=f"more than {largest >> 20} MiB"):
        world.get(f"http://iiif.example.org{path}{largest + 1}", task, stream=True)


@pytest.fixture
def slow(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have the resolver be silent, as long as the test goes on."""
    over = threading.Event()

    def silent(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        over.wait(30)
        return world.resolve(host, port)

    world.names["slow.example.org"] = [[PUBLIC]]
    monkeypatch.setattr(world.load("escriptorium_cluster.bounded_lookup").socket, "getaddrinfo", silent)
    yield over
    over.set()


def test_a_resolver_that_is_silent_holds_no_web_process(
    world: World, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.fetching, "WEB_SECONDS", 0.3)
    for proxies in ({}, {"http": f"http://127.0.0.1:{world.port}"}):
        began = time.monotonic()
        with pytest.raises(requests.exceptions.RequestException, match=r"slow\.example\.org sent no whole answer"):
            world.get("http://slow.example.org/", proxies=proxies)
        assert 0.3 <= time.monotonic() - began < 2
    assert (world.connected, world.asked, slow.is_set()) == ([], [], False)


def test_a_resolver_that_is_silent_holds_a_job_until_a_connection_has_to_be_there(
    world: World, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.fetching, "CONNECT_SECONDS", 0.3)
    world.load("celery").current_task = SimpleNamespace(name="core.tasks.convert")
    with pytest.raises(requests.exceptions.ConnectTimeout, match=r"no connection to slow\.example\.org within 0\.3 s"):
        requests.get("http://slow.example.org/")  # noqa: S113 - the process's own
    assert not slow.is_set()


def test_what_a_resolver_says_is_what_is_raised(world: World) -> None:
    lookup = world.load("escriptorium_cluster.bounded_lookup")
    world.names["both.example.org"] = [["10.0.0.1", PUBLIC, "10.0.0.1"]]
    assert lookup.addresses_of("both.example.org", 80, None) == ["10.0.0.1", PUBLIC]
    with pytest.raises(socket.gaierror):
        lookup.addresses_of("nobody.example.org", 80, 5)
    with pytest.raises(UnicodeError):
        lookup.addresses_of("ä" * 70, 80, 5)


def _bounded(fetching: Any, policy: Any) -> Callable[..., Any]:
    def politely(_: Any, __: Any, send: Callable[..., requests.Response]) -> requests.Response:
        answer = send()
        fetching.read_whole(answer, lambda: None, policy.largest)
        return answer

    return politely
