"""How many weights a model's description asks for, computed without building it.

Kraken builds the layers that the VGSL text of a model names before it looks at the weights that the file holds: a few
letters ask for any amount of memory. At each reshape it also makes an image of the size that comes in. The grammar and
the shapes are those of kraken 5.3.0 (``kraken/lib/vgsl.py``, ``kraken/lib/layers.py``); where a shape is not worth
computing, a larger one counts.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

#: Far beyond what anybody trains: characters, layers, levels of brackets.
MAX_TEXT, MAX_LAYERS, MAX_DEPTH = 16384, 256, 16
#: Largest number of a description, and largest recurrent layer: its weights are made orthogonal, which takes the third
#: power of this in time.
MAX_NUMBER, MAX_RECURRENT = 65536, 1024
#: Numbers of what goes through a reshape: 64 MiB.
MAX_IMAGE = 1 << 24

#: Dimensions by the numbers that a description gives them.
_DIMENSIONS = ("images", "height", "width", "channels")

_INPUT = re.compile(r"(\d+),(\d+),(\d+),(\d+)")
_NAME = r"(?:{\w+})?"
_RECURRENT = re.compile(rf"([LG])([frb])([xy])(s)?([co])?{_NAME}(\d+)")
_CONVOLUTION = re.compile(rf"C(T)?(?:lr|[strlm]){_NAME}(\d+),(\d+),(\d+)(?:,(\d+),(\d+))?(?:,(\d+),(\d+))?")
_POOL = re.compile(rf"Mp{_NAME}(\d+),(\d+)(?:,(\d+),(\d+))?")
_RESHAPE = re.compile(rf"S{_NAME}(\d+)\((\d+)x(\d+)\)(\d+),(\d+)")
_OUTPUT = re.compile(rf"O{_NAME}([210])([lsc])(a)?(\d+)")
_ADDITION = re.compile(rf"A{_NAME}([0123]),(\d+)")
_MASK = re.compile(r"W{\w+}(\d+),(\d+),[\d.]+,(\d+)")
_ORDER = re.compile(r"RO{\w+}(\d+),(\d+)")
#: Layers without weights to speak of: identity, dropout, normalisation.
_LIGHT = re.compile(rf"(?:I|Do|Gn){_NAME}")


class DescriptionError(ValueError):
    """A description is none, or asks for something that nobody trains."""


class Shape(NamedTuple):
    """What goes from one layer to the next: images at a time, channels, height, width; 0: it depends on the image."""

    images: int
    channels: int
    height: int
    width: int


class Layer(NamedTuple):
    """What a layer makes of its input: the shape, and how many weights it has."""

    shape: Shape
    weights: int


@dataclass
class _Level:
    """One pair of brackets: layers one after the other, or side by side."""

    parallel: bool
    given: Shape
    now: Shape
    channels: int = 0

    def next_input(self) -> Shape:
        return self.given if self.parallel else self.now

    def take(self, shape: Shape) -> None:
        self.now = shape
        self.channels += shape.channels

    def result(self) -> Shape:
        return self.now._replace(channels=self.channels) if self.parallel else self.now


def count_weights(text: str) -> int:
    """Return how many weights a description asks for, or a few more.

    :raises DescriptionError: when kraken would not build it, or a number of it is absurd.
    """
    text = text.strip()
    if len(text) > MAX_TEXT or not (text.startswith("[") and text.endswith("]")):
        raise DescriptionError("no description of layers")
    # Names of layers and what follows a point are no sizes.
    numbers = re.findall(r"(?<![\d.])\d+", re.sub(r"{\w+}", " ", text))
    if any(len(number) > len(str(MAX_NUMBER)) or int(number) > MAX_NUMBER for number in numbers):
        raise DescriptionError(f"a number beyond {MAX_NUMBER}")
    first, *blocks = text[1:-1].split(" ")
    found = _INPUT.match(first)
    if not found:
        raise DescriptionError("no input")
    if len(blocks) > MAX_LAYERS:
        raise DescriptionError(f"more than {MAX_LAYERS} layers")
    images, height, width, channels = map(int, found.groups())
    start = Shape(images, channels, height, width)
    levels = [_Level(parallel=False, given=start, now=start)]
    total = 0
    for block in blocks:
        inner = block.lstrip("[(")
        for bracket in block[: len(block) - len(inner)]:
            given = levels[-1].next_input()
            levels.append(_Level(parallel=bracket == "(", given=given, now=given))
        if len(levels) > MAX_DEPTH:
            raise DescriptionError("too many brackets")
        name = inner.rstrip("])")
        made = layer(name, levels[-1].next_input())
        levels[-1].take(made.shape)
        total += made.weights
        for _ in inner[len(name) :]:
            if len(levels) == 1:
                raise DescriptionError("a bracket too many")
            closed = levels.pop().result()
            levels[-1].take(closed)
    if len(levels) != 1:
        raise DescriptionError("a bracket that is not closed")
    return total


def layer(text: str, given: Shape) -> Layer:
    """Return what one layer makes of its input.

    :raises DescriptionError: when it is no layer.
    """
    for pattern, make in _LAYERS:
        if found := pattern.match(text):
            return make(found, given)
    raise DescriptionError(f"no layer: '{text[:40]}'")


def _convolution(found: re.Match[str], given: Shape) -> Layer:
    transposed, filters = found[1] is not None, int(found[4])
    height = _stepped(given.height, int(found[5] or 1), transposed)
    width = _stepped(given.width, int(found[6] or 1), transposed)
    weights = filters * (given.channels * int(found[2]) * int(found[3]) + 1)
    return Layer(Shape(given.images, filters, height, width), weights)


def _pool(found: re.Match[str], given: Shape) -> Layer:
    height = _stepped(given.height, int(found[3] or found[1]))
    return Layer(given._replace(height=height, width=_stepped(given.width, int(found[4] or found[2]))), 0)


def _output(found: re.Match[str], given: Shape) -> Layer:
    size = int(found[4])
    return Layer(given._replace(channels=size), size * (given.channels + 2))


def _addition(found: re.Match[str], given: Shape) -> Layer:
    return Layer(given._replace(**{_DIMENSIONS[int(found[1])]: int(found[2])}), 0)


def _mask(found: re.Match[str], given: Shape) -> Layer:
    return Layer(given, (given.channels + 1) * (int(found[1]) + 1))


def _order(found: re.Match[str], given: Shape) -> Layer:
    return Layer(given, (int(found[1]) + 2) * (int(found[2]) + 1))


def _light(_: re.Match[str], given: Shape) -> Layer:
    return Layer(given, 4 * given.channels)


def _recurrent(found: re.Match[str], given: Shape) -> Layer:
    hidden = int(found[6])
    if hidden > MAX_RECURRENT:
        raise DescriptionError(f"a recurrent layer of {hidden}, beyond {MAX_RECURRENT}")
    directions = 2 if found[2] == "b" else 1
    height = 1 if found[4] and found[3] == "y" else given.height
    width = 1 if found[4] and found[3] == "x" else given.width
    weights = directions * 4 * hidden * (given.channels + hidden + 3)
    return Layer(Shape(given.images, hidden * directions, height, width), weights)


def _stepped(length: int, step: int, transposed: bool = False) -> int:
    """Return a length after a window was moved over it in steps, rounded up."""
    return length * step if transposed else -(-length // max(1, step))


def _reshape(found: re.Match[str], given: Shape) -> Layer:
    """Split one dimension and put a part of it on another one; what does not divide is rounded up."""
    source, one, other, high, low = (int(number) for number in found.groups())
    if max(source, high, low) >= len(_DIMENSIONS) or source not in {high, low} or one == other == 0:
        raise DescriptionError("a reshape of no dimension")
    if math.prod(max(1, length) for length in given) > MAX_IMAGE:
        raise DescriptionError("a reshape of an image that is too large")
    length = max(1, getattr(given, _DIMENSIONS[source]))
    parts = [one or -(-length // max(1, other)), other or -(-length // max(1, one))]
    stays, goes = (parts[0], parts[1]) if source == high else (parts[1], parts[0])
    target = _DIMENSIONS[low if source == high else high]
    moved = given._replace(**{target: max(1, getattr(given, target)) * goes})
    return Layer(moved._replace(**{_DIMENSIONS[source]: stays}), 0)


_LAYERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Shape], Layer]], ...] = (
    (_CONVOLUTION, _convolution),
    (_RECURRENT, _recurrent),
    (_POOL, _pool),
    (_RESHAPE, _reshape),
    (_OUTPUT, _output),
    (_ADDITION, _addition),
    (_MASK, _mask),
    (_ORDER, _order),
    (_LIGHT, _light),
)
