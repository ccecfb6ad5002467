"""Lookup `certificates`: a file of the site's own authority, for group_vars/all.

    lookup('certificates', 'ca.crt', needed=true)

Its text, decrypted; where it is missing an empty one, or an error where it is needed. In check mode a site without
certificates is shown what would be written, but for their texts: a dry run makes none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

try:
    from ansible.module_utils import platform_files, platform_secrets
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_files, platform_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IN_A_DRY_RUN = "a run without --check makes it\n"


class LookupModule(LookupBase):  # type: ignore[misc]
    """Takes the name of one file."""

    def run(self, terms: Sequence[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one text."""
        known = variables or {}
        (name,) = (str(term) for term in terms)
        sources = known.get("ansible_inventory_sources") or ()
        site = platform_files.secrets_folder(sources, known.get("inventory_dir"))
        path = site / platform_secrets.CERTIFICATES / name if site else None
        if path and path.exists():
            return [str(self._loader.get_text_file_contents(str(path)))]
        if not kwargs.get("needed"):
            return [""]
        if known.get("ansible_check_mode"):
            return [IN_A_DRY_RUN]
        raise AnsibleLookupError(
            f"{path or name} is not there: ansible-playbook playbooks/generate-secrets.yml makes it, as site.yml does"
        )
