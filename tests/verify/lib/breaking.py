"""Runs of playbooks that are broken off, as by Ctrl-C or by a control machine that is lost, and where."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final

from support import REPOSITORY, TOOLS, plain_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Inventory

#: How a run ends that does not come to its end: Ctrl-C, and a machine that is gone.
BLOWS: Final = (signal.SIGINT, signal.SIGKILL)
#: The line with which a task or a handler begins; its name, without that of a role.
BEGINS: Final = re.compile(r"(?:TASK|RUNNING HANDLER) \[(?:[\w.]+ : )?(.*)\]")


def tasks(output: str) -> list[tuple[str, set[str]]]:
    """Return the tasks and handlers of a run in their order: name, and what hosts said (ok, changed, ...)."""
    found: list[tuple[str, set[str]]] = []
    for line in output.splitlines():
        if begins := BEGINS.match(line):
            found.append((begins[1], set()))
        elif found and (answer := re.match(r"(\w+): \[", line)):
            found[-1][1].add(answer[1])
    return found


def stages(output: str, count: int) -> list[tuple[str, signal.Signals]]:
    """Return where runs of the kind that gave this output are broken off, and how: spread over what they do.

    From the first task that changes something on: before it nothing has begun. Only names that a run has once, and that
    did something: the run that is to be broken off has them too. Ctrl-C and the machine that is gone take turns.

    :param count: of stages, where the run has as many.
    """
    every = tasks(output)
    names = [name for name, _ in every]
    first = next((place for place, (_, said) in enumerate(every) if "changed" in said), len(every))
    found = [name for name, said in every[first:] if said & {"ok", "changed"} and names.count(name) == 1]
    taken = sorted({round(step * (len(found) - 1) / max(1, count - 1)) for step in range(count)}) if found else []
    return list(zip((found[place] for place in taken), itertools.cycle(BLOWS), strict=False))


def break_off(
    inventory: Inventory,
    playbook: str,
    *arguments: str,
    task: str,
    blow: signal.Signals,
    pause: float = 0.5,
    until: Callable[[], bool] = lambda: True,
) -> str:
    """Run a playbook until one of its tasks or handlers has begun, and end it as Ctrl-C or a lost control machine does.

    :param task: its name, without that of a role.
    :param pause: seconds that it is given.
    :param until: asked again and again after that, until it is true.
    :raises AssertionError: the run never came to that task, or had ended before.
    """
    words = [TOOLS / "ansible-playbook", "--inventory", inventory.folder, REPOSITORY / playbook, *arguments]
    output = ""
    with subprocess.Popen(
        [str(word) for word in words],
        cwd=REPOSITORY,
        env=plain_environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            output += line
            if (begins := BEGINS.match(line)) and begins[1] == task:
                time.sleep(pause)
                while not until():
                    assert run.poll() is None, f"{playbook} ended within '{task}':\n{output[-8000:]}"
                    time.sleep(0.1)
                os.killpg(run.pid, blow)
                break
        else:
            raise AssertionError(f"{playbook} never came to '{task}':\n{output[-8000:]}")
        # What it has started over ssh goes on there, and holds its output.
        run.stdout.close()
        run.wait(timeout=60)
    return output
