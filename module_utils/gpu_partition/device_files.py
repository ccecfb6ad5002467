"""Makes the device files of NVIDIA's cards before a process without privileges needs them.

The driver's libraries have a setuid program make them when they find none. A unit with ``NoNewPrivileges=`` and
``DevicePolicy=`` gets nothing from it: the modules have to be loaded before such a unit starts, and the files be there.

Options of nvidia-modprobe: nvidia-modprobe(1), and for ``-f`` NVIDIA's MIG User Guide, "Device Nodes and Capabilities".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM: Final = "nvidia-modprobe"
#: Where the driver says what there is.
DRIVER: Final = Path("/proc/driver/nvidia")
_MINOR: Final = re.compile(r"^Device Minor:\s*(\d+)\s*$", re.MULTILINE)


def _minors(driver: Path) -> Iterator[str]:
    for about in sorted(driver.glob("gpus/*/information")):
        found = _MINOR.search(about.read_text(encoding="utf-8", errors="replace"))
        if found:
            yield found[1]


def commands(program: str, driver: Path = DRIVER) -> list[list[str]]:
    """Return what is to be run: for unified memory and the cards, and for the slices that there are now.

    :param program: path of nvidia-modprobe.
    :param driver: what the driver shows of itself.
    """
    slices = [str(path) for path in sorted(driver.glob("capabilities/**/access"))]
    cards = [word for minor in _minors(driver) for word in ("-c", minor)]
    found = [[program, "-u", *cards]]
    if slices:
        found.append([program, *(word for path in slices for word in ("-f", path))])
    return found
