"""The simulated driver against NVIDIA's printed output, the header's structures and the planner's table."""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import signal
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.gpu_partition.models import models
from module_utils.gpu_partition.nvml import Nvml
from module_utils.gpu_partition.placement import legal_layouts, place, reasons_against
from tests.unit.gpu.simulation import DRIVER, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from module_utils.gpu_partition.models import Model

# It has no types.
pynvml: Any = importlib.import_module("pynvml")

INSUFFICIENT_RESOURCES = 23
A100_PROFILES = {"1g.5gb": 19, "1g.5gb+me": 20, "1g.10gb": 15, "2g.10gb": 14, "3g.20gb": 9, "4g.20gb": 5, "7g.40gb": 0}


class Card:
    """A simulated card, spoken to as nvidia-smi does: by identifiers of profiles, placed by the driver."""

    def __init__(self, machine: Machine, model: str = "A100-40GB", **options: str) -> None:
        machine.create(model, **options)
        self.machine = machine

    def does(self, work: Callable[[Any], object]) -> Any:
        """Do something with the card's handle in a process of its own, and return what it gives, by way of JSON."""

        def run() -> int:
            with Nvml():
                print(json.dumps(work(pynvml.nvmlDeviceGetHandleByIndex(0))))
            return 0

        done = self.machine._fork(run, {})
        assert done.code == 0, done.error
        return json.loads(done.out)

    def on(self) -> Card:
        assert self.does(lambda card: pynvml.nvmlDeviceSetMigMode(card, 1)) == 0
        return self


def created(card: Any, *profiles: int) -> list[tuple[int, int, int] | int]:
    """Create GPU instances where the driver puts them: identifier, start and size of each, or NVML's error."""
    found: list[tuple[int, int, int] | int] = []
    for profile in profiles:
        try:
            instance = pynvml.nvmlDeviceCreateGpuInstance(card, profile)
        except pynvml.NVMLError as error:
            found.append(int(error.value))
        else:
            info = pynvml.nvmlGpuInstanceGetInfo(instance)
            found.append((info.id, info.placement.start, info.placement.size))
    return found


def error_of(work: Callable[[], object]) -> int:
    """Return the code of NVML's error, 0 where there is none."""
    try:
        work()
    except pynvml.NVMLError as error:
        return int(error.value)
    return 0


def at(start: int, size: int) -> Any:
    return ctypes.byref(pynvml.c_nvmlGpuInstancePlacement_t(start, size))


# The table


