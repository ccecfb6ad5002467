"""A scholar's day in a real browser, in both interfaces of eScriptorium, and what a stranger's browser gets of it.

Needs what test_platform.py and test_gate.py need, and a Chromium of the system: `apt-get install chromium`.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from client import Account, Client, Json, Samples, step, wait_until
from frontend import accounts, needs_frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

sync_api = pytest.importorskip("playwright.sync_api", reason="requirements-acceptance.txt is not installed")
pytestmark = needs_frontend

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SCHOLAR, STRANGER = "browser-scholar", "browser-stranger"
#: Seconds that a page, or what it waits for from a worker, may take.
SECONDS = 120
#: Answers of 400 and more that upstream's own pages ask for, gate or not: method, path, status.
KNOWN: frozenset[tuple[str, str, int]] = frozenset()
#: What a browser gets that is not let in: refused, not found, or the login.
REFUSED = (401, 403, 404)


@dataclass
class Seen:
    """What a browser's pages asked of the site, and what came of it."""

    answers: list[tuple[str, str, int]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)

    def watch(self, page: Any, site: str) -> None:
        """Write down all that a page of the site does from now on."""

        def answered(response: Any) -> None:
            if response.url.startswith(site):
                self.answers.append((response.request.method, urlsplit(response.url).path, response.status))

        def told(message: Any) -> None:
            if re.search("Content.Security.Policy|sandboxed|MIME type", message.text):
                self.violations.append(message.text)

        def opened(socket: Any) -> None:
            self.sockets.append(urlsplit(socket.url).path)
            socket.on("framereceived", lambda frame: self.events.append(str(frame)))

        page.on("response", answered)
        page.on("console", told)
        page.on("websocket", opened)

    def wrong(self) -> list[tuple[str, str, int]]:
        """Return the answers of 400 and more that are not known."""
        return [answer for answer in self.answers if answer[2] >= 400 and answer not in KNOWN]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the system's Chromium."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"this computer has no browser: none of {', '.join(PROGRAMS)}")
    with sync_api.sync_playwright() as driver:
        with step(f"start {program}"):
            started = driver.chromium.launch(executable_path=program)
        yield started
        started.close()


@pytest.fixture(scope="module")
def people(account: Account) -> Iterator[Mapping[str, Account]]:
    """Make a scholar and a stranger."""
    with accounts(account, SCHOLAR, STRANGER) as made:
        yield made


@dataclass
class Desk:
    """A browser with one window, at the site."""

    page: Any
    site: str
    seen: Seen

    def go(self, path: str) -> Any:
        """Open a page and return the answer that came in the end."""
        return self.page.goto(self.site + path, wait_until="load")

    def text(self, selector: str) -> str:
        """Return the text of what a selector finds."""
        return str(self.page.locator(selector).first.inner_text())

    def wait(self, ask: Callable[[], Any], good: Callable[[Any], bool], what: str) -> Any:
        """Ask until the answer is good, while the page goes on."""

        def asked() -> Any:
            self.page.wait_for_timeout(200)
            return ask()

        return wait_until(asked, good, SECONDS, what, 0)

    def images_are_shown(self, selector: str, count: int) -> None:
        """Wait until this many images of the media are there, and each has been drawn."""
        code = "all => all.filter(one => one.complete && one.naturalWidth > 1 && one.src.includes('/media/')).length"
        shown = self.page.locator(selector)
        self.wait(lambda: shown.evaluate_all(code), lambda drawn: drawn == count, f"{count} images at {selector}")

    def log_in(self, account: Account) -> None:
        """Log in by the form."""
        self.go("/login/")
        self.page.fill("input[name=username]", account.user)
        self.page.fill("input[name=password]", account.password)
        with self.page.expect_navigation():
            self.page.click("input[type=submit]")
        assert urlsplit(self.page.url).path == "/projects/", self.page.url

    def send(self, form: str, **fields: str) -> None:
        """Fill a form in and send it."""
        for name, value in fields.items():
            shown = self.page.locator(f"{form} [name={name}]")
            if shown.evaluate("one => one.tagName") == "SELECT":
                shown.select_option(label=value)
            else:
                shown.fill(value)
        with self.page.expect_navigation():
            self.page.click(f"{form} input[type=submit]")


