"""What the test bed's virtual machines are told, without starting one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from machines import MachineError, Monitor, machines_of
from support import REPOSITORY, Inventory

if TYPE_CHECKING:
    from collections.abc import Iterator


def inventory(**hosts: dict[str, Any]) -> Inventory:
    return Inventory(Path("inventory"), hosts, {})


def host(last: int, **more: Any) -> dict[str, Any]:
    return {"node_cluster": "test", "private_address": f"10.9.8.{last}", "node_ssh_port": 22000 + last, **more}


def test_hosts_with_a_port_are_machines_and_know_their_peer() -> None:
    made = machines_of(inventory(one=host(1, node_memory=512), two=host(2), container={"node_image": "x"}))
    assert {name: machine.peer for name, machine in made.items()} == {"one": "two", "two": "one"}
    assert (made["one"].memory, made["one"].ssh_port) == (512, 22001)


def test_a_private_network_joins_two() -> None:
    with pytest.raises(MachineError, match="joins two"):
        machines_of(inventory(one=host(1), two=host(2), three=host(3)))


def test_disks_keep_their_places_and_serial_numbers() -> None:
    machine = machines_of(inventory(one=host(1, node_disks={"a": "1G", "b": "1G"})))["one"]
    words = machine._command(Path("image"), "tcg")
    devices = [word for word in words if word.startswith("driver=scsi-hd")]
    assert ["serial=b" in word and "scsi-id=2" in word for word in devices] == [False, True]


def test_a_machine_knows_nobody_elses_process() -> None:
    assert machines_of(inventory(one=host(1)))["one"].process() is None


@pytest.mark.parametrize(("lives_after", "starts"), [(1, 1), (99, 2)])
def test_a_machine_whose_emulation_fails_at_its_start_is_started_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lives_after: int, starts: int
) -> None:
    """Not for ever, and not where it ends for another reason."""
    machine = machines_of(inventory(one=host(1)))["one"]
    booted: list[str] = []
    monkeypatch.setattr(type(machine), "folder", tmp_path)
    monkeypatch.setattr(type(machine), "process", lambda _: 1 if len(booted) >= lives_after else None)
    monkeypatch.setattr(type(machine), "boot", lambda _: booted.append("on"))

    def ssh(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, stdout="running\n" if len(booted) >= lives_after else "")

    monkeypatch.setattr(type(machine), "ssh", ssh)
    log = tmp_path / "qemu.log"
    log.write_text("Assertion `section_index < d->map.sections_nb' failed. iotlb_to_section")
    if starts == 1:
        machine.await_ssh()
    else:
        with pytest.raises(MachineError, match="went off"):
            machine.await_ssh()
    assert len(booted) == starts
    booted.clear()
    log.write_text("out of memory")
    with pytest.raises(MachineError, match="out of memory"):
        machine.await_ssh()
    assert booted == []


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the socket of a QEMU that refuses `wrong`, and tells of a removed disk before each answer."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "qmp.sock"))
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rw", encoding="utf-8") as lines:
            lines.write('{"QMP": {}}\n')
            lines.flush()
            for line in lines:
                command = json.loads(line)["execute"]
                event = {"event": "DEVICE_DELETED", "data": {"device": f"disk-{command}", "path": "/"}}
                refused = {"error": {"class": "GenericError", "desc": "no such thing"}}
                lines.write(json.dumps(event) + "\n")
                lines.write(json.dumps(refused if command == "wrong" else {"return": {}}) + "\n")
                lines.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield tmp_path
    thread.join(timeout=5)
    server.close()


def test_monitor_keeps_events_that_come_between(folder: Path) -> None:
    with Monitor(folder) as monitor:
        assert monitor.ask("device_del", id="disk-a") == {}
        monitor.await_event("DEVICE_DELETED", device="disk-device_del")


def test_monitor_says_what_qemu_refuses(folder: Path) -> None:
    with Monitor(folder) as monitor, pytest.raises(MachineError, match="wrong: no such thing"):
        monitor.ask("wrong")


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Path]:
    """The socket of a service that runs programs in forks of itself."""
    address = tmp_path / "warm.sock"
    start = f"import sys, warm_python; del sys.path[0]; warm_python.serve({str(address)!r}, ['json'])"
    folder = REPOSITORY / "molecule/resources/vm/guest"
    with subprocess.Popen([sys.executable, "-c", start], cwd=folder) as service:
        while not address.exists():
            assert service.poll() is None
            time.sleep(0.01)
        yield address
        service.terminate()


def run_warm(warm: Path, folder: Path, program: str, **environment: str) -> tuple[int, str]:
    """Do what warm-python does, with a program as its standard input; answers exit status and output."""
    inherited = [str(folder), "0027", *(f"{name}={value}" for name, value in environment.items()), ""]
    (folder / "program").write_text(program, encoding="utf-8")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as service,
        (folder / "program").open() as given,
        (folder / "output").open("w") as output,
    ):
        service.settimeout(20)
        service.connect(str(warm))
        files = [given.fileno(), output.fileno(), output.fileno()]
        socket.send_fds(service, ["\0".join(inherited).encode()], files)
        status = service.recv(1)[0]
    return status, (folder / "output").read_text(encoding="utf-8")


def test_a_warm_program_is_what_a_new_one_would_be(warm: Path, tmp_path: Path) -> None:
    ask = "import os, sys; print(os.getcwd(), sys.argv, dict(os.environ), oct(os.umask(0)), __name__)"
    answer = (0, f"{tmp_path} [''] {{'LANG': 'C', 'X': 'a=b'}} 0o27 __main__\n")
    for _ in range(2):  # nothing of one program is left to the next
        assert run_warm(warm, tmp_path, f"{ask}; os.environ['Y'] = '1'; os.chdir('/')", LANG="C", X="a=b") == answer


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("import subprocess; raise SystemExit(subprocess.call(['false']))", 1, ""),
        ("import atexit; atexit.register(print, 'end')", 0, "end\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("1 +", 1, "SyntaxError"),
    ],
)
def test_the_end_of_a_warm_program_is_told(warm: Path, tmp_path: Path, program: str, status: int, said: str) -> None:
    ended, output = run_warm(warm, tmp_path, program, PATH=os.environ["PATH"])
    assert ended == status
    assert said in output
