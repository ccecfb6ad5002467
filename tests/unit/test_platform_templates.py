"""Templates of an inventory that cannot be resolved: which may wait for the facts of hosts, and which are refused."""

from __future__ import annotations

import pytest

from module_utils.platform_inventory import check_inventory
from module_utils.platform_problems import UNRESOLVED, Inventory, Problem, Unresolvable
from module_utils.platform_templates import reachable
from tests.unit.sound_inventory import CATALOGUE, inventory

FACT = "object of type 'dict' has no attribute 'eth0'"


def problems(name: str, error: str, *names: str, template: str = "{{ ... }}") -> list[Problem]:
    sound = inventory()
    variables = {host: {**values, "x_domain": "a.example.org"} for host, values in sound.variables.items()}
    variables["cpu1"][name] = UNRESOLVED
    why = Unresolvable(template, error, frozenset(names))
    found = check_inventory(Inventory(sound.groups, variables, {"cpu1": {name: why}}), CATALOGUE)
    return [problem for problem in found if problem.found != "a value on web, files, cpu2 only"]


def test_what_hosts_tell_about_themselves_may_stay_open() -> None:
    assert problems("celery_worker_overrides", FACT, "ansible_facts") == []
    assert problems("celery_worker_overrides", "'ansible_play_hosts' is undefined", "ansible_play_hosts") == []


def test_encrypted_values_stay_closed_without_their_password() -> None:
    assert problems("site_domain", "Attempt to use undecryptable variable: no vault secrets found.") == []


@pytest.mark.parametrize("name", ["x_helper", "node_image"])
def test_helpers_are_judged_where_they_are_used(name: str) -> None:
    assert problems(name, "'item' is undefined", "item") == []


@pytest.mark.parametrize("name", ["site_domain", "celery_worker_overrides", "private_address", "ansible_user"])
def test_a_name_that_is_missing(name: str) -> None:
    (found,) = problems(name, "'x_domian' is undefined", "x_domian", "ansible_facts", template="{{ x_domian }}")
    assert found.host == "cpu1"
    assert found.found == "'{{ x_domian }}', which names 'x_domian'"
    assert found.mend == "did you mean 'x_domain'?"


@pytest.mark.parametrize(
    "name",
    [
        "private_address",
        "ansible_host",
        "site_admin_email",
        "secret_admin_password",
        "compute_queues",
        "storage_backend",
        "escriptorium_version",
        "escriptorium_text_alignment",
    ],
)
def test_what_must_be_known_beforehand(name: str) -> None:
    (found,) = problems(name, FACT, "ansible_facts")
    assert "a value that needs facts" in found.found
    assert found.wanted == "a value that is known beforehand"


def test_values_that_other_hosts_read_have_no_hostvars() -> None:
    (found,) = problems("private_address", "'hostvars' is undefined", "hostvars")
    assert found.wanted == "a value without hostvars"


def test_what_plays_choose_their_hosts_by_is_written_out() -> None:
    """The lookup absent_hosts reads it raw: a template that gives `absent` left the host among all others."""
    (found,) = problems("compute_state", "read as it is written", template="{{ x_state }}")
    assert (found.found, found.wanted) == ("'{{ x_state }}'", "a value without a template")


def test_a_template_that_fails() -> None:
    (found,) = problems("celery_worker_overrides", "No filter named 'blah'.", "x_domain", "blah")
    assert found.found.endswith("which fails: No filter named 'blah'.")


def test_a_secret_is_not_shown() -> None:
    (found,) = problems("secret_admin_password", "'x_a' is undefined", template="hunter2{{ x_a }}")
    assert "hunter2" not in found.text()


def test_names_are_followed_through_variables() -> None:
    variables = {"x_a": ["{{ x_b }}"], "x_b": {"key": "{{ ansible_facts.x + x_a }}"}}
    assert {"x_a", "x_b", "ansible_facts"} <= reachable("{{ x_a }}", variables)
