"""Action `preflight_inventory`: refuse a wrong inventory and a wrong ``-e``, all problems at once, contacting no host.

Takes ``secrets``: ``required`` refuses an inventory without its secrets, ``generated`` lets the next play make them;
``needs``: a pattern of hosts that ``--limit`` must not leave out; ``checked``: true checks the limit alone.

Reads only what the operator wrote (inventory, its group_vars and host_vars, ``-e``), so that the values which this
repository derives from it are not mistaken for the operator's own. The rules are in module_utils/platform_inventory.py
and platform_playbooks.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import ansible.module_utils
import ansible.plugins
from ansible import constants, context
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.utils.collection_loader import AnsibleCollectionConfig
from ansible.utils.vars import load_extra_vars

ROOT = Path(__file__).resolve().parent.parent

try:
    from ansible.module_utils import (
        platform_catalogue,
        platform_files,
        platform_inventory,
        platform_playbooks,
        platform_problems,
        platform_queues,
        platform_read,
        platform_secret_rules,
        platform_ssh,
        platform_templates,
        platform_topology,
        platform_variables,
    )
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
    from ansible.module_utils import (
        platform_catalogue,
        platform_files,
        platform_inventory,
        platform_playbooks,
        platform_problems,
        platform_queues,
        platform_read,
        platform_secret_rules,
        platform_ssh,
        platform_templates,
        platform_topology,
        platform_variables,
    )

# Variables that Ansible itself adds to those of a host.
MAGIC_NAMES = frozenset(
    {
        "environment",
        "group_names",
        "groups",
        "hostvars",
        "inventory_dir",
        "inventory_file",
        "inventory_hostname",
        "inventory_hostname_short",
        "omit",
        "play_hosts",
        "playbook_dir",
        "role_name",
        "role_names",
        "role_path",
        "vars",
    }
)
# Facts and magic variables among the ansible_* names; an operator's own ansible_* names are all others.
MAGIC_ANSIBLE_NAMES = frozenset(
    {
        "ansible_check_mode",
        "ansible_config_file",
        "ansible_diff_mode",
        "ansible_facts",
        "ansible_forks",
        "ansible_inventory_sources",
        "ansible_limit",
        "ansible_local",
        "ansible_playbook_python",
        "ansible_run_tags",
        "ansible_skip_tags",
        "ansible_verbosity",
        "ansible_version",
    }
)


def ansible_names(used: Iterable[str]) -> frozenset[str]:
    """Variables that Ansible itself knows; collections are read only where one of the names used is none of its own."""
    mapping = constants.MAGIC_VARIABLE_MAPPING.values()
    known = {*constants.COMMON_CONNECTION_VARS, *(name for names in mapping for name in names)}
    known |= {"ansible_python_interpreter"}
    known |= platform_catalogue.plugin_variables(Path(ansible.plugins.__file__).parent)
    if any(name.startswith("ansible_") and name not in known for name in used):
        for folder in AnsibleCollectionConfig.collection_paths:
            for plugins in Path(folder, "ansible_collections").glob("*/*/plugins"):
                known |= platform_catalogue.plugin_variables(plugins)
    return frozenset(known)


def plain(value: Any) -> Any:
    """Return a value without Ansible's tags, decrypted; ``UNRESOLVED`` where its vault password was not given."""
    if value is None or isinstance(value, bool | int | float | date):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    try:
        return str(value)
    except AnsibleError:
        return platform_problems.UNRESOLVED


def playbooks_of_run() -> list[str] | None:
    """Names of the playbooks that were called; None where one is not of this repository, and may import any that is."""
    paths = [Path(argument).resolve() for argument in context.CLIARGS.get("args") or ()]
    if all(path == ROOT / "site.yml" or path.parent == ROOT / "playbooks" for path in paths):
        return [path.stem for path in paths]
    return None


def refuse_without_settings() -> None:
    """End where Ansible has not read this repository's settings.

    playbooks/action_plugins is a link to this folder: without it nobody would get here to be told.
    """
    if ROOT / "filter_plugins" not in [Path(path).resolve() for path in constants.DEFAULT_FILTER_PLUGIN_PATH or ()]:
        raise AnsibleActionFail(
            f"Ansible has not read {ROOT}/ansible.cfg. It reads the one of the folder where it is started, unless "
            f"everybody may write there. Start it in {ROOT} (chmod o-w {ROOT}), or export "
            f"ANSIBLE_CONFIG={ROOT}/ansible.cfg"
        )


