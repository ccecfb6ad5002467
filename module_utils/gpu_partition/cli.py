"""The program ``gpu-partition``: what the cards of this node are, are to be, and become."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import device_files, plan
from .engine import (
    BUSY,
    DIFFERS,
    ERROR,
    ILLEGAL,
    NO_DRIVER,
    REBOOT_NEEDED,
    RIGHT,
    Computer,
    Engine,
    EngineError,
    Result,
    addressed,
)
from .layout import LAYOUT_FILE, RUN_FOLDER, STATE_FOLDER, Layout, LayoutError, Memory, read_layout
from .models import model_for
from .nvml import NO_PERMISSION, Driver, Gpu, MigDevice, NoDriverError, Nvml, NvmlError
from .placement import Slice
from .workers import gpu_workers, slice_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .card import Card

_EXIT_CODES: Final = f"""exit codes:
  {RIGHT}  right, or done
  {ERROR}  error; what was begun is undone
  {ILLEGAL}  illegal layout, or wrong usage
  {BUSY}  in use: nothing was changed
  {REBOOT_NEEDED}  reboot needed
  {NO_DRIVER}  no driver
  {DIFFERS}  assert: the cards differ from the layout
"""
_MPS_PIPES: Final = "/run/nvidia-mps"
_MPS_LOGS: Final = "/var/log/nvidia-mps"


class UsageError(ValueError):
    """Something was asked for that there is not."""


def _layout(options: argparse.Namespace) -> Layout:
    return read_layout(options.layout)


def _memory(options: argparse.Namespace) -> Memory:
    return Memory(options.state, options.run_folder)


def _uses_driver(layout: Layout) -> bool:
    return any(card.backend != "vgpu" for card in layout.cards)


# apply and assert


def _finish(options: argparse.Namespace, result: Result) -> int:
    answer = result.as_dict()
    if options.json:
        print(json.dumps(answer, indent=2))
        return result.code
    for card in answer["cards"]:
        mode = card["mode"]
        print(f"{card['name']} ({card['model']}, {card['address']}): {'differs' if card['changed'] else 'as before'}")
        if mode["before"] != mode["after"]:
            print(f"  MIG mode {mode['before']} -> {mode['after']}")
        for verb in ("destroy", "create"):
            if card[verb]:
                print(f"  {verb}: {', '.join(card[verb])}")
    print(answer["message"], file=sys.stderr if "failed" in answer else sys.stdout)
    return result.code


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _apply(options: argparse.Namespace) -> int:
    layout = _layout(options)
    if not _uses_driver(layout):
        return _finish(options, Result(message="no card is to be cut or kept whole here"))
    with Nvml() as driver:
        engine = Engine(layout, driver, Computer(), _memory(options))
        if options.check:
            return _finish(options, engine.check())
        # systemd ends a unit with SIGTERM: what was begun is undone then.
        signal.signal(signal.SIGTERM, _interrupted)
        return _finish(options, engine.apply())


def _assert(options: argparse.Namespace) -> int:
    layout = _layout(options)
    if not _uses_driver(layout):
        return _finish(options, Result(message="no card is to be cut or kept whole here"))
    with Nvml() as driver:
        result = Engine(layout, driver, Computer(), _memory(options)).check()
    if result.changed:
        result.code = DIFFERS
    return _finish(options, result)


# show


def _processes(driver: Driver, uuid: str) -> list[dict[str, Any]] | None:
    """Return what uses a device; ``None`` where this user may not know."""
    try:
        return [asdict(process) for process in driver.processes(uuid)]
    except NvmlError as error:
        if error.code == NO_PERMISSION:
            return None
        raise


def _places(driver: Driver, gpu: Gpu) -> dict[int, Slice] | None:
    """Return where each GPU instance lies, by its identifier; ``None`` where this user may not know."""
    try:
        return {found.id: Slice(found.start, found.profile, found.size) for found in driver.instances(gpu.uuid)}
    except NvmlError as error:
        if error.code == NO_PERMISSION:
            return None
        raise


def _slice_of(
    device: MigDevice, name: str, places: Mapping[int, Slice] | None, memory: Memory
) -> tuple[str, int | None]:
    """Return name and start of a MIG device's slice, from what NVML says or else from what ``apply`` left."""
    if places is not None:
        found = places.get(device.instance)
        return (slice_name(name, found), found.start) if found else ("", None)
    known = {uuid: slice_ for slice_, uuid in memory.slices().items()}.get(device.uuid, "")
    start = known.rpartition("-")[2]
    return known, int(start) if start.isdecimal() else None


