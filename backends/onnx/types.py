"""Element types, as ONNX writes them."""

from __future__ import annotations

import re

from backends.base import ModelFileError

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "bool": "bool",
    "string": "string",
    **{name: name for name in ("float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
"""ONNX's names of the element types that NumPy has too, and ours."""


def dtype_of(kind: str, onnx_type: str, name: str) -> str:
    """Our name of ``tensor(float)``. Raises `ModelFileError` for a type that has no form in NumPy."""
    match = re.fullmatch(r"tensor\((\w+)\)", onnx_type)
    if match is None or match[1] not in _DTYPES:
        raise ModelFileError(
            f"{kind} {name!r} has the type {onnx_type}, which cannot be served; "
            "export the model with plain tensors of numbers or strings."
        )
    return _DTYPES[match[1]]
