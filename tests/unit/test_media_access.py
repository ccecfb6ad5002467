"""Who gets a file of the media, asked of a real nginx with the site's own configuration; the application stands in."""

from __future__ import annotations

import getpass
import http.client
import http.server
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("ansible_plugins")

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx itself is asked here")

#: Content of what the user of session ``alice`` must never see.
SECRET = b"a secret page"
OWN = "/media/documents/1/page.png"
THUMBNAIL = "/media/documents/1/page.png.180x180_q85_crop-smart.jpg"
#: Files below the media folder; alice may read those of document 1, account 7, model 0a1b2c3d.
FILES = {
    "documents/1/page.png": b"\x89PNG own",
    "documents/1/page.png.180x180_q85_crop-smart.jpg": b"thumbnail",
    "documents/1/a b.png": b"blank",
    "documents/1/drawing.svg": b"<svg onload='alert(1)'/>",
    "documents/1/é.png": b"accent",
    "documents/2/secret.png": SECRET,
    "documents/2/sub/secret.png": SECRET,
    "import_src/1/page.xml": b"<html xmlns='http://www.w3.org/1999/xhtml'><script>alert(1)</script></html>",
    "import_src/1/iiif_manifest.json": b"{}",
    "import_src/2/secret.xml": SECRET,
    "import_src/flat.xml": SECRET,
    "users/7/export_doc1_x.zip": b"PK",
    "users/8/secret.zip": SECRET,
    "models/0a1b2c3d/reader.mlmodel": b"model",
    "models/ffffffff/secret.mlmodel": SECRET,
    "models/flat.mlmodel": SECRET,
    "alignments/document-1/t1+w1-66/out.json/part-0.json": b"{}",
    "alignments/document-1/t1+w1-66.json": b"{}",
    "alignments/document-2/t1+w1-66.json": SECRET,
    "witnesses/own_Xy1.txt": b"text",
    "witnesses/secret.txt": SECRET,
    "reclaimed/secret.zip": SECRET,
    ".health-x": SECRET,
    "secret.txt": SECRET,
}
ALICE = {"Cookie": "csrftoken=x; sessionid=alice"}
MAY = {"documents/1", "import_src/1", "users/7", "models/0a1b2c3d", "alignments/1", "witnesses/own_Xy1.txt"}


@dataclass
class Application:
    """What the application was asked, and what it answers: who may read what, by session or key."""

    may: dict[str, set[str]] = field(default_factory=lambda: {"alice": set(MAY), "Token alice": set(MAY)})
    asked: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def answer(self, path: str, headers: dict[str, str]) -> int:
        if path != "/_media":
            return 404
        self.asked.append(headers | {"path": path})
        time.sleep(self.seconds)
        session = re.search(r"sessionid=(\w+)", headers.get("cookie", ""))
        user = headers.get("authorization") or (session[1] if session else "")
        if user not in self.may:
            return 401
        return 204 if f"{headers.get('x-media-kind')}/{headers.get('x-media-id')}" in self.may[user] else 403


