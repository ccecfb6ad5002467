"""What the cards of a host become, for people (a table, a picture in text) and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .placement import Slice, describe, place
from .workers import KINDS, gpu_workers, slice_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .card import Card, TrainingMemory
    from .models import Model

    Placed = Mapping[str, Sequence[Slice]]

_MIB_PER_GIB: Final = 1024
_LOST: Final = "lost"
_NARROWEST: Final = 6
_EDGE: Final = "  "


def memory_lost_mib(model: Model, slices: Sequence[Slice]) -> int:
    """Return how much of a card's memory (MiB) lies in memory slices that no slice of the layout has.

    What the driver keeps for itself within each slice is not counted: it is the same with every layout.
    """
    unused = model.memory_slices - sum(found.size for found in slices)
    return model.memory_mib * unused // model.memory_slices


def compute_slices_used(model: Model, slices: Sequence[Slice]) -> int:
    """Return how many compute slices of a card its slices have together."""
    return sum(model.profiles[found.profile].compute for found in slices)


def card_slices(card: Card, placed: Placed | None = None) -> tuple[Slice, ...]:
    """Return the slices of a card by start: as they are where ``placed`` says so, else as they are planned."""
    if card.backend != "mig":
        return ()
    known = (placed or {}).get(card.name)
    return place(card.model, card.slices) if known is None else tuple(sorted(known))


def trainings_at_once(
    cards: Sequence[Card], training_memory: TrainingMemory, placed: Placed | None = None
) -> dict[str, int]:
    """Return for each kind on how many workers of the cards it can run at once, if no other kind runs."""
    workers = gpu_workers(cards, training_memory, placed)
    return {kind: sum(kind in worker.trainings for worker in workers) for kind in KINDS}


def _lost(card: Card, slices: Sequence[Slice]) -> int:
    return memory_lost_mib(card.model, slices) if card.backend == "mig" else 0


def as_dict(
    cards: Sequence[Card], training_memory: TrainingMemory, placed: Placed | None = None
) -> list[dict[str, Any]]:
    """Return for each card, ready for JSON: what it is, its slices, memory lost (MiB), and trainings at once."""
    report = []
    for card in cards:
        slices = card_slices(card, placed)
        report.append(
            {
                "name": card.name,
                "model": card.model.name,
                "address": card.address,
                "backend": card.backend,
                "memory_mib": card.model.memory_mib,
                "slices": [
                    {
                        "name": slice_name(card.name, found),
                        "profile": found.profile,
                        "start": found.start,
                        "size": found.size,
                        "memory_mib": card.model.profiles[found.profile].memory_mib,
                    }
                    for found in slices
                ],
                "memory_lost_mib": _lost(card, slices),
                "workers": len(gpu_workers([card], training_memory, placed)),
                "trainings": trainings_at_once([card], training_memory, placed),
            }
        )
    return report


def gigabytes(memory_mib: int) -> str:
    """Return memory (MiB) in GB of 1024 MiB with at most one decimal: ``35``, ``9.9``."""
    return f"{memory_mib / _MIB_PER_GIB:.1f}".removesuffix(".0")


def becomes(card: Card) -> str:
    """Return in words what becomes of a card."""
    if card.backend == "mig":
        return describe(card.model, card.slices)
    if card.backend == "vgpu":
        return f"{card.vgpu_count} vGPU of type {card.vgpu_type}"
    if card.workers == 1:
        return "whole card, 1 worker"
    if card.sharing == "mps":
        share = f"{card.mps_memory_mib} MiB and {card.mps_thread_percentage} % of threads"
        return f"{card.workers} workers at once (MPS), each {share}"
    return f"{card.workers} workers by turns, each {card.model.memory_mib // card.workers} MiB"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines) + "\n"


def table(cards: Sequence[Card], training_memory: TrainingMemory, placed: Placed | None = None) -> str:
    """Return a table with one row per card and a last one with the sums.

    The columns of the kinds of training say on how many workers each can run at once; a worker that can run both kinds
    counts in both columns.
    """
    rows: list[tuple[str, ...]] = [("card", "model", "address", "backend", "becomes", "lost", "workers", *KINDS)]
    for card, entry in zip(cards, as_dict(cards, training_memory, placed), strict=True):
        lost = f"{gigabytes(entry['memory_lost_mib'])} of {gigabytes(card.model.memory_mib)} GB"
        kinds = (str(entry["trainings"][kind]) for kind in KINDS)
        rows.append(
            (card.name, card.model.name, card.address, card.backend, becomes(card), lost, str(entry["workers"]), *kinds)
        )
    if len(cards) > 1:
        totals = trainings_at_once(cards, training_memory, placed)
        workers = str(len(gpu_workers(cards, training_memory, placed)))
        rows.append(("all", "", "", "", "", "", workers, *(str(totals[kind]) for kind in KINDS)))
    return _aligned(rows)


def _cells(model: Model, slices: Sequence[Slice]) -> list[tuple[str, int]]:
    """Return what lies on the memory slices in order: a text and how many memory slices it covers."""
    starts = {found.start: found for found in slices}
    cells = []
    position = 0
    while position < model.memory_slices:
        found = starts.get(position)
        cells.append((found.profile, found.size) if found else (_LOST, 1))
        position += found.size if found else 1
    return cells


def _box(cells: Sequence[tuple[str, int]], unit: int) -> list[str]:
    """Draw cells side by side, each as wide as its share; what is lost is hatched."""
    border, middle = _EDGE + "+", _EDGE + "|"
    for text, size in cells:
        width = size * (unit + 1) - 1
        border += "-" * width + "+"
        middle += (text.center(width, "/") if text == _LOST else text.center(width)) + "|"
    return [border, middle, border]


def _mig_picture(card: Card, slices: Sequence[Slice]) -> list[str]:
    cells = _cells(card.model, slices)
    # The narrowest cell that leaves a blank on either side of every name; n of them have n - 1 borders to spare.
    unit = max(_NARROWEST, *(-(-(len(text) + 3) // size) - 1 for text, size in cells))
    scale = "".join(str(number).center(unit + 1) for number in range(card.model.memory_slices))
    lost = memory_lost_mib(card.model, slices)
    used = f"{gigabytes(card.model.memory_mib - lost)} of {gigabytes(card.model.memory_mib)} GB"
    compute = f"{compute_slices_used(card.model, slices)} of {card.model.compute_slices} compute slices"
    note = f"{used} in slices, {gigabytes(lost)} GB lost; {compute} in use"
    return [*_box(cells, unit), f"{_EDGE} {scale}".rstrip() + "  memory slices", _EDGE + note]


def picture(card: Card, placed: Placed | None = None) -> str:
    """Return a picture of a card in text: its memory slices in order, with what lies on each and what is lost."""
    address = f", {card.address_kind} {card.address}" if card.address else ""
    head = f"{card.name}: {card.model.name}{address}, backend {card.backend}"
    if card.backend == "mig":
        lines = _mig_picture(card, card_slices(card, placed))
    else:
        text = f"{becomes(card)}; {gigabytes(card.model.memory_mib)} GB"
        lines = _box([(f" {text} ", 1)], len(text) + 2)
    return "\n".join([head, *lines]) + "\n"
