"""Validation of an inventory, and of the facts of its hosts, before anything is changed.

Two pure entry points, each of which returns all problems at once:

* ``check_inventory``: from the inventory alone, no connection to any host.
* ``check_facts``: needs the facts of the hosts.

One small function per rule; its docstring says why the rule exists. To add a rule, write a function that takes an
``Inventory`` and a ``Catalogue``, yields ``Problem``s, and name it in ``INVENTORY_RULES``.

No Ansible import. Values of secrets never appear in a problem.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from runpy import run_path
from typing import Any, Final
from zoneinfo import available_timezones

from .platform_acme import ACME_RULES
from .platform_backup import BACKUP_RULES
from .platform_firewall import FIREWALL_RULES
from .platform_gpu import GPU_RULES, cuda_of_driver
from .platform_networks import NETWORK_RULES, near
from .platform_problems import (
    EVERY_HOST,
    THE_INVENTORY,
    UNRESOLVED,
    Inventory,
    Problem,
    Rule,
    did_you_mean,
    given,
    listed,
    quote,
)
from .platform_queues import QUEUE_RULES
from .platform_ssh import SSH_RULES
from .platform_storage import STORAGE_RULES
from .platform_templates import TEMPLATE_RULES
from .platform_tunnel import TUNNEL_RULES
from .platform_variables import PLATFORM_GROUPS, RESERVED_GROUPS, Catalogue, Variable

# Celery hands a task to another worker when it is not acknowledged within the visibility timeout.
MIN_VISIBILITY_TIMEOUT_S = 3600
MIN_SECRET_LENGTH = 12
MIN_DJANGO_KEY_LENGTH = 50
# As Django counts them for its key (security.W009).
MIN_DIFFERENT_CHARACTERS = 5
MAX_HOST_NAME_LENGTH = 253
# A derived value that is made from more than this is not explained by naming them.
MAX_NAMED_SOURCES = 3
# A private network wider than this is a mistake: 0.0.0.0/0 would open the database to everybody.
MIN_PREFIX_LENGTH = 8
# From here on a network has no address of its own (RFC 3021).
POINT_TO_POINT_PREFIX = 31

_LABEL = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")
# As /etc/hosts of Debian has them; the cluster's names are written there too, on each host.
_EVERYBODYS_NAMES = frozenset(
    {
        "ip6-allnodes",
        "ip6-allrouters",
        "ip6-localhost",
        "ip6-loopback",
        "localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost6",
    }
)
_DATABASE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
# What pg_hba.conf takes for many databases or users.
_ACCESS_WORDS = frozenset({"all", "replication", "samegroup", "samerole", "sameuser"})
_EMAIL = re.compile(r"^[^@\s<>,;:\"]+@(?P<domain>[^@\s<>,;:\"]+)$")
# What the gate itself makes of a site's views: pure, as this module is, and part of what the hosts get.
_GATE = run_path(
    str(Path(__file__).resolve().parent.parent / "roles/escriptorium/files/escriptorium_cluster/gate/rules.py")
)
_PLACEHOLDER = re.compile(r"change[_ -]?me", re.IGNORECASE)
_ANGLE = re.compile(r"<[^<>@\n]+>")
_WEAK_SECRETS = frozenset(
    {
        "admin",
        "administrator",
        "changeme",
        "change_me",
        "default",
        "django",
        "escriptorium",
        "password",
        "passw0rd",
        "postgres",
        "postgresql",
        "redis",
        "secret",
        "test",
    }
)


def _shown(name: str, value: Any, catalogue: Catalogue) -> str:
    """Return a value as a message shows it; secrets are never shown."""
    if value is None or value == "":
        return "nothing"
    return "a value that is not shown" if catalogue.is_secret(name) else quote(value)


def is_host_name(name: str) -> bool:
    """Return True where every label holds letters, digits and inner hyphens only, at most 63 (RFC 1123)."""
    return 0 < len(name) <= MAX_HOST_NAME_LENGTH and all(_LABEL.match(label) for label in name.split("."))


def is_domain_name(name: str) -> bool:
    """Return True for a DNS name with at least one dot that is not an address."""
    return is_host_name(name) and "." in name and not name.rsplit(".", 1)[1].isdigit()


def ascii_domain(name: str) -> str:
    """Return an international domain name as DNS knows it (xn--...); empty where there is nothing to change."""
    try:
        found = ".".join(
            label if label.isascii() else label.lower().encode("idna").decode() for label in name.split(".")
        )
    except UnicodeError:
        return ""
    # The older rules of Python's codec lose some letters, as in strasse, which is another name.
    whole = found.count("xn--") >= sum(not label.isascii() for label in name.split("."))
    return found if whole and not name.isascii() and is_domain_name(found) else ""


# --- groups and hosts -------------------------------------------------------------------------------------------------


def rule_single_hosts(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want one database, broker and shared tree: two hosts would split the data, none cannot work."""
    del catalogue
    for group in ("frontend", "storage"):
        members = inventory.members(group)
        if not members:
            yield Problem(
                THE_INVENTORY,
                f"group {group}",
                "no host",
                "exactly one host",
                _group_hint(group, inventory) or f"put one host into the group {group}; it may be in other groups too",
            )
        elif len(members) > 1:
            yield Problem(
                THE_INVENTORY,
                f"group {group}",
                f"{len(members)} hosts ({listed(members)})",
                "exactly one host",
                f"keep one host in the group {group}",
            )


