"""A look at a model that somebody uploads, before PyTorch sees it. Pure: no Django, no Kraken.

Kraken's models are CoreML files (protobuf). Upstream loads each in the web process, and so do the workers: layers are
made as large as a text in the file says. Here only that text is read, the weights are passed over, and what the layers
would need is compared with what the file holds.

Field numbers: Apple's ``Model.proto`` of Core ML, specification 1 and later: ``Model.description`` (2),
``ModelDescription.metadata`` (100), ``Metadata.userDefined`` (100, a map of texts: key 1, value 2).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from escriptorium_cluster.archive_check import RefusedFileError
from escriptorium_cluster.vgsl_size import DescriptionError, count_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

#: Bytes of one text of a model: tables of characters and of the training's figures have some hundred kB.
TEXT_BYTES: Final = 16 << 20
#: Texts of a model: Kraken writes four.
MAX_TEXTS: Final = 64
#: Bytes of one weight, in memory and in files of Kraken.
WEIGHT_BYTES: Final = 4
#: How many times its file a model may need in memory, and MiB that every model may: the figures are estimates, and
#: other programs write smaller numbers.
SLACK, SLACK_MIB = 4, 16
_DESCRIPTION, _METADATA, _USER_DEFINED, _KEY, _VALUE = 2, 100, 100, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
NO_MODEL: Final = "This is no model that Kraken can read (a CoreML file with a description of its layers)."


def check_model(path: str, size: int) -> None:
    """Refuse what is no model of Kraken, and one whose layers are out of proportion to its file.

    :param size: of the file, in bytes.
    :raises RefusedFileError: saying what is wrong.
    """
    try:
        with Path(path).open("rb") as file:
            texts = list(_texts(file, size))
        descriptions = [value for key, value in texts if key == "vgsl"]
        for key, value in texts:
            if key == "aux_layers":
                descriptions += json.loads(value).values()
        if not any(key == "vgsl" for key, _ in texts):
            raise RefusedFileError(NO_MODEL)
        weights = sum(count_weights(str(description)) for description in descriptions)
    except DescriptionError as error:
        raise RefusedFileError(f"The layers of this model are not such as are trained: {error}.") from error
    except (ValueError, AttributeError, RecursionError, EOFError) as error:
        raise RefusedFileError(NO_MODEL) from error
    if weights * WEIGHT_BYTES > SLACK * size + (SLACK_MIB << 20):
        raise RefusedFileError(
            f"The layers of this model would take {weights * WEIGHT_BYTES >> 20} MiB, its file has {size >> 20} MiB."
        )


def _texts(file: BinaryIO, end: int) -> Iterator[tuple[str, str]]:
    """Yield the texts that a model's author has added, in the file's order; one that comes twice, twice."""
    count = 0
    for description in _inside(file, end, _DESCRIPTION):
        for metadata in _inside(file, description, _METADATA):
            for entry in _inside(file, metadata, _USER_DEFINED):
                count += 1
                if count > MAX_TEXTS:
                    raise ValueError("too many texts")
                yield _entry(file, entry)


def _entry(file: BinaryIO, end: int) -> tuple[str, str]:
    found = {_KEY: "", _VALUE: ""}
    for number, wire, length in _fields(file, end):
        if number in found and wire == _BYTES:
            if length > TEXT_BYTES:
                raise ValueError("a text that is too long")
            content = file.read(length)
            file.seek(-len(content), 1)
            found[number] = content.decode()
    return found[_KEY], found[_VALUE]


def _inside(file: BinaryIO, end: int, wanted: int) -> Iterator[int]:
    """Stand at the begin of each message that has a number, and yield where it ends."""
    for number, wire, length in _fields(file, end):
        if number == wanted and wire == _BYTES:
            begin = file.tell()
            yield begin + length
            file.seek(begin)


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, kind and length of each field up to a position, standing at its content; then go past it.

    :raises ValueError: where a field reaches beyond the end, or is of a kind that nobody writes any more.
    """
    while file.tell() < end:
        tag = _varint(file)
        wire = tag & 7
        if wire == _VARINT:
            _varint(file)
            continue
        if wire not in {_FIXED64, _BYTES, _FIXED32}:
            raise ValueError("no protobuf")
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire) or (_varint(file) if wire == _BYTES else 0)
        begin = file.tell()
        if begin + length > end:
            raise ValueError("a field that reaches beyond its message")
        yield tag >> 3, wire, length
        file.seek(begin + length)


def _varint(file: BinaryIO) -> int:
    """Read a number of protobuf: seven bits a byte, at most ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("no more bytes")
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
    raise ValueError("no number")
