"""Simulated computers with GPUs: the compiled library, its state in a folder of the test, and a fake systemd.

``gpu-partition`` runs in processes of its own, as on a node. Most are forks of the test's process, since a new
interpreter for each of some hundred runs would take minutes.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.gpu_partition import cli
from module_utils.gpu_partition.nvml import Instance, MigDevice, Nvml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[3]
DRIVER = ROOT / "molecule" / "simulated_driver"

SYSTEMCTL = r"""#!/bin/sh
# Units are files that hold their state. UNIT.pid: a process that ends with it. UNIT.stubborn: it takes its time.
set -eu
cd "$FAKE_UNITS"
verb=$1; shift
printf '%s' "$verb" >>"$FAKE_UNITS.calls"; printf ' %s' "$@" >>"$FAKE_UNITS.calls"; echo >>"$FAKE_UNITS.calls"
case $verb in
  list-units)
    for unit in *.service; do
      for pattern in "$@"; do
        case $unit in $pattern) echo "$unit loaded $(cat "$unit") sub A description"; break ;; esac
      done
    done ;;
  stop)
    for unit in "$@"; do
      [ -e "$unit" ] || continue
      if [ -e "$unit.stubborn" ]; then echo deactivating >"$unit"; continue; fi
      if [ -e "$unit.pid" ]; then
        pid=$(cat "$unit.pid")
        kill "$pid"
        while [ -d "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.02; done
      fi
      echo inactive >"$unit"
    done ;;
  start) for unit in "$@"; do case $unit in *.service) echo active >"$unit" ;; esac; done ;;
esac
"""


@dataclass(frozen=True)
class Done:
    """How a run of ``gpu-partition`` ended; ``code`` is negative for a signal."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, for the C library as well, and set them back."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


