"""The gate beside a real application: who may do what over HTTP and WebSocket, and what ends a key."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import requests
import websocket
from application_bench import START, reserved_ports
from client import Account, Client, wait_until
from gate_table import SECRET, SETUP, STATE, World, differences, wrong_grants, wrong_refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from application_bench import Bench

HOST = {"Host": "htr.test"}


def answers(url: str) -> bool:
    """Whether a server listens."""
    try:
        requests.get(url, headers=HOST, timeout=10)
    except requests.RequestException:  # not there yet, or listening while it still loads
        return False
    return True


@pytest.fixture(scope="module")
def web(bench: Bench) -> str:
    """Start Daphne for pages; return the web address."""
    bench.prepare()
    bench.start(
        "web", "daphne", "--bind", "127.0.0.1", "--port", str(bench.ports["web"]), "-v", "1",
        "escriptorium.asgi:application",
    )  # fmt: skip
    wait_until(partial(answers, bench.url("web") + "/login/"), bool, START, "web", 0.1)
    return bench.url("web")


@pytest.fixture(scope="module")
def world(bench: Bench, web: str) -> Iterator[World]:
    """Give the accounts and objects of the table."""
    made = World(web, bench.shell(SETUP))
    yield made
    made.close()


def test_what_is_not_theirs_is_refused_and_nothing_changes(bench: Bench, world: World) -> None:
    before = bench.shell(STATE)
    assert "\n".join(wrong_refusals(world, stand_in=bench.stand_in)) == ""
    assert differences(before, bench.shell(STATE)) == "{}"


def test_what_is_theirs_goes_on_working(bench: Bench, world: World) -> None:
    assert "\n".join(wrong_grants(world, stand_in=bench.stand_in)) == ""


# --- keys of programs ---------------------------------------------------------------------------------------------


def with_key(world: World, who: str, path: str) -> int:
    """Return the status of a request with one's key."""
    headers = {"Authorization": f"Token {world.found['token_' + who]}"}
    return requests.get(f"{world.url}/{path}", headers=headers, timeout=60, allow_redirects=False).status_code


@pytest.mark.parametrize("path", ["projects/", "profile/apikey/", "admin/", "admin/users/user/"])
def test_a_key_opens_the_rest_interface_and_nothing_else(world: World, path: str) -> None:
    assert with_key(world, "superuser", "api/users/current/") == 200
    assert with_key(world, "superuser", path) == 302, "to the login"


def test_a_page_is_for_the_user_of_the_session_whatever_key_comes_along(world: World) -> None:
    """escriptorium-connector sends both: it edits a document's types on the page for people."""
    key = {"Authorization": f"Token {world.found['token_superuser']}"}
    page = world.session("stranger").get(world.address("profile/apikey/"), headers=key, timeout=60)
    assert page.status_code == 200
    assert world.found["token_stranger"] in page.text
    assert world.found["token_superuser"] not in page.text


def test_keys_are_listed_and_end_by_a_command(bench: Bench, world: World) -> None:
    listed = bench.python("manage.py", "api_keys")
    assert "  gate-other  opens the API\n" in listed.stdout, listed.stderr[-2000:]
    assert world.found["token_other"] not in listed.stdout
    assert with_key(world, "other", "api/users/current/") == 200
    ended = bench.python("manage.py", "api_keys", "--revoke", "gate-other")
    assert ended.stdout == "ended the key of gate-other\n", ended.stderr[-2000:]
    assert with_key(world, "other", "api/users/current/") == 401
    assert bench.python("manage.py", "api_keys", "--revoke", "gate-who").returncode == 1


def keys_after(bench: Bench, change: str) -> int:
    """Return how many keys an account has that had one, after a change of it."""
    found: int = bench.shell(f"""
import json
from django.contrib.auth import get_user_model
from rest_framework.authtoken.models import Token
user = get_user_model().objects.get(username="gate-other")
Token.objects.get_or_create(user=user)
{change}
print(json.dumps(Token.objects.filter(user=user).count()))
""")
    return found


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("user.first_name = 'O'; user.save()", 1),
        ("user.last_login = user.date_joined; user.save(update_fields=['last_login'])", 1),
        ("user.set_password('another-gate-of-seven'); user.save()", 0),
        ("user.is_active = False; user.save()", 0),
        ("user.is_active = True; user.save()", 0),
        ("user.__class__.objects.filter(pk=user.pk).update(is_active=False); user.is_active = True; user.save()", 0),
    ],
)
def test_a_key_ends_with_its_account(bench: Bench, world: World, change: str, left: int) -> None:
    assert world.found["other"]
    assert keys_after(bench, change) == left


