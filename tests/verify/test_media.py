"""Who gets a file of the media, what an upload may hold and where an import may go, as users see it over HTTPS."""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import time
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support import REQUEST_TIMEOUT, Site, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

pytestmark = pytest.mark.scenario("single", "cluster")

MEDIA = "/srv/escriptorium/media"
#: What eve must never see.
SECRET = "a page of alice"
#: As an ALTO file was tried: opened in a browser, it ran with the rights of who opened it.
SCRIPT = "<html xmlns='http://www.w3.org/1999/xhtml'><script>alert(document.cookie)</script></html>"
#: Three accounts; a document of each of two, with what its folders hold.
_MAKE = """
import json, os
from core.models import Document, Project
from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

users, found = get_user_model().objects, {}
for name in ("alice", "bob", "eve"):
    users.filter(username=name).delete()
    user = users.create_user(name, name + "@media.test", "horse-battery-" + name)
    project = Project.objects.create(name="media of " + name, owner=user)
    document = Document.objects.create(name="media of " + name, project=project, owner=user)
    found[name] = [user.pk, document.pk]
    text = ContentFile(b"a page of " + name.encode())
    for path in ("documents/%d/page.png", "documents/%d/page.png.180x180_q85_crop-smart.jpg"):
        default_storage.save(path % document.pk, text)
    default_storage.save("import_src/%d/page.xml" % document.pk, ContentFile(SCRIPT))
    default_storage.save("users/%d/export_x.zip" % user.pk, text)
print(json.dumps(found))
"""
_SHARE = """
from core.models import Document
from django.contrib.auth import get_user_model
getattr(Document.objects.get(pk={document}).shared_with_users, {change!r})(get_user_model().objects.get(username="bob"))
"""


@dataclass(frozen=True)
class People:
    """Sessions by name (``nobody`` has none), and each one's account and document."""

    site: Site
    frontend: Any
    sessions: dict[str, requests.Session]
    keys: dict[str, list[int]]

    def account(self, name: str) -> int:
        return self.keys[name][0]

    def document(self, name: str) -> int:
        return self.keys[name][1]

    def get(self, name: str, path: str, **headers: str) -> requests.Response:
        """Ask for a path below /media/ as a browser does."""
        url = f"{self.site.base}/media/{path}"
        return self.sessions[name].get(url, headers=headers, allow_redirects=False, timeout=REQUEST_TIMEOUT)

    def status(self, name: str, path: str) -> int:
        return self.get(name, path).status_code

    def share(self, change: str) -> None:
        manage(self.frontend, _SHARE.format(document=self.document("alice"), change=change))


def manage(frontend: Any, code: str) -> str:
    """Run code in the application and return what it prints."""
    return str(frontend.check_output("/usr/local/bin/escriptorium-manage shell -c %s", code))


@pytest.fixture(scope="module")
def people(site: Site, frontend: Any) -> Iterator[People]:
    keys = json.loads(manage(frontend, f"SCRIPT = {SCRIPT!r}\n{_MAKE}").splitlines()[-1])
    sessions = {"nobody": site.session()}
    for name in keys:
        session, reply = site.log_in(f"horse-battery-{name}", name)
        assert reply.status_code == 302, name
        sessions[name] = session
    yield People(site, frontend, sessions, keys)
    for account, document in keys.values():
        frontend.check_output(f"rm -rf {MEDIA}/documents/{document} {MEDIA}/import_src/{document}")
        frontend.check_output(f"rm -rf {MEDIA}/users/{account}")
    manage(
        frontend,
        "from core.models import Project\nfrom django.contrib.auth import get_user_model\n"
        "Project.objects.filter(owner__email__endswith='@media.test').delete()\n"
        "get_user_model().objects.filter(email__endswith='@media.test').delete()\n",
    )


def test_files_are_for_those_who_may_read_them(people: People) -> None:
    document = people.document("alice")
    for path in (
        f"documents/{document}/page.png",
        f"documents/{document}/page.png.180x180_q85_crop-smart.jpg",
        f"import_src/{document}/page.xml",
        f"users/{people.account('alice')}/export_x.zip",
    ):
        assert people.status("alice", path) == 200, path
        assert people.status("eve", path) == 403, path
        assert people.status("nobody", path) == 401, path
    # With a key, as programs do; the administrator reads all.
    url = f"{people.site.base}/media/documents/{document}/page.png"
    assert people.site.api.session.get(url, timeout=REQUEST_TIMEOUT).text == SECRET
    wrong = {"Authorization": "Token 0"}
    assert people.site.session().get(url, headers=wrong, timeout=REQUEST_TIMEOUT).status_code == 401


def test_a_share_opens_files_and_its_end_shuts_them(people: People) -> None:
    path = f"documents/{people.document('alice')}/page.png"
    assert people.status("bob", path) == 403
    people.share("add")
    wait_for("the share", lambda: people.status("bob", path) == 200, timeout=10)
    people.share("remove")
    wait_for("the end of the share", lambda: people.status("bob", path) == 403, timeout=10)
    assert people.status("alice", path) == 200