class Nginx:
    """nginx on a port of this computer, as the role configures it."""

    def __init__(self, folder: Path, render: Callable[..., str]) -> None:
        self.folder, self.render = folder, render
        self.port, self.backend = free_port(), free_port()
        self.application = Application()
        self.media = folder / "media"
        self.answers = folder / "answers"
        self.certificate = "self_signed"
        for name, content in FILES.items():
            path = self.media / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._process: subprocess.Popen[bytes] | None = None
        self._server: http.server.ThreadingHTTPServer | None = None
        self.start_application()

    def start_application(self) -> None:
        application = self.application

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                found = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(application.answer(self.path, found))
                # What Django adds to an answer, and must not keep nginx from keeping it.
                self.send_header("Set-Cookie", "sessionid=other")
                self.send_header("Vary", "Cookie")
                self.send_header("Cache-Control", "no-store")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.backend), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop_application(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def start(self, **variables: Any) -> None:
        """Write the configuration and start; ports, paths and TLS are this test's."""
        given = {
            "nginx_server_name": "htr.example.org",
            "nginx_ipv6": False,
            "nginx_media_folder": str(self.media),
            "nginx_static_folder": str(self.folder / "static"),
            "nginx_web_address": f"127.0.0.1:{self.backend}",
            "nginx_websocket_address": f"127.0.0.1:{self.backend}",
            "__nginx_media_answers": str(self.answers),
            "__nginx_media_file": str(self.folder / "media.conf"),
            "__nginx_logins": str(self.folder / "logins.conf"),
            "__nginx_tls_kind": str(self.folder / "kind.conf"),
            "nginx_login_rate": 0,
        } | variables
        site = self.render("nginx", "site.conf.j2", **given)
        site = re.sub(r"listen 443 ssl http2", f"listen 127.0.0.1:{self.port}", site)
        site = re.sub(r"listen 80 .*;", f"listen 127.0.0.1:{free_port()};", site)
        # Without TLS nobody names a site but in the request.
        site = re.sub(
            r"map \$ssl_server_name \$foreign_name \{.*?\n\}",
            'map "" $foreign_name { default ""; }',
            site,
            flags=re.DOTALL,
        )
        (self.folder / "site.conf").write_text(re.sub(r"\n *ssl_.*;", "", site))
        (self.folder / "kind.conf").write_text(f"default {self.certificate};\n")
        for name in ("media.conf", "logins.conf"):
            (self.folder / name).write_text(self.render("nginx", f"{name}.j2", **given))
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off;\nmaster_process on;\npid {self.folder}/pid;\nerror_log {self.folder}/error.log info;\n"
            + (f"user {getpass.getuser()};\n" if os.geteuid() == 0 else "")
            + "events {}\nhttp {\naccess_log off;\ndefault_type application/octet-stream;\n"
            "types {text/xml xml; image/png png; image/jpeg jpg; image/svg+xml svg; application/json json;}\n"
            f"{temporary}include {self.folder}/site.conf;\n}}\n"
        )
        command = ["nginx", "-p", str(self.folder), "-e", str(self.folder / "error.log"), "-c", "nginx.conf"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (self.folder / "error.log").read_text()
            time.sleep(0.02)
        raise AssertionError("nginx does not answer")

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)
        self.stop_application()

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a path as it is written, which no client library would do."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in ({"Host": "htr.example.org"} | (headers or {})).items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def stopped(tmp_path: Path, render: Callable[..., str]) -> Iterator[Nginx]:
    made = Nginx(tmp_path, render)
    yield made
    made.stop()


@pytest.fixture
def nginx(stopped: Nginx) -> Nginx:
    stopped.start()
    return stopped


@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        OWN,
        THUMBNAIL,
        "/media/documents/1/a%20b.png",
        "/media/documents/1/%C3%A9.png",
        "/media/import_src/1/page.xml",
        "/media/users/7/export_doc1_x.zip",
        "/media/models/0a1b2c3d/reader.mlmodel",
        "/media/alignments/document-1/t1+w1-66.json",
        "/media/alignments/document-1/t1+w1-66/out.json/part-0.json",
        "/media/witnesses/own_Xy1.txt",
    ],
)
def test_what_one_may_read_is_served_with_a_session_and_with_a_key(nginx: Nginx, path: str) -> None:
    for headers in (ALICE, {"Authorization": "Token alice"}):
        status, _, content = nginx.get(path, headers)
        assert (status, SECRET in content) == (200, False)
        assert content in FILES.values()
    assert nginx.get(path)[0] == 401
    assert nginx.get(path, {"Cookie": "sessionid=mallory"})[0] == 401
    nginx.application.may["eve"] = set()
    assert nginx.get(path, {"Cookie": "sessionid=eve"})[0] == 403


ATTACKS = [
    "/media/documents/2/secret.png",
    "/media/documents/1/../2/secret.png",
    "/media/documents/1/%2e%2e/2/secret.png",
    "/media/documents/1/%2E./2/secret.png",
    "/media/documents/1/..%2f2/secret.png",
    "/media/documents/1%2f..%2f2%2fsecret.png",
    "/media/documents/1/..//2/secret.png",
    "/media/documents/1/.//../2/secret.png",
    "/media/documents/1/%252e%252e/2/secret.png",
    "/media/documents/1/..;/2/secret.png",
    "/media/documents/1/..\\2\\secret.png",
    "/media/documents/1/../../documents/2/secret.png",
    "/media/documents/1/../../secret.txt",
    "/media/documents/1/../../../media/documents/2/secret.png",
    "/media/documents/1/x/../../2/secret.png",
    "/media/documents/2/sub/secret.png",
    "/media/documents/1/../2/sub/secret.png",
    "/media/documents/01/../2/secret.png",
    "/media/documents/2/secret.png?/media/documents/1/page.png",
    "/media/documents/2/secret.png#/media/documents/1/page.png",
    "/media/documents/2/secret.png%00/media/documents/1/page.png",
    "/media/documents/2/secret.png%0d%0aX-Media-Id:%201",
    "/media/documents/1%0d%0aX-Media-Id:%201/../2/secret.png",
    "//media//documents//2//secret.png",
    "/MEDIA/documents/2/secret.png",
    "/static/../media/documents/2/secret.png",
    "/static../media/documents/2/secret.png",
    "/media/import_src/2/secret.xml",
    "/media/import_src/flat.xml",
    "/media/users/8/secret.zip",
    "/media/users/7/../8/secret.zip",
    "/media/models/ffffffff/secret.mlmodel",
    "/media/models/0a1b2c3d/../ffffffff/secret.mlmodel",
    "/media/models/flat.mlmodel",
    "/media/alignments/document-2/t1+w1-66.json",
    "/media/alignments/document-1/../document-2/t1+w1-66.json",
    "/media/alignments/document-1/%2e%2e/%2e%2e/documents/2/secret.png",
    "/media/witnesses/secret.txt",
    "/media/reclaimed/secret.zip",
    "/media/.health-x",
    "/media/secret.txt",
    "/media/",
    "/media/documents/1/",
    "/media/documents/2/",
]


