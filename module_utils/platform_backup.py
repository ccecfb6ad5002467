"""Where copies of media and database go: the targets of a site as its units need them, and what is wrong with them.

No Ansible import. ``backup_targets`` is declared in platform_site_variables.py; the role media_backup takes what
``targets`` makes of it. Why each thing is as it is: docs/decisions/0036-media-backups.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .platform_problems import THE_INVENTORY, UNRESOLVED, Inventory, Problem, Rule, did_you_mean, quote
from .platform_sandbox import reach

if TYPE_CHECKING:
    from .platform_variables import Catalogue

TARGETS: Final = "backup_targets"
PASSWORDS: Final = "backup_target_passwords"
ENABLED: Final = "backup_enabled"
SHARED: Final = "shared_storage_path"
DEFAULT_SHARED: Final = "/srv/escriptorium"
#: The one target of a site on plain folders that names none.
LOCAL: Final = "local"
ACCOUNT: Final = "media-backup"
VERBS: Final = ("backup", "prune", "drill")
SSH_PORT: Final = 22
#: Keys of a target beside name and type: those that it needs, and those that it may have.
NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "directory": ("path",),
    "sftp": ("host", "user", "path", "host_key"),
    "s3": ("url", "bucket"),
    "rest": ("url",),
}
OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "directory": (),
    "sftp": ("port",),
    "s3": ("path", "region"),
    "rest": (),
}
FOR_ALL: Final = ("name", "type", "append_only", "limit_upload", "limit_hours", "calendar", "database")
#: Which parts of a login a type needs; rest may do without, where the server lets in by address.
LOGINS: Final[Mapping[str, str]] = {"s3": "needed", "rest": "possible"}
#: Names of other things among the backups.
TAKEN: Final = ("pgbackrest", "records", "releases", "secrets", "scratch")

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._@+-]+)+")
_FURTHER: Final = re.compile(r"[A-Za-z0-9._@+-]+(/[A-Za-z0-9._@+-]+)*")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST_KEY: Final = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp\d+|ssh-rsa) [A-Za-z0-9+/=]{40,}")
_KEY_IN_CLEAR: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SHAPES: Final[Mapping[str, tuple[re.Pattern[str], str, str]]] = {
    "host": (_HOST, "a name or an address", "write the name of the host alone, e.g. backup.example.org"),
    "user": (_USER, "the name of an account", "write the account there, e.g. platform"),
    "host_key": (
        _HOST_KEY,
        "type and key, e.g. ssh-ed25519 AAAA...",
        "ssh-keyscan -t ed25519 HOST prints it after its name",
    ),
    "bucket": (_USER, "the name of a bucket", "write its name alone"),
}


# --- what the units need ----------------------------------------------------------------------------------------------


def targets(
    given: Sequence[Mapping[str, Any]] | None,
    backups: str,
    backend: str,
    logins: Sequence[str],
    *,
    enabled: bool = True,
) -> list[dict[str, Any]]:
    """Return the targets of a site with all that follows from them.

    :param given: ``backup_targets``; None where the site names none, so that plain folders have the one beside them.
    :param backups: folder of the backups on the storage host.
    :param backend: ``directory`` or ``zfs``.
    :param logins: names of the targets that have a login in ``backup_target_passwords``.
    """
    if not enabled:
        return []
    if given is None:
        given = [{"name": LOCAL, "type": "directory", "path": f"{backups}/media"}] if backend == "directory" else []
    return [_target(one, one["name"] in logins, backups) for one in given]


def _yes(value: object) -> bool:
    return str(value).lower() in ("true", "yes", "on", "1")


def _takes_database(one: Mapping[str, Any], backups: str) -> bool:
    """Whether the backups of the database are copied to a target: not beside themselves."""
    beside = one["type"] == "directory" and PurePosixPath(backups) in PurePosixPath(str(one["path"])).parents
    return _yes(one.get("database", not beside))


def _target(one: Mapping[str, Any], login: bool, backups: str) -> dict[str, Any]:
    host, repository = _place(one)
    return {
        "name": str(one["name"]),
        "type": str(one["type"]),
        "repository": repository,
        "path": str(one.get("path", "")),
        "host": str(one.get("host", "")),
        "port": int(one.get("port", SSH_PORT)),
        "user": str(one.get("user", "")),
        "host_key": str(one.get("host_key", "")),
        "region": str(one.get("region", "")),
        "append_only": _yes(one.get("append_only", False)),
        "limit_upload": int(one.get("limit_upload", 0)),
        "limit_hours": int(one.get("limit_hours", 0)),
        "calendar": str(one.get("calendar", "hourly")),
        "database": _takes_database(one, backups),
        "login": login,
        # None: known by its name only, so that nobody can be shut out.
        "networks": reach([host]) if host else [],
    }


def _place(one: Mapping[str, Any]) -> tuple[str, str]:
    """Return the host of a target, empty for this one, and its address as restic reads it, without a login."""
    if one["type"] == "directory":
        return "", str(one["path"])
    if one["type"] == "sftp":
        return str(one["host"]), f"sftp:{one['user']}@{one['host']}:{one['path']}"
    url = str(one["url"]).rstrip("/")
    host = urlsplit(url).hostname or ""
    if one["type"] == "s3":
        return host, "/".join(filter(None, (f"s3:{url}", str(one["bucket"]), str(one.get("path", "")).strip("/"))))
    return host, f"rest:{url}/"


def units(chosen: Sequence[Mapping[str, Any]], calendars: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return services and timers of all targets as the action ``host_config`` takes them.

    :param calendars: when ``prune`` and ``drill`` run, as systemd reads it; each target has its own for ``backup``.
    """
    found = []
    for target in chosen:
        for verb in VERBS:
            if verb == "prune" and target["append_only"]:
                continue
            name = f"media-{verb}@{target['name']}"
            values = {"target": dict(target), "verb": verb, "calendar": calendars.get(verb, target["calendar"])}
            service = {"state": "described", "template": "media-backup.service.j2", "vars": values}
            found.append({"name": f"{name}.service", **service})
            found.append({"name": f"{name}.timer", "template": "media-backup.timer.j2", "vars": values})
    return found


