"""Rules about the site's secrets: all are there, and none can be guessed. platform_secrets.py makes them.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .platform_problems import THE_INVENTORY, Inventory, Problem, given
from .platform_texts import PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .platform_variables import Catalogue

MIN_SECRET_LENGTH = 12
MIN_DJANGO_KEY_LENGTH = 50
# As Django counts them for its key (security.W009).
MIN_DIFFERENT_CHARACTERS = 5
_WEAK_SECRETS = frozenset(
    {
        "admin",
        "administrator",
        "changeme",
        "change_me",
        "default",
        "django",
        "escriptorium",
        "password",
        "passw0rd",
        "postgres",
        "postgresql",
        "redis",
        "secret",
        "test",
    }
)


def missing_secrets(inventory: Inventory, catalogue: Catalogue) -> list[str]:
    """Names of the secrets that no host has."""
    return [
        name for name in catalogue.secret_names() if not any(inventory.is_set(host, name) for host in inventory.hosts)
    ]


def rule_missing_secrets(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Without its secrets the platform would start with the well-known passwords of upstream's examples."""
    for name in missing_secrets(inventory, catalogue):
        yield Problem(
            THE_INVENTORY,
            name,
            "nothing",
            "a secret",
            "run playbooks/generate-secrets.yml, or set it in your vault",
        )


def rule_weak_secrets(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse what can be guessed; Django itself warns about keys under 50 characters (security.W009)."""
    for name in catalogue.secret_names():
        long = MIN_DJANGO_KEY_LENGTH if name == "secret_django_key" else MIN_SECRET_LENGTH
        for host, value in given(inventory, name):
            text = str(value) if value is not None else ""
            wanted = f"{long} characters or more that cannot be guessed"
            mend = f"take the line out and run playbooks/generate-secrets.yml: it makes {name}"
            if not text:
                yield Problem(host, name, "an empty value", wanted, mend)
            elif text.lower() in _WEAK_SECRETS or PLACEHOLDER.search(text) or text.startswith("django-insecure-"):
                yield Problem(host, name, "a well-known or default secret", wanted, mend)
            elif len(text) < long:
                yield Problem(host, name, f"a secret of {len(text)} characters", wanted, mend)
            elif len(set(text)) < MIN_DIFFERENT_CHARACTERS:
                yield Problem(host, name, "a secret of very few different characters", wanted, mend)
