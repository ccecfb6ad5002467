"""Action `preflight_inventory`: refuse a wrong inventory and a wrong ``-e``, all problems at once, contacting no host.

Takes ``secrets``: ``required`` refuses an inventory without its secrets, ``generated`` lets the next play make them;
``needs``: a pattern of hosts that ``--limit`` must not leave out; ``checked``: true checks the limit alone.

Reads only what the operator wrote (inventory, its group_vars and host_vars, ``-e``), so that the values which this
repository derives from it are not mistaken for the operator's own. The rules are in module_utils/platform_inventory.py
and platform_playbooks.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible import context
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible.vars.manager import VariableManager

ROOT = Path(__file__).resolve().parent.parent

try:
    from ansible.module_utils import (
        platform_inventory,
        platform_playbooks,
        platform_problems,
        platform_queues,
        platform_variables,
    )
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
    from ansible.module_utils import (
        platform_inventory,
        platform_playbooks,
        platform_problems,
        platform_queues,
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


def plain(value: Any) -> Any:
    """Return a value without Ansible's tags, decrypted; ``UNRESOLVED`` where its vault password was not given."""
    if value is None or isinstance(value, bool | int | float):
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


class OperatorVariables:
    """Variables that the operator wrote, for each host, with templates resolved as far as that needs no facts."""

    def __init__(self, sources: Any, hostvars: Any, loader: Any) -> None:
        self._inventory = InventoryManager(loader=loader, sources=list(sources))
        self._hostvars = hostvars
        self._manager = VariableManager(loader=loader, inventory=self._inventory)
        # Without this, group_vars beside the playbook (what the repository derives) would be mixed in.
        self._manager.safe_basedir = False
        self.given = {str(name): plain(value) for name, value in load_extra_vars(loader).items()}

    def _resolve(self, host: str, name: str) -> Any:
        try:
            return plain(self._hostvars[host][name])
        except (AnsibleError, KeyError):
            return platform_problems.UNRESOLVED

    def of(self, host: str) -> dict[str, Any]:
        """Variables of one host by name."""
        raw = self._manager.get_vars(host=self._inventory.get_host(host), include_hostvars=False)
        found: dict[str, Any] = {}
        for name, value in raw.items():
            if name in MAGIC_NAMES or name in MAGIC_ANSIBLE_NAMES:
                continue
            found[str(name)] = (
                self._resolve(host, name) if platform_variables.contains_template(value) else plain(value)
            )
        return found

    def present(self, pattern: str) -> list[str]:
        """Hosts of a pattern that have not left the platform, sorted, whatever ``--limit`` is."""
        hosts = [str(host) for host in self._inventory.get_hosts(pattern)] if pattern else []
        return sorted(host for host in hosts if self.of(host).get("compute_state") != "absent")


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs on the control machine only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with the list of problems, or say how many hosts were checked."""
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
            catalogue = platform_variables.load_catalogue(ROOT)
            run = platform_playbooks.run_of(playbooks_of_run(), ROOT)
        except platform_variables.CatalogueError as error:
            raise AnsibleActionFail(f"this repository cannot be read: {error}") from error

        groups = {str(name): tuple(map(str, hosts)) for name, hosts in variables["groups"].items()}
        own = {name for name in operator.given if not platform_playbooks.belongs_to_hosts(name, run, catalogue)}
        inventory = platform_problems.Inventory(
            groups,
            {
                host: {name: value for name, value in operator.of(host).items() if name not in own}
                for host in groups.get("all", ())
            },
        )
        given = platform_playbooks.check_given(operator.given, run, catalogue)
        found = platform_inventory.check_inventory(inventory, catalogue, secrets_required=secrets_required)
        problems = given + [platform_playbooks.with_playbooks(problem, run) for problem in found]
        if problems:
            count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
            return {
                "failed": True,
                "msg": f"{'This run' if given else 'The inventory'} has {count}, listed below. No host was contacted.",
                "problems": platform_inventory.report(problems),
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
