"""Rules about how Ansible comes to hosts whose ssh takes no passwords and forwards nothing (role base).

No Ansible import. See platform_inventory.py for how rules are used. What an operator's own ~/.ssh/config says is not
looked at: the role proves each change by a new connection.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .platform_problems import THE_INVENTORY, UNRESOLVED, Inventory, Problem, Rule, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .platform_variables import Catalogue

HARDEN: Final = "base_ssh_harden"
JUMP_HOST: Final = "base_ssh_jump_host"
#: As the connection plugin ssh names them.
PASSWORDS: Final = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
ARGUMENTS: Final = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
#: Groups whose hosts get the role base.
PREPARED: Final = ("frontend", "storage", "compute", "replica")

_MEND_PASSWORD: Final = (
    "copy a key there (ssh-copy-id) and take the password out; ansible_become_password may stay. "
    f"Or leave ssh as it is: {HARDEN}: false"
)
_JUMP = re.compile(r"(?:-J\s*|ProxyJump[\s=]+)(\S+)", re.IGNORECASE)
_COMMAND = re.compile(r"ProxyCommand[\s=]+(.*)", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9_.:-]+")


def hardened(inventory: Inventory, catalogue: Catalogue) -> list[str]:
    """Return the hosts whose ssh takes no passwords any more, as far as the inventory says so."""
    return [
        host
        for host in inventory.members(*PREPARED)
        if inventory.effective(host, HARDEN, catalogue) is True
        and inventory.value(host, "ansible_connection") in (None, "ssh", "smart", "ansible.builtin.ssh")
    ]


def rule_ssh_passwords(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a password that ssh would log in with: the first run would shut the door behind itself."""
    for host in hardened(inventory, catalogue):
        for name in PASSWORDS:
            if inventory.is_set(host, name) and inventory.value(host, name) not in (None, ""):
                wanted = f"a key, since {HARDEN} shuts passwords"
                yield Problem(host, name, "a password for ssh", wanted, _MEND_PASSWORD)


def rule_jump_hosts(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want forwarding on a host through which Ansible reaches others: they could be reached no more."""
    names: dict[str, str] = {}
    for host in inventory.members(*PREPARED):
        known = (host, inventory.value(host, "ansible_host"), inventory.value(host, "private_address"))
        names |= {name.lower(): host for name in known if isinstance(name, str)}
    shut = set(hardened(inventory, catalogue))
    for host in inventory.members(*PREPARED):
        for name in ARGUMENTS:
            for jump in dict.fromkeys(names[found] for found in jumps(inventory.value(host, name)) if found in names):
                open_there = inventory.effective(jump, JUMP_HOST, catalogue)
                if jump in shut and jump != host and open_there is not True and open_there is not UNRESOLVED:
                    wanted = f"true, because {name} of other hosts leads through it"
                    yield Problem(jump, JUMP_HOST, quote(open_there), wanted, f"set {JUMP_HOST}: true for {jump}")


def jumps(arguments: Any) -> Iterator[str]:
    """Yield the words of ssh's arguments that may name a host on the way, in small letters."""
    if not isinstance(arguments, str):
        return
    for chain in _JUMP.findall(arguments):
        for hop in chain.strip("\"'").split(","):
            yield hop.rpartition("@")[2].partition(":")[0].lower()
    for command in _COMMAND.findall(arguments):
        for word in _WORD.findall(command):
            yield word.lower()


def check_asked(inventory: Inventory, catalogue: Catalogue, *, asked: bool) -> Iterator[Problem]:
    """Refuse a run that asks for a password for ssh (-k): it would shut the door behind itself."""
    if asked and hardened(inventory, catalogue):
        wanted = f"keys, since {HARDEN} shuts passwords"
        yield Problem(THE_INVENTORY, "--ask-pass", "a password for ssh", wanted, _MEND_PASSWORD)


SSH_RULES: Final[tuple[Rule, ...]] = (rule_ssh_passwords, rule_jump_hosts)