def lines_of_table() -> Iterator[list[str]]:
    for line in (DRIVER / "models.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            yield line.split()


def typed_models() -> dict[str, dict[str, Any]]:
    """Return models.txt as a mapping."""
    found: dict[str, dict[str, Any]] = {}
    for words in lines_of_table():
        if words[0] == "model":
            model: dict[str, Any] = {"architecture": words[2], "memory": int(words[3]), "cards": [], "profiles": {}}
            model["compute"], model["size"] = int(words[4]), int(words[5])
            found[words[1]] = model
        elif words[0] == "card":
            model["cards"].append(" ".join(words[1:]))
        else:
            model["profiles"][words[3]] = {
                "compute": int(words[4]),
                "size": int(words[5]),
                "memory": int(words[6]),
                "limit": int(words[7]),
                "starts": tuple(map(int, words[14].split(","))),
            }
    return found


TYPED = typed_models()


def test_the_table_has_all_cards_with_mig() -> None:
    assert {name for name, model in models().items() if model.supports_mig} <= set(TYPED)


@pytest.mark.parametrize("name", TYPED)
def test_both_tables_agree(name: str) -> None:
    typed, model = TYPED[name], models()[name]
    assert set(typed["cards"]) <= set(model.nvml_names)
    assert typed["memory"] == model.memory_mib
    assert set(typed["profiles"]) == set(model.profiles)
    resets = bool(model.profiles) and typed["architecture"] == "ampere"
    assert model.mode_change == ("reset" if resets else "immediate" if model.profiles else "")
    assert model.mode_survives_reboot == resets
    if model.profiles:
        assert (typed["compute"], typed["size"]) == (model.compute_slices, model.memory_slices)
    for profile_name, profile in model.profiles.items():
        wanted = typed["profiles"][profile_name]
        # Drivers differ in what they keep for themselves: 23.12 and 23.62 GiB were printed for the same 1g.24gb.
        assert profile.memory_mib == pytest.approx(wanted.pop("memory"), rel=0.025)
        assert wanted == {
            "compute": profile.compute,
            "size": profile.size,
            "limit": profile.limit,
            "starts": profile.starts,
        }
        assert profile.media == profile_name.endswith("+me")


# Transcripts of the MIG User Guide


def test_the_guides_example_2_1_1_1_1_1(machine: Machine) -> None:
    card = Card(machine).on()
    # -cgi 14,19,19,19,19,19: identifiers and places as printed there
    assert card.does(lambda card: created(card, 14, 19, 19, 19, 19, 19)) == [
        [5, 4, 2],
        [13, 6, 1],
        [7, 0, 1],
        [8, 1, 1],
        [9, 2, 1],
        [10, 3, 1],
    ]


def test_the_guides_example_4_2_1(machine: Machine) -> None:
    placed = Card(machine).on().does(lambda card: created(card, 5, 14, 19))
    assert [found[1:] for found in placed] == [[0, 4], [4, 2], [6, 1]]


def test_the_guides_example_of_a_wrong_order(machine: Machine) -> None:
    # -cgi 19,19,14,9: "Unable to create a GPU instance ... using profile 9: Insufficient Resources"
    placed = Card(machine).on().does(lambda card: created(card, 19, 19, 14, 9))
    assert placed[-1] == INSUFFICIENT_RESOURCES
    assert all(isinstance(found, list) for found in placed[:-1])


def test_the_guides_example_in_the_right_order(machine: Machine) -> None:
    placed = Card(machine).on().does(lambda card: created(card, 9, 14, 19, 19))
    assert all(isinstance(found, list) for found in placed)


def test_a_capture_of_an_h100(machine: Machine) -> None:
    # nvidia-smi mig -cgi 9,14, then -lgi: instance 2 at 4:4, instance 3 at 0:2
    placed = Card(machine, "H100-80GB").on().does(lambda card: created(card, 9, 14))
    assert placed == [[2, 4, 4], [3, 0, 2]]


@pytest.mark.parametrize(
    ("model", "number", "name"),
    [("A100-40GB", 14, "2g.10gb"), ("A30-24GB", 14, "1g.6gb"), ("H100-80GB", 15, "1g.20gb")],
)
def test_identifiers_of_profiles_belong_to_the_model(machine: Machine, model: str, number: int, name: str) -> None:
    def names(card: Any) -> dict[int, str]:
        infos = {}
        for index in range(10):
            if not error_of(lambda index=index: pynvml.nvmlDeviceGetGpuInstanceProfileInfo(card, index)):  # type: ignore[misc]
                info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(card, index)
                infos[info.id] = info.name
        return infos

    assert Card(machine, model).on().does(names)[str(number)] == f"MIG {name}"


# Placement rules


def accepts_as_planned(model: Model, ids: dict[str, int]) -> Callable[[Any], tuple[int, list[str]]]:
    """On each legal layout, try every further instance at every start: it is taken where the planner says so."""

    def work(card: Any) -> tuple[int, list[str]]:
        tried, wrong = 0, []
        for counts in legal_layouts(model):
            placed = place(model, counts)
            instances = [
                pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(card, ids[found.profile], at(found.start, found.size))
                for found in placed
            ]
            taken = {position for found in placed for position in range(found.start, found.start + found.size)}
            for profile in model.profiles.values():
                more = Counter(counts) + Counter([profile.name])
                for start in profile.starts:
                    covered = set(range(start, start + profile.size))
                    expected = not covered & taken and not reasons_against(model, more)
                    try:
                        instance = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(
                            card, ids[profile.name], at(start, profile.size)
                        )
                    except pynvml.NVMLError as error:
                        if expected or error.value != INSUFFICIENT_RESOURCES:
                            wrong.append(f"{counts} + {profile.name} at {start}: {error}")
                    else:
                        pynvml.nvmlGpuInstanceDestroy(instance)
                        if not expected:
                            wrong.append(f"{counts} + {profile.name} at {start} was taken")
                    tried += 1
            for instance in instances:
                pynvml.nvmlGpuInstanceDestroy(instance)
        return tried, wrong

    return work


@pytest.mark.parametrize("model", ["A100-40GB", "A30-24GB"])
def test_the_driver_takes_what_the_planner_allows_and_nothing_else(machine: Machine, model: str) -> None:
    ids = {words[3]: int(words[1]) for words in table_of(model)}
    tried, wrong = Card(machine, model).on().does(accepts_as_planned(models()[model], ids))
    assert wrong == []
    assert tried > 100


def table_of(model: str) -> list[list[str]]:
    """Return the lines of the profiles of one model."""
    found: list[list[str]] = []
    name = ""
    for words in lines_of_table():
        if words[0] == "model":
            name = words[1]
        elif words[0] == "profile" and name == model:
            found.append(words)
    return found


@pytest.mark.parametrize(("start", "size"), [(1, 2), (6, 2), (0, 1), (8, 2)])
def test_a_place_that_the_profile_does_not_have(machine: Machine, start: int, size: int) -> None:
    code = (
        Card(machine)
        .on()
        .does(lambda card: error_of(lambda: pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(card, 14, at(start, size))))
    )
    assert code == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_remaining_capacity(machine: Machine) -> None:
    def work(card: Any) -> list[int]:
        pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(card, A100_PROFILES["3g.20gb"], at(0, 4))
        pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(card, A100_PROFILES["1g.5gb+me"], at(4, 1))
        return [
            pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(card, A100_PROFILES[name])
            for name in ("1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb")
        ]

    assert Card(machine).on().does(work) == [2, 0, 1, 0, 0]


# Instances


def test_an_instance_with_a_compute_instance_is_in_use(machine: Machine) -> None:
    def work(card: Any) -> list[int]:
        instance = pynvml.nvmlDeviceCreateGpuInstance(card, 14)
        part = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 1)
        codes = [error_of(lambda: pynvml.nvmlGpuInstanceDestroy(instance))]
        pynvml.nvmlComputeInstanceDestroy(part)
        # What is gone has no handle any more.
        codes += [error_of(lambda: pynvml.nvmlComputeInstanceDestroy(part))]
        codes += [error_of(lambda: pynvml.nvmlGpuInstanceDestroy(instance)) for _ in range(2)]
        return codes

    assert Card(machine).on().does(work) == [
        pynvml.NVML_ERROR_IN_USE,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        0,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
    ]


