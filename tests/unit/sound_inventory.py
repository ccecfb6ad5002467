"""A sound inventory of four hosts, which tests of rules change, and the catalogue that it is checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from module_utils.platform_inventory import check_inventory
from module_utils.platform_problems import Inventory, Problem, report
from module_utils.platform_site_variables import SITE_VARIABLES
from module_utils.platform_variables import Catalogue, Variable

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLE_VARIABLES = (
    Variable("escriptorium_text_alignment", "bool", "", default=False, has_default=True),
    Variable("escriptorium_version", "str", "", default="v1", has_default=True),
    Variable("escriptorium_visibility_timeout", "int", "", default=604800, has_default=True),
    Variable("escriptorium_lease_seconds", "int", "", default=900, has_default=True),
    Variable("escriptorium_retention", "int", "", default=-1, has_default=True),
    Variable("nginx_upload_max_mib", "int", "", default=150, has_default=True),
    Variable("nginx_port", "int", "", default=443, has_default=True),
    Variable("nginx_tls_certificate", "str", "", default="", has_default=True),
    Variable("nginx_tls_key", "str", "", default="", has_default=True),
    Variable("postgresql_buffers_mb", "int", "", default=0, has_default=True),
    Variable("celery_worker_overrides", "dict", "", default={}, has_default=True),
    Variable("escriptorium_allowed_hosts", "list", "", elements="str", default=[], has_default=True),
    Variable("nginx_admin_networks", "list", "", elements="str", default=[], has_default=True),
    Variable("nginx_trusted_proxies", "list", "", elements="str", default=[], has_default=True),
    Variable("escriptorium_import_internal_networks", "list", "", elements="str", default=[], has_default=True),
    Variable("nginx_media_open_networks", "list", "", elements="str", default=[], has_default=True),
    Variable("escriptorium_gate_views", "list", "", elements="str", default=[], has_default=True),
    Variable("postgresql_database", "str", "", default="escriptorium", has_default=True),
    Variable("nginx_tls_note", "str", "", default="", has_default=True),
    Variable("celery_environment", "dict", "", default={}, has_default=True),
    Variable("base_timezone", "str", "", default="Etc/UTC", has_default=True),
    Variable("shared_storage_path", "str", "", default="/srv/escriptorium", has_default=True),
    Variable("mail_password", "str", "", secret=True, default="", has_default=True),
    Variable(
        "web_users",
        "list",
        "",
        elements="dict",
        options={"name": Variable("name", "str", "", required=True), "age": Variable("age", "int", "")},
    ),
)
CATALOGUE = Catalogue(
    {variable.name: variable for variable in (*SITE_VARIABLES, *ROLE_VARIABLES)},
    derived={"base_uid": "group_vars/all/base.yml", "topology_frontend": "group_vars/all/topology.yml"},
    sources={"base_uid": ("service_uid",)},
    ansible_names=frozenset({"ansible_host", "ansible_user", "ansible_become_password", "ansible_become_pass"}),
)
GOOD: dict[str, Any] = {
    "site_domain": "htr.example.org",
    "site_private_network": "10.10.0.0/24",
    "site_admin_email": "htr-admin@example.org",
    "secret_postgresql_password": "aVeryGoodOne4Postgresql",
    "secret_redis_password": "anotherVeryGoodOne4Redis",
    "secret_django_key": "0a1b2c3d4e5f6g7h8i9jAKBLCMDNEOFPGQHRISJTKULVMWNXOYPZ",
    "secret_admin_password": "stillAnotherGoodOne9",
    "secret_backup_passphrase": "yetAnotherGoodOne4TheBackups7",
    "secret_media_passphrase": "aGoodOne4TheCopiesOfMedia5",
}


def inventory(
    common: Mapping[str, Any] | None = None,
    groups: Mapping[str, tuple[str, ...]] | None = None,
    without: tuple[str, ...] = (),
    **hosts: Mapping[str, Any],
) -> Inventory:
    """Make a sound inventory of four hosts with changes: for all hosts, of groups, and of single hosts."""
    members = {"frontend": ("web",), "storage": ("files",), "compute": ("cpu1", "cpu2"), **(groups or {})}
    names = tuple(dict.fromkeys(name for group in members.values() for name in group))
    shared = {name: value for name, value in {**GOOD, **(common or {})}.items() if name not in without}
    variables = {
        name: {**shared, "private_address": f"10.10.0.{number}", **hosts.get(name, {})}
        for number, name in enumerate(names, start=10)
    }
    return Inventory({"all": names, **members}, variables)


def problems(*arguments: Any, **keywords: Any) -> list[Problem]:
    return check_inventory(inventory(*arguments, **keywords), CATALOGUE)


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, report(found)
    return found[0]
