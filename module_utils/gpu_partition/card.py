"""What a card is to the planner and to the node, whoever has read it: ``cards`` does, from the inventory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import Model

#: Memory that one training needs at most, by its kind. MiB.
TrainingMemory = Mapping[str, int]


@dataclass(frozen=True)
class Card:
    """One declared card.

    ``address`` is what NVML finds it by: a PCI address (``0000:17:00.0``), a UUID or an index, as ``address_kind``
    says. ``slices`` maps profiles to numbers with an intent already resolved; it is empty unless the backend is
    ``mig``. ``workers`` is how many share the card (backend ``none``, else 0); ``mps_memory_mib`` and
    ``mps_thread_percentage`` are the limits of each of them (0 unless ``sharing`` is ``mps``).
    """

    name: str
    model: Model
    address_kind: str
    address: str
    backend: str = "none"
    slices: Mapping[str, int] = field(default_factory=dict)
    workers: int = 0
    sharing: str = "time"
    mps_memory_mib: int = 0
    mps_thread_percentage: int = 0
    vgpu_type: str = ""
    vgpu_count: int = 0
