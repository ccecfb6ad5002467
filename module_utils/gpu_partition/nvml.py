"""The cards of this computer, read and changed through NVML (Debian's python3-pynvml), as plain values.

Handles are looked up anew for each call: NVML says that they may become invalid when a card is reset or an instance
goes. Profiles are known by NVML's own names ("MIG 1g.5gb"); where a driver gives none, by slices, number per card and
memory. Their numbers are never used to tell what they are: 14 is a 2g on an A100 and a 1g on an A30.
All memory is in MiB.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from .models import model_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Codes of nvml.h (nvmlReturn_t); they never change.
SUCCESS: Final = 0
INVALID_ARGUMENT: Final = 2
NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
DRIVER_NOT_LOADED: Final = 9
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
RESET_REQUIRED: Final = 16
LIBRARY_MISMATCH: Final = 18
IN_USE: Final = 19
VERSION_MISMATCH: Final = 25

_NO_DRIVER: Final = {
    DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is missing: install Debian's nvidia-smi or libnvidia-ml1",
    LIBRARY_MISMATCH: "the driver that runs is another version than the one installed: reboot",
}
# NVML numbers profiles from 0 on and says where they end; no driver has nearly as many.
_MOST_PROFILES: Final = 64
_MOST_INSTANCES: Final = 64
_SHARED_ENGINES: Final = 0


class NvmlError(Exception):
    """A call of NVML failed; ``code`` is its nvmlReturn_t."""

    def __init__(self, function: str, code: int, text: str) -> None:
        super().__init__(f"{function}: {text}")
        self.function = function
        self.code = code
        self.text = text


class NoDriverError(Exception):
    """There is no NVML to talk to."""


@dataclass(frozen=True)
class Gpu:
    """A card. ``mig`` and ``mig_pending`` are ``None`` where it has no MIG; ``error`` says why it does not answer."""

    index: int
    uuid: str = ""
    name: str = ""
    pci_address: str = ""
    memory_mib: int = 0
    mig: bool | None = None
    mig_pending: bool | None = None
    error: str = ""


@dataclass(frozen=True)
class Instance:
    """A GPU instance: ``start`` and ``size`` in memory slices, and the compute slices of each compute instance."""

    id: int
    profile: str
    compute: int
    start: int
    size: int
    parts: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """True where one compute instance has all of it: then it is one MIG device."""
        return self.parts == (self.compute,)


@dataclass(frozen=True)
class MigDevice:
    """A MIG device: a compute instance as programs see it."""

    uuid: str
    profile: str
    instance: int
    memory_mib: int


@dataclass(frozen=True)
class Process:
    """A process that uses a card or a MIG device."""

    pid: int
    program: str
    memory_mib: int | None


class Driver(Protocol):
    """What the engine needs of a driver. Cards are named by their UUID."""

    def versions(self) -> tuple[str, str]:
        """Return the version of the driver and of the CUDA it serves: ``535.309.01``, ``12.2``."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Return all cards."""

    def gpu(self, uuid: str) -> Gpu:
        """Return one card."""

    def profiles(self, uuid: str) -> tuple[str, ...]:
        """Return the profiles that the driver offers for a card; empty where it does not tell before MIG mode is on."""

    def instances(self, uuid: str) -> tuple[Instance, ...]:
        """Return the GPU instances of a card by start. Needs root."""

    def mig_devices(self, uuid: str) -> tuple[MigDevice, ...]:
        """Return the MIG devices of a card."""

    def processes(self, uuid: str) -> tuple[Process, ...]:
        """Return the processes on a card or on a MIG device."""

    def persistence_mode(self, uuid: str) -> bool:
        """Return True where the card is kept initialised without clients."""

    def set_mig_mode(self, uuid: str, *, on: bool) -> int:
        """Switch MIG mode and return whether that took effect: NVML's code, 0 where it did."""

    def create_instance(self, uuid: str, profile: str, start: int) -> int:
        """Create a GPU instance and return its identifier."""

    def create_part(self, uuid: str, instance: int, slices: int) -> None:
        """Create a compute instance with so many compute slices."""

    def destroy_parts(self, uuid: str, instance: int) -> None:
        """Destroy the compute instances of a GPU instance."""

    def destroy_instance(self, uuid: str, instance: int) -> None:
        """Destroy a GPU instance that has no compute instances."""


