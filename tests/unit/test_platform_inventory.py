"""Rules of preflight, one by one: each wrong value gives its problem, and a sound inventory gives none."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from module_utils.platform_inventory import (
    GB,
    INVENTORY_RULES,
    FactsHost,
    FactsSettings,
    HostFacts,
    check_facts,
    check_inventory,
    collapse,
    is_domain_name,
    is_host_name,
    report,
)
from module_utils.platform_problems import EVERY_HOST, UNRESOLVED, Inventory, Problem, did_you_mean
from module_utils.platform_queues import resting_queues
from module_utils.platform_variables import SITE_VARIABLES, Catalogue, Variable, load_catalogue, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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


def test_sound_inventory_has_no_problem() -> None:
    assert problems() == []


def test_one_machine_may_carry_everything() -> None:
    assert problems(groups={"frontend": ("one",), "storage": ("one",), "compute": ("one",)}) == []


def test_every_rule_says_why_it_exists() -> None:
    for rule in INVENTORY_RULES:
        assert rule.__doc__, rule


# --- groups and hosts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["frontend", "storage"])
def test_group_with_one_host(group: str) -> None:
    members = {"compute": ("web", "files", "cpu1", "cpu2")}
    assert only(problems(groups={group: (), **members})).found == "no host"
    assert only(problems(groups={group: ("web", "files")})).found == "2 hosts (web, files)"


def test_compute_is_not_empty() -> None:
    assert only(problems(groups={"compute": ()})).variable == "group compute"


def test_misspelt_group_is_named() -> None:
    found = problems(groups={"storage": (), "storages": ("files",)})
    assert [problem.mend for problem in found] == [
        "rename the group 'storages' to 'storage'",
        "did you mean 'storage'?",
    ]


def test_host_without_group() -> None:
    problem = only(problems(groups={"ungrouped": ("lost",)}))
    assert (problem.host, problem.found) == ("lost", "ungrouped")


@pytest.mark.parametrize("name", ["cpu_1", "cpu 1", "-cpu", "cpu-", "a" * 64, "cpu..1", "cpü"])
def test_illegal_host_name(name: str) -> None:
    assert not is_host_name(name)
    assert only(problems(groups={"compute": (name,)})).variable == "host name"


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,10}){0,3}", fullmatch=True))
def test_legal_host_names(name: str) -> None:
    assert is_host_name(name)


def test_group_that_nothing_uses_yet() -> None:
    problem = only(problems(groups={"monitoring": ("web", "cpu1")}))
    assert (problem.variable, problem.found) == ("group monitoring", "web, cpu1")
    assert problems(groups={"monitoring": ()}) == []


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "localhost.localdomain", "ip6-localhost"])
def test_name_that_each_host_has_for_itself(name: str) -> None:
    problem = only(problems(groups={"frontend": (name,)}))
    assert (problem.host, problem.variable) == (name, "host name")
    assert "ansible_connection: local" in problem.mend


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", [None, "", "10.11.0.9", "10.10.0.0", "10.10.0.255", "fd00::1", "10.10.0.300", "cpu1", 7]
)
def test_wrong_private_address(address: Any) -> None:
    found = problems(cpu1={"private_address": address})
    assert {problem.variable for problem in found} == {"private_address"}
    assert "cpu1" in {problem.host for problem in found}


def test_missing_private_address() -> None:
    known = inventory()
    lacking = {name: value for name, value in known.variables["cpu1"].items() if name != "private_address"}
    found = check_inventory(replace(known, variables={**known.variables, "cpu1": lacking}), CATALOGUE)
    assert only(found).text().startswith("cpu1: private_address: found nothing, wanted an IPv4 address in 10.10.0.0/24")


def test_doubled_address() -> None:
    problem = only(problems(cpu1={"private_address": "10.10.0.20"}, cpu2={"private_address": "10.10.0.20"}))
    assert problem.host == "cpu1, cpu2"


@pytest.mark.parametrize(
    ("network", "mend"),
    [("10.10.0.7/24", "write 10.10.0.0/24"), ("10.10.0", "write the network's"), ("0.0.0.0/0", "name the network")],
)
def test_wrong_network(network: str, mend: str) -> None:
    problem = only(problems({"site_private_network": network}))
    assert problem.host == EVERY_HOST
    assert problem.mend.startswith(mend)


@pytest.mark.parametrize("name", ["nginx_admin_networks", "nginx_trusted_proxies"])
@pytest.mark.parametrize(
    ("text", "mend"),
    [("192.0.2.7/24", "write 192.0.2.0/24"), ("campus", "write the network's"), ("2001:db8::g", "write the network's")],
)
def test_wrong_entry_of_a_list_of_networks(name: str, text: str, mend: str) -> None:
    problem = only(problems({name: ["192.0.2.1", "2001:db8::/32", text]}))
    assert (problem.host, problem.variable) == (EVERY_HOST, f"{name}[2]")
    assert problem.mend.startswith(mend)


def test_proxies_are_not_everybody() -> None:
    assert only(problems({"nginx_trusted_proxies": ["0.0.0.0/0"]})).mend.startswith("name your proxies only")


@pytest.mark.parametrize(
    ("name", "network", "wanted", "mend"),
    [
        ("nginx_media_open_networks", "10.20.0.7/16", "a network", "write 10.20.0.0/16"),
        ("nginx_media_open_networks", "all; } ", "a network", "write the network's address"),
        ("nginx_media_open_networks", "0.0.0.0/0", "a prefix length from 8", "name the networks"),
        ("nginx_media_open_networks", "::/0", "a prefix length from 19", "name the networks"),
        ("escriptorium_import_internal_networks", "library.example.org", "a network", "write the network's address"),
        ("escriptorium_import_internal_networks", "169.254.169.254/32", "no address of a host itself", "name the"),
        ("escriptorium_import_internal_networks", "127.0.0.1", "no address of a host itself", "name the"),
        ("escriptorium_import_internal_networks", "fe80::/64", "no address of a host itself", "name the"),
    ],
)
def test_networks_that_open_too_much(name: str, network: str, wanted: str, mend: str) -> None:
    problem = only(problems({name: ["10.20.0.0/16", network]}))
    assert (problem.host, problem.variable) == (EVERY_HOST, f"{name}[1]")
    assert problem.wanted.startswith(wanted)
    assert problem.mend.startswith(mend)


@pytest.mark.parametrize("network", ["10.20.0.0/16", "10.20.30.40", "192.0.2.7/32", "2001:db8::/32"])
def test_networks_that_are_sound(network: str) -> None:
    given = {"nginx_media_open_networks": [network], "escriptorium_import_internal_networks": [network]}
    assert problems(given) == []


# --- names ------------------------------------------------------------------------------------------------------------


def test_unknown_name_with_suggestion() -> None:
    problem = only(problems(cpu1={"nginx_upload_max_mb": 3}))
    assert problem.mend == "did you mean 'nginx_upload_max_mib'?"


def test_own_names_start_with_x() -> None:
    assert only(problems({"helper": 1})).mend.endswith("x_ if it is your own")
    assert problems({"x_helper": 1, "node_image": "a", "ansible_user": "root", "ansible_something_rare": 1}) == []


def test_secrets_may_name_encrypted_variables() -> None:
    assert problems({"vault_redis_password": "anotherVeryGoodOne4Redis"}) == []
    placeholder = only(problems({"vault_redis": "CHANGE_ME hunter2"}))
    assert "hunter2" not in placeholder.text()


def test_misspelt_connection_variable() -> None:
    assert only(problems(web={"ansible_hosts": "a"})).mend == "did you mean 'ansible_host'?"
    assert problems(web={"ansible_become_pass": "a"}) == []


def test_derived_name_names_its_source() -> None:
    assert only(problems({"base_uid": 3})).mend == "set service_uid instead"
    assert only(problems({"topology_frontend": "web"})).mend == "take it out"


@pytest.mark.parametrize("name", ["site_domain", "site_private_network", "site_admin_email"])
def test_required_value(name: str) -> None:
    assert only(problems(without=(name,))).variable == name
    assert name in {problem.variable for problem in problems({name: ""})}


def test_required_option_of_a_role() -> None:
    needed = Variable("nginx_name", "str", "", required=True, origin="role nginx")
    catalogue = replace(CATALOGUE, variables={**CATALOGUE.variables, "nginx_name": needed})
    assert only(check_inventory(inventory(), catalogue)).variable == "nginx_name"
    assert check_inventory(inventory(web={"nginx_name": "a"}), catalogue) == []
    assert check_inventory(inventory(), replace(catalogue, set_by_playbooks=frozenset({"nginx_name"}))) == []


def test_values_of_the_site_agree() -> None:
    assert only(problems(cpu1={"site_domain": "other.example.org"})).found == "2 different values"
    assert only(
        problems(without=("secret_redis_password",), web={"secret_redis_password": "good1Enough2Be"})
    ).found == ("a value on web only")


# --- types and sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("nginx_port", "many", "a whole number"),
        ("nginx_port", True, "a whole number"),
        ("nginx_port", 1.5, "a whole number"),
        ("nginx_port", None, "a whole number"),
        ("escriptorium_version", True, "text"),
        ("escriptorium_version", ["a"], "text"),
        ("escriptorium_version", 0.1, "text"),
        ("escriptorium_version", 1234567, "text"),
        ("escriptorium_version", date(2026, 8, 1), "text"),
        ("escriptorium_text_alignment", "perhaps", "true or false"),
        ("compute_queues", "default,live,low-priority,gpu", "a list, each item text"),
        ("celery_worker_overrides", [], "a mapping"),
        ("storage_transport", "smb", "one of nfs, preset"),
    ],
)
def test_wrong_type(name: str, value: Any, wanted: str) -> None:
    assert wanted in {problem.wanted for problem in problems({name: value}) if problem.variable == name}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nginx_port", "8443"),
        ("escriptorium_text_alignment", "no"),
        ("escriptorium_version", "0.10"),
        ("site_domain", "htr.example.org"),
        ("escriptorium_retention", -1),
        ("postgresql_buffers_mb", 0),
        ("celery_worker_overrides", {"gpu": {"memory_mb": "4096"}}),
        ("preflight_memory_mb", 512),
        ("preflight_memory_mb", {"compute": 512}),
        ("nginx_port", UNRESOLVED),
        ("site_domain", UNRESOLVED),
        ("site_private_network", UNRESOLVED),
        ("private_address", UNRESOLVED),
        ("compute_queues", UNRESOLVED),
        ("escriptorium_text_alignment", UNRESOLVED),
        ("secret_redis_password", UNRESOLVED),
        ("nginx_tls_key", UNRESOLVED),
    ],
)
def test_fitting_values(name: str, value: Any) -> None:
    hosts: dict[str, dict[str, Any]] = {host: {name: value} for host in ("web", "files", "cpu1", "cpu2")}
    assert problems(**hosts) == []


@pytest.mark.parametrize("value", [0.1, 1234567, True, date(2026, 8, 1)])
def test_what_yaml_took_for_another_type_needs_quotes(value: Any) -> None:
    assert only(problems({"escriptorium_version": value})).mend == "put it in quotes, as you mean it"


def test_types_inside_lists_and_mappings() -> None:
    found = problems({"web_users": [{"name": "a", "age": "old"}, {"nmae": "b"}]})
    assert {(problem.variable, problem.mend) for problem in found} == {
        ("web_users[0].age", "write a whole number"),
        ("web_users[1].nmae", "did you mean 'name'?"),
        ("web_users[1].name", "give it a value"),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nginx_port", 0),
        ("nginx_port", 65536),
        ("nginx_upload_max_mib", 0),
        ("nginx_upload_max_mib", -150),
        ("escriptorium_visibility_timeout", 3599),
        ("escriptorium_lease_seconds", 29),
        ("postgresql_buffers_mb", -1),
        ("service_uid", 0),
        ("preflight_release_disk_gb", -1),
        ("preflight_memory_mb", 0),
        ("preflight_memory_mb", {"compute": "much"}),
        ("preflight_memory_mb", {"computer": 512}),
    ],
)
def test_impossible_size(name: str, value: Any) -> None:
    assert only(problems({name: value})).variable.split(".")[0] == name


# --- queues -----------------------------------------------------------------------------------------------------------


def test_queue_that_nobody_consumes() -> None:
    queues = {"compute_queues": ["default", "live", "low-priority"]}
    assert only(problems(cpu1=queues, cpu2=queues)).variable == "queue gpu"
    assert problems(cpu1=queues) == []


def test_queues_of_drained_hosts_rest() -> None:
    processors = {"compute_queues": ["default", "live", "low-priority"]}
    drained = {"compute_state": "drained"}
    assert resting_queues(inventory(cpu1=drained), CATALOGUE) == {}
    assert resting_queues(inventory(cpu1=processors, cpu2=drained), CATALOGUE) == {"gpu": ("cpu2",)}
    everywhere = resting_queues(inventory(cpu1=drained, cpu2=drained), CATALOGUE)
    assert everywhere == dict.fromkeys(("default", "live", "low-priority", "gpu"), ("cpu1", "cpu2"))
    assert problems(cpu1=drained, cpu2=drained) == []


def test_alignment_needs_a_worker() -> None:
    queues = {"compute_queues": ["default", "live", "low-priority", "gpu"]}
    assert problems({"escriptorium_text_alignment": True}) == []
    assert only(problems({"escriptorium_text_alignment": True}, cpu1=queues, cpu2=queues)).variable == "queue jvm"


@pytest.mark.parametrize("queue", ["jvm", "imports", "gppu"])
def test_queue_that_nobody_fills(queue: str) -> None:
    problem = only(problems(cpu1={"compute_queues": ["default", queue]}))
    assert problem.found == f"{queue!r}, a queue that nobody fills"


def test_queue_named_twice() -> None:
    assert only(problems(cpu1={"compute_queues": ["gpu", "gpu"]})).found == "'gpu' 2 times"


def test_wrong_overrides() -> None:
    found = problems(cpu1={"celery_worker_overrides": {"defualt": {}, "gpu": {"concurrency": 0}}})
    assert len(found) == 2
    assert found[0].mend == "did you mean 'default'?"


# --- secrets, placeholders, values ------------------------------------------------------------------------------------


def test_missing_secret() -> None:
    lacking = inventory(without=("secret_redis_password",))
    assert only(check_inventory(lacking, CATALOGUE)).variable == "secret_redis_password"
    assert check_inventory(lacking, CATALOGUE, secrets_required=False) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("secret_redis_password", "admin"),
        ("secret_redis_password", "PostGres"),
        ("secret_redis_password", "changeme-please-do"),
        ("secret_redis_password", "short1Aa"),
        ("secret_redis_password", "aaaaaaaaaaaaaaaa"),
        ("secret_redis_password", "two\nlines of text"),
        ("secret_redis_password", "a blank at its end "),
        ("secret_django_key", "aVeryGoodOne4Postgresql"),
        ("secret_django_key", "django-insecure-0a1b2c3d4e5f6g7h8i9jAKBLCMDNEOFPGQHRISJT"),
    ],
)
def test_weak_secret_is_refused_and_not_shown(name: str, value: str) -> None:
    found = problems({name: value})
    assert only(found).variable == name
    assert value not in report(found).replace(name, "")


@given(st.text(min_size=6).filter(lambda text: text.strip()))
def test_secrets_are_never_shown(value: str) -> None:
    """Whatever is wrong with a secret, of the site or of a role, its value does not appear."""
    marked = f"{value}QzQz"
    found = check_inventory(
        inventory(
            {"secret_redis_password": marked, "secret_admin_password": [marked], "mail_password": {"a": marked}},
            web={"secret_redis_password": f"{marked}x"},
        ),
        CATALOGUE,
    )
    assert found
    assert "QzQz" not in report(found)


def test_settings_are_one_line() -> None:
    assert only(problems({"mail_password": "two\nlines"})).mend == "take it out"
    assert only(problems({"nginx_tls_note": "a\tb"})).mend == "take it out"
    nested = only(problems({"celery_environment": {"A": "a b", "B": "two\nlines"}}))
    assert (nested.variable, nested.mend) == ("celery_environment.B", "take it out")
    assert problems({"x_text": "two\nlines", "nginx_tls_note": " a "}) == []


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("/data/htr/", "/data/htr"),
        ("/", "/srv/escriptorium"),
        ("data/htr", "/data/htr"),
        ("/data/my htr", "/data/my-htr"),
        ("/data//htr", "/data/htr"),
        ("/data/../htr", "/data/htr"),
        ("/data/100%", "/data/100"),
        ("~/htr", "/htr"),
        ("", "/srv/escriptorium"),
    ],
)
def test_path_is_written_one_way(value: str, right: str) -> None:
    found = only(problems({"shared_storage_path": value}))
    assert found.wanted.startswith("an absolute path below /")
    assert found.mend == f"write {right}"


@pytest.mark.parametrize("value", ["/data/htr", "/srv/a.b/c_d-e", "/mnt/@data/x+y"])
def test_sound_paths(value: str) -> None:
    assert problems({"shared_storage_path": value}) == []


@pytest.mark.parametrize("value", ["CHANGE_ME", "changeme", "Change-Me.example.org", "<your name>", {"a": ["<x>"]}])
def test_placeholder(value: Any) -> None:
    assert only(problems(cpu1={"x_own": value})).mend == "fill it in"


def test_mail_sender_with_name_is_no_placeholder() -> None:
    assert problems({"x_sender": "eScriptorium <htr@example.org>"}) == []


@pytest.mark.parametrize("value", ["https://htr.example.org", "htr", "htr.example.org:443", "10.10.0.1", "a b.org"])
def test_wrong_domain(value: str) -> None:
    assert not is_domain_name(value)
    assert only(problems({"site_domain": value})).variable == "site_domain"


@pytest.mark.parametrize("value", ["me", "me@", "me@localhost", "Me <me@example.org>", "a@b@example.org"])
def test_wrong_email(value: str) -> None:
    assert only(problems({"site_admin_email": value})).variable == "site_admin_email"


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        ("bücher.example.org", "write it as xn--bcher-kva.example.org"),
        ("https://Bücher.example.org/", "write it as xn--bcher-kva.example.org"),
        ("straße.example.org", "write the name only, e.g. htr.example.org"),
        ("https://htr.example.org", "write it as htr.example.org"),
        ("büche r.example.org", "write the name only, e.g. htr.example.org"),
    ],
)
def test_international_domain(value: str, mend: str) -> None:
    assert only(problems({"site_domain": value})).mend == mend


def test_international_mail_address() -> None:
    found = only(problems({"site_admin_email": "htr@bücher.example.org"}))
    assert found.mend == "write it as htr@xn--bcher-kva.example.org"
    assert only(problems({"site_admin_email": "jörg@example.org"})).mend == "write it like htr-admin@example.org"


def test_further_names_are_written_as_browsers_send_them() -> None:
    found = only(problems({"escriptorium_allowed_hosts": ["htr.example.org", "Bücher.example.org", "10.10.0.10"]}))
    assert (found.variable, found.mend) == ("escriptorium_allowed_hosts[1]", "write it as xn--bcher-kva.example.org")


@pytest.mark.parametrize(
    ("entry", "mend"),
    [
        ("Crop", "write it like our_app.views.Crop"),
        ("our_app.views.Crop,x", "write it like our_app.views.Crop"),
        ("our_app.views.Crop pk=everything", "the rights are asked, document"),
        ("our_app.views.Crop pk", "the rights are asked, document"),
    ],
)
def test_views_of_the_site_are_written_as_the_gate_reads_them(entry: str, mend: str) -> None:
    right = ["our_app.views.Statistics", "our_app.views.Crop document_pk=document part_pk=part"]
    found = only(problems({"escriptorium_gate_views": [*right, entry]}))
    assert found.variable == "escriptorium_gate_views[2]"
    assert found.mend.startswith(mend)


@pytest.mark.parametrize("value", ["all", "my db", "a,b", "", "+admins", "@file"])
def test_names_that_access_rules_read_otherwise(value: str) -> None:
    assert only(problems({"postgresql_database": value})).mend == "write escriptorium"
    assert problems({"postgresql_database": "Htr_2-test"}) == []


def test_private_network_has_no_ipv6() -> None:
    found = problems({"site_private_network": "fd00:10::/64"}, cpu1={"private_address": "fd00:10::10"})
    assert [problem.mend.split(":")[0] for problem in found] == ["IPv6 is not supported on the private network"] * 2


@pytest.mark.parametrize("value", ["Europe/Paris", "Etc/UTC", "UTC", "US/Eastern"])
def test_time_zones(value: str) -> None:
    assert problems({"base_timezone": value}) == []


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        ("Europe/Pari", "did you mean 'Europe/Paris'?"),
        ("europe/paris", "did you mean 'Europe/Paris'?"),
        ("", "name one of `timedatectl list-timezones`, e.g. Europe/Paris"),
        ("../../etc/passwd", "name one of `timedatectl list-timezones`, e.g. Europe/Paris"),
    ],
)
def test_time_zone_that_does_not_exist(value: str, mend: str) -> None:
    assert only(problems({"base_timezone": value})).mend == mend


def test_control_machine_without_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("module_utils.platform_inventory.available_timezones", set)
    assert problems({"base_timezone": "Europe/Pari"}) == []


def test_empty_version() -> None:
    assert only(problems({"escriptorium_version": " "})).variable == "escriptorium_version"


def test_certificate_and_key_come_together() -> None:
    assert only(problems({"nginx_tls_certificate": "a.pem"})).variable == "nginx_tls_key"
    assert only(problems({"nginx_tls_key": "a.key"})).variable == "nginx_tls_certificate"
    assert problems({"nginx_tls_certificate": "a.pem", "nginx_tls_key": "a.key"}) == []


# --- merging ----------------------------------------------------------------------------------------------------------


def test_one_mistake_is_one_problem() -> None:
    many = [Problem(f"cpu{number}", "a", "b", "c", "d") for number in range(20)]
    assert only(collapse(many, [problem.host for problem in many])).host == EVERY_HOST
    assert (
        only(collapse(many, [*(problem.host for problem in many), "web"])).host == "cpu0, cpu1, cpu2, cpu3 and 16 more"
    )


def test_suggestion_only_for_near_names() -> None:
    assert did_you_mean("site_domian", ["site_domain"]) == "did you mean 'site_domain'?"
    assert did_you_mean("zebra", ["site_domain"]) == ""


def test_example_sites_name_known_variables_only(root: Path) -> None:
    catalogue = load_catalogue(root)
    for site in ("cremma", "single", "demo"):
        for path in (root / "inventories" / site / "group_vars").rglob("site.yml"):
            unknown = [name for name in read_yaml(path) or {} if not catalogue.is_known(name)]
            assert unknown == [], path


# --- facts stage ------------------------------------------------------------------------------------------------------

DEBIAN_12 = HostFacts("Debian", "12", "12.7", "x86_64", 16000, 8, 50 * GB)
DEBIAN_13 = replace(DEBIAN_12, major_version="13", version="13.1")
UBUNTU_24 = HostFacts("Ubuntu", "24", "24.04", "x86_64", 16000, 8, 50 * GB)


def host(name: str, facts: HostFacts, *roles: str, **settings: Any) -> FactsHost:
    return FactsHost(name, facts, frozenset(roles), FactsSettings(**settings))


def test_supported_hosts() -> None:
    hosts = [
        host("web", DEBIAN_12, "frontend"),
        host("files", DEBIAN_13, "storage"),
        host("cpu1", replace(DEBIAN_12, version="12.9"), "compute"),
    ]
    assert check_facts(hosts) == []


@pytest.mark.parametrize(
    ("facts", "roles", "settings", "accepted"),
    [
        (DEBIAN_13, ("frontend",), {}, False),
        (DEBIAN_13, ("storage", "compute"), {}, False),
        (DEBIAN_13, ("storage",), {}, True),
        (UBUNTU_24, ("frontend",), {}, False),
        (UBUNTU_24, ("frontend",), {"allow_untested": True}, True),
        (replace(UBUNTU_24, version="24.10"), ("frontend",), {"allow_untested": True}, False),
        (replace(UBUNTU_24, major_version="22", version="22.04"), ("storage",), {"allow_untested": True}, True),
        (replace(DEBIAN_12, distribution="Rocky", major_version="9"), ("storage",), {"allow_untested": True}, False),
    ],
)
def test_operating_system(facts: HostFacts, roles: tuple[str, ...], settings: dict[str, Any], accepted: bool) -> None:
    found = check_facts([host("a", facts, *roles, **settings)])
    assert (found == []) is accepted
    assert accepted or only(found).variable == "operating system"


def test_architecture() -> None:
    assert only(check_facts([host("a", replace(DEBIAN_12, architecture="aarch64"), "compute")])).found == "aarch64"


def test_another_firewall_is_refused_where_the_platform_has_its_own() -> None:
    other = replace(DEBIAN_12, other_firewalls=("firewalld",))
    (found,) = check_facts([FactsHost("web", other, frozenset({"frontend"}))])
    assert (found.variable, found.found) == ("firewall_enabled", "firewalld, switched on")
    assert "firewall_enabled: false" in found.mend
    assert check_facts([FactsHost("web", other, frozenset({"frontend"}), FactsSettings(firewall=False))]) == []


def test_a_tunnel_needs_a_kernel_that_knows_it() -> None:
    (found,) = check_facts([FactsHost("cpu", replace(DEBIAN_12, has_wireguard=False), frozenset({"compute"}))])
    assert (found.variable, found.found) == ("storage_encryption", "no WireGuard in the kernel")
    assert "linux-image-amd64" in found.mend


def test_a_tree_that_is_mounted_keeps_its_address() -> None:
    """Its clients would wait for the server at the old one, and nothing would end them."""
    mounted = replace(DEBIAN_12, tree_clients=(("10.10.0.11", "10.10.0.21"), ("198.18.0.11", "198.18.0.22")))

    def problems_of(address: str) -> list[Problem]:
        return check_facts([FactsHost("files", mounted, frozenset({"storage"}), FactsSettings(tree_address=address))])

    (found,) = problems_of("198.18.0.11")
    assert found.found == "the tree, mounted from 10.10.0.11 by 10.10.0.21"
    assert "playbooks/move-tree.yml" in found.mend
    assert problems_of("") == [], "the site has another way"
    unmoved = replace(mounted, tree_clients=(("10.10.0.11", "10.10.0.21"),))
    settings = FactsSettings(tree_address="10.10.0.11")
    assert check_facts([FactsHost("files", unmoved, frozenset({"storage"}), settings)]) == []


def test_web_server_without_ipv6() -> None:
    without = replace(DEBIAN_12, has_ipv6=False)
    (found,) = check_facts([FactsHost("web", without, frozenset({"frontend"}))])
    assert found.mend.startswith("set nginx_ipv6: false")
    assert check_facts([FactsHost("web", without, frozenset({"frontend"}), FactsSettings(ipv6=False))]) == []
    assert check_facts([FactsHost("cpu", without, frozenset({"compute"}))]) == []


def test_time_zone_that_a_host_lacks() -> None:
    settings = FactsSettings(timezone="US/Eastern")
    (found,) = check_facts(
        [FactsHost("store", replace(DEBIAN_12, has_timezone=False), frozenset({"storage"}), settings)]
    )
    assert (found.variable, found.found) == ("base_timezone", "'US/Eastern'")


def test_application_hosts_run_the_same_system() -> None:
    hosts = [
        host("web", DEBIAN_12, "frontend"),
        host("cpu1", UBUNTU_24, "compute", allow_untested=True),
        host("files", DEBIAN_13, "storage"),
    ]
    assert only(check_facts(hosts)).found == "Debian 12 x86_64 on web; Ubuntu 24.04 x86_64 on cpu1"


def test_disk_for_releases() -> None:
    small = replace(DEBIAN_12, release_free_bytes=6 * GB)
    assert only(check_facts([host("a", small, "compute")])).wanted == "20 GB or more"
    assert check_facts([host("a", replace(small, has_release=True), "compute")]) == []
    assert check_facts([host("a", small, "storage")]) == []
    assert check_facts([host("a", small, "compute", release_disk_gb=1)]) == []
    assert check_facts([host("a", replace(small, release_free_bytes=None), "compute")]) == []


def test_memory_of_the_largest_role() -> None:
    small = replace(DEBIAN_12, memory_mb=5000)
    assert only(check_facts([host("a", small, "compute", "storage")])).wanted == "8000 MB or more for a compute host"
    assert check_facts([host("a", small, "frontend")]) == []
    assert check_facts([host("a", small, "compute", memory_mb={"compute": 4000})]) == []
    assert only(check_facts([host("a", small, "storage", memory_mb=6000)])).found == "5000 MB"


def test_all_problems_of_all_hosts_at_once() -> None:
    bad = HostFacts("Rocky", "9", "9.4", "aarch64", 100, 1, 1)
    found = check_facts([host("a", bad, "frontend"), host("b", bad, "frontend"), host("c", DEBIAN_12, "compute")])
    assert [problem.host for problem in found] == ["a, b"] * 4 + ["frontend and compute hosts"]
