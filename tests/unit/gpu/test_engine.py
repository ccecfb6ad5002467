"""What gpu-partition does to cards, on the simulated driver."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.gpu_partition.engine import Computer, Engine
from module_utils.gpu_partition.layout import Memory, read_layout
from module_utils.gpu_partition.models import find_model
from module_utils.gpu_partition.nvml import Nvml
from module_utils.gpu_partition.placement import place
from tests.unit.gpu.simulation import Machine, mig, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CREMMA = {"2g.10gb": 1, "1g.5gb": 5}
CREMMA_SLICES = [("2g.10gb", 0), *(("1g.5gb", start) for start in (2, 3, 4, 5, 6))]
IN_USE = 19
UNKNOWN = 999


def planned(model: str, slices: Mapping[str, int]) -> list[tuple[str, int]]:
    """Where the slices of an empty card come to lie."""
    return [(found.profile, found.start) for found in place(find_model(model), slices)]


def kinds(machine: Machine, index: int = 0) -> Counter[str]:
    return Counter(profile for profile, _ in machine.slices(index))


def snapshot(machine: Machine, index: int = 0) -> list[tuple[str, int, tuple[int, ...]]]:
    """A card's instances without identifiers, which change whenever one is made anew."""
    return [(found.profile, found.start, found.parts) for found in machine.instances(index)]


# Fresh, again, changed