def test_compute_instances_share_a_gpu_instance(machine: Machine) -> None:
    def work(card: Any) -> list[Any]:
        instance = pynvml.nvmlDeviceCreateGpuInstance(card, 9)
        first, second = (pynvml.nvmlGpuInstanceCreateComputeInstance(instance, number) for number in (1, 0))
        full = error_of(lambda: pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0))
        infos = [pynvml.nvmlComputeInstanceGetInfo_v2(part) for part in (first, second)]
        names = [
            pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index)) for index in range(2)
        ]
        return [full, [[info.id, info.placement.start, info.placement.size] for info in infos], names]

    assert Card(machine).on().does(work) == [
        INSUFFICIENT_RESOURCES,
        [[0, 0, 2], [1, 2, 1]],
        ["NVIDIA A100-SXM4-40GB MIG 2c.3g.20gb", "NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb"],
    ]


def test_a_compute_instance_in_use_is_not_destroyed(machine: Machine) -> None:
    card = Card(machine)
    machine.cut(("1g.5gb", 0, 1))
    holder = machine.hold(machine.devices()[0].uuid, memory_mib=2000)

    def destroy(card: Any) -> list[Any]:
        device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, 0)
        (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
        used = pynvml.nvmlDeviceGetMemoryInfo(device).used
        instance = pynvml.nvmlDeviceGetGpuInstanceById(card, process.gpuInstanceId)
        part = pynvml.nvmlGpuInstanceGetComputeInstanceById(instance, process.computeInstanceId)
        return [process.pid, process.usedGpuMemory, used, error_of(lambda: pynvml.nvmlComputeInstanceDestroy(part))]

    assert card.does(destroy) == [holder.pid, 2000 << 20, 2000 << 20, pynvml.NVML_ERROR_IN_USE]


def test_identifiers_of_instances_do_not_follow_from_their_place(machine: Machine) -> None:
    def work(card: Any) -> list[int]:
        ids = []
        for _ in range(2):
            instance = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(card, 9, at(4, 4))
            ids.append(pynvml.nvmlGpuInstanceGetInfo(instance).id)
            pynvml.nvmlGpuInstanceDestroy(instance)
        return ids

    # The guide shows 3g.20gb at 4 as instance 1 and as instance 2.
    assert Card(machine).on().does(work) == [2, 1]


def test_the_index_of_a_mig_device_shifts_and_its_uuid_does_not(machine: Machine) -> None:
    card = Card(machine)
    machine.cut(("1g.5gb", 0, 1), ("1g.5gb", 1, 1), ("1g.5gb", 2, 1))

    def uuids(card: Any) -> list[str]:
        handles = [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index) for index in range(count(card))]
        return [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]

    def count(card: Any) -> int:
        codes = [
            error_of(lambda index=index: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))  # type: ignore[misc]
            for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card))
        ]
        assert set(codes[codes.index(pynvml.NVML_ERROR_NOT_FOUND) :]) == {pynvml.NVML_ERROR_NOT_FOUND}
        return codes.count(0)

    before = card.does(uuids)
    assert len(before) == 3
    with machine.driver() as driver:
        first = machine.instances()[0]
        driver.destroy_parts(machine.uuid(), first.id)
    assert card.does(uuids) == before[1:]


