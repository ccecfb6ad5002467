"""What ``prepare_site`` is asked for, and how it tells one release's static files from another's. Pure: no Django."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: What upstream's first migration uses for name and password when nothing else is in the environment.
DEFAULT_ADMIN = "admin"
#: Characters that an administrator's password has to have at least.
MINIMUM_PASSWORD = 10


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
