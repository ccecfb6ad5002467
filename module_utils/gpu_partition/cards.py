"""The cards of a host as the inventory declares them in ``gpu_partition_cards``.

``parse_cards`` reads and checks the list without a GPU: on the control machine before anything is touched, and on the
node from its layout file. All memory is in MiB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .card import Card
from .intent import MAX, WANTED, plan_intent
from .models import Model, UnknownModelError, find_model
from .placement import IllegalLayoutError, describe, reasons_against
from .workers import KINDS, fitting_trainings, gpu_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .card import TrainingMemory

_Value = TypeVar("_Value")

# CREMMA's figures: recognition stays under 5 GB and segmentation under 10 GB. A 1g.5gb has 4864 MiB, a 2g.10gb 9856.
DEFAULT_TRAINING_MEMORY: Final[TrainingMemory] = {"recognition": 4800, "segmentation": 9800}

VARIABLE: Final = "gpu_partition_cards"
BACKENDS: Final = ("none", "mig", "vgpu")
SHARING: Final = ("time", "mps")
OTHER: Final = "other"
# NVIDIA's MPS documentation: clients per device since Volta.
MPS_CLIENTS: Final = 48

_ADDRESSES: Final = ("pci_address", "uuid", "index")
_ANYWHERE: Final = ("model", "product", "name", "backend", *_ADDRESSES)
_KEYS: Final = {
    "none": ("workers", "sharing", "mps_memory_mib", "mps_thread_percentage"),
    "mig": ("slices", "want"),
    "vgpu": ("vgpu_type", "vgpu_count"),
}
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?")
_PCI: Final = re.compile(r"(?:([0-9a-f]{4}|[0-9a-f]{8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")
_UUID: Final = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_VGPU_NAME: Final = re.compile(r"[A-Z][A-Za-z0-9-]*-[0-9]+(-[0-9]+)?[ABCQ](ME)?")
_VGPU_NUMBER: Final = re.compile(r"(?:nvidia-)?([0-9]{1,5})")
_SHOWN_LENGTH: Final = 80


@dataclass(frozen=True)
class CardProblem:
    """One thing that is wrong: where, what was found, what is wanted, and how to mend it."""

    path: str
    found: str
    wanted: str
    mend: str


class _Unreadable(Exception):  # noqa: N818 - no error of the program: it ends the reading of one value
    """A value was refused; its problem is recorded already."""


def _shown(value: object) -> str:
    """Return a value as a message shows it: one line, short."""
    if value is None:
        return "nothing"
    text = ascii(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Reader:
    """Reads one entry of the list and collects its problems."""

    def __init__(self, raw: Mapping[Any, Any], position: int, training_memory: TrainingMemory) -> None:
        self.raw = raw
        self.position = position
        self.path = f"{VARIABLE}[{position}]"
        self.training_memory = training_memory
        self.problems: list[CardProblem] = []

    def problem(self, key: str, wanted: str, mend: str, found: str | None = None) -> None:
        path = f"{self.path}.{key}" if key else self.path
        self.problems.append(CardProblem(path, _shown(self.raw.get(key)) if found is None else found, wanted, mend))

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        """Return one of several words; the first is the default."""
        value = self.raw.get(key, known[0])
        if value not in known:
            self.problem(key, f"one of {', '.join(known)}", f"correct {key}")
            raise _Unreadable
        return str(value)

    def whole(self, key: str, default: int, *, least: int = 1, most: int | None = None, unit: str = "") -> int:
        """Return a whole number within bounds, or the default where it is missing or wrong."""
        if key not in self.raw:
            return default
        value = self.raw[key]
        if _is_whole(value) and value >= least and (most is None or value <= most):
            return int(value)
        bounds = f"from {least}" if most is None else f"from {least} to {most}"
        self.problem(key, f"a whole number {bounds}{unit}", f"correct {key}, without quotes")
        return default

    def name(self) -> str:
        value = self.raw.get("name", f"gpu{self.position}")
        if isinstance(value, str) and _NAME.fullmatch(value):
            return str(value)
        self.problem(
            "name",
            "at most 32 letters, digits and hyphens, with a letter or digit at both ends",
            "choose a plain name: workers and their units are called after it",
        )
        raise _Unreadable

    def address(self) -> tuple[str, str]:
        """Return how the card is addressed, and its address in NVML's way."""
        given = [key for key in _ADDRESSES if key in self.raw]
        if len(given) != 1:
            self.problem(
                "",
                "exactly one of pci_address, uuid and index",
                "address the card in one way; pci_address stays the same whatever other cards are added",
                " and ".join(given) or "no address",
            )
            raise _Unreadable
        key, value = given[0], self.raw[given[0]]
        if key == "pci_address":
            return key, self._pci_address(value)
        if key == "uuid":
            if isinstance(value, str) and _UUID.fullmatch(value):
                return key, f"GPU-{value[4:].lower()}"
            self.problem(key, "a UUID as nvidia-smi -L shows it (GPU-…)", "copy it from nvidia-smi -L")
            raise _Unreadable
        if _is_whole(value) and value >= 0:
            return key, str(value)
        self.problem(key, "a whole number from 0", "correct index, or use pci_address")
        raise _Unreadable

    def _pci_address(self, value: object) -> str:
        found = _PCI.fullmatch(value.lower()) if isinstance(value, str) else None
        if found is None:
            self.problem(
                "pci_address",
                'an address as "0000:17:00.0"',
                "copy it from lspci -D, and write it in quotes: YAML takes 0000:17:00.0 without them for a number",
            )
            raise _Unreadable
        # The kernel writes the domain with four digits, NVML with eight; short forms leave it out.
        return f"{int(found[1] or '0', 16):04x}:{found[2]}"

    def model(self, backend: str) -> Model:
        name = self.raw.get("model")
        if name == OTHER:
            return self._other_model(backend)
        if "memory_mib" in self.raw:
            self.problem("memory_mib", "nothing: the table knows the memory of the model", "remove memory_mib")
        try:
            return self._named(find_model(name if isinstance(name, str) else _shown(name)))
        except UnknownModelError as error:
            mend = f"{error}; or model: {OTHER} with memory_mib, for a card that is not cut"
            self.problem("model", "a model of the table", mend)
            raise _Unreadable from None

    def _named(self, model: Model) -> Model:
        """Return the model with the product name that this card answers with, where the table lacks it."""
        product = self.raw.get("product")
        if product is None:
            return model
        if not isinstance(product, str) or not product.strip():
            self.problem("product", "the name of the card, as nvidia-smi -L shows it", "copy it from there")
            raise _Unreadable
        return replace(model, nvml_names=(*model.nvml_names, product))

    def _other_model(self, backend: str) -> Model:
        if "product" in self.raw:
            self.problem("product", f"nothing with model: {OTHER}", "remove product: any name is taken")
        memory = self.whole("memory_mib", 0, unit=" (MiB)")
        if "memory_mib" not in self.raw:
            self.problem("memory_mib", "the memory of the card in MiB", "add memory_mib, as nvidia-smi shows it")
        if backend == "mig":
            self.problem("model", "a model of the table for backend mig", "name the model: slices need its profiles")
        if not memory or backend == "mig":
            raise _Unreadable
        return Model(OTHER, (), memory, 0, 0, {}, "", mode_survives_reboot=False, sources=("the inventory",))

    def unknown_keys(self, backend: str) -> None:
        for key in self.raw:
            if key in (*_ANYWHERE, "memory_mib", *_KEYS[backend]):
                continue
            owner = next((other for other, keys in _KEYS.items() if key in keys), None)
            if owner:
                self.problem(key, f"no {key} with backend {backend}", f"set backend: {owner}, or remove {key}")
            else:
                self.problem("", "only known keys", f"correct or remove {_shown(key)}", f"the key {_shown(key)}")

    def slices(self, model: Model) -> dict[str, int]:
        """Return the slices of a card that is cut, planned where an intent is given."""
        given = [key for key in _KEYS["mig"] if key in self.raw]
        if len(given) != 1:
            found = "both" if given else "neither"
            self.problem("", "exactly one of slices and want", "say which slices, or what they are for", found)
            raise _Unreadable
        key, value = given[0], self.raw[given[0]]
        if not model.supports_mig:
            self.problem("backend", f"none or vgpu: {model.name} has no MIG", "set backend: none, or correct the model")
            raise _Unreadable
        if not isinstance(value, Mapping) or not value:
            example = (
                "{2g.10gb: 1, 1g.5gb: 5}"
                if key == "slices"
                else f"{{segmentation_trainings: 1, {next(iter(WANTED))}: {MAX}}}"
            )
            self.problem(key, f"a mapping such as {example}", f"write {key} as a mapping")
            raise _Unreadable
        return self._planned(model, value) if key == "want" else self._declared(model, value)

    def _planned(self, model: Model, want: Mapping[Any, Any]) -> dict[str, int]:
        try:
            return plan_intent(model, {str(kind): number for kind, number in want.items()}, self.training_memory)
        except IllegalLayoutError as error:
            for reason in error.reasons:
                self.problem("want", "an intent that fits on the card", reason)
            raise _Unreadable from None

    def _declared(self, model: Model, slices: Mapping[Any, Any]) -> dict[str, int]:
        counts = {str(profile): count for profile, count in slices.items()}
        reasons = reasons_against(model, counts)
        for reason in reasons:
            self.problem("slices", "a layout that the card can take", reason)
        if reasons:
            raise _Unreadable
        counts = {profile: count for profile, count in counts.items() if count}
        if not counts:
            self.problem("slices", "at least one slice", "name slices, or set backend: none")
        for profile in counts:
            memory = model.profiles[profile].memory_mib
            if not fitting_trainings(memory, self.training_memory):
                self.problem(
                    "slices",
                    f"slices on which a training fits ({self._needs()})",
                    f"{profile} has {memory} MiB: take larger slices, or correct the memory per training",
                    describe(model, counts),
                )
        return counts

    def _needs(self) -> str:
        return ", ".join(f"{kind} {self.training_memory[kind]} MiB" for kind in KINDS)

    def sharing(self, model: Model) -> dict[str, Any]:
        """Return the fields of a card that is not cut."""
        sharing = self.choice("sharing", SHARING)
        if sharing == "mps":
            workers = self.whole("workers", 1, most=MPS_CLIENTS)
            return {"workers": workers, "sharing": sharing, **self._mps(model, workers)}
        for key in ("mps_memory_mib", "mps_thread_percentage"):
            if key in self.raw:
                self.problem(key, f"no {key} with sharing: time", f"set sharing: mps, or remove {key}")
        workers = self.whole("workers", 1)
        needed = workers * self.training_memory["recognition"]
        if needed > model.memory_mib:
            self.problem(
                "workers",
                f"workers whose trainings fit into the card's {model.memory_mib} MiB together",
                f"{workers} recognition trainings take {needed} MiB: at most "
                f"{model.memory_mib // self.training_memory['recognition']} workers fit",
                str(workers),
            )
        return {"workers": workers, "sharing": sharing}

    def _mps(self, model: Model, workers: int) -> dict[str, int]:
        memory = self.whole("mps_memory_mib", model.memory_mib // workers, unit=" (MiB)")
        if memory < self.training_memory["recognition"]:
            self.problem(
                "mps_memory_mib",
                f"at least the {self.training_memory['recognition']} MiB of a recognition training for each worker",
                "lower workers, or raise mps_memory_mib",
                f"{memory} MiB for each of {workers} workers",
            )
        if memory * workers > model.memory_mib:
            self.problem(
                "mps_memory_mib",
                f"at most {model.memory_mib // workers} MiB: {workers} workers share {model.memory_mib} MiB",
                "lower workers or mps_memory_mib",
                f"{memory} MiB for each of {workers} workers",
            )
        percentage = self.whole("mps_thread_percentage", 100 // workers, most=100)
        return {"mps_memory_mib": memory, "mps_thread_percentage": percentage}

    def vgpu(self) -> dict[str, Any]:
        """Return the fields of a card that is passed on to virtual machines."""
        value = self.raw.get("vgpu_type")
        text = str(value) if isinstance(value, str) or _is_whole(value) else ""
        number = _VGPU_NUMBER.fullmatch(text)
        if number is None and not _VGPU_NAME.fullmatch(text):
            self.problem(
                "vgpu_type",
                "a type by name (A100-10C) or number (nvidia-472)",
                "take it from mdev_supported_types or creatable_vgpu_types of the hypervisor host",
            )
        vgpu_type = f"nvidia-{int(number[1])}" if number else text
        return {"vgpu_type": vgpu_type, "vgpu_count": self.whole("vgpu_count", 1)}

    def _fields(self, backend: str, model: Model) -> dict[str, Any]:
        if backend == "mig":
            return {"slices": self.slices(model)}
        return self.sharing(model) if backend == "none" else self.vgpu()

    def card(self) -> Card | None:
        """Return the card, or ``None`` where anything is wrong with it: all problems at once, not the first one."""
        name = self._try(self.name)
        address = self._try(self.address)
        backend = self._try(lambda: self.choice("backend", BACKENDS))
        if backend is None:
            return None
        self.unknown_keys(backend)
        model = self._try(lambda: self.model(backend))
        fields = self._try(lambda: self._fields(backend, model)) if model else None
        if name is None or address is None or model is None or fields is None or self.problems:
            return None
        return Card(name, model, *address, backend, **fields)

    @staticmethod
    def _try(read: Callable[[], _Value]) -> _Value | None:
        try:
            return read()
        except _Unreadable:
            return None


def check_training_memory(raw: object, path: str) -> tuple[TrainingMemory, tuple[CardProblem, ...]]:
    """Return the memory per training (MiB for ``recognition`` and ``segmentation``), and what is wrong with it.

    Kinds that are missing or wrong have their default, so that the cards can be checked all the same. ``path`` is how
    problems call the value.
    """
    if not isinstance(raw, Mapping):
        wanted = f"a mapping of {' and '.join(KINDS)} to MiB"
        return DEFAULT_TRAINING_MEMORY, (CardProblem(path, _shown(raw), wanted, "write it as a mapping"),)
    problems = [
        CardProblem(path, f"the key {_shown(kind)}", f"only {' and '.join(KINDS)}", f"remove {_shown(kind)}")
        for kind in raw
        if kind not in KINDS
    ]
    memory = dict(DEFAULT_TRAINING_MEMORY)
    for kind in KINDS:
        value = raw.get(kind)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            memory[kind] = value
        else:
            wanted = "a whole number of MiB from 1"
            problems.append(CardProblem(f"{path}.{kind}", _shown(value), wanted, f"set {kind}, without quotes"))
    return memory, tuple(problems)


def has_workers(raw: object) -> bool:
    """Return True where a list of the inventory has a card that workers use: one that is not for virtual machines."""
    return isinstance(raw, Sequence) and any(
        isinstance(card, Mapping) and card.get("backend") != "vgpu" for card in raw
    )


def _twice(cards: Sequence[tuple[str, Card]], training_memory: TrainingMemory) -> Iterator[CardProblem]:
    """Find what two cards of a host claim both: an address, a name, or the name of a worker."""
    addresses: dict[tuple[str, str], str] = {}
    names: dict[str, str] = {}
    for path, card in cards:
        first = addresses.setdefault((card.address_kind, card.address), path)
        if first != path:
            mend = f"{first} has this address already: correct one of them"
            yield CardProblem(f"{path}.{card.address_kind}", card.address, "an address of its own", mend)
        owner = names.setdefault(card.name, path)
        if owner != path:
            mend = f"{owner} is called so already: rename one of them"
            yield CardProblem(f"{path}.name", card.name, "a name of its own", mend)
    for path, card in cards:
        taken = [worker.name for worker in gpu_workers([card], training_memory) if names.get(worker.name, path) != path]
        if names[card.name] == path and taken:
            mend = f"{names[taken[0]]} is called so already: rename one of the cards"
            yield CardProblem(f"{path}.name", card.name, f"another name: one of its workers would be {taken[0]}", mend)


def parse_cards(
    raw: object, training_memory: TrainingMemory = DEFAULT_TRAINING_MEMORY
) -> tuple[tuple[Card, ...], tuple[CardProblem, ...]]:
    """Return the cards of a host and everything that is wrong with their declaration. Never raises on wrong input.

    ``raw`` is ``gpu_partition_cards``: a list of mappings. Only cards without a problem of their own are returned; a
    name or an address that two of them claim is a problem of the second one, and both are returned.
    """
    memory, problems = check_training_memory(training_memory, "training_memory_mib")
    if not isinstance(raw, list | tuple):
        wanted = "a list of cards, each a mapping with model and pci_address"
        return (), (*problems, CardProblem(VARIABLE, _shown(raw), wanted, "write a list; [] where there is no card"))
    cards = []
    found = list(problems)
    for position, entry in enumerate(raw):
        path = f"{VARIABLE}[{position}]"
        if not isinstance(entry, Mapping):
            found.append(CardProblem(path, _shown(entry), "a mapping with model and pci_address", "correct the entry"))
            continue
        reader = _Reader(entry, position, memory)
        card = reader.card()
        found += reader.problems
        if card is not None:
            cards.append((path, card))
    found += _twice(cards, memory)
    return tuple(card for _, card in cards), tuple(found)