def _shown_card(driver: Driver, gpu: Gpu, card: Card | None, memory: Memory) -> dict[str, Any]:
    if gpu.error:
        return {"index": gpu.index, "error": gpu.error}
    model = model_for(gpu.name, gpu.memory_mib)
    slices = []
    places = _places(driver, gpu) if gpu.mig else {}
    for device in driver.mig_devices(gpu.uuid) if gpu.mig else ():
        name, start = _slice_of(device, card.name if card else f"index{gpu.index}", places, memory)
        slices.append(
            {
                "name": name,
                "profile": device.profile,
                "start": start,
                "uuid": device.uuid,
                "memory_mib": device.memory_mib,
                "processes": _processes(driver, device.uuid),
            }
        )
    return {
        "index": gpu.index,
        "name": card.name if card else None,
        "uuid": gpu.uuid,
        "pci_address": gpu.pci_address,
        "nvml_name": gpu.name,
        "model": model.name if model else None,
        "memory_mib": gpu.memory_mib,
        "mig": None if gpu.mig is None else {"current": gpu.mig, "pending": gpu.mig_pending},
        "slices": slices,
        "processes": _processes(driver, gpu.uuid) if not gpu.mig else [],
    }


def _in_words(processes: Sequence[Mapping[str, Any]] | None) -> str:
    if processes is None:
        return "use unknown"
    return ", ".join(f"{found['program']} ({found['pid']})" for found in processes) or "free"


def _show(options: argparse.Namespace) -> int:
    # Without a layout the cards are shown all the same; they have no names then.
    layout = read_layout(options.layout) if options.layout.exists() else Layout()
    with Nvml() as driver:
        version, cuda = driver.versions()
        gpus = driver.gpus()
        declared = {}
        for card in layout.cards:
            gpu = addressed(card, gpus)
            if gpu:
                declared[gpu.index] = card
        cards = [_shown_card(driver, gpu, declared.get(gpu.index), _memory(options)) for gpu in gpus]
    if options.json:
        print(json.dumps({"driver": version, "cuda": cuda, "cards": cards}, indent=2))
        return RIGHT
    print(f"driver {version}, CUDA {cuda}")
    for shown in cards:
        if "error" in shown:
            print(f"index {shown['index']}: {shown['error']}")
            continue
        mig = shown["mig"]
        mode = "no MIG" if mig is None else f"MIG {'on' if mig['current'] else 'off'}"
        if mig and mig["current"] != mig["pending"]:
            mode += f", {'on' if mig['pending'] else 'off'} after a reboot"
        use = "" if mig and mig["current"] else f", {_in_words(shown['processes'])}"
        head = f"{shown['name'] or 'not declared'}: {shown['nvml_name']} at {shown['pci_address']}"
        print(f"{head}, {shown['memory_mib']} MiB, {mode}{use}")
        for found in shown["slices"]:
            print(f"  {found['name'] or found['profile']:<24} {found['uuid']}  {_in_words(found['processes'])}")
    return RIGHT


# uuid and exec


def _found_slice(driver: Driver, gpu: Gpu, card: Card, name: str, memory: Memory) -> str:
    """Return the UUID of a slice as it is now.

    Raises ``EngineError``: there is no such slice now.
    """
    devices = {device.instance: device.uuid for device in driver.mig_devices(gpu.uuid)} if gpu.mig else {}
    places = _places(driver, gpu) if gpu.mig else {}
    if places is None:
        known = memory.slices().get(name)
        if known in devices.values():
            return str(known)
    else:
        for instance, place in places.items():
            if slice_name(card.name, place) == name and instance in devices:
                return devices[instance]
    raise EngineError(
        ERROR, f"there is no slice {name} now; as root, gpu-partition apply makes it, if it is in the layout"
    )


def _environment(layout: Layout, driver: Driver, name: str, memory: Memory) -> dict[str, str]:
    """Return the variables with which a program runs on a worker's slice, its share of a card, or a whole card.

    Raises ``UsageError``: no worker and no card is called so.
    ``EngineError``: the card or the slice is not there.
    """
    cards = [card for card in layout.cards if name == card.name or name.startswith(f"{card.name}-")]
    card = max(cards, key=lambda found: len(found.name), default=None)
    shares = {worker.name: worker for worker in gpu_workers(layout.cards, layout.training_memory) if not worker.profile}
    if card is None or card.backend == "vgpu" or (card.backend == "none" and name != card.name and name not in shares):
        known = [worker.name for worker in gpu_workers(layout.cards, layout.training_memory)]
        raise UsageError(
            f"there is no worker and no card {name}; workers of this layout are: {', '.join(known) or 'none'}"
        )
    gpu = addressed(card, driver.gpus())
    if gpu is None or gpu.error:
        raise EngineError(ERROR, f"{card.name}: {gpu.error if gpu else f'there is no card at {card.address}'}")
    if card.backend == "mig" and name != card.name:
        return {"CUDA_VISIBLE_DEVICES": _found_slice(driver, gpu, card, name, memory)}
    found = {"CUDA_VISIBLE_DEVICES": gpu.uuid}
    if card.sharing == "mps" and card.backend == "none":
        found["CUDA_MPS_PIPE_DIRECTORY"] = f"{_MPS_PIPES}/{card.name}"
        found["CUDA_MPS_LOG_DIRECTORY"] = f"{_MPS_LOGS}/{card.name}"
        if name != card.name:
            found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={card.mps_memory_mib}M"
            found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(card.mps_thread_percentage)
    return found


