"""What a loaded model is to the backend: slots to fill, slots to read, and a call. And what crosses that border."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from backends.base import BackendError, InvalidInput, ModelFileError

Array = np.ndarray[Any, Any]

_SAME = {"float16", "float32", "float64", "bool"} | {f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)}
_WIDER = {"bfloat16": "float32", "int4": "int8", "uint4": "uint8"}
"""Types without a form in NumPy, and the ones that they are given and taken as."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An input or an output."""

    name: str
    dtype: str
    """As in `backends.base.TensorSpec`."""
    shape: tuple[int | None, ...] | None
    """`None` for a free dimension, or for all when the rank is free too."""
    own_dtype: Any = None
    """NumPy's dtype of the tensor itself, where it is another than `dtype`."""
    base64: bool = False
    """Whether its strings are bytes, which are given and taken in base64."""
    example: str = ""
    """What an input holds in the example, where not any string will do."""

    def to_tensor(self, array: Array) -> Array:
        """What TensorFlow is given for an array of the signature's dtype. Raises `InvalidInput`."""
        if self.own_dtype is not None:
            return array.astype(self.own_dtype)
        if self.dtype != "string":
            return array
        try:
            encoded = [self._bytes(text) for text in array.flat]
        except ValueError as e:
            kind = "base64" if self.base64 else "text"
            raise InvalidInput(f"{self.name!r} holds a string that is no {kind}: {e}.", field="input") from None
        return _objects(encoded, array.shape)

    def to_array(self, tensor: Any) -> Array:
        """What the engine is given for an output. Raises `BackendError` for bytes that are no text."""
        array = np.asarray(tensor)
        if self.own_dtype is not None:
            return array.astype(self.dtype)
        if self.dtype != "string":
            return array
        try:
            return _objects([self._text(data) for data in array.flat], array.shape)
        except UnicodeDecodeError:
            raise BackendError(
                f"The output {self.name!r} holds bytes that are no UTF-8 text; register the model with "
                f"""--set base64='["{self.name}"]' to have them in base64."""
            ) from None

    def _bytes(self, text: str) -> bytes:
        return binascii.a2b_base64(text, strict_mode=True) if self.base64 else text.encode()

    def _text(self, data: bytes) -> str:
        return binascii.b2a_base64(data, newline=False).decode() if self.base64 else bytes(data).decode()


class Program(Protocol):
    """A model that TensorFlow computes."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    def run(self, tensors: list[Array]) -> list[Any]:
        """The outputs for the inputs, in the order of the slots. Raises what TensorFlow raises."""

    def close(self) -> None:
        """Frees it."""


def is_base64(name: str, dtype: str, chosen: Sequence[str]) -> bool:
    """Whether strings are bytes in base64: the user chose so, or the name says so, as it does to TensorFlow Serving."""
    return dtype == "string" and (name in chosen or name.endswith("_bytes"))


def dtype_of(kind: str, name: str, dtype: Any) -> tuple[str, Any]:
    """Our name of one of TensorFlow's types, and NumPy's of the tensor itself where that is another.

    Raises `ModelFileError` for a type that cannot be served, such as a resource.
    """
    if dtype.name in _SAME or dtype.name == "string":
        return dtype.name, None
    wider = _WIDER.get(dtype.name) or ("float32" if dtype.name.startswith("float8") else None)
    if wider is None:
        raise ModelFileError(
            f"{kind} {name!r} has the type {dtype.name}, which cannot be served; export the model with plain tensors "
            "of numbers or strings."
        )
    return wider, dtype.as_numpy_dtype


def _objects(values: list[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)
