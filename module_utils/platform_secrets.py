"""Secrets of a site: what they look like, and the file beside the inventory that holds them.

No Ansible import. Values are made with the operating system's random source and never printed.
"""

from __future__ import annotations

import os
import secrets
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

VAULT_HEADER = "$ANSIBLE_VAULT;"
RELATIVE_PATH = Path("group_vars", "all", "secrets.yml")
#: Folder of the site's own authority (platform_certificates.py), of which Ansible reads nothing as variables.
CERTIFICATES = RELATIVE_PATH.with_name("tls")

_ALPHANUMERIC = string.ascii_letters + string.digits
# Typed by a person from a screen: no 0/O, 1/l/I.
_READABLE = "".join(sorted(set(_ALPHANUMERIC) - set("0O1lI")))


@dataclass(frozen=True)
class Secret:
    """Shape of a generated secret: letters and digits only, so that it is safe in URLs, environment files and SQL."""

    name: str
    length: int
    meaning: str
    alphabet: str = _ALPHANUMERIC


SECRETS: tuple[Secret, ...] = (
    Secret("secret_postgresql_password", 48, "database account of eScriptorium"),
    Secret("secret_redis_password", 48, "broker"),
    Secret("secret_django_key", 64, "signs sessions and password reset links; changing it logs everybody out"),
    Secret("secret_admin_password", 20, "first administrator of the web application", _READABLE),
    Secret("secret_backup_passphrase", 64, "encrypts the backups: keep a copy outside the platform"),
    Secret("secret_media_passphrase", 64, "encrypts the copies of the media: keep a copy outside the platform"),
)

_HEADER = """---
# Secrets of this site, made by playbooks/generate-secrets.yml. Git ignores this file: keep a copy in a safe place.
# Encrypt it:    ansible-vault encrypt {path}
# and then run:  ansible-playbook --ask-vault-pass -i <inventory> site.yml
# Values given here or anywhere else in the inventory are never overwritten.
"""


class SecretsError(Exception):
    """The secrets cannot be made; the message says why and what to do."""


def missing_secrets(given: Collection[str]) -> tuple[Secret, ...]:
    """Secrets that are not among the names ``given``."""
    return tuple(secret for secret in SECRETS if secret.name not in given)


def make_secret(secret: Secret) -> str:
    """Return a new random value with a lower and an upper case letter and a digit, as password rules ask for."""
    while True:
        value = "".join(secrets.choice(secret.alphabet) for _ in range(secret.length))
        if any(c.islower() for c in value) and any(c.isupper() for c in value) and any(c.isdigit() for c in value):
            return value


def is_vault(text: str) -> bool:
    """Return True where the whole file is encrypted by ansible-vault."""
    return text.startswith(VAULT_HEADER)


def render(existing: str | None, values: Mapping[str, str], shown_path: str) -> str:
    """Return the new content of the secrets file: ``existing`` is kept as it is and ``values`` are added at its end.

    ``shown_path`` stands in the header's instructions. Raises SecretsError where ``existing`` is encrypted.
    """
    if existing is not None and is_vault(existing):
        raise SecretsError(
            f"{shown_path} is encrypted and these secrets are missing: {', '.join(values)}. "
            f"Add them by hand: ansible-vault edit {shown_path}"
        )
    text = existing if existing is not None and existing.strip() else _HEADER.format(path=shown_path)
    if not text.endswith("\n"):
        text += "\n"
    meanings = {secret.name: secret.meaning for secret in SECRETS}
    for name, value in values.items():
        text += f'\n# {meanings[name][0].upper()}{meanings[name][1:]}.\n{name}: "{value}"\n'
    return text


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step; a new file gets mode 0600, an existing one keeps its mode.

    Raises SecretsError where the folder cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        # mkstemp makes the file with mode 0600: nobody else can read it at any moment.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".secrets.", suffix=".new")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SecretsError(f"cannot write {path}: {error.strerror or error}") from error


def generate(path: Path, given: Collection[str], *, write: bool, shown_path: str | None = None) -> dict[str, str]:
    """Make the secrets that are not ``given`` and add them to the file at ``path`` unless ``write`` is False.

    Returns the new values by name; empty where nothing was missing, and then nothing is touched. Raises SecretsError.
    """
    missing = missing_secrets(given)
    if not missing:
        return {}
    try:
        existing = path.read_text(encoding="utf-8") if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise SecretsError(f"cannot read {path}: {error}") from error
    values = {secret.name: make_secret(secret) for secret in missing}
    text = render(existing, values, shown_path or str(path))
    if write:
        write_private(path, text)
    return values