@pytest.fixture
def desk(browser: Any, account: Account) -> Iterator[Callable[[], Desk]]:
    """Open windows of browsers that know nothing of each other."""
    opened: list[Any] = []

    def new() -> Desk:
        # The site's certificate is its own.
        context = browser.new_context(ignore_https_errors=True, viewport={"width": 1600, "height": 1000})
        context.set_default_timeout(SECONDS * 1000)
        site = account.url.rstrip("/")
        # Upstream's pages ask for fonts of other sites; none of that is looked at here.
        context.route(lambda url: not url.startswith(site), lambda route: route.abort())
        opened.append(context)
        # The editor's drawing library puts a class of its own in the place of Symbol, which Playwright needs there.
        context.add_init_script(
            "(kept => Object.defineProperty(window, 'Symbol', {get: () => kept, set() {}}))(Symbol)"
        )
        made = Desk(context.new_page(), site, Seen())
        made.seen.watch(made.page, site)
        # Messages (the first asks for cookies) lie over the page until somebody closes them.
        alert = made.page.locator("#alerts-container .alert .close").first
        made.page.add_locator_handler(alert, lambda button: button.click())
        return made

    yield new
    for context in opened:
        context.close()


def test_a_scholar_works_for_a_day(desk: Callable[[], Desk], people: Mapping[str, Account], samples: Samples) -> None:
    at = desk()
    with step("log in by the form"):
        at.log_in(people[SCHOLAR])
    document = make_a_document(at)
    with step("upload two images"):
        upload(at, document, samples)
    client = Client(people[SCHOLAR])
    client.log_in_with_token()
    with step("draw two lines"):
        part, lines = draw_lines(client, document)
    with step("open the images: each thumbnail is there"):
        before = len(at.seen.answers)
        at.go(f"/document/{document}/images/")
        at.images_are_shown("#cards-container .card img", 2)
        thumbnails = [one for one in at.seen.answers[before:] if one[1].startswith(f"/media/documents/{document}/")]
        assert len(thumbnails) >= 2
        assert {status for _, _, status in thumbnails} == {200}, thumbnails
    with step("open the editor and write a line"):
        at.go(f"/document/{document}/part/{part}/edit/")
        at.page.click("#source-panel-btn")
        at.images_are_shown("#source-panel-img", 1)
        write_line(at, 0, "in principio")
        assert written(client, document, part, lines[0]) == "in principio"
    with step("open models, reports, tasks and profile"):
        for path in ("/models/", f"/document/{document}/edit/", "/quotas/", "/documents/tasks/", "/profile/apikey/"):
            assert at.go(path).status == 200, path
    with step("change to the new interface in the profile"):
        at.go("/profile/")
        at.page.uncheck("[name=legacy_mode]")
        with at.page.expect_navigation():
            at.page.click(".tab-content input[type=submit]")
        assert at.page.locator("#vue-global-nav, .escr-global-nav").first.is_visible()
    with step("open project, document, images and editor there"):
        walk_through_the_new_interface(at, document, part)
    with step("log out by the page's link"):
        at.page.click("button[aria-label='expand user profile menu']")
        with at.page.expect_navigation():
            at.page.click("a[href='/logout/']")
        at.go("/projects/")
        assert urlsplit(at.page.url).path == "/login/"
    client.http.close()
    print(
        f"            {len(at.seen.answers)} answers, {len(at.seen.events)} messages by {len(at.seen.sockets)} sockets"
    )
    assert at.seen.wrong() == []
    assert at.seen.violations == []


def make_a_document(at: Desk) -> int:
    """Make a project and a document in it by the pages' forms; return the document's number."""
    with step("make a project and a document"):
        at.page.click("a[href='/projects/create/']")
        at.send("#project-form", name=time.strftime("browser %H:%M:%S"))
        at.go("/projects/")
        at.page.locator("#project-list a").first.click()
        at.page.click("a[href$='/document/create/']")
        at.send("#document-form", name="a day", main_script="Latin")
    found = re.search(r"/document/(\d+)/", at.page.url)
    assert found, at.page.url
    return int(found.group(1))


def upload(at: Desk, document: int, samples: Samples) -> None:
    """Upload two images by the field of the page; their cards come by the WebSocket, with the thumbnails."""
    at.go(f"/document/{document}/images/")
    at.wait(lambda: at.seen.sockets, lambda paths: "/ws/notif/" in paths, "the page opens its WebSocket")
    kind = "image/png" if samples.image.suffix == ".png" else "image/jpeg"
    files = [
        {"name": f"page{number}{samples.image.suffix}", "mimeType": kind, "buffer": samples.image.read_bytes()}
        for number in (1, 2)
    ]
    at.page.locator("input.dz-hidden-input").first.set_input_files(files)
    at.images_are_shown("#cards-container .card img", 2)
    assert any('"event"' in text for text in at.seen.events), at.seen.events