@needs_nginx
def test_no_way_of_writing_an_address_leads_to_another_file_than_was_asked_about(nginx: Nginx) -> None:
    for path in ATTACKS:
        status, _, content = nginx.get(path, ALICE | {"X-Media-Kind": "documents", "X-Media-Id": "1"})
        assert status in {400, 401, 403, 404}, f"{path}: {status}"
        assert SECRET not in content, path
    assert nginx.get(OWN, ALICE)[0] == 200


@needs_nginx
def test_the_question_is_the_applications_alone(nginx: Nginx) -> None:
    """Nobody outside reaches it, and of the request only cookie and key go with it."""
    for path in ("/_media", "/_media?x=1", "/%5fmedia", "//_media"):
        assert nginx.get(path, ALICE)[0] == 404, path
    assert nginx.application.asked == []
    more = {"X-Media-Kind": "users", "X-Media-Id": "9", "Range": "bytes=0-1", "If-None-Match": "x", "X-Other": "y"}
    assert nginx.get(OWN, ALICE | more | {"Content-Length": "0"})[0] in {200, 206}
    (asked,) = nginx.application.asked
    assert asked.pop("connection", "") in {"", "close"}
    assert asked == {
        "path": "/_media",
        "host": "htr.example.org",
        "x-forwarded-proto": "http",
        "cookie": ALICE["Cookie"],
        "x-media-kind": "documents",
        "x-media-id": "1",
    }


@needs_nginx
def test_a_page_of_a_hundred_images_costs_one_question(nginx: Nginx) -> None:
    nginx.application.seconds = 0.2
    with ThreadPoolExecutor(20) as many:
        answers = list(many.map(lambda number: nginx.get(OWN if number % 2 else THUMBNAIL, ALICE)[0], range(100)))
    assert answers == [200] * 100
    assert len(nginx.application.asked) == 1


@needs_nginx
def test_the_answer_is_there_before_a_documents_page_asks_for_its_images(nginx: Nginx) -> None:
    for path in ("/document/1/images/", "/document/2/part/5/edit/", "/document/new/", "/documents/1/", "/document/1"):
        nginx.get(path, ALICE)
    for _ in range(100):
        if len(nginx.application.asked) == 2:
            break
        time.sleep(0.02)
    assert [(one["x-media-kind"], one["x-media-id"], one["cookie"]) for one in nginx.application.asked] == [
        ("documents", "1", ALICE["Cookie"]),
        ("documents", "2", ALICE["Cookie"]),
    ]
    assert (nginx.get(OWN, ALICE)[0], nginx.get("/media/documents/2/secret.png", ALICE)[0]) == (200, 403)
    assert len(nginx.application.asked) == 2


@needs_nginx
def test_images_wait_for_each_others_answer_no_longer_than_they_have_to(nginx: Nginx) -> None:
    nginx.application.seconds = 0.02
    began = time.monotonic()
    with ThreadPoolExecutor(6) as many:
        answers = list(many.map(lambda _: nginx.get(OWN, ALICE)[0], range(6)))
    assert answers == [200] * 6
    assert len(nginx.application.asked) == 1
    assert time.monotonic() - began < 0.45


@needs_nginx
def test_an_answer_is_one_sessions_and_one_folders(nginx: Nginx) -> None:
    assert nginx.get(OWN, ALICE)[0] == 200
    assert nginx.get("/media/documents/2/secret.png", ALICE)[0] == 403
    nginx.application.may["bob"] = {"documents/2"}
    bob = {"Cookie": "sessionid=bob"}
    assert (nginx.get(OWN, bob)[0], nginx.get("/media/documents/2/secret.png", bob)[0]) == (403, 200)
    # A session in place of a key, and both at once, are others.
    assert nginx.get(OWN, {"Authorization": "alice"})[0] == 200
    assert nginx.get(OWN, ALICE | {"Authorization": "Token wrong"})[0] == 401
    assert len(nginx.application.asked) == 6
    modes = {oct(path.stat().st_mode & 0o777) for path in (nginx.answers, *nginx.answers.iterdir())}
    assert modes == {"0o700"}, "the names of its files are made of sessions, and their heads hold them"


