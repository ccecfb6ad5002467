"""Rules about groups and hosts: a wrong group or name gives its problem."""

from __future__ import annotations

import pytest

from module_utils.platform_dns import is_host_name
from tests.unit.sound_inventory import only, problems


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


def test_group_that_nothing_uses_yet() -> None:
    problem = only(problems(groups={"monitoring": ("web", "cpu1")}))
    assert (problem.variable, problem.found) == ("group monitoring", "web, cpu1")
    assert problems(groups={"monitoring": ()}) == []


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "localhost.localdomain", "ip6-localhost"])
def test_name_that_each_host_has_for_itself(name: str) -> None:
    problem = only(problems(groups={"frontend": (name,)}))
    assert (problem.host, problem.variable) == (name, "host name")
    assert "ansible_connection: local" in problem.mend
