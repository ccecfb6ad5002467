"""What ``prepare_site`` is asked for, and how one release's static files follow another's. Pure: no Django."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: What upstream's first migration uses for name and password when nothing else is in the environment.
DEFAULT_ADMIN = "admin"
#: Characters that an administrator's password has to have at least.
MINIMUM_PASSWORD = 10
#: Number of the database lock that keeps two runs apart (any number that nobody else uses).
LOCK_NUMBER = 5220191014
#: A modification time (s) that no file has by itself: it marks those that the current release lacks.
LEFT_OVER = -86400.0


class RequestError(ValueError):
    """Standard input does not hold a good request; the message repeats no value."""


@dataclass(frozen=True, slots=True)
class SiteRequest:
    """What the operator wants, as read from standard input."""

    admin_name: str
    admin_email: str
    admin_password: str = field(repr=False)
    domain: str
    site_name: str


def parse_request(text: str) -> SiteRequest:
    """Return the request.

    :raises RequestError: when it is no JSON object, a key is missing, unknown or empty, or the password is a bad one.
    """
    try:
        data = json.loads(text)
    except ValueError:
        # The parser's own message would repeat a part of the input, which holds a password.
        raise RequestError("standard input is not JSON") from None
    if not isinstance(data, dict):
        raise RequestError("standard input is not a JSON object")
    names = [item.name for item in fields(SiteRequest)]
    problems = [f"{name} is unknown" for name in sorted(set(data) - set(names))]
    problems += [
        f"{name} is missing" for name in names if not isinstance(data.get(name), str) or not data[name].strip()
    ]
    if not problems:
        password = data["admin_password"]
        if password in (DEFAULT_ADMIN, data["admin_name"]) or len(password) < MINIMUM_PASSWORD:
            problems.append(f"admin_password is too easy to guess, expected {MINIMUM_PASSWORD} characters or more")
    if problems:
        raise RequestError("standard input: " + "; ".join(problems))
    return SiteRequest(**{name: data[name] for name in names})


def fingerprint(release: Path, frontend: Path) -> str:
    """Return a SHA-256 that changes when the release's path or any file of the built front end does."""
    digest = hashlib.sha256(str(release.resolve()).encode())
    for path in sorted(frontend.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(frontend)).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def replace_files(fresh: Path, root: Path) -> None:
    """Move all files below ``fresh`` to the same places below ``root``, each in one step (one file system).

    Files of ``root`` that ``fresh`` lacks stay until the next call that lacks them too: what was asked for a moment ago
    is still there.
    """
    existing = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    wanted = sorted(path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file())
    for name in wanted:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).replace(root / name)
    for name in existing.difference(wanted):
        if (root / name).stat().st_mtime == LEFT_OVER:
            (root / name).unlink()
        else:
            os.utime(root / name, (LEFT_OVER, LEFT_OVER))
