"""The program gpu-partition: what people and units call. It runs as on a node, with the library found by the loader."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.gpu.simulation import ROOT, Machine, mig, whole

if TYPE_CHECKING:
    from tests.unit.gpu.simulation import Done

CREMMA = {"2g.10gb": 1, "1g.5gb": 5}
# Prints what a worker sees.
PRINT = (
    sys.executable,
    "-c",
    "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith(('CUDA_', 'TMP'))}))",
)


def cut(machine: Machine) -> None:
    """Make a computer with one card cut as at CREMMA, and one shared by MPS."""
    machine.create("A100-40GB@0000:17:00.0", "RTX-6000-24GB@0000:ca:00.0")
    machine.declare(mig(CREMMA), whole(index=1, workers=2, sharing="mps"))
    machine.apply()


def execute(machine: Machine, name: str, *options: str, **variables: str) -> Done:
    return machine.program("exec", *machine.files, name, *options, "--", *PRINT, **variables)


# plan, show


def test_plan_needs_no_driver(machine: Machine) -> None:
    done = machine.program("plan", "--model", "A100-40GB", "--slices", "2g.10gb:1,1g.5gb:5", "--json")
    assert done.code == 0
    assert [found["start"] for found in done.json["placements"]] == [0, 2, 3, 4, 5, 6]
    done = machine.program("plan", "--model", "A100-40GB", "--slices", "4g.20gb:1,1g.5gb:4", "--json")
    assert done.code == 2
    assert done.json == {"legal": False, "reasons": ["4g.20gb + 4x 1g.5gb needs 8 of 7 compute slices"]}


def test_plan_of_this_nodes_layout(machine: Machine) -> None:
    machine.declare(mig(CREMMA))
    done = machine.program("plan", machine.files[0], "--json")
    assert done.code == 0
    assert len(done.json["cards"][0]["slices"]) == 6


def test_show(machine: Machine) -> None:
    cut(machine)
    holder = machine.hold(machine.devices()[0].uuid, memory_mib=2000)
    done = machine.program("show", *machine.files, "--json")
    assert done.code == 0
    answer = done.json
    first, second = answer["cards"]
    assert (answer["driver"], answer["cuda"]) == ("535.309.01", "12.2")
    assert first["mig"] == {"current": True, "pending": True}
    assert first["slices"][0] == {
        "name": "gpu0-2g.10gb-0",
        "profile": "2g.10gb",
        "start": 0,
        "uuid": machine.devices()[0].uuid,
        "memory_mib": 9856,
        "processes": [{"pid": holder.pid, "program": "sleep", "memory_mib": 2000}],
    }
    assert {key: second[key] for key in ("name", "model", "pci_address", "mig", "slices", "processes")} == {
        "name": "gpu1",
        "model": "RTX-6000-24GB",
        "pci_address": "0000:ca:00.0",
        "mig": None,
        "slices": [],
        "processes": [],
    }
    text = machine.program("show", *machine.files).out
    assert text.splitlines()[:2] == [
        "driver 535.309.01, CUDA 12.2",
        "gpu0: NVIDIA A100-SXM4-40GB at 0000:17:00.0, 40960 MiB, MIG on",
    ]
    assert f"  gpu0-2g.10gb-0           {machine.devices()[0].uuid}  sleep ({holder.pid})" in text
    assert "gpu1: Quadro RTX 6000 at 0000:ca:00.0, 24576 MiB, no MIG, free" in text


def test_show_without_a_layout(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB")
    machine.simulate("card", "1", "passthrough", "on")
    machine.append("fail nvmlDeviceGetMigMode 1 15 0")
    machine.edit("mode 0 pending 0 passthrough 1", "mode 0 pending 1 passthrough 1")
    assert machine.program("show", *machine.files).out.splitlines()[1:] == [
        "index 0: nvmlDeviceGetMigMode: GPU is lost",
        "not declared: NVIDIA A100-SXM4-40GB at 0000:27:00.0, 40960 MiB, MIG off, on after a reboot, free",
    ]


def test_show_for_everybody(machine: Machine) -> None:
    cut(machine)
    machine.simulate("set", "privilege", "nobody")
    as_root = [(f"gpu0-{profile}-{start}", start) for profile, start in (("2g.10gb", 0), ("1g.5gb", 2))]
    done = machine.program("show", *machine.files, "--json")
    assert done.code == 0
    assert [(found["name"], found["start"]) for found in done.json["cards"][0]["slices"][:2]] == as_root
    # Where no apply has left a record, a slice has no name.
    (machine.folder / "run" / "slices.json").unlink()
    slices = machine.program("show", *machine.files, "--json").json["cards"][0]["slices"]
    assert [(found["name"], found["start"], found["profile"]) for found in slices][:1] == [("", None, "2g.10gb")]


# assert, apply


def test_assert(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig(CREMMA))
    done = machine.program("assert", *machine.files, "--json")
    assert done.code == 6
    assert done.json["changed"]
    assert done.json["message"] == "to be changed: gpu0"
    assert machine.calls == []
    machine.apply()
    done = machine.program("assert", *machine.files)
    assert (done.code, done.out) == (0, "gpu0 (A100-40GB, 0): as before\nall cards are right\n")


def test_apply_in_words(machine: Machine) -> None:
    machine.create("A100-40GB@0000:17:00.0")
    machine.declare({"model": "A100-40GB", "pci_address": "17:00.0", "backend": "mig", "slices": {"3g.20gb": 2}})
    done = machine.program("apply", *machine.files)
    assert done.code == 0
    assert done.out.splitlines() == [
        "gpu0 (A100-40GB, 0000:17:00.0): differs",
        "  MIG mode off -> on",
        "  create: gpu0-3g.20gb-0, gpu0-3g.20gb-4",
        "changed: gpu0",
    ]
    machine.hold(machine.devices()[0].uuid)
    machine.declare(mig({"7g.40gb": 1}))
    done = machine.program("apply", *machine.files)
    assert done.code == 3
    assert done.out == "gpu0 (A100-40GB, 0): as before\n"
    assert done.error.startswith("in use, nothing was changed: process ")


@pytest.mark.parametrize("command", ["show", "assert", "apply"])
def test_no_driver(machine: Machine, command: str) -> None:
    machine.declare(mig(CREMMA))
    done = machine.program(command, *machine.files)
    assert (done.code, done.error) == (5, "gpu-partition: the NVIDIA driver is not loaded\n")
    done = machine.program(command, *machine.files, "--json")
    assert done.code == 5
    assert done.json == {
        "changed": False,
        "failed": True,
        "message": "the NVIDIA driver is not loaded",
        "processes": [],
    }


@pytest.mark.parametrize("command", ["assert", "apply"])
def test_a_node_without_cards_of_its_own_needs_no_driver(machine: Machine, command: str) -> None:
    machine.declare({"model": "A100-40GB", "index": 0, "backend": "vgpu", "vgpu_type": "A100-10C", "vgpu_count": 2})
    done = machine.program(command, *machine.files, "--json")
    assert done.code == 0
    assert not done.json["changed"]


def test_cards_for_virtual_machines_are_left_alone(machine: Machine) -> None:
    machine.create("A100-40GB", "A100-40GB")
    machine.declare(
        mig(CREMMA), {"model": "A100-40GB", "index": 1, "backend": "vgpu", "vgpu_type": 472, "vgpu_count": 2}
    )
    other = machine.uuid(1)
    answer = machine.apply()
    assert [card["name"] for card in answer["cards"]] == ["gpu0"]
    assert not any(other in call for call in machine.calls)


def test_illegal_layouts(machine: Machine) -> None:
    machine.create("A100-40GB")
    machine.declare(mig({"4g.20gb": 1, "1g.5gb": 4}), {"model": "A100", "index": 1})
    done = machine.program("apply", *machine.files, "--json")
    assert done.code == 2
    assert done.json["failed"]
    assert "4g.20gb + 4x 1g.5gb needs 8 of 7 compute slices" in done.json["message"]
    assert "gpu_partition_cards[1].model" in done.json["message"]
    assert machine.calls == []


def test_a_layout_that_is_missing(machine: Machine) -> None:
    machine.create("A100-40GB")
    done = machine.program("apply", *machine.files)
    assert done.code == 1
    assert done.error == f"gpu-partition: {machine.folder}/layout.json: No such file or directory\n"


@pytest.mark.parametrize("arguments", [(), ("cut",), ("apply", "--force"), ("exec",), ("uuid",)])
def test_wrong_usage(machine: Machine, arguments: tuple[str, ...]) -> None:
    done = machine.program(*arguments)
    assert done.code == 2
    assert "usage: gpu-partition" in done.error


def test_help_tells_the_exit_codes(machine: Machine) -> None:
    text = machine.program("--help").out
    assert "3  in use: nothing was changed" in text
    assert "6  assert: the cards differ from the layout" in text


def test_without_permission_the_message_says_who_may(machine: Machine) -> None:
    cut(machine)
    machine.simulate("set", "privilege", "nobody")
    done = machine.program("assert", *machine.files, "--json")
    assert done.code == 1
    assert done.json["message"] == ("gpu0 (0): nvmlDeviceGetGpuInstances: Insufficient Permissions; this needs root")


# uuid, exec


def test_a_program_on_a_slice(machine: Machine) -> None:
    cut(machine)
    done = execute(machine, "gpu0-2g.10gb-0", "--setenv", "TMPDIR=/scratch", "--setenv=CUDA_CACHE_DISABLE=1")
    assert done.code == 0, done.error
    assert done.json == {
        "CUDA_VISIBLE_DEVICES": machine.devices()[0].uuid,
        "TMPDIR": "/scratch",
        "CUDA_CACHE_DISABLE": "1",
    }


def test_a_program_on_a_shared_card(machine: Machine) -> None:
    cut(machine)
    folders = {
        "CUDA_VISIBLE_DEVICES": machine.uuid(1),
        "CUDA_MPS_PIPE_DIRECTORY": "/run/nvidia-mps/gpu1",
        "CUDA_MPS_LOG_DIRECTORY": "/var/log/nvidia-mps/gpu1",
    }
    limits = {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=12288M", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"}
    assert execute(machine, "gpu1-1").json == {**folders, **limits}
    # The daemon itself has the whole card.
    assert execute(machine, "gpu1").json == folders


def test_a_program_on_a_whole_card(machine: Machine) -> None:
    machine.create("RTX-6000-24GB", "A100-40GB")
    # A card's name may begin like another one's.
    machine.declare(whole(name="gpu"), whole("A100-40GB", index=1, name="gpu-0b"))
    assert execute(machine, "gpu-0").json == {"CUDA_VISIBLE_DEVICES": machine.uuid(0)}
    assert execute(machine, "gpu-0b-0").json == {"CUDA_VISIBLE_DEVICES": machine.uuid(1)}


def test_the_program_decides_how_it_ends(machine: Machine) -> None:
    cut(machine)
    program = [sys.executable, "-c", "import sys; sys.exit(int(sys.argv[1]))", "42"]
    assert machine.program("exec", *machine.files, "gpu1-0", "--", *program).code == 42
    # What stands behind -- belongs to the program, whatever it looks like.
    done = machine.program("exec", *machine.files, "gpu1-0", "--", "echo", "--setenv", "--", "x")
    assert done.out == "--setenv -- x\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gpu0-2g.10gb-0", "--"), 2, "exec needs a program"),
        (("gpu0-2g.10gb-0",), 2, "exec needs a program"),
        (("gpu0-2g.10gb-0", "--setenv", "TMPDIR", "--", "true"), 2, "--setenv TMPDIR: must be NAME=VALUE"),
        (
            ("gpu7", "--", "true"),
            2,
            "there is no worker and no card gpu7; workers of this layout are: gpu0-2g.10gb-0, ",
        ),
        (("gpu1-2", "--", "true"), 2, "there is no worker and no card gpu1-2"),
        (("gpu0-1g.5gb-0", "--", "true"), 1, "there is no slice gpu0-1g.5gb-0 now"),
        (("gpu0-2g.10gb-0", "--", "/nonexistent"), 1, "cannot run /nonexistent: No such file or directory"),
    ],
)
def test_what_cannot_be_run(machine: Machine, arguments: tuple[str, ...], code: int, message: str) -> None:
    cut(machine)
    done = machine.program("exec", *machine.files, *arguments)
    assert done.code == code
    assert message in done.error


def test_everybody_may_run_programs_on_a_slice(machine: Machine) -> None:
    cut(machine)
    machine.simulate("set", "privilege", "nobody")
    for start, device in machine_devices(machine).items():
        profile = "2g.10gb" if start == 0 else "1g.5gb"
        assert execute(machine, f"gpu0-{profile}-{start}").json == {"CUDA_VISIBLE_DEVICES": device}
        break
    assert execute(machine, "gpu1-0").json["CUDA_VISIBLE_DEVICES"].startswith("GPU-")


def machine_devices(machine: Machine) -> dict[int, str]:
    """UUIDs of the slices by start, as the record of the last apply has them."""
    slices: dict[str, Any] = json.loads((machine.folder / "run" / "slices.json").read_text())
    return {int(name.rpartition("-")[2]): uuid for name, uuid in sorted(slices.items(), reverse=True)}


def test_a_record_that_is_out_of_date_is_not_believed(machine: Machine) -> None:
    cut(machine)
    # The slices go, and nobody tells: as after a reset of the card by hand.
    state = [line for line in machine.state.read_text().splitlines() if not line.startswith(("gi ", "ci "))]
    machine.state.write_text("".join(f"{line}\n" for line in state))
    machine.simulate("set", "privilege", "nobody")
    done = execute(machine, "gpu0-2g.10gb-0")
    assert done.code == 1
    assert "there is no slice gpu0-2g.10gb-0 now" in done.error


def test_uuid(machine: Machine) -> None:
    cut(machine)
    assert machine.program("uuid", *machine.files, "gpu0-1g.5gb-6").out == f"{machine.devices()[6].uuid}\n"
    assert machine.program("uuid", *machine.files, "gpu1").out == f"{machine.uuid(1)}\n"
    done = machine.program("uuid", *machine.files, "gpu0-1g.5gb-2", "--json")
    assert done.json == {"name": "gpu0-1g.5gb-2", "uuid": machine.devices()[2].uuid}


def test_the_program_of_the_role_finds_the_package_beside_it() -> None:
    """The role installs the same file that a person runs from scripts/."""
    installed = ROOT / "roles" / "gpu_partition" / "files" / "gpu-partition"
    assert (ROOT / "scripts" / "gpu-partition").resolve() == installed
    done = subprocess.run([installed, "plan", "--help"], capture_output=True, text=True, check=True)
    assert "usage: gpu-partition plan" in done.stdout
