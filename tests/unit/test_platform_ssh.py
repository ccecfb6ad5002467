"""How Ansible comes to hosts whose ssh takes no passwords and forwards nothing: what would shut it out is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from module_utils import platform_ssh
from module_utils.platform_problems import UNRESOLVED, Problem
from module_utils.platform_variables import Variable
from tests.unit.sound_inventory import CATALOGUE, inventory

OWN = (("base_ssh_harden", True), ("base_ssh_jump_host", False))
VARIABLES = {name: Variable(name, "bool", "", default=default, has_default=True) for name, default in OWN}
KNOWN = replace(CATALOGUE, variables={**CATALOGUE.variables, **VARIABLES})
PASSWORD = {"ansible_password": "x"}


def problems(common: dict[str, Any] | None = None, **hosts: Any) -> list[Problem]:
    return [problem for rule in platform_ssh.SSH_RULES for problem in rule(inventory(common, **hosts), KNOWN)]


@pytest.mark.parametrize("name", platform_ssh.PASSWORDS)
@pytest.mark.parametrize("value", ["geheim", UNRESOLVED])
def test_a_password_for_ssh_is_refused_and_not_shown(name: str, value: object) -> None:
    (problem,) = problems(cpu1={name: value})
    assert (problem.host, problem.variable) == ("cpu1", name)
    assert "geheim" not in problem.text()
    assert "base_ssh_harden: false" in problem.mend


@pytest.mark.parametrize(
    "given",
    [
        {"ansible_become_password": "x"},
        {"ansible_password": ""},
        {**PASSWORD, "base_ssh_harden": False},
        {**PASSWORD, "ansible_connection": "local"},
    ],
)
def test_what_locks_nobody_out_is_allowed(given: dict[str, Any]) -> None:
    assert problems(given) == []
    assert problems() == []


@pytest.mark.parametrize(
    "arguments",
    [
        "-o ProxyJump=web",
        "-o ProxyJump=admin@WEB:2222",
        "-J other,admin@10.10.0.10",
        "-Jweb.example.org",
        '-o ProxyCommand="ssh -q -W %h:%p admin@web.example.org"',
        "-o ForwardAgent=no -o 'ProxyCommand ssh web nc %h %p'",
    ],
)
def test_a_host_on_the_way_has_to_forward(arguments: str) -> None:
    web = {"ansible_host": "web.example.org"}
    for name in platform_ssh.ARGUMENTS:
        (problem,) = problems(web=web, cpu1={name: arguments})
        assert (problem.host, problem.variable, problem.found) == ("web", "base_ssh_jump_host", "False")
    assert problems(web={**web, "base_ssh_jump_host": True}, cpu1={"ansible_ssh_args": arguments}) == []
    assert problems(web={**web, "base_ssh_harden": False}, cpu1={"ansible_ssh_args": arguments}) == []


@pytest.mark.parametrize("arguments", ["-o ProxyJump=gate.example.org", "-o StrictHostKeyChecking=no", UNRESOLVED, ""])
def test_other_ways_ask_nothing_of_the_hosts(arguments: object) -> None:
    assert problems(cpu1={"ansible_ssh_common_args": arguments}) == []


def test_a_group_may_name_the_host_on_the_way_for_all_of_its_hosts() -> None:
    found = problems({"ansible_ssh_common_args": "-J web"})
    assert {problem.host for problem in found} == {"web"}


def test_a_run_that_asks_for_a_password_is_refused() -> None:
    (problem,) = platform_ssh.check_asked(inventory(), KNOWN, asked=True)
    assert problem.variable == "--ask-pass"
    assert not list(platform_ssh.check_asked(inventory(), KNOWN, asked=False))
    assert not list(platform_ssh.check_asked(inventory({"base_ssh_harden": False}), KNOWN, asked=True))
