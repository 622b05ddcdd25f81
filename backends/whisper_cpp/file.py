"""The file of a Whisper model in whisper.cpp's format: recognising it, and checking it before the runtime reads it.

whisper.cpp believes most of what a file says of itself: it makes room for as much as is said, and ends the process
where that fails. So the structure is checked here, if not the values of the weights::

    file    = "lmgg" settings:i32[11] filters token… weight…
    filters = rows:i32 columns:i32 f32[rows × columns]
    token…  = count:i32 (length:u32 bytes)[count]
    weight  = rank:i32 name's length:i32 type:i32 dims:i32[rank] name data
"""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

from backends.base import ModelFileError

MAGIC = b"lmgg"
_WINDOW = 1500
"""Places for sound in a window of 30 seconds, in every Whisper model."""
_MELS = (80, 128)
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
}  # fmt: skip
"""By the number of a type, how many weights make a block, and its bytes: F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K …
Q6_K."""
_FTYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1"} | {
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
}  # fmt: skip
"""How a file is quantized, by its number for that; a multiple of 1000 is a version."""
_MOST_TOKENS = 1 << 18
_LONGEST_TOKEN = 1 << 12
_LONGEST_NAME = 256
_MOST_DIMS = 4


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """The settings, in the file's order."""

    tokens: int
    window: int
    width: int
    heads: int
    layers: int
    positions: int
    text_width: int
    text_heads: int
    text_layers: int
    mels: int
    ftype: int

    @property
    def quantization(self) -> str:
        """Such as ``Q5_1``; empty for one that has no name here."""
        return _FTYPES.get(self.ftype % 1000, "")


def is_whisper(path: Path) -> bool:
    """Whether the head of a file is one of Whisper's; other models begin with the same letters. Raises `OSError`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(48)
    if len(head) < 48 or not head.startswith(MAGIC):
        return False
    shape = Shape(*struct.unpack("<11i", head[4:]))
    return shape.window == _WINDOW and shape.mels in _MELS


def check(path: Path) -> Shape:
    """Checks all but the values of the weights. Raises `ModelFileError`."""
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).check()
    except EOFError:
        reason = "it ends too early"
    except ValueError as e:
        reason = str(e)
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror}.") from None
    raise ModelFileError(f"{path} is corrupt: {reason}. Copy or convert the model again.")


class _Reader:
    """Reads the structure of a file, skipping the weights. Raises `EOFError` or `ValueError`."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def check(self) -> Shape:
        """The settings of a file whose parts go together."""
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin as whisper.cpp's files do")
        shape = Shape(*(self._number() for _ in range(11)))
        _check_settings(shape)
        rows, columns = self._number(), self._number()
        if rows != shape.mels or not 1 <= columns <= 4096:
            raise ValueError(f"it has filters of {rows} × {columns} for {shape.mels} mel bands")
        self._skip(rows * columns * 4)
        count = self._number()
        if not 1 <= count <= shape.tokens:
            raise ValueError(f"it is said to have {count} tokens, and weights for {shape.tokens}")
        for _ in range(count):
            length = self._number()
            if not 0 <= length <= _LONGEST_TOKEN:
                raise ValueError(f"a token is said to have {length} bytes")
            self._skip(length)
        _check_weights(shape, self._weights())
        return shape

    def _weights(self) -> dict[str, tuple[int, ...]]:
        """The dimensions of the weights by name, the last one first."""
        found: dict[str, tuple[int, ...]] = {}
        while self._file.tell() < self._size:
            rank, length, kind = (self._number() for _ in range(3))
            if not 1 <= rank <= _MOST_DIMS or not 1 <= length <= _LONGEST_NAME or kind not in _BLOCKS:
                raise ValueError(
                    f"weight {len(found) + 1} has {rank} dimensions, type {kind}, a name of {length} bytes"
                )
            dims = tuple(self._number() for _ in range(rank))
            name = self._take(length).decode("ascii", errors="replace")
            items, size = _BLOCKS[kind]
            if min(dims) < 1 or dims[0] % items:
                raise ValueError(f"{name[:80]!r} is said to have the dimensions {list(dims)}")
            self._skip(math.prod(dims) // items * size)
            found[name] = dims
        return found

    def _number(self) -> int:
        (number,) = struct.unpack("<i", self._take(4))
        return int(number)

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise EOFError
        self._file.seek(count, os.SEEK_CUR)


def _check_settings(shape: Shape) -> None:
    for heads, width in ((shape.heads, shape.width), (shape.text_heads, shape.text_width)):
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
    if shape.window != _WINDOW or shape.mels not in _MELS or shape.width != shape.text_width:
        raise ValueError("its settings are not those of a Whisper model")
    if not 1 <= shape.tokens <= _MOST_TOKENS:
        raise ValueError(f"it is said to have {shape.tokens} tokens")


def _check_weights(shape: Shape, found: dict[str, tuple[int, ...]]) -> None:
    """Everything that the runtime makes room for is there, in the size that the settings say."""
    expected = {
        "encoder.positional_embedding": (shape.width, shape.window),
        "encoder.conv1.weight": (3, shape.mels, shape.width),
        "encoder.conv2.weight": (3, shape.width, shape.width),
        "decoder.positional_embedding": (shape.text_width, shape.positions),
        "decoder.token_embedding.weight": (shape.text_width, shape.tokens),
    }
    for name, dims in expected.items():
        if found.get(name) != dims:
            raise ValueError(f"{name} has the dimensions {list(found.get(name, ()))}, which should be {list(dims)}")
    for part, layers in (("encoder", shape.layers), ("decoder", shape.text_layers)):
        there = {int(m[1]) for name in found if (m := re.match(rf"{part}\.blocks\.(\d{{1,4}})\.", name))}
        if there != set(range(layers)):
            raise ValueError(f"it is said to have {layers} layers in its {part}, and has {len(there)}")
