"""Queues: decided once, for the check and for the hosts, and none that the application fills is left without a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from module_utils import platform_queues
from module_utils.platform_capacity import QUEUES
from module_utils.platform_inventory import check_inventory
from module_utils.platform_queues import resting_queues
from tests.unit.sound_inventory import CATALOGUE, inventory, only, problems

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("ansible_plugins")

CARD = {"gpu_partition_cards": [{"model": "A100-40GB", "pci_address": "0000:17:00.0", "backend": "none"}]}


@pytest.fixture(scope="module")
def derive(root: Path) -> Callable[..., list[str]]:
    """Evaluate celery_worker_queues as group_vars/all/application.yml has it."""
    loader = DataLoader()
    derived = loader.load_from_file(str(root / "group_vars/all/application.yml"), trusted_as_template=True)

    def evaluate(**variables: Any) -> list[str]:
        topology = {"topology_has_cards": False, "topology_gpu_hosts": [], "topology_is_frontend": False}
        known = {**derived, **topology, "topology_is_compute": True, **variables}
        found = Templar(loader=loader, variables=known).template(derived["celery_worker_queues"])
        assert isinstance(found, list)
        return found

    return evaluate


PROCESSORS = ["default", "live", "low-priority"]


@pytest.mark.parametrize(
    ("variables", "queues"),
    [
        ({}, [*PROCESSORS, "gpu"]),
        ({"topology_gpu_hosts": ["other"]}, PROCESSORS),
        ({"topology_gpu_hosts": ["this"], "topology_has_cards": True}, [*PROCESSORS, "gpu"]),
        ({"escriptorium_text_alignment": True}, [*PROCESSORS, "gpu", "jvm"]),
        ({"escriptorium_text_alignment": "false"}, [*PROCESSORS, "gpu"]),
        ({"compute_queues": ["live"], "escriptorium_text_alignment": True}, ["live"]),
        ({"compute_queues": ["live"], "topology_is_frontend": True}, ["live", "imports"]),
        ({"topology_is_compute": False, "topology_is_frontend": True}, ["imports"]),
        ({"topology_is_compute": False}, []),
    ],
)
def test_queues_of_a_host(derive: Callable[..., list[str]], variables: dict[str, Any], queues: list[str]) -> None:
    assert derive(**variables) == queues


@pytest.mark.parametrize("cards", [{}, CARD])
@pytest.mark.parametrize("aligned", [False, True])
def test_hosts_take_what_the_check_believes(
    derive: Callable[..., list[str]], cards: dict[str, Any], aligned: bool
) -> None:
    site = inventory({"escriptorium_text_alignment": aligned}, cpu1=cards)
    believed = platform_queues.consumers(site, CATALOGUE) or {}
    for host in site.hosts:
        found = derive(
            topology_is_frontend=host == "web",
            topology_is_compute=host.startswith("cpu"),
            topology_has_cards=bool(cards) and host == "cpu1",
            topology_gpu_hosts=["cpu1"] if cards else [],
            escriptorium_text_alignment=aligned,
        )
        assert set(found) == {queue for queue, hosts in believed.items() if host in hosts}


def test_queues_that_the_application_fills(root: Path) -> None:
    profile = yaml.safe_load((root / "group_vars/all/application.yml").read_text())
    assert not any(queue in profile["celery_worker_queues"] for queue in QUEUES), "decided in Python, not there"
    assert {*platform_queues.REQUIRED_QUEUES, platform_queues.ALIGNMENT_QUEUE} == set(QUEUES)


@pytest.mark.parametrize("queue", QUEUES)
def test_a_queue_that_hosts_no_longer_take_is_missed(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each queue in turn is taken out of what decides for hosts and check alike."""
    decide = platform_queues.worker_queues

    def without(compute: list[str], frontend: bool) -> list[str]:
        return [one for one in decide(compute, frontend) if one != queue]

    aligned = inventory({"escriptorium_text_alignment": True})
    assert check_inventory(aligned, CATALOGUE) == []
    monkeypatch.setattr(platform_queues, "worker_queues", without)
    assert [problem.variable for problem in check_inventory(aligned, CATALOGUE)] == [f"queue {queue}"]


@pytest.mark.parametrize(
    ("name", "value", "queue"),
    [
        ("PROCESSOR_QUEUES", ("live", "low-priority"), "default"),
        ("PROCESSOR_QUEUES", ("default", "low-priority"), "live"),
        ("PROCESSOR_QUEUES", ("default", "live"), "low-priority"),
        ("TRAINING_QUEUE", "gppu", "gpu"),
        ("FRONTEND_QUEUES", (), "imports"),
    ],
)
def test_each_queue_stands_in_two_places(name: str, value: Any, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_queues, name, value)
    assert f"queue {queue}" in {problem.variable for problem in check_inventory(inventory(), CATALOGUE)}


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
