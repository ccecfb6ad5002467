"""The adapter to NVML, on the simulated driver; by hand also with Debian's pynvml of both suites."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.gpu_partition import nvml
from module_utils.gpu_partition.models import find_model
from module_utils.gpu_partition.nvml import Gpu, Instance, MigDevice, NoDriverError, Nvml, NvmlError, Process

if TYPE_CHECKING:
    from tests.unit.gpu.simulation import Machine

# It has no types.
pynvml: Any = importlib.import_module("pynvml")


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, code: int) -> None:
    """Let a function of pynvml fail always."""

    def fails(*_: object) -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, function, fails)


def refuse_version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the names of profiles away, as in drivers that do not know the second version of the structure."""
    real = pynvml.nvmlDeviceGetGpuInstanceProfileInfo

    def without_names(card: Any, number: int, version: int = 2) -> Any:
        if version > 1:
            raise pynvml.NVMLError(nvml.FUNCTION_NOT_FOUND)
        return real(card, number, version)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetGpuInstanceProfileInfo", without_names)


def test_cards(machine: Machine) -> None:
    machine.create("A100-40GB@0000:17:00.0", "RTX-6000-24GB@0001:ca:00.0")
    with machine.driver() as driver:
        first, second = driver.gpus()
        assert driver.gpu(first.uuid) == first
        assert driver.versions() == ("535.309.01", "12.2")
    a100 = Gpu(0, first.uuid, "NVIDIA A100-SXM4-40GB", "0000:17:00.0", 40960, mig=False, mig_pending=False)
    assert first == a100
    assert second == Gpu(1, second.uuid, "Quadro RTX 6000", "0001:ca:00.0", 24576)
    assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first.uuid)


