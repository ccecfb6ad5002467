"""The variables of the site: documented, and what the repository derives from is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from module_utils.platform_catalogue import load_catalogue
from module_utils.platform_site_variables import SITE_VARIABLES

if TYPE_CHECKING:
    from pathlib import Path


def test_site_variables_are_documented() -> None:
    for variable in SITE_VARIABLES:
        assert variable.meaning.endswith("."), variable.name
        assert variable.secret or variable.example is not None, variable.name
        assert not variable.choices or variable.default in variable.choices, variable.name


def test_names_that_the_repository_derives_from_are_declared(root: Path) -> None:
    """Every secret_ and site_ name in group_vars/all is a variable that an operator may set."""
    catalogue = load_catalogue(root)
    used = {name for names in catalogue.sources.values() for name in names}
    text = "".join(path.read_text() for path in (root / "group_vars/all").glob("*.yml"))
    for variable in SITE_VARIABLES:
        if variable.name.startswith("secret_"):
            assert variable.name in used, variable.name
            assert variable.name in text
