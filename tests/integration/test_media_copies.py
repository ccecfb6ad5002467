"""Copies of the media at real servers, and at servers that fail: what comes back, what is sent again, what is said.

`fault`: where restic tries again for a minute or more before it gives up, and kinds of targets that differ little.
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import subprocess
import tempfile
import time
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from faulty_proxy import Desk
from media_copies import KINDS, PACK, PASSPHRASE, Host, Place, Servers, running_servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGES = {"documents/12/page.png": b"page", "models/1f/charters.mlmodel": b"epoch", "documents/12/Zürich 1.png": b"Z"}
FAR = ("sftp", "s3", "rest")
#: Bytes that a run sends beside contents: names, lists, questions.
BESIDE = 1 << 20


def late(kind: str) -> Any:
    """Return a kind that is tested in the second tier."""
    return pytest.param(kind, marks=pytest.mark.fault)


def noise(mib: int, seed: int = 1) -> dict[str, bytes]:
    """Return files that cannot be compressed, of 4 MiB each."""
    chance = random.Random(seed)  # noqa: S311 - contents of files
    return {f"documents/{seed}/scan{number}.tif": chance.randbytes(4 << 20) for number in range(mib // 4)}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    for program in ("restic", "rclone", "ssh-keygen", "/usr/sbin/sshd"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    if "S3_SERVER_PYTHON" not in os.environ:
        pytest.skip("S3_SERVER_PYTHON does not name a Python that has moto")
    with running_servers() as made:
        yield made


@pytest.fixture
def host(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Callable[..., Host]]:
    """Make a host with a target ``one`` of a kind, or with those that are named."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)

        def made(kind: str = "", *places: Place, seeded: bool = True, **how: Any) -> Host:
            number = len(list(Path(name).iterdir()))
            title = f"t{abs(hash(request.node.name)) % 10**8}-{number}"
            folder = Path(name) / str(number)
            folder.mkdir(mode=0o755)
            return Host(folder, servers, *(places or (servers.place(kind, title, **how),)), seeded=seeded)

        yield made


def only(host: Host) -> tuple[str, Place]:
    ((name, place),) = host.places.items()
    return name, place


def whole(place: Place) -> int:
    """Return the bytes of packs that are whole; a server writes them under other names, or bit by bit."""
    packs = {name: size for name, size in place.store.sizes().items() if name.startswith("data/")}
    return sum(size for name, size in packs.items() if len(Path(name).name) == 64 and size > PACK - (1 << 20))


def packs(place: Place) -> dict[str, bytes]:
    return {name: content for name, content in place.store.stored().items() if name.startswith("data/")}


# --- each kind of target ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_copies_begin_where_there_are_none(host: Callable[..., Host], kind: str) -> None:
    here = host(kind, seeded=False)
    name, place = only(here)
    here.fill(PAGES)
    assert here.done("backup", name)["files"] == len(PAGES)
    stored = place.store.stored()
    assert {one.partition("/")[0] for one in stored} == {"config", "keys", "data", "index", "snapshots"}


