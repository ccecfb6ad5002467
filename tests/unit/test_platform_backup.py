"""Targets of copies: what follows from them, and which are refused before any host is contacted."""

from __future__ import annotations

from typing import Any

import pytest

from module_utils import platform_backup
from module_utils.platform_backup import BACKUP_RULES
from module_utils.platform_problems import UNRESOLVED, Inventory
from module_utils.platform_variables import Catalogue

NOTHING = Catalogue({})
BACKUPS = "/srv/escriptorium-backups"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0bKu7Vvzbp1Yt2zZpxTQJkTnQxgXwYm9sF9dYc0000"
DISK = {"name": "disk", "type": "directory", "path": "/mnt/disk/media"}
SFTP = {"name": "far", "type": "sftp", "host": "10.20.0.9", "user": "platform", "path": "/backups", "host_key": KEY}
S3 = {"name": "cloud", "type": "s3", "url": "https://s3.example.org", "bucket": "media"}
REST = {"name": "rest", "type": "rest", "url": "https://backup.example.org:8000/site"}
LOGIN = {"user": "platform", "password": "a good one"}


def found(*targets: Any, logins: Any = None, **variables: Any) -> list[tuple[str, str]]:
    values = {"backup_targets": list(targets), "backup_target_passwords": logins, **variables}
    inventory = Inventory(
        {"storage": ("store",)}, {"store": {name: one for name, one in values.items() if one is not None}}
    )
    problems = [problem for rule in BACKUP_RULES for problem in rule(inventory, NOTHING)]
    assert all("a good one" not in problem.text() for problem in problems)
    return [(problem.variable, problem.found) for problem in problems]


def paths(*targets: Any, **further: Any) -> list[str]:
    return [variable for variable, _ in found(*targets, **further)]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("backend", ["directory", "zfs"])
def test_plain_folders_have_a_copy_unless_the_site_says_otherwise(backend: str, enabled: bool) -> None:
    chosen = platform_backup.targets(None, BACKUPS, backend, [], enabled=enabled)
    wanted = [("local", f"{BACKUPS}/media")] if backend == "directory" and enabled else []
    assert [(one["name"], one["repository"]) for one in chosen] == wanted
    assert platform_backup.targets([], BACKUPS, backend, [], enabled=enabled) == []


def test_addresses_are_as_restic_reads_them() -> None:
    given = [DISK, SFTP, {**S3, "path": "htr/copies"}, REST, {**REST, "name": "other", "append_only": "yes"}]
    chosen = {one["name"]: one for one in platform_backup.targets(given, BACKUPS, "zfs", ["cloud"])}
    assert {name: one["repository"] for name, one in chosen.items()} == {
        "disk": "/mnt/disk/media",
        "far": "sftp:platform@10.20.0.9:/backups",
        "cloud": "s3:https://s3.example.org/media/htr/copies",
        "rest": "rest:https://backup.example.org:8000/site/",
        "other": "rest:https://backup.example.org:8000/site/",
    }
    assert {name: one["networks"] for name, one in chosen.items()} == {
        "disk": [],
        "far": ["10.20.0.9/32"],
        "cloud": None,
        "rest": None,
        "other": None,
    }
    assert [name for name, one in chosen.items() if one["append_only"]] == ["other"]
    assert [name for name, one in chosen.items() if one["login"]] == ["cloud"]


def test_the_database_is_copied_elsewhere_and_not_beside_itself() -> None:
    beside = {"name": "local", "type": "directory", "path": f"{BACKUPS}/media"}
    chosen = platform_backup.targets(
        [beside, DISK, SFTP, {**S3, "database": False}, {**REST, "database": "yes"}], BACKUPS, "directory", ["cloud"]
    )
    assert {one["name"]: one["database"] for one in chosen} == {
        "local": False,
        "disk": True,
        "far": True,
        "cloud": False,
        "rest": True,
    }
    assert paths({**beside, "database": True}) == ["backup_targets[0].database"]
    assert paths({**beside, "database": False}) == []
    assert paths({**DISK, "database": True}) == []


def test_each_target_has_its_units() -> None:
    chosen = platform_backup.targets([DISK, {**REST, "append_only": True, "calendar": "03:00"}], BACKUPS, "zfs", [])
    units = {unit["name"]: unit for unit in platform_backup.units(chosen, {"prune": "weekly", "drill": "monthly"})}
    timers = {name: unit["vars"]["calendar"] for name, unit in units.items() if name.endswith(".timer")}
    assert timers == {
        "media-backup@disk.timer": "hourly",
        "media-prune@disk.timer": "weekly",
        "media-drill@disk.timer": "monthly",
        "media-backup@rest.timer": "03:00",
        "media-drill@rest.timer": "monthly",
    }, "nothing is removed where copies are only added"
    services = {name: unit["state"] for name, unit in units.items() if name.endswith(".service")}
    assert set(services) == {name.replace(".timer", ".service") for name in timers}
    assert set(services.values()) == {"described"}


