"""A program that is waited for as long as something moves."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

#: restic waits for ever for a server that takes bytes and answers nothing, and for an ssh that has ended: what moved no
#: more than this for so long is ended. Its tries take time of processors too.
STALLED: Final = 1800.0  # s
MOVED_BYTES: Final = 1 << 20  # of files and network
MOVED_SECONDS: Final = 60.0  # of processors


class StalledError(Exception):
    """Nothing has moved any more, and it was ended; the message is what the program has said."""


def moved(process: int) -> tuple[int, float]:
    """Return the bytes that a process has read and written, files and network, and its processor time in seconds."""
    try:
        counters = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
        times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        # It has just ended.
        return 0, 0.0
    return int(counters["rchar"]) + int(counters["wchar"]), sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def communicate(process: subprocess.Popen[str], most: float | None = None) -> tuple[str, str]:
    """Wait for the end of a process, and ask it to end after ``most`` seconds; answers what it printed, and said.

    Raises:
        StalledError: nothing has moved for STALLED seconds.

    """
    before, since = moved(process.pid), time.monotonic()
    deadline = since + most if most is not None else math.inf
    while True:
        try:
            return process.communicate(timeout=max(0, min(60, STALLED / 4, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                # It takes its lock away.
                process.send_signal(signal.SIGINT)
                deadline = math.inf
            now = moved(process.pid)
            if now[0] - before[0] >= MOVED_BYTES or now[1] - before[1] >= MOVED_SECONDS:
                before, since = now, time.monotonic()
            elif time.monotonic() - since >= STALLED:
                # Its own way to end would ask the server once more.
                process.kill()
                raise StalledError(process.communicate()[1]) from None
