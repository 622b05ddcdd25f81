"""Heads that look at images: what they share, and the one that classifies. How an image becomes their input is told by
``preprocessor_config.json``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from backends.base import ModelFileError, Tensors, TensorSpec
from backends.transformers.heads import Head
from backends.transformers.library import from_folder, reason

_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By their number in Pillow."""
PROCESSOR = "preprocessor_config.json"


class PixelHead(Head):
    """Base of the heads that look at images. Input ``pixel_values`` f32 [batch, channels, height, width]."""

    optional = ()
    _shape: tuple[int, int, int, int]
    """Of one row of the input."""

    def example(self) -> Tensors:
        """Noise, the same every time."""
        return {"pixel_values": np.random.default_rng(0).normal(0, 1, self._shape).astype(np.float32)}

    def compute(self, batch: Tensors) -> Any:
        """What the network makes of a batch."""
        torch, network = self.network.torch, self.network
        pixels = torch.from_numpy(batch["pixel_values"].copy()).to(network.device, getattr(torch, network.dtype))
        return network.compute(pixel_values=pixels)

    def takes(self, channels: int, height: int, width: int) -> None:
        """Sets the shape of the input."""
        self._shape = (1, channels, height, width)
        self.inputs = (TensorSpec("pixel_values", "float32", ("batch", *self._shape[1:])),)

    def processor(self) -> Any:
        """The library's own, which prepares images. Raises `ModelFileError`."""
        library = self.network.library
        try:
            return from_folder(library.transformers.AutoImageProcessor, self.folder.path, self.trusted)
        except Exception as e:
            raise ModelFileError(f"The image processor of {self.folder.name} cannot be loaded: {reason(e)}") from e


class ImageHead(PixelHead):
    """Output ``logits`` f32 [batch, classes]."""

    task = "image-classification"
    loader = "AutoModelForImageClassification"

    def prepare(self) -> None:
        """Reads the labels and the preprocessing."""
        config = self.network.config
        self.labels = self.folder.labels
        if len(self.labels) != int(config.num_labels):
            raise ModelFileError(f"{self.folder.name} is corrupt: its labels are not as many as its classes.")
        channels = int(getattr(config, "num_channels", 3))
        size: Any = getattr(config, "image_size", None)
        height, width = (size, size) if isinstance(size, int) else tuple(size or (224, 224))
        if (self.folder.path / PROCESSOR).is_file():
            chosen, self.notes = preprocessing(self.processor())
            height, width = chosen["size"]
            self.metadata = {"unimodel.preprocess": json.dumps(chosen)}
        else:
            self.notes = (f"The folder has no {PROCESSOR}, which tells how images are prepared.",)
        self.takes(channels, int(height), int(width))
        self.outputs = (TensorSpec("logits", "float32", ("batch", len(self.labels))),)

    def predict(self, batch: Tensors) -> Tensors:
        return {"logits": self.compute(batch).logits.float().cpu().numpy()}


def preprocessing(processor: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The engine's options of preprocessing that do as an image processor of the library, and what they do not."""
    notes: tuple[str, ...] = ()

    def get(name: str) -> Any:
        return getattr(processor, name, None)

    size = _size(get("size"))
    chosen: dict[str, Any] = {"size": size, "crop": False}
    if get("do_center_crop"):
        chosen = {"size": _size(get("crop_size")) or size, "crop": True, "resize": min(size)}
        if isinstance(_entry(get("size"), "shortest_edge"), type(None)) and size[0] != size[1]:
            notes = ("Images are scaled by their short side, where the library would squeeze them.",)
        chosen["resize"] = max(chosen["resize"], *chosen["size"])
    elif get("crop_pct") and min(size) < 384:  # ConvNeXT's way
        chosen |= {"crop": True, "resize": int(min(size) / get("crop_pct"))}
    elif _entry(get("size"), "shortest_edge") is not None and not get("crop_pct"):
        chosen |= {"crop": True, "resize": min(size)}
        notes = ("Images are cut to a square, where the library would leave their shape.",)
    interpolation = get("resample")
    if interpolation is not None and 0 <= int(interpolation) < len(_INTERPOLATIONS):
        chosen["interpolation"] = _INTERPOLATIONS[int(interpolation)]
    factor = float(get("rescale_factor") or 1 / 255) if get("do_rescale") is not False else 1.0
    mean, std = ((0.0,), (1.0,)) if not get("do_normalize") else (get("image_mean"), get("image_std"))
    chosen["mean"] = [float(value) / factor for value in _several(mean)]
    chosen["std"] = [float(value) / factor for value in _several(std)]
    if get("do_flip_channel_order"):
        chosen["color"] = "bgr"
    return chosen, notes


def _several(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (float(value),)


def _entry(size: Any, name: str) -> Any:
    try:
        return size[name]
    except (KeyError, TypeError, AttributeError, IndexError):
        return getattr(size, name, None)


def _size(size: Any) -> tuple[int, int]:
    """Height and width of a size as the library writes it."""
    if isinstance(size, int):
        return size, size
    edge = _entry(size, "shortest_edge")
    if edge is not None:
        return int(edge), int(edge)
    height, width = _entry(size, "height"), _entry(size, "width")
    return (int(height), int(width)) if height and width else (224, 224)
