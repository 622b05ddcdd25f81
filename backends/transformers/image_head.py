"""Heads that look at images: what they share, and the one that classifies. How an image becomes their input is told by
``preprocessor_config.json``, and read by `backends.transformers.preparation`."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np

from backends.base import PIXEL_MASK, ModelFileError, OutOfMemory, Tensors, TensorSpec
from backends.transformers.heads import Head, activation_of
from backends.transformers.library import from_folder, reason
from backends.transformers.preparation import preprocessing, squeezed, whole

_EVEN = 32
"""What the sides of images are multiples of that any network takes which takes more than one size."""
PROCESSOR = "preprocessor_config.json"


class PixelHead(Head):
    """Base of the heads that look at images. Input ``pixel_values`` f32 [batch, channels, height, width]."""

    optional: tuple[TensorSpec, ...] = ()
    _shape: tuple[int, int, int, int]
    """Of one row of the input."""

    def example(self) -> Tensors:
        """Noise, the same every time."""
        return {"pixel_values": np.random.default_rng(0).normal(0, 1, self._shape).astype(np.float32)}

    def compute(self, batch: Tensors) -> Any:
        """What the network makes of a batch."""
        torch, network = self.network.torch, self.network
        pixels = torch.from_numpy(batch["pixel_values"].copy()).to(network.device, getattr(torch, network.dtype))
        if PIXEL_MASK.name not in batch:
            return network.compute(pixel_values=pixels)
        mask = torch.from_numpy(batch[PIXEL_MASK.name].copy()).to(network.device)
        return network.compute(pixel_values=pixels, pixel_mask=mask)

    def takes(self, channels: int, height: int, width: int) -> None:
        """Sets the shape of the input."""
        self._shape = (1, channels, height, width)
        self.inputs = (TensorSpec("pixel_values", "float32", ("batch", *self._shape[1:])),)

    def sees_whole(self, processor: Any) -> bool:
        """Prepares for images of which nothing is cut off, since what is at the border is to be found, too. Returns
        whether they keep their shapes, so that the input has any size."""
        chosen, self.notes = whole(processor)
        channels, (height, width) = int(getattr(self.network.config, "num_channels", 3)), chosen["size"]
        free = "longest" in chosen or "keep_size" in chosen
        if free and not self._takes_any_shape(channels, int(height)):
            free = False
            chosen, self.notes = squeezed(chosen)
        self.takes(channels, int(height), int(width))
        self.metadata = {"unimodel.preprocess": json.dumps(chosen)}
        if not free:
            return False
        self.inputs = (TensorSpec("pixel_values", "float32", ("batch", channels, "height", "width")),)
        if PIXEL_MASK.name in inspect.signature(self.network.model.forward).parameters:
            self.optional = (PIXEL_MASK,)
        return True

    def _takes_any_shape(self, channels: int, side: int) -> bool:
        """Whether the network runs on an image that is not square, of which it can be told before."""
        if PIXEL_MASK.name in inspect.signature(self.network.model.forward).parameters:
            return True
        shape = (1, channels, side, side + max(_EVEN, side // 2 // _EVEN * _EVEN))
        try:
            self.compute({"pixel_values": np.zeros(shape, np.float32)})
        except OutOfMemory:
            raise
        except Exception:
            return False
        return True

    def processor(self) -> Any:
        """The library's own, which prepares images. Raises `ModelFileError`."""
        if not (self.folder.path / PROCESSOR).is_file():
            raise ModelFileError(f"{self.folder.name} has no {PROCESSOR}, which tells how images are prepared.")
        library = self.network.library
        try:
            return from_folder(library.transformers.AutoImageProcessor, self.folder.path, self.trusted)
        except Exception as e:
            raise ModelFileError(f"The image processor of {self.folder.name} cannot be loaded: {reason(e)}") from e


class ImageHead(PixelHead):
    """Output ``probabilities`` f32 [batch, classes], or ``scores`` of a model that gives numbers instead of classes."""

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
        self._activation, name, notes = activation_of(self.folder.config)
        self.notes = (*self.notes, *notes)
        self.metadata = {**self.metadata, "unimodel.softmax": "false"}
        self.outputs = (TensorSpec(name, "float32", ("batch", len(self.labels))),)

    def predict(self, batch: Tensors) -> Tensors:
        return {self.outputs[0].name: self._activation(self.compute(batch).logits.float().cpu().numpy())}
