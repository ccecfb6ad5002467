"""What a release of eScriptorium asks of this platform that it does not give. Pure: no Django, no Celery.

A release may run and pass all checks, and still have jobs that nobody takes: those of a queue without a worker wait,
and are marked as lost; a task that the package does not know is neither routed to a slice that is big enough, nor
bounded, nor repaired after a kill; a setting under a new name keeps its default; another Kraken writes other models.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from escriptorium_cluster.config import HELD_QUEUE, QUEUES
from escriptorium_cluster.probe import PROBE_TASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

#: Major version of Kraken whose models and checkpoints the package knows (guard.py, training_slots.py).
KRAKEN: Final = 5
#: Queues that a worker of the platform takes: preflight refuses an inventory in which one of them has none.
SERVED: Final = frozenset(QUEUES) - {HELD_QUEUE}
#: Tasks of eScriptorium 05d3a0d4, each of which the package either treats by its name or may leave alone.
TASKS: Final = frozenset(
    {
        "core.tasks.align",
        "core.tasks.convert",
        "core.tasks.forced_align",
        "core.tasks.generate_part_thumbnails",
        "core.tasks.lossless_compression",
        "core.tasks.recalculate_masks",
        "core.tasks.replace_line_transcriptions_text",
        "core.tasks.segment",
        "core.tasks.segtrain",
        "core.tasks.train",
        "core.tasks.transcribe",
        "escriptorium.celery.debug_task",
        "imports.tasks.document_export",
        "imports.tasks.document_import",
        "users.tasks.async_email",
        PROBE_TASK,
    }
)
#: Celery's own.
BUILT_IN: Final = "celery."
_WORD: Final = re.compile(r"[A-Z][A-Z0-9_]+")
#: A queue that is named where a task is sent: queue="live", {"queue": "live"}.
_QUEUE: Final = re.compile(r"""\bqueue["']?\s*[:=]\s*["']([\w.-]+)["']""")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a release asks for and the platform does not give: a short name, and what it means."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """What stands in the Python files of a release: words in capitals, and queues by which tasks are sent."""

    words: frozenset[str]
    queues: frozenset[str]


def read_source(folder: Path) -> Source:
    """Read the Python files below a folder, those of tests left out. None where there is no such folder."""
    words: set[str] = set()
    queues: set[str] = set()
    for file in sorted(folder.rglob("*.py")):
        if "tests" in file.relative_to(folder).parts:
            continue
        text = file.read_text(errors="replace")
        words.update(_WORD.findall(text))
        queues.update(_QUEUE.findall(text))
    return Source(frozenset(words), frozenset(queues))


def variables(text: str) -> list[str]:
    """Return the names of an environment file. What they are set to, secrets among it, is not read."""
    return re.findall(r"^(\w+)=", text, re.MULTILINE)


def routed(routes: Any) -> set[str]:
    """Return the queues of Celery's routes by name, as Django settings have them."""
    values = routes.values() if hasattr(routes, "values") else []
    return {value.get("queue", "") if hasattr(value, "get") else str(value) for value in values} - {""}


def unserved(queues: Iterable[str]) -> Iterator[Finding]:
    """Yield the queues that no worker of the platform takes."""
    for name in sorted(set(queues) - SERVED):
        yield Finding(
            f"queue:{name}", f"queue {name}: no worker takes its jobs; they would wait, and be marked as lost"
        )


def unknown_tasks(tasks: Iterable[str]) -> Iterator[Finding]:
    """Yield the tasks that the package does not know."""
    for name in sorted(set(tasks) - TASKS):
        if not name.startswith(BUILT_IN):
            yield Finding(
                f"task:{name}",
                f"task {name}: it is not known here; a training would get any slice, no user's bound would count it, "
                "and what a killed one leaves would not be repaired",
            )


def renamed(settings: Iterable[str], before: Source, after: Source) -> Iterator[Finding]:
    """Yield what the platform sets, the release that runs reads, and this one does not."""
    for name in sorted(set(settings) & before.words - after.words):
        yield Finding(
            f"setting:{name}",
            f"setting {name}: the release that runs reads it, and this one does not, or by another name",
        )


def other_kraken(version: str) -> Iterator[Finding]:
    """Yield a Kraken of another major version than the package knows."""
    major = version.partition(".")[0]
    if major != str(KRAKEN):
        yield Finding(
            f"kraken:{major}", f"kraken {version}: models and checkpoints are known here as Kraken {KRAKEN} writes them"
        )


def told(findings: Iterable[Finding]) -> list[Mapping[str, str]]:
    """Return findings as JSON has them."""
    return [asdict(finding) for finding in findings]
