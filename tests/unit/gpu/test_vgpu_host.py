"""The program vgpu-devices: on a model of sysfs whose files do what the driver does, and as a program on a folder."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "roles" / "vgpu_host" / "files" / "vgpu-devices"
CARD = "0000:17:00.0"
OTHER = "0000:ca:00.0"
FOREIGN = "11111111-2222-3333-4444-555555555555"


def load_program() -> Any:
    loader = importlib.machinery.SourceFileLoader("vgpu_devices_program", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


vgpu = load_program()


class KilledError(BaseException):
    """The program ended here, as after kill -9: nothing is cleaned up."""


# Memory in GB by number; of one card's devices all have the same size, as with NVIDIA's default.
TYPES = {470: ("A100-4C", 4), 472: ("A100-10C", 10), 474: ("A100-20C", 20)}
MEMORY = 40


@dataclass
class PhysicalCard:
    """A card: ``kind`` mdev has its types itself, sriov-mdev and vfio on virtual functions."""

    kind: str
    functions: list[str] = field(default_factory=list)
    # Function -> {identity: number of the type}
    devices: dict[str, dict[str, int]] = field(default_factory=dict)
    driver: str = "nvidia"
    ready: bool = True

    def room(self, number: int) -> int:
        present = [other for of_one in self.devices.values() for other in of_one.values()]
        if any(TYPES[other][1] != TYPES[number][1] for other in present):
            return 0
        return MEMORY // TYPES[number][1] - len(present)


class Model:
    """A computer in this process. Its files are computed when they are read, and act when they are written."""

    def __init__(self, **cards: PhysicalCard) -> None:
        self.cards = {address.replace("_", ":").replace("p", "."): card for address, card in cards.items()}
        self.writes: list[str] = []
        self.made: list[str] = []
        self.held: list[Any] = []
        self.fail_at: dict[int, int | type[BaseException]] = {}
        self.functions = 16
        self.vgpu_module = True
        self.sriov_breaks = False
        # Virtual functions on which the driver offers nothing.
        self.closed: set[str] = set()

    def groups(self) -> dict[str, str]:
        """IOMMU group by identity: groups of virtual functions count from 40, of mediated devices from 100."""
        functions = [name for card in self.cards.values() for name in card.functions]
        found = {name: str(40 + i) for i, name in enumerate(functions)}
        for card in self.cards.values():
            for of_one in card.devices.values():
                for identity in of_one:
                    if identity not in found:
                        found[identity] = str(100 + uuid.UUID(identity).int % 1000)
        return found

    def hold(self, identity: str, machine: str = "vm1") -> None:
        self.held.append(vgpu.Holder(4711, "qemu-system-x86", machine, f"/dev/vfio/{self.groups()[identity]}"))

    def reboot(self) -> None:
        for card in self.cards.values():
            card.devices = {}
            if card.kind != "mdev":
                card.functions = []
        self.held.clear()

    def _parents(self) -> dict[str, PhysicalCard]:
        parents = {}
        for address, card in self.cards.items():
            if card.ready and card.kind == "mdev":
                parents[address] = card
            if card.ready and card.kind == "sriov-mdev":
                parents |= dict.fromkeys(card.functions, card)
        return parents

    def _room(self, card: PhysicalCard, function: str, number: int) -> int:
        if card.kind == "mdev":
            return card.room(number)
        return 0 if card.devices.get(function) or function in self.closed else min(1, card.room(number))

    def _owner(self, address: str) -> PhysicalCard | None:
        return next((card for key, card in self.cards.items() if address == key or address in card.functions), None)

    def names(self, path: str) -> list[str]:  # noqa: PLR0911 - one for each kind of folder
        match path.split("/"):
            case ["class", "mdev_bus"]:
                return sorted(self._parents())
            case ["class", "mdev_bus", parent, "mdev_supported_types"]:
                return [f"nvidia-{number}" for number in TYPES] if parent in self._parents() else []
            case ["class", "mdev_bus", parent, "mdev_supported_types", kind, "devices"]:
                of_one = self._parents()[parent].devices.get(parent, {})
                return sorted(identity for identity, number in of_one.items() if f"nvidia-{number}" == kind)
            case ["bus", "pci", "devices"]:
                return sorted([*self.cards, *(name for card in self.cards.values() for name in card.functions)])
            case ["bus", "pci", "devices", address] if address in self.cards:
                # As the kernel's folders are: unsorted by number.
                return sorted(["driver", *(f"virtfn{i}" for i, _ in enumerate(self.cards[address].functions))])
            case ["module", "nvidia_vgpu_vfio"]:
                return ["refcnt"] if self.vgpu_module else []
        return []

    def read(self, path: str) -> str | None:  # noqa: PLR0911 - one for each kind of file
        match path.split("/"):
            case ["class", "mdev_bus", parent, "mdev_supported_types", kind, name] if parent in self._parents():
                number = int(kind.removeprefix("nvidia-"))
                room = self._room(self._parents()[parent], parent, number)
                most = MEMORY // TYPES[number][1]
                return {
                    "name": f"GRID {TYPES[number][0]}",
                    "available_instances": str(room),
                    "description": f"num_heads=1, framebuffer={TYPES[number][1] * 1024}M, max_instance={most}",
                }[name]
            case ["bus", "pci", "devices", address, "sriov_totalvfs"]:
                owner = self._owner(address)
                return None if owner is None or owner.kind == "mdev" else str(self.functions)
            case ["bus", "pci", "devices", address, "nvidia", name]:
                owner = self._owner(address)
                if owner is None or owner.kind != "vfio" or address not in owner.functions or not owner.ready:
                    return None
                if name == "current_vgpu_type":
                    return str(owner.devices.get(address, {}).get(address, 0))
                fitting = [number for number in TYPES if self._room(owner, address, number)]
                return "\n".join(["ID    : vGPU Name", *(f"{n} : NVIDIA {TYPES[n][0]}" for n in fitting)])
            case ["bus", "pci", "devices", address, "vendor"] if self._owner(address):
                return "0x10de"
            case ["bus", "pci", "devices", address, "class"] if self._owner(address):
                return "0x030200"
        return None

    def target(self, path: str) -> str | None:
        match path.split("/"):
            case ["bus", "pci", "devices", address, "driver"]:
                return self.cards[address].driver or None
            case ["bus", "pci", "devices", address, "physfn"]:
                return next((pf for pf, card in self.cards.items() if address in card.functions), None)
            case ["bus", "pci", "devices", address, link] if link.startswith("virtfn"):
                return self.cards[address].functions[int(link.removeprefix("virtfn"))]
            case ["bus", _, "devices", identity, "iommu_group"]:
                return self.groups().get(identity)
        return None

    def write(self, path: str, text: str) -> None:
        self.writes.append(f"{path}={text}")
        failure = self.fail_at.get(len(self.writes))
        if isinstance(failure, int):
            raise OSError(failure, os.strerror(failure))
        if failure is not None:
            raise failure
        match path.split("/"):
            case ["class", "mdev_bus", parent, "mdev_supported_types", kind, "create"]:
                card, number = self._parents()[parent], int(kind.removeprefix("nvidia-"))
                self._refuse(not self._room(card, parent, number) or text in self.groups(), errno.ENOSPC)
                card.devices.setdefault(parent, {})[text] = number
            case ["bus", "mdev", "devices", identity, "remove"]:
                self._refuse_held(identity)
                for of_one in (of_one for card in self.cards.values() for of_one in card.devices.values()):
                    of_one.pop(identity, None)
            case ["bus", "pci", "devices", address, "nvidia", "current_vgpu_type"]:
                card = next(card for card in self.cards.values() if address in card.functions)
                if text == "0":
                    self._refuse_held(address)
                    card.devices.pop(address, None)
                else:
                    self._refuse(not self._room(card, address, int(text)), errno.EINVAL)
                    card.devices[address] = {address: int(text)}
            case _:
                raise AssertionError(path)

    def _refuse_held(self, identity: str) -> None:
        files = [holder.file for holder in self.held]
        assert f"/dev/vfio/{self.groups()[identity]}" not in files, "removed while a virtual machine uses it"

    @staticmethod
    def _refuse(refused: bool, error: int) -> None:
        if refused:
            raise OSError(error, os.strerror(error))

    def make_functions(self, address: str) -> None:
        if self.sriov_breaks:
            raise vgpu.VgpuError("sriov-manage ended with status 1: unbindLock")
        self.made.append(address)
        stem = address.removesuffix("0").removesuffix("00.")
        self.cards[address].functions = [f"{stem}{i // 8:02x}.{i % 8}" for i in range(4, 4 + self.functions)]

    def holders(self) -> list[Any]:
        return list(self.held)


def computer(kind: str, **more: PhysicalCard) -> Model:
    return Model(**{"0000_17_00p0": PhysicalCard(kind)}, **more)


def wanted(count: int, kind: str = "A100-10C", address: str = CARD) -> Any:
    return vgpu.Card("gpu0", address, kind, count)


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    return tmp_path / "types.json"


def apply(model: Model, seen: Path, *cards: Any) -> list[Any]:
    changes: list[Any] = vgpu.Host(model, cards, seen).apply()
    return changes


def numbers(model: Model, address: str = CARD) -> list[int]:
    return sorted(n for of_one in model.cards[address].devices.values() for n in of_one.values())


each_interface = pytest.mark.parametrize("kind", ["mdev", "sriov-mdev", "vfio"])
with_functions = pytest.mark.parametrize("kind", ["sriov-mdev", "vfio"])


# what is made


@each_interface
def test_fresh_then_nothing(kind: str, seen: Path) -> None:
    model = computer(kind)
    (change,) = apply(model, seen, wanted(4))
    assert change.changed
    assert numbers(model) == [472] * 4
    assert model.made == ([] if kind == "mdev" else [CARD])
    assert change.makes_functions == (kind != "mdev")
    writes, content, moment = list(model.writes), seen.read_text(), seen.stat().st_mtime_ns
    (again,) = apply(model, seen, wanted(4))
    assert not again.changed
    assert model.writes == writes
    assert (seen.read_text(), seen.stat().st_mtime_ns) == (content, moment)


@each_interface
def test_same_devices_after_a_reboot(kind: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(3))
    before = json.dumps(model.cards[CARD].devices, sort_keys=True)
    model.reboot()
    apply(model, seen, wanted(3))
    assert json.dumps(model.cards[CARD].devices, sort_keys=True) == before


def test_uuids_are_fixed() -> None:
    # Descriptions of virtual machines hold them: they must never change.
    assert vgpu.device_uuid(CARD, 472, 0) == "de1a2bfb-ac32-5b90-8a3c-159ea1aff3a5"
    assert len({vgpu.device_uuid(CARD, number, i) for number in TYPES for i in range(64)}) == 192


@with_functions
def test_one_device_on_each_function_in_their_order(kind: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(4))
    assert list(model.cards[CARD].devices) == ["0000:17:00.4", "0000:17:00.5", "0000:17:00.6", "0000:17:00.7"]
    # virtfn10 sorts before virtfn2 as text.
    model = computer(kind)
    apply(model, seen, wanted(10, "A100-4C"))
    assert list(model.cards[CARD].devices) == model.cards[CARD].functions[:10]


@with_functions
def test_functions_that_take_nothing_are_passed_over(kind: str, seen: Path) -> None:
    model = computer(kind)
    model.closed = {"0000:17:00.4", "0000:17:00.6"}
    apply(model, seen, wanted(2))
    assert [name for name, of_one in model.cards[CARD].devices.items() if of_one] == ["0000:17:00.5", "0000:17:00.7"]
    model.closed = set(model.cards[CARD].functions)
    with pytest.raises(vgpu.VgpuError, match="only 2 of 3 devices"):
        vgpu.Host(model, [wanted(3)], seen).plan()


@each_interface
@pytest.mark.parametrize("named", ["A100-20C", "nvidia-474"])
def test_types_by_name_and_number(kind: str, named: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(2, named))
    assert numbers(model) == [474, 474]
    assert not vgpu.Host(model, [wanted(2, named)], seen).plan()[0].changed


# what changes


@each_interface
def test_only_the_difference(kind: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(2))
    devices = json.dumps(model.cards[CARD].devices)
    count = len(model.writes)
    apply(model, seen, wanted(3))
    assert len(model.writes) == count + 1
    apply(model, seen, wanted(2))
    assert len(model.writes) == count + 2
    assert json.dumps({k: v for k, v in model.cards[CARD].devices.items() if v}) == devices


@each_interface
def test_another_type(kind: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(4))
    (change,) = apply(model, seen, wanted(2, "A100-20C"))
    assert numbers(model) == [474, 474]
    assert (len(change.remove), len(change.create)) == (4, 2)


@each_interface
def test_none(kind: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(4))
    apply(model, seen, wanted(0))
    assert numbers(model) == []


@pytest.mark.parametrize("kind", ["mdev", "sriov-mdev"])
def test_a_card_declared_no_more_loses_its_devices(kind: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(2))
    apply(model, seen)
    assert numbers(model) == []


def test_functions_of_undeclared_cards_are_left_alone(seen: Path) -> None:
    model = computer("vfio")
    apply(model, seen, wanted(2))
    assert apply(model, seen) == []
    assert numbers(model) == [472, 472]


def test_devices_of_others_are_left_alone(seen: Path) -> None:
    model = computer("mdev")
    model.cards[CARD].devices[CARD] = {FOREIGN: 472}
    (change,) = apply(model, seen, wanted(2))
    assert FOREIGN in model.cards[CARD].devices[CARD]
    assert numbers(model) == [472] * 3
    assert f"{FOREIGN} A100-10C (not of vgpu-devices)" in change.as_dict()["after"]
    apply(model, seen)
    assert model.cards[CARD].devices[CARD] == {FOREIGN: 472}


@each_interface
def test_the_other_card_is_not_touched(kind: str, seen: Path) -> None:
    model = computer(kind, **{"0000_ca_00p0": PhysicalCard(kind)})
    apply(model, seen, wanted(2), wanted(2, address=OTHER))
    model.writes.clear()
    apply(model, seen, wanted(4), wanted(2, address=OTHER))
    assert len(model.writes) == 2
    functions = [CARD, *model.cards[CARD].functions]
    assert all(any(name in write for name in functions) for write in model.writes)


# what is in use


@each_interface
def test_a_device_in_use_is_never_removed(kind: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(2))
    identity = next(identity for of_one in model.cards[CARD].devices.values() for identity in of_one)
    model.hold(identity)
    model.writes.clear()
    for declared in (wanted(0), wanted(1, "A100-20C")):
        with pytest.raises(vgpu.InUseError, match=r"process 4711 \(qemu-system-x86, virtual machine vm1\)") as raised:
            apply(model, seen, declared)
        assert raised.value.processes[0]["device"] == identity
        assert raised.value.code == 3
    assert model.writes == []
    # It stays as it is declared: others may come.
    apply(model, seen, wanted(3))
    assert numbers(model) == [472] * 3


def test_functions_in_use_stay_when_others_can_go(seen: Path) -> None:
    model = computer("vfio")
    apply(model, seen, wanted(3))
    last = model.cards[CARD].functions[2]
    model.hold(last)
    apply(model, seen, wanted(1))
    assert model.cards[CARD].devices == {last: {last: 472}}


def test_no_card_changes_while_one_is_refused(seen: Path) -> None:
    model = computer("mdev", **{"0000_ca_00p0": PhysicalCard("mdev")})
    apply(model, seen, wanted(1, address=OTHER))
    model.hold(vgpu.device_uuid(OTHER, 472, 0))
    model.writes.clear()
    with pytest.raises(vgpu.InUseError):
        apply(model, seen, wanted(2), wanted(0, address=OTHER))
    assert model.writes == []


def test_the_iommufd_file_counts_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "bus/pci/devices/0000:17:00.4"
    (folder / "vfio-dev" / "vfio7").mkdir(parents=True)
    (folder / "iommu_group").symlink_to("../../../../kernel/iommu_groups/41")
    offer = vgpu.VendorVfio(vgpu.Computer(tmp_path), CARD, ["0000:17:00.4"])
    device = vgpu.Device("0000:17:00.4", "0000:17:00.4", 472)
    holders = [vgpu.Holder(1, "kvm", "", f"/dev/vfio/{name}") for name in ("devices/vfio7", "41", "devices/vfio8", "7")]
    assert [user.file for user in offer.users(device, holders)] == ["/dev/vfio/devices/vfio7", "/dev/vfio/41"]


def test_holders_are_found_in_proc(tmp_path: Path) -> None:
    for pid, file, words in (
        ("20", "/dev/vfio/41", "kvm\0-id\x00100\0-name\0guest=vm1,debug-threads=on\0"),
        ("3", "/dev/vfio/devices/vfio7", "kvm\0-name\0vm2\0"),
        ("4", "/dev/vfio/vfio", "kvm\0-name"),
        ("5", "/dev/null", "sh\0"),
    ):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "fd" / "9").symlink_to(file)
        (tmp_path / pid / "comm").write_text("kvm\n")
        (tmp_path / pid / "cmdline").write_text(words)
    (tmp_path / "6").mkdir()  # it ended meanwhile
    (tmp_path / "self").mkdir()
    assert vgpu.Computer(tmp_path, proc=tmp_path).holders() == [
        vgpu.Holder(3, "kvm", "vm2", "/dev/vfio/devices/vfio7"),
        vgpu.Holder(20, "kvm", "vm1", "/dev/vfio/41"),
    ]


# what cannot be had


@each_interface
def test_unknown_type_names_those_there_are(kind: str, seen: Path) -> None:
    model = computer(kind)
    with pytest.raises(
        vgpu.VgpuError,
        match=r"no type A100-7C; there are: A100-4C \(nvidia-470\), A100-10C \(nvidia-472\), A100-20C",
    ):
        apply(model, seen, wanted(1, "A100-7C"))
    assert model.writes == []


@each_interface
def test_only_so_many_can_be_had(kind: str, seen: Path) -> None:
    model = computer(kind)
    with pytest.raises(vgpu.VgpuError, match="only 4 of 5 devices of type A100-10C can be had"):
        apply(model, seen, wanted(5))
    assert numbers(model) == []


@each_interface
def test_what_was_removed_for_too_many_comes_back(kind: str, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(2))
    devices = {k: v for k, v in model.cards[CARD].devices.items() if v}
    with pytest.raises(vgpu.VgpuError, match="only 2 of 3 devices of type A100-20C can be had"):
        apply(model, seen, wanted(3, "A100-20C"))
    assert {k: v for k, v in model.cards[CARD].devices.items() if v} == devices


def test_max_instance_refuses_before_anything_is_removed(seen: Path) -> None:
    model = computer("mdev")
    apply(model, seen, wanted(2))
    model.writes.clear()
    with pytest.raises(vgpu.VgpuError, match="only 2 of 3 devices of type A100-20C"):
        apply(model, seen, wanted(3, "A100-20C"))
    assert model.writes == []


def test_devices_of_others_are_named_when_they_are_in_the_way(seen: Path) -> None:
    model = computer("mdev")
    model.cards[CARD].devices[CARD] = {FOREIGN: 472}
    with pytest.raises(vgpu.VgpuError, match=rf"only 3 of 4.*{FOREIGN} A100-10C \(not of vgpu-devices\)"):
        apply(model, seen, wanted(4))
    assert model.writes == []


@pytest.mark.parametrize(
    ("kind", "driver", "module", "says"),
    [
        ("mdev", "", True, "no driver has this card"),
        ("mdev", "nouveau", True, "the driver nouveau has this card"),
        ("mdev", "nvidia", False, "its module nvidia_vgpu_vfio is not loaded"),
        ("mdev", "nvidia", True, "offers nothing on it"),
        # A card that is passed through as a whole is not taken away from its virtual machine.
        ("vfio", "vfio-pci", True, "the driver vfio-pci has this card"),
    ],
)
def test_no_host_driver(kind: str, driver: str, module: bool, says: str, seen: Path) -> None:
    model = computer(kind)
    model.cards[CARD].driver, model.cards[CARD].ready, model.vgpu_module = driver, False, module
    with pytest.raises(vgpu.NoDriverError, match=says) as raised:
        apply(model, seen, wanted(1))
    assert raised.value.code == 5
    assert model.made == []


@with_functions
def test_a_driver_that_is_still_starting_is_waited_for(kind: str, seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = computer(kind)
    model.cards[CARD].ready = False
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        model.cards[CARD].ready = len(slept) >= 3

    monkeypatch.setattr(vgpu, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    apply(model, seen, wanted(2))
    assert numbers(model) == [472, 472]
    assert slept == [1, 1, 1]


def test_no_such_card(seen: Path) -> None:
    with pytest.raises(vgpu.VgpuError, match=r"there is no PCI device 0000:ca:00\.0"):
        apply(computer("mdev"), seen, wanted(1, address=OTHER))


def test_sriov_manage_fails_or_makes_nothing(seen: Path) -> None:
    model = computer("vfio")
    model.sriov_breaks = True
    with pytest.raises(vgpu.VgpuError, match="unbindLock"):
        apply(model, seen, wanted(1))
    model = computer("vfio")
    model.functions = 0
    model.read = lambda path: "16" if path.endswith("totalvfs") else None  # type: ignore[method-assign]
    with pytest.raises(vgpu.VgpuError, match="made no virtual functions"):
        apply(model, seen, wanted(1))


# what goes wrong on the way


@each_interface
@pytest.mark.parametrize("at", range(1, 7))
def test_a_failed_step_is_undone(kind: str, at: int, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(4))
    devices = {k: v for k, v in model.cards[CARD].devices.items() if v}
    model.writes.clear()
    model.fail_at = {at: errno.EIO}
    says = "Nothing was changed" if at == 1 else "What was changed before that was undone"
    with pytest.raises(vgpu.VgpuError, match=rf"cannot (make|remove) .*Input/output error\. {says}") as raised:
        apply(model, seen, wanted(2, "A100-20C"))
    assert raised.value.code == 1
    assert {k: v for k, v in model.cards[CARD].devices.items() if v} == devices


def test_what_cannot_be_undone_is_said(seen: Path) -> None:
    model = computer("mdev")
    apply(model, seen, wanted(1))
    model.writes.clear()
    model.fail_at = {2: errno.EIO, 3: errno.ENOSPC}
    with pytest.raises(vgpu.VgpuError, match=r"Not everything could be undone: .* A100-10C: .*No space left"):
        apply(model, seen, wanted(1, "A100-20C"))


@each_interface
@pytest.mark.parametrize("at", range(1, 7))
def test_the_next_run_mends_what_a_killed_one_left(kind: str, at: int, seen: Path) -> None:
    model = computer(kind)
    apply(model, seen, wanted(4))
    model.writes.clear()
    model.fail_at = {at: KilledError}
    with pytest.raises(KilledError):
        apply(model, seen, wanted(2, "A100-20C"))
    model.fail_at = {}
    apply(model, seen, wanted(2, "A100-20C"))
    assert numbers(model) == [474, 474]


def test_a_write_that_does_nothing_is_an_error(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, says in (("mdev", "made no device"), ("vfio", "has the type 0 after 472 was written")):
        model = computer(kind)
        monkeypatch.setattr(model, "write", lambda path, text: None)  # noqa: ARG005
        with pytest.raises(vgpu.VgpuError, match=says):
            apply(model, seen, wanted(1))


# the program


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "devices.json"


def declare(config: Path, *cards: dict[str, Any]) -> None:
    filled = [{"name": "gpu0", "address_kind": "pci_address", "address": CARD, **card} for card in cards]
    config.write_text(json.dumps({"cards": filled}))


def call(model: Model, config: Path, seen: Path, *words: str) -> int:
    code: int = vgpu.main([*words, "--config", str(config), "--types-seen", str(seen)], model)
    return code


def test_check_tells_what_apply_does(config: Path, seen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = computer("mdev")
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 2})
    assert call(model, config, seen, "apply", "--check", "--json") == 0
    checked = json.loads(capsys.readouterr().out)
    assert model.writes == []
    assert not seen.exists()
    assert call(model, config, seen, "apply", "--json") == 0
    applied = json.loads(capsys.readouterr().out)
    assert checked.pop("message") == "2 virtual GPUs to make, 0 to remove"
    assert applied.pop("message") == "2 virtual GPUs made, 0 removed"
    assert checked == applied
    (card,) = applied["cards"]
    assert card["before"] == []
    assert card["after"] == sorted(f"{vgpu.device_uuid(CARD, 472, i)} A100-10C" for i in range(2))


def test_check_of_a_card_without_functions(config: Path, seen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = computer("vfio")
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 2})
    assert call(model, config, seen, "apply", "--check", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["changed"]
    assert answer["cards"][0]["makes_virtual_functions"]
    assert answer["cards"][0]["create"] == ["A100-10C on a virtual function to be made"] * 2
    assert (model.made, model.writes) == ([], [])


def test_assert(config: Path, seen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = computer("vfio")
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 1})
    assert call(model, config, seen, "assert") == 6
    assert "+ the virtual functions of the card" in capsys.readouterr().out
    assert (model.made, model.writes) == ([], [])
    assert call(model, config, seen, "apply") == 0
    assert "+ 0000:17:00.4 A100-10C" in capsys.readouterr().out
    assert call(model, config, seen, "assert") == 0
    assert "= 0000:17:00.4 A100-10C" in capsys.readouterr().out


def test_in_use(config: Path, seen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = computer("vfio")
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 1})
    call(model, config, seen, "apply")
    model.hold("0000:17:00.4")
    declare(config, {"vgpu_type": "A100-20C", "vgpu_count": 1})
    capsys.readouterr()
    for words in (("apply",), ("apply", "--check"), ("assert",)):
        assert call(model, config, seen, *words, "--json") == 3
        answer = json.loads(capsys.readouterr().out)
        assert answer["failed"]
        assert answer["processes"] == [
            {"card": "gpu0", "device": "0000:17:00.4", "pid": 4711, "program": "qemu-system-x86", "machine": "vm1"}
        ]
    assert call(model, config, seen, "show") == 0
    assert "device 0000:17:00.4 A100-10C, in use by process 4711" in capsys.readouterr().out


def test_show_needs_no_file(config: Path, seen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = computer("mdev", **{"0000_ca_00p0": PhysicalCard("vfio")})
    assert call(model, config, seen, "show") == 0
    text = capsys.readouterr().out
    assert f"{CARD}: mediated devices\n  type A100-4C (nvidia-470), room for 10 at most" in text
    assert f"{OTHER}: its virtual functions are not made yet" in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is no JSON"),
        ("[]", "does not hold"),
        ('{"cards": [1]}', "does not hold"),
        ({"address_kind": "uuid", "address": "GPU-1"}, "gpu0: addressed by uuid, which sysfs does not know"),
        ({"address_kind": "index", "address": "0"}, "give pci_address"),
        ({"address": "17:00.0"}, "'17:00.0' is no PCI address"),
        ({"address": "../../0000:17:00.0"}, "is no PCI address"),
        ({"vgpu_type": ""}, "vgpu_type is missing"),
        ({"vgpu_count": "4"}, "vgpu_count is '4'"),
        ({"vgpu_count": 65}, "vgpu_count is 65"),
        ({"vgpu_count": True}, "vgpu_count is True"),
    ],
)
def test_wrong_file(
    content: str | dict[str, Any], says: str, config: Path, seen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(content, str):
        config.write_text(content)
    else:
        declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 1, **content})
    model = computer("mdev")
    assert call(model, config, seen, "apply") == 2
    assert says in capsys.readouterr().err
    assert model.writes == []


def test_missing_file_and_card_twice(config: Path, seen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(computer("mdev"), config, seen, "apply") == 2
    assert "No such file" in capsys.readouterr().err
    declare(config, *[{"vgpu_type": "A100-10C", "vgpu_count": 1}] * 2)
    assert call(computer("mdev"), config, seen, "assert") == 2
    assert f"{CARD} is declared twice" in capsys.readouterr().err


# on a folder, as a program of its own


def fake_vfio(sysfs: Path, functions: int = 2) -> list[Path]:
    """Make the files of a card with virtual functions; plain ones, so that what is written is read back."""
    card = sysfs / "bus/pci/devices" / CARD
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030200\n")
    (card / "driver").symlink_to("../../../../bus/pci/drivers/nvidia")
    made = []
    for i in range(functions):
        folder = card.parent / f"0000:17:00.{4 + i}"
        (folder / "nvidia").mkdir(parents=True)
        (folder / "physfn").symlink_to(f"../{CARD}")
        (folder / "nvidia/creatable_vgpu_types").write_text("ID    : vGPU Name\n472   : NVIDIA A100-10C\n")
        (folder / "nvidia/current_vgpu_type").write_text("0\n")
        (card / f"virtfn{i}").symlink_to(f"../0000:17:00.{4 + i}")
        made.append(folder / "nvidia/current_vgpu_type")
    return made


def fake_mdev(sysfs: Path) -> None:
    card = sysfs / "bus/pci/devices" / CARD
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030200\n")
    kind = sysfs / "class/mdev_bus" / CARD / "mdev_supported_types/nvidia-472"
    (kind / "devices" / vgpu.device_uuid(CARD, 472, 0)).mkdir(parents=True)
    (kind / "name").write_text("GRID A100-10C\n")
    (kind / "available_instances").write_text("3\n")
    (kind / "description").write_text("framebuffer=10240M, max_instance=4\n")


def program(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    files = ["--config", str(tmp_path / "devices.json"), "--types-seen", str(tmp_path / "state/types.json")]
    command = [sys.executable, str(PROGRAM), *words, "--sysfs", str(tmp_path / "sys"), *files]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_program_on_virtual_functions(tmp_path: Path, config: Path) -> None:
    files = fake_vfio(tmp_path / "sys")
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 1})
    done = program(tmp_path, "apply", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [file.read_text().strip() for file in files] == ["472", "0"]
    moments = [file.stat().st_mtime_ns for file in files]
    done = program(tmp_path, "apply", "--json")
    assert json.loads(done.stdout)["changed"] is False
    assert [file.stat().st_mtime_ns for file in files] == moments
    assert program(tmp_path, "assert").returncode == 0
    done = program(tmp_path, "show", "--json")
    (card,) = json.loads(done.stdout)["cards"]
    assert card["interface"] == "vfio"
    assert card["devices"] == [{"device": "0000:17:00.4 A100-10C", "users": []}]


def test_program_reads_mediated_devices(tmp_path: Path, config: Path) -> None:
    fake_mdev(tmp_path / "sys")
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 1})
    assert program(tmp_path, "assert").returncode == 0
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 2})
    done = program(tmp_path, "assert", "--json")
    assert done.returncode == 6
    assert json.loads(done.stdout)["cards"][0]["create"] == [f"{vgpu.device_uuid(CARD, 472, 1)} A100-10C"]
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 5})
    assert "only 4 of 5" in program(tmp_path, "assert").stderr


def test_program_without_a_driver_and_with_wrong_words(tmp_path: Path, config: Path) -> None:
    (tmp_path / "sys/bus/pci/devices" / CARD / "power").mkdir(parents=True)
    declare(config, {"vgpu_type": "A100-10C", "vgpu_count": 1})
    done = program(tmp_path, "apply")
    assert done.returncode == 5
    assert "NVIDIA's vGPU host driver" in done.stderr
    assert program(tmp_path, "destroy").returncode == 2
    told = program(tmp_path, "apply", "--help").stdout
    assert all(f"  {code}  " in told for code in range(7) if code != 4)


def test_writing_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        vgpu.Computer(tmp_path).write("create", "1")
    assert list(tmp_path.iterdir()) == []


# the driver's program


def sriov(tmp_path: Path, script: str) -> Any:
    path = tmp_path / "sriov-manage"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return vgpu.Computer(tmp_path, sriov_manage=path)


def test_sriov_manage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(vgpu, "time", SimpleNamespace(sleep=slept.append))
    log = tmp_path / "log"
    sriov(tmp_path, f'echo "$@" >>{log}').make_functions(CARD)
    assert log.read_text() == f"-e {CARD}\n"
    # Refused for a moment while something looks at the card.
    sriov(
        tmp_path, f'echo "$@" >>{log}; [ $(wc -l <{log}) -ge 3 ] || {{ echo Cannot obtain unbindLock; exit 1; }}'
    ).make_functions(CARD)
    assert slept == [1]
    with pytest.raises(vgpu.VgpuError, match="ended with status 1: Cannot obtain unbindLock"):
        sriov(tmp_path, "echo Cannot obtain unbindLock; exit 1").make_functions(CARD)
    assert slept == [1] * 5
    with pytest.raises(vgpu.VgpuError, match="ended with status 3: no"):
        sriov(tmp_path, "echo no >&2; exit 3").make_functions(CARD)
    assert slept == [1] * 5
    with pytest.raises(vgpu.NoDriverError, match="is missing"):
        vgpu.Computer(tmp_path, sriov_manage=tmp_path / "none").make_functions(CARD)
