"""Action `generate_certificates`: the site's own authority, the certificate of database and broker, the tunnel's keys.

Takes ``names``: DNS names and addresses under which hosts ask for database and broker (none: no certificate is wanted),
and ``tunnel``: whether NFS goes through one. Makes what is missing in ``group_vars/all/tls`` beside what ``-i`` names,
and renews a certificate that has 60 days left or is for other names. In check mode nothing is written. No key is part
of the result. The logic is in module_utils/platform_certificates.py and platform_tunnel_keys.py.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

ROOT = Path(__file__).resolve().parent.parent

try:
    from ansible.module_utils import platform_certificates, platform_files, platform_secrets, platform_tunnel_keys
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
    from ansible.module_utils import platform_certificates, platform_files, platform_secrets, platform_tunnel_keys


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs on the control machine only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make and renew; changed where anything was made."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "names": {"type": "list", "elements": "str", "required": True},
                "tunnel": {"type": "bool", "default": False},
            }
        )
        sources = variables["ansible_inventory_sources"]
        site = platform_files.secrets_folder(sources, variables.get("inventory_dir"))
        if not site:
            raise AnsibleActionFail("certificates are kept beside the inventory: give it as a file or a folder with -i")
        folder = site / platform_secrets.CERTIFICATES
        shown = os.path.relpath(folder)
        write = not self._task.check_mode
        place = str(folder) if shown.startswith(os.pardir) else shown
        found = platform_certificates.Result()
        reasons: dict[str, str] = {}
        try:
            if arguments["names"]:
                found = platform_certificates.renew(
                    folder, arguments["names"], datetime.now(UTC), write=write, read=self._content, shown=place
                )
                reasons = dict(found.made)
            if arguments["tunnel"] and platform_tunnel_keys.make(folder, write=write):
                reasons[platform_tunnel_keys.FILE] = "there was none"
        except (platform_certificates.CertificatesError, platform_tunnel_keys.TunnelKeyError) as error:
            raise AnsibleActionFail(str(error)) from error
        verb = "Made" if write else "Would make"
        made = [f"{verb} {name} in {shown}: {reason}." for name, reason in reasons.items()]
        result.update(changed=bool(made), msg=made or "The certificates are good for a while.")
        if found.warnings:
            result["warnings"] = list(found.warnings)
        return result

    def _content(self, path: Path) -> bytes:
        """Return a file, which ansible-vault may have encrypted."""
        try:
            return str(self._loader.get_text_file_contents(str(path))).encode()
        except AnsibleError as error:
            raise platform_certificates.CertificatesError(f"cannot read {path.name}: {error}") from error
