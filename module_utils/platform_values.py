"""Rules about single values of the site: its names, its administrator, its time zone, its version.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import re
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING
from zoneinfo import available_timezones

from .platform_dns import ascii_domain, is_domain_name
from .platform_problems import UNRESOLVED, Inventory, Problem, did_you_mean, given, show
from .platform_texts import is_placeholder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .platform_variables import Catalogue

_DATABASE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
# What pg_hba.conf takes for many databases or users.
_ACCESS_WORDS = frozenset({"all", "replication", "samegroup", "samerole", "sameuser"})
_EMAIL = re.compile(r"^[^@\s<>,;:\"]+@(?P<domain>[^@\s<>,;:\"]+)$")
# What the gate itself makes of a site's views: pure, as this module is, and part of what the hosts get.
_GATE = run_path(
    str(Path(__file__).resolve().parent.parent / "roles/escriptorium/files/escriptorium_cluster/gate/rules.py")
)


def rule_domain(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want a bare name: in certificates, redirects and allowed hosts a scheme or a port breaks it."""
    for host, value in given(inventory, "site_domain", str):
        if value and not is_domain_name(value) and not is_placeholder(value):
            bare = re.sub(r"^[a-z]+://", "", value, flags=re.IGNORECASE).split("/")[0].split(":")[0]
            right = ascii_domain(bare) or (bare if bare != value and is_domain_name(bare) else "")
            mend = f"write it as {right}" if right else "write the name only, e.g. htr.example.org"
            wanted = "a DNS name with a dot, in ASCII"
            yield Problem(host, "site_domain", show("site_domain", value, catalogue), wanted, mend)


def rule_further_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want further names of the site as browsers send them: any other one is refused to its users."""
    for host, value in given(inventory, "escriptorium_allowed_hosts", list):
        for index, name in enumerate(value):
            if isinstance(name, str) and not name.isascii():
                path = f"escriptorium_allowed_hosts[{index}]"
                right = ascii_domain(name)
                mend = f"write it as {right}" if right else "write it as DNS has it"
                yield Problem(host, path, show(path, name, catalogue), "a name in ASCII", mend)


def rule_gate_views(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want views of the site as the gate reads them: with another one, no process of the application starts."""
    for host, value in given(inventory, "escriptorium_gate_views", list):
        for index, entry in enumerate(value):
            if not isinstance(entry, str):
                continue
            try:
                _GATE["read_site_rule"](entry)
            except ValueError:
                path = f"escriptorium_gate_views[{index}]"
                wanted = "a view, then KEY=RIGHT for each part of its address"
                rights = _GATE["SITE_RIGHTS"]
                strange = [word for word in entry.split()[1:] if word.partition("=")[2] not in rights]
                mend = f"the rights are {', '.join(rights)}" if strange else "write it like our_app.views.Crop pk=part"
                yield Problem(host, path, show(path, entry, catalogue), wanted, mend)


def rule_database_names(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want plain names: access rules part them at blanks and commas, and take some words for everybody."""
    for name in ("postgresql_database", "postgresql_user"):
        for host, value in given(inventory, name, str):
            if not _DATABASE_NAME.fullmatch(value) or value in _ACCESS_WORDS:
                wanted = "letters, digits and _ . -, and no word of pg_hba.conf"
                yield Problem(host, name, show(name, value, catalogue), wanted, f"write {catalogue.default(name)}")


def rule_email(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Error reports and the first account go to this address."""
    for host, value in given(inventory, "site_admin_email", str):
        match = _EMAIL.match(value)
        sound = value.isascii() and match and is_domain_name(match["domain"])
        if value and not is_placeholder(value) and not sound:
            shown = show("site_admin_email", value, catalogue)
            domain = ascii_domain(match["domain"]) if match else ""
            right = f"{value.rpartition('@')[0]}@{domain}" if domain else ""
            mend = f"write it as {right}" if right.isascii() and right else "write it like htr-admin@example.org"
            yield Problem(host, "site_admin_email", shown, "an e-mail address in ASCII", mend)


def rule_timezone(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Refuse a time zone that does not exist: the host shows UTC and says nothing, and timers run hours off."""
    zones: set[str] = set()
    for host, value in given(inventory, "base_timezone", str):
        zones = zones or available_timezones()
        # A control machine without time zones knows nothing about them.
        if zones and value not in zones:
            mend = did_you_mean(value, zones) or "name one of `timedatectl list-timezones`, e.g. Europe/Paris"
            yield Problem(host, "base_timezone", show("base_timezone", value, catalogue), "a time zone", mend)


def rule_version(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want a tag or a commit to build from; empty would mean whatever upstream has today."""
    for host, value in given(inventory, "escriptorium_version"):
        if value is None or not str(value).strip():
            shown = show("escriptorium_version", value, catalogue)
            yield Problem(host, "escriptorium_version", shown, "a tag or a commit", "name one, or take the line out")


def rule_certificate_pairs(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Want both or none: nginx starts neither with a certificate without its key nor the other way round."""
    for name in catalogue.variables:
        if "certificate" not in name:
            continue
        partners = (name.replace("certificate", "certificate_key"), name.replace("certificate", "key"))
        partner = next((other for other in partners if other in catalogue.variables), None)
        if partner is None:
            continue
        for host in inventory.hosts:
            pair = {one: inventory.effective(host, one, catalogue) for one in (name, partner)}
            if UNRESOLVED in pair.values():
                continue
            for one, other in ((name, partner), (partner, name)):
                if inventory.is_set(host, one) and pair[one] and not pair[other]:
                    yield Problem(host, other, "nothing", f"a value, because {one} is given", f"set {other} as well")
