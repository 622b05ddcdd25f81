"""What a look at a file's structure tells: whether it is an ONNX model, and whether it is whole.

An ONNX file is one protobuf message, so it is a row of fields: a tag, and for most a length and that many bytes. Going
from field to field reads a few bytes of even the largest file, and ends exactly at the end of a whole one.
"""

from __future__ import annotations

import mmap
import os
from enum import Enum
from pathlib import Path
from typing import BinaryIO

SUFFIXES = (".onnx", ".ort")

_IR_VERSION, _GRAPH = 1, 7  # field numbers of ModelProto
_STRINGS_AND_MESSAGES = (2, 3, 4, 6, 7, 8, 14, 20, 25, 26)
_VARINT, _LENGTH = 0, 2  # protobuf's wire types
_LOCATION = b"\x0a\x08location\x12"
"""How an entry begins that says which file the numbers of a tensor are in: its key, and the tag of its value."""
_MAX_FIELDS = 100_000
"""A model has a handful of fields of its own, and one for each of its functions and entries of metadata."""


class Kind(Enum):
    """The answer of `look`."""

    ONNX = "a whole ONNX model"
    ORT = "a model in onnxruntime's own format"
    TRUNCATED = "begins like an ONNX model, and ends too early"
    FOREIGN = "something else"


def look(path: Path) -> Kind:
    """What kind of file `path` is. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if file.read(8)[4:] == b"ORTM":
            return Kind.ORT
        return _walk(file, size)


def external_weights(path: Path) -> list[Path]:
    """The files in a model's folder that its weights are in, as far as they are there. Raises `OSError`."""
    names: set[bytes] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_LOCATION)
        while at >= 0:
            begin = at + len(_LOCATION)
            length, used = _varint(data[begin : begin + 10], 0)
            if length is not None:
                names.add(data[begin + used : begin + used + length])
            at = data.find(_LOCATION, begin)
    folder = path.parent.resolve()
    found = ((folder / os.fsdecode(name)).resolve() for name in names if b"\0" not in name)
    return sorted(other for other in found if other.is_relative_to(folder) and other.is_file())


def _walk(file: BinaryIO, size: int) -> Kind:
    seen: set[int] = set()
    position = 0
    for _ in range(_MAX_FIELDS):
        if position == size:
            return Kind.ONNX if {_IR_VERSION, _GRAPH} <= seen else Kind.FOREIGN
        file.seek(position)
        head = file.read(20)  # a tag and a length are at most ten bytes each
        tag, used = _varint(head, 0)
        if tag is None:
            return _early(seen)
        number, wire = tag >> 3, tag & 7
        value, used = _varint(head, used)
        if number == 0 or wire not in (_VARINT, _LENGTH) or (number in _STRINGS_AND_MESSAGES) != (wire == _LENGTH):
            return Kind.FOREIGN
        if value is None:
            return _early(seen)
        if number == _IR_VERSION and not 0 < value < 1000:
            return Kind.FOREIGN
        if not seen and number != _IR_VERSION:
            return Kind.FOREIGN
        seen.add(number)
        position += used + (value if wire == _LENGTH else 0)
        if position > size:
            return _early(seen)
    return Kind.FOREIGN


def _early(seen: set[int]) -> Kind:
    """The file ends here. With a version before it, it was an ONNX file once."""
    return Kind.TRUNCATED if _IR_VERSION in seen else Kind.FOREIGN


def _varint(data: bytes, at: int) -> tuple[int | None, int]:
    """The number at `at` and where it ends; `None` when the data ends first or it is longer than ten bytes."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    return None, at