def test_instances_and_devices(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.cut(("3g.20gb", 4, 2), ("2g.10gb", 0, 2), ("1g.5gb", 2, 0), ("1g.5gb+me", 3, 1))
    with machine.driver() as driver:
        uuid = driver.gpus()[0].uuid
        found = driver.instances(uuid)
        devices = driver.mig_devices(uuid)
    ids = [instance.id for instance in found]
    assert found == (
        Instance(ids[0], "2g.10gb", 2, 0, 2, (2,)),
        Instance(ids[1], "1g.5gb", 1, 2, 1, ()),
        Instance(ids[2], "1g.5gb+me", 1, 3, 1, (1,)),
        Instance(ids[3], "3g.20gb", 3, 4, 4, (2,)),
    )
    assert [instance.complete for instance in found] == [True, False, True, False]
    assert sorted(devices, key=lambda device: device.profile) == [
        MigDevice(devices[2].uuid, "1g.5gb+me", ids[2], 4864),
        MigDevice(devices[0].uuid, "2c.3g.20gb", ids[3], 19968),
        MigDevice(devices[1].uuid, "2g.10gb", ids[0], 9856),
    ]


@pytest.mark.parametrize("model", ["A100-40GB", "A30-24GB", "H100-94GB", "B200-180GB", "RTX-PRO-6000-96GB"])
@pytest.mark.parametrize("named", [True, False])
def test_profiles_by_name_and_without_names(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, model: str, *, named: bool
) -> None:
    machine.create(model, driver="550.163.01")
    if not named:
        refuse_version_2(monkeypatch)
    with machine.driver() as driver:
        assert set(driver.profiles(driver.gpus()[0].uuid)) == set(find_model(model).profiles)


def test_profiles_of_a_card_that_the_table_does_not_know(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.create("A30-24GB", driver="550.163.01", name="NVIDIA A31")
    uuid = machine.uuid()
    with machine.driver() as driver:
        assert set(driver.profiles(uuid)) == set(find_model("A30-24GB").profiles)
    refuse_version_2(monkeypatch)
    with machine.driver() as driver:
        assert driver.profiles(uuid) == ()


def test_old_drivers_tell_profiles_in_mig_mode_only(machine: Machine) -> None:
    machine.create("A100-40GB")
    uuid = machine.uuid()
    with machine.driver() as driver:
        assert driver.profiles(uuid) == ()
        assert driver.set_mig_mode(uuid, on=True) == nvml.SUCCESS
        assert "2g.10gb" in driver.profiles(uuid)
        assert driver.set_mig_mode(uuid, on=False) == nvml.SUCCESS
        assert driver.profiles(uuid) == ()


def test_an_error_in_the_middle_of_profiles_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.create("A100-40GB")
    uuid = machine.uuid()
    refuse(monkeypatch, "nvmlDeviceGetGpuInstanceProfileInfo", 15)
    with machine.driver() as driver, pytest.raises(NvmlError) as refused:
        driver.profiles(uuid)
    assert refused.value.code == 15
    assert str(refused.value) == "nvmlDeviceGetGpuInstanceProfileInfo: GPU is lost"


def test_changes(machine: Machine) -> None:
    machine.create("A30-24GB")
    uuid = machine.uuid()
    with machine.driver() as driver:
        assert driver.set_mig_mode(uuid, on=True) == nvml.SUCCESS
        # 14 is a 1g on this card, and a 2g on an A100.
        number = driver.create_instance(uuid, "1g.6gb", 3)
        driver.create_part(uuid, number, 1)
        assert driver.instances(uuid) == (Instance(number, "1g.6gb", 1, 3, 1, (1,)),)
        with pytest.raises(NvmlError, match="In use by another client"):
            driver.destroy_instance(uuid, number)
        driver.destroy_parts(uuid, number)
        driver.destroy_instance(uuid, number)
        assert driver.instances(uuid) == ()
        assert driver.set_mig_mode(uuid, on=False) == nvml.SUCCESS
        assert driver.gpu(uuid).mig is False
    places = [call.split(" ", 2)[2] for call in machine.calls if call.startswith("nvmlDeviceCreate")]
    assert places == ["1g.6gb at 3: 6 = 0"]


@pytest.mark.parametrize(
    ("profile", "start", "message"),
    [
        ("2g.10gb", 6, "2g.10gb may start at 0, 2, 4, not at 6"),
        ("1g.10gb+me", 0, "the card has no profile 1g.10gb+me"),
        ("1g.5gb", 0, "Insufficient Resources"),
    ],
)
def test_instances_that_cannot_be(machine: Machine, profile: str, start: int, message: str) -> None:
    machine.create("A100-40GB")
    machine.cut(("1g.5gb", 0, 1))
    with machine.driver() as driver, pytest.raises(NvmlError, match=re.escape(message)):
        driver.create_instance(driver.gpus()[0].uuid, profile, start)


def test_a_part_that_the_instance_does_not_have(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.cut(("2g.10gb", 0, 0))
    with machine.driver() as driver, pytest.raises(NvmlError, match="no compute instance of 3 slices"):
        driver.create_part(machine.uuid(), machine.instances()[0].id, 3)


def test_processes(machine: Machine) -> None:
    machine.create("A100-40GB", "RTX-6000-24GB")
    machine.cut(("1g.5gb", 0, 1), ("1g.5gb", 1, 1))
    first, second = machine.devices()[0].uuid, machine.devices()[1].uuid
    card, whole = machine.uuid(0), machine.uuid(1)
    holders = [
        machine.hold(first, memory_mib=100),
        machine.hold(first, memory_mib=200),
        machine.hold(whole, memory_mib=300),
    ]
    on_slice = (Process(holders[0].pid, "sleep", 100), Process(holders[1].pid, "sleep", 200))
    with machine.driver() as driver:
        assert driver.processes(first) == tuple(sorted(on_slice, key=lambda process: process.pid))
        assert driver.processes(second) == ()
        assert driver.processes(card) == driver.processes(first)
        assert driver.processes(whole) == (Process(holders[2].pid, "sleep", 300),)
        machine.end_holders()
        assert driver.processes(whole) == ()


@dataclass
class Running:
    """A process as pynvml gives it."""

    pid: int
    usedGpuMemory: int | None  # noqa: N815 - pynvml's name


def test_processes_that_draw_and_those_of_mps_count_as_well(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.create("RTX-6000-24GB")
    kinds = {"Compute": [Running(5, 1 << 20)], "Graphics": [Running(3, None)], "MPSCompute": [Running(5, 7 << 20)]}
    for kind, running in kinds.items():
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses", lambda _, running=running: running)
    names = {3: "/usr/lib/xorg/Xorg", 5: "python3 -m kraken\0train"}
    monkeypatch.setattr(pynvml, "nvmlSystemGetProcessName", names.__getitem__)
    with machine.driver() as driver:
        found = driver.processes(driver.gpus()[0].uuid)
    assert found == (Process(3, "Xorg", None), Process(5, "python3", 1))


def test_processes_whose_kind_a_card_does_not_tell(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.create("RTX-6000-24GB")
    holder = machine.hold(machine.uuid())
    refuse(monkeypatch, "nvmlDeviceGetGraphicsRunningProcesses", nvml.NOT_SUPPORTED)
    refuse(monkeypatch, "nvmlDeviceGetMPSComputeRunningProcesses", nvml.FUNCTION_NOT_FOUND)
    refuse(monkeypatch, "nvmlSystemGetProcessName", nvml.NO_PERMISSION)
    with machine.driver() as driver:
        assert driver.processes(driver.gpus()[0].uuid) == (Process(holder.pid, "sleep", 512),)


def test_a_card_that_does_not_answer_leaves_the_others(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB", "A100-40GB")
    machine.append("fail nvmlDeviceGetMigMode 2 15 0")
    with machine.driver() as driver:
        found = driver.gpus()
    assert [gpu.error for gpu in found] == ["", "nvmlDeviceGetMigMode: GPU is lost", ""]
    assert found[1] == Gpu(1, error=found[1].error)


def test_persistence_mode(machine: Machine) -> None:
    machine.create("A100-40GB")
    with machine.driver() as driver:
        assert not driver.persistence_mode(driver.gpus()[0].uuid)
    machine.simulate("card", "0", "persistence", "on")
    with machine.driver() as driver:
        assert driver.persistence_mode(driver.gpus()[0].uuid)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (nvml.DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
        (nvml.LIBRARY_NOT_FOUND, "libnvidia-ml.so.1 is missing"),
        (nvml.LIBRARY_MISMATCH, "the driver that runs is another version than the one installed: reboot"),
    ],
)
def test_no_driver(monkeypatch: pytest.MonkeyPatch, code: int, message: str) -> None:
    refuse(monkeypatch, "nvmlInit", code)
    with pytest.raises(NoDriverError, match=message):
        Nvml()


def test_another_error_at_the_beginning_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "nvmlInit", 999)
    with pytest.raises(NvmlError, match="nvmlInit: Unknown Error"):
        Nvml()


def test_no_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoDriverError, match="install python3-pynvml"):
        Nvml()


@pytest.mark.parametrize(
    ("given", "short"),
    [("00000000:17:00.0", "0000:17:00.0"), ("00010000:CA:1F.0", "10000:ca:1f.0"), ("0001:17:00.0", "0001:17:00.0")],
)
def test_pci_addresses(given: str, short: str) -> None:
    assert nvml.short_pci_address(given) == short


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 2g.10gb", "2g.10gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "1g.10gb+me"),
        ("NVIDIA A30 MIG 1c.2g.12gb", "1c.2g.12gb"),
    ],
)
def test_profiles_of_devices(name: str, profile: str) -> None:
    assert nvml.profile_of_device(name) == profile
