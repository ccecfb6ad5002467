"""Runs ansible-playbook in children of a process that has loaded Ansible already: most of a run is its start.

    python warm_ansible.py SOCKET

Each connection to SOCKET is one run: as JSON its arguments, folder and environment, and its output and errors as open
files. The answers are the number of the process and, when it has ended, its exit status, each in a line.

What is read once, when Ansible is loaded, is that of this process: its settings file, its home, no colours. All that is
asked of the environment later is the run's own: options of plugins, such as the program of ssh.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What a run loads of Ansible and beside it.
MODULES = """
ansible.cli.playbook ansible.executor.playbook_executor ansible.executor.task_queue_manager
ansible.executor.process.worker ansible.executor.module_common ansible.galaxy.collection.concrete_artifact_manager
ansible.inventory.manager ansible.parsing.vault ansible.playbook.role_include ansible.plugins.action
ansible.plugins.callback.default ansible.plugins.connection.local ansible.plugins.connection.ssh
ansible.plugins.filter.core ansible.plugins.inventory.yaml ansible.plugins.lookup ansible.plugins.shell.sh
ansible.plugins.strategy.linear ansible.plugins.test.core ansible.template ansible.vars.manager
cryptography.fernet difflib ipaddress jinja2.ext yaml
"""
#: Kinds of plugins, of Ansible and of this repository, that a run looks at and that keep nothing of it.
PLUGINS = "inventory callback connection shell action filter"
#: Seconds until a process of that kind is there, and until a run is ended.
LOADED_WITHIN, ENDED_WITHIN = 60.0, 120.0


class WarmAnsible:
    """The process that has loaded Ansible, from the side of the tests.

    :param folder: for its socket, and for what Ansible writes on the control machine.
    :param settings: Ansible's settings file.
    """

    def __init__(self, folder: Path, settings: Path) -> None:
        self._address = folder / "socket"
        environment = plain(os.environ) | {"ANSIBLE_CONFIG": str(settings), "ANSIBLE_HOME": str(folder / "home")}
        words = [sys.executable, __file__, str(self._address)]
        self._process = subprocess.Popen(words, env=environment | {"ANSIBLE_NOCOLOR": "1"}, cwd=settings.parent)

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run ansible-playbook, as ``subprocess.run`` does.

        :raises TimeoutError: it takes more than two minutes; it is killed.
        """
        request = json.dumps([list(arguments), str(folder), dict(environment)]).encode()
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as output,
            tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
            self._connection() as connection,
        ):
            socket.send_fds(connection, [request], [output.fileno(), errors.fileno()])
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile() as answers:
                group = int(answers.readline())
                try:
                    status = int(answers.readline())
                except TimeoutError:
                    os.killpg(group, signal.SIGKILL)
                    raise
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess([*arguments], status, output.read(), errors.read())

    def _connection(self) -> socket.socket:
        deadline = time.monotonic() + LOADED_WITHIN
        while not self._address.exists():
            assert self._process.poll() is None, "the process that loads Ansible has ended"
            assert time.monotonic() < deadline, f"Ansible was not loaded within {LOADED_WITHIN:.0f} s"
            time.sleep(0.02)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ENDED_WITHIN)
        connection.connect(str(self._address))
        return connection


def plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what it tells Ansible."""
    return {name: value for name, value in environment.items() if not name.startswith("ANSIBLE_")}


def run(arguments: list[str]) -> int:
    """Run ansible-playbook in this process; returns its exit status."""
    playbook = importlib.import_module("ansible.cli.playbook").main
    sys.argv = ["ansible-playbook", *arguments]
    try:
        playbook()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def answer(connection: socket.socket) -> None:
    """Run what a connection asks for, in this process, which leads a group of its own."""
    os.setsid()
    connection.sendall(f"{os.getpid()}\n".encode())
    request, files, _, _ = socket.recv_fds(connection, 1 << 16, 2)
    while part := connection.recv(1 << 16):
        request += part
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number)
        os.close(file)
    arguments, folder, environment = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    status: Any = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(f"{status}\n".encode())


def load() -> None:
    """Load Ansible, and its plugins with their descriptions."""
    for name in MODULES.split():
        importlib.import_module(name)
    loader = importlib.import_module("ansible.plugins.loader")
    loader.init_plugin_loader()
    for kind in PLUGINS.split():
        # One file holds many filters, and has no class.
        wanted = {} if kind == "filter" else {"class_only": True}
        list(getattr(loader, f"{kind}_loader").all(**wanted))
    # Ansible minds a second time, and what it would load is there.
    vars(importlib.import_module("ansible.cli"))["init_plugin_loader"] = lambda *_: None


def serve(address: str) -> None:
    """Load Ansible, and fork for each connection, one at a time, until the process is told to end."""
    load()
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        Path(f"{address}.new").rename(address)  # it is there when it answers
        while True:
            connection, _ = listener.accept()
            with connection:
                child = os.fork()
                if not child:
                    listener.close()
                    try:
                        with contextlib.suppress(BrokenPipeError):
                            answer(connection)
                    finally:
                        os._exit(0)
            os.waitpid(child, 0)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this program
    serve(sys.argv[1])
