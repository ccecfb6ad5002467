"""The subcommand ``plan``: what a layout or an intent would become. Needs no card, no driver, and changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .card import Card
from .cards import DEFAULT_TRAINING_MEMORY, check_training_memory
from .intent import MAX, WANTED, plan_intent
from .layout import LAYOUT_FILE, LayoutError, read_layout
from .models import find_model
from .placement import IllegalLayoutError, place
from .report import as_dict, picture, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .card import TrainingMemory

OK: Final = 0
UNREADABLE: Final = 1
ILLEGAL: Final = 2


class _WrongUsageError(ValueError):
    """Arguments that cannot be meant."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``plan``."""
    kinds = ",".join(f"{kind}:{number}" for kind, number in zip(reversed(WANTED), ("1", MAX), strict=True))
    memory = ",".join(f"{kind}:{mib}" for kind, mib in DEFAULT_TRAINING_MEMORY.items())
    parser.add_argument("--model", help="plan a card of this model; without it, the cards of this node's layout")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--slices", metavar="PROFILE:NUMBER,...", help="the slices, as 2g.10gb:1,1g.5gb:5")
    what.add_argument("--want", metavar="KIND:NUMBER,...", help=f"what they are for, as {kinds}")
    parser.add_argument("--training-memory", metavar="KIND:MIB,...", help=f"memory per training in MiB ({memory})")
    parser.add_argument(
        "--layout", type=Path, default=LAYOUT_FILE, metavar="FILE", help="layout of the node (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def _pairs(text: str, option: str) -> dict[str, int | str]:
    """Read ``name:number,...``; a number may be ``max`` where the option takes it."""
    found: dict[str, int | str] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition(":"))
        if not name or not (number.isdecimal() or (number == MAX and option == "--want")):
            raise _WrongUsageError(f"{option}: {part!r} must be a name, a colon and a whole number")
        if name in found:
            raise _WrongUsageError(f"{option}: {name} is given twice")
        found[name] = MAX if number == MAX else int(number)
    return found


def _training_memory(text: str | None) -> TrainingMemory:
    if text is None:
        return DEFAULT_TRAINING_MEMORY
    given = {**DEFAULT_TRAINING_MEMORY, **_pairs(text, "--training-memory")}
    memory, problems = check_training_memory(given, "--training-memory")
    if problems:
        raise _WrongUsageError("; ".join(f"{found.path}: {found.found}, wanted {found.wanted}" for found in problems))
    return memory


def _card(options: argparse.Namespace, memory: TrainingMemory) -> Card:
    """Return a card of the model as the arguments want it."""
    model = find_model(options.model)
    if options.want is not None:
        counts = plan_intent(model, _pairs(options.want, "--want"), memory)
    elif options.slices is not None:
        counts = {name: int(number) for name, number in _pairs(options.slices, "--slices").items()}
    else:
        raise _WrongUsageError("--model needs --slices or --want")
    place(model, counts)
    return Card("plan", model, "", "", "mig", counts)


def _legal(card: Card, memory: TrainingMemory) -> dict[str, Any]:
    (entry,) = as_dict([card], memory)
    return {
        "legal": True,
        "model": card.model.name,
        "placements": [
            {key: found[key] for key in ("profile", "start", "size", "memory_mib")} for found in entry["slices"]
        ],
        "memory_lost_mib": entry["memory_lost_mib"],
        "trainings": entry["trainings"],
    }


def _answer(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return the plan for programs and for people."""
    cards: Sequence[Card]
    if options.model is None:
        if options.slices is not None or options.want is not None:
            raise _WrongUsageError("--slices and --want need --model")
        layout = read_layout(options.layout)
        cards = layout.cards
        given = options.training_memory
        memory = layout.training_memory if given is None else _training_memory(given)
        machine: dict[str, Any] = {"legal": True, "cards": as_dict(cards, memory)}
    else:
        memory = _training_memory(options.training_memory)
        cards = (_card(options, memory),)
        machine = _legal(cards[0], memory)
    return machine, "\n".join([table(cards, memory), *map(picture, cards)])


def run(options: argparse.Namespace) -> int:
    """Print the plan and return 0; 2 with the reasons where it cannot be; 1 where the layout file cannot be read."""
    status = OK
    reasons: tuple[str, ...] = ()
    try:
        machine, text = _answer(options)
    except OSError as error:
        status, reasons = UNREADABLE, (f"cannot read {error.filename}: {error.strerror}",)
    except IllegalLayoutError as error:
        status, reasons = ILLEGAL, error.reasons
    except LayoutError as error:
        status, reasons = ILLEGAL, error.problems
    except ValueError as error:
        status, reasons = ILLEGAL, (str(error),)
    if status:
        machine, text = {"legal": False, "reasons": list(reasons)}, "".join(f"{reason}\n" for reason in reasons)
    if options.json:
        print(json.dumps(machine, indent=2))
    else:
        print(text, end="", file=sys.stderr if status else sys.stdout)
    return status
