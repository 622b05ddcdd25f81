"""The file of a projector (mmproj): finding it, checking its header, and what it takes of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import BackendError, InvalidOption, ModelFileError
from backends.gguf import file
from backends.gguf.file import SUFFIX, Header

ARCHITECTURE = "clip"
OFF = "off"
"""The value of the option for a model that is to see nothing."""
_MAX_LAYERS = 512
_MAX_SIDE = 8192
"""Pixels; llama.cpp's limit."""
_MAX_WIDTH = 1 << 17
_COUNTS = {
    "block_count": _MAX_LAYERS,
    "embedding_length": _MAX_WIDTH,
    "feed_forward_length": _MAX_WIDTH,
    "attention.head_count": _MAX_WIDTH,
    "projection_dim": _MAX_WIDTH,
    "image_size": _MAX_SIDE,
    "patch_size": _MAX_SIDE,
}
"""The most that makes sense."""
_MAY_BE_NONE = ("feed_forward_length", "projection_dim", "image_size", "attention.head_count", "block_count")
"""Those that some kinds of projectors have as 0."""


@dataclass(frozen=True)
class Eyes:
    """The projector that a model is to be loaded with, if any."""

    path: Path | None = None
    header: Header | None = None
    found: bool = False
    """Whether nobody named it: it lies beside the model."""
    note: str = ""
    """What to tell the user."""

    @property
    def bytes(self) -> int:
        """What it takes of memory."""
        return 0 if self.header is None else self.header.nbytes + compute_bytes(self.header)

    def unused(self, reason: BackendError) -> Eyes:
        """Without it, as it cannot be used."""
        name = self.path.name if self.path else ""
        return Eyes(note=f"{name} lies beside the model, but is not used. {reason.message}")


def eyes_of(model: Path, option: str | None) -> Eyes:
    """The projector for a model, by its option ``mmproj``. Raises `ModelFileError` or `InvalidOption`."""
    if option == OFF:
        return Eyes()
    if option is not None:
        path = Path(option).expanduser()
        header = read_header(path)
        return Eyes(path, header, note=f"Images go through {path.name} ({kind(header)}).")
    candidates = beside(model)
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        return Eyes(note=f"Several projectors lie beside the model: {names}. To use one, name it with mmproj.")
    for path in candidates:
        try:
            header = read_header(path)
        except BackendError as e:
            return Eyes(path, found=True).unused(e)
        note = f"Images go through {path.name} ({kind(header)}), which lies beside the model; mmproj=off leaves it out."
        return Eyes(path, header, found=True, note=note)
    return Eyes()


def beside(model: Path) -> list[Path]:
    """The projectors that lie in the folder of a model, by their names."""
    try:
        found = [p for p in model.parent.iterdir() if p.suffix == SUFFIX and "mmproj" in p.name.lower()]
        return sorted(p for p in found if p.is_file() and not p.samefile(model))
    except OSError:
        return []


def read_header(path: Path) -> Header:
    """The checked header of a projector for images. Raises `ModelFileError` or `InvalidOption`."""
    try:
        header = file.read_header(path)
    except ModelFileError as e:
        e.field = "config.mmproj"
        raise
    if header.architecture != ARCHITECTURE:
        raise InvalidOption(
            f"{path.name} is no projector, but a model of the architecture {header.architecture}. Give the file that "
            "came with the model, often named mmproj.",
            field="config.mmproj",
        )
    if header.metadata.get("clip.has_vision_encoder") is not True:
        raise InvalidOption(f"The projector {path.name} takes no images.", field="config.mmproj")
    for problem in _problems(header):
        raise ModelFileError(f"{path.name} is corrupt: {problem}. Download it again.", field="config.mmproj")
    return header


def kind(header: Header) -> str:
    """Such as ``idefics3``, in llama.cpp's words."""
    metadata = header.metadata
    return str(metadata.get("clip.projector_type") or metadata.get("clip.vision.projector_type") or "unknown")


def compute_bytes(header: Header) -> int:
    """What encoding one image or tile needs besides the weights; an estimate, on the safe side."""
    side, patch = _number(header, "image_size") or 1024, _number(header, "patch_size") or 16
    width, inner = _number(header, "embedding_length"), _number(header, "feed_forward_length")
    patches = (side // patch + 1) ** 2
    pixels = 4 * 3 * side * side
    activations = 4 * patches * (6 * width + 3 * (inner or 4 * width))
    attention = 6 * patches * patches
    return 2 * pixels + activations + attention


def _problems(header: Header) -> Iterator[str]:
    for key, most in _COUNTS.items():
        name = f"clip.vision.{key}"
        kind, value = header.types.get(name, "u32"), header.metadata.get(name)
        least = 0 if key in _MAY_BE_NONE else 1
        if kind != "u32":
            yield f"the value of {name!r} is of type {kind}; it must be u32"
        elif value is not None and not least <= value <= most:
            yield f"the value of {name!r} is {value}; {least} to {most} make sense"
    for name in ("clip.vision.image_mean", "clip.vision.image_std"):
        numbers = header.metadata.get(name)
        if not isinstance(numbers, tuple) or len(numbers) < 3 or not all(map(_is_finite, numbers)):
            yield f"the value of {name!r} is no list of a number for each colour"
        elif name.endswith("std") and 0.0 in numbers:
            yield f"the value of {name!r} divides by zero"
    epsilon: Any = header.metadata.get("clip.vision.attention.layer_norm_epsilon", 0.0)
    if not _is_finite(epsilon) or epsilon < 0:
        yield f"it normalizes with an epsilon of {epsilon}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _number(header: Header, key: str) -> int:
    value = header.metadata.get(f"clip.vision.{key}")
    return value if isinstance(value, int) else 0
