"""Catalogue of every variable that an operator may set, read from this repository.

Three sources make the catalogue: the site variables (platform_site_variables.py), the role variables declared by each
role (``roles/*/meta/argument_specs.yml``, with literal defaults of ``roles/*/defaults/main.yml``), and the names that
this repository derives from the inventory (``group_vars/all/*.yml``), which an operator must not set.

No Ansible import: everything here can be used and tested alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from .platform_site_variables import SITE_VARIABLES
from .platform_variables import Catalogue, Variable, contains_template, identifiers

if TYPE_CHECKING:
    from pathlib import Path

# Kinds of plugins that read variables of their own on the way to a host.
_PLUGIN_KINDS = ("connection", "become", "shell")
_PLUGIN_VARIABLE = re.compile(r"\bname:\s*['\"]?(ansible_\w+)")


class CatalogueError(Exception):
    """A file of this repository that declares variables cannot be read; the message names the file."""


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