def test_the_same_place_has_the_same_uuid_after_a_reboot(machine: Machine) -> None:
    Card(machine)
    slices = (("3g.20gb", 4, 3), ("1g.5gb", 0, 1))
    machine.cut(*slices)
    before = machine.devices()
    machine.reboot()
    assert machine.devices() == {}
    machine.cut(*reversed(slices))
    assert {start: device.uuid for start, device in machine.devices().items()} == {
        start: device.uuid for start, device in before.items()
    }
    assert len({device.uuid for device in before.values()}) == 2
    assert all(
        re.fullmatch(r"MIG-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", device.uuid) for device in before.values()
    )


# Mode


def modes(card: Any) -> list[int]:
    return list(pynvml.nvmlDeviceGetMigMode(card))


def test_ampere_resets_and_keeps_its_mode(machine: Machine) -> None:
    card = Card(machine, modules="nvidia_drm")
    switched: Callable[[Any], int] = lambda card: int(pynvml.nvmlDeviceSetMigMode(card, 1))  # noqa: E731
    assert card.does(switched) == pynvml.NVML_ERROR_IN_USE
    assert card.does(modes) == [0, 1]
    subprocess.run([machine.built / "sbin" / "modprobe", "-r", "nvidia-drm"], env=machine.environment, check=True)
    assert card.does(switched) == 0
    assert card.does(modes) == [1, 1]
    machine.reboot()
    assert card.does(modes) == [1, 1]