@dataclass(frozen=True)
class _Profile:
    """A profile as a driver gives it."""

    id: int
    name: str
    compute: int
    limit: int


class _Placement(ctypes.Structure):
    """nvmlGpuInstancePlacement_t."""

    _fields_ = (("start", ctypes.c_uint), ("size", ctypes.c_uint))


def short_pci_address(address: str) -> str:
    """Return NVML's PCI address as the kernel writes it: ``00000000:17:00.0`` becomes ``0000:17:00.0``."""
    domain, _, rest = address.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def profile_of_device(name: str) -> str:
    """Return the profile from a MIG device's name: ``NVIDIA A100-SXM4-40GB MIG 2g.10gb`` gives ``2g.10gb``."""
    return name.rpartition("MIG ")[2].strip()


def _program(pid: int) -> str:
    """Return the name of a process as the kernel knows it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return "?"


class Nvml:
    """The real driver. Close it, or use it in a ``with`` statement."""

    def __init__(self) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise NoDriverError("the Python module pynvml is missing: install python3-pynvml") from error
        # NVML: they stay the same as long as MIG mode does.
        self._known_profiles: dict[str, dict[str, _Profile]] = {}
        try:
            self._call("nvmlInit")
        except NvmlError as error:
            if error.code in _NO_DRIVER:
                raise NoDriverError(_NO_DRIVER[error.code]) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the use of NVML."""
        self._call("nvmlShutdown")

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError as error:
            raise NvmlError(function, int(error.value), str(error)) from error

    def _optional(self, function: str, *arguments: Any) -> Any:
        """Call a function that a driver or a card may lack; ``None`` where it does."""
        try:
            return self._call(function, *arguments)
        except NvmlError as error:
            if error.code in {NOT_SUPPORTED, FUNCTION_NOT_FOUND}:
                return None
            raise

    def _card(self, uuid: str) -> Any:
        return self._call("nvmlDeviceGetHandleByUUID", uuid)

    def versions(self) -> tuple[str, str]:
        """Return the version of the driver and of the CUDA it serves: ``535.309.01``, ``12.2``."""
        cuda = int(self._call("nvmlSystemGetCudaDriverVersion_v2"))
        return str(self._call("nvmlSystemGetDriverVersion")), f"{cuda // 1000}.{cuda % 1000 // 10}"

    def _read(self, index: int, card: Any) -> Gpu:
        mode = self._optional("nvmlDeviceGetMigMode", card)
        return Gpu(
            index=index,
            uuid=str(self._call("nvmlDeviceGetUUID", card)),
            name=str(self._call("nvmlDeviceGetName", card)),
            pci_address=short_pci_address(str(self._call("nvmlDeviceGetPciInfo", card).busId)),
            memory_mib=int(self._call("nvmlDeviceGetMemoryInfo", card).total) >> 20,
            mig=bool(mode[0]) if mode else None,
            mig_pending=bool(mode[1]) if mode else None,
        )

    def gpus(self) -> tuple[Gpu, ...]:
        """Return all cards; one that does not answer is returned with its error, so that the others can be used."""
        found = []
        for index in range(int(self._call("nvmlDeviceGetCount"))):
            try:
                found.append(self._read(index, self._call("nvmlDeviceGetHandleByIndex", index)))
            except NvmlError as error:
                found.append(Gpu(index, error=str(error)))
        return tuple(found)

    def gpu(self, uuid: str) -> Gpu:
        """Return one card."""
        card = self._card(uuid)
        return self._read(int(self._call("nvmlDeviceGetIndex", card)), card)

    def persistence_mode(self, uuid: str) -> bool:
        """Return True where the card is kept initialised without clients."""
        return bool(self._optional("nvmlDeviceGetPersistenceMode", self._card(uuid)))

    # Profiles

    def _numbered(self, read: Callable[[int], Any]) -> Iterator[Any]:
        """Yield what a function gives for each of NVML's numbers of profiles; some of them a card does not have."""
        for number in range(_MOST_PROFILES):
            try:
                yield read(number)
            except NvmlError as error:
                if error.code == INVALID_ARGUMENT:
                    return
                if error.code != NOT_SUPPORTED:
                    raise

    def _profile_version(self, card: Any) -> int:
        """Return 2 where the driver gives profiles names, else 1."""
        try:
            self._call("nvmlDeviceGetGpuInstanceProfileInfo", card, 0, 2)
        except NvmlError as error:
            if error.code in {INVALID_ARGUMENT, FUNCTION_NOT_FOUND, VERSION_MISMATCH}:
                return 1
            if error.code != NOT_SUPPORTED:
                raise
        return 2

    def _profiles(self, uuid: str) -> dict[str, _Profile]:
        """Return the profiles of a card by name."""
        if not self._known_profiles.get(uuid):
            self._known_profiles[uuid] = self._read_profiles(self._card(uuid))
        return self._known_profiles[uuid]

    def _read_profiles(self, card: Any) -> dict[str, _Profile]:
        version = self._profile_version(card)
        found: dict[str, _Profile] = {}
        for info in self._numbered(
            lambda number: self._call("nvmlDeviceGetGpuInstanceProfileInfo", card, number, version)
        ):
            given = str(info.name).removeprefix("MIG ").strip() if version > 1 else ""
            name = given or self._name_by_size(card, info)
            if name:
                found.setdefault(name, _Profile(int(info.id), name, int(info.sliceCount), int(info.instanceCount)))
        return found

    def _name_by_size(self, card: Any, info: Any) -> str:
        """Return the profile of the card's model that has these slices, this number per card and about this memory."""
        memory = int(self._call("nvmlDeviceGetMemoryInfo", card).total) >> 20
        model = model_for(str(self._call("nvmlDeviceGetName", card)), memory)
        alike = [
            profile
            for profile in (model.profiles.values() if model else ())
            if profile.compute == info.sliceCount and profile.limit == info.instanceCount
        ]
        if not alike:
            return ""
        return min(alike, key=lambda profile: abs(profile.memory_mib - int(info.memorySizeMB))).name

    def profiles(self, uuid: str) -> tuple[str, ...]:
        """Return the profiles that the driver offers for a card; empty where it does not tell before MIG mode is on."""
        return tuple(self._profiles(uuid))

    def _profile(self, uuid: str, name: str) -> _Profile:
        found = self._profiles(uuid).get(name)
        if found is None:
            raise NvmlError("nvmlDeviceGetGpuInstanceProfileInfo", NOT_SUPPORTED, f"the card has no profile {name}")
        return found

    def _parts(self, instance: Any) -> list[Any]:
        """Return the profiles of compute instances of a GPU instance, by NVML's number."""
        return list(
            self._numbered(
                lambda number: self._call(
                    "nvmlGpuInstanceGetComputeInstanceProfileInfo", instance, number, _SHARED_ENGINES, 1
                )
            )
        )

    # Instances

    def _several(self, function: str, kind: Any, parent: Any, profile: int) -> list[Any]:
        """Call a function that fills an array and says how many there are."""
        array, count = (kind * _MOST_INSTANCES)(), ctypes.c_uint()
        self._call(function, parent, profile, array, ctypes.byref(count))
        return [array[position] for position in range(count.value)]

    def _compute_instances(self, instance: Any) -> list[tuple[int, Any]]:
        """Return compute slices and handle of each compute instance."""
        return [
            (int(part.sliceCount), found)
            for part in self._parts(instance)
            for found in self._several(
                "nvmlGpuInstanceGetComputeInstances", self._nvml.c_nvmlComputeInstance_t, instance, int(part.id)
            )
        ]

    def instances(self, uuid: str) -> tuple[Instance, ...]:
        """Return the GPU instances of a card by start. Needs root."""
        card = self._card(uuid)
        found = []
        for profile in self._profiles(uuid).values():
            for handle in self._several("nvmlDeviceGetGpuInstances", self._nvml.c_nvmlGpuInstance_t, card, profile.id):
                info = self._call("nvmlGpuInstanceGetInfo", handle)
                parts = tuple(slices for slices, _ in self._compute_instances(handle))
                place = info.placement
                found.append(
                    Instance(int(info.id), profile.name, profile.compute, int(place.start), int(place.size), parts)
                )
        return tuple(sorted(found, key=lambda instance: instance.start))

    def mig_devices(self, uuid: str) -> tuple[MigDevice, ...]:
        """Return the MIG devices of a card."""
        card = self._card(uuid)
        found = []
        for index in range(int(self._call("nvmlDeviceGetMaxMigDeviceCount", card))):
            try:
                device = self._call("nvmlDeviceGetMigDeviceHandleByIndex", card, index)
            except NvmlError as error:
                # An index without a device; there may be more behind it.
                if error.code in {NOT_FOUND, INVALID_ARGUMENT}:
                    continue
                raise
            found.append(
                MigDevice(
                    uuid=str(self._call("nvmlDeviceGetUUID", device)),
                    profile=profile_of_device(str(self._call("nvmlDeviceGetName", device))),
                    instance=int(self._call("nvmlDeviceGetGpuInstanceId", device)),
                    memory_mib=int(self._call("nvmlDeviceGetMemoryInfo", device).total) >> 20,
                )
            )
        return tuple(found)

    def processes(self, uuid: str) -> tuple[Process, ...]:
        """Return the processes on a card or on a MIG device, by number; those that draw and those of MPS as well."""
        device = self._card(uuid)
        found: dict[int, Process] = {}
        for kind in ("Compute", "Graphics", "MPSCompute"):
            for running in self._optional(f"nvmlDeviceGet{kind}RunningProcesses", device) or ():
                memory = None if running.usedGpuMemory is None else int(running.usedGpuMemory) >> 20
                pid = int(running.pid)
                found.setdefault(pid, Process(pid, self._name_of(pid), memory))
        return tuple(found[pid] for pid in sorted(found))

    def _name_of(self, pid: int) -> str:
        with contextlib.suppress(NvmlError):
            name = str(self._call("nvmlSystemGetProcessName", pid))
            # NVML gives the command line on some drivers, and the path on others.
            return re.split(r"[\s\0]", name.strip(), maxsplit=1)[0].rpartition("/")[2] or _program(pid)
        return _program(pid)

    # Changes

    def set_mig_mode(self, uuid: str, *, on: bool) -> int:
        """Switch MIG mode and return whether that took effect: NVML's code, 0 where it did.

        NVML may reset the card or unbind it for this, after which all that was known of it has to be asked again: so
        it is started anew.
        """
        status = int(self._call("nvmlDeviceSetMigMode", self._card(uuid), int(on)))
        self._known_profiles.clear()
        self._call("nvmlShutdown")
        self._call("nvmlInit")
        return status

    def create_instance(self, uuid: str, profile: str, start: int) -> int:
        """Create a GPU instance and return its identifier."""
        card = self._card(uuid)
        found = self._profile(uuid, profile)
        placement = self._placement(card, found, start)
        instance = self._call("nvmlDeviceCreateGpuInstanceWithPlacement", card, found.id, ctypes.byref(placement))
        return int(self._call("nvmlGpuInstanceGetInfo", instance).id)

    def _placement(self, card: Any, profile: _Profile, start: int) -> _Placement:
        """Return the place that starts there, as the driver gives it: it knows its size."""
        count = ctypes.c_uint()
        function = "nvmlDeviceGetGpuInstancePossiblePlacements"
        self._call(function, card, profile.id, None, ctypes.byref(count))
        placements = (_Placement * count.value)()
        self._call(function, card, profile.id, placements, ctypes.byref(count))
        for placement in placements[: count.value]:
            if placement.start == start:
                return _Placement(placement.start, placement.size)
        starts = ", ".join(str(placement.start) for placement in placements[: count.value])
        raise NvmlError(function, NOT_FOUND, f"{profile.name} may start at {starts}, not at {start}")

    def create_part(self, uuid: str, instance: int, slices: int) -> None:
        """Create a compute instance with so many compute slices."""
        handle = self._instance(uuid, instance)
        # Newer drivers have a second profile with all slices; the first one is the common one.
        fitting = [part for part in self._parts(handle) if part.sliceCount == slices]
        if not fitting:
            function = "nvmlGpuInstanceGetComputeInstanceProfileInfo"
            raise NvmlError(function, NOT_SUPPORTED, f"no compute instance of {slices} slices")
        self._call("nvmlGpuInstanceCreateComputeInstance", handle, int(fitting[0].id))

    def destroy_parts(self, uuid: str, instance: int) -> None:
        """Destroy the compute instances of a GPU instance."""
        for _, handle in self._compute_instances(self._instance(uuid, instance)):
            self._call("nvmlComputeInstanceDestroy", handle)

    def destroy_instance(self, uuid: str, instance: int) -> None:
        """Destroy a GPU instance that has no compute instances."""
        self._call("nvmlGpuInstanceDestroy", self._instance(uuid, instance))

    def _instance(self, uuid: str, instance: int) -> Any:
        return self._call("nvmlDeviceGetGpuInstanceById", self._card(uuid), instance)