@pytest.mark.parametrize("kind", [late("directory"), *FAR])
def test_what_is_copied_comes_back(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    files = PAGES | noise(20)
    here.fill(files)
    first = here.done("backup", name)
    assert first["files"] == len(files)
    assert first["added_bytes"] > 20 << 20
    assert here.done("backup", name)["added_bytes"] < BESIDE, "what is there is not sent again"
    here.fill({"models/1f/charters.mlmodel": b"the next epoch"})
    here.done("backup", name)
    here.settings["keep"] = {"hourly": 1}
    here.write_settings()
    pruned = here.done("prune", name)
    assert pruned["copies"] == 1
    assert 20 << 20 < pruned["target_bytes"] < 22 << 20
    assert here.done("drill", name)["compared"] == len(files)
    stored = place.store.stored()
    assert not any(b"page" in content or b"epoch" in content for content in stored.values()), "it is encrypted"
    assert not any(one.startswith("locks/") for one in stored)
    before = here.contents()
    shutil.rmtree(here.media)
    here.media.mkdir()
    back = here.done("restore", str(time.time()), unit=False)
    assert (back["copied"], back["missing"], back["problems"]) == (len(files), [], [])
    assert here.contents() == before


@pytest.mark.parametrize("kind", [late("directory"), *FAR])
def test_a_damaged_pack_is_found_and_named(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    here.fill(noise(20))
    here.done("backup", name)
    pack, content = max(packs(place).items(), key=lambda one: len(one[1]))
    spoilt = bytearray(content)
    spoilt[len(content) // 2] ^= 1
    place.store.write(pack, bytes(spoilt))
    ended = here.run("drill", name)
    assert ended.status == 1
    assert "part 1 of 1 is damaged" in ended.problem
    assert pack.rsplit("/", 1)[1][:8] in ended.problem


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_passphrase_is_said_at_once(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    here.fill(PAGES)
    here.done("backup", name)
    stored = place.store.stored()
    here.write_secret("passphrase", "another one\n")
    for known in (True, False):
        # False: on a new host, which knows of no copies yet.
        if not known:
            (here.folder / f"state/{name}.json").unlink()
        for verb in ("backup", "prune", "drill"):
            ended = here.run(verb, name)
            assert ended.status == 1
            assert ended.seconds < 10
            assert "the passphrase is another one than that of the copies" in ended.problem
            assert "begins anew" not in ended.problem
    assert place.store.stored() == stored, "nothing is begun anew, and nothing left"
    here.write_secret("passphrase", f"{PASSPHRASE}\n")
    assert here.done("backup", name)["files"] == len(PAGES)


@pytest.mark.parametrize("kind", FAR)
def test_a_wrong_login_is_said_and_never_shown(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    here.fill(PAGES)
    here.done("backup", name)
    stored = place.store.stored()
    if kind == "sftp":
        (here.etc / f"{name}.key").unlink()
        here._make({"path": here.etc / f"{name}.key", "content": "no key\n"})
    else:
        assert place.login
        here.write_secret(f"{name}.login", f'{{"user": "{place.login["user"]}", "password": "not/th@t"}}')
    for known in (True, False):
        if not known:
            (here.folder / f"state/{name}.json").unlink()
        ended = here.run("backup", name)
        assert ended.status == 1
        assert ended.seconds < 20
        assert f"{name} refuses the login" in ended.problem, ended.problem
        for secret in ("not/th@t", quote("not/th@t", safe=""), PASSPHRASE):
            assert secret not in ended.said + ended.output + ended.problem
    assert place.store.stored() == stored


@pytest.mark.parametrize("kind", ["s3", "rest", late("sftp")])
def test_secrets_are_in_no_list_of_processes(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    here.fill(noise(12))
    assert place.wire
    place.wire.rate = 8 << 20
    process, seen = here.start("backup", name), ""
    while process.poll() is None:
        seen += here.command_lines()
        time.sleep(0.1)
    assert here.ended(process, "backup", name).status == 0
    assert "run_media_backup.py" in seen
    assert "restic --cache-dir" in seen, "it was looked at while restic was at work"
    secrets = [PASSPHRASE, *((place.login["password"], quote(place.login["password"], safe="")) if place.login else ())]
    assert not [secret for secret in secrets if secret in seen]


# --- what is in the way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sftp", "rest", late("directory"), late("s3")])
def test_a_copy_that_is_cut_off_is_not_sent_again(host: Callable[..., Host], kind: str) -> None:
    """As by a power cut of the storage host."""
    here = host(kind)
    name, place = only(here)
    here.fill(PAGES)
    here.done("backup", name)
    files = noise(96)
    here.fill(files)
    if place.wire:
        place.wire.rate, place.wire.sent = 32 << 20, 0
    process = here.start("backup", name)
    while whole(place) < 2 * PACK and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "it was too fast to be cut off"
    here.kill(process)
    sent = whole(place)
    if place.wire:
        place.wire.mend()
        place.wire.sent = 0
    assert here.done("backup", name)["files"] == len(files) + len(PAGES)
    again = place.wire.sent if place.wire else whole(place) - sent
    assert again < (96 << 20) - sent + PACK + BESIDE, "what was there is sent again"
    assert not [one for one in place.store.stored() if one.startswith("locks/")]
    assert here.done("drill", name)["compared"] > 0


@pytest.mark.parametrize("kind", FAR)
def test_a_target_that_is_away_is_said_and_taken_up_again(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    here.fill(PAGES)
    here.done("backup", name)
    assert place.wire
    stored = place.store.stored()
    place.wire.cut.set()
    ended = here.run("backup", name)
    assert ended.status == 1
    assert ended.seconds < 20
    assert name in ended.problem
    assert "cannot be reached" in ended.problem
    assert place.store.stored() == stored
    place.wire.mend()
    assert here.done("backup", name)["files"] == len(PAGES)


@pytest.mark.parametrize("kind", ["rest", late("s3")])
def test_errors_that_pass_are_ridden_out(host: Callable[..., Host], servers: Servers, kind: str) -> None:
    upstream = servers.s3()[0] if kind == "s3" else servers.rest(append_only=False)
    with Desk(upstream) as desk:
        here = host(kind, before=desk.port)
        name, _ = only(here)
        here.fill(noise(24))
        desk.budget, desk.times = 1 << 20, 2
        assert here.done("backup", name)["files"] == 6
        assert 500 in desk.seen
        assert here.done("drill", name)["compared"] == 6


@pytest.mark.parametrize("kind", ["rest", late("sftp"), late("s3")])
def test_a_first_copy_may_come_on_a_disk(host: Callable[..., Host], servers: Servers, kind: str) -> None:
    """As docs/backup.md has it: a copy to a folder, whose files are carried to the place of a target elsewhere."""
    near = host("directory")
    name, disk = only(near)
    near.fill(noise(24))
    near.done("backup", name)
    there = servers.place(kind, f"seeded-{kind}")
    there.store.seed(disk.store.stored())
    here = host("", there, seeded=False)
    shutil.copytree(near.media, here.media, dirs_exist_ok=True)
    assert there.wire
    there.wire.sent = 0
    done = here.done("backup", f"seeded-{kind}")
    assert done["files"] == 6
    assert done["added_bytes"] < BESIDE
    assert there.wire.sent < BESIDE
    assert here.done("drill", f"seeded-{kind}")["compared"] == 6


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[None]:
    """Put a disk of so many MiB in the place of a folder."""
    owner = path.stat()
    size = f"size={mib}m,uid={owner.st_uid},gid={owner.st_gid},mode=0700"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "media", path], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("kind", ["directory", late("sftp")])
def test_a_full_disk_is_said_and_the_next_run_ends_it(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    here.fill(PAGES)
    with small_disk(Path(place.given["path"]), 40):
        here.done("backup", name)
        here.fill(noise(64))
        ended = here.run("backup", name)
        assert ended.status == 1
        assert f"{name} is full, or takes no more" in ended.problem
        sent = whole(place)
        assert sent > PACK
        subprocess.run(["mount", "-o", "remount,size=200m", place.given["path"]], check=True)
        assert here.done("backup", name)["files"] == 16 + len(PAGES)
        assert whole(place) - sent < (64 << 20) - sent + PACK + BESIDE, "what was there is sent again"
        assert here.done("drill", name)["compared"] == 16 + len(PAGES)


@pytest.mark.parametrize("kind", ["rest", late("s3")])
def test_a_server_that_says_nothing_is_given_up(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    here.fill(noise(8))
    here.done("backup", name)
    assert place.wire
    here.constants["STALLED"] = 4
    place.wire.silent.set()
    ended = here.run("backup", name)
    assert ended.status == 1
    assert 3 < ended.seconds < 30
    assert "nothing has moved" in ended.problem
    place.wire.mend()
    here.constants.pop("STALLED")
    assert here.done("backup", name)["files"] == 2


@pytest.mark.fault
def test_a_slow_server_is_waited_for(host: Callable[..., Host]) -> None:
    here = host("rest")
    name, place = only(here)
    here.fill(noise(12))
    assert place.wire
    here.constants["STALLED"] = 4
    place.wire.rate = 1 << 20
    done = here.done("backup", name)
    assert done["files"] == 3
    assert done["seconds"] > 8


def test_no_more_is_sent_in_a_second_than_is_allowed(host: Callable[..., Host], servers: Servers) -> None:
    place = servers.place("rest", "limited")
    place.given["limit_upload"] = 2048
    here = host("", place)
    here.fill(noise(12))
    assert place.wire
    done = here.done("backup", "limited")
    # What it may send in the first second is there at once.
    assert place.wire.sent / (done["seconds"] + 1) / (1 << 20) < 2.1


@pytest.mark.fault
def test_a_copy_ends_with_its_hours_and_goes_on_with_the_next(host: Callable[..., Host], servers: Servers) -> None:
    place = servers.place("rest", "by-night")
    place.given["limit_hours"] = 1
    here = host("", place)
    here.constants["HOUR"] = 10
    here.fill(noise(192))
    assert place.wire
    place.wire.rate = 3 << 20  # of each of five connections
    ended = here.run("backup", "by-night")
    assert ended.status == 1
    assert 9 < ended.seconds < 60
    assert "the 1 hours of by-night (limit_hours) are over before all is copied" in ended.problem
    sent = whole(place)
    assert sent >= PACK
    place.wire.mend()
    here.constants.pop("HOUR")
    place.wire.sent = 0
    assert here.done("backup", "by-night")["files"] == 48
    assert place.wire.sent < (192 << 20) - sent + PACK + BESIDE
    assert not [one for one in place.store.sizes() if one.startswith("locks/")]


@pytest.mark.fault
@pytest.mark.parametrize(("kind", "status"), [("s3", 500), ("rest", 500), ("rest", 507)])
def test_a_server_that_fails_in_the_middle(host: Callable[..., Host], servers: Servers, kind: str, status: int) -> None:
    """After a minute or more restic gives up; what was sent counts."""
    upstream = servers.s3()[0] if kind == "s3" else servers.rest(append_only=False)
    with Desk(upstream) as desk:
        here = host(kind, before=desk.port)
        name, place = only(here)
        here.fill(noise(96))
        desk.budget, desk.status = 50 << 20, status
        ended = here.run("backup", name)
        assert ended.status == 1
        why = "is full, or takes no more" if status == 507 else "answers with errors"
        assert f"{name} {why}" in ended.problem
        sent = whole(place)
        assert sent > 2 * PACK
        desk.mend()
        desk.sent = 0
        assert here.done("backup", name)["files"] == 24
        assert desk.sent < (96 << 20) - sent + PACK + BESIDE
        assert here.done("drill", name)["compared"] == 24


@pytest.mark.fault
def test_a_target_that_comes_back_is_gone_on_with_at_once(host: Callable[..., Host]) -> None:
    """S3 is tried for half an hour and more."""
    here = host("s3")
    name, place = only(here)
    here.fill(noise(96))
    assert place.wire
    place.wire.cut_after = 50 << 20
    process = here.start("backup", name)
    assert place.wire.cut.wait(120)
    time.sleep(15)
    assert process.poll() is None
    place.wire.mend()
    assert here.ended(process, "backup", name).status == 0
    assert here.done("drill", name)["compared"] == 24


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["sftp", "rest"])
def test_a_target_that_goes_in_the_middle(host: Callable[..., Host], kind: str) -> None:
    here = host(kind)
    name, place = only(here)
    here.fill(noise(96))
    assert place.wire
    place.wire.cut_after = 50 << 20
    # restic tries rest for a minute, and waits for ever for an ssh that has ended.
    here.constants["STALLED"] = 120
    ended = here.run("backup", name)
    assert ended.status == 1
    assert ended.seconds < 240
    assert any(f"{name} {why}" in ended.problem for why in ("cannot be reached", "takes no more")), ended.problem
    sent = whole(place)
    here.constants.pop("STALLED")
    place.wire.mend()
    place.wire.sent = 0
    assert here.done("backup", name)["files"] == 24
    assert place.wire.sent < (96 << 20) - sent + PACK + BESIDE
    assert here.done("drill", name)["compared"] == 24


# --- where copies are only added --------------------------------------------------------------------------------------


def attack_by_http(place: Place, stored: dict[str, bytes]) -> list[int]:
    """Try to remove and to write over each file, with the storage host's own login; answers what the server said."""
    url, login = urlsplit(place.given["url"]), place.login
    assert login
    assert url.port
    headers = {"Authorization": "Basic " + b64encode(f"{login['user']}:{login['password']}".encode()).decode()}
    said = []
    for name in stored:
        # The server keeps packs in folders; by the protocol their names have none.
        kind, _, rest = name.partition("/")
        path = f"{url.path}/{kind}/{rest.rsplit('/', 1)[-1]}" if rest else f"{url.path}/{kind}"
        for method, body in (("DELETE", None), ("POST", b"spoilt")):
            connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=20)
            connection.request(method, path, body, headers)
            said.append(connection.getresponse().status)
            connection.close()
    return said


@pytest.mark.parametrize("kind", ["rest", "s3"])
def test_the_storage_host_itself_removes_no_copy(host: Callable[..., Host], kind: str) -> None:
    here = host(kind, append_only=True)
    name, place = only(here)
    here.fill(PAGES | noise(20))
    here.done("backup", name)
    moment = time.time()
    stored = {one: content for one, content in place.store.stored().items() if not one.startswith("locks/")}
    before = here.contents()
    assert here.run("prune", name).status == 1
    here.fill(noise(8, 2))
    here.done("backup", name)
    # Root of the storage host has the login, the passphrase and restic. It asks for a minute for each copy to remove.
    attack = here.start("restic", name, "forget", "--keep-last", "1", "--group-by", "", "--prune", unit=False)
    try:
        attack.communicate(timeout=10)
        assert attack.returncode
    except subprocess.TimeoutExpired:
        here.kill(attack)
    if kind == "rest":
        said = attack_by_http(place, stored)
        assert len(said) == 2 * len(stored)
        assert set(said) == {403}
    left = place.store.stored()
    assert {one: left.get(one) for one in stored} == stored
    tried = here.done("drill", name)
    assert tried["compared"] == len(here.contents())
    assert tried["target_bytes"] > 28 << 20, "no removal of old copies counts them"
    shutil.rmtree(here.media)
    here.media.mkdir()
    here.done("restore", str(moment), unit=False)
    assert here.contents() == before
