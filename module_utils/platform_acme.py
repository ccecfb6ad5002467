"""Rules about the certificate that comes by ACME: what would only be noticed when the CA is asked.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .platform_problems import UNRESOLVED, Inventory, Problem, Rule, given, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .platform_variables import Catalogue

#: Names of variables as systemd reads them from a file.
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: A key as a CA shows it: base64url, with its padding or without.
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]{16,}=*")
YES: Final = frozenset({True, "true", "yes", "on", "1"})


def _enabled(inventory: Inventory) -> Iterator[str]:
    """Yield the hosts whose certificate comes by ACME."""
    for host, value in given(inventory, "acme_enabled"):
        if (value.lower() if isinstance(value, str) else value) in YES:
            yield host


def _values(inventory: Inventory, host: str, catalogue: Catalogue, *names: str) -> list[Any] | None:
    found = [inventory.effective(host, name, catalogue) for name in names]
    return None if UNRESOLVED in found else found


def rule_one_certificate(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want one source: each run would put the site's own certificate in the place of the CA's."""
    for host in _enabled(inventory):
        found = _values(inventory, host, catalogue, "nginx_tls_certificate")
        if found and found[0]:
            mend = "take nginx_tls_certificate and nginx_tls_key out, or acme_enabled"
            yield Problem(host, "acme_enabled", "true beside nginx_tls_certificate", "one of the two", mend)


def rule_external_account(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want both halves of an external account; the key is never shown."""
    names = ("acme_eab_kid", "acme_eab_hmac_key")
    for host in _enabled(inventory):
        pair = _values(inventory, host, catalogue, *names)
        if pair is None:
            continue
        for (one, value), (other, partner) in (
            zip(names, pair, strict=True),
            zip(names[::-1], pair[::-1], strict=True),
        ):
            if value and not partner:
                yield Problem(host, other, "nothing", f"a value, because {one} is given", f"set {other} as well")
        key = pair[1]
        if isinstance(key, str) and key and not _BASE64URL.fullmatch(key):
            wanted = "a key as the CA shows it (base64url)"
            yield Problem(host, names[1], "a value that is not shown", wanted, "copy it from the page of the CA")


def rule_challenge(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want a program for the DNS where the DNS is asked, and none where it would never be called."""
    for host in _enabled(inventory):
        pair = _values(inventory, host, catalogue, "acme_challenge", "acme_dns_hook")
        if pair is None:
            continue
        challenge, hook = pair
        if challenge == "dns-01" and not hook:
            mend = "name a program that writes to your DNS, or take acme_challenge out"
            yield Problem(host, "acme_dns_hook", "nothing", "a program, because acme_challenge is dns-01", mend)
        elif hook and challenge != "dns-01":
            yield Problem(
                host,
                "acme_challenge",
                quote(challenge),
                "dns-01, for acme_dns_hook",
                "set it, or take acme_dns_hook out",
            )


def rule_certificate_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want names that the site answers to: the CA asks each, and one that fails leaves all without a certificate."""
    for host in _enabled(inventory):
        found = _values(inventory, host, catalogue, "acme_further_names", "escriptorium_allowed_hosts")
        if found is None or not all(isinstance(part, list) for part in found):
            continue
        further, allowed = found
        for index, name in enumerate(further):
            if name not in allowed and name != inventory.value(host, "site_domain"):
                mend = "add it there as well, or take it out here"
                wanted = "a name in escriptorium_allowed_hosts"
                yield Problem(host, f"acme_further_names[{index}]", quote(name), wanted, mend)


def rule_directory(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want TLS towards the CA: a key that is asked for in clear is anybody's."""
    for host in _enabled(inventory):
        value = inventory.effective(host, "acme_directory", catalogue)
        if isinstance(value, str) and not re.fullmatch(r"https://[^\s/]+/\S*", value):
            mend = "write the directory's address as the CA shows it"
            yield Problem(host, "acme_directory", quote(value), "an address that begins with https://", mend)


def rule_renewal_days(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want the mail after the first attempts to renew, and not before them."""
    for host in _enabled(inventory):
        pair = _values(inventory, host, catalogue, "acme_renew_days", "acme_warn_days")
        if pair is None or not all(isinstance(days, int) for days in pair):
            continue
        renew, warn = pair
        if not 0 < warn < renew:
            mend = f"set it below acme_renew_days ({renew})"
            yield Problem(host, "acme_warn_days", quote(warn), f"1 to {renew - 1}", mend)


def rule_acme_environment(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want names that systemd takes: it passes over a line that it does not understand. Values are never shown."""
    for host in _enabled(inventory):
        value = inventory.effective(host, "acme_environment", catalogue)
        for name in value if isinstance(value, dict) else ():
            if not (isinstance(name, str) and _VARIABLE.fullmatch(name)):
                yield Problem(
                    host, "acme_environment", quote(name), "the name of a variable", "write it like DNS_TOKEN"
                )


ACME_RULES: Final[tuple[Rule, ...]] = (
    rule_one_certificate,
    rule_external_account,
    rule_challenge,
    rule_certificate_names,
    rule_directory,
    rule_renewal_days,
    rule_acme_environment,
)
