"""The cards the platform knows, read from ``models.json`` beside this file, which names the source of each figure.

All memory is in MiB (1024 * 1024 bytes), as NVML counts it. No figure of a card stands in code.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_TABLE: Final = Path(__file__).with_name("models.json")
_VENDOR: Final = "nvidia "
# ECC takes a sixteenth of the memory of cards with GDDR, and drivers report a little more or less than each other.
_MEMORY_TOLERANCE: Final = 10


@dataclass(frozen=True)
class Profile:
    """A kind of slice of one model of card.

    ``size`` is counted in memory slices of the card, ``compute`` in its compute slices, ``memory_mib`` is what a
    program can use, ``limit`` is how many of it fit on one card, ``starts`` are the memory slices where it may begin.
    """

    name: str
    compute: int
    size: int
    memory_mib: int
    limit: int
    starts: tuple[int, ...]
    media: bool


@dataclass(frozen=True)
class Model:
    """A model of card. ``profiles`` is empty where it has no MIG.

    ``mode_change`` is ``reset`` where switching MIG on or off needs a reset of the card (Ampere), ``immediate`` where
    it does not (Hopper and later), and empty without MIG.
    """

    name: str
    nvml_names: tuple[str, ...]
    memory_mib: int
    compute_slices: int
    memory_slices: int
    profiles: Mapping[str, Profile]
    mode_change: str
    mode_survives_reboot: bool
    sources: tuple[str, ...]

    @property
    def supports_mig(self) -> bool:
        """True where the card can be cut into slices."""
        return bool(self.profiles)


class UnknownModelError(ValueError):
    """A model that is not in the table."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        super().__init__(f"unknown model {name}: {hint}")


def _profile(name: str, raw: Mapping[str, Any]) -> Profile:
    return Profile(
        name=name,
        compute=raw["compute"],
        size=raw["size"],
        memory_mib=raw["memory_mib"],
        limit=raw["limit"],
        starts=tuple(raw["starts"]),
        media=raw.get("media", False),
    )


def _model(name: str, raw: Mapping[str, Any], sources: Mapping[str, str]) -> Model:
    named = tuple(sources[key] for key in raw["sources"])
    inferred = raw.get("inferred")
    return Model(
        name=name,
        nvml_names=tuple(raw["nvml_names"]),
        memory_mib=raw["memory_mib"],
        compute_slices=raw.get("compute_slices", 0),
        memory_slices=raw.get("memory_slices", 0),
        profiles={key: _profile(key, value) for key, value in raw.get("profiles", {}).items()},
        mode_change=raw.get("mode_change", ""),
        mode_survives_reboot=raw.get("mode_survives_reboot", False),
        sources=(*named, f"inferred: {inferred}") if inferred else named,
    )


@cache
def models() -> Mapping[str, Model]:
    """Return all models by name, in the order of the table."""
    raw = json.loads(_TABLE.read_text(encoding="utf-8"))
    return {name: _model(name, value, raw["sources"]) for name, value in raw["models"].items()}


def find_model(name: str) -> Model:
    """Return the model of this name.

    Raises ``UnknownModelError`` where the table has none, with the closest name.
    """
    known = models()
    if name not in known:
        raise UnknownModelError(name, tuple(known))
    return known[name]


def _plain(nvml_name: str) -> str:
    """Return a card's name without the vendor, which older drivers leave out."""
    return " ".join(nvml_name.lower().split()).removeprefix(_VENDOR)


def is_of(model: Model, nvml_name: str, memory_mib: int) -> bool:
    """Whether a card is of a model, by the name and the memory in MiB that NVML gives.

    The memory must be about right as well: a virtual machine may show a share of a card under the card's name.
    """
    near = abs(memory_mib - model.memory_mib) * 100 <= _MEMORY_TOLERANCE * model.memory_mib
    return near and _plain(nvml_name) in map(_plain, model.nvml_names)


def model_for(nvml_name: str, memory_mib: int) -> Model | None:
    """Return the model of a card from the name and the memory in MiB that NVML gives, or ``None`` where it has none."""
    return next((model for model in models().values() if is_of(model, nvml_name, memory_mib)), None)