def rule_compute_hosts(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Without a compute host every job waits for ever."""
    del catalogue
    if not inventory.members("compute"):
        yield Problem(
            THE_INVENTORY,
            "group compute",
            "no host",
            "one host or more",
            _group_hint("compute", inventory) or "put a host into the group compute; the frontend may be one",
        )


def _group_hint(group: str, inventory: Inventory) -> str:
    """``rename the group computes`` where a group looks like the missing one."""
    others = [name for name in inventory.groups if name not in (*PLATFORM_GROUPS, *RESERVED_GROUPS, "all", "ungrouped")]
    near = difflib.get_close_matches(group, others, n=1, cutoff=0.7)
    return f"rename the group {near[0]!r} to {group!r}" if near else ""


def rule_hosts_have_a_role(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a host in no group of the platform: it would get nothing, most often because a group is misspelt."""
    del catalogue
    placed = set(inventory.members(*PLATFORM_GROUPS, *RESERVED_GROUPS))
    for host in inventory.hosts:
        if host not in placed:
            own = sorted(group for group, members in inventory.groups.items() if host in members and group != "all")
            hints = [did_you_mean(group, PLATFORM_GROUPS, 0.7) for group in own]
            hint = next((text for text in hints if text), "")
            yield Problem(
                host,
                "groups",
                ", ".join(own) or "none",
                f"one of {', '.join(PLATFORM_GROUPS)}",
                hint or "put the host into a group of the platform, or take it out of the inventory",
            )


def rule_reserved_groups(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a group that does nothing yet: its hosts would be taken for watched."""
    del catalogue
    for group in RESERVED_GROUPS:
        members = inventory.members(group)
        if members:
            mend = f"take the group {group} out: nothing uses it yet"
            yield Problem(THE_INVENTORY, f"group {group}", listed(members), "no host", mend)


def rule_host_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Host names become lines of /etc/hosts and names of workers, where an underscore or a space breaks things."""
    del catalogue
    for host in inventory.hosts:
        if host.lower() in _EVERYBODYS_NAMES:
            mend = "call the host by its own name; ansible_connection: local goes with any"
            yield Problem(host, "host name", quote(host), "a name that each host does not have for itself", mend)
        elif not is_host_name(host):
            yield Problem(
                host,
                "host name",
                quote(host),
                "letters, digits, hyphens and dots",
                "rename the host in the inventory, e.g. "
                + (re.sub(r"[^A-Za-z0-9.-]+", "-", host).strip("-.") or "node1"),
            )


# --- addresses --------------------------------------------------------------------------------------------------------


_NO_IPV6 = "IPv6 is not supported on the private network: give each host an IPv4 address there"


def _is_ipv6(value: Any) -> bool:
    try:
        return isinstance(value, str) and ipaddress.ip_interface(value).version == 6  # noqa: PLR2004
    except ValueError:
        return False


def _network(inventory: Inventory) -> ipaddress.IPv4Network | None:
    """Return the private network, where all hosts that have one agree on a valid one."""
    found = {
        inventory.value(host, "site_private_network")
        for host in inventory.hosts
        if isinstance(inventory.value(host, "site_private_network"), str)
    }
    if len(found) != 1:
        return None
    try:
        return ipaddress.IPv4Network(found.pop())
    except ValueError:
        return None


def rule_private_network(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Access to database, broker and shared tree is derived from this network, so it must be one network and narrow."""
    for host, value in given(inventory, "site_private_network", str):
        shown = _shown("site_private_network", value, catalogue)
        wanted = "an IPv4 network, e.g. 10.10.0.0/24"
        try:
            network = ipaddress.IPv4Network(value)
        except ValueError:
            mend = _NO_IPV6 if _is_ipv6(value) else near(value)
            yield Problem(host, "site_private_network", shown, wanted, mend)
            continue
        if network.prefixlen < MIN_PREFIX_LENGTH:
            yield Problem(
                host,
                "site_private_network",
                shown,
                f"a prefix length from {MIN_PREFIX_LENGTH}",
                "name the network of your hosts only: everything in it may reach the database",
            )


def rule_private_addresses(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Services listen on the private address and let in the private addresses of the others, so each host needs one."""
    network = _network(inventory)
    wanted = f"an IPv4 address in {network}" if network else "an IPv4 address in site_private_network"
    mend = "give the host its own address on the private network, e.g. " + (
        str(network[min(10, network.num_addresses - 1)]) if network else "10.10.0.10"
    )
    for host in inventory.members(*PLATFORM_GROUPS):
        value = inventory.value(host, "private_address")
        if value is UNRESOLVED:
            continue
        shown = _shown("private_address", value, catalogue)
        try:
            address = ipaddress.IPv4Address(str(value)) if value is not None else None
        except ValueError:
            address = None
        if address is None or (network is not None and address not in network):
            yield Problem(host, "private_address", shown, wanted, _NO_IPV6 if _is_ipv6(value) else mend)
        elif (
            network is not None
            and network.prefixlen < POINT_TO_POINT_PREFIX
            and address
            in (
                network.network_address,
                network.broadcast_address,
            )
        ):
            yield Problem(host, "private_address", f"{shown}, the network's own address", wanted, mend)


def rule_distinct_addresses(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Two hosts with one address are one machine described twice, or a line copied and not changed."""
    del catalogue
    owners: dict[str, list[str]] = {}
    for host in inventory.hosts:
        value = inventory.value(host, "private_address")
        if isinstance(value, str):
            owners.setdefault(value.strip(), []).append(host)
    for address, hosts in owners.items():
        if len(hosts) > 1:
            yield Problem(
                listed(hosts),
                "private_address",
                f"{quote(address)} {len(hosts)} times",
                "an address of its own for each host",
                "correct the copied address; one machine with several roles is one host in several groups",
            )


# --- names of variables -----------------------------------------------------------------------------------------------


def rule_known_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Ansible ignores a misspelt variable silently and the default stays in force."""
    known = [name for name in catalogue.variables if not name.startswith("preflight_secrets")]
    seen: dict[str, str] = {}
    for host in inventory.hosts:
        for name in inventory.variables.get(host, {}):
            if name in catalogue.derived:
                continue
            if name.startswith("ansible_"):
                if name in catalogue.ansible_names:
                    continue
                if name not in seen:
                    seen[name] = did_you_mean(name, catalogue.ansible_names, 0.9)
                if seen[name]:
                    yield Problem(host, name, "a name that Ansible does not know", "a known variable", seen[name])
                continue
            if catalogue.is_known(name):
                continue
            if name not in seen:
                seen[name] = did_you_mean(name, known) or (
                    "take it out, or let its name start with x_ if it is your own"
                )
            yield Problem(host, name, "an unknown variable", "a known variable", seen[name])


def rule_derived_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse what the repository derives: it wins over an inventory's own value, or over half of it."""
    for host in inventory.hosts:
        for name in inventory.variables.get(host, {}):
            if name in catalogue.derived:
                sources = catalogue.sources.get(name, ())
                settable = (
                    f"set {' or '.join(sources)} instead" if 0 < len(sources) <= MAX_NAMED_SOURCES else "take it out"
                )
                yield Problem(host, name, "a value", f"none: it is derived in {catalogue.derived[name]}", settable)


def rule_required_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want every required value: a missing one would stop a play in its middle, with half of the hosts changed."""
    members = inventory.members(*PLATFORM_GROUPS)
    for variable in catalogue.variables.values():
        if not variable.required or variable.name.startswith("secret_"):
            continue
        if variable.name in catalogue.set_by_playbooks:
            continue
        for host in members:
            value = inventory.value(host, variable.name)
            # A role's option is needed where the role runs, which is not known here: one host with a value is enough.
            if variable.origin != "site" and any(inventory.is_set(other, variable.name) for other in members):
                break
            if value is None or value == "":
                example = f", e.g. {variable.example}" if variable.example is not None else ""
                yield Problem(
                    host,
                    variable.name,
                    "nothing",
                    _wanted_type(variable),
                    f"set it in group_vars/all/site.yml{example}",
                )


def rule_site_values_agree(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Values of the site as a whole (its domain, its secrets) must be the same for every host, or hosts cannot talk."""
    names = [
        name
        for name, variable in catalogue.variables.items()
        if name.startswith(("site_", "secret_", "service_", "storage_")) and variable.origin == "site"
    ]
    others = ("escriptorium_version", "escriptorium_text_alignment", "backup_targets", "backup_target_passwords")
    names += [name for name in others if name in catalogue.variables]
    members = inventory.members(*PLATFORM_GROUPS)
    for name in names:
        values = [inventory.effective(host, name, catalogue) for host in members]
        if any(value is UNRESOLVED for value in values):
            continue
        distinct: list[Any] = []
        for value in values:
            if value not in distinct:
                distinct.append(value)
        holders = [host for host in members if inventory.is_set(host, name)]
        if len(distinct) > 1 and holders:
            found = f"{len(distinct)} different values"
            if None in distinct:
                found = f"a value on {listed(holders)} only"
            # A missing required site value is named by its own rule already.
            if None in distinct and catalogue.variables[name].required and not name.startswith("secret_"):
                continue
            yield Problem(
                THE_INVENTORY, name, found, "one value for all hosts", "set it once, in group_vars/all of the inventory"
            )


# --- types and sizes --------------------------------------------------------------------------------------------------

_BOOLEAN_WORDS = frozenset({"yes", "no", "true", "false", "on", "off", "1", "0", "y", "n", "t", "f"})
_TYPE_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "path": "a path",
}


def _is_number(value: Any, kind: Callable[[str], Any]) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int) or (kind is float and isinstance(value, float)):
        return True
    if not isinstance(value, str):
        return False
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _BOOLEAN_WORDS)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


_FITS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "str": _is_text,
    "path": _is_text,
    "int": lambda value: _is_number(value, int),
    "float": lambda value: _is_number(value, float),
    "bool": _is_boolean,
    "list": lambda value: isinstance(value, list | tuple),
    "dict": lambda value: isinstance(value, Mapping),
}


