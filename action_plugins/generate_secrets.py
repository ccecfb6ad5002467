"""Action `generate_secrets`: make the secrets that the site does not have yet, beside its inventory.

No arguments. A secret counts as given where any host of the inventory has it. New values are added to
``group_vars/all/secrets.yml`` (mode 0600) beside what ``-i`` names, where every host reads them, and returned under
``secrets`` with the whole result hidden from logs. In check mode nothing is written and the values are thrown away at
the end of the run. The logic is in module_utils/platform_secrets.py and platform_files.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

ROOT = Path(__file__).resolve().parent.parent

try:
    from ansible.module_utils import platform_files, platform_secrets
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
    from ansible.module_utils import platform_files, platform_secrets


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs on the control machine only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write missing secrets; changed where any was missing."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        self.validate_argument_spec(argument_spec={})
        result.update(changed=False, made=False)

        hostvars = variables["hostvars"]
        given = {
            secret.name
            for secret in platform_secrets.SECRETS
            for host in variables["groups"]["all"]
            if secret.name in hostvars[host]
        }
        if not platform_secrets.missing_secrets(given):
            result["msg"] = "The site has all of its secrets."
            return result

        sources = variables["ansible_inventory_sources"]
        folder = platform_files.secrets_folder(sources, variables.get("inventory_dir"))
        if not folder:
            raise AnsibleActionFail("secrets are kept beside the inventory: give it as a file or a folder with -i")
        # Secrets may lie in a file that nobody reads: a second set would part the site from its data.
        groups = variables["groups"]
        problems = platform_files.check_files(sources, groups, groups["all"], ROOT)
        problems += platform_files.check_secrets_place(folder, ROOT)
        if problems:
            raise AnsibleActionFail("\n".join(problem.text() for problem in problems))
        path = folder / platform_secrets.RELATIVE_PATH
        shown = os.path.relpath(path)
        if shown.startswith(os.pardir):
            shown = str(path)
        try:
            values = platform_secrets.generate(path, given, write=not self._task.check_mode, shown_path=shown)
        except platform_secrets.SecretsError as error:
            raise AnsibleActionFail(str(error)) from error

        result.update(changed=True, made=True, secrets=values, path=shown, _ansible_no_log=True)
        return result
