"""Jobs that misbehave: programs of a test that run in a worker, as one would run that came with a file."""

from __future__ import annotations

import json
from typing import Any, Final

#: Begins each program: what is tried, and how that ends.
_TRY: Final = """
import glob, json, os, socket

def tried(act):
    try:
        return [True, act()]
    except Exception as error:
        return [False, type(error).__name__ + ": " + str(error)]

def written(path):
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)

def read(path):
    with open(path, "rb") as file:
        return file.read().decode(errors="replace")

def connected(address, port):
    socket.create_connection((address, port), 3).close()
"""
#: Sends a job and waits for what it returns.
_SEND: Final = (
    "import json\nfrom celery import current_app\n"
    "name = 'core.tasks.replace_line_transcriptions_text'\n"
    "job = current_app.send_task(name, kwargs={{'program': {program!r}}}, queue={queue!r})\n"
    "print(json.dumps(job.get(timeout=120)))"
)


def misbehave(frontend: Any, queue: str, program: str) -> dict[str, Any]:
    """Run a program as a job of a queue, and return what it has put into ``found``."""
    sent = _SEND.format(program=_TRY + program, queue=queue)
    answer = frontend.check_output("/usr/local/bin/escriptorium-manage shell -c %s", sent)
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found
