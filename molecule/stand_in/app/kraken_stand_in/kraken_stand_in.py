"""The commands ``kraken`` and ``ketos`` of the stand-in: they answer ``--version`` and say that they are none."""

import importlib.metadata
import sys


def _run(name: str) -> int:
    if sys.argv[1:] == ["--version"]:
        print(f"{name}, version {importlib.metadata.version('kraken')} (stand-in)")
        return 0
    print(f"{name}: this is a stand-in for Kraken, it recognises and trains nothing", file=sys.stderr)
    return 2


def kraken() -> int:
    """Run ``kraken``."""
    return _run("kraken")


def ketos() -> int:
    """Run ``ketos``."""
    return _run("ketos")
