"""Accounts that a role wants on a host, compared with those that are there. Nothing is changed here."""

from __future__ import annotations

import grp
import pwd
from dataclasses import dataclass


@dataclass(frozen=True)
class WantedAccount:
    """An account without a password; None and "" ask for nothing.

    ``gid`` is the number of its group, which has the name of the account.
    """

    name: str
    uid: int | None = None
    gid: int | None = None
    home: str = ""
    shell: str = ""
    comment: str = ""


def group_differs(wanted: WantedAccount) -> bool:
    """Return whether the group is missing, or has another number."""
    if wanted.gid is None:
        return False
    try:
        return grp.getgrnam(wanted.name).gr_gid != wanted.gid
    except KeyError:
        return True


def differs(wanted: WantedAccount) -> bool:
    """Return whether the account or its group is missing or otherwise."""
    try:
        there = pwd.getpwnam(wanted.name)
    except KeyError:
        return True
    asked = [
        (wanted.uid, there.pw_uid),
        (wanted.gid, there.pw_gid),
        (wanted.home or None, there.pw_dir),
        (wanted.shell or None, there.pw_shell),
        (wanted.comment or None, there.pw_gecos),
    ]
    return group_differs(wanted) or any(value is not None and value != found for value, found in asked)