def test_secrets_lie_in_files_of_the_account() -> None:
    given: list[dict[str, Any]] = [DISK, {**SFTP, "port": 2222}, S3]
    chosen = platform_backup.targets(given, BACKUPS, "zfs", ["cloud"])
    files = {one["path"]: one for one in platform_backup.files(chosen, {"cloud": LOGIN}, "/etc/media-backup")}
    login = files["/etc/media-backup/cloud.login"]
    assert (login["mode"], login["owner"], login["secret"]) == ("0400", "media-backup", True)
    assert files["/etc/media-backup/far.known_hosts"]["content"] == f"[10.20.0.9]:2222 {KEY}\n"
    assert files["/etc/media-backup/far.key"]["state"] == "made"
    assert files["/mnt/disk/media"]["mode"] == "0700"
    assert len(files) == 4


@pytest.mark.parametrize(
    ("targets", "logins"),
    [
        ([], None),
        ([DISK, SFTP, S3, REST], {"cloud": LOGIN, "rest": LOGIN}),
        ([REST], None),
        ([{**S3, "path": "a/b", "region": "eu-1"}], {"cloud": LOGIN}),
        ([{**DISK, "path": f"{BACKUPS}/media"}], None),
        ([{**REST, "url": "http://127.0.0.1:8000/"}], None),
        # Wrong types, and what is not known yet, are for other rules.
        (["disk", {"name": 7, "type": UNRESOLVED}, {**DISK, "path": 7}], UNRESOLVED),
        ([{**REST, "url": UNRESOLVED}], {"rest": UNRESOLVED}),
    ],
)
def test_sound_targets(targets: list[Any], logins: Any) -> None:
    assert found(*targets, logins=logins) == []


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        ([{**DISK, "name": "My Disk"}], ["backup_targets[0].name"]),
        ([DISK, {**REST, "name": "disk"}], ["backup_targets[1].name"]),
        ([{"name": "x", "type": "sftp"}], [f"backup_targets[0].{key}" for key in ("host", "user", "path", "host_key")]),
        ([{**DISK, "url": "https://x.example.org"}], ["backup_targets[0].url"]),
        ([{**SFTP, "host_key": "SHA256:abc"}], ["backup_targets[0].host_key"]),
        ([{**SFTP, "host": "-oProxyCommand=x"}], ["backup_targets[0].host"]),
        ([{**SFTP, "user": "a b"}], ["backup_targets[0].user"]),
        ([{**SFTP, "path": "backups"}], ["backup_targets[0].path"]),
        ([{**DISK, "path": "/mnt/../etc"}], ["backup_targets[0].path"]),
        ([{**DISK, "limit_upload": -1}], ["backup_targets[0].limit_upload"]),
        ([{**DISK, "limit_hours": -1}], ["backup_targets[0].limit_hours"]),
        ([{**DISK, "calendar": " "}], ["backup_targets[0].calendar"]),
        ([{**REST, "url": "http://backup.example.org/"}], ["backup_targets[0].url"]),
        ([{**REST, "url": "https://me:hush@backup.example.org/"}], ["backup_targets[0].url"]),
        ([{**REST, "url": "backup.example.org"}], ["backup_targets[0].url"]),
    ],
)
def test_targets_that_cannot_be_are_refused(targets: list[Any], wanted: list[str]) -> None:
    assert paths(*targets) == wanted


@pytest.mark.parametrize(
    "place",
    [
        "/srv/escriptorium",
        "/srv/escriptorium/media/copies",
        "/srv",
        BACKUPS,
        f"{BACKUPS}/pgbackrest",
        f"{BACKUPS}/secrets/x",
    ],
)
def test_copies_lie_apart_from_what_workers_write_and_from_other_backups(place: str) -> None:
    assert paths({**DISK, "path": place}) == ["backup_targets[0].path"]
    elsewhere = place.replace("/srv/escriptorium", "/data/tree")
    assert paths({**DISK, "path": place}, shared_storage_path="/data/tree") == []
    if place != "/srv":
        assert paths({**DISK, "path": elsewhere}, shared_storage_path="/data/tree") == ["backup_targets[0].path"]


def test_each_target_has_a_folder_of_its_own() -> None:
    other = {**DISK, "name": "other"}
    assert paths(DISK, {**other, "path": "/mnt/disk/media/inner"}) == ["backup_targets[1].path"]
    assert paths(DISK, {**other, "path": "/mnt/disk"}) == ["backup_targets[1].path"]
    assert paths(DISK, other) == ["backup_targets[1].path"]
    assert paths(DISK, {**other, "path": "/mnt/disk/media2"}) == []


def test_logins_and_targets_fit() -> None:
    assert paths(S3) == ["backup_target_passwords.cloud"]
    assert paths(S3, logins={"cloud": {"user": "x"}}) == ["backup_target_passwords.cloud.password"]
    assert paths(DISK, logins={"disk": LOGIN}) == ["backup_target_passwords.disk"]
    assert paths(SFTP, logins={"far": LOGIN}) == ["backup_target_passwords.far"]
    assert paths(REST, logins={"rset": LOGIN}) == ["backup_target_passwords.rset"]
    assert paths(logins={"cloud": LOGIN}) == ["backup_target_passwords.cloud"]
    values = {"backup_target_passwords": {"cloud": LOGIN}}
    alone = Inventory({"storage": ("store",)}, {"store": values})
    assert [one.variable for rule in BACKUP_RULES for one in rule(alone, NOTHING)] == ["backup_target_passwords"]


@pytest.mark.parametrize("enabled", [False, "no"])
def test_targets_without_backups_are_refused(enabled: Any) -> None:
    assert paths(DISK, backup_enabled=enabled) == ["backup_targets"]
    assert paths(backup_enabled=enabled) == []
