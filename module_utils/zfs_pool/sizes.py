"""Sizes as people write them: ``10TB`` as a disk is sold, ``10T`` or ``10TiB`` as zfs writes them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGTPE]?)(I?B)?", re.IGNORECASE)
_PREFIXES: Final = ("", "K", "M", "G", "T", "P", "E")
_DECIMAL: Final = 1000
_BINARY: Final = 1024
# From here on a number is shown without a fraction.
_WHOLE_FROM: Final = 100


class SizeError(ValueError):
    """A text that is no size."""


def parse_size(value: object) -> int:
    """Return a size in bytes; raise ``SizeError`` for anything that is none.

    ``10TB`` is decimal (10e12), as disks are sold; ``10TiB`` and ``10T`` are binary, as zfs writes them. A whole number
    is bytes.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise SizeError("a size is a number and a unit, e.g. 10TB (as disks are sold) or 30T (as zfs writes it)")
    number, prefix, unit = found[1], found[2].upper(), (found[3] or "").upper()
    if unit == "IB" and not prefix:
        raise SizeError("a size is a number and a unit, e.g. 10TB or 30T")
    base = _DECIMAL if prefix and unit == "B" else _BINARY
    size = int(Fraction(number) * base ** _PREFIXES.index(prefix))
    if size <= 0:
        raise SizeError("a size is larger than nothing")
    return size


def _format(size: int, base: int, suffix: str) -> str:
    power = 0
    while power < len(_PREFIXES) - 1 and size >= base ** (power + 1):
        power += 1
    number = size / base**power
    # 10 and not 10.00, 38.6, 0.9; 3.84 keeps both of its digits.
    text = f"{number:.2f}".rstrip("0").rstrip(".") if power and number < _WHOLE_FROM else f"{number:.0f}"
    return f"{text} {_PREFIXES[power]}{suffix if power else 'B'}"


def format_size(size: int) -> str:
    """Return a size in decimal units, as disks are sold: ``10 TB``."""
    return _format(size, _DECIMAL, "B")


def format_binary(size: int) -> str:
    """Return a size in binary units, which zfs shows as ``35.1T``: ``35.1 TiB``."""
    return _format(size, _BINARY, "iB")
