"""Code that runs inside Django on the frontend: what the platform's interface does not offer, such as new accounts.

PLATFORM_INVENTORY=molecule/acceptance/inventory PLATFORM_ANSIBLE=.venv/bin
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from client import Account

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NEEDED = ("PLATFORM_INVENTORY", "PLATFORM_ANSIBLE")
#: Mark of modules that need it.
needs_frontend = pytest.mark.skipif(
    not all(os.environ.get(name) for name in NEEDED), reason=f"{', '.join(NEEDED)} do not name a platform"
)
PASSWORD = "a-gate-of-seven-bars"

REMOVE = """
from django.apps import apps
from django.contrib.auth import get_user_model
people = get_user_model().objects.filter(username__in={names!r})
for part in apps.get_model("core", "DocumentPart").objects.filter(document__owner__in=people):
    part.image.delete(save=False)
for name in ("Document", "Project", "OcrModel"):
    apps.get_model("core", name).objects.filter(owner__in=people).delete()
people.delete()
"""
MAKE = (
    REMOVE
    + """
for name in {names!r}:
    get_user_model().objects.create_user(name, name + "@htr.test", {password!r})
"""
)


def shell(code: str) -> Any:
    """Run code inside Django on the frontend and return the JSON that it prints last."""
    arguments = json.dumps({"cmd": "/usr/local/bin/escriptorium-manage shell", "stdin": code})
    command = [
        str(Path(os.environ["PLATFORM_ANSIBLE"]) / "ansible"), "--inventory", os.environ["PLATFORM_INVENTORY"],
        "frontend", "--become", "--module-name", "ansible.builtin.command", "--args", arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^[{\[0].*$", done.stdout, re.MULTILINE)
    return json.loads(found[-1])


@contextmanager
def accounts(platform: Account, *names: str) -> Iterator[Mapping[str, Account]]:
    """Make accounts of these names, and take them and all that is theirs away afterwards."""
    shell(MAKE.format(names=names, password=PASSWORD) + "\nprint(0)")
    try:
        yield {name: Account(platform.url, name, PASSWORD, platform.ca) for name in names}
    finally:
        shell(REMOVE.format(names=names) + "\nprint(0)")