def test_a_pending_mode_comes_with_the_reboot(machine: Machine) -> None:
    card = Card(machine)
    machine.simulate("card", "0000:17:00.0", "passthrough", "on")
    assert card.does(lambda card: pynvml.nvmlDeviceSetMigMode(card, 1)) == pynvml.NVML_ERROR_RESET_REQUIRED
    assert card.does(modes) == [0, 1]
    machine.reboot()
    assert card.does(modes) == [1, 1]


def test_hopper_switches_at_once_and_forgets(machine: Machine) -> None:
    card = Card(machine, "H100-80GB", modules="nvidia_drm")
    machine.hold("driver")
    assert card.does(lambda card: pynvml.nvmlDeviceSetMigMode(card, 1)) == 0
    assert card.does(modes) == [1, 1]
    machine.reboot()
    assert card.does(modes) == [0, 0]


def test_a_card_without_mig(machine: Machine) -> None:
    card = Card(machine, "RTX-6000-24GB")
    assert card.does(lambda card: error_of(lambda: modes(card))) == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert card.does(lambda card: error_of(lambda: pynvml.nvmlDeviceSetMigMode(card, 1))) == 3
    assert card.does(pynvml.nvmlDeviceGetMaxMigDeviceCount) == 0
    assert card.does(lambda card: list(pynvml.nvmlDeviceGetCudaComputeCapability(card))) == [7, 5]


@pytest.mark.parametrize(("driver", "code"), [("535.309.01", 3), ("550.163.01", 0)])
def test_profiles_before_mig_mode(machine: Machine, driver: str, code: int) -> None:
    card = Card(machine, driver=driver)
    assert card.does(lambda card: error_of(lambda: pynvml.nvmlDeviceGetGpuInstanceProfileInfo(card, 0))) == code


# Who may what, failures, kills


def test_without_privileges(machine: Machine) -> None:
    card = Card(machine)
    machine.cut(("1g.5gb", 0, 1))
    machine.hold(machine.devices()[0].uuid)
    machine.simulate("set", "privilege", "nobody")

    def work(card: Any) -> list[Any]:
        device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, 0)
        number = pynvml.nvmlDeviceGetGpuInstanceId(device)
        return [
            error_of(lambda: pynvml.nvmlDeviceSetMigMode(card, 0)),
            error_of(lambda: pynvml.nvmlDeviceCreateGpuInstance(card, 19)),
            error_of(lambda: pynvml.nvmlDeviceGetGpuInstanceById(card, number)),
            error_of(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(card)),
            len(pynvml.nvmlDeviceGetComputeRunningProcesses(device)),
        ]

    assert card.does(work) == [4, 4, 4, 4, 1]


def test_a_call_fails_when_it_is_told_to(machine: Machine) -> None:
    card = Card(machine)
    machine.simulate("fail", "nvmlDeviceGetMinorNumber", "2", "15")
    assert card.does(lambda card: [error_of(lambda: pynvml.nvmlDeviceGetMinorNumber(card)) for _ in range(3)]) == [
        0,
        15,
        0,
    ]
    machine.simulate("fail")
    machine.simulate("fail", "nvmlDeviceGetMinorNumber", "0")
    assert card.does(lambda card: [error_of(lambda: pynvml.nvmlDeviceGetMinorNumber(card)) for _ in range(2)]) == [
        999,
        999,
    ]


@pytest.mark.parametrize(("moment", "instances", "calls"), [("before", 1, 2), ("after", 2, 3)])
def test_a_kill_leaves_the_state_before_or_after_a_call(
    machine: Machine, moment: str, instances: int, calls: int
) -> None:
    Card(machine).on()
    machine.forget_calls()

    def work() -> int:
        with Nvml():
            card = pynvml.nvmlDeviceGetHandleByIndex(0)
            first = pynvml.nvmlDeviceCreateGpuInstance(card, 19)
            pynvml.nvmlGpuInstanceCreateComputeInstance(first, 0)
            pynvml.nvmlDeviceCreateGpuInstance(card, 19)
        return 0

    done = machine._fork(work, {"SIMULATED_GPU_KILL_AT": f"3:{moment}"})
    assert done.code == -signal.SIGKILL
    assert len(machine.instances()) == instances
    assert len(machine.calls) == calls