def draw_lines(client: Client, document: int) -> tuple[int, list[int]]:
    """Draw two lines on the first page; return the numbers of page and lines."""
    part = client.everything(f"documents/{document}/parts/")[0]
    width, height = part["image"]["size"]
    lines = []
    for order in (0, 1):
        top = height * (1 + 3 * order) // 8
        low = top + height // 8
        baseline = [[width // 10, low], [width * 9 // 10, low]]
        mask = [[width // 10, top], [width * 9 // 10, top], *reversed(baseline)]
        made: Json = client.post(
            f"documents/{document}/parts/{part['pk']}/lines/",
            {"document_part": part["pk"], "baseline": baseline, "mask": mask},
        )
        lines.append(int(made["pk"]))
    return part["pk"], lines


def write_line(at: Desk, order: int, text: str) -> None:
    """Open a line of the editor's transcription panel, write its text, and close it.

    What is written before the page has been told of its transcriptions is lost without a word.
    """
    at.page.wait_for_load_state("networkidle")
    at.page.locator("#transcription-panel g polygon").nth(order).click(force=True)
    with at.page.expect_response(lambda answer: "/transcriptions/" in answer.url and answer.request.method != "GET"):
        at.page.fill("#trans-input", text)
        at.page.press("#trans-input", "Enter")


def written(client: Client, document: int, part: int, line: int) -> str:
    """Return the text of a line, as the REST interface has it."""
    rows = client.everything(f"documents/{document}/parts/{part}/transcriptions/")
    return next((str(row["content"]) for row in rows if row["line"] == line), "")


def walk_through_the_new_interface(at: Desk, document: int, part: int) -> None:
    """Open the pages that the new interface draws by itself."""
    at.go("/projects/")
    at.page.locator(".escr-projects-list table tbody tr").first.wait_for()
    at.go(f"/document/{document}/")
    at.page.locator("#document-dashboard h1, .escr-document-dashboard h1").first.wait_for()
    at.go(f"/document/{document}/images/")
    at.images_are_shown(".escr-image-card img", 2)
    at.go(f"/document/{document}/part/{part}/edit/")
    at.images_are_shown("#escr-editor img.panel-img", 1)
    at.page.locator("#escr-editor textPath", has_text="in principio").first.wait_for(state="attached")
    at.go("/models/")
    at.go("/profile/")


def test_a_stranger_gets_nothing_of_it(
    desk: Callable[[], Desk], people: Mapping[str, Account], samples: Samples
) -> None:
    owner = Client(people[SCHOLAR])
    owner.log_in_with_token()
    document = owner.create_document("theirs", owner.create_project("theirs")["slug"])["pk"]
    made = owner.upload_page(document, samples.image)
    part = wait_until(
        lambda: owner.get(f"documents/{document}/parts/{made['pk']}/"),
        lambda answer: bool(answer["image"].get("thumbnails")),
        SECONDS,
        "the thumbnails are made",
    )
    files = [urlsplit(path).path for path in (part["image"]["uri"], *part["image"]["thumbnails"].values())]
    pages = [f"/document/{document}/{page}" for page in ("", "images/", "edit/", f"part/{made['pk']}/edit/")]
    pages += [f"/api/documents/{document}/", f"/api/documents/{document}/parts/{made['pk']}/"]
    mine, theirs, nobody = desk(), desk(), desk()
    with step("ask for a document's addresses as its owner, as another account, and as nobody"):
        mine.log_in(people[SCHOLAR])
        theirs.log_in(people[STRANGER])
        wrong = [path for path in pages + files if mine.go(path).status != 200]
        others = {"stranger": theirs, "nobody": nobody}
        wrong += [f"{who} {path}" for path in pages + files for who, at in others.items() if not refused(at, path)]
    owner.http.close()
    assert wrong == []


def refused(at: Desk, path: str) -> bool:
    """Whether a browser that opens an address is refused, or shown the login."""
    answer = at.go(path)
    return answer.status in REFUSED or urlsplit(at.page.url).path == "/login/"
