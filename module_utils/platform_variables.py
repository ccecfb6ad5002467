"""Catalogue of every variable that an operator may set.

Three sources make the catalogue: the site variables declared here, the role variables declared by each role
(``roles/*/meta/argument_specs.yml``, with literal defaults of ``roles/*/defaults/main.yml``), and the names that this
repository derives from the inventory (``group_vars/all/*.yml``), which an operator must not set.

No Ansible import: everything here can be used and tested alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from .gpu_partition.cards import DEFAULT_TRAINING_MEMORY

if TYPE_CHECKING:
    from pathlib import Path

# Names with these prefixes are never checked: `x_` is for the operator's own helper variables, `vault_` for encrypted
# values that others name (secret_x: "{{ vault_x }}"), `node_` describes the containers of the demo and of the tests
# (molecule/resources), which a real site does not have.
FREE_PREFIXES = ("x_", "vault_", "node_")

PLATFORM_GROUPS = ("frontend", "storage", "compute", "replica", "hypervisor")
# Kept for later: nothing uses them yet, so whoever fills one waits for something that never comes.
RESERVED_GROUPS = ("monitoring",)

# Kinds of plugins that read variables of their own on the way to a host.
_PLUGIN_KINDS = ("connection", "become", "shell")
_SECRET_NAME = re.compile(r"(^(secret|vault)_|password|passphrase|secret_key|_(token|pass)$)")
_TEMPLATE = re.compile(r"\{[{%]")
_PLUGIN_VARIABLE = re.compile(r"\bname:\s*['\"]?(ansible_\w+)")
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]*")


class CatalogueError(Exception):
    """A file of this repository that declares variables cannot be read; the message names the file."""


@dataclass(frozen=True)
class Variable:
    """One variable that an operator may set.

    ``type`` is a type name of Ansible's argument specification (str, int, bool, float, list, dict, path, raw).
    ``default`` is the literal default; None where there is none or where it is a template (see ``has_default``).
    ``options`` are the keys of a dict (or of each dict of a list), by name; empty where any key is allowed.
    """

    name: str
    type: str
    meaning: str
    example: Any = None
    required: bool = False
    secret: bool = False
    choices: tuple[Any, ...] = ()
    elements: str | None = None
    default: Any = None
    has_default: bool = False
    options: Mapping[str, Variable] = field(default_factory=dict)
    origin: str = "site"


SITE_VARIABLES: tuple[Variable, ...] = (
    Variable(
        "site_domain",
        "str",
        "Public DNS name under which users reach the platform, without https:// and without a port.",
        example="htr.example.org",
        required=True,
    ),
    Variable(
        "site_private_network",
        "str",
        "IPv4 network that connects the hosts of the platform, in CIDR notation. Database, broker and shared tree "
        "are reachable from it only.",
        example="10.10.0.0/24",
        required=True,
    ),
    Variable(
        "site_admin_email",
        "str",
        "Address of the person who runs the platform: first administrator account, error reports.",
        example="htr-admin@example.org",
        required=True,
    ),
    Variable(
        "private_address",
        "str",
        "IPv4 address of the host on site_private_network. A host variable.",
        example="10.10.0.21",
    ),
    Variable(
        "private_ssh_port",
        "int",
        "Port of ssh on private_address, for backups and copies between hosts. Unset: ansible_port, or 22. A host "
        "variable, where this computer reaches the host by a port of another machine.",
        example=22,
    ),
    Variable(
        "internal_tls",
        "bool",
        "Encrypt and verify what goes to database and broker. Unset: true where more than one host runs the "
        "application; on one machine nothing of it leaves it.",
        example=True,
    ),
    Variable(
        "compute_queues",
        "list",
        "Queues whose jobs a compute host takes. Unset: all of them; jvm only with escriptorium_text_alignment.",
        example=["default", "live"],
        elements="str",
    ),
    Variable(
        "compute_state",
        "str",
        "active: the workers of this compute host run. drained: they end their jobs and take no more; the host stays "
        "configured. absent: drained, then taken out of the platform. A host variable.",
        example="drained",
        choices=("active", "drained", "absent"),
        default="active",
        has_default=True,
    ),
    Variable(
        "gpu_training_memory_mib",
        "dict",
        "Memory of a GPU that one training needs at most, by kind, in MiB: slices are planned and trainings are sent "
        "by these figures. The defaults are CREMMA's: a 1g.5gb has 4864 MiB, a 2g.10gb 9856.",
        example=dict(DEFAULT_TRAINING_MEMORY),
        default=dict(DEFAULT_TRAINING_MEMORY),
        has_default=True,
        options={
            "recognition": Variable("recognition", "int", "One training of a recogniser, in MiB.", example=4800),
            "segmentation": Variable("segmentation", "int", "One training of a segmenter, in MiB.", example=9800),
        },
    ),
    Variable(
        "storage_transport",
        "str",
        "How the shared tree reaches the other hosts: nfs, or preset where the site mounts it itself.",
        example="nfs",
        choices=("nfs", "preset"),
        default="nfs",
        has_default=True,
    ),
    Variable(
        "storage_encryption",
        "str",
        "What encrypts NFS between the storage host and the others: none, for a private network that nobody else is "
        "in, or wireguard, a tunnel that the hosts make. Nothing where storage_transport is preset or one machine is "
        "the site. Of disks it says nothing.",
        example="wireguard",
        choices=("none", "wireguard"),
        default="none",
        has_default=True,
    ),
    Variable(
        "storage_encryption_network",
        "str",
        "IPv4 network of the tunnel, as large as site_private_network and used by nothing else: each host has the "
        "place there that it has in the private network.",
        example="198.18.0.0/16",
        default="198.18.0.0/16",
        has_default=True,
    ),
    Variable(
        "storage_backend",
        "str",
        "What carries the shared tree and the backups on the storage host: directory (folders of its file system) or "
        "zfs (a pool that the role zfs makes, with snapshots and quotas).",
        example="zfs",
        choices=("directory", "zfs"),
        default="directory",
        has_default=True,
    ),
    Variable(
        "storage_quotas",
        "dict",
        "Most space that each dataset may take, snapshots included. Unit: as zfs writes it, binary. Needs "
        "storage_backend zfs.",
        example={"media": "30T", "releases": "200G", "backups": "4T"},
        default={},
        has_default=True,
        options={
            "media": Variable("media", "str", "Images, models and exports.", example="30T"),
            "releases": Variable("releases", "str", "Built releases.", example="200G"),
            "backups": Variable("backups", "str", "Backups of the database.", example="4T"),
        },
    ),
    Variable(
        "storage_snapshots",
        "dict",
        "Snapshots that are kept of each dataset, by period. Needs storage_backend zfs. Unset: media 24 hourly, 30 "
        "daily, 6 monthly; releases 7 daily; backups 14 daily.",
        example={"media": {"hourly": 24, "daily": 30, "monthly": 6}},
        options={
            name: Variable(
                name,
                "dict",
                f"Snapshots of {what}.",
                example={"hourly": 24, "daily": 30},
                options={
                    period: Variable(period, "int", f"Number of {period} snapshots.", example=24)
                    for period in ("frequently", "hourly", "daily", "weekly", "monthly", "yearly")
                },
            )
            for name, what in (("media", "the media"), ("releases", "the releases"), ("backups", "the backups"))
        },
    ),
    Variable(
        "backup_enabled",
        "bool",
        "Back up the database to the storage host. false only where the site has backups of another kind, or where the "
        "two hosts run different releases of Debian: pgBackRest works between equal versions only.",
        example=True,
        default=True,
        has_default=True,
    ),
    Variable(
        "backup_targets",
        "list",
        "Where copies of media and database go, encrypted, each hour: folders of the storage host, and other machines "
        "(docs/backup.md). Unset: one folder beside the shared tree with storage_backend directory, none with zfs, "
        "where snapshots are the first line.",
        example=[{"name": "local", "type": "directory", "path": "/srv/escriptorium-backups/media"}],
        elements="dict",
        options={
            one.name: one
            for one in (
                Variable("name", "str", "Name of the target; its units and files are named after it.", required=True),
                Variable(
                    "type",
                    "str",
                    "directory: a folder of the storage host. sftp, s3, rest (restic's rest-server): another machine.",
                    required=True,
                    choices=("directory", "sftp", "s3", "rest"),
                ),
                Variable("path", "str", "directory, sftp: folder of the copies. s3: path in the bucket."),
                Variable("host", "str", "sftp: name or address of the machine.", example="backup.example.org"),
                Variable("port", "int", "sftp: port of its ssh service.", example=22),
                Variable("user", "str", "sftp: account there.", example="platform"),
                Variable(
                    "host_key", "str", "sftp: its host key, as ssh-keyscan prints it, without the name before it."
                ),
                Variable("url", "str", "s3, rest: address of the server.", example="https://s3.example.org"),
                Variable("bucket", "str", "s3: name of the bucket."),
                Variable("region", "str", "s3: region of the bucket, where the server wants one."),
                Variable(
                    "append_only",
                    "bool",
                    "The target takes copies and forgets none: no old ones are removed from here.",
                ),
                Variable(
                    "database",
                    "bool",
                    "The backups of the database are copied there too. Unset: yes, but not to a folder beside them.",
                ),
                Variable("limit_upload", "int", "Most that is sent there. Unit: KiB/s; 0: no limit.", example=2000),
                Variable(
                    "limit_hours",
                    "int",
                    "Longest time that one copy of the media takes; the next one goes on. Unit: h; 0: no limit.",
                    example=8,
                ),
                Variable(
                    "calendar", "str", "When it is copied to, as systemd reads it (OnCalendar).", example="hourly"
                ),
            )
        },
    ),
    Variable(
        "backup_target_passwords",
        "dict",
        "Logins of targets of type s3 and rest, by their names: user and password (s3: access key and secret key). "
        "Encrypt them with ansible-vault.",
        example={"elsewhere": {"user": "platform", "password": "{{ vault_backup_elsewhere }}"}},
        secret=True,
    ),
    Variable(
        "service_uid",
        "int",
        "Number of the service account on every host.",
        example=2000,
        default=2000,
        has_default=True,
    ),
    Variable(
        "service_gid",
        "int",
        "Number of the service account's group on every host.",
        example=2000,
        default=2000,
        has_default=True,
    ),
    Variable(
        "secret_postgresql_password",
        "str",
        "Password of the database account that eScriptorium uses.",
        required=True,
        secret=True,
    ),
    Variable("secret_redis_password", "str", "Password of the broker.", required=True, secret=True),
    Variable(
        "secret_django_key",
        "str",
        "Key with which Django signs sessions and password reset links, at least 50 characters.",
        required=True,
        secret=True,
    ),
    Variable(
        "secret_admin_password",
        "str",
        "Password of the first administrator account of the web application.",
        required=True,
        secret=True,
    ),
    Variable(
        "secret_backup_passphrase",
        "str",
        "Encrypts the backups of the database and the copy of the secrets beside them. Keep a copy outside the "
        "platform: without it no backup can be read.",
        required=True,
        secret=True,
    ),
    Variable(
        "secret_media_passphrase",
        "str",
        "Encrypts the copies of the media. Keep a copy outside the platform: without it no copy can be read.",
        required=True,
        secret=True,
    ),
    Variable(
        "preflight_allow_untested",
        "bool",
        "Accept Ubuntu 22.04 and 24.04, which are expected to work and are not tested.",
        example=True,
        default=False,
        has_default=True,
    ),
    Variable(
        "preflight_release_disk_gb",
        "int",
        "Free disk space in GB that a bare application host must have under /opt for releases. A host that carries a "
        "release already needs a quarter of it, for one more.",
        example=20,
        default=20,
        has_default=True,
    ),
    Variable(
        "preflight_memory_mb",
        "raw",
        "Memory in MB that a host must have at least: one number for all, or a number for each group. Unset: "
        "4000 for the frontend, 1500 for the storage host, 8000 for a compute host.",
        example={"frontend": 4000, "storage": 1500, "compute": 8000},
    ),
    Variable(
        "preflight_secrets",
        "str",
        "What the beginning of a run does about missing secrets: required (refuse) or generated (go on: the next "
        "playbook makes them, or this one needs none). Set by playbooks.",
        example="required",
        choices=("required", "generated"),
        default="required",
        has_default=True,
    ),
)


@dataclass(frozen=True)
class Catalogue:
    """All names that may stand in an inventory, and those that must not because the repository derives them."""

    variables: Mapping[str, Variable]
    derived: Mapping[str, str] = field(default_factory=dict)
    """Derived name -> file of the repository that derives it, relative to its root."""
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Derived name -> variables of the operator that its value is made from, e.g. base_uid -> (service_uid,)."""
    set_by_playbooks: frozenset[str] = frozenset()
    """Role variables that a playbook of this repository hands to a role."""
    ansible_names: frozenset[str] = frozenset()
    """Variables of Ansible and its plugins; only names that look like one of these and are none are refused."""

    def is_known(self, name: str) -> bool:
        """Return True where an operator may write this name."""
        return name in self.variables or name.startswith(FREE_PREFIXES) or name.startswith("ansible_")

    def is_secret(self, name: str) -> bool:
        """Return True where the value must never be shown."""
        variable = self.variables.get(name)
        return bool(variable and variable.secret) or bool(_SECRET_NAME.search(name))

    def secret_names(self) -> tuple[str, ...]:
        """Names of the site's generated secrets, in the order of their declaration."""
        return tuple(name for name in self.variables if name.startswith("secret_"))

    def default(self, name: str) -> Any:
        """Literal default of a variable; None where there is none."""
        variable = self.variables.get(name)
        return variable.default if variable else None