@needs_nginx
def test_a_share_that_has_ended_ends_here_soon_after(stopped: Nginx) -> None:
    stopped.start(nginx_media_answer_seconds=1)
    assert stopped.get(OWN, ALICE)[0] == 200
    stopped.application.may["alice"].remove("documents/1")
    end = time.monotonic() + 3
    while stopped.get(OWN, ALICE)[0] == 200:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert stopped.get(OWN, ALICE)[0] == 403


@needs_nginx
def test_nothing_is_served_while_the_application_is_away(nginx: Nginx) -> None:
    nginx.stop_application()
    status, _, content = nginx.get(OWN, ALICE)
    assert (status, b"PNG" in content) == (500, False)


@needs_nginx
def test_a_person_is_led_to_the_login_and_back(nginx: Nginx) -> None:
    status, headers, _ = nginx.get("/media/users/7/export_doc1_x.zip", {"Accept": "text/html,*/*;q=0.8"})
    assert (status, headers["location"]) == (302, "/login/?next=/media/users/7/export_doc1_x.zip")
    assert nginx.get("/media/users/7/export_doc1_x.zip", {"Accept": "image/avif,*/*"})[0] == 401


@needs_nginx
@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (OWN, True),
        (THUMBNAIL, True),
        ("/media/documents/1/drawing.svg", False),
        ("/media/import_src/1/page.xml", False),
        ("/media/import_src/1/iiif_manifest.json", False),
        ("/media/users/7/export_doc1_x.zip", False),
        ("/media/models/0a1b2c3d/reader.mlmodel", False),
        ("/media/witnesses/own_Xy1.txt", False),
    ],
)
def test_a_browser_runs_nothing_of_what_users_upload(nginx: Nginx, path: str, shown: bool) -> None:
    status, headers, _ = nginx.get(path, ALICE)
    assert status == 200
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "private, max-age=300"
    assert headers.get("content-disposition") == (None if shown else "attachment")
    again, known, _ = nginx.get(path, ALICE | {"If-Modified-Since": headers["last-modified"]})
    assert (again, known["content-security-policy"]) == (304, headers["content-security-policy"])


@needs_nginx
@pytest.mark.parametrize(("network", "status", "questions"), [("127.0.0.0/8", 200, 0), ("10.20.0.0/16", 401, 1)])
def test_networks_of_the_site_read_media_without_a_login(
    stopped: Nginx, network: str, status: int, questions: int
) -> None:
    stopped.start(nginx_media_open_networks=["192.0.2.0/24", network])
    assert stopped.get(OWN)[0] == status
    assert len(stopped.application.asked) == questions
    assert stopped.get(OWN, ALICE)[0] == 200
    assert stopped.get("/media/secret.txt")[0] == 404
    assert stopped.get("/_media")[0] == 404


def test_nobody_reads_media_without_a_login_unless_the_site_says_so(render: Callable[..., str]) -> None:
    text = render("nginx", "media.conf.j2", nginx_media_folder="/srv/escriptorium/media")
    assert "auth_request /_media;" in text
    assert not re.search(r"^(satisfy|allow|deny)", text, re.MULTILINE)
    site = render("nginx", "site.conf.j2", nginx_server_name="htr.example.org")
    aliases = re.findall(r"^\s*alias (.*);", site, re.MULTILINE)
    assert not [alias for alias in aliases if "media" in alias], "every file goes through the question"
    assert site.count("include /etc/nginx/escriptorium-media.conf;") == 4


@needs_nginx
def test_browsers_keep_to_tls_once_the_certificate_is_real(stopped: Nginx) -> None:
    stopped.start()
    _, headers, _ = stopped.get(OWN, ALICE)
    assert "strict-transport-security" not in headers
    stopped.stop()
    stopped.start_application()
    stopped.certificate = "real"
    stopped.start()
    for path in (OWN, "/projects/", "/media/documents/1/missing.png"):
        _, headers, _ = stopped.get(path, ALICE)
        assert headers["strict-transport-security"] == "max-age=31536000", path


@needs_nginx
def test_no_other_site_shows_a_page_in_its_own(nginx: Nginx) -> None:
    _, headers, _ = nginx.get("/projects/", ALICE)
    assert headers["content-security-policy"] == "frame-ancestors 'none'; object-src 'none'; base-uri 'self'"


@needs_nginx
@pytest.mark.parametrize("name", ["evil.example.org", "127.0.0.1", "htr.example.org.evil.example.org", ""])
def test_other_names_are_refused(nginx: Nginx, name: str) -> None:
    assert nginx.get("/projects/", {"Host": name})[0] in {400, 421}
    assert nginx.application.asked == []