TOGETHER = """
import sys, time, pynvml
from pathlib import Path
pynvml.nvmlInit()
card, start = pynvml.nvmlDeviceGetHandleByIndex(0), int(sys.argv[1])
Path(f"{sys.argv[2]}-{start}").touch()
while len(list(Path(sys.argv[2]).parent.glob(Path(sys.argv[2]).name + "-*"))) < 4:
    time.sleep(0.001)
for _ in range(100):
    place = pynvml.c_nvmlGpuInstancePlacement_t(start, 1)
    instance = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(card, 19, pynvml.byref(place))
    part = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    pynvml.nvmlComputeInstanceDestroy(part)
    pynvml.nvmlGpuInstanceDestroy(instance)
"""


def test_processes_take_turns(machine: Machine) -> None:
    """Four processes make and destroy instances at the same time: none loses what another one did."""
    Card(machine).on()
    ready = str(machine.folder / "ready")
    environment = {**machine.environment, "LD_LIBRARY_PATH": str(machine.built / "lib")}
    processes = [machine.start_python(environment, TOGETHER, str(start), ready) for start in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert machine.instances() == ()
    assert "serial 800\n" in machine.state.read_text()


def test_a_computer_without_the_driver(machine: Machine) -> None:
    assert machine._fork(lambda: error_of(pynvml.nvmlInit), {}).code == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    machine.create("A100-40GB")
    machine.simulate("set", "loaded", "no")
    assert machine._fork(lambda: error_of(pynvml.nvmlInit), {}).code == pynvml.NVML_ERROR_DRIVER_NOT_LOADED


def test_a_call_before_the_beginning(machine: Machine) -> None:
    machine.create("A100-40GB")

    def work() -> int:
        with Nvml():
            pass
        return error_of(pynvml.nvmlDeviceGetCount)

    assert machine._fork(work, {}).code == pynvml.NVML_ERROR_UNINITIALIZED


# Cards


def test_what_a_card_says_about_itself(machine: Machine) -> None:
    machine.create("RTX-A6000-48GB@0000:ca:00.0", "A100-40GB@0001:17:00.0", "A100-80GB@0000:65:00.0")

    def work() -> int:
        with Nvml():
            cards = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            addresses = [pynvml.nvmlDeviceGetPciInfo(card).busId for card in cards]
            uuids = [pynvml.nvmlDeviceGetUUID(card) for card in cards]
            same = [
                pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid))
                == pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(address))
                == pynvml.nvmlDeviceGetMinorNumber(card)
                for uuid, address, card in zip(uuids, addresses, cards, strict=True)
            ]
            print(
                json.dumps(
                    {
                        "addresses": addresses,
                        "different": len(set(uuids)),
                        "same": same,
                        "names": [pynvml.nvmlDeviceGetName(card) for card in cards],
                        "memory": [pynvml.nvmlDeviceGetMemoryInfo(card).total >> 20 for card in cards],
                        "device": hex(pynvml.nvmlDeviceGetPciInfo(cards[0]).pciDeviceId),
                        "versions": [pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetCudaDriverVersion()],
                        "nvml": pynvml.nvmlSystemGetNVMLVersion(),
                        "unknown": error_of(lambda: pynvml.nvmlDeviceGetHandleByUUID("GPU-0")),
                        "behind": error_of(lambda: pynvml.nvmlDeviceGetHandleByIndex(3)),
                    }
                )
            )
        return 0

    done = machine._fork(work, {})
    assert done.json == {
        # In the order of their addresses.
        "addresses": ["00000000:65:00.0", "00000000:CA:00.0", "00000001:17:00.0"],
        "different": 3,
        "same": [True] * 3,
        "names": ["NVIDIA A100 80GB PCIe", "NVIDIA RTX A6000", "NVIDIA A100-SXM4-40GB"],
        "memory": [81920, 49140, 40960],
        "device": "0x20b510de",
        "versions": ["535.309.01", 12020],
        "nvml": "12.535.309.01",
        "unknown": pynvml.NVML_ERROR_NOT_FOUND,
        "behind": pynvml.NVML_ERROR_INVALID_ARGUMENT,
    }


