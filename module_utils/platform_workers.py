"""How long the end of a run waits for workers that start. No Ansible import.

A start takes seconds, or many minutes where a host is busy or slow: no number fits both. So the wait goes by progress.
Whether a start makes any is known on its host: its launcher has systemd wait for as long as it does, and systemd kills
it else (``escriptorium_cluster.starting``). Here a start under way is progress, until systemd has begun it anew too
often; and so is a worker that answers at last. Who only waits for workers that neither start nor answer gives up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Seconds without progress after which the wait ends.
QUIET_SECONDS = 120.0
#: Starts that may fail during the wait before the next one counts as no progress any more.
FAILED_STARTS = 2
#: systemd's words for a start under way; `auto-restart`, the pause after one that failed, is none.
STARTING = frozenset({"start-pre", "start", "start-post"})


@dataclass
class Wait:
    """A wait for workers.

    :param since: when it began, in s on the clock of all the others.
    """

    since: float
    quiet: float = QUIET_SECONDS
    _silent: frozenset[str] | None = None
    _restarts: dict[str, int] = field(default_factory=dict)

    def goes_on(self, silent: Sequence[str], units: Mapping[str, Mapping[str, Any]], now: float) -> bool:
        """Whether it goes on after a look.

        :param silent: workers that do not answer.
        :param units: how their units are, as ``escriptorium_cluster.units`` has it; those of other hosts are not there.
        """
        if not silent:
            return False
        fewer = self._silent is not None and frozenset(silent) < self._silent
        self._silent = frozenset(silent)
        # All of them: each has its starts counted.
        starting = [worker for worker in silent if worker in units and self._starts(worker, units[worker])]
        if starting or fewer:
            self.since = now
        return now - self.since < self.quiet

    def _starts(self, worker: str, unit: Mapping[str, Any]) -> bool:
        """Whether a worker starts, and its starts do not fail again and again."""
        # Whoever starts a unit by hand sets its count to 0.
        first = min(self._restarts.get(worker, unit["restarts"]), unit["restarts"])
        self._restarts[worker] = first
        return unit["active"] == "activating" and unit["sub"] in STARTING and unit["restarts"] - first <= FAILED_STARTS

    def failed_starts(self, worker: str, unit: Mapping[str, Any]) -> int:
        """Return how many starts of a worker have failed during the wait."""
        return int(unit["restarts"] - self._restarts.get(worker, unit["restarts"]))


def describe(silent: Sequence[str], units: Mapping[str, Mapping[str, Any]], wait: Wait) -> list[str]:
    """Return a line for each worker that does not answer: what its unit does."""
    lines = []
    for worker in sorted(silent):
        unit = units.get(worker)
        if unit is None:
            lines.append(f"{worker} does not answer")
            continue
        if unit["sub"] == "start-pre":
            doing = "waits for database, broker and media, or after a start that failed"
        elif unit["active"] == "activating" and unit["sub"] in STARTING:
            doing = unit["status"] or "begins to start"
        elif unit["active"] == "active":
            doing = "runs, and does not answer"
        else:
            doing = f"is {unit['active']} ({unit['sub']})"
        failed = wait.failed_starts(worker, unit)
        lines.append(f"{worker} {doing}" + (f"; {failed} of its starts failed" if failed else ""))
    return lines
