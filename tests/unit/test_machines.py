"""What the test bed's virtual machines are told, without starting one."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from machines import MachineError, Monitor, machines_of
from support import Inventory

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
