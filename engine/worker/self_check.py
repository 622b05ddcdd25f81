"""The check that batching is exact, made once when a model is loaded.

Rows computed alone are compared with the same rows computed in a batch, and rows of different lengths with the same
rows padded. A model that fails is served unbatched, or unpadded, and says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backends.base import ModelInfo, Tensors
from engine.worker import padding
from engine.worker.padding import Padding

Predict = Callable[[Tensors], Tensors]

ROWS = 4
"""Rows in the checked batch."""

_TOLERANCE = {2: 2e-2, 4: 2e-3, 8: 1e-6}
"""Relative and absolute, by bytes of a float: room for other summation orders, not for other results."""


def batch_reason(predict: Predict, example: Tensors, info: ModelInfo, rows: int) -> str | None:
    """Why rows must not be batched; `None` when a batch gives what each row gives alone."""
    variants, alone = _rows_alone(predict, example, min(ROWS, max(2, rows)))
    try:
        together = predict(padding.concatenate(variants))
    except Exception as e:
        return f"a batch of {len(variants)} rows failed: {_short(e)}"
    for spec in info.outputs:
        if spec.name in together and len(together[spec.name]) != len(variants):
            return f"output {spec.name!r} does not have one row for each input row"
    for i, expected in enumerate(alone):
        got = {name: array[i : i + 1] for name, array in together.items()}
        worst = difference(expected, got)
        if worst:
            return f"a row computed in a batch differs from the same row computed alone: {worst}"
    return None


def padding_reason(predict: Predict, example: Tensors, info: ModelInfo, pad: Padding) -> str | None:
    """Why rows of different lengths must not be padded together; `None` when padding changes nothing."""
    reason = padding.paddable(info)
    if reason is not None:
        return reason
    long = example
    short = _resize(long, pad, halve=True)
    if short is None:
        long, short = _resize(long, pad, halve=False) or long, long
    try:
        alone = [predict(long), predict(short)]
        outputs = predict(pad.stack([long, short]))
    except Exception as e:
        return f"rows of different lengths failed: {_short(e)}"
    row = 0
    for part, expected in zip((long, short), alone, strict=True):
        rows = len(next(iter(part.values())))
        got = pad.unpad({n: a[row : row + rows] for n, a in outputs.items()}, pad.sizes(part))
        worst = difference(expected, got)
        if worst:
            return f"padding changes the result: {worst}"
        row += rows
    return None


def difference(expected: Tensors, got: Tensors) -> str | None:
    """The first output that differs by more than its dtype's tolerance, in words; `None` when none does."""
    for name, a in expected.items():
        if name not in got:
            return f"output {name!r} is missing"
        b = got[name]
        if a.shape != b.shape:
            return f"output {name!r} has shape {list(b.shape)} instead of {list(a.shape)}"
        if a.dtype.kind == "f":
            tolerance = _TOLERANCE.get(a.dtype.itemsize, 1e-6)
            if not np.allclose(b, a, rtol=tolerance, atol=tolerance, equal_nan=True):
                return f"output {name!r} {_gap(a, b)}"
        elif not np.array_equal(a, b):
            return f"output {name!r} is not equal"
    return None


def _gap(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> str:
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return "is NaN in other places"
    with np.errstate(invalid="ignore"):  # equal infinities
        return f"is off by {np.nanmax(np.abs(a - b)):.3g}"


def _rows_alone(predict: Predict, example: Tensors, count: int) -> tuple[list[Tensors], list[Tensors]]:
    """Rows that differ a little, and what the model makes of each alone.

    A model may know no rows but its example, such as one whose categories are numbers: then all rows are that.
    """
    varied = [_vary(example, i) for i in range(count)]
    try:
        return varied, [predict(v) for v in varied]
    except Exception:
        return [example] * count, [predict(example)] * count


def _vary(row: Tensors, i: int) -> Tensors:
    """The example row, made a little different: rows that are all equal would hide rows that are mixed up."""
    varied: Tensors = {}
    for name, a in row.items():
        if a.dtype.kind == "f":
            varied[name] = (a * (1 + 0.1 * i) + 0.01 * i).astype(a.dtype)
        elif a.ndim > 1 and a.dtype.kind in "iu":
            varied[name] = np.ascontiguousarray(np.roll(a, i, axis=-1))
        else:
            varied[name] = a
    return varied


def _resize(row: Tensors, pad: Padding, *, halve: bool) -> Tensors | None:
    """The row with its free dimensions halved or doubled; `None` when there is nothing to halve."""
    resized: Tensors = {}
    for spec in pad.inputs:
        a: np.ndarray[Any, Any] = row[spec.name]
        for axis, _ in padding.free_dims(spec):
            if halve:
                if a.shape[axis] < 2:
                    return None
                a = np.take(a, range(a.shape[axis] // 2), axis=axis)
            else:
                a = np.concatenate([a, a], axis=axis)
        resized[spec.name] = np.ascontiguousarray(a)
    return resized


def _short(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
