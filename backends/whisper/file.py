"""The folder of a Whisper model in CTranslate2's format: recognising it, and checking it before the runtime reads it.

    config.json       settings of the model
    model.bin         the weights
    vocabulary.json   the tokens in their order; in folders of older converters vocabulary.txt, one a line
    tokenizer.json    how text becomes tokens; not in all folders
    preprocessor_config.json   how sound becomes features; without it, as Whisper's first models do it

CTranslate2 believes what ``model.bin`` says of itself: it reads as many bytes as a weight is said to have, wherever
they lead, and computes with shapes that do not belong together. So its structure is checked here, if not its values::

    model.bin = version:u32 [specification:str revision:u32] count:u32 weight… [count:u32 alias…]
    alias     = its name:str a weight's name:str
    weight    = name:str rank:u8 dims:u32[rank] (type:u8 bytes:u32 | item size:u8 items:u32) data
    str       = length:u16 characters NUL
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from backends.base import ModelFileError

WEIGHTS = "model.bin"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
PREPROCESSOR = "preprocessor_config.json"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")

_SPECIFICATION = "WhisperSpec"
_VERSIONS = range(2, 7)
"""Of the format of ``model.bin``; before the first, it did not say what it is."""
_ITEM_BYTES = {0: 4, 1: 1, 2: 2, 3: 4, 4: 2, 5: 2}
"""By the number of a type: float32, int8, int16, int32, float16, bfloat16."""
_HEADS = 8
"""Of attention, where a model does not say."""
_LONGEST_NAME = 1024
_MAX_WEIGHTS = 100_000
_MAX_JSON = 64 << 20
_HEAD = 64 << 10
"""Bytes of the settings that are looked at; all of them have less."""

_SHAPES: tuple[tuple[str, tuple[str | int, ...]], ...] = (
    (r"encoder/conv1/weight", ("width", "mels", 3)),
    (r"encoder/conv2/weight", ("width", "width", 3)),
    (r"encoder/conv[12]/bias", ("width",)),
    (r"encoder/position_encodings/encodings", (1500, "width")),
    (r"decoder/position_encodings/encodings", ("positions", "width")),
    (r"decoder/(embeddings|projection)/weight", ("tokens", "width")),
    (r"decoder/projection/bias", ("tokens",)),
    (r"(encoder|decoder)/(.+/)?layer_norm/(gamma|beta)", ("width",)),
    (r".+/ffn/linear_0/weight", ("hidden", "width")),
    (r".+/ffn/linear_0/bias", ("hidden",)),
    (r".+/ffn/linear_1/weight", ("width", "hidden")),
    (r".+/ffn/linear_1/bias", ("width",)),
    (r".+/self_attention/linear_0/weight", ("three widths", "width")),
    (r".+/self_attention/linear_0/bias", ("three widths",)),
    (r".+/attention/linear_1/weight", ("two widths", "width")),
    (r".+/attention/linear_1/bias", ("two widths",)),
    (r".+attention/linear_[012]/weight", ("width", "width")),
    (r".+attention/linear_[012]/bias", ("width",)),
)
"""The shapes of weights by their names; the first that fits. What has the same name has the same size everywhere."""


class Shape(msgspec.Struct, frozen=True):
    """What the weights say of the model."""

    tokens: int
    """Of its vocabulary."""
    mels: int
    """Features of a moment of sound."""


def is_whisper(folder: Path) -> float:
    """How sure it is that a folder has a Whisper model: the head of the weights says so, and if that is broken the
    settings may. Raises `OSError`."""
    if folder.name == WEIGHTS and folder.is_file():
        return is_whisper(folder.parent)  # which `check` says
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        return 0.0
    with (folder / WEIGHTS).open("rb") as file:
        if file.read(64)[4:].startswith(struct.pack("<H", len(_SPECIFICATION) + 1) + _SPECIFICATION.encode()):
            return 1.0
    with (folder / CONFIG).open("rb") as file:
        return 0.6 if b'"suppress_ids_begin"' in file.read(_HEAD) else 0.0


def vocabulary(folder: Path) -> list[str]:
    """The tokens in their order. Raises `ModelFileError`."""
    for name in VOCABULARIES:
        if (folder / name).is_file():
            found = _read_json(folder / name) if name.endswith(".json") else _lines(folder / name)
            if not isinstance(found, list) or not found or not all(isinstance(token, str) for token in found):
                raise ModelFileError(f"{folder / name} is not a list of tokens.")
            return found
    raise ModelFileError(f"{folder} has no {' or '.join(VOCABULARIES)}; convert the model again.")


def preprocessor(folder: Path) -> dict[str, Any]:
    """The settings of ``preprocessor_config.json``; none where there is no such file. Raises `ModelFileError`."""
    return _object(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {}


def check(folder: Path) -> Shape:
    """Checks all but the values of the weights. Raises `ModelFileError`."""
    if not folder.is_dir():
        hint = (
            f"give its folder, {folder.parent}" if folder.name == WEIGHTS else f"such a one has {CONFIG} and {WEIGHTS}"
        )
        raise ModelFileError(f"{folder} is not a folder with a model of CTranslate2: {hint}.")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelFileError(f"{folder} has no {name}; convert the model again.")
    config = _object(folder / CONFIG)
    shape, layers, heads = _weights(folder / WEIGHTS)
    _check_config(folder / CONFIG, config, shape.tokens, layers, heads)
    return shape


def _check_config(path: Path, config: dict[str, Any], tokens: int, layers: int, heads: int) -> None:
    """Tokens and attention heads are looked up by these numbers. Raises `ModelFileError`."""
    for key in ("lang_ids", "suppress_ids", "suppress_ids_begin"):
        if not _are_below(config.get(key) or [], tokens):
            raise ModelFileError(f"{path} is corrupt: {key} must be numbers of the model's {tokens} tokens.")
    pairs = config.get("alignment_heads") or []
    valid = isinstance(pairs, list) and all(isinstance(p, list) and len(p) == 2 for p in pairs)
    if not valid or not _are_below([p[0] for p in pairs], layers) or not _are_below([p[1] for p in pairs], heads):
        raise ModelFileError(
            f"{path} is corrupt: alignment_heads must be pairs of one of {layers} layers and one of {heads} heads."
        )


def _are_below(numbers: Any, limit: int) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < limit for n in numbers)


# --- model.bin ------------------------------------------------------------------------------------------------------


def _weights(path: Path) -> tuple[Shape, int, int]:
    """The model's shape, its layers of the decoder, and their heads. Raises `ModelFileError`."""
    try:
        with path.open("rb") as file:
            return _consistent(*_Reader(file, path.stat().st_size).weights())
    except EOFError:
        reason = "it ends too early"
    except KeyError as e:
        reason = f"it has no weight that tells its {e.args[0]}"
    except (OSError, ValueError) as e:
        reason = str(e)
    raise ModelFileError(f"{path} is corrupt: {reason}. Copy or convert the model again.")


