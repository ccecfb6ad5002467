"""Names of hosts and sites as DNS has them.

No Ansible import.
"""

from __future__ import annotations

import re

MAX_HOST_NAME_LENGTH = 253

_LABEL = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")


def is_host_name(name: str) -> bool:
    """Return True where every label holds letters, digits and inner hyphens only, at most 63 (RFC 1123)."""
    return 0 < len(name) <= MAX_HOST_NAME_LENGTH and all(_LABEL.match(label) for label in name.split("."))


def is_domain_name(name: str) -> bool:
    """Return True for a DNS name with at least one dot that is not an address."""
    return is_host_name(name) and "." in name and not name.rsplit(".", 1)[1].isdigit()


def ascii_domain(name: str) -> str:
    """Return an international domain name as DNS knows it (xn--...); empty where there is nothing to change."""
    try:
        found = ".".join(
            label if label.isascii() else label.lower().encode("idna").decode() for label in name.split(".")
        )
    except UnicodeError:
        return ""
    # The older rules of Python's codec lose some letters, as in strasse, which is another name.
    whole = found.count("xn--") >= sum(not label.isascii() for label in name.split("."))
    return found if whole and not name.isascii() and is_domain_name(found) else ""