def raw(people: People, name: str, path: str) -> tuple[int, str]:
    """Send a path as it is written; client libraries would mend it."""
    site = people.site
    context = ssl.create_default_context(cafile=str(site.certificate))
    connection = http.client.HTTPSConnection(site.domain, timeout=REQUEST_TIMEOUT, context=context)
    plain = socket.create_connection((site.address, 443), timeout=REQUEST_TIMEOUT)
    connection.sock = context.wrap_socket(plain, server_hostname=site.domain)
    connection.putrequest("GET", path)
    cookies = people.sessions[name].cookies
    connection.putheader("Cookie", "; ".join(f"{cookie.name}={cookie.value}" for cookie in cookies))
    connection.putheader("X-Media-Kind", "documents")
    connection.putheader("X-Media-Id", str(people.document(name)))
    connection.endheaders()
    reply = connection.getresponse()
    found = reply.status, reply.read().decode(errors="replace")
    connection.close()
    return found


def test_no_way_of_writing_an_address_opens_a_foreign_file(people: People) -> None:
    own, foreign = people.document("eve"), people.document("alice")
    assert raw(people, "eve", f"/media/documents/{own}/page.png") == (200, "a page of eve")
    for path in (
        f"/media/documents/{own}/../{foreign}/page.png",
        f"/media/documents/{own}/%2e%2e/{foreign}/page.png",
        f"/media/documents/{own}/..%2f{foreign}/page.png",
        f"/media/documents/{own}%2f..%2f{foreign}%2fpage.png",
        f"/media/documents/{own}/%252e%252e/{foreign}/page.png",
        f"/media/documents/{own}/.//..//{foreign}/page.png",
        f"//media//documents//{foreign}//page.png",
        f"/static../media/documents/{foreign}/page.png",
        f"/media/users/{people.account('eve')}/../../documents/{foreign}/page.png",
        f"/media/documents/{foreign}/page.png?/media/documents/{own}/page.png",
        f"/media/documents/{foreign}/page.png%0d%0aX-Media-Id:%20{own}",
        "/_media",
        "/media/",
    ):
        status, text = raw(people, "eve", path)
        assert status in {400, 401, 403, 404}, f"{path}: {status}"
        assert SECRET not in text, path


def test_an_uploaded_file_is_saved_and_runs_nothing(people: People) -> None:
    reply = people.get("alice", f"import_src/{people.document('alice')}/page.xml")
    assert (reply.status_code, reply.text) == (200, SCRIPT)
    assert reply.headers["Content-Disposition"] == "attachment"
    image = people.get("alice", f"documents/{people.document('alice')}/page.png")
    assert "Content-Disposition" not in image.headers
    for one in (reply, image):
        assert one.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
        assert one.headers["X-Content-Type-Options"] == "nosniff"
        assert one.headers["Cache-Control"] == "private, max-age=300"


def test_a_link_in_a_mail_leads_to_the_login_and_on(people: People) -> None:
    path = f"users/{people.account('alice')}/export_x.zip"
    reply = people.get("nobody", path, Accept="text/html,*/*;q=0.8")
    assert (reply.status_code, reply.headers["Location"]) == (302, f"/login/?next=/media/{path}")


def test_what_nginx_keeps_of_answers_is_its_own(people: People) -> None:
    """The folder's files name sessions."""
    look = "stat --format '%a %U' /run/nginx-media-answers; findmnt --noheadings --output FSTYPE --target /run"
    assert people.frontend.check_output(look).split() == ["700", "www-data", "tmpfs"]


def test_a_bomb_and_a_file_that_runs_code_are_refused_with_their_reason(people: People) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("page.xml", "w") as file:
        for _ in range(100):
            file.write(b"\0" * (1 << 20))
    session = people.site.api.session
    for name, content, reason in (
        ("bomb.zip", held.getvalue(), "more than 100 times larger unpacked"),
        ("reader.ckpt", b"", "are not taken"),
        ("reader.mlmodel", b"no model", "no model that Kraken can read"),
    ):
        files = {"file": (name, content, "application/octet-stream")}
        data = {"name": name, "job": "Recognize"}
        reply = session.post(f"{people.site.base}/api/models/", data=data, files=files, timeout=REQUEST_TIMEOUT)
        assert reply.status_code == 400, name
        assert reason in reply.text


@pytest.mark.parametrize("host", ["169.254.169.254", "127.0.0.1:6379", "[::1]", "[::ffff:127.0.0.1]", "2130706433"])
def test_an_import_does_not_reach_hosts_inside(people: People, host: str) -> None:
    document, _ = people.site.api.document(f"import from {host}", pages=0)
    began = time.monotonic()
    reply = people.site.api.session.post(
        f"{people.site.base}/api/documents/{document}/import/",
        json={"mode": "iiif", "iiif_uri": f"http://{host}/manifest.json"},
        timeout=REQUEST_TIMEOUT,
    )
    assert reply.status_code == 400
    assert time.monotonic() - began < 10
