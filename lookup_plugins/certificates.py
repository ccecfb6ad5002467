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
    from ansible.module_utils import platform_files
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LookupModule(LookupBase):  # type: ignore[misc]
    """Takes the name of one file."""

    def run(self, terms: Sequence[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one text."""
        (name,) = (str(term) for term in terms)
        try:
            text = platform_files.site_file(name, variables or {}, self._loader, needed=bool(kwargs.get("needed")))
        except platform_files.MissingFileError as error:
            raise AnsibleLookupError(str(error)) from error
        return [f"{platform_files.IN_A_DRY_RUN}\n" if text is None else text]
