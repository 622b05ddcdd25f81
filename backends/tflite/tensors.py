"""Inputs and outputs of a TensorFlow Lite model: their types, and quantized ones as the numbers that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from backends.base import BackendError, InvalidInput, ModelFileError

Array = np.ndarray[Any, Any]
Quantized = Literal["auto", "float", "raw"]

_DTYPES = {"float16", "float32", "float64", "bool"} | {f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)}


@dataclass(frozen=True, slots=True)
class LiteTensor:
    """One input or output, as the user sees it and as the model has it."""

    name: str
    dtype: str
    """As the user sees it; see `backends.base.TensorSpec`."""
    shape: tuple[int, ...]
    """-1 is free."""
    index: int
    own: np.dtype[Any]
    """The model's own dtype."""
    scale: float = 0.0
    """What a step of the quantized numbers is worth; 0 for a tensor that is given and taken as it is."""
    zero_point: int = 0

    def to_model(self, array: Array) -> Array:
        """The model's own numbers. Raises `InvalidInput`."""
        if self.scale:
            limits = np.iinfo(self.own)
            with np.errstate(invalid="ignore"):
                steps = np.rint(array / np.float32(self.scale)) + self.zero_point
                own: Array = np.clip(np.nan_to_num(steps, nan=self.zero_point), limits.min, limits.max).astype(self.own)
                return own
        if self.dtype == "string":
            try:
                return _objects([text.encode() for text in array.flat], array.shape)
            except UnicodeEncodeError:
                raise InvalidInput(f"{self.name!r} holds a string that is no text.", field="input") from None
        return array

    def to_user(self, array: Array) -> Array:
        """The numbers that the model's own stand for. Raises `BackendError` for bytes that are no text."""
        if self.scale:
            numbers: Array = (array.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
            return numbers
        if self.dtype == "string":
            try:
                return _objects([bytes(data).decode() for data in array.flat], array.shape)
            except UnicodeDecodeError:
                raise BackendError(f"The output {self.name!r} holds bytes that are no UTF-8 text.") from None
        return array


def describe(kind: str, name: str, details: Mapping[str, Any], quantized: Quantized) -> LiteTensor:
    """An input or output by LiteRT's details of it. Raises `ModelFileError` for a type that cannot be served."""
    own = np.dtype(details["dtype"])
    dtype = "string" if own.kind == "S" else own.name
    if dtype not in _DTYPES and dtype != "string":
        raise ModelFileError(f"{kind} {name!r} has the type {dtype}, which cannot be served.")
    shape = tuple(int(dim) for dim in details["shape_signature"])
    if not shape:  # an older converter wrote none
        shape = tuple(int(dim) for dim in details["shape"])
    scales, zero_points = (details["quantization_parameters"][key] for key in ("scales", "zero_points"))
    if own.kind not in "iu" or len(scales) != 1 or not np.isfinite(scales[0]) or scales[0] <= 0 or quantized == "raw":
        return LiteTensor(name, dtype, shape, int(details["index"]), own)
    if quantized == "auto" and kind == "Input" and _is_picture(own, shape):
        return LiteTensor(name, dtype, shape, int(details["index"]), own)
    zero_point = int(zero_points[0]) if len(zero_points) else 0
    return LiteTensor(name, "float32", shape, int(details["index"]), own, float(scales[0]), zero_point)


def _is_picture(own: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether a quantized input looks like an image's pixels, which are taken as they are."""
    return own == np.uint8 and len(shape) == 4 and shape[3] in (1, 3)


def _objects(values: list[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)
