"""The workers of a host's cards: one per slice, or as many as share a card. Each does one training at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .placement import Slice, place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .card import Card, TrainingMemory

KINDS: Final = ("recognition", "segmentation")


@dataclass(frozen=True)
class GpuWorker:
    """A worker and what it runs on.

    ``profile`` is empty and ``start`` is ``None`` where it has a whole card or a share of one. ``memory_mib`` is what
    its trainings can use, ``trainings`` the kinds that fit into it.
    """

    name: str
    card: str
    profile: str
    start: int | None
    memory_mib: int
    trainings: tuple[str, ...]


def fitting_trainings(memory_mib: int, training_memory: TrainingMemory) -> tuple[str, ...]:
    """Return the kinds of training that fit into this much memory (MiB)."""
    return tuple(kind for kind in KINDS if training_memory[kind] <= memory_mib)


def slice_name(card: str, found: Slice) -> str:
    """Return the name of a slice: card, profile and the memory slice where it starts, as in ``gpu0-2g.10gb-0``.

    It stays the same however often the slice is made anew at that place. ``+me`` is written ``.me``, since a plus sign
    cannot stand in the name of a systemd unit.
    """
    return f"{card}-{found.profile.replace('+', '.')}-{found.start}"


def _slice_workers(card: Card, placed: Sequence[Slice], training_memory: TrainingMemory) -> list[GpuWorker]:
    workers = []
    for found in sorted(placed):
        memory = card.model.profiles[found.profile].memory_mib
        kinds = fitting_trainings(memory, training_memory)
        workers.append(GpuWorker(slice_name(card.name, found), card.name, found.profile, found.start, memory, kinds))
    return workers


def _sharing_workers(card: Card, training_memory: TrainingMemory) -> list[GpuWorker]:
    memory = card.mps_memory_mib if card.sharing == "mps" else card.model.memory_mib // card.workers
    kinds = fitting_trainings(memory, training_memory)
    return [GpuWorker(f"{card.name}-{ordinal}", card.name, "", None, memory, kinds) for ordinal in range(card.workers)]


def gpu_workers(
    cards: Sequence[Card],
    training_memory: TrainingMemory,
    placed: Mapping[str, Sequence[Slice]] | None = None,
) -> tuple[GpuWorker, ...]:
    """Return the workers of a host, in the order of its cards and of the slices on each.

    ``placed`` says for a card's name where its slices lie in fact; without it they lie where ``place`` puts them on an
    empty card. A card that is passed on as vGPU has no workers here: they are in the virtual machines.

    Raises ``IllegalLayoutError`` where a card cannot take its slices, and ``KeyError`` where ``placed`` names a profile
    that the card does not have.
    """
    workers: list[GpuWorker] = []
    for card in cards:
        if card.backend == "mig":
            slices = (placed or {}).get(card.name)
            workers += _slice_workers(
                card, place(card.model, card.slices) if slices is None else slices, training_memory
            )
        elif card.backend == "none":
            workers += _sharing_workers(card, training_memory)
    return tuple(workers)