def files(chosen: Sequence[Mapping[str, Any]], logins: Mapping[str, Any], folder: str) -> list[dict[str, Any]]:
    """Return the files of each target as the action ``host_config`` takes them: its folder, login and key.

    :param logins: ``backup_target_passwords``.
    :param folder: where the secrets lie, which only the account of the copies reads.
    """
    found: list[dict[str, Any]] = []
    for target in chosen:
        name, beside = target["name"], f"{folder}/{target['name']}"
        mine = {"owner": ACCOUNT, "group": ACCOUNT}
        if target["type"] == "directory":
            found.append({"path": target["path"], "state": "directory", **mine, "mode": "0700"})
        if target["login"]:
            text = json.dumps({key: str(logins[name][key]) for key in ("user", "password")}) + "\n"
            found.append({"path": f"{beside}.login", "content": text, **mine, "mode": "0400", "secret": True})
        if target["type"] == "sftp":
            place = target["host"] if target["port"] == SSH_PORT else f"[{target['host']}]:{target['port']}"
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"media-backup-{name}", "-f", f"{beside}.key"]
            found.append({"path": f"{beside}.key", "state": "made", "command": words, **mine})
            found.append({"path": f"{beside}.known_hosts", "content": f"{place} {target['host_key']}\n"})
    return found


# --- what is wrong ----------------------------------------------------------------------------------------------------


