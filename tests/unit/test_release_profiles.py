"""The release profiles: what each says of itself, and what the newer Django changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

pytestmark = pytest.mark.usefixtures("ansible_plugins")

ROLE = Path(__file__).resolve().parents[2] / "roles" / "escriptorium"
PROFILES = sorted(path.name for path in (ROLE / "files/profiles").iterdir())


def profile(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROLE / "files/profiles" / name / "profile.yml").read_text())
    return content


def pins(name: str) -> dict[str, str]:
    """Return the versions of a profile by package; each is there once."""
    lines = (ROLE / "files/profiles" / name / "constraints.txt").read_text().splitlines()
    pairs = [(line.partition("==")[0], line.partition("==")[2]) for line in lines if not line.startswith("#")]
    assert len({package for package, _ in pairs}) == len(pairs)
    return dict(pairs)


def overrides(name: str) -> list[str]:
    """Return the requirements that give way to the profile, as the role writes them for the installer."""
    loader = DataLoader()
    variables = {"role_path": str(ROLE), "escriptorium_profile": name}
    for part in ("defaults", "vars"):
        found = loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
        variables = found | variables
    templar = Templar(loader=loader, variables=variables)
    return list(templar.template(trust_as_template("{{ __escriptorium_overrides }}")))


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_what_it_says(name: str) -> None:
    content, versions = profile(name), pins(name)
    assert content["name"] == name
    assert (content["kraken_version"], content["torch_version"]) == (versions["kraken"], versions["torch"])
    assert set(content.get("overridden_requirements", [])) <= set(versions)


def test_requirements_give_way_where_a_profile_says_so() -> None:
    assert overrides("kraken-5") == []
    wanted = profile("kraken-5-django-5")["overridden_requirements"]
    versions = pins("kraken-5-django-5")
    # Whole names: `django` is not `django-filter`.
    assert overrides("kraken-5-django-5") == [f"{name}=={versions[name]}" for name in sorted(wanted, key=_as_sorted)]


def _as_sorted(name: str) -> int:
    return list(pins("kraken-5-django-5")).index(name)


def test_the_newer_django_changes_what_depends_on_it_and_nothing_else() -> None:
    old, new = pins("kraken-5"), pins("kraken-5-django-5")
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    assert changed == set(profile("kraken-5-django-5")["overridden_requirements"])
    assert new["django"].startswith("5.2."), "the release that gets security fixes until April 2028"
    others = {"name", "overridden_requirements"}
    assert {key: value for key, value in profile("kraken-5-django-5").items() if key not in others} == {
        key: value for key, value in profile("kraken-5").items() if key not in others
    }


def test_the_stand_in_runs_with_the_packages_of_the_default_profile() -> None:
    default = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["escriptorium_profile"]
    link = ROLE.parents[1] / "molecule/stand_in/profile/constraints.txt"
    assert link.resolve() == (ROLE / "files/profiles" / default / "constraints.txt").resolve()