def _type_fits(kind: str, value: Any) -> bool:
    """Return True where Ansible takes the value for the type (numbers and booleans may be text, as -e gives them)."""
    return kind not in _FITS or _FITS[kind](value)


def _wanted_type(variable: Variable) -> str:
    if variable.choices:
        return f"one of {', '.join(map(str, variable.choices))}"
    word = _TYPE_WORDS.get(variable.type, "a value")
    if variable.type == "list" and variable.elements:
        return f"{word}, each item {_TYPE_WORDS.get(variable.elements, 'a value')}"
    return word


def _type_problems(path: str, variable: Variable, value: Any) -> Iterator[tuple[str, Any, str, str]]:
    """(path, value, wanted, mend) of each wrong part of a value."""
    if value is UNRESOLVED:
        return
    wanted = _wanted_type(variable)
    if value is None:
        if not (variable.has_default and variable.default is None) and variable.type != "raw":
            yield path, None, wanted, "give it a value, or take the line out"
        return
    # YAML has read a version like 0.10 as 0.1, and a commit of digits perhaps as an octal number.
    misread = path.endswith("_version") and not isinstance(value, str)
    if not _type_fits(variable.type, value) or (variable.type == "str" and misread):
        quotes = variable.type in ("str", "path") and isinstance(value, bool | int | float | date)
        yield path, value, wanted, "put it in quotes, as you mean it" if quotes else f"write {wanted}"
        return
    if variable.choices and value not in variable.choices and str(value) not in map(str, variable.choices):
        choices = [str(choice) for choice in variable.choices]
        yield path, value, wanted, did_you_mean(str(value), choices, 0.6) or f"write {wanted}"
    if variable.type == "list" and variable.elements:
        element = Variable(path, variable.elements, "", options=variable.options)
        for index, part in enumerate(value):
            yield from _type_problems(f"{path}[{index}]", element, part)
    elif variable.type == "dict" and variable.options:
        yield from _key_problems(path, variable, value)