def rule_targets(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want targets that can be reached and hurt nobody: a copy that is missing is noticed when it is needed."""
    for host in inventory.members("storage"):
        given = inventory.value(host, TARGETS)
        if not isinstance(given, list | tuple):
            continue
        enabled = inventory.effective(host, ENABLED, catalogue)
        if given and enabled is not UNRESOLVED and str(enabled).lower() in ("false", "no", "off", "0"):
            mend = f"take one of the two out: without backups of the database, nobody finds a page of {TARGETS}"
            yield Problem(host, TARGETS, f"targets, and {ENABLED}: false", "both or none", mend)
        seen: dict[str, int] = {}
        for index, one in enumerate(given):
            if isinstance(one, Mapping):
                yield from _problems(host, index, one, seen)
        yield from _place_problems(host, given, _shared(inventory, host, catalogue))
        yield from _login_problems(host, given, inventory.value(host, PASSWORDS))


def _shared(inventory: Inventory, host: str, catalogue: Catalogue) -> str:
    value = inventory.effective(host, SHARED, catalogue)
    return value if isinstance(value, str) else DEFAULT_SHARED


def _problems(host: str, index: int, one: Mapping[str, Any], seen: dict[str, int]) -> Iterator[Problem]:
    """Yield what is wrong with one target by itself."""
    path = f"{TARGETS}[{index}]"
    name, kind = one.get("name"), one.get("type")
    if isinstance(name, str):
        if not _NAME.fullmatch(name):
            wanted = "small letters, digits and hyphens, 32 at most"
            yield Problem(host, f"{path}.name", quote(name), wanted, "units and files are named after it: rename it")
        elif name in seen:
            found = f"{quote(name)}, as {TARGETS}[{seen[name]}]"
            yield Problem(host, f"{path}.name", found, "a name of its own", "rename one of the two")
        seen.setdefault(name, index)
    # A type that is unknown is named by the rule of types.
    if not isinstance(kind, str) or kind not in NEEDED:
        return
    for key in NEEDED[kind]:
        if one.get(key) in (None, ""):
            yield Problem(host, f"{path}.{key}", "nothing", f"a value: type {kind} needs it", f"add {key}")
    known = (*FOR_ALL, *NEEDED[kind], *OPTIONAL[kind])
    for key in one:
        if key not in known and any(key in (*NEEDED[other], *OPTIONAL[other]) for other in NEEDED):
            yield Problem(
                host, f"{path}.{key}", f"a key that type {kind} has not", "none", "take it out, or correct the type"
            )
    yield from _shape_problems(host, path, kind, one)


def _shape_problems(host: str, path: str, kind: str, one: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield values of one target that restic, ssh or systemd would not take, or take otherwise than meant."""
    for key, (shape, wanted, mend) in _SHAPES.items():
        value = one.get(key)
        if key in NEEDED[kind] and isinstance(value, str) and value and not shape.fullmatch(value):
            yield Problem(host, f"{path}.{key}", quote(value), wanted, mend)
    place = one.get("path")
    if isinstance(place, str) and place and kind in ("directory", "sftp", "s3"):
        parts = place.strip("/").split("/")
        right = (_FURTHER if kind == "s3" else _PATH).fullmatch(place) and not {".", ".."} & set(parts)
        if not right:
            wanted = "a path in the bucket, without a slash at its ends" if kind == "s3" else "an absolute path below /"
            yield Problem(
                host, f"{path}.path", quote(place), f"{wanted}, of letters, digits and . _ - + @", "correct it"
            )
    url = one.get("url")
    if isinstance(url, str) and url and kind in ("s3", "rest"):
        yield from _url_problems(host, f"{path}.url", url)
    hours = one.get("limit_hours")
    if isinstance(hours, int) and not isinstance(hours, bool) and hours < 0:
        yield Problem(host, f"{path}.limit_hours", quote(hours), "hours, 0 or more", "0 means as long as it takes")
    limit = one.get("limit_upload")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit < 0:
        yield Problem(host, f"{path}.limit_upload", quote(limit), "KiB/s, 0 or more", "0 means as much as there is")
    calendar = one.get("calendar")
    if isinstance(calendar, str) and not calendar.strip():
        yield Problem(
            host, f"{path}.calendar", "nothing", "times as systemd reads them", "take it out, or write hourly"
        )


def _url_problems(host: str, path: str, url: str) -> Iterator[Problem]:
    """Yield what is wrong with the address of a server. A login in it would be seen in places that are no secret."""
    try:
        parts = urlsplit(url)
        name = parts.hostname or ""
    except ValueError:
        name, parts = "", urlsplit("")
    if "@" in url:
        mend = f"take it out of the address, and write it to {PASSWORDS}"
        yield Problem(host, path, "an address with a login in it", "https://NAME/PATH", mend)
    elif not name or parts.query or parts.fragment or parts.scheme not in ("http", "https"):
        yield Problem(host, path, quote(url), "an address as https://NAME/PATH", "write the address of the server")
    elif parts.scheme == "http" and name not in _KEY_IN_CLEAR:
        yield Problem(
            host, path, quote(url), "https", "the login would cross the network in clear: give it a certificate"
        )


def _folder(one: object) -> PurePosixPath | None:
    if isinstance(one, Mapping) and one.get("type") == "directory" and isinstance(one.get("path"), str):
        return PurePosixPath(one["path"])
    return None


def _place_problems(host: str, given: Sequence[Any], shared: str) -> Iterator[Problem]:
    """Yield folders that are no place for copies: where workers write, where others keep theirs, and each other's."""
    tree, backups = PurePosixPath(shared), PurePosixPath(f"{shared}-backups")
    before: list[tuple[int, PurePosixPath]] = []
    for index, one in enumerate(given):
        place = _folder(one)
        if place is None:
            continue
        path, found = f"{TARGETS}[{index}].path", quote(str(place))
        if place == tree or tree in place.parents or place in tree.parents:
            mend = f"write {backups}/media, or a folder on another disk"
            yield Problem(
                host, path, found, f"a folder outside the shared tree {tree}, which all hosts may write to", mend
            )
        elif place == backups or any(place == backups / name or backups / name in place.parents for name in TAKEN):
            mend = f"write {backups}/media, or a folder on another disk"
            yield Problem(host, path, found, "a folder of its own: other backups lie there", mend)
        elif backups in place.parents and one.get("database") not in (None, UNRESOLVED) and _yes(one["database"]):
            mend = "take it out, or write a folder on another disk"
            beside = "the backups of the database, beside themselves"
            yield Problem(host, f"{TARGETS}[{index}].database", beside, "a place elsewhere", mend)
        for other, taken in before:
            if place == taken or taken in place.parents or place in taken.parents:
                wanted = f"a folder apart from that of {TARGETS}[{other}]"
                yield Problem(host, path, found, wanted, "give each target a folder, best on a disk of its own")
        before.append((index, place))


def _login_problems(host: str, given: Sequence[Any], logins: object) -> Iterator[Problem]:
    """Yield logins that are missing, are not whole, or are for no target."""
    if logins is UNRESOLVED or (logins is not None and not isinstance(logins, Mapping)):
        return
    known = logins if isinstance(logins, Mapping) else {}
    types = {
        one["name"]: one.get("type") for one in given if isinstance(one, Mapping) and isinstance(one.get("name"), str)
    }
    for name, kind in types.items():
        if LOGINS.get(str(kind)) == "needed" and name not in known:
            mend = (
                "user is the number of the access key, password the secret key: write both, encrypted by ansible-vault"
            )
            yield Problem(host, f"{PASSWORDS}.{name}", "nothing", "user and password", mend)
    for name, login in known.items():
        path = f"{PASSWORDS}.{name}"
        if name not in types:
            mend = did_you_mean(str(name), types, 0.6) or f"take it out, or add the target to {TARGETS}"
            yield Problem(host, path, "a login for no target", f"the name of one of {TARGETS}", mend)
        elif str(types[name]) in NEEDED and str(types[name]) not in LOGINS:
            mend = "take it out" + (": the storage host makes itself a key" if types[name] == "sftp" else "")
            yield Problem(host, path, "a login", f"none: type {types[name]} needs none", mend)
        elif login is not UNRESOLVED:
            parts = login if isinstance(login, Mapping) else {}
            for key in ("user", "password"):
                if parts.get(key) in (None, ""):
                    yield Problem(host, f"{path}.{key}", "nothing", "a value", "write user and password, both as text")


def rule_logins_have_targets(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse logins without any target: whoever wrote them believes in copies that are not made."""
    del catalogue
    for host in inventory.members("storage"):
        if inventory.value(host, PASSWORDS) and inventory.value(host, TARGETS) is None:
            mend = f"name the targets in {TARGETS}, or take it out"
            yield Problem(THE_INVENTORY, PASSWORDS, "logins", f"targets in {TARGETS}", mend)


BACKUP_RULES: tuple[Rule, ...] = (rule_targets, rule_logins_have_targets)