# --- requests that are written in other ways -----------------------------------------------------------------------


def sent(world: World, who: str, method: str, path: str, **options: Any) -> requests.Response:
    """Send something else than the table's JSON."""
    headers = {"Authorization": f"Token {world.found['token_' + who]}", **options.pop("headers", {})}
    return requests.request(method, f"{world.url}/api/{path}", headers=headers, timeout=60, **options)


def test_a_form_is_read_as_the_view_reads_it(world: World) -> None:
    own = "documents/{stranger_document}/parts/{stranger_part}".format_map(world.found)
    foreign = str(world.found["line"])
    for options in ({"data": {"lines": foreign}}, {"files": {"lines": (None, foreign)}}):
        answer = sent(world, "stranger", "POST", f"{own}/lines/bulk_delete/", **options)
        assert (answer.status_code, SECRET in answer.text) in {(400, False), (403, False)}
    put = sent(world, "stranger", "PUT", f"{own}/blocks/{world.found['stranger_region']}/",
               data={"document_part": world.found["part"], "box": "[]"})  # fmt: skip
    assert put.status_code == 403


def test_one_key_of_ones_own_opens_no_other(world: World) -> None:
    own = "documents/{stranger_document}/parts/{stranger_part}".format_map(world.found)
    lines = [world.found["stranger_line"], world.found["line"]]
    assert sent(world, "stranger", "POST", f"{own}/lines/merge/", json={"lines": lines}).status_code == 403


def test_a_type_that_others_use_is_left_alone(bench: Bench, world: World) -> None:
    kind = bench.shell(f"""
import json
from core.models import Document, LineType
kind = LineType.objects.create(name="gate shared type")
for document in Document.objects.filter(pk__in=[{world.found["document"]}, {world.found["stranger_document"]}]):
    document.valid_line_types.add(kind)
print(json.dumps(kind.pk))
""")
    for who in ("owner", "stranger"):
        assert sent(world, who, "PATCH", f"types/line/{kind}/", json={"name": "mine"}).status_code == 403
        assert sent(world, who, "DELETE", f"types/line/{kind}/").status_code == 403


def test_a_page_can_still_be_uploaded(world: World) -> None:
    path = f"documents/{world.found['document']}/parts/"
    pixel = bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5"
        "f645400000000049454e44ae426082"
    )
    files = {"image": ("upload.png", pixel, "image/png")}
    assert sent(world, "stranger", "POST", path, files=files, data={"name": ""}).status_code == 403
    assert sent(world, "reader", "POST", path, files=files, data={"name": ""}).status_code == 201


def test_a_browser_edits_with_its_session_and_its_form_token(world: World) -> None:
    session = world.session("reader")
    path = "documents/{document}/parts/{part}/transcriptions/bulk_update/".format_map(world.found)
    body = {"lines": [{"pk": world.found["text"], "content": SECRET}]}
    url = f"{world.url}/api/{path}"
    assert session.put(url, json=body, timeout=60).status_code == 403, "without the form's token"
    token = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": url}
    assert session.put(url, json=body, headers=token, timeout=60).status_code == 200


# --- the administration site ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def staff(bench: Bench, world: World) -> World:
    """Give the member of staff each right to accounts, teams and keys that the administration knows."""
    bench.shell("""
import json
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
staff = get_user_model().objects.get(username="gate-staff")
staff.user_permissions.set(Permission.objects.filter(content_type__app_label__in=["auth", "authtoken", "users"]))
print(json.dumps(0))
""")
    return world


def administer(world: World, path: str, form: dict[str, Any] | None = None) -> int:
    """Send a form as the member of staff, or look; return the status."""
    session, url = world.session("staff"), world.address(world.fill(f"admin/{path}", "staff"))
    if form is None:
        return session.get(url, timeout=60, allow_redirects=False).status_code
    return world.submit(session, url, world.fill(form, "staff")).status_code


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("users/user/", None, 200),
        ("users/user/$other/change/", None, 200),
        ("users/user/$other/change/", {"username": "gate-other", "email": "gate-other@htr.test"}, 200),
        ("users/user/$superuser/change/", {"username": "gate-superuser", "email": "mine@htr.test"}, 403),
        ("users/user/$superuser/password/", {"password1": "a-new-one-of-mine", "password2": "a-new-one-of-mine"}, 403),
        ("users/user/$superuser/delete/", {"post": "yes"}, 403),
        ("users/user/$staff/change/", {"username": "gate-staff", "is_superuser": "on"}, 403),
        ("users/user/add/", {"username": "gate-new", "is_staff": "on"}, 403),
        ("users/user/", {"action": "delete_selected", "_selected_action": "$superuser", "post": "yes"}, 403),
        ("users/user/", {"action": "delete_selected", "_selected_action": "$other", "select_across": "1"}, 403),
        ("users/user/$other/change/", {"username": "gate-other", "user_permissions": "1"}, 403),
        ("auth/group/$team/change/", {"name": "gate-team", "permissions": "1"}, 403),
        ("authtoken/tokenproxy/", None, 403),
    ],
)
def test_staff_is_no_superuser(staff: World, path: str, form: dict[str, Any] | None, status: int) -> None:
    assert administer(staff, path, form) == status