def _consistent(shapes: dict[str, tuple[int, ...]], values: dict[str, int]) -> tuple[Shape, int, int]:
    """As `_weights`, if all of it goes together. Raises `ValueError`, and `KeyError` for what is left out."""
    sizes: dict[str, int] = {}
    for name, dims in shapes.items():
        _check_shape(name, dims, shapes, sizes)
    layers = len({m[1] for name in shapes if (m := re.match(r"decoder/layer_(\d+)/", name))})
    for part in ("encoder", "decoder"):
        heads = values.get(f"{part}/num_heads", _HEADS)
        if heads < 1 or sizes["width"] % heads:
            raise ValueError(f"{heads} heads of the {part} do not divide a width of {sizes['width']}")
    if not -layers <= values.get("decoder/alignment_layer", -1) < layers:
        raise ValueError("it takes the times of words from a layer that it has not")
    if not 0 <= values.get("decoder/alignment_heads", 1) <= heads:
        raise ValueError("it takes the times of words from heads that it has not")
    return Shape(sizes["tokens"], sizes["mels"]), layers, heads


def _check_shape(name: str, dims: tuple[int, ...], shapes: dict[str, tuple[int, ...]], sizes: dict[str, int]) -> None:
    """Raises `ValueError` for a weight whose shape does not go with those of the others."""
    if name.endswith("/weight_scale"):
        rows = shapes.get(name.removesuffix("_scale"), ())[:1]
        if dims not in ((), (1,), rows):
            raise ValueError(f"{name} has the shape {list(dims)}, and its weight {list(rows)} rows")
    expected = next((shape for pattern, shape in _SHAPES if re.fullmatch(pattern, name)), None)
    if expected is None:
        return
    if len(expected) != len(dims):
        raise ValueError(f"{name} has the shape {list(dims)}, which should be {list(expected)}")
    for size, meaning in zip(dims, expected, strict=True):
        multiple = {"two widths": 2, "three widths": 3}.get(str(meaning), 1)
        key = "width" if multiple > 1 else meaning
        wanted = key if isinstance(key, int) else sizes.setdefault(key, size // multiple)
        if size != wanted * multiple or not size:
            raise ValueError(f"{name} has the shape {list(dims)}, which does not fit a {meaning} of {wanted}")


class _Reader:
    """Reads the structure of a file, skipping the weights. Raises `EOFError` or `ValueError`."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def weights(self) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
        """The shapes of the weights by name, aliases too, and the values of those that are one small integer."""
        version = self._number("I")
        if version not in _VERSIONS:
            raise ValueError(f"the version of its format is {version}, not one from 2 to {_VERSIONS[-1]}")
        if (specification := self._text()) != _SPECIFICATION:
            raise ValueError(f"it is a {specification[:40]!r}, not a {_SPECIFICATION}")
        self._number("I")
        shapes: dict[str, tuple[int, ...]] = {}
        values: dict[str, int] = {}
        for _ in range(self._count()):
            name, dims, item, data = self._weight(version)
            shapes[name] = dims
            if not dims and item in (1, 2):
                values[name] = int.from_bytes(data, "little", signed=True)
        if version >= 3:
            for alias, name in [(self._text(), self._text()) for _ in range(self._count())]:
                if name not in shapes:
                    raise ValueError(f"{alias[:80]!r} stands for {name[:80]!r}, which it has not")
                shapes[alias] = shapes[name]
        if self._file.tell() != self._size:
            raise ValueError(f"{self._size - self._file.tell()} bytes follow after its end")
        return shapes, values

    def _weight(self, version: int) -> tuple[str, tuple[int, ...], int, bytes]:
        name = self._text()
        dims = tuple(self._number("I") for _ in range(self._number("B")))
        if version >= 4:
            kind, size = self._number("B"), self._number("I")
            item = _ITEM_BYTES.get(kind, 0)
        else:
            item = self._number("B")
            size = self._number("I") * item
        if item not in (1, 2, 4) or size != math.prod(dims) * item:
            raise ValueError(f"{name[:80]!r} of shape {list(dims)} is said to have {size} bytes")
        return name, dims, item, self._take(size)

    def _take(self, size: int) -> bytes:
        """Bytes of a weight: of a large one none, as it is skipped."""
        if size <= 2:
            return self._bytes(size)
        if self._file.tell() + size > self._size:
            raise EOFError
        self._file.seek(size, os.SEEK_CUR)
        return b""

    def _count(self) -> int:
        count = self._number("I")
        if count > _MAX_WEIGHTS:
            raise ValueError(f"it is said to have {count} weights")
        return count

    def _text(self) -> str:
        length = self._number("H")
        if not 1 <= length <= _LONGEST_NAME:
            raise ValueError(f"a name is said to have {length} characters")
        text = self._bytes(length)
        if text[-1] or not text[:-1].isascii():
            raise ValueError("a name is no text")
        return text[:-1].decode()

    def _number(self, kind: str) -> int:
        (number,) = struct.unpack(f"<{kind}", self._bytes(struct.calcsize(f"<{kind}")))
        return int(number)

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError
        return data


# --- the small files ------------------------------------------------------------------------------------------------


def _object(path: Path) -> dict[str, Any]:
    found = _read_json(path)
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} is not a JSON object.")
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as e:
        raise ModelFileError(f"{path} is not valid JSON: {str(e)[:100]}.") from None


def _lines(path: Path) -> list[str]:
    return list(_tokens(_text(path)))


def _tokens(text: str) -> Iterator[str]:
    """The lines as CTranslate2 has them: it knows no other ends of a line than this one."""
    yield from text.removesuffix("\n").split("\n")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ModelFileError(f"{path} has more than {_MAX_JSON >> 20} MiB, which no vocabulary has.")
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ModelFileError(f"{path} is not text in UTF-8.") from None
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read: {e.strerror}.") from None
