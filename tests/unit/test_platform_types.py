"""The rule about types: what fits passes, and each wrong part gives its problem."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from module_utils.platform_problems import UNRESOLVED
from tests.unit.sound_inventory import only, problems


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
