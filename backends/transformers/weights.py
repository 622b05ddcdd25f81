"""The weights of a Hugging Face folder, by the headers of its safetensors files: how many, of which types."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import resources
from backends.base import Device, ModelFileError, OutOfMemory
from backends.resources import megabytes
from backends.transformers.folder import Folder

_MOST_HEADER = 16 << 20
"""Bytes of a header: enough for a hundred thousand tensors."""
_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of an element, by the names of safetensors."""
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Weights:
    """What the headers tell."""

    elements: dict[str, int]
    """How many there are, by type; empty for pickled weights, which have no header."""

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(self.elements.values())

    @property
    def dtype(self) -> str | None:
        """The type that most of the numbers are stored in, by PyTorch's name; `None` if it is not known."""
        floats = {name: count for name, count in self.elements.items() if name in _FLOATS}
        return _FLOATS[max(floats, key=lambda name: floats[name])] if floats else None

    def nbytes(self, dtype: str) -> int:
        """Bytes of the weights in memory, with floating-point numbers of this type."""
        return sum(n * (_BYTES[dtype] if kind in _FLOATS else _SIZES[kind]) for kind, n in self.elements.items())


def find(folder: Folder) -> Weights:
    """The weights of a folder. Raises `ModelFileError` when a file is missing, truncated or corrupt."""
    elements: Counter[str] = Counter()
    for file in _files(folder):
        elements.update(read_header(file))
    return Weights(dict(elements))


def check_room(folder: Folder, weights: Weights, dtype: str, device: Device, more: int = 0) -> int:
    """Bytes that the model takes, with `more` beside its weights. Raises `OutOfMemory` if they are not there."""
    needed = weights.nbytes(dtype) + more
    left = room(device)
    if left is not None and needed > left:
        kept = f", {megabytes(more)} of them for what is remembered of texts" if more else ""
        raise OutOfMemory(
            f"{folder.name} needs {megabytes(needed)} in {dtype}{kept}, and {megabytes(left)} are left."
            + (" With --set dtype=bfloat16 it needs half." if dtype == "float32" else "")
        )
    return needed


def room(device: Device) -> int | None:
    """Bytes that a model may take on a device; `None` when that is not known."""
    if device.kind != "cpu":
        return device.memory_bytes
    left = resources.available()
    return left if device.memory_bytes is None else min(left, device.memory_bytes)


def read_header(file: Path) -> dict[str, int]:
    """The elements in a safetensors file, by type. Raises `ModelFileError` unless all of them are there."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ModelFileError(f"{file} is truncated: its header is longer than the file. Copy it again.")
            if length > _MOST_HEADER:
                raise ModelFileError(
                    f"{file} has a header of {length:,} bytes; more than {_MOST_HEADER:,} are not read."
                )
            entries = json.loads(stream.read(length))
    except OSError as e:
        raise ModelFileError(f"{file} cannot be read: {e.strerror}.") from None
    except (ValueError, RecursionError):
        raise ModelFileError(f"{file} is corrupt: its header is not JSON. Copy it again.") from None
    if not isinstance(entries, dict):
        raise ModelFileError(f"{file} is corrupt: its header is no list of tensors. Copy it again.")
    elements: Counter[str] = Counter()
    for name, entry in entries.items():
        if name != "__metadata__":
            kind, count = _entry(file, name, entry, size - 8 - length)
            elements[kind] += count
    if not elements:
        raise ModelFileError(f"{file} holds no tensors.")
    return dict(elements)


def _entry(file: Path, name: str, entry: Any, data: int) -> tuple[str, int]:
    """Type and count of the elements of one tensor, whose bytes must lie within the `data` bytes of the file."""
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        fits = kind in _SIZES and all(type(n) is int and n >= 0 for n in numbers)
        count = math.prod(shape) if fits else -1
        fits = fits and end - begin == count * _SIZES[kind]
    except (KeyError, TypeError, ValueError):
        fits, end = False, 0
    if not fits:
        raise ModelFileError(f"{file} is corrupt: its entry for {name[:100]!r} makes no sense. Copy it again.")
    if end > data:
        raise ModelFileError(f"{file} is truncated: it ends before the tensor {name[:100]!r} does. Copy it again.")
    return kind, count


def _files(folder: Folder) -> list[Path]:
    """The safetensors files that the library reads; none where the weights are pickles."""
    whole = folder.path / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = folder.read(_INDEX)
    if index:
        mapping = index.get("weight_map")
        if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
            raise ModelFileError(f"{folder.path / _INDEX} is corrupt: it has no weight_map.")
        files = [folder.inside(name) for name in sorted(set(mapping.values()))]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise ModelFileError(f"{folder.name} is incomplete: {missing.name} is missing, which {_INDEX} names.")
        return files
    if any(folder.path.glob("pytorch_model*.bin")):
        return []
    raise ModelFileError(f"{folder.name} has no weights: neither model.safetensors nor {_INDEX} is there.")
