"""Which pixels a SavedModel wants, told by the first thing that its graph does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backends.tensorflow.flow import Flow, Place, Use, data_inputs, node_of
from backends.tensorflow.program import Array

_SUMS = ("Add", "AddV2", "BiasAdd", "Sub")
_QUOTIENTS = ("RealDiv", "Div")
_MOVES = (
    *("Reshape", "ExpandDims", "Squeeze", "Transpose", "ReverseV2", "StridedSlice", "Pad", "PadV2", "MirrorPad"),
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"),
)
"""Operations that move pixels, and leave their values as they are."""
_LOOKS = ("Shape", "Rank", "Size", "NoOp")
"""Operations that look at shapes alone."""
_COMPUTED: dict[str, Callable[..., Any]] = {
    "Sqrt": np.sqrt,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    "Reciprocal": np.reciprocal,
    "Neg": np.negative,
    "Maximum": np.maximum,
    "Mul": np.multiply,
    "RealDiv": np.divide,
    "AddV2": np.add,
    "Sub": np.subtract,
}
"""Operations of which a layer makes its mean and its deviation."""
_LONGEST = 20
"""Of a row of operations that is followed."""

_SCALE = 1 / 100
"""What pixels of 0 to 255 are multiplied with at most; 1/127.5 and 1/255 are usual."""
_DARK = 16.0
"""The least mean of pixels of 0 to 255, in every channel; ImageNet's are 104 to 124."""
_MIDDLE = (0.3, 0.7)
"""Between which the mean of pixels of 0 to 1 is; ImageNet's are 0.41 to 0.49, and 0.5 is usual."""
_SPREAD = (1.5, 10.0)
"""What is left of these is multiplied with: 2, or 1 through a deviation of about 0.23."""


def brightest(flow: Flow, tensor: str) -> int | None:
    """The value of a white pixel, 255 or 1, for a graph that itself brings pixels into the range its layers take.

    It does when, before anything else, it divides them by much, or takes off a mean that such pixels have. `None` when
    it does no such thing, so that nothing is known.
    """
    place, name = flow.root, tensor
    factor, mean = np.ones(1), np.zeros(1)  # so far, pixels have become (pixels - mean) * factor
    for _ in range(_LONGEST):
        uses = [use for use in flow.uses(name, place) if use.node.op not in _LOOKS]
        if len(uses) != 1:
            break
        (use,) = uses
        place, name = use.place, use.node.name
        if use.node.op in _MOVES and node_of(use.node.input[0]) == use.name:
            continue
        step = _step(flow, use)
        if step is None:
            break
        factor, mean = factor * step[0], mean + step[1] / factor
    if (np.abs(factor) <= _SCALE).all() or (mean >= _DARK).all():
        return 255
    middle = ((mean >= _MIDDLE[0]) & (mean <= _MIDDLE[1])).all()
    return 1 if middle and ((factor >= _SPREAD[0]) & (factor <= _SPREAD[1])).all() else None


def _step(flow: Flow, use: Use) -> tuple[Array, Array] | None:
    """What a tensor is multiplied with, and what is taken off it before, one number for each channel; `None` when it is
    neither, or with numbers that are not known."""
    op, inputs = use.node.op, data_inputs(use.node)
    if op not in (*_SUMS, *_QUOTIENTS, "Mul") or len(inputs) != 2:
        return None
    first = node_of(inputs[0]) == use.name
    value = _known(flow, use.place, inputs[1 if first else 0])
    if value is None or not np.isfinite(value).all():
        return None
    value = value.ravel()
    if op in _SUMS:
        return (np.ones(1), value if op == "Sub" else -value) if first or op != "Sub" else None
    if not value.all() or (op in _QUOTIENTS and not first):
        return None
    return (1 / value if op in _QUOTIENTS else value), np.zeros(1)


def _known(flow: Flow, place: Place, tensor: str, depth: int = 0) -> Array | None:
    """One number or one for each channel, that is computed of nothing but constants."""
    value = flow.constant(place, tensor)
    if value is not None:
        few = value.dtype.kind in "fiu" and value.size in (1, 3)
        return value.astype(np.float64) if few else None
    node = place.nodes.get(node_of(tensor))
    if node is None or node.op not in _COMPUTED or depth == _LONGEST:
        return None
    given = [_known(flow, place, name, depth + 1) for name in data_inputs(node)[:2]]
    if not given or any(each is None for each in given):
        return None
    with np.errstate(all="ignore"):
        return np.asarray(_COMPUTED[node.op](*(each.ravel() for each in given if each is not None)))
