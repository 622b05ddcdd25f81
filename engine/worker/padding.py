"""Rows of different lengths in one batch: padded on the way in, cut on the way out.

A free dimension is matched by its name: where the input ``tokens`` is ``[batch, sequence]`` and the output is
``[batch, sequence, 384]``, the output of each request is cut back to that request's own ``sequence``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backends.base import ModelInfo, Tensors, TensorSpec
from engine.model_options import PaddingOptions

Array = np.ndarray[Any, Any]
Sizes = dict[str, int]
"""Free dimension name to its size in one request."""


def free_dims(spec: TensorSpec) -> list[tuple[int, str]]:
    """The axes of a tensor that may differ between requests, with their names; the batch axis aside."""
    return [(i, d) for i, d in enumerate(spec.shape) if isinstance(d, str) and i != spec.batch_axis]


def paddable(info: ModelInfo) -> str | None:
    """Why a model cannot be padded by its signature alone; `None` when it can be tried."""
    names = {d for s in info.inputs for _, d in free_dims(s)}
    if not names:
        return "its rows have a fixed shape"
    if info.unpadded_reason is not None:
        return info.unpadded_reason
    if any(s.dtype == "string" for s in info.inputs):
        return "its inputs are strings"
    for spec in info.outputs:
        for _, name in free_dims(spec):
            if name not in names:
                return f"output {spec.name!r} has a free dimension that no input names"
    return None


def concatenate(parts: Sequence[Tensors]) -> Tensors:
    """Rows of equal shape, one below the other."""
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def fill_up(arrays: Sequence[Array], shape: Sequence[int], value: str | float) -> Array:
    """Rows one below the other, each brought to the size of `shape` by a value at its ends."""
    out = np.full((sum(map(len, arrays)), *shape), value, arrays[0].dtype)
    row = 0
    for array in arrays:
        window: tuple[Any, ...] = (slice(row, row + len(array)), *(slice(0, n) for n in array.shape[1:]))
        out[window] = array
        row += len(array)
    return out


class Padding:
    """Pads and cuts for one model."""

    def __init__(self, info: ModelInfo, options: Mapping[str, PaddingOptions]) -> None:
        self.inputs = info.inputs
        self.outputs = {s.name: s for s in info.outputs}
        self.options = options

    def sizes(self, tensors: Tensors) -> Sizes:
        """The free dimensions of one request."""
        return {name: tensors[s.name].shape[axis] for s in self.inputs for axis, name in free_dims(s)}

    def stack(self, parts: Sequence[Tensors]) -> Tensors:
        """The rows of all requests in one array for each input, padded to the longest, or to the next bucket."""
        stacked: Tensors = {}
        for spec in self.inputs:
            arrays = [p[spec.name] for p in parts]
            option = self.options.get(spec.name, PaddingOptions())
            shape = list(arrays[0].shape)
            for axis, _ in free_dims(spec):
                shape[axis] = bucket(max(a.shape[axis] for a in arrays), option.buckets)
            stacked[spec.name] = fill_up(arrays, shape[1:], option.value)
        return stacked

    def unpad(self, rows: Tensors, sizes: Sizes) -> Tensors:
        """The output rows of one request, cut back to its own sizes."""
        cut: Tensors = {}
        for name, array in rows.items():
            spec = self.outputs.get(name)
            window = [slice(None)] * array.ndim
            for axis, dim in free_dims(spec) if spec is not None else []:
                window[axis] = slice(0, sizes[dim])
            cut[name] = array[tuple(window)]
        return cut


def bucket(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length`, or `length` itself when none does."""
    return next((b for b in sorted(buckets) if b >= length), length)
