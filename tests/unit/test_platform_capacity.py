"""Sizes derived from a host: exact examples, and properties that hold for every host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from module_utils.platform_capacity import (
    LARGE_QUEUE,
    QUEUES,
    GpuWorker,
    Worker,
    check_overrides,
    postgresql_memory,
    redis_memory,
    steady,
    system_reserve,
    web_processes,
    worker_plan,
)

COMPUTE = ["default", "live", "low-priority", "gpu"]
cores = st.integers(1, 512)
memories = st.integers(1024, 4 * 1024 * 1024)
queue_lists = st.lists(st.sampled_from(QUEUES), unique=True, min_size=1)


def by_queue(plan: list[Worker]) -> dict[str, Worker]:
    return {worker["name"]: worker for worker in plan}


def test_reference_compute_host() -> None:
    plan = by_queue(worker_plan(COMPUTE, 64, 128 * 1024))
    assert {queue: worker["concurrency"] for queue, worker in plan.items()} == {
        "default": 16,
        "live": 2,
        "low-priority": 2,
        "gpu": 1,
    }
    assert plan["gpu"]["memory_max_mb"] == 120 * 1024
    assert plan["default"]["memory_max_mb"] == 66 * 1024
    assert plan["default"]["omp_threads"] == 1


def test_large_compute_host() -> None:
    plan = by_queue(worker_plan(COMPUTE, 128, 512 * 1024))
    assert plan["default"]["concurrency"] == 88
    assert plan["live"]["concurrency"] == plan["low-priority"]["concurrency"] == 10


@pytest.mark.parametrize("memory_mb", [2048, 4096])
def test_tiny_host_is_usable(memory_mb: int) -> None:
    plan = worker_plan(COMPUTE, 2, memory_mb)
    assert [worker["concurrency"] for worker in plan] == [1, 1, 1, 1]
    assert all(worker["memory_max_mb"] >= 1536 for worker in plan)


def test_page_of_more_than_8_gb_passes_where_the_host_has_it() -> None:
    assert by_queue(worker_plan(COMPUTE, 4, 16 * 1024))["default"]["memory_max_mb"] >= 10 * 1024


def test_flags_are_those_of_upstream() -> None:
    plan = by_queue(worker_plan(list(QUEUES), 16, 65536))
    assert {queue: worker["tasks_per_child"] for queue, worker in plan.items()} == {
        "default": 10,
        "live": 10,
        "low-priority": 10,
        "gpu": 1,
        "imports": 10,
        "jvm": 1,
    }
    assert plan["imports"]["concurrency"] == 2
    assert plan["jvm"]["concurrency"] == plan["gpu"]["concurrency"] == 1


def test_overrides_win_and_foreign_queues_have_no_effect() -> None:
    overrides = {"default": {"concurrency": 24, "memory_mb": 98304}, "imports": {"concurrency": 9}}
    plan = worker_plan(["default", "gpu"], 4, 8192, overrides)
    assert [worker["name"] for worker in plan] == ["default", "gpu"]
    assert (plan[0]["concurrency"], plan[0]["memory_max_mb"]) == (24, 98304)


@pytest.mark.parametrize(
    ("queues", "size", "overrides", "message"),
    [
        (["defualt"], (4, 8192), {}, "unknown queues 'defualt'"),
        (["gpu", "gpu"], (4, 8192), {}, "named twice"),
        (["gpu"], (0, 8192), {}, "cores must be"),
        (["gpu"], (4, 0), {}, "memory_mb must be"),
        (["gpu"], (4, 8192), {"gpu": {"concurrency": 0}}, r"gpu\.concurrency must be"),
        (["gpu"], (4, 8192), {"gpu": {"memory_mb": 1}}, "at least 256"),
        (["gpu"], (4, 8192), {"gppu": {}}, "unknown queue 'gppu'"),
    ],
)
def test_wrong_input_is_refused(
    queues: list[str], size: tuple[int, int], overrides: dict[str, dict[str, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        worker_plan(queues, *size, overrides)


def test_every_wrong_override_is_named() -> None:
    wrong = check_overrides({"gppu": {}, "gpu": 3, "live": {"memory": 1}, "default": {"concurrency": True}})
    assert len(wrong) == 4


@given(queue_lists, cores, memories)
def test_no_size_is_zero_and_the_system_keeps_its_share(queues: list[str], count: int, memory_mb: int) -> None:
    plan = worker_plan(queues, count, memory_mb)
    assert [worker["name"] for worker in plan] == queues
    for worker in plan:
        assert worker["concurrency"] >= 1
        assert worker["tasks_per_child"] >= 1
        assert 1 <= worker["omp_threads"] <= max(1, count)
        assert 256 <= worker["memory_max_mb"] <= memory_mb - system_reserve(memory_mb)


@given(queue_lists, cores, memories)
def test_more_cores_never_mean_fewer_processes(queues: list[str], count: int, memory_mb: int) -> None:
    fewer, more = worker_plan(queues, count, memory_mb), worker_plan(queues, count + 1, memory_mb)
    for one, other in zip(fewer, more, strict=True):
        assert one["concurrency"] <= other["concurrency"]
        assert one["memory_max_mb"] <= other["memory_max_mb"]


@given(queue_lists, cores, memories)
def test_more_memory_never_means_smaller_workers(queues: list[str], count: int, memory_mb: int) -> None:
    less, more = worker_plan(queues, count, memory_mb), worker_plan(queues, count, memory_mb + 4096)
    for one, other in zip(less, more, strict=True):
        assert one["concurrency"] <= other["concurrency"]
        assert one["memory_max_mb"] <= other["memory_max_mb"]


@given(cores, memories)
def test_processes_fit_cores_and_memory(count: int, memory_mb: int) -> None:
    default = by_queue(worker_plan(COMPUTE, count, memory_mb))["default"]["concurrency"]
    assert default <= max(1, count - 1)
    assert default == 1 or default * 4096 <= memory_mb - system_reserve(memory_mb)


@given(cores, memories)
def test_training_can_use_what_the_system_leaves(count: int, memory_mb: int) -> None:
    gpu = by_queue(worker_plan(COMPUTE, count, memory_mb))["gpu"]
    assert gpu["concurrency"] == 1
    assert gpu["memory_max_mb"] == steady(memory_mb) - system_reserve(steady(memory_mb))


@given(cores, st.integers(128 * 1024, 4 * 1024 * 1024))
def test_on_large_hosts_other_workers_leave_room_for_a_segmenter_training(count: int, memory_mb: int) -> None:
    others = [worker for worker in worker_plan(COMPUTE, count, memory_mb) if worker["name"] != "gpu"]
    assert sum(worker["memory_max_mb"] for worker in others) + 32768 <= memory_mb - system_reserve(memory_mb)


@given(memories)
def test_database_and_broker_fit_a_host(memory_mb: int) -> None:
    for shared in (False, True):
        sizes = postgresql_memory(memory_mb, shared_host=shared)
        assert min(sizes["work_mem"], sizes["maintenance_work_mem"], sizes["shared_buffers"]) >= 1
        assert sizes["shared_buffers"] + sizes["maintenance_work_mem"] + redis_memory(memory_mb) < memory_mb // 2
        assert sizes["shared_buffers"] <= sizes["effective_cache_size"]
    assert (
        postgresql_memory(memory_mb, shared_host=True)["shared_buffers"]
        <= postgresql_memory(memory_mb, shared_host=False)["shared_buffers"]
    )


CREMMA_SLICES: list[GpuWorker] = [
    GpuWorker(name=f"gpu{card}-{slice_}", card=f"gpu{card}", trainings=kinds)
    for card in (0, 1)
    for slice_, kinds in (
        ("2g.10gb-0", ("recognition", "segmentation")),
        *((f"1g.5gb-{start}", ("recognition",)) for start in range(2, 7)),
    )
]


def test_slices_take_the_trainings_of_the_reference_compute_server() -> None:
    plan = worker_plan(COMPUTE, 64, 128 * 1024, None, CREMMA_SLICES)
    assert [worker["name"] for worker in plan[:3]] == ["default", "live", "low-priority"]
    slices = plan[3:]
    assert len(slices) == 12
    assert all(worker["device"] == worker["name"] and worker["concurrency"] == 1 for worker in slices)
    large = [worker for worker in slices if "2g" in worker["name"]]
    assert all(worker["queues"] == [LARGE_QUEUE] and worker["overflow"] == "gpu" for worker in large)
    small = [worker for worker in slices if "1g" in worker["name"]]
    assert all(worker["queues"] == ["gpu"] and worker["overflow"] == "" for worker in small)
    assert {worker["memory_max_mb"] for worker in large} == {32768}
    assert {worker["memory_max_mb"] for worker in small} == {16384}
    assert {worker["omp_threads"] for worker in slices} == {2}


def test_a_slice_on_which_only_segmentation_fits_takes_nothing_else() -> None:
    only = GpuWorker(name="gpu0-0", card="gpu0", trainings=("segmentation",))
    assert worker_plan(["gpu"], 8, 65536, None, [only])[0]["overflow"] == ""


def test_a_host_without_the_queue_gpu_leaves_its_slices_alone() -> None:
    assert [worker["name"] for worker in worker_plan(["live"], 8, 65536, None, CREMMA_SLICES)] == ["live"]


def test_memory_of_every_gpu_worker_can_be_set() -> None:
    plan = worker_plan(["gpu"], 8, 65536, {"gpu": {"memory_mb": 5000}}, CREMMA_SLICES)
    assert {worker["memory_max_mb"] for worker in plan} == {5000}


def test_a_new_kernel_changes_no_size() -> None:
    for before, after in ((15987, 15981), (128651, 128640)):
        assert worker_plan(COMPUTE, 8, before) == worker_plan(COMPUTE, 8, after)
        assert postgresql_memory(before, shared_host=False) == postgresql_memory(after, shared_host=False)
        assert redis_memory(before) == redis_memory(after)


def test_database_and_broker_of_the_reference_frontend() -> None:
    assert postgresql_memory(128 * 1024, shared_host=False) == {
        "shared_buffers": 16384,
        "effective_cache_size": 49152,
        "work_mem": 64,
        "maintenance_work_mem": 2048,
    }
    assert redis_memory(128 * 1024) == 4096
    assert redis_memory(512) == 128


@pytest.mark.parametrize(("cores", "processes"), [(1, 2), (4, 2), (5, 2), (8, 4), (32, 16), (128, 16)])
def test_processes_of_the_web_application(cores: int, processes: int) -> None:
    """As the role's template had it: half of the processors, 2 to 16."""
    assert web_processes(cores) == processes


def test_a_host_without_processors_is_refused() -> None:
    with pytest.raises(ValueError, match="cores must be a whole number from 1"):
        web_processes(0)
