"""Keys of the tunnel in which NFS crosses the private network (WireGuard): a file of the site, and those of each host.

The file beside the certificates holds 32 random bytes. A host's private key is made from them and its name, by HKDF
(RFC 5869) with SHA-256: nobody gets from it to the file, or to the key of another host. The public key belongs to it by
Curve25519 (RFC 7748), as `wg pubkey` makes it. No Ansible import; no key is ever part of a message.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .platform_secrets import SecretsError, write_private

if TYPE_CHECKING:
    from pathlib import Path

#: Beside the certificates, and named as their keys are: ansible-vault may hide it, and it is no variable of any host.
FILE: Final = "wireguard.key"
SIZE: Final = 32
_PURPOSE: Final = b"eScriptorium: WireGuard, shared tree: "


class TunnelKeyError(Exception):
    """The keys cannot be made; the message says why and what to do."""


def make(folder: Path, *, write: bool) -> bool:
    """Make the site's file where there is none; answers whether it was missing.

    Raises:
        TunnelKeyError: it cannot be written.

    """
    path = folder / FILE
    if path.exists():
        return False
    if write:
        try:
            write_private(path, base64.b64encode(secrets.token_bytes(SIZE)).decode() + "\n")
        except SecretsError as error:
            raise TunnelKeyError(str(error)) from error
    return True


def private_key(content: str, host: str) -> str:
    """Return the private key of a host, from the content of the site's file, as wg(8) reads it.

    Raises:
        TunnelKeyError: the file holds something else.

    """
    return base64.b64encode(_key(content, host).private_bytes_raw()).decode()


def public_key(content: str, host: str) -> str:
    """Return the public key of a host.

    Raises:
        TunnelKeyError: the file holds something else.

    """
    return base64.b64encode(_key(content, host).public_key().public_bytes_raw()).decode()


def _key(content: str, host: str) -> X25519PrivateKey:
    try:
        seed = base64.b64decode(content.strip(), validate=True)
    except (binascii.Error, ValueError):
        seed = b""
    if len(seed) != SIZE:
        raise TunnelKeyError(f"{FILE} is not as this repository makes it: bring it back from your copy")
    derive = HKDF(algorithm=hashes.SHA256(), length=SIZE, salt=None, info=_PURPOSE + host.encode())
    return X25519PrivateKey.from_private_bytes(derive.derive(seed))
