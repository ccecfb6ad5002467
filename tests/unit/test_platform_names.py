"""Rules about the names of variables: unknown, derived and missing ones give their problem."""

from __future__ import annotations

from dataclasses import replace

import pytest

from module_utils.platform_inventory import check_inventory
from module_utils.platform_variables import Variable
from tests.unit.sound_inventory import CATALOGUE, inventory, only, problems


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
