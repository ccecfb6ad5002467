"""Virtual machines of the test bed: start them, and do to them what happens to real ones.

A disk is pulled and plugged back, a network cable comes loose, the power goes. As a program it serves Molecule and
people: `molecule/resources/vm/machines` calls it. All that belongs to a machine lies in `.cache/vm/<cluster>/<host>/`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from support import REPOSITORY, Inventory, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CACHE: Final = REPOSITORY / ".cache" / "vm"
KEY: Final = REPOSITORY / ".cache" / "ssh" / "id_ed25519"
PROGRAMS: Final = REPOSITORY / "molecule" / "resources" / "vm"
QEMU: Final = "qemu-system-x86_64"
SSH_OPTIONS: Final = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=10")
# One connection for all commands of the checks: in emulation each costs seconds. It ends with the machine's process.
SHARED: Final = ("ControlMaster=auto", "ControlPersist=10m", "ControlPath=ssh.sock")

# Seconds. An emulated machine starts in about 45 on two free processors, in 5 where the processor virtualises.
BOOT_TIMEOUT: Final = 300.0
#: How QEMU 10.0 now and then ends while it emulates several processors (assertion in system/physmem.c), and how often a
#: machine that has not come up yet is started anew for it. One that was up is not: that is for its test to see.
EMULATION_FAILED: Final = "iotlb_to_section"
STARTS: Final = 3
QMP_TIMEOUT: Final = 60.0


class MachineError(RuntimeError):
    """A machine does not do what it was told; the text is for people."""


def accelerators(image: Path) -> str:
    """Name the accelerator of this computer: kvm where it really boots a kernel, else emulation.

    `/dev/kvm` alone proves nothing: on some virtual hosts it is there and the guest dies. So a kernel without a root
    file system is started once; it works when it panics, as it must. `VM_ACCELERATOR=kvm|tcg` decides without asking.
    """
    chosen = os.environ.get("VM_ACCELERATOR", "")
    if chosen in {"kvm", "tcg"}:
        return chosen
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    remembered = CACHE / f"accelerator-{boot}"
    if not remembered.is_file():
        command = [QEMU, "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"]
        command += ["-serial", "stdio", "-kernel", str(image / "vmlinuz"), "-append", "console=ttyS0 panic=-1"]
        try:
            tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20)
            works = tried.returncode == 0 and b"Unable to mount root fs" in tried.stdout
        except subprocess.TimeoutExpired:
            works = False
        for old in CACHE.glob("accelerator-*"):
            old.unlink()
        remembered.write_text("kvm" if works else "tcg", encoding="ascii")
    return remembered.read_text(encoding="ascii")


@contextmanager
def _folder_address(folder: Path) -> Iterator[str]:
    """Answer a short path of a folder: the name of a socket may have 107 characters only."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