# --- the release ----------------------------------------------------------------------------------------------------


def test_the_table_knows_all_views_of_the_release(bench: Bench) -> None:
    answer = bench.shell(
        "import json\nfrom escriptorium_cluster.gate.release import view_problems\nprint(json.dumps(view_problems()))"
    )
    assert answer == []


# --- the WebSocket --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sockets(bench: Bench, world: World) -> Iterator[str]:
    """Start the WebSocket's server as its unit does; return its address."""
    assert world.url
    with reserved_ports("sockets") as ports:
        bench.start(
            "sockets", "python", "-m", "escriptorium_cluster.websocket_server", "--bind", "127.0.0.1", "--port",
            str(ports["sockets"]), "-v", "1", "escriptorium_cluster.asgi:application",
        )  # fmt: skip
        url = f"http://127.0.0.1:{ports['sockets']}"
        wait_until(partial(answers, url), bool, START, "sockets", 0.1)
        yield url
        bench.stop("sockets")


def tell(bench: Bench, document: int, name: str) -> None:
    """Send an event to the pages that show a document."""
    bench.shell(
        "import json\nfrom users.consumers import send_event\n"
        f"send_event('document', {document}, '{name}', {{}})\nprint(json.dumps(1))"
    )


def heard(connection: websocket.WebSocket, seconds: float = 2.0) -> list[str]:
    """Return the names of the events that come within some seconds."""
    connection.settimeout(seconds)
    names = []
    try:
        while True:
            names.append(json.loads(connection.recv()).get("name"))
    except websocket.WebSocketTimeoutException:
        return names


def join(world: World, document: int) -> str:
    """Return what a page sends that shows a document."""
    assert world.found
    return json.dumps({"type": "join-room", "object_cls": "document", "object_pk": document})


def test_rooms_are_for_those_who_may_see_the_document(bench: Bench, world: World, sockets: str) -> None:
    document = world.found["document"]
    client = Client(Account(world.url, "", ""))
    with (
        client.notifications(world.session("reader"), sockets) as reader,
        client.notifications(world.session("stranger"), sockets) as stranger,
    ):
        for connection in (reader, stranger):
            connection.send(join(world, document))
        stranger.send(json.dumps({"type": "join-room", "object_cls": "document", "object_pk": f"{document}"}))
        stranger.send(json.dumps({"type": "join-room", "object_cls": "project", "object_pk": world.found["project"]}))
        time.sleep(1)
        tell(bench, document, "first")
        assert heard(reader) == ["first"]
        assert heard(stranger) == []
        # One page shows one document: the room of before is left.
        stranger.send(join(world, world.found["stranger_document"]))
        reader.send(join(world, world.found["stranger_document"]))
        time.sleep(1)
        tell(bench, world.found["stranger_document"], "second")
        assert (heard(stranger), heard(reader)) == (["second"], [])


def padded(size: int) -> str:
    """Return JSON that no page sends, of some bytes."""
    return json.dumps({"type": "pad", "text": "x" * (size - 32)})


@pytest.mark.parametrize(
    ("message", "opcode"),
    [
        (padded(66_000), websocket.ABNF.OPCODE_TEXT),
        ("x", websocket.ABNF.OPCODE_TEXT),
        (b"{}", websocket.ABNF.OPCODE_BINARY),
    ],
)
def test_what_no_page_sends_ends_the_connection(world: World, sockets: str, message: Any, opcode: int) -> None:
    client = Client(Account(world.url, "", ""))
    with client.notifications(world.session("reader"), sockets) as connection:
        connection.send(padded(60_000))
        assert heard(connection, 1) == [], "open still"
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.send(message, opcode)
        connection.settimeout(10)
        with suppress(websocket.WebSocketConnectionClosedException, ConnectionError):
            assert connection.recv() in {"", b""}, "closed, or a frame that says so"
        connection.shutdown()  # type: ignore[no-untyped-call]


def test_no_page_is_answered_there(sockets: str) -> None:
    assert requests.get(f"{sockets}/login/", timeout=30).status_code == 404
