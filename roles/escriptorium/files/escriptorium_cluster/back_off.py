"""Makes a worker that fails again and again wait longer each time before its next start. Standard library only.

    python -m escriptorium_cluster.back_off UNIT

Its unit runs this before it starts. The first start that systemd tries by itself comes at once, the next ones wait 5,
10, 20 s and so on, up to two minutes: a start loads for many seconds of a processor that the jobs of other workers
need. What was started by hand or by a deployment does not wait. A worker that has worked for a minute has started for
good (``forget``): one that is killed now and then is back at once.

systemd's own means do not do that: RestartSteps= is not in Debian 12's, and it never forgets.

Exit status 0, always: whatever goes wrong here, the worker starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Seconds before the second of the starts that failed in a row, and the most that one may wait.
FIRST_SECONDS, LONGEST_SECONDS = 5.0, 120.0
#: Folder of the unit's own, which stays while systemd restarts it, and the file there that holds the number of starts.
FOLDER_VARIABLE, FILE = "RUNTIME_DIRECTORY", "starts"


def pause(failures: int) -> float:
    """Return the seconds to wait after so many starts in a row that did not last."""
    if failures <= 1:
        return 0.0
    # The exponent is bounded: a worker may fail for a year.
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 2, 16))


def count(file: Path, *, by_itself: bool) -> int:
    """Note a start, and return how many before it, in a row, systemd has made by itself and did not last.

    :param by_itself: whether systemd makes this one by itself, too.
    """
    try:
        failures = int(file.read_text())
    except (OSError, ValueError):
        failures = 0
    failures = failures + 1 if by_itself else 0
    file.write_text(f"{failures}\n")
    return failures


def forget(environment: Mapping[str, str]) -> None:
    """Note that a worker has started for good. Never raises."""
    folder = environment.get(FOLDER_VARIABLE)
    try:
        if folder:
            (Path(folder) / FILE).unlink(missing_ok=True)
    except OSError as error:
        print(f"the starts of this worker go on being counted: {error}", file=sys.stderr)


def restarted_by_systemd(unit: str) -> bool:
    """Ask systemd whether it starts a unit by itself, because its processes have ended."""
    command = ["systemctl", "show", "--property=NRestarts", "--value", unit]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout) > 0


def main(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    by_itself: Callable[[str], bool] = restarted_by_systemd,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run the command; returns the exit status."""
    try:
        (unit,) = arguments
        failures = count(Path(environment[FOLDER_VARIABLE]) / FILE, by_itself=by_itself(unit))
    except Exception as error:  # a worker must not be kept from its work by this
        print(f"the starts of this worker could not be counted: {error!r}", file=sys.stderr)
        return 0
    seconds = pause(failures)
    if seconds:
        print(f"{failures} starts in a row did not last a minute: the next one is in {seconds:g} s", file=sys.stderr)
        sleep(seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
