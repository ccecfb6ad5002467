"""Filters and the action plugins' helpers, as Ansible loads them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def filters(root: Path) -> ModuleType:
    return load(root / "filter_plugins" / "platform.py")


def test_names(filters: ModuleType) -> None:
    assert set(filters.FilterModule().filters()) == {
        "backup_files",
        "backup_targets",
        "backup_units",
        "breaking_changes",
        "compute_queues",
        "environment_files",
        "firewall_rules",
        "firewall_sources",
        "gpu_cards",
        "has_gpu_workers",
        "gpu_report",
        "gpu_workers",
        "host_units",
        "restore_line",
        "restore_set",
        "tree_entries",
        "rebuild_refusal",
        "rebuild_report",
        "tree_files",
        "tree_programs",
        "tree_id",
        "ssh_port",
        "ssh_ports",
        "web_processes",
        "worker_plan",
        "worker_queues",
        "postgresql_memory",
        "redis_memory",
        "reached_networks",
        "sandbox",
    }


def test_a_unit_for_each_item(filters: ModuleType) -> None:
    made = filters.host_units([{"command": "a"}, {"command": "b"}], "x-{command}.timer", {"restart": "no"})
    assert made == [
        {"name": "x-a.timer", "restart": "no", "vars": {"item": {"command": "a"}}},
        {"name": "x-b.timer", "restart": "no", "vars": {"item": {"command": "b"}}},
    ]


def test_values(filters: ModuleType) -> None:
    plan = filters.worker_plan(["gpu"], 4, 8192, {"gpu": {"memory_mb": 4096}})
    assert plan == [
        {
            "name": "gpu",
            "queues": ["gpu", "gpu-large"],
            "overflow": "",
            "device": "",
            "card": "",
            "concurrency": 1,
            "memory_max_mb": 4096,
            "tasks_per_child": 1,
            "omp_threads": 1,
        }
    ]
    assert filters.postgresql_memory(8192)["shared_buffers"] == 1024
    assert filters.redis_memory(8192) == 512


def test_cards(filters: ModuleType) -> None:
    memory = {"recognition": 4800, "segmentation": 9800}
    raw = [
        {"model": "A100-40GB", "pci_address": "17:00.0", "backend": "vgpu", "vgpu_type": 472, "vgpu_count": 4},
        {"model": "RTX-6000-24GB", "index": 1, "name": "big", "sharing": "mps", "workers": 2},
    ]
    assert filters.gpu_cards(raw, memory) == [
        {
            "name": "gpu0",
            "model": "A100-40GB",
            "address_kind": "pci_address",
            "address": "0000:17:00.0",
            "backend": "vgpu",
            "sharing": "time",
            "vgpu_type": "nvidia-472",
            "vgpu_count": 4,
        },
        {
            "name": "big",
            "model": "RTX-6000-24GB",
            "address_kind": "index",
            "address": "1",
            "backend": "none",
            "sharing": "mps",
            "vgpu_type": "",
            "vgpu_count": 0,
        },
    ]
    with pytest.raises(AnsibleFilterError, match=r"gpu_partition_cards\[0\].vgpu_type"):
        filters.gpu_cards([{"model": "A100-40GB", "index": 0, "backend": "vgpu"}], memory)


def test_wrong_input_is_an_error_of_ansible(filters: ModuleType) -> None:
    with pytest.raises(AnsibleFilterError, match="unknown queues"):
        filters.worker_plan(["x"], 1, 1024)
    with pytest.raises(AnsibleFilterError, match="postgresql_memory"):
        filters.postgresql_memory(0)
    with pytest.raises(AnsibleFilterError, match="redis_memory"):
        filters.redis_memory(0)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"stdout_lines": ["  Avail", " 1000"]}, (1000, False)),
        ({"stdout_lines": ["  Avail", " 1000", " 1000"]}, (1000, True)),
        ({"stdout_lines": ["Avail", "1000", "driver", "535.1", "1B-blocks", "67108864"]}, (1000, False)),
        ({"skipped": True}, (None, False)),
        (None, (None, False)),
    ],
)
def test_disk_space_is_read_from_df(root: Path, result: object, expected: tuple[int | None, bool]) -> None:
    action = load(root / "action_plugins" / "preflight_facts.py")
    assert action.disk_space(result) == expected


def test_a_host_says_what_it_lacks(root: Path) -> None:
    action = load(root / "action_plugins" / "preflight_facts.py")
    seen = {"stdout_lines": ["Avail", "1000", "no-ipv6", "no-timezone", "driver", "535.1", "1B-blocks", "67108864"]}
    assert action.has_said(seen, action.NO_IPV6)
    assert action.has_said(seen, action.NO_TIMEZONE)
    assert action.disk_space(seen) == (1000, False)
    assert action.gpu_state(seen) == ("535.1", 67108864)
    assert not action.has_said({"stdout_lines": ["Avail", "1000"]}, action.NO_IPV6)
    assert not action.has_said(None, action.NO_TIMEZONE)


def test_clients_of_the_tree_are_read_from_what_the_storage_host_says(root: Path) -> None:
    action = load(root / "action_plugins" / "preflight_facts.py")
    lines = ["0      0      10.10.0.11:2049      10.10.0.21:812", "0      9      10.10.0.11:2049      10.10.0.21:901"]
    lines += ["0      0      [::ffff:10.10.0.11]:2049      [::ffff:10.10.0.22]:901", "no-wireguard"]
    seen = {"stdout_lines": ["Avail", "1000", *lines]}
    assert action.tree_clients(seen) == (("10.10.0.11", "10.10.0.21"), ("10.10.0.11", "10.10.0.22"))
    assert action.has_said(seen, action.NO_WIREGUARD)
    assert action.disk_space(seen) == (1000, False)
    assert action.tree_clients(None) == ()


def test_another_firewall_is_read_from_what_the_host_says(root: Path) -> None:
    action = load(root / "action_plugins" / "preflight_facts.py")
    seen = {"stdout_lines": ["Avail", "1000", "firewall ufw", "firewall ferm", "driver", "535.1", "Size", "67108864"]}
    assert action.other_firewalls(seen) == ("ufw", "ferm")
    assert action.disk_space(seen) == (1000, False)
    assert action.gpu_state(seen) == ("535.1", 67108864)
    assert action.other_firewalls(None) == ()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Avail", "1000", "1000"], ("", None)),
        (["Avail", "1000", "driver", "535.1", "1B-blocks", "67108864"], ("535.1", 67108864)),
        (["Avail", "1000", "1000", "driver", "", "1B-blocks", "67108864"], ("", 67108864)),
    ],
)
def test_driver_is_read_behind_df(root: Path, lines: list[str], expected: tuple[str, int | None]) -> None:
    action = load(root / "action_plugins" / "preflight_facts.py")
    assert action.gpu_state({"stdout_lines": lines}) == expected