@pytest.mark.parametrize(
    ("model", "slices"),
    [
        ("A100-40GB", CREMMA),
        ("A100-80GB", {"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 1, "1g.10gb+me": 1}),
        ("A30-24GB", {"2g.12gb": 1, "1g.6gb": 2}),
        ("H100-80GB", {"4g.40gb": 1, "1g.20gb": 1, "1g.10gb": 2}),
        ("RTX-PRO-6000-96GB", {"2g.48gb": 1, "1g.24gb": 2}),
    ],
)
def test_a_fresh_card_is_cut_as_planned(machine: Machine, model: str, slices: dict[str, int]) -> None:
    machine.create(model)
    machine.declare(mig(slices, model=model, name="card"))
    answer = machine.apply()
    assert machine.mode() == (True, True)
    assert machine.slices() == planned(model, slices)
    names = [f"card-{profile.replace('+', '.')}-{start}" for profile, start in planned(model, slices)]
    (card,) = answer["cards"]
    assert card["before"] == []
    assert card["after"] == card["create"] == names
    assert card["mode"] == {"before": "off", "after": "on"}
    assert [worker["name"] for worker in answer["workers"]] == names
    assert answer["changed"]
    assert not answer["reboot_needed"]


def test_two_a100_of_cremma_and_one_whole_card(machine: Machine) -> None:
    machine.create("A100-40GB@0000:17:00.0", "A100-40GB@0000:65:00.0", "RTX-6000-24GB@0000:ca:00.0")
    addresses = ("0000:17:00.0", "65:00.0", "00000000:CA:00.0")
    first, second, third = ({"pci_address": address} for address in addresses)
    cards: list[dict[str, Any]] = [
        {"model": "A100-40GB", "backend": "mig", "slices": CREMMA, **first},
        {"model": "A100-40GB", "backend": "mig", "slices": CREMMA, **second},
        {"model": "RTX-6000-24GB", "backend": "none", **third},
    ]
    machine.declare(*cards)
    workers = machine.apply()["workers"]
    assert len([worker for worker in workers if worker["profile"]]) == 12
    assert [worker["name"] for worker in workers if not worker["profile"]] == ["gpu2-0"]
    assert machine.slices(0) == machine.slices(1) == CREMMA_SLICES
    assert machine.mode(2) == (None, None)


def test_a_right_card_gets_no_writing_call(machine: Machine) -> None:
    machine.create("A100-40GB", "RTX-6000-24GB")
    machine.declare(mig(CREMMA), whole(index=1))
    first = machine.apply()
    machine.forget_calls()
    again = machine.apply()
    assert machine.calls == []
    assert not again["changed"]
    assert again["message"] == "all cards are right"
    assert again["workers"] == first["workers"]
    assert machine.unit_calls == []


def test_only_the_slices_that_differ_are_changed(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    before = {found.start: found for found in machine.instances()}
    uuids = {start: device.uuid for start, device in machine.devices().items()}
    machine.forget_calls()
    machine.declare(mig(CREMMA))
    answer = machine.apply()
    after = {found.start: found for found in machine.instances()}
    # A 2g.10gb takes two places: two slices go, five stay as they are, in number and in name.
    (card,) = answer["cards"]
    assert len(card["destroy"]) == 2
    assert len(card["create"]) == 1
    kept = {start for start, found in after.items() if found.profile == "1g.5gb"}
    assert len(kept) == 5
    assert all(after[start].id == before[start].id for start in kept)
    assert {start: device.uuid for start, device in machine.devices().items() if start in kept} == {
        start: uuid for start, uuid in uuids.items() if start in kept
    }
    assert len(machine.calls) == 6


def test_changing_one_card_leaves_the_other_alone(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB")
    machine.declare(mig(CREMMA), mig(CREMMA, index=1))
    machine.apply()
    other = machine.uuid(1)
    before = machine.instances(1)
    machine.hold(machine.devices(1)[0].uuid)
    for unit in ("worker@gpu0-2g.10gb-0.service", "worker@gpu1-2g.10gb-0.service"):
        machine.unit(unit)
    machine.forget_calls()
    machine.declare(mig({"3g.20gb": 2}), mig(CREMMA, index=1))
    answer = machine.apply()
    assert [card["changed"] for card in answer["cards"]] == [True, False]
    assert machine.instances(1) == before
    assert machine.calls
    assert not any(other in call for call in machine.calls)
    assert machine.unit_state("worker@gpu0-2g.10gb-0.service") == "inactive"
    assert machine.unit_state("worker@gpu1-2g.10gb-0.service") == "active"
    assert machine.unit_calls == ["stop --no-block worker@gpu0-2g.10gb-0.service"]


def test_a_card_cut_by_hand_at_other_places_is_right(machine: Machine) -> None:
    machine.create("A100-40GB")
    # The places of the guide's own example.
    machine.cut(("2g.10gb", 4, 2), *(("1g.5gb", start, 1) for start in (0, 1, 2, 3, 6)))
    machine.forget_calls()
    machine.declare(mig(CREMMA))
    answer = machine.apply()
    assert machine.calls == []
    assert answer["workers"][-2]["name"] == "gpu0-2g.10gb-4"
    # After a reboot they come back where they were, not where the planner would have put them.
    by_place = {start: device.uuid for start, device in machine.devices().items()}
    machine.reboot()
    assert machine.apply()["changed"]
    assert {start: device.uuid for start, device in machine.devices().items()} == by_place


def test_a_card_that_is_to_be_whole_again(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig(CREMMA))
    machine.apply()
    machine.declare(whole("A100-40GB", workers=2))
    answer = machine.apply()
    assert machine.mode() == (False, False)
    assert answer["cards"][0]["mode"] == {"before": "on", "after": "off"}
    assert len(answer["cards"][0]["destroy"]) == 6
    assert [worker["name"] for worker in answer["workers"]] == ["gpu0-0", "gpu0-1"]
    machine.forget_calls()
    assert not machine.apply()["changed"]
    assert machine.calls == []


def test_instances_that_nobody_declared_are_replaced(machine: Machine) -> None:
    machine.create("A100-40GB")
    # A GPU instance shared by two compute instances, one without any, and a slice at a place that is wanted.
    machine.cut(("3g.20gb", 4, 1), ("1g.5gb", 0, 0), ("1g.5gb", 1, 1))
    machine.declare(mig({"3g.20gb": 1, "1g.5gb": 2}))
    (kept,) = [found.id for found in machine.instances() if found.start == 1]
    answer = machine.apply()
    # The one that shares is made anew; the one that lacks its compute instance only gets it.
    assert answer["cards"][0]["destroy"] == ["gpu0-3g.20gb-4"]
    assert kinds(machine) == {"3g.20gb": 1, "1g.5gb": 2}
    assert [found.id for found in machine.instances() if found.start == 1] == [kept]
    assert not machine.apply()["changed"]


def test_an_instance_too_many_goes_also_where_it_is_no_slice(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.cut(("1g.5gb", 0, 1), ("1g.5gb", 1, 1), ("2g.10gb", 4, 0))
    kept = machine.instances()[:2]
    machine.declare(mig({"1g.5gb": 2}))
    answer = machine.apply()
    assert answer["cards"][0]["destroy"] == ["gpu0-2g.10gb-4"]
    assert machine.instances() == kept


def test_a_mode_that_would_change_at_the_next_boot_is_set_right(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig(CREMMA))
    machine.apply()
    machine.edit("mode 1 pending 1", "mode 1 pending 0")
    machine.forget_calls()
    before = machine.instances()
    machine.apply()
    assert machine.mode() == (True, True)
    assert machine.instances() == before
    assert len(machine.calls) == 1


# In use


def two_busy_workers(machine: Machine, *, stubborn: bool) -> int:
    """Cut a card, put it to use, and ask for another layout; return the process on it."""
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    holder = machine.hold(machine.devices()[0].uuid, memory_mib=3000)
    machine.unit("worker@gpu0-1g.5gb-0.service", stubborn=stubborn, pid=holder.pid)
    machine.unit("worker@gpu0-1g.5gb-1.service")
    machine.unit("worker@gpu0-1g.5gb-6.service")
    machine.declare(mig(CREMMA))
    machine.forget_calls()
    return holder.pid


def test_a_worker_ends_its_job_and_makes_room(machine: Machine) -> None:
    two_busy_workers(machine, stubborn=False)
    answer = machine.apply()
    assert kinds(machine) == CREMMA
    assert answer["stopped_units"] == ["worker@gpu0-1g.5gb-0.service", "worker@gpu0-1g.5gb-1.service"]
    # Those two have no slice any more and stay stopped; the third one was never touched.
    assert machine.unit_calls == ["stop --no-block worker@gpu0-1g.5gb-0.service worker@gpu0-1g.5gb-1.service"]


def test_a_job_that_does_not_end_keeps_its_slice(machine: Machine) -> None:
    pid = two_busy_workers(machine, stubborn=True)
    before = machine.instances()
    answer = machine.apply(code=3)
    assert machine.instances() == before
    assert machine.calls == []
    assert answer["failed"]
    assert not answer["changed"]
    assert answer["processes"] == [
        {"card": "gpu0", "slice": "gpu0-1g.5gb-0", "pid": pid, "program": "sleep", "memory_mib": 3000}
    ]
    assert f"process {pid} (sleep) on gpu0-1g.5gb-0" in answer["message"]
    assert "worker@gpu0-1g.5gb-0.service has not ended" in answer["message"]
    assert answer["cards"][0]["after"] == answer["cards"][0]["before"]
    assert len(answer["workers"]) == 7
    # Both were told to stop, so both are told to start.
    assert machine.unit_calls[1] == "start --no-block worker@gpu0-1g.5gb-0.service worker@gpu0-1g.5gb-1.service"
    assert machine.unit_state("worker@gpu0-1g.5gb-1.service") == "active"


def test_a_worker_that_still_ends_is_waited_for_also_where_nothing_is_on_its_slice(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    machine.unit("worker@gpu0-1g.5gb-0.service", stubborn=True)
    # Somebody else has stopped this one: it is waited for, and not started again.
    machine.unit("worker@gpu0-1g.5gb-1.service", state="deactivating")
    machine.declare(mig(CREMMA))
    machine.forget_calls()
    answer = machine.apply(code=3)
    assert answer["processes"] == []
    for start in (0, 1):
        assert f"worker@gpu0-1g.5gb-{start}.service has not ended" in answer["message"]
    assert machine.calls == []
    assert machine.unit_calls[1] == "start --no-block worker@gpu0-1g.5gb-0.service"


def test_a_slice_that_becomes_free_in_time_is_changed(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    holder = machine.hold(machine.devices()[1].uuid)
    machine.declare(mig(CREMMA), drain_timeout_s=20)
    timer = threading.Timer(0.4, holder.kill)
    process = machine.start_program("apply", *machine.files)
    timer.start()
    with process:
        out, error = process.communicate(timeout=60)
    timer.join()
    assert process.returncode == 0, out + error
    assert kinds(machine) == CREMMA


def test_other_peoples_processes_on_slices_that_stay_do_not_matter(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    machine.hold(machine.devices()[6].uuid)
    machine.declare(mig(CREMMA))
    assert machine.apply()["changed"]


@pytest.mark.parametrize("model", ["A100-40GB", "H100-80GB"])
def test_a_whole_card_in_use_is_not_cut(machine: Machine, model: str) -> None:
    machine.create(model)
    holder = machine.hold(machine.uuid())
    slices = {"3g.20gb": 1} if model == "A100-40GB" else {"3g.40gb": 1}
    machine.declare(mig(slices, model=model))
    answer = machine.apply(code=3)
    assert f"process {holder.pid} (sleep) on gpu0" in answer["message"]
    assert machine.calls == []
    machine.end_holders()
    assert machine.apply()["changed"]


def test_units_of_a_whole_card_end_before_it_is_cut(machine: Machine) -> None:
    machine.create("A100-40GB", "RTX-6000-24GB")
    holder = machine.hold(machine.uuid())
    machine.unit("worker@gpu0-0.service", pid=holder.pid)
    machine.unit("mps@gpu0.service")
    machine.unit("worker@gpu1-0.service")
    # A card whose name begins like the other one's.
    machine.unit("worker@gpu0-b-0.service")
    machine.declare(mig(CREMMA), whole(index=1, name="gpu0-b"))
    answer = machine.apply()
    assert answer["stopped_units"] == ["mps@gpu0.service", "worker@gpu0-0.service"]
    assert machine.unit_state("worker@gpu0-b-0.service") == "active"
    assert machine.unit_calls == ["stop --no-block mps@gpu0.service worker@gpu0-0.service"]


def test_a_process_that_comes_in_between_undoes_the_change(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    before = snapshot(machine)
    # The library finds the slice in use at the moment of the call, as if a process had just begun.
    machine.append(f"fail nvmlComputeInstanceDestroy 2 {IN_USE} 0")
    machine.declare(mig(CREMMA))
    answer = machine.apply(code=1)
    assert "In use by another client" in answer["message"]
    assert snapshot(machine) == before


# What blocks a reset


def test_clients_of_the_driver_are_stopped_and_started_again(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB")
    holder = machine.hold("driver")
    machine.unit("persistenced.service", pid=holder.pid)
    machine.unit("dcgm.service", state="inactive")
    machine.declare(mig(CREMMA), mig(CREMMA, index=1))
    machine.apply()
    assert kinds(machine) == CREMMA
    # Once for both cards, and only what ran.
    assert machine.unit_calls == ["stop persistenced.service", "start --no-block persistenced.service"]


def test_clients_are_started_again_after_a_failure(machine: Machine) -> None:
    machine.create("A100-40GB")
    holder = machine.hold("driver")
    machine.unit("persistenced.service", pid=holder.pid)
    machine.append(f"fail nvmlDeviceCreateGpuInstanceWithPlacement 2 {UNKNOWN} 0")
    machine.declare(mig(CREMMA))
    machine.apply(code=1)
    assert machine.unit_state("persistenced.service") == "active"


def test_no_client_is_stopped_where_no_card_is_reset(machine: Machine) -> None:
    machine.create("H100-80GB")
    machine.unit("persistenced.service")
    machine.declare(mig({"3g.40gb": 2}, model="H100-80GB"))
    machine.apply()
    machine.declare(mig({"7g.80gb": 1}, model="H100-80GB"))
    machine.apply()
    assert machine.unit_calls == []


def test_nvidia_drm_is_removed(machine: Machine) -> None:
    machine.create("A100-40GB", modules="nvidia_drm")
    machine.declare(mig(CREMMA))
    answer = machine.apply()
    assert machine.mode() == (True, True)
    assert not answer["reboot_needed"]
    assert "module" not in machine.state.read_text()


def test_an_unknown_client_means_a_reboot(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.simulate("card", "0", "persistence", "on")
    machine.hold("driver")
    machine.declare(mig(CREMMA))
    answer = machine.apply(code=4)
    assert answer["reboot_needed"]
    assert "failed" not in answer
    assert "another program or module holds it open, and persistence mode is on" in answer["message"]
    assert answer["cards"][0]["mode"] == {"before": "off", "after": "off"}
    assert answer["workers"] == []
    assert machine.mode() == (False, True)


def test_a_passed_through_card_is_finished_after_the_reboot(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB")
    for card in ("0", "1"):
        machine.simulate("card", card, "passthrough", "on")
    machine.declare(mig(CREMMA), mig(CREMMA, index=1))
    answer = machine.apply(code=4)
    assert answer["changed"]
    assert "passed through" in answer["message"]
    # Both wait for the same reboot.
    assert machine.mode(0) == machine.mode(1) == (False, True)
    again = machine.apply(code=4)
    assert not again["changed"]
    names = [[f"gpu{index}-{profile}-{start}" for profile, start in CREMMA_SLICES] for index in range(2)]
    assert [card["after"] for card in machine.gpu_partition("assert", "--json").json["cards"]] == names
    machine.reboot()
    after = machine.apply()
    assert [card["after"] for card in after["cards"]] == names
    assert machine.slices(0) == machine.slices(1) == CREMMA_SLICES


# Reboot


@pytest.mark.parametrize(
    ("model", "slices", "kept"),
    [("A100-40GB", CREMMA, True), ("A30-24GB", {"1g.6gb": 4}, True), ("H100-80GB", {"2g.20gb": 3}, False)],
)
def test_after_a_reboot_the_same_slices_come_back(
    machine: Machine, model: str, slices: dict[str, int], *, kept: bool
) -> None:
    machine.create(model)
    # A layout that has grown lies elsewhere than a new one: that is what has to come back.
    small = find_model(model).profiles[list(slices)[-1]].name
    machine.declare(mig({small: find_model(model).profiles[small].limit - 1}, model=model))
    machine.apply()
    machine.declare(mig(slices, model=model))
    machine.apply()
    devices = {start: device.uuid for start, device in machine.devices().items()}
    places = machine.slices()
    machine.reboot()
    assert machine.mode() == (kept, kept)
    assert machine.instances() == ()
    assert machine.gpu_partition("assert").code == 6
    answer = machine.apply()
    assert machine.slices() == places
    assert {start: device.uuid for start, device in machine.devices().items()} == devices
    assert answer["cards"][0]["mode"]["before"] == ("on" if kept else "off")


# Failing steps


def changes_of(machine: Machine, after: Mapping[str, int], *, model: str) -> list[str]:
    """Apply a layout and return the names of the writing calls that took."""
    machine.forget_calls()
    machine.declare(mig(after, model=model))
    machine.apply()
    return [call.split(" ")[0] for call in machine.calls]


class Saved:
    """The state of a computer, to begin from again."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._folder = machine.folder / "saved"
        self._folder.mkdir()
        for name in self._names:
            if (machine.folder / name).exists():
                shutil.copytree(machine.folder / name, self._folder / name)

    _names = ("driver", "var", "run", "units")

    def restore(self) -> None:
        for name in self._names:
            shutil.rmtree(self._machine.folder / name, ignore_errors=True)
            if (self._folder / name).exists():
                shutil.copytree(self._folder / name, self._machine.folder / name)
        self._machine.forget_calls()


def test_each_failing_step_gives_the_former_layout_back(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig(CREMMA))
    machine.apply()
    machine.unit("worker@gpu0-1g.5gb-2.service")
    former = snapshot(machine)
    devices = {start: device.uuid for start, device in machine.devices().items()}
    saved = Saved(machine)
    calls = Counter(changes_of(machine, {"3g.20gb": 1, "1g.5gb": 3}, model="A100-40GB"))
    assert set(calls) == {
        "nvmlComputeInstanceDestroy",
        "nvmlGpuInstanceDestroy",
        "nvmlDeviceCreateGpuInstanceWithPlacement",
        "nvmlGpuInstanceCreateComputeInstance",
    }
    for function, times in calls.items():
        for number in range(1, times + 1):
            saved.restore()
            machine.append(f"fail {function} {number} {UNKNOWN} 0")
            answer = machine.apply(code=1)
            assert snapshot(machine) == former, f"{function} {number}"
            assert {start: device.uuid for start, device in machine.devices().items()} == devices
            assert f"{function.removesuffix('_v2')}: Unknown Error" in answer["message"]
            assert "the card has its former layout again" in answer["message"]
            assert answer["failed"]
            assert not answer["changed"]
            assert answer["cards"][0]["after"] == answer["cards"][0]["before"]
            assert machine.unit_state("worker@gpu0-1g.5gb-2.service") == "active"


@pytest.mark.parametrize("model", ["A100-40GB", "H100-80GB"])
def test_a_failure_after_the_mode_was_switched_switches_it_back(machine: Machine, model: str) -> None:
    machine.create(model)
    machine.unit("worker@gpu0-0.service")
    machine.declare(mig({"7g.40gb" if model == "A100-40GB" else "7g.80gb": 1}, model=model))
    for function in ("nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstance"):
        machine.append(f"fail {function} 1 {UNKNOWN} 0")
        machine.apply(code=1)
        assert machine.mode() == (False, False)
        assert machine.instances() == ()
        # It was stopped for this, and the card is what it works on again.
        assert machine.unit_state("worker@gpu0-0.service") == "active"
    assert machine.apply()["changed"]


def test_a_mode_that_cannot_be_set_changes_nothing(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig(CREMMA))
    machine.append(f"fail nvmlDeviceSetMigMode 0 {UNKNOWN} 0")
    answer = machine.apply(code=1)
    assert "nvmlDeviceSetMigMode: Unknown Error" in answer["message"]
    assert machine.mode() == (False, False)


def test_a_failing_undoing_says_so_and_the_next_apply_mends_it(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    machine.declare(mig(CREMMA))
    machine.append(f"fail nvmlDeviceCreateGpuInstanceWithPlacement 0 {UNKNOWN} 0")
    answer = machine.apply(code=1)
    assert "could not be restored" in answer["message"]
    assert len(answer["cards"][0]["after"]) == len(machine.slices()) == 5
    machine.simulate("fail")
    machine.apply()
    assert kinds(machine) == CREMMA


def test_a_failure_on_the_second_card_keeps_the_first_one(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB")
    machine.declare(mig(CREMMA), mig(CREMMA, index=1))
    machine.append(f"fail nvmlDeviceCreateGpuInstanceWithPlacement 8 {UNKNOWN} 0")
    answer = machine.apply(code=1)
    assert [card["changed"] for card in answer["cards"]] == [True, False]
    assert answer["changed"]
    assert machine.slices(0) == CREMMA_SLICES
    assert machine.mode(1) == (False, False)
    assert len(answer["workers"]) == 6
    assert machine.apply()["changed"]
    assert machine.slices(1) == CREMMA_SLICES


def test_the_driver_may_call_a_slice_busy_that_only_its_clients_hold(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    machine.unit("dcgm.service")
    machine.declare(mig(CREMMA))
    machine.append(f"fail nvmlComputeInstanceDestroy 1 {IN_USE} 0")
    machine.apply()
    assert kinds(machine) == CREMMA
    assert machine.unit_calls == ["stop dcgm.service", "start --no-block dcgm.service"]


# Killed


KILLED = -9
FROM_NOTHING = {
    "A100-40GB": CREMMA,
    "A30-24GB": {"2g.12gb": 1, "1g.6gb": 2},
    "H100-80GB": {"3g.40gb": 1, "1g.10gb": 3},
}
TO_ANOTHER = {
    "A100-40GB": {"3g.20gb": 1, "1g.5gb": 3},
    "A30-24GB": {"1g.6gb": 4},
    "H100-80GB": {"2g.20gb": 2, "1g.10gb": 3},
}


def killed_everywhere(machine: Machine, model: str, after: Mapping[str, int], units: Sequence[str]) -> None:
    """Kill an ``apply`` around each of its writing calls; the next one has to end in the wanted layout."""
    saved = Saved(machine)
    steps = len(changes_of(machine, after, model=model))
    assert steps >= 6
    for step in range(1, steps + 1):
        for moment in ("before", "after"):
            saved.restore()
            at = f"{step}:{moment}"
            assert machine.gpu_partition("apply", SIMULATED_GPU_KILL_AT=at).code == KILLED, at
            machine.apply()
            assert kinds(machine) == after, at
            assert len(machine.instances()) == sum(after.values()), at
            assert all(machine.unit_state(unit) == "active" for unit in units), at
            assert not (machine.folder / "run" / "stopped.json").exists(), at


@pytest.mark.parametrize("model", FROM_NOTHING)
def test_killed_at_any_step_of_a_first_cut(machine: Machine, model: str) -> None:
    machine.create(model)
    machine.unit("persistenced.service")
    machine.declare(mig(FROM_NOTHING[model], model=model))
    killed_everywhere(machine, model, FROM_NOTHING[model], ["persistenced.service"])


@pytest.mark.parametrize("model", TO_ANOTHER)
def test_killed_at_any_step_of_another_layout(machine: Machine, model: str) -> None:
    machine.create(model)
    machine.declare(mig(FROM_NOTHING[model], model=model))
    machine.apply()
    killed_everywhere(machine, model, TO_ANOTHER[model], [])


def test_units_that_a_killed_apply_had_stopped_are_started(machine: Machine) -> None:
    machine.create("A100-40GB")
    # Two halves of one GPU instance, where one slice is wanted: it is destroyed and comes back under the same name.
    machine.cut(("3g.20gb", 0, 1))
    machine.unit("worker@gpu0-3g.20gb-0.service")
    machine.declare(mig({"3g.20gb": 1}))
    assert machine.gpu_partition("apply", SIMULATED_GPU_KILL_AT="2:after").code == KILLED
    assert machine.unit_state("worker@gpu0-3g.20gb-0.service") == "inactive"
    machine.apply()
    assert machine.unit_state("worker@gpu0-3g.20gb-0.service") == "active"


def test_a_signal_undoes_what_was_begun(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    machine.hold(machine.devices()[0].uuid)
    machine.unit("worker@gpu0-1g.5gb-1.service")
    machine.declare(mig(CREMMA), drain_timeout_s=30)
    with machine.start_program("apply", "--json", *machine.files) as process:
        while machine.unit_state("worker@gpu0-1g.5gb-1.service") == "active":
            assert process.poll() is None
        process.terminate()
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert json.loads(out)["message"] == "interrupted"
    assert machine.unit_state("worker@gpu0-1g.5gb-1.service") == "active"
    assert kinds(machine) == {"1g.5gb": 7}


class Interrupted(Nvml):
    """A driver during whose second compute instance somebody presses Ctrl-C."""

    made = 0

    def create_part(self, uuid: str, instance: int, slices: int) -> None:
        self.made += 1
        if self.made == 2:
            raise KeyboardInterrupt
        super().create_part(uuid, instance, slices)


def test_an_interruption_in_the_middle_undoes_what_was_begun(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"3g.20gb": 1, "1g.5gb": 3}))
    machine.apply()
    former = snapshot(machine)
    machine.declare(mig(CREMMA))

    def work() -> int:
        layout = read_layout(machine.folder / "layout.json")
        with Interrupted() as driver:
            result = Engine(layout, driver, Computer(), Memory(machine.folder / "var", machine.folder / "run")).apply()
        print(result.message)
        return result.code

    done = machine._fork(work, {})
    assert (done.code, done.out) == (1, "gpu0 (0): interrupted; the card has its former layout again\n")
    assert snapshot(machine) == former


# Wrong cards


def refused(machine: Machine, *cards: Mapping[str, Any]) -> str:
    """Apply, see that it ends with an error before any card is changed, and return the message."""
    machine.declare(*cards)
    answer = machine.apply(code=1)
    assert answer["failed"]
    assert machine.calls == []
    return str(answer["message"])


def test_another_model_than_declared(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-80GB")
    message = refused(machine, mig(CREMMA), mig(CREMMA, index=1))
    assert message == (
        "gpu1 (1) is declared as A100-40GB and is a card 'NVIDIA A100 80GB PCIe' with 81920 MiB, model A100-80GB: "
        "correct the model or the address"
    )


def test_a_product_name_that_the_table_lacks(machine: Machine) -> None:
    machine.create("A100-40GB", name="NVIDIA A100-SXM4-40GB-LC")
    message = refused(machine, mig(CREMMA))
    assert message.endswith("or add product: 'NVIDIA A100-SXM4-40GB-LC' where this is another name of A100-40GB")
    machine.declare(mig(CREMMA, product="A100-SXM4-40GB-LC"))
    assert not machine.apply().get("failed")
    assert machine.slices() == planned("A100-40GB", CREMMA)


def test_a_card_that_is_not_there(machine: Machine) -> None:
    machine.create("A100-40GB@0000:17:00.0")
    card = {"model": "A100-40GB", "pci_address": "0000:65:00.0", "backend": "mig", "slices": CREMMA}
    message = refused(machine, mig(CREMMA, name="here"), card)
    assert message == (
        "gpu1: there is no card at pci_address 0000:65:00.0; there are: 0000:17:00.0 (NVIDIA A100-SXM4-40GB)"
    )


def test_one_card_declared_twice(machine: Machine) -> None:
    machine.create("A100-40GB")
    twice = {"model": "A100-40GB", "uuid": machine.uuid(), "backend": "none"}
    assert refused(machine, mig(CREMMA), twice) == "gpu0 and gpu1 are the same card, 0000:17:00.0: correct an address"


def test_a_card_that_does_not_answer(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB")
    machine.append("fail nvmlDeviceGetUUID 2 15 0")
    assert refused(machine, mig(CREMMA), mig(CREMMA, index=1)) == (
        "gpu1 (1) does not answer: nvmlDeviceGetUUID: GPU is lost"
    )


def test_a_lost_card_that_nobody_declared_is_no_obstacle(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB")
    machine.append("fail nvmlDeviceGetUUID 2 15 0")
    machine.declare(mig(CREMMA))
    assert machine.apply()["changed"]


def unlike_its_name(machine: Machine, driver: str) -> dict[str, Any]:
    """Make a card with the name and about the memory of an H100 NVL, and other profiles."""
    machine.create("RTX-PRO-6000-96GB", driver=driver, name="NVIDIA H100 NVL")
    return mig({"1g.12gb": 2}, model="H100-94GB")


def test_a_profile_that_the_driver_does_not_offer(machine: Machine) -> None:
    # Drivers from 550 on tell their profiles before MIG mode is on, so it stays off.
    message = refused(machine, unlike_its_name(machine, "550.163.01"))
    assert message == "gpu0 (0): the driver does not offer 1g.12gb on this card"


def test_a_profile_that_turns_out_to_be_missing(machine: Machine) -> None:
    machine.declare(unlike_its_name(machine, "535.309.01"))
    answer = machine.apply(code=1)
    assert "the card has no profile 1g.12gb; the card has its former layout again" in answer["message"]
    assert machine.mode() == (False, False)


def test_any_card_may_be_declared_as_another_one(machine: Machine) -> None:
    machine.create("T4-16GB")
    machine.declare({"model": "other", "memory_mib": 15000, "index": 0, "backend": "none"})
    assert machine.apply()["message"] == "all cards are right"


def test_without_privileges_nothing_is_changed(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.simulate("set", "privilege", "nobody")
    machine.declare(mig(CREMMA))
    answer = machine.apply(code=1)
    assert "Insufficient Permissions" in answer["message"]
    assert machine.mode() == (False, False)


# Check


def strip(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: answer[key] for key in ("changed", "cards", "workers", "reboot_needed")}


@pytest.mark.parametrize("former", [{}, {"1g.5gb": 7}, {"3g.20gb": 2}, CREMMA])
def test_check_says_what_apply_does_and_does_nothing(machine: Machine, former: dict[str, int]) -> None:
    machine.create("A100-40GB", "RTX-6000-24GB")
    if former:
        machine.declare(mig(former), whole(index=1))
        machine.apply()
    machine.unit("worker@gpu0-1g.5gb-0.service")
    machine.unit("persistenced.service")
    machine.declare(mig(CREMMA), whole(index=1))
    files = {path: path.read_bytes() for path in files_of(machine)}
    machine.forget_calls()
    done = machine.gpu_partition("apply", "--check", "--json")
    assert done.code == 0
    assert machine.calls == []
    assert machine.unit_calls == []
    assert {path: path.read_bytes() for path in files_of(machine)} == {
        path: content for path, content in files.items() if not path.name.endswith(".calls")
    }
    assert strip(machine.apply()) == strip(done.json)


def files_of(machine: Machine) -> list[Path]:
    folders = [machine.folder / name for name in ("driver", "var", "run")]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def test_check_names_who_is_in_the_way(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"1g.5gb": 7}))
    machine.apply()
    holder = machine.hold(machine.devices()[0].uuid)
    machine.declare(mig(CREMMA))
    answer = machine.gpu_partition("apply", "--check", "--json").json
    assert [found["pid"] for found in answer["processes"]] == [holder.pid]
    assert "failed" not in answer


# Memory


def test_files_are_plain_and_readable_by_all(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig(CREMMA))
    machine.apply()
    for path in (machine.folder / "var" / "placements.json", machine.folder / "run" / "slices.json"):
        assert path.stat().st_mode & 0o777 == 0o644
    slices = json.loads((machine.folder / "run" / "slices.json").read_text())
    assert slices == {f"gpu0-{profile}-{start}": machine.devices()[start].uuid for profile, start in CREMMA_SLICES}


def test_broken_records_are_no_obstacle(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig(CREMMA))
    machine.apply()
    for path in (machine.folder / "var" / "placements.json", machine.folder / "run" / "slices.json"):
        path.write_text('{"GPU-')
    (machine.folder / "run" / "stopped.json").write_text('{"units": 3}')
    machine.reboot()
    assert machine.apply()["changed"]
    assert machine.slices() == CREMMA_SLICES


def test_one_apply_waits_for_the_other(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig(CREMMA))
    processes = [machine.start_program("apply", *machine.files) for _ in range(2)]
    outputs = []
    for process in processes:
        with process:
            outputs.append(process.communicate(timeout=60)[0].splitlines()[-1])
    assert sorted(outputs) == ["all cards are right", "changed: gpu0"]
    assert kinds(machine) == CREMMA
