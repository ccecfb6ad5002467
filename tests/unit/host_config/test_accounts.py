"""Which accounts are missing or otherwise: tried with those of this computer that every Debian has."""

from __future__ import annotations

import grp
import pwd
from dataclasses import replace

import pytest

from module_utils.host_config.accounts import WantedAccount, differs, group_differs

THERE = pwd.getpwnam("daemon")
DAEMON = WantedAccount("daemon", THERE.pw_uid, THERE.pw_gid, THERE.pw_dir, THERE.pw_shell, THERE.pw_gecos)


def test_an_account_as_it_is_wanted_is_left_alone() -> None:
    assert grp.getgrnam("daemon").gr_gid == THERE.pw_gid
    assert not differs(DAEMON)
    assert not differs(WantedAccount("daemon", shell=""))


@pytest.mark.parametrize(
    "change", [{"uid": 4711}, {"gid": 4711}, {"home": "/nowhere"}, {"shell": "/bin/true"}, {"comment": "another"}]
)
def test_each_thing_that_differs_is_seen(change: dict[str, object]) -> None:
    wanted = replace(DAEMON, **change)  # type: ignore[arg-type]
    assert differs(wanted)
    assert group_differs(wanted) is ("gid" in change)


def test_an_account_that_is_missing_is_seen() -> None:
    assert differs(WantedAccount("nobody-of-that-name"))
    assert group_differs(WantedAccount("nobody-of-that-name", gid=4711))