def test_a_mig_device_has_the_answers_of_a_card(machine: Machine) -> None:
    card = Card(machine)
    machine.cut(("3g.20gb", 4, 2))

    def work(card: Any) -> dict[str, Any]:
        device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, 0)
        attributes = pynvml.nvmlDeviceGetAttributes(device)
        parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)
        uuid = pynvml.nvmlDeviceGetUUID(device)
        return {
            "is": [
                bool(getattr(flag, "value", flag)) for flag in map(pynvml.nvmlDeviceIsMigDeviceHandle, (device, parent))
            ],
            "parent": pynvml.nvmlDeviceGetUUID(parent) == pynvml.nvmlDeviceGetUUID(card),
            "again": pynvml.nvmlDeviceGetComputeInstanceId(pynvml.nvmlDeviceGetHandleByUUID(uuid)),
            "slices": [attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount],
            "memory": [attributes.memorySizeMB, pynvml.nvmlDeviceGetMemoryInfo(device).total >> 20],
            "sm": attributes.multiprocessorCount,
            "card": error_of(lambda: pynvml.nvmlDeviceGetAttributes(card)),
        }

    assert card.does(work) == {
        "is": [True, False],
        "parent": True,
        "again": 0,
        "slices": [3, 2],
        "memory": [19968, 19968],
        "sm": 28,
        "card": pynvml.NVML_ERROR_NOT_SUPPORTED,
    }


# The program and the build


def test_the_build_does_nothing_a_second_time(built: Path) -> None:
    library = built / "lib" / "libnvidia-ml.so.1"
    before = library.stat().st_mtime_ns
    subprocess.run([str(DRIVER / "build"), str(built)], check=True)
    assert library.stat().st_mtime_ns == before


def test_the_library_shows_only_names_of_nvml(built: Path) -> None:
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", str(built / "lib" / "libnvidia-ml.so.1")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [line.split()[-1] for line in symbols.splitlines()]
    assert len(names) > 50
    assert all(name.startswith("nvml") for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "A100"), "there is no model A100; there are: A100-40GB"),
        (("create", "A100-40GB@17:00"), "17:00 is no PCI address"),
        (("card", "7", "passthrough", "on"), "7 is not the index, UUID or PCI address of one card"),
        (("use", "../state"), "../state is neither a UUID nor the word driver"),
    ],
)
def test_wrong_use_of_the_program(machine: Machine, arguments: tuple[str, ...], message: str) -> None:
    machine.create("A100-40GB")
    before = machine.state.read_text()
    with pytest.raises(SystemExit) as refused:
        machine.simulate(*arguments)
    assert message in str(refused.value.code)
    assert machine.state.read_text() == before


def test_the_program_uses_a_device_until_it_is_ended(machine: Machine) -> None:
    card = Card(machine)
    uuid = machine.uuid()
    with machine.start_simulation("use", uuid) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        processes = card.does(lambda card: [found.pid for found in pynvml.nvmlDeviceGetComputeRunningProcesses(card)])
        assert processes == [process.pid]
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert machine.simulate("calls") == ""


def test_a_wrong_state_is_told_and_not_guessed(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.append("gpu GPU-1 A100-40GB")
    done = machine._fork(lambda: error_of(pynvml.nvmlInit), {})
    assert done.code == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
