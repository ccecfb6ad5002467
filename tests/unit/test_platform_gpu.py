"""Rules of preflight about GPUs: cards, the pool that they make, and the driver that they need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from module_utils.platform_facts import GB, FactsHost, FactsSettings, GpuSettings, HostFacts, check_facts
from module_utils.platform_gpu import cuda_of_driver, rule_trainings_have_a_place
from module_utils.platform_problems import UNRESOLVED, Inventory
from module_utils.platform_queues import gpu_hosts, queues_of
from module_utils.platform_variables import Catalogue

SMALL = {"model": "A100-40GB", "index": 0, "backend": "mig", "slices": {"1g.5gb": 7}}
MIXED = {"model": "A100-40GB", "index": 1, "backend": "mig", "slices": {"2g.10gb": 1, "1g.5gb": 5}}
VIRTUAL = {"model": "A100-40GB", "index": 2, "backend": "vgpu", "vgpu_type": "A100-10C"}
WHOLE = {"model": "RTX-6000-24GB", "index": 3}


def pool(**cards: Any) -> Inventory:
    """Compute hosts with these cards; None for a host without the variable."""
    variables = {
        host: {} if value is None else {"gpu_partition_cards": value, **(VARIABLES.get(host, {}))}
        for host, value in cards.items()
    }
    return Inventory({"compute": tuple(cards)}, variables)


VARIABLES: dict[str, dict[str, Any]] = {"reader": {"compute_queues": ["default", "live", "low-priority"]}}


def problems(inventory: Inventory) -> list[str]:
    return [problem.variable for problem in rule_trainings_have_a_place(inventory, Catalogue({}))]


@pytest.mark.parametrize(
    ("cards", "missing"),
    [
        ({"one": [SMALL]}, ["segmentation trainings"]),
        ({"one": [SMALL, WHOLE]}, []),
        ({"one": [SMALL], "two": [MIXED]}, []),
        ({"one": [SMALL], "two": [VIRTUAL]}, ["segmentation trainings"]),
        # Without cards anywhere trainings run on processors.
        ({"one": None, "two": []}, []),
        # A host that takes no trainings leaves its slices unused.
        ({"one": [SMALL], "reader": [MIXED]}, ["segmentation trainings"]),
        # What is not known, or wrong in itself, is reported by another rule.
        ({"one": [SMALL], "two": UNRESOLVED}, []),
        ({"one": [SMALL, {"model": "nonsense", "index": 1}]}, []),
    ],
)
def test_every_kind_of_training_has_a_place(cards: dict[str, Any], missing: list[str]) -> None:
    assert problems(pool(**cards)) == missing


def test_memory_figures_of_the_site_decide() -> None:
    inventory = pool(one=[SMALL])
    variables = {
        "one": {**inventory.variables["one"], "gpu_training_memory_mib": {"recognition": 900, "segmentation": 4800}}
    }
    assert problems(replace(inventory, variables=variables)) == []


def taken_by(site: Inventory, host: str) -> tuple[str, ...]:
    return queues_of(site, host, aligned=False, some_have_cards=bool(gpu_hosts(site))) or ()


def test_trainings_go_to_hosts_with_cards_where_there_is_one() -> None:
    mixed = pool(one=[MIXED], two=None, three=[VIRTUAL])
    taken = {host: "gpu" in taken_by(mixed, host) for host in mixed.members("compute")}
    assert taken == {"one": True, "two": False, "three": False}
    plain = pool(one=None, two=[])
    assert all("gpu" in taken_by(plain, host) for host in plain.members("compute"))


def test_a_host_that_has_left_is_no_place_for_trainings() -> None:
    """Before: the check counted its large slice, for which trainings of segmenters would have waited."""
    site = pool(one=[SMALL], two=[MIXED])
    assert problems(site) == []
    gone = {**site.variables, "two": {**site.variables["two"], "compute_state": "absent"}}
    assert problems(replace(site, variables=gone)) == ["segmentation trainings"]


@pytest.mark.parametrize(
    ("version", "cuda"),
    [("535.261.03", 12), ("550", 12), ("525.60.13", 12), ("580.65.06", 13), ("470.57", 11), ("390.1", 0), ("*", 99)],
)
def test_cuda_of_a_driver(version: str, cuda: int) -> None:
    assert cuda_of_driver(version) == cuda


DEBIAN_12 = HostFacts("Debian", "12", "12.7", "x86_64", 131072, 64, 50 * GB)
GPU = GpuSettings(workers=12, load_threads=4, managed=True, version="", cuda="12.1")


def facts_problems(gpu: GpuSettings | None, **facts: Any) -> list[tuple[str, str]]:
    host = FactsHost("a", replace(DEBIAN_12, **facts), frozenset({"compute"}), FactsSettings(gpu=gpu))
    return [(problem.variable, problem.found) for problem in check_facts([host])]


def test_debian_drivers_end_at_cuda_12() -> None:
    assert facts_problems(GPU) == []
    found = facts_problems(replace(GPU, cuda="13.0"))
    assert found == [("NVIDIA driver", "535, which ends at CUDA 12")]
    assert facts_problems(None) == []
    assert facts_problems(replace(GPU, cuda="13.0", version="580.65*")) == []


def test_a_driver_of_the_site_counts_as_it_runs() -> None:
    own = replace(GPU, managed=False, cuda="13.0")
    assert facts_problems(own) == [("NVIDIA driver", "none that is loaded")]
    assert facts_problems(own, driver_version="550.54.15") == [("NVIDIA driver", "550.54.15, which ends at CUDA 12")]
    assert facts_problems(own, driver_version="580.65.06") == []


def test_shared_memory_for_the_loading_processes() -> None:
    assert facts_problems(GPU, shared_memory_bytes=64 * GB) == []
    assert facts_problems(GPU, shared_memory_bytes=2 * GB) == [("shared memory (/dev/shm)", "2.0 GB")]
    assert facts_problems(replace(GPU, load_threads=0), shared_memory_bytes=2 * GB) == []