def contains_template(value: Any) -> bool:
    """Return True where a string anywhere in the value holds a Jinja expression or statement."""
    if isinstance(value, str):
        return bool(_TEMPLATE.search(value))
    if isinstance(value, Mapping):
        return any(contains_template(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return any(contains_template(part) for part in value)
    return False


def read_yaml(path: Path) -> Any:
    """Content of a YAML file; raises CatalogueError naming the file where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as stream:
            reader = _LOADER(stream)
            try:
                return reader.get_single_data()
            finally:
                reader.dispose()
    except (OSError, yaml.YAMLError) as error:
        raise CatalogueError(f"{path}: {error}") from error


class _Vault(str):
    """Text of a vault-encrypted value or of another private tag: opaque here."""


def _make_loader() -> type[yaml.SafeLoader]:
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("_PlatformLoader", (base,), {})
    for tag in ("!vault", "!unsafe"):
        loader.add_constructor(tag, lambda reader, node: _Vault(reader.construct_scalar(node)))
    result: type[yaml.SafeLoader] = loader
    return result


_LOADER = _make_loader()


def _text(value: Any) -> str:
    """Return the description of an argument specification, which may be a string or a list of paragraphs."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return " ".join(str(part).strip() for part in value)
    return ""


def _literal(value: Any) -> tuple[Any, bool]:
    """(default, has_default) of a declared default: a template has a value only on a host, so it counts as none."""
    return (None, False) if contains_template(value) else (value, True)


def _from_spec(name: str, spec: Mapping[str, Any], origin: str) -> Variable:
    default, has_default = _literal(spec["default"]) if "default" in spec else (None, False)
    options = spec.get("options") or {}
    return Variable(
        name=name,
        type=str(spec.get("type", "str")),
        meaning=_text(spec.get("description")),
        required=bool(spec.get("required", False)),
        secret=bool(spec.get("no_log", False)),
        choices=tuple(spec.get("choices") or ()),
        elements=spec.get("elements"),
        default=default,
        has_default=has_default,
        options={key: _from_spec(key, part or {}, origin) for key, part in options.items()},
        origin=origin,
    )


def role_folders(root: Path) -> list[Path]:
    """Folders of the roles of the repository, sorted by name."""
    return sorted(path for path in (root / "roles").glob("*") if path.is_dir())


def role_options(role: Path) -> dict[str, dict[str, Any]]:
    """Options of all entry points of a role's argument specification, as written; {} where it has none yet."""
    path = role / "meta" / "argument_specs.yml"
    if not path.is_file():
        return {}
    content = read_yaml(path) or {}
    found: dict[str, dict[str, Any]] = {}
    for entry in (content.get("argument_specs") or {}).values():
        for name, spec in ((entry or {}).get("options") or {}).items():
            found.setdefault(str(name), dict(spec or {}))
    return found


def playbook_options(root: Path) -> dict[str, dict[str, Variable]]:
    """Variables that a playbook takes with ``-e``, by playbook and name; one that takes nothing has no entry."""
    content = read_yaml(root / "playbooks" / "meta" / "argument_specs.yml") or {}
    return {
        str(playbook): {
            str(name): _from_spec(str(name), spec or {}, f"{playbook}.yml")
            for name, spec in (entry.get("options") or {}).items()
        }
        for playbook, entry in (content.get("argument_specs") or {}).items()
    }


def role_defaults(role: Path) -> dict[str, Any]:
    """Defaults of a role as written, templates included; {} where it has none."""
    path = role / "defaults" / "main.yml"
    return dict(read_yaml(path) or {}) if path.is_file() else {}


def role_variables(root: Path) -> dict[str, Variable]:
    """Variables of every role under ``root``/roles, by name."""
    found: dict[str, Variable] = {}
    for role in role_folders(root):
        options = role_options(role)
        for name, value in role_defaults(role).items():
            spec = {"type": "raw", **options.get(name, {})}
            spec.setdefault("default", value)
            options[name] = spec
        for name, spec in options.items():
            found[name] = _from_spec(name, spec, f"role {role.name}")
    return found


def derived_variables(root: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(name -> file, name -> expression) of what group_vars/all of the repository derives; ansible_* left out."""
    files: dict[str, str] = {}
    expressions: dict[str, Any] = {}
    for path in sorted((root / "group_vars" / "all").glob("*.yml")):
        for name, value in (read_yaml(path) or {}).items():
            if not str(name).startswith("ansible_"):
                files[str(name)] = str(path.relative_to(root))
                expressions[str(name)] = value
    return files, expressions


def identifiers(value: Any) -> set[str]:
    """Return every word of the text in a value that may be the name of a variable."""
    if isinstance(value, str):
        return set(_IDENTIFIER.findall(value))
    if isinstance(value, Mapping):
        return set().union(*(identifiers(part) for part in value.values()), set())
    if isinstance(value, list | tuple):
        return set().union(*(identifiers(part) for part in value), set())
    return set()


def _sources_of(name: str, expressions: Mapping[str, Any], known: Iterable[str]) -> tuple[str, ...]:
    """Variables of the operator that a derived value is made from, through any number of derived names."""
    allowed = set(known)
    seen: set[str] = set()
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for word in identifiers(expressions.get(current)):
            if word in expressions:
                waiting.append(word)
            elif word in allowed:
                found.add(word)
    return tuple(sorted(found))


def plugin_variables(plugins: Path) -> frozenset[str]:
    """Names that Ansible's plugins below a folder take from variables, as the documentation in them declares."""
    files = (path for kind in _PLUGIN_KINDS for path in (plugins / kind).glob("*.py"))
    return frozenset(
        name for path in files for name in _PLUGIN_VARIABLE.findall(path.read_text(encoding="utf-8", errors="replace"))
    )


def _playbook_vars(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "vars" and isinstance(value, Mapping):
                yield from (str(name) for name in value)
            yield from _playbook_vars(value)
    elif isinstance(node, list):
        for part in node:
            yield from _playbook_vars(part)


def playbook_variables(root: Path) -> frozenset[str]:
    """Names that the playbooks of the repository set under a ``vars`` key."""
    return frozenset(
        name for path in sorted((root / "playbooks").glob("*.yml")) for name in _playbook_vars(read_yaml(path))
    )


def load_catalogue(root: Path) -> Catalogue:
    """Catalogue of the repository at ``root``; raises CatalogueError where a file cannot be read.

    Derived names win over role variables of the same name: the role declares them, the repository sets them.
    """
    variables = {variable.name: variable for variable in SITE_VARIABLES}
    variables.update(role_variables(root))
    files, expressions = derived_variables(root)
    settable = {name: variable for name, variable in variables.items() if name not in files}
    sources = {name: _sources_of(name, expressions, settable) for name in files}
    return Catalogue(settable, files, sources, playbook_variables(root))