def _uuid(options: argparse.Namespace) -> int:
    with Nvml() as driver:
        found = _environment(_layout(options), driver, options.name, _memory(options))
    uuid = found["CUDA_VISIBLE_DEVICES"]
    print(json.dumps({"name": options.name, "uuid": uuid}) if options.json else uuid)
    return RIGHT


def _exec(options: argparse.Namespace) -> int:
    if not options.program:
        raise UsageError("exec needs a program: gpu-partition exec NAME -- PROGRAM ARGUMENT...")
    given = {}
    for pair in options.setenv:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--setenv {pair}: must be NAME=VALUE")
        given[key] = value
    with Nvml() as driver:
        found = _environment(_layout(options), driver, options.name, _memory(options))
    os.environ.update({**found, **given})
    try:
        os.execvp(options.program[0], options.program)  # noqa: S606 - this is what it is for
    except OSError as error:
        raise EngineError(ERROR, f"cannot run {options.program[0]}: {error.strerror}") from error


# device-files


def _device_files(_: argparse.Namespace) -> int:
    program = shutil.which(device_files.PROGRAM)
    if program is None:
        print(f"there is no {device_files.PROGRAM} here: somebody else makes the device files", file=sys.stderr)
        return RIGHT
    failed = []
    for command in device_files.commands(program):
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        if answer.returncode:
            failed.append(f"{' '.join(command)}: {answer.stderr.strip() or answer.returncode}")
    if failed:
        raise EngineError(ERROR, "; ".join(failed))
    return RIGHT


# Command line


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="gpu-partition",
        description="Show, plan, check and make the GPU slices of this node.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument("--layout", type=Path, default=LAYOUT_FILE, metavar="FILE", help="layout (%(default)s)")
    files.add_argument("--state", type=Path, default=STATE_FOLDER, metavar="FOLDER", help="what is kept (%(default)s)")
    files.add_argument(
        "--run",
        type=Path,
        default=RUN_FOLDER,
        dest="run_folder",
        metavar="FOLDER",
        help="what a reboot empties (%(default)s)",
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="answer in JSON")
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "show", parents=[files, as_json], help="show the cards, their slices and what uses them"
    )
    command.set_defaults(command=_show)

    command = commands.add_parser("plan", help="show what a layout would become; needs no card")
    plan.add_arguments(command)
    command.set_defaults(command=plan.run)

    command = commands.add_parser(
        "assert", parents=[files, as_json], help=f"{RIGHT} where the cards are right, else {DIFFERS}"
    )
    command.set_defaults(command=_assert)

    command = commands.add_parser("apply", parents=[files, as_json], help="bring the cards to the layout")
    command.add_argument("--check", action="store_true", help="change nothing, say what would be changed")
    command.set_defaults(command=_apply)

    command = commands.add_parser(
        "uuid", parents=[files, as_json], help="print the UUID of a worker's device or of a card"
    )
    command.add_argument("name")
    command.set_defaults(command=_uuid)

    command = commands.add_parser(
        "exec",
        parents=[files],
        help="run a program on a worker's device or on a card",
        usage="gpu-partition exec [OPTION...] NAME [--setenv NAME=VALUE...] -- PROGRAM [ARGUMENT...]",
    )
    command.add_argument("name")
    command.add_argument(
        "--setenv", action="append", default=[], metavar="NAME=VALUE", help="a variable for the program"
    )
    command.set_defaults(command=_exec, json=False)

    command = commands.add_parser("device-files", help="make the device files of cards and slices, for others to use")
    command.set_defaults(command=_device_files, json=False)
    return made


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate what is for us from what is for the program that ``exec`` runs."""
    if arguments[:1] == ["exec"] and "--" in arguments:
        at = list(arguments).index("--")
        return list(arguments[:at]), list(arguments[at + 1 :])
    return list(arguments), []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    own, program = _split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(own)
    options.program = program
    code = ERROR
    processes: Sequence[Mapping[str, Any]] = ()
    try:
        return int(options.command(options))
    except NoDriverError as error:
        code, message = NO_DRIVER, str(error)
    except EngineError as error:
        code, message, processes = error.code, str(error), error.processes
    except (LayoutError, UsageError) as error:
        code, message = ILLEGAL, str(error)
    except NvmlError as error:
        message = f"{error} (this needs root)" if error.code == NO_PERMISSION else str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except KeyboardInterrupt:
        message = "interrupted"
    if options.json:
        print(
            json.dumps({"changed": False, "failed": True, "message": message, "processes": list(processes)}, indent=2)
        )
    else:
        print(f"gpu-partition: {message}", file=sys.stderr)
    return code
