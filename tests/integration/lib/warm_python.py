"""Runs programs of the application in children of a process that has loaded most of it already: in 20 ms, not 700.

    python warm_python.py SOCKET FIRST

Each connection to SOCKET is one program: the JSON list of its arguments, as Python itself takes them, and its standard
input, output and error as open files. When it has ended, its exit status is the answer. FIRST: what all programs begin
with, ``manage.py`` or ``-m``; the latter ones are those of the package that load no Django, so that it is not loaded
here.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from typing import Any

#: What the programs that load no Django spend their time on.
LIBRARIES = ("celery.app.control", "kombu.transport.redis", "psycopg2", "redis")


def load(first: str) -> None:
    """Load what all programs need. Opens no connection: children would share it."""
    if first == "manage.py":
        sys.path.insert(0, "")
        importlib.import_module("django").setup()
    else:
        for name in LIBRARIES:
            importlib.import_module(name)


def run(arguments: list[str]) -> int:
    """Run one program as Python does; returns its exit status."""
    kind, *rest = arguments
    try:
        if kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as Python itself does
        else:
            sys.argv = arguments
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def answer(connection: socket.socket) -> None:
    """Run the program that a connection asks for, in this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while part := connection.recv(1 << 16):
        request += part
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    arguments: list[str] = json.loads(request)
    status: Any = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(status).encode())


def main() -> None:
    """Serve until the process is told to end."""
    address, first = sys.argv[1:]
    load(first)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        # It is there when it answers.
        os.rename(f"{address}.new", address)  # noqa: PTH104 - as little as possible is loaded here
        while True:
            connection, _ = listener.accept()
            with connection:
                if not os.fork():
                    listener.close()
                    try:
                        answer(connection)
                    finally:
                        os._exit(0)


if __name__ == "__main__":
    main()
