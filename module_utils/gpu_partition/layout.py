"""What a node is to become, and what it remembers: files that the role writes and that ``gpu-partition`` keeps.

- the layout (``/etc/gpu-partition/layout.json``): written by the role, read only here
- placements (``/var/lib/gpu-partition/placements.json``): where slices lie on each card. Instances are lost at a
  reboot; with this the same slices come back with the same names
- slices (``/run/gpu-partition/slices.json``): name and UUID of each slice. NVML tells only root where a slice lies, so
  this is how programs without privileges find theirs
- stopped units (``/run/gpu-partition/stopped.json``): what an ``apply`` has stopped and not yet started again
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .cards import DEFAULT_TRAINING_MEMORY, CardProblem, check_training_memory, parse_cards
from .placement import Slice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .card import Card, TrainingMemory

LAYOUT_FILE: Final = Path("/etc/gpu-partition/layout.json")
STATE_FOLDER: Final = Path("/var/lib/gpu-partition")
RUN_FOLDER: Final = Path("/run/gpu-partition")

DRAIN_TIMEOUT_S: Final = 60.0
_KEYS: Final = ("cards", "training_memory_mib", "slice_units", "card_units", "driver_clients", "drain_timeout_s")


class LayoutError(ValueError):
    """The layout file cannot be used; ``problems`` says all that is wrong with it, one line each."""

    def __init__(self, path: Path, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{path}: " + "; ".join(self.problems))


@dataclass(frozen=True)
class Layout:
    """What becomes of the cards of a node.

    ``slice_units`` are names of units with ``{slice}`` for the name of a worker (a slice, or a share of a card),
    ``card_units`` with ``{card}`` for the name of a card. ``driver_clients`` are units that hold the driver open.
    ``drain_timeout_s`` is how long workers may take to end, in seconds.
    """

    cards: tuple[Card, ...] = ()
    training_memory: TrainingMemory = field(default_factory=lambda: DEFAULT_TRAINING_MEMORY)
    slice_units: tuple[str, ...] = ()
    card_units: tuple[str, ...] = ()
    driver_clients: tuple[str, ...] = ()
    drain_timeout_s: float = DRAIN_TIMEOUT_S


def _words(problem: CardProblem) -> str:
    return f"{problem.path}: found {problem.found}, wanted {problem.wanted}: {problem.mend}"


def _names(raw: Mapping[str, Any], key: str, placeholder: str, problems: list[str]) -> tuple[str, ...]:
    value = raw.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) and placeholder in name for name in value):
        within = f", each with {placeholder}" if placeholder else ""
        problems.append(f"{key}: must be a list of names of units{within}")
        return ()
    return tuple(value)


def _seconds(raw: Mapping[str, Any], problems: list[str]) -> float:
    value = raw.get("drain_timeout_s", DRAIN_TIMEOUT_S)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        problems.append("drain_timeout_s: must be a number of seconds from 0")
        return DRAIN_TIMEOUT_S
    return float(value)


def parse_layout(raw: object, path: Path) -> Layout:
    """Return the layout that a file holds.

    Raises ``LayoutError``: with all that is wrong.
    """
    if not isinstance(raw, dict):
        raise LayoutError(path, ("must be a mapping",))
    problems = [f"unknown key {key!r}" for key in raw if key not in _KEYS]
    memory, wrong_memory = check_training_memory(
        raw.get("training_memory_mib", dict(DEFAULT_TRAINING_MEMORY)), "training_memory_mib"
    )
    cards, wrong_cards = parse_cards(raw.get("cards", []), memory)
    problems += map(_words, (*wrong_memory, *wrong_cards))
    layout = Layout(
        cards=cards,
        training_memory=memory,
        slice_units=_names(raw, "slice_units", "{slice}", problems),
        card_units=_names(raw, "card_units", "{card}", problems),
        driver_clients=_names(raw, "driver_clients", "", problems),
        drain_timeout_s=_seconds(raw, problems),
    )
    if problems:
        raise LayoutError(path, problems)
    return layout


def read_layout(path: Path = LAYOUT_FILE) -> Layout:
    """Return the layout of this node.

    Raises ``OSError``: the file cannot be read.
    ``LayoutError``: it cannot be used.
    """
    text = path.read_text(encoding="utf-8")
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise LayoutError(path, (f"is no JSON: {error}",)) from error
    return parse_layout(raw, path)


def _read(path: Path) -> dict[str, Any]:
    """Return what a file of ours holds; nothing where it is missing or broken: all of it can be found out again."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Put a file in place by renaming, so that it is never seen or left half written."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Memory:
    """What a node remembers between calls: ``state`` is kept over a reboot, ``run`` is not."""

    state: Path = STATE_FOLDER
    run: Path = RUN_FOLDER

    def placements(self) -> dict[str, tuple[Slice, ...]]:
        """Return where slices lay on each card (by UUID) when they were made last."""
        found = {}
        for uuid, slices in _read(self.state / "placements.json").items():
            try:
                found[str(uuid)] = tuple(Slice(int(start), str(profile), int(size)) for start, profile, size in slices)
            except (TypeError, ValueError):
                continue
        return found

    def remember_placements(self, placements: Mapping[str, Iterable[Slice]]) -> None:
        """Keep where slices come to lie on these cards; other cards keep what is known of them."""
        merged = {**self.placements(), **{uuid: tuple(slices) for uuid, slices in placements.items()}}
        raw = {uuid: [[found.start, found.profile, found.size] for found in slices] for uuid, slices in merged.items()}
        _write(self.state / "placements.json", raw)

    def slices(self) -> dict[str, str]:
        """Return the UUID of each slice by name."""
        return {str(name): str(uuid) for name, uuid in _read(self.run / "slices.json").items()}

    def remember_slices(self, slices: Mapping[str, str]) -> None:
        """Keep the UUID of each slice, for who cannot find it out."""
        _write(self.run / "slices.json", slices)

    def stopped_units(self) -> tuple[str, ...]:
        """Return the units that an ``apply`` stopped and did not start again because it was killed."""
        units = _read(self.run / "stopped.json").get("units", [])
        return tuple(str(unit) for unit in units) if isinstance(units, list) else ()

    def remember_stopped_units(self, units: Iterable[str]) -> None:
        """Keep which units are stopped; none: forget."""
        wanted = sorted(set(units))
        if wanted:
            _write(self.run / "stopped.json", {"units": wanted})
        else:
            (self.run / "stopped.json").unlink(missing_ok=True)
