"""Between NumPy's arrays and PyTorch's values: types, and the names of what a program returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from backends.base import ModelFileError, Tensors

DTYPES = frozenset(
    ("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
)
"""Types of elements that an input may have. They have the same names in both libraries."""


def dtype_name(torch: Any, dtype: Any, name: str) -> str:
    """Our name of the type of an input. Raises `ModelFileError` for one that cannot be sent."""
    found = str(dtype).removeprefix("torch.")
    if dtype == torch.bfloat16:  # NumPy has none; it is given as float32, and converted
        return "float32"
    if found not in DTYPES:
        raise ModelFileError(
            f"Input {name!r} has the type {found}, which cannot be served; export the model with plain numbers."
        )
    return found


def outputs_of(torch: Any, value: Any, *, widen: bool) -> Tensors:
    """What a program returned, as named arrays of their own memory; half precision as float32 if it is to `widen`.

    The keys of a dict and the fields of a named tuple are the names. Nameless values are ``output``, or ``output_0``,
    ``output_1`` …; what is nested has both names. Raises `ModelFileError` for what is no tensor.
    """
    found: Tensors = {}
    for path, leaf in _leaves(value, ()):
        name = "_".join(path) if path and not path[0].isdigit() else "_".join(("output", *path))
        if leaf is None:
            continue
        if name in found:
            raise ModelFileError(f"The model returns two values with the name {name!r}; give them different ones.")
        found[name] = _array(torch, leaf, name, widen)
    if not found:
        raise ModelFileError("The model returns nothing.")
    return found


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        parts = [(str(i), part) for i, part in enumerate(value)]
    else:
        yield path, value
        return
    parts = [part for part in parts if not (isinstance(part[1], dict | list | tuple) and not part[1])]
    lone = len(parts) == 1 and (parts[0][0] == "0" or (isinstance(value, list | tuple) and parts[0][0].isdigit()))
    if lone:  # one value in a tuple needs no number
        yield from _leaves(parts[0][1], path)
        return
    for name, part in parts:
        yield from _leaves(part, (*path, name))


def _array(torch: Any, value: Any, name: str, widen: bool) -> np.ndarray[Any, Any]:
    if isinstance(value, bool | int | float):
        return np.array(value)
    if not isinstance(value, torch.Tensor):
        raise ModelFileError(
            f"The model returns {type(value).__name__} as {name!r}, which cannot be served; return plain tensors."
        )
    if value.is_complex():
        raise ModelFileError(
            f"The model returns complex numbers as {name!r}, which cannot be served; return their parts, such as with "
            "torch.view_as_real."
        )
    tensor = value.dequantize() if value.is_quantized else value
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    if tensor.dtype == torch.bfloat16 or (widen and tensor.dtype == torch.float16):
        tensor = tensor.float()
    array: np.ndarray[Any, Any] = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().numpy()
    return array