def _key_problems(path: str, variable: Variable, value: Mapping[str, Any]) -> Iterator[tuple[str, Any, str, str]]:
    """Yield (path, value, wanted, mend) of each wrong, unknown or missing key of a mapping."""
    for key, part in value.items():
        option = variable.options.get(str(key))
        if option is None:
            mend = did_you_mean(str(key), variable.options) or f"known keys: {', '.join(variable.options)}"
            yield f"{path}.{key}", "an unknown key", "a known key", mend
        else:
            yield from _type_problems(f"{path}.{key}", option, part)
    for key, option in variable.options.items():
        if option.required and key not in value:
            yield f"{path}.{key}", None, _wanted_type(option), "give it a value"


def rule_types(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a wrong type: it fails late, or works by accident, as text does that is taken for a list of letters."""
    for host in inventory.hosts:
        for name, value in inventory.variables.get(host, {}).items():
            variable = catalogue.variables.get(name)
            if variable is None:
                continue
            for path, part, wanted, mend in _type_problems(name, variable, value):
                yield Problem(host, path, _shown(name, part, catalogue), wanted, mend)


@dataclass(frozen=True)
class _Size:
    """Bounds of all numbers whose name matches."""

    pattern: re.Pattern[str]
    low: int
    high: int
    unit: str


_SIZES = (
    _Size(re.compile(r"_port$"), 1, 65535, "port number"),
    _Size(re.compile(r"concurrency$"), 1, 1024, "processes"),
    _Size(re.compile(r"visibility_timeout(_s)?$"), MIN_VISIBILITY_TIMEOUT_S, 10 * 365 * 86400, "seconds"),
    _Size(re.compile(r"^escriptorium_(lease|orphan)_seconds$"), 30, 86400, "seconds"),
    _Size(re.compile(r"^service_[ug]id$"), 100, 65533, "number that no account of the system has"),
    _Size(re.compile(r"^escriptorium_fetch_timeout_seconds$"), 1, 90, "seconds"),
    _Size(re.compile(r"^escriptorium_import_patience_seconds$"), 0, 86400, "seconds"),
    _Size(re.compile(r"^escriptorium_import_requests_per_host$"), 0, 100, "requests"),
    _Size(re.compile(r"^escriptorium_trainings_(running_)?per_user$"), 0, 1000, "trainings"),
    _Size(re.compile(r"^escriptorium_login_failures$"), 0, 1000, "wrong passwords"),
    _Size(re.compile(r"^escriptorium_login_lock_seconds$"), 10, 86400, "seconds"),
    _Size(re.compile(r"^escriptorium_admin_session_hours$"), 1, 336, "hours"),
    _Size(re.compile(r"^nginx_login_rate$"), 0, 1000, "logins in a minute"),
    _Size(re.compile(r"^nginx_login_burst$"), 0, 1000, "logins"),
    _Size(re.compile(r"(archive|upload)\w*_mib$"), 1, 1024 * 1024, "MiB"),
    _Size(re.compile(r"^escriptorium_archive_max_files$"), 1, 1000000, "files"),
    _Size(re.compile(r"^nginx_media_answer_seconds$"), 1, 3600, "seconds"),
    _Size(re.compile(r"_(mb|mib|gb|gib)$"), 1, 1024 * 1024 * 1024, "units as the name says"),
    _Size(
        re.compile(r"(processes|workers|threads|batch_size|max_connections|keep_releases|releases_kept)$"),
        1,
        100000,
        "items",
    ),
    _Size(re.compile(r""), 0, 2**63 - 1, "number"),
)


def rule_sizes(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Impossible sizes start services that refuse to run: no process, a port that does not exist, a negative size.

    A visibility timeout below an hour makes Celery run a long training twice. Zero is fine where it is the default:
    there it means "derived" or "off".
    """
    for host in inventory.hosts:
        for name, value in inventory.variables.get(host, {}).items():
            variable = catalogue.variables.get(name)
            if variable is None or variable.type not in ("int", "float") or not _type_fits(variable.type, value):
                continue
            number = float(value)
            if number == variable.default:
                continue
            size = next(size for size in _SIZES if size.pattern.search(name))
            if isinstance(variable.default, int | float) and variable.default < 0 and size.pattern.pattern == "":
                continue
            if not size.low <= number <= size.high:
                yield Problem(
                    host,
                    name,
                    _shown(name, value, catalogue),
                    f"{size.low} or more" if number < size.low else f"{size.high} or less",
                    f"correct the {size.unit}",
                )


def rule_memory_wanted(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Check the shape of the memory bounds here, because the facts stage reads them late."""
    for host, value in given(inventory, "preflight_memory_mb"):
        numbers = list(value.items()) if isinstance(value, Mapping) else [("", value)]
        for group, number in numbers:
            path = f"preflight_memory_mb.{group}" if group else "preflight_memory_mb"
            if group and group not in DEFAULT_MEMORY_MB:
                mend = did_you_mean(str(group), DEFAULT_MEMORY_MB) or f"known: {', '.join(DEFAULT_MEMORY_MB)}"
                yield Problem(host, path, "an unknown group", "a group of the platform", mend)
            elif not _is_number(number, int) or int(number) < 1:
                yield Problem(host, path, _shown(path, number, catalogue), "MB, 1 or more", "write a whole number")


_PATH = re.compile(r"(/[A-Za-z0-9._@+-]+)+")
_PATH_NAME = re.compile(r"_(path|folder)$")


def _path_written_right(value: str) -> str:
    """Return a path as it may be written; empty where nothing is left of it."""
    parts = [re.sub(r"[^A-Za-z0-9._@+-]+", "-", part.strip()).strip("-") for part in value.split("/")]
    return "".join(f"/{part}" for part in parts if part not in ("", ".", ".."))


def rule_paths(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want plain absolute paths: others are made from them, and units, mounts and exports part words at blanks."""
    names = [name for name, one in catalogue.variables.items() if one.type == "path" or _PATH_NAME.search(name)]
    for name in names:
        for host, value in given(inventory, name, str):
            parts = value.split("/")
            if value == catalogue.default(name) or (_PATH.fullmatch(value) and not {".", ".."} & set(parts)):
                continue
            right = _path_written_right(value) or catalogue.default(name) or "/srv/..."
            yield Problem(
                host,
                name,
                _shown(name, value, catalogue),
                "an absolute path below /, of letters, digits and . _ - + @, without a slash at its end",
                f"write {right}",
            )


# --- secrets and placeholders -----------------------------------------------------------------------------------------


def missing_secrets(inventory: Inventory, catalogue: Catalogue) -> list[str]:
    """Names of the secrets that no host has."""
    return [
        name for name in catalogue.secret_names() if not any(inventory.is_set(host, name) for host in inventory.hosts)
    ]


def rule_missing_secrets(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Without its secrets the platform would start with the well-known passwords of upstream's examples."""
    for name in missing_secrets(inventory, catalogue):
        yield Problem(
            THE_INVENTORY,
            name,
            "nothing",
            "a secret",
            "run playbooks/generate-secrets.yml, or set it in your vault",
        )


def rule_weak_secrets(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse what can be guessed; Django itself warns about keys under 50 characters (security.W009)."""
    for name in catalogue.secret_names():
        long = MIN_DJANGO_KEY_LENGTH if name == "secret_django_key" else MIN_SECRET_LENGTH
        for host, value in given(inventory, name):
            text = str(value) if value is not None else ""
            wanted = f"{long} characters or more that cannot be guessed"
            mend = f"take the line out and run playbooks/generate-secrets.yml: it makes {name}"
            if not text:
                yield Problem(host, name, "an empty value", wanted, mend)
            elif text.lower() in _WEAK_SECRETS or _PLACEHOLDER.search(text) or text.startswith("django-insecure-"):
                yield Problem(host, name, "a well-known or default secret", wanted, mend)
            elif len(text) < long:
                yield Problem(host, name, f"a secret of {len(text)} characters", wanted, mend)
            elif len(set(text)) < MIN_DIFFERENT_CHARACTERS:
                yield Problem(host, name, "a secret of very few different characters", wanted, mend)


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of a value, of one that is a mapping too: its values become lines of a file."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(f"{name}.{key}", part)


def rule_one_line(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse what a line of settings cannot carry: a service would read another value, or password, than was given."""
    for host, values in inventory.variables.items():
        for name, value in values.items():
            for path, text in _texts(name, value) if name in catalogue.variables else ():
                if any(unicodedata.category(letter) == "Cc" for letter in text):
                    yield Problem(host, path, "a line break or control character", "one line of text", "take it out")
                elif catalogue.is_secret(name) and text != text.strip():
                    yield Problem(host, path, "a blank at an end", "text without it", "take the blank out")


def _placeholders(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if _PLACEHOLDER.search(value) or _ANGLE.search(value):
            yield path, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _placeholders(f"{path}.{key}", part)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _placeholders(f"{path}[{index}]", part)


def rule_placeholders(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse an example that was copied and not filled in: it would be deployed as it stands."""
    for host in inventory.hosts:
        for name, value in inventory.variables.get(host, {}).items():
            if name.startswith("secret_"):
                continue
            for path, text in _placeholders(name, value):
                yield Problem(
                    host,
                    path,
                    f"the placeholder {quote(text)}" if not catalogue.is_secret(name) else "a placeholder",
                    "a real value",
                    "fill it in",
                )


# --- values of the site -----------------------------------------------------------------------------------------------


def rule_domain(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want a bare name: in certificates, redirects and allowed hosts a scheme or a port breaks it."""
    for host, value in given(inventory, "site_domain", str):
        if value and not is_domain_name(value) and not _is_placeholder(value):
            bare = re.sub(r"^[a-z]+://", "", value, flags=re.IGNORECASE).split("/")[0].split(":")[0]
            right = ascii_domain(bare) or (bare if bare != value and is_domain_name(bare) else "")
            mend = f"write it as {right}" if right else "write the name only, e.g. htr.example.org"
            wanted = "a DNS name with a dot, in ASCII"
            yield Problem(host, "site_domain", _shown("site_domain", value, catalogue), wanted, mend)


def rule_further_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want further names of the site as browsers send them: any other one is refused to its users."""
    for host, value in given(inventory, "escriptorium_allowed_hosts", list):
        for index, name in enumerate(value):
            if isinstance(name, str) and not name.isascii():
                path = f"escriptorium_allowed_hosts[{index}]"
                right = ascii_domain(name)
                mend = f"write it as {right}" if right else "write it as DNS has it"
                yield Problem(host, path, _shown(path, name, catalogue), "a name in ASCII", mend)


def rule_gate_views(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want views of the site as the gate reads them: with another one, no process of the application starts."""
    for host, value in given(inventory, "escriptorium_gate_views", list):
        for index, entry in enumerate(value):
            if not isinstance(entry, str):
                continue
            try:
                _GATE["read_site_rule"](entry)
            except ValueError:
                path = f"escriptorium_gate_views[{index}]"
                wanted = "a view, then KEY=RIGHT for each part of its address"
                rights = _GATE["SITE_RIGHTS"]
                strange = [word for word in entry.split()[1:] if word.partition("=")[2] not in rights]
                mend = f"the rights are {', '.join(rights)}" if strange else "write it like our_app.views.Crop pk=part"
                yield Problem(host, path, _shown(path, entry, catalogue), wanted, mend)


def rule_database_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want plain names: access rules part them at blanks and commas, and take some words for everybody."""
    for name in ("postgresql_database", "postgresql_user"):
        for host, value in given(inventory, name, str):
            if not _DATABASE_NAME.fullmatch(value) or value in _ACCESS_WORDS:
                wanted = "letters, digits and _ . -, and no word of pg_hba.conf"
                yield Problem(host, name, _shown(name, value, catalogue), wanted, f"write {catalogue.default(name)}")


def rule_email(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Error reports and the first account go to this address."""
    for host, value in given(inventory, "site_admin_email", str):
        match = _EMAIL.match(value)
        sound = value.isascii() and match and is_domain_name(match["domain"])
        if value and not _is_placeholder(value) and not sound:
            shown = _shown("site_admin_email", value, catalogue)
            domain = ascii_domain(match["domain"]) if match else ""
            right = f"{value.rpartition('@')[0]}@{domain}" if domain else ""
            mend = f"write it as {right}" if right.isascii() and right else "write it like htr-admin@example.org"
            yield Problem(host, "site_admin_email", shown, "an e-mail address in ASCII", mend)


def rule_timezone(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a time zone that does not exist: the host shows UTC and says nothing, and timers run hours off."""
    zones: set[str] = set()
    for host, value in given(inventory, "base_timezone", str):
        zones = zones or available_timezones()
        # A control machine without time zones knows nothing about them.
        if zones and value not in zones:
            mend = did_you_mean(value, zones) or "name one of `timedatectl list-timezones`, e.g. Europe/Paris"
            yield Problem(host, "base_timezone", _shown("base_timezone", value, catalogue), "a time zone", mend)


def rule_version(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want a tag or a commit to build from; empty would mean whatever upstream has today."""
    for host, value in given(inventory, "escriptorium_version"):
        if value is None or not str(value).strip():
            shown = _shown("escriptorium_version", value, catalogue)
            yield Problem(host, "escriptorium_version", shown, "a tag or a commit", "name one, or take the line out")


def rule_certificate_pairs(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want both or none: nginx starts neither with a certificate without its key nor the other way round."""
    for name in catalogue.variables:
        if "certificate" not in name:
            continue
        partners = (name.replace("certificate", "certificate_key"), name.replace("certificate", "key"))
        partner = next((other for other in partners if other in catalogue.variables), None)
        if partner is None:
            continue
        for host in inventory.hosts:
            pair = {one: inventory.effective(host, one, catalogue) for one in (name, partner)}
            if UNRESOLVED in pair.values():
                continue
            for one, other in ((name, partner), (partner, name)):
                if inventory.is_set(host, one) and pair[one] and not pair[other]:
                    yield Problem(host, other, "nothing", f"a value, because {one} is given", f"set {other} as well")


def _is_placeholder(value: str) -> bool:
    return bool(_PLACEHOLDER.search(value) or _ANGLE.search(value))


INVENTORY_RULES: tuple[Rule, ...] = (
    rule_single_hosts,
    rule_compute_hosts,
    rule_hosts_have_a_role,
    rule_reserved_groups,
    rule_host_names,
    rule_private_network,
    rule_private_addresses,
    rule_distinct_addresses,
    rule_known_names,
    rule_derived_names,
    rule_required_names,
    rule_site_values_agree,
    *TEMPLATE_RULES,
    rule_types,
    rule_sizes,
    rule_paths,
    rule_memory_wanted,
    *QUEUE_RULES,
    *GPU_RULES,
    *STORAGE_RULES,
    *BACKUP_RULES,
    *TUNNEL_RULES,
    *NETWORK_RULES,
    *FIREWALL_RULES,
    *SSH_RULES,
    rule_weak_secrets,
    rule_one_line,
    rule_placeholders,
    rule_domain,
    rule_further_names,
    rule_gate_views,
    rule_database_names,
    rule_email,
    rule_timezone,
    rule_version,
    rule_certificate_pairs,
    *ACME_RULES,
)


def collapse(problems: Iterable[Problem], hosts: Iterable[str]) -> list[Problem]:
    """One problem for all hosts that share it: a wrong line of group_vars is one mistake, not a hundred."""
    everyone = tuple(hosts)
    merged: dict[tuple[str, str, str, str], list[str]] = {}
    for problem in problems:
        owners = merged.setdefault((problem.variable, problem.found, problem.wanted, problem.mend), [])
        if problem.host not in owners:
            owners.append(problem.host)
    result = []
    for (variable, found, wanted, mend), owners in merged.items():
        whole = len(everyone) > 1 and set(owners) >= set(everyone)
        result.append(Problem(EVERY_HOST if whole else listed(owners), variable, found, wanted, mend))
    return result


def check_inventory(inventory: Inventory, catalogue: Catalogue, *, secrets_required: bool = True) -> list[Problem]:
    """All problems of an inventory, merged over hosts, in the order of the rules; empty where there is none.

    ``secrets_required`` is False where missing secrets are made by the next playbook.
    """
    problems: list[Problem] = []
    for rule in INVENTORY_RULES:
        problems.extend(rule(inventory, catalogue))
    if secrets_required:
        problems.extend(rule_missing_secrets(inventory, catalogue))
    return collapse(problems, inventory.hosts)


def report(problems: Iterable[Problem]) -> str:
    """All problems as lines of text, ready to print."""
    return "\n".join(problem.text() for problem in problems)


# --- facts stage ------------------------------------------------------------------------------------------------------

DEFAULT_MEMORY_MB: Final[Mapping[str, int]] = {"frontend": 4000, "storage": 1500, "compute": 8000}
DEFAULT_RELEASE_DISK_GB = 20
APPLICATION_ROLES = frozenset({"frontend", "compute"})
TESTED_APPLICATION = frozenset({"Debian 12"})
TESTED_STORAGE = frozenset({"Debian 12", "Debian 13"})
UNTESTED = frozenset({"Ubuntu 22.04", "Ubuntu 24.04"})
GB = 1000**3
# Newest branch of the driver in each Debian release.
DEBIAN_DRIVERS: Final[Mapping[str, str]] = {"12": "535", "13": "550"}
# Upstream's compose file gives its one GPU container 3 GB (shm_size) for up to eight loading processes; a batch of
# eight lines takes some tens of MB.
SHARED_MEMORY_PER_TRAINING = GB


@dataclass(frozen=True)
class HostFacts:
    """What a host is made of.

    ``version`` is the whole version of the distribution ("12.7", "24.04"), ``memory_mb`` MB of 1024 * 1024 bytes as
    Ansible's facts count them, ``release_free_bytes`` the free space under /opt, ``has_release`` whether the host
    carries a release already, ``driver_version`` the version of NVIDIA's driver that is loaded (empty where none is),
    ``shared_memory_bytes`` the size of /dev/shm, ``has_ipv6`` whether its kernel knows IPv6,
    ``has_timezone`` whether it knows the site's time zone, ``other_firewalls`` those that are switched on there beside
    the platform's own, ``has_wireguard`` whether a host that is to have WireGuard knows it, ``tree_clients`` who is
    connected to the NFS server: (its address, the client's). None where not known.
    """

    distribution: str
    major_version: str
    version: str
    architecture: str
    memory_mb: int | None = None
    processors: int | None = None
    release_free_bytes: int | None = None
    has_release: bool = False
    driver_version: str = ""
    shared_memory_bytes: int | None = None
    has_ipv6: bool = True
    has_timezone: bool = True
    other_firewalls: tuple[str, ...] = ()
    has_wireguard: bool = True
    tree_clients: tuple[tuple[str, str], ...] = ()

    @property
    def system(self) -> str:
        """Distribution and release family: ``Debian 12``, ``Ubuntu 24.04``."""
        return f"{self.distribution} {self.version if self.distribution == 'Ubuntu' else self.major_version}"


@dataclass(frozen=True)
class GpuSettings:
    """What the cards of a host mean for its driver.

    ``workers`` counts the workers on cards, ``load_threads`` the processes with which each reads its training data.
    ``managed`` says whether this repository installs the driver, ``version`` what it stays on (empty: the newest of the
    Debian release), ``cuda`` the CUDA version that the release's PyTorch is made for, e.g. "12.1".
    """

    workers: int
    load_threads: int
    managed: bool
    version: str
    cuda: str


@dataclass(frozen=True)
class FactsSettings:
    """Bounds of the facts stage for one host (site variables preflight_*).

    ``gpu`` is None where it has no cards; ``ipv6`` says whether the web server is to listen there, ``firewall`` whether
    the host is to have the platform's own, ``tree_address`` where it is to serve the tree (empty: nowhere).
    """

    allow_untested: bool = False
    release_disk_gb: float = DEFAULT_RELEASE_DISK_GB
    memory_mb: int | Mapping[str, int] | None = None
    gpu: GpuSettings | None = None
    ipv6: bool = True
    timezone: str = "Etc/UTC"
    firewall: bool = True
    tree_address: str = ""

    def memory_for(self, role: str) -> int:
        """Memory in MB that a host of the group ``role`` must have."""
        if isinstance(self.memory_mb, Mapping):
            return int(self.memory_mb.get(role, DEFAULT_MEMORY_MB.get(role, 0)))
        return int(self.memory_mb) if self.memory_mb is not None else DEFAULT_MEMORY_MB.get(role, 0)


@dataclass(frozen=True)
class FactsHost:
    """One host of the facts stage: its facts, its groups of the platform, its bounds."""

    name: str
    facts: HostFacts
    roles: frozenset[str]
    settings: FactsSettings = FactsSettings()

    @property
    def runs_application(self) -> bool:
        """True where the host gets the release."""
        return bool(self.roles & APPLICATION_ROLES)


def fact_system(host: FactsHost) -> Iterator[Problem]:
    """Want a tested system: the application needs Python 3.11 or 3.12, and other systems were never tried."""
    tested = TESTED_APPLICATION if host.runs_application else TESTED_STORAGE
    if host.facts.system in tested:
        return
    wanted = " or ".join(sorted(tested))
    if host.facts.system in UNTESTED:
        if host.settings.allow_untested:
            return
        mend = "install a tested system, or set preflight_allow_untested: true at your own risk"
    else:
        mend = "install a tested system"
    yield Problem(host.name, "operating system", host.facts.system, wanted, mend)


def fact_architecture(host: FactsHost) -> Iterator[Problem]:
    """Want x86_64: the pinned packages of a release are wheels for x86_64."""
    if host.facts.architecture != "x86_64":
        yield Problem(host.name, "architecture", host.facts.architecture, "x86_64", "use an x86_64 host")


def fact_disk(host: FactsHost) -> Iterator[Problem]:
    """Want room for releases: each takes several GB, and a disk that fills stops the host."""
    free = host.facts.release_free_bytes
    if free is None or not host.runs_application:
        return
    wanted = host.settings.release_disk_gb / (4 if host.facts.has_release else 1)
    if free < wanted * GB:
        yield Problem(
            host.name,
            "free disk space under /opt",
            f"{free / GB:.1f} GB",
            f"{wanted:g} GB or more",
            "free some space, give /opt a larger file system, or lower preflight_release_disk_gb",
        )


def fact_memory(host: FactsHost) -> Iterator[Problem]:
    """Below this a service is killed for memory in the middle of somebody's job."""
    if host.facts.memory_mb is None or not host.roles:
        return
    role = max(sorted(host.roles), key=host.settings.memory_for)
    wanted = host.settings.memory_for(role)
    if host.facts.memory_mb < wanted:
        yield Problem(
            host.name,
            "memory",
            f"{host.facts.memory_mb} MB",
            f"{wanted} MB or more for a {role} host",
            "give the host more memory, or lower preflight_memory_mb",
        )


def fact_ipv6(host: FactsHost) -> Iterator[Problem]:
    """Without IPv6 in the kernel nginx does not start with an address of it, and there is no site at all."""
    if "frontend" in host.roles and host.settings.ipv6 and not host.facts.has_ipv6:
        mend = "set nginx_ipv6: false, or boot the host with IPv6 (without ipv6.disable=1)"
        yield Problem(host.name, "IPv6", "none in the kernel", "IPv6, which nginx is to listen on", mend)


def fact_timezone(host: FactsHost) -> Iterator[Problem]:
    """Want a time zone that the host has: it shows UTC else, and old names are in a package of their own by now."""
    if not host.facts.has_timezone:
        mend = "write the zone's present name (America/New_York for US/Eastern), or install tzdata-legacy there"
        yield Problem(host.name, "base_timezone", quote(host.settings.timezone), "a time zone of the host", mend)


def fact_firewall(host: FactsHost) -> Iterator[Problem]:
    """Two firewalls of one host: what one lets in the other drops, and which one did it nobody sees."""
    if host.settings.firewall and host.facts.other_firewalls:
        names = ", ".join(host.facts.other_firewalls)
        yield Problem(
            host.name,
            "firewall_enabled",
            f"{names}, switched on",
            "one firewall on a host",
            f"choose: switch {names} off, or set firewall_enabled: false and open there what docs/security.md lists",
        )


def fact_wireguard(host: FactsHost) -> Iterator[Problem]:
    """Without WireGuard in the kernel there is no tunnel, and no tree: a run would stop in its middle."""
    if not host.facts.has_wireguard:
        mend = "boot a kernel of Debian's (linux-image-amd64, linux-image-cloud-amd64), or set storage_encryption: none"
        yield Problem(host.name, "storage_encryption", "no WireGuard in the kernel", "a kernel with its module", mend)


def fact_tree_moves(host: FactsHost) -> Iterator[Problem]:
    """Refuse another address of a tree that is mounted: its clients would wait for the one of before, for ever."""
    wanted = host.settings.tree_address
    left = [(own, client) for own, client in host.facts.tree_clients if own != wanted]
    if wanted and left:
        owners = listed(dict.fromkeys(own for own, _ in left))
        found = f"the tree, mounted from {owners} by {listed(dict.fromkeys(client for _, client in left))}"
        mend = (
            "ansible-playbook playbooks/move-tree.yml stops the application and mounts the tree anew: docs/storage.md"
        )
        yield Problem(host.name, "storage_encryption", found, f"no mount but from {wanted}", mend)


def fact_driver(host: FactsHost) -> Iterator[Problem]:
    """Want a driver that knows the release's CUDA: with an older one every training fails at its start."""
    gpu = host.settings.gpu
    if gpu is None or not gpu.cuda:
        return
    own = DEBIAN_DRIVERS.get(host.facts.major_version, "") if host.facts.distribution == "Debian" else ""
    version = (gpu.version or own) if gpu.managed else host.facts.driver_version
    if not version:
        if not gpu.managed:
            mend = "install and load it, or take nvidia_driver_managed: false out"
            yield Problem(host.name, "NVIDIA driver", "none that is loaded", "the site's own driver", mend)
        return
    known = cuda_of_driver(version)
    wanted = int(gpu.cuda.split(".")[0])
    if known < wanted:
        yield Problem(
            host.name,
            "NVIDIA driver",
            f"{version}, which ends at CUDA {known}",
            f"a driver for CUDA {wanted}, as the PyTorch of the release needs",
            "choose a release profile with an older PyTorch, or a newer driver "
            "(nvidia_driver_version, or your own with nvidia_driver_managed: false)",
        )


def fact_shared_memory(host: FactsHost) -> Iterator[Problem]:
    """Want room in /dev/shm: PyTorch's loading processes hand batches over there, and a full one kills the training."""
    gpu, size = host.settings.gpu, host.facts.shared_memory_bytes
    if gpu is None or size is None or not gpu.workers or not gpu.load_threads:
        return
    wanted = gpu.workers * SHARED_MEMORY_PER_TRAINING
    if size < wanted:
        yield Problem(
            host.name,
            "shared memory (/dev/shm)",
            f"{size / GB:.1f} GB",
            f"{wanted / GB:g} GB or more for {gpu.workers} trainings at once",
            f"mount it larger (in /etc/fstab: tmpfs /dev/shm tmpfs size={-(-wanted // GB)}G 0 0), "
            "or set escriptorium_training_load_threads: 0",
        )


def fact_same_family(hosts: Iterable[FactsHost]) -> Iterator[Problem]:
    """One release is built once and copied bit for bit, so all application hosts must run the same system."""
    families: dict[str, list[str]] = {}
    for host in hosts:
        if host.runs_application:
            families.setdefault(f"{host.facts.system} {host.facts.architecture}", []).append(host.name)
    if len(families) > 1:
        found = "; ".join(f"{family} on {listed(names)}" for family, names in sorted(families.items()))
        yield Problem(
            "frontend and compute hosts",
            "operating system",
            found,
            "the same system and architecture on all of them",
            "install the same release of the same distribution: releases are copied bit for bit",
        )


HOST_FACT_RULES: tuple[Callable[[FactsHost], Iterator[Problem]], ...] = (
    fact_system,
    fact_architecture,
    fact_disk,
    fact_memory,
    fact_ipv6,
    fact_timezone,
    fact_firewall,
    fact_wireguard,
    fact_tree_moves,
    fact_driver,
    fact_shared_memory,
)


def check_facts(hosts: Iterable[FactsHost]) -> list[Problem]:
    """All problems that the facts of the hosts show, merged over hosts; empty where there is none."""
    everyone = list(hosts)
    problems = [problem for rule in HOST_FACT_RULES for host in everyone for problem in rule(host)]
    problems.extend(fact_same_family(everyone))
    return collapse(problems, [host.name for host in everyone])
