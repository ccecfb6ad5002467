"""A client of the platform's public interface only: HTTPS, the REST API, the login form and the WebSocket.

It knows nothing of hosts, queues or files, and works on eScriptorium 05d3a0d4 and on the stand-in application alike.
"""

from __future__ import annotations

import html
import re
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import websocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

#: States of a task report.
QUEUED, RUNNING, CRASHED, FINISHED, CANCELED = range(5)
FINAL = (CRASHED, FINISHED, CANCELED)
#: Seconds that one request may take.
REQUEST_SECONDS = 60

Json = dict[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Samples:
    """What is uploaded; ``image_name`` is the name that the PAGE file gives the image."""

    image: Path
    xml: Path
    model: Path | None
    image_name: str
    lines: int


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print a step and how many seconds it took."""
    start = time.monotonic()
    try:
        yield
    except BaseException as error:
        print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - start:7.1f} s  FAILED  {what}: {error}", flush=True)
        raise
    print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - start:7.1f} s  {what}", flush=True)


class PlatformError(RuntimeError):
    """The platform answered something else than what was expected; the message holds the answer's beginning."""


@dataclass(frozen=True, slots=True)
class Account:
    """Where the platform is and who logs in; ``ca`` is the file of the authority that signed the certificate."""

    url: str
    user: str
    password: str
    ca: str = ""


class Client:
    """One logged-in user of the REST API."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.base = account.url.rstrip("/") + "/"
        self.http = requests.Session()
        self.http.verify = account.ca or True
        # Without this, requests would prefer what REQUESTS_CA_BUNDLE names to the file above.
        self.http.trust_env = not account.ca

    # --- Requests ------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, *, expect: tuple[int, ...] = (200, 201, 204), **options: Any) -> Any:
        """Send one request to a path below the API and return the decoded answer (None when it is empty).

        :raises PlatformError: when the status is not an expected one.
        """
        answer = self.http.request(method, urljoin(self.base, "api/" + path), timeout=REQUEST_SECONDS, **options)
        if answer.status_code not in expect:
            raise PlatformError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def get(self, path: str, **query: Any) -> Any:
        """Return an object or one page of a list."""
        return self.request("GET", path, params=query)

    def post(self, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """Send JSON."""
        return self.request("POST", path, json=dict(content or {}))

    def everything(self, path: str, **query: Any) -> list[Json]:
        """Return all entries of a list, page by page."""
        answer = self.get(path, **query)
        entries: list[Json] = list(answer["results"])
        while answer["next"]:
            # The address is absolute; only its query is used, whatever scheme and host it names.
            answer = self.request("GET", f"{path}?{urlsplit(answer['next']).query}")
            entries += answer["results"]
        return entries

    # --- Who we are ----------------------------------------------------------------------------------------------

    def log_in_with_token(self) -> None:
        """Ask for the API key with name and password; all later requests carry it.

        :raises PlatformError: when the platform refuses.
        """
        credentials = {"username": self.account.user, "password": self.account.password}
        token = self.post("token-auth/", credentials)["token"]
        self.http.headers["Authorization"] = f"Token {token}"

    def log_in_with_form(self) -> requests.Session:
        """Log in as a browser does and return the session with its cookies.

        :raises PlatformError: when the page has no form or the login is refused.
        """
        browser = requests.Session()
        browser.verify, browser.trust_env = self.http.verify, self.http.trust_env
        page_url = urljoin(self.base, "login/")
        page = browser.get(page_url, timeout=REQUEST_SECONDS)
        found = re.search(r'name="csrfmiddlewaretoken"\s+value="([^"]+)"', page.text)
        if page.status_code != 200 or not found:
            raise PlatformError(f"no login form at {page_url}: {page.status_code}")
        answer = browser.post(
            page_url,
            data={
                "csrfmiddlewaretoken": html.unescape(found.group(1)),
                "username": self.account.user,
                "password": self.account.password,
            },
            headers={"Referer": page_url},
            allow_redirects=False,
            timeout=REQUEST_SECONDS,
        )
        if answer.status_code != 302 or "sessionid" not in browser.cookies:
            raise PlatformError(f"the login form answered {answer.status_code}")
        return browser

    @contextmanager
    def notifications(self, browser: requests.Session, base: str = "") -> Iterator[websocket.WebSocket]:
        """Open the WebSocket of a browser's session; the handshake has to be answered with 101.

        :param base: where it is when that is not the platform's own address (tests without a proxy).
        """
        parts = urlsplit(base or self.base)
        secure = parts.scheme == "https"
        options = {"ca_certs": self.account.ca} if self.account.ca else {"cert_reqs": ssl.CERT_REQUIRED}
        connection = websocket.create_connection(
            f"{'wss' if secure else 'ws'}://{parts.netloc}/ws/notif/",
            timeout=REQUEST_SECONDS,
            cookie="; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.cookies),
            origin=f"{parts.scheme}://{parts.netloc}",
            sslopt=options if secure else None,
        )
        try:
            yield connection
        finally:
            connection.close()

    # --- Documents -----------------------------------------------------------------------------------------------

    def create_project(self, name: str) -> Json:
        """Create a project."""
        project: Json = self.post("projects/", {"name": name})
        return project

    def create_document(self, name: str, project_slug: str) -> Json:
        """Create a document in Latin script, read from left to right."""
        content = {"name": name, "project": project_slug, "main_script": "Latin"}
        document: Json = self.post("documents/", content | {"read_direction": "ltr", "line_offset": 0, "tags": []})
        return document

    def upload_page(self, document: int, image: Path, name: str = "") -> Json:
        """Upload an image; ``name`` is the file name that a PAGE file names (the image's own by default)."""
        with image.open("rb") as handle:
            files = {"image": (name or image.name, handle, "image/png" if image.suffix == ".png" else "image/jpeg")}
            part: Json = self.request("POST", f"documents/{document}/parts/", files=files, data={"name": ""})
        return part

    def import_page_xml(self, document: int, xml: Path, transcription: str) -> None:
        """Import PAGE XML into a transcription of this name."""
        with xml.open("rb") as handle:
            self.request(
                "POST",
                f"documents/{document}/import/",
                files={"upload_file": (xml.name, handle, "text/xml")},
                data={"mode": "xml", "name": transcription, "override": "true"},
            )

    def upload_model(self, file: Path, name: str) -> Json:
        """Upload a recognition model."""
        with file.open("rb") as handle:
            files = {"file": (file.name, handle, "application/octet-stream")}
            model: Json = self.request("POST", "models/", files=files, data={"name": name, "job": "Recognize"})
        return model

    def download(self, location: str) -> bytes:
        """Return a file of the platform, by its address or its name below /media/.

        :raises PlatformError: when it cannot be fetched.
        """
        address = self._media(location)
        answer = self.http.get(address, timeout=REQUEST_SECONDS)
        if answer.status_code != 200:
            raise PlatformError(f"GET {address}: {answer.status_code}")
        return answer.content

    def download_without_login(self, location: str) -> int:
        """Ask for a file of the platform as somebody without an account does, and return the status."""
        return requests.get(self._media(location), timeout=REQUEST_SECONDS, verify=self.http.verify).status_code

    def _media(self, location: str) -> str:
        # Only the path: the API names the host that it was asked by, which need not be the public one.
        path = urlsplit(location).path
        return urljoin(self.base, path if path.startswith("/") else f"/media/{path}")

    # --- Jobs ----------------------------------------------------------------------------------------------------

    def tasks(self, document: int, method: str) -> list[Json]:
        """Return the reports of a document's jobs of one kind (``core.tasks.train``), the newest first."""
        return [task for task in self.everything("tasks/", document=document) if task["method"] == method]

    def wait_for_tasks(self, document: int, method: str, *, count: int = 1, seconds: float = 600) -> list[Json]:
        """Wait until a document has ``count`` ended jobs of one kind; return their reports, the newest first.

        :raises PlatformError: when time is up or one did not finish well.
        """
        ended = wait_until(
            lambda: [task for task in self.tasks(document, method) if task["workflow_state"] in FINAL],
            lambda tasks: len(tasks) >= count,
            seconds,
            f"{count} x {method} on document {document}",
        )
        bad = [task for task in ended if task["workflow_state"] != FINISHED]
        if bad:
            raise PlatformError(f"{method} ended badly: {[(task['workflow_state'], task['messages']) for task in bad]}")
        return ended


def wait_until(
    ask: Callable[[], Value], good: Callable[[Value], bool], seconds: float, what: str, pause: float = 1.0
) -> Value:
    """Ask until the answer is good and return it.

    :param seconds: how long to ask, with ``pause`` seconds between two questions.
    :raises PlatformError: when time is up; the message says what was waited for and the last answer.
    """
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if good(answer):
            return answer
        if time.monotonic() > end:
            raise PlatformError(f"not within {seconds:g} s: {what}; last seen: {str(answer)[-3000:]}")
        time.sleep(pause)