class Monitor:
    """The machine protocol of a running QEMU (QMP)."""

    def __init__(self, folder: Path) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.settimeout(QMP_TIMEOUT)
        with _folder_address(folder) as short:
            self.connection.connect(f"{short}/qmp.sock")
        self.lines = self.connection.makefile("r", encoding="utf-8")
        self.events: list[dict[str, Any]] = []
        self._next()  # the greeting
        self.ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.connection.close()

    def _next(self) -> dict[str, Any]:
        line = self.lines.readline()
        if not line:
            raise MachineError("the machine's monitor closed the connection")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command and answer what it returns.

        Raises:
            MachineError: QEMU refuses it.

        """
        message = {
            "execute": command,
            "arguments": {name.replace("_", "-"): value for name, value in arguments.items()},
        }
        self.connection.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._next()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise MachineError(f"{command}: {answer['error']['desc']}")
            else:
                return answer.get("return")

    def await_event(self, name: str, **data: Any) -> None:
        """Wait until QEMU tells of an event whose data contain those given."""
        while True:
            for event in self.events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    return
            answer = self._next()
            if "event" in answer:
                self.events.append(answer)


@dataclass(frozen=True)
class Machine:
    """One virtual machine.

    Attributes:
        name: the host's name in the inventory.
        cluster: name that its machines share.
        address: its address in the private network.
        ssh_port: port of this computer that leads to its ssh.
        memory: MiB.
        processors: how many it has.
        disks: size by serial number, in the order of their places on the controller.
        peer: name of the machine at the other end of the private network.

    """

    name: str
    cluster: str
    address: str
    ssh_port: int
    memory: int = 1024
    processors: int = 1
    disks: Mapping[str, str] = field(default_factory=dict)
    peer: str | None = None

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return CACHE / self.cluster / self.name

    def disk_file(self, serial: str) -> Path:
        """File behind a disk."""
        return self.folder / f"disk-{serial}.raw"

    def process(self) -> int | None:
        """Process of its QEMU, also of one that an interrupted run left behind; None when it is off."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                here = str((entry / "cwd").readlink()).startswith(str(self.folder))
                if words[0].endswith(QEMU.encode()) and self._title.encode() in words and here:
                    return int(entry.name)
        return None

    @property
    def _title(self) -> str:
        return f"{self.cluster}-{self.name}"

    def _mac(self, network: int) -> str:
        last = [int(number) for number in self.address.split(".")]
        return f"52:54:00:{network:02x}:{last[2]:02x}:{last[3]:02x}"

    def _disk_device(self, serial: str) -> dict[str, Any]:
        place = list(self.disks).index(serial) + 1
        return {
            "driver": "scsi-hd",
            "bus": "scsi0.0",
            "scsi-id": place,
            "drive": f"file-{serial}",
            "serial": serial,
            "id": f"disk-{serial}",
        }

    def _command(self, image: Path, accelerator: str) -> list[str]:
        kernel = [
            "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 systemd.show_status=false",
            f"vm.name={self.name} vm.address={self.address}",
        ]
        peer = f"{self.folder.parent / self.peer}/lan.sock" if self.peer else "nobody.sock"
        command = [QEMU, "-name", self._title, "-nodefaults", "-display", "none", "-machine", "pc"]
        command += ["-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi"]
        command += ["-cpu", "host" if accelerator == "kvm" else "max"]
        command += ["-smp", str(self.processors), "-m", str(self.memory)]
        command += ["-serial", "file:console.log", "-qmp", "unix:qmp.sock,server=on,wait=off"]
        command += ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img")]
        command += ["-append", " ".join(kernel)]
        command += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
        # This computer does not lose its power with the machine, so nothing has to reach its disks at once.
        command += ["-drive", "file=root.qcow2,if=virtio,format=qcow2,cache=unsafe"]
        command += ["-netdev", f"user,id=out,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"]
        command += ["-device", f"virtio-net-pci,netdev=out,mac={self._mac(2)},romfile="]
        lan = f"dgram,id=lan,local.type=unix,local.path=lan.sock,remote.type=unix,remote.path={peer}"
        command += ["-netdev", lan, "-device", f"virtio-net-pci,netdev=lan,id=lan0,mac={self._mac(1)},romfile="]
        command += ["-device", "virtio-scsi-pci,id=scsi0"]
        for serial in self.disks:
            file = self.disk_file(serial).name
            command += [
                "-blockdev",
                f"driver=raw,node-name=file-{serial},cache.no-flush=on,file.driver=file,file.filename={file}",
            ]
            command += ["-device", ",".join(f"{key}={value}" for key, value in self._disk_device(serial).items())]
        return command

    def create(self, image: Path) -> bool:
        """Make its disks; answers whether any was missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        changed = False
        if not (self.folder / "root.qcow2").exists():
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image / "disk.img")]
            subprocess.run([*command, str(self.folder / "root.qcow2")], check=True)
            changed = True
        for serial, size in self.disks.items():
            if not self.disk_file(serial).exists():
                subprocess.run(["truncate", "--size", size, str(self.disk_file(serial))], check=True)
                changed = True
        return changed

    def boot(self, image: Path | None = None) -> bool:
        """Switch it on; answers False when it was on already. Does not wait for the guest."""
        if self.process() is not None:
            return False
        image = image or self._image()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.ssh_port))
            except OSError as error:
                raise MachineError(
                    f"port {self.ssh_port} of this computer, for ssh of {self.name}, is taken"
                ) from error
        for stale in ("qmp.sock", "lan.sock"):
            (self.folder / stale).unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("wb") as log:
            # Detached: it outlives the program that starts it.
            subprocess.run(
                ["setsid", "--fork", *self._command(image, accelerators(image))],
                cwd=self.folder,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started = time.monotonic()

        def answers() -> bool:
            if self.process() is None and time.monotonic() > started + 5:
                text = (self.folder / "qemu.log").read_text(encoding="utf-8", errors="replace")
                raise MachineError(f"{self.name} does not start: {text.strip()}")
            return (self.folder / "qmp.sock").exists()

        wait_for(f"the monitor of {self.name}", answers, timeout=30, pause=0.1)
        return True

    def _image(self) -> Path:
        """Folder of the image that its root disk lies on."""
        command = ["qemu-img", "info", "--force-share", "--output", "json", str(self.folder / "root.qcow2")]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return Path(told["backing-filename"]).parent

    def ssh(self, command: str, *, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command of the shell in it as root."""
        options = [word for option in (*SSH_OPTIONS, *SHARED) for word in ("-o", option)]
        # The text goes to the shell's input: no second shell takes it apart, and it may be long.
        target = ["-i", str(KEY), "-p", str(self.ssh_port), "root@127.0.0.1", "sh -s"]
        return subprocess.run(
            ["ssh", *options, *target],
            cwd=self.folder,  # of the connection's socket: the path of one may have 107 characters only
            input=command,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def await_ssh(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until the guest has started everything."""
        starts = 1

        def answers() -> bool:
            nonlocal starts
            if self.process() is None:
                text = (self.folder / "qemu.log").read_text(encoding="utf-8", errors="replace")
                if EMULATION_FAILED not in text or starts == STARTS:
                    raise MachineError(f"{self.name} went off: {text.strip()}")
                print(f"{self.name} is started once more: {text.strip()}", file=sys.stderr)
                starts += 1
                self.boot()
            with suppress(subprocess.TimeoutExpired):
                return self.ssh("systemctl is-system-running --wait", timeout=60).stdout.strip() in {
                    "running",
                    "degraded",
                }
            return False

        try:
            wait_for(f"ssh of {self.name}", answers, timeout=timeout)
        except AssertionError as error:
            console = (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")
            raise MachineError(f"{error}; end of its console:\n{console[-2000:]}") from error

    def monitor(self) -> Monitor:
        """Connect to its QMP."""
        return Monitor(self.folder)

    def power_off(self) -> None:
        """Cut its power: nothing in its memory survives."""
        process = self.process()
        if process is not None:
            os.kill(process, signal.SIGKILL)
            wait_for(f"the end of {self.name}", lambda: self.process() is None, timeout=30, pause=0.1)

    def pull(self, serial: str) -> None:
        """Take a disk out of the running machine."""
        with self.monitor() as monitor:
            monitor.ask("device_del", id=f"disk-{serial}")
            monitor.await_event("DEVICE_DELETED", device=f"disk-{serial}")

    def plug(self, serial: str, *, blank: bool = False) -> None:
        """Put a pulled disk back into its place; a blank one of the same size and serial number on demand."""
        with self.monitor() as monitor:
            if blank:
                file = self.disk_file(serial)
                monitor.ask("blockdev-del", node_name=f"file-{serial}")
                file.unlink()
                subprocess.run(["truncate", "--size", self.disks[serial], str(file)], check=True)
                options = {"driver": "raw", "node-name": f"file-{serial}", "cache": {"no-flush": True}}
                monitor.ask("blockdev-add", **options, file={"driver": "file", "filename": file.name})
            monitor.ask("device_add", **self._disk_device(serial))

    def pulled(self) -> list[str]:
        """Serial numbers of the disks that are out."""
        with self.monitor() as monitor:
            present = {device.get("qdev", "") for device in monitor.ask("query-block")}
        return [serial for serial in self.disks if f"disk-{serial}" not in present]

    def cable(self, *, plugged: bool) -> None:
        """Plug the cable of the private network in, or pull it."""
        with self.monitor() as monitor:
            monitor.ask("set_link", name="lan0", up=plugged)

    def destroy(self) -> bool:
        """Switch it off and remove all that it is; answers whether there was anything."""
        there = self.folder.exists() or self.process() is not None
        self.power_off()
        shutil.rmtree(self.folder, ignore_errors=True)
        return there


def machines_of(inventory: Inventory) -> dict[str, Machine]:
    """Describe the machines of an inventory: every host with `node_ssh_port` is one."""
    hosts = {name: values for name, values in inventory.hosts.items() if "node_ssh_port" in values}
    if len(hosts) > 2:
        raise MachineError("a private network of virtual machines joins two, and this inventory has more")
    return {
        name: Machine(
            name=name,
            cluster=str(values["node_cluster"]),
            address=str(values["private_address"]),
            ssh_port=int(values["node_ssh_port"]),
            memory=int(values.get("node_memory", 1024)),
            processors=int(values.get("node_processors", 1)),
            disks=dict(values.get("node_disks", {})),
            peer=next((other for other in hosts if other != name), None),
        )
        for name, values in hosts.items()
    }


def build_image() -> Path:
    """Make sure of QEMU, and make the image when its inputs changed; answers the image's folder."""
    for program in ("qemu", "image"):
        done = subprocess.run([str(PROGRAMS / program)], check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise MachineError(f"{PROGRAMS / program} failed, so there is nothing to start machines with")
    return Path(done.stdout.strip())


def _up(machines: Sequence[Machine]) -> None:
    image = build_image()
    changed = False
    for machine in machines:
        # A newer image does not throw away a machine that exists; destroy it to get the new one.
        changed |= machine.create(image)
        changed |= machine.boot()
    for machine in machines:
        machine.await_ssh()
    sys.stdout.write("changed\n" if changed else "unchanged\n")


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; answers the exit status."""
    parser = argparse.ArgumentParser(prog="machines", description="Virtual machines of an inventory of the test bed")
    parser.add_argument("--inventory", type=Path, default=REPOSITORY / "molecule" / "storage" / "inventory")
    actions = parser.add_subparsers(dest="action", required=True)
    for action, text in {
        "up": "make and start the machines, and wait until they answer",
        "destroy": "switch the machines off and remove their disks",
        "list": "show names, states and how to reach them",
    }.items():
        actions.add_parser(action, help=text)
    for action, text in {
        "power-off": "cut the power of a machine",
        "boot": "switch a machine on and wait until it answers",
        "cut": "pull the cable of the private network",
        "join": "plug the cable in",
    }.items():
        actions.add_parser(action, help=text).add_argument("host")
    shell = actions.add_parser("ssh", help="run a command in a machine, or open a shell")
    shell.add_argument("host")
    shell.add_argument("command", nargs=argparse.REMAINDER)
    for action, text in {"pull": "take a disk out", "plug": "put a disk back"}.items():
        disk = actions.add_parser(action, help=text)
        disk.add_argument("host")
        disk.add_argument("serial")
        if action == "plug":
            disk.add_argument("--blank", action="store_true", help="a new disk in place of the old one")
    chosen = parser.parse_args(arguments)
    try:
        return _act(chosen)
    except (MachineError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"machines: {error}\n")
        return 1


def _act(chosen: argparse.Namespace) -> int:
    machines = machines_of(Inventory.read(chosen.inventory.resolve()))
    if chosen.action == "up":
        _up(list(machines.values()))
        return 0
    if chosen.action == "destroy":
        gone = [machine.destroy() for machine in machines.values()]
        sys.stdout.write("changed\n" if any(gone) else "unchanged\n")
        return 0
    if chosen.action == "list":
        for machine in machines.values():
            process = machine.process()
            state = f"on, process {process}" if process else "off"
            sys.stdout.write(f"{machine.name:10} {machine.address:15} ssh 127.0.0.1:{machine.ssh_port}  {state}\n")
        return 0
    if chosen.host not in machines:
        raise MachineError(f"there is no machine {chosen.host!r}; there are: {', '.join(machines)}")
    return _act_on(machines[chosen.host], chosen)


def _act_on(machine: Machine, chosen: argparse.Namespace) -> int:
    match chosen.action:
        case "power-off":
            machine.power_off()
        case "boot":
            machine.boot()
            machine.await_ssh()
        case "cut" | "join":
            machine.cable(plugged=chosen.action == "join")
        case "pull":
            machine.pull(chosen.serial)
        case "plug":
            machine.plug(chosen.serial, blank=chosen.blank)
        case _:
            options = [word for option in SSH_OPTIONS for word in ("-o", option)]
            target = ["-i", str(KEY), "-p", str(machine.ssh_port), "root@127.0.0.1"]
            return subprocess.run(["ssh", *options, *target, *chosen.command], check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