class Machine:
    """A computer with simulated cards."""

    def __init__(self, folder: Path, built: Path) -> None:
        self.folder = folder
        self.built = built
        self.state = folder / "driver" / "state"
        self.run_folder = folder / "driver-run"
        self.units = folder / "units"
        self.units.mkdir()
        self._holders: list[subprocess.Popen[bytes]] = []
        tools = folder / "tools"
        tools.mkdir()
        (tools / "systemctl").write_text(SYSTEMCTL)
        (tools / "systemctl").chmod(0o755)
        (tools / "modprobe").symlink_to(built / "sbin" / "modprobe")
        self.environment = {
            "SIMULATED_GPU_STATE": str(self.state),
            "SIMULATED_GPU_RUN": str(self.run_folder),
            "FAKE_UNITS": str(self.units),
            "PATH": f"{tools}:{os.environ['PATH']}",
        }
        self.layout: dict[str, Any] = {
            "slice_units": ["worker@{slice}.service"],
            "card_units": ["mps@{card}.service"],
            "driver_clients": ["persistenced.service", "dcgm.service"],
            "drain_timeout_s": 0.3,
        }

    # The simulated driver

    def simulate(self, *arguments: str) -> str:
        """Run ``simulated-gpu`` in this process, and return what it prints."""
        loader = importlib.machinery.SourceFileLoader("simulated_gpu", str(self.built / "bin" / "simulated-gpu"))
        spec = importlib.util.spec_from_loader("simulated_gpu", loader)
        assert spec
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        printed = io.StringIO()
        with _environment(self.environment), contextlib.redirect_stdout(printed):
            module.main(arguments)
        return printed.getvalue()

    def start_simulation(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``simulated-gpu``."""
        return subprocess.Popen(
            [sys.executable, str(self.built / "bin" / "simulated-gpu"), *arguments],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def start_python(environment: Mapping[str, str], program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start an interpreter with a program."""
        return subprocess.Popen([sys.executable, "-c", program, *arguments], env={**os.environ, **environment})

    def create(self, *cards: str, **options: str) -> None:
        """Make cards that this user may change."""
        given = [f"--{name}={value}" for name, value in options.items()]
        self.simulate("create", *cards, "--privilege=everybody", "--seed=test", *given)

    def edit(self, old: str, new: str) -> None:
        """Replace a text in the state; it has to be there."""
        text = self.state.read_text()
        assert old in text, f"{old!r} is not in {text}"
        self.state.write_text(text.replace(old, new))

    def append(self, line: str) -> None:
        """Add a line to the state."""
        with self.state.open("a") as file:
            file.write(f"{line}\n")

    def reboot(self) -> None:
        """Restart the computer: what is under /run goes, and processes with it."""
        self.end_holders()
        for path in sorted(self.run_folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for path in (self.folder / "run").glob("*"):
            path.unlink()

    @property
    def calls(self) -> list[str]:
        """The writing calls so far."""
        path = Path(f"{self.state}.calls")
        return path.read_text().splitlines() if path.exists() else []

    def forget_calls(self) -> None:
        Path(f"{self.state}.calls").unlink(missing_ok=True)

    @contextlib.contextmanager
    def driver(self) -> Iterator[Nvml]:
        """Open NVML on these cards in this process."""
        with _environment(self.environment), Nvml() as driver:
            yield driver

    def uuid(self, index: int = 0) -> str:
        with self.driver() as driver:
            return driver.gpus()[index].uuid

    def instances(self, index: int = 0) -> tuple[Instance, ...]:
        """Return the instances of a card; none where MIG mode is off."""
        with self.driver() as driver:
            gpu = driver.gpus()[index]
            return driver.instances(gpu.uuid) if gpu.mig else ()

    def devices(self, index: int = 0) -> dict[int, MigDevice]:
        """Return the MIG devices of a card by the start of their slice."""
        with self.driver() as driver:
            gpu = driver.gpus()[index]
            if not gpu.mig:
                return {}
            starts = {instance.id: instance.start for instance in driver.instances(gpu.uuid)}
            return {starts[device.instance]: device for device in driver.mig_devices(gpu.uuid)}

    def slices(self, index: int = 0) -> list[tuple[str, int]]:
        """Return profile and start of the complete slices of a card."""
        return [(instance.profile, instance.start) for instance in self.instances(index) if instance.complete]

    def mode(self, index: int = 0) -> tuple[bool | None, bool | None]:
        with self.driver() as driver:
            gpu = driver.gpus()[index]
            return gpu.mig, gpu.mig_pending

    def cut(self, *slices: tuple[str, int, int], index: int = 0) -> None:
        """Cut a card by hand, as an administrator would: profile, start and compute slices of each."""

        def work() -> int:
            with Nvml() as driver:
                uuid = driver.gpus()[index].uuid
                if not driver.gpu(uuid).mig:
                    driver.set_mig_mode(uuid, on=True)
                for profile, start, parts in slices:
                    number = driver.create_instance(uuid, profile, start)
                    if parts:
                        driver.create_part(uuid, number, parts)
            return 0

        assert self._fork(work, {}).code == 0

    # Use

    def hold(self, device: str, *, memory_mib: int = 512) -> subprocess.Popen[bytes]:
        """Use a card, a MIG device or the driver by a real process, until it is ended."""
        with (self.run_folder / "use" / device).open("a") as file:
            holder = subprocess.Popen(
                ["sleep", "600"], stdout=file, env={**os.environ, "SIMULATED_GPU_MEMORY_MIB": str(memory_mib)}
            )
        self._holders.append(holder)
        # Until it runs the new program its name is not the final one.
        while Path(f"/proc/{holder.pid}/comm").read_text() != "sleep\n":
            time.sleep(0.005)
        return holder

    def end_holders(self) -> None:
        for holder in self._holders:
            holder.kill()
            holder.wait()
        self._holders.clear()

    def unit(self, name: str, *, state: str = "active", stubborn: bool = False, pid: int | None = None) -> None:
        """Make a unit of systemd."""
        (self.units / name).write_text(f"{state}\n")
        if stubborn:
            (self.units / f"{name}.stubborn").touch()
        if pid is not None:
            (self.units / f"{name}.pid").write_text(f"{pid}\n")

    def unit_state(self, name: str) -> str:
        return (self.units / name).read_text().strip()

    @property
    def unit_calls(self) -> list[str]:
        """What was asked of systemd, without questions."""
        path = Path(f"{self.units}.calls")
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith("list-units")]

    # gpu-partition

    def declare(self, *cards: Mapping[str, Any], **settings: Any) -> None:
        """Write the layout file."""
        (self.folder / "layout.json").write_text(json.dumps({**self.layout, **settings, "cards": list(cards)}))

    @property
    def files(self) -> list[str]:
        """The options that name this computer's files."""
        return [
            f"--layout={self.folder / 'layout.json'}",
            f"--state={self.folder / 'var'}",
            f"--run={self.folder / 'run'}",
        ]

    def _fork(self, work: Callable[[], int], variables: Mapping[str, str]) -> Done:
        out, error = self.folder / "out", self.folder / "error"
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                os.environ.update({**self.environment, **variables})
                sys.stdout, sys.stderr = out.open("w"), error.open("w")
                code = work()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 98
            except BaseException as wrong:
                print(repr(wrong), file=sys.stderr)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        return Done(os.waitstatus_to_exitcode(status), out.read_text(), error.read_text())

    def gpu_partition(self, *arguments: str, **variables: str) -> Done:
        """Run ``gpu-partition`` in a fork of this process."""
        command, *rest = arguments
        return self._fork(lambda: cli.main([command, *self.files, *rest]), variables)

    def start_program(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start the real program ``gpu-partition``, with the library found by the loader."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "gpu-partition"), *arguments],
            env={**os.environ, **self.environment, "LD_LIBRARY_PATH": str(self.built / "lib"), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def program(self, *arguments: str, **variables: str) -> Done:
        """Run the real program ``gpu-partition``."""
        with self.start_program(*arguments, **variables) as process:
            out, error = process.communicate(timeout=60)
        return Done(process.returncode, out, error)

    def apply(self, *, code: int = 0, **variables: str) -> dict[str, Any]:
        """Apply the layout and return the answer."""
        done = self.gpu_partition("apply", "--json", **variables)
        assert done.code == code, f"{done.code}: {done.out}{done.error}"
        return done.json


def mig(slices: Mapping[str, int], *, model: str = "A100-40GB", index: int = 0, **more: Any) -> dict[str, Any]:
    """Return a declared card that is to be cut."""
    return {"model": model, "index": index, "backend": "mig", "slices": dict(slices), **more}


def whole(model: str = "RTX-6000-24GB", index: int = 0, **more: Any) -> dict[str, Any]:
    """Return a declared card that is not to be cut."""
    return {"model": model, "index": index, "backend": "none", **more}