def without(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by their names, but those of some names."""
    return {name: value for name, value in values.items() if name not in names}


class OperatorVariables:
    """Variables that the operator wrote, for each host, with templates resolved as far as that needs no facts."""

    def __init__(self, sources: Any, hostvars: Any, loader: Any) -> None:
        self._inventory, self._manager = platform_read.operator_inventory(sources, loader)
        self._hostvars = hostvars
        self._loader = loader
        self.given = {str(name): plain(value) for name, value in load_extra_vars(loader).items()}
        self.unresolvable: dict[str, dict[str, platform_problems.Unresolvable]] = {}
        self._known: dict[str, dict[str, Any]] = {}

    def _resolve(self, host: str, name: str, value: Any, raw: Any, engine: Templar) -> Any:
        """Return a template's value as other hosts see it, or else as its host does, which knows hostvars."""
        engines = [engine]
        if name not in platform_templates.READ_BY_OTHERS:
            engines.append(Templar(loader=self._loader, variables={**raw, "hostvars": self._hostvars}))
        reason = "read as it is written"
        for one in engines if name not in platform_templates.READ_AS_WRITTEN else ():
            try:
                return plain(one.template(raw.get(name, value)))
            except AnsibleError as error:
                reason = str(error)
        self.unresolvable.setdefault(host, {})[name] = platform_problems.Unresolvable(
            value if isinstance(value, str) else "",
            reason.split("\n", maxsplit=1)[0],
            platform_templates.reachable(value, raw),
        )
        return platform_problems.UNRESOLVED

    def of(self, host: str) -> dict[str, Any]:
        """Variables of one host by name."""
        if host not in self._known:
            self._known[host] = self._read(host)
        return self._known[host]

    def _read(self, host: str) -> dict[str, Any]:
        given = self._manager.get_vars(host=self._inventory.get_host(host), include_hostvars=False)
        raw = self._hostvars.raw_get(host)
        engine = Templar(loader=self._loader, variables=raw)
        return {
            str(name): self._resolve(host, str(name), value, raw, engine)
            if platform_variables.contains_template(value)
            else plain(value)
            for name, value in given.items()
            if name not in MAGIC_NAMES and name not in MAGIC_ANSIBLE_NAMES
        }

    def present(self, pattern: str) -> list[str]:
        """Hosts of a pattern that have not left the platform, sorted, whatever ``--limit`` is."""
        hosts = [str(host) for host in self._inventory.get_hosts(pattern)] if pattern else []
        return sorted(host for host in hosts if self.of(host).get(platform_topology.STATE) != platform_topology.ABSENT)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs on the control machine only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with the list of problems, or say how many hosts were checked."""
        refuse_without_settings()
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "secrets": {"type": "str", "choices": ["required", "generated"], "default": "required"},
                "needs": {"type": "str", "default": ""},
                "checked": {"type": "bool", "default": False},
            }
        )
        operator = OperatorVariables(variables["ansible_inventory_sources"], variables["hostvars"], self._loader)
        result["changed"] = False
        if not arguments["checked"]:
            result |= self._check(operator, variables, secrets_required=arguments["secrets"] == "required")
        if not result.get("failed"):
            result |= self._check_limit(operator.present(arguments["needs"]), variables["ansible_play_hosts_all"])
        return result

    def _check(
        self, operator: OperatorVariables, variables: Mapping[str, Any], *, secrets_required: bool
    ) -> dict[str, Any]:
        """Say what is wrong with inventory and ``-e``, or what is worth a warning."""
        try:
            catalogue = platform_catalogue.load_catalogue(ROOT)
            run = platform_playbooks.run_of(playbooks_of_run(), ROOT)
        except platform_catalogue.CatalogueError as error:
            raise AnsibleActionFail(f"this repository cannot be read: {error}") from error

        sources = variables["ansible_inventory_sources"]
        groups = {str(name): tuple(map(str, hosts)) for name, hosts in variables["groups"].items()}
        own = {name for name in operator.given if not platform_playbooks.belongs_to_hosts(name, run, catalogue)}
        values = {host: without(own, operator.of(host)) for host in groups.get("all", ())}
        unresolvable = {host: without(own, names) for host, names in operator.unresolvable.items()}
        inventory = platform_problems.Inventory(groups, values, unresolvable)
        catalogue = replace(catalogue, ansible_names=ansible_names({name for host in values.values() for name in host}))

        given = platform_playbooks.check_given(operator.given, run, catalogue)
        asked = bool(context.CLIARGS.get("ask_pass") or context.CLIARGS.get("connection_password_file"))
        problems = given + list(platform_ssh.check_asked(inventory, catalogue, asked=asked))
        problems += platform_files.check_files(sources, groups, inventory.hosts, ROOT)
        folder = platform_files.secrets_folder(sources, variables.get("inventory_dir"))
        if not secrets_required and folder and platform_secret_rules.missing_secrets(inventory, catalogue):
            problems += platform_files.check_secrets_place(folder, ROOT)
        found = platform_inventory.check_inventory(inventory, catalogue, secrets_required=secrets_required)
        problems += [platform_playbooks.with_playbooks(problem, run) for problem in found]
        if problems:
            count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
            return {
                "failed": True,
                "msg": f"{'This run' if given else 'The inventory'} has {count}, listed below. No host was contacted.",
                "problems": platform_problems.report(problems),
            }
        return {
            "msg": f"The inventory is sound: {len(inventory.hosts)} host{'s' if len(inventory.hosts) > 1 else ''}.",
            "warnings": [
                f"Jobs of the queue {queue} wait: each host that takes them is drained ({', '.join(hosts)})."
                for queue, hosts in platform_queues.resting_queues(inventory, catalogue).items()
            ],
        }

    def _check_limit(self, needed: list[str], hosts: list[str]) -> dict[str, Any]:
        missing = sorted(set(needed) - set(hosts))
        if not missing:
            return {}
        return {
            "failed": True,
            "msg": f"Nothing was changed: this run needs {', '.join(needed)}, and --limit leaves out "
            f"{', '.join(missing)}. Repeat it without --limit.",
        }
