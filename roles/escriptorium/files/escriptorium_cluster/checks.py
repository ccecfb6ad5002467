"""Runs checks side by side within a bounded time. Pure: no Django.

A check that hangs, as a file on a lost NFS server does, is not started a second time while it still hangs, so that
asking again and again does not pile up threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

logger = logging.getLogger(__name__)

#: Does one check: returns a short text, or raises any exception.
Check = Callable[[], str]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check."""

    ok: bool
    detail: str


class Prober:
    """Runs checks in threads of their own, at most one thread for each check."""

    def __init__(self, checks: Mapping[str, Check], time_limit: float) -> None:
        self.checks = checks
        self.time_limit = time_limit
        self._lock = threading.Lock()
        self._running: dict[str, tuple[threading.Thread, list[CheckResult]]] = {}

    def probe(self) -> dict[str, CheckResult]:
        """Run all checks at once and return their results, in the checks' order, within the time limit."""
        end = time.monotonic() + self.time_limit
        started = {name: self._start(name, check) for name, check in self.checks.items()}
        results: dict[str, CheckResult] = {}
        for name, (thread, outcome) in started.items():
            thread.join(max(end - time.monotonic(), 0))
            results[name] = (
                outcome[0] if outcome else CheckResult(ok=False, detail=f"no answer within {self.time_limit:g} s")
            )
        return results

    def _start(self, name: str, check: Check) -> tuple[threading.Thread, list[CheckResult]]:
        """Start a check, or return the one that is running already."""
        with self._lock:
            running = self._running.get(name)
            if running is not None and running[0].is_alive():
                return running
            outcome: list[CheckResult] = []
            thread = threading.Thread(target=_run, args=(name, check, outcome), name=f"health-{name}", daemon=True)
            self._running[name] = (thread, outcome)
            thread.start()
            return thread, outcome


def _run(name: str, check: Check, outcome: list[CheckResult]) -> None:
    """Run one check and store its result; the reason of a failure is logged, not shown."""
    try:
        outcome.append(CheckResult(ok=True, detail=check()))
    except Exception as error:
        logger.warning("health check %s failed: %s: %s", name, type(error).__name__, str(error).strip())
        outcome.append(CheckResult(ok=False, detail=f"failed ({type(error).__name__}), see the log"))


def report(results: Mapping[str, CheckResult]) -> dict[str, Any]:
    """Return the page's content."""
    return {
        "ok": all(result.ok for result in results.values()),
        "checks": {name: asdict(result) for name, result in results.items()},
    }
