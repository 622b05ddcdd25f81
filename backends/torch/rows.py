"""Programs that take batches of certain sizes only: larger ones are computed in parts, smaller ones filled up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import InvalidInput, Tensors


@dataclass(slots=True)
class RowLimits:
    """How many rows a call may have. `declared` is what the file says is the least; it is often wrong, and 1 works."""

    least: int = 1
    most: int | None = None
    declared: int = 1

    def apply(self, compute: Callable[[Tensors], Tensors], batch: Tensors, axes: dict[str, int]) -> Tensors:
        """Computes a batch whose inputs have their rows on `axes`; inputs without an axis go with every part."""
        count = min((batch[name].shape[axis] for name, axis in axes.items()), default=0)
        if not count or (self.least <= count and (self.most is None or count <= self.most)):
            return compute(batch)
        if self.most is not None and count > self.most:
            starts = range(0, count, self.most)
            parts = [self.apply(compute, _cut(batch, axes, at, at + self.most), axes) for at in starts]
            sizes = [min(self.most, count - at) for at in starts]
            return {name: _joined(name, [part[name] for part in parts], sizes) for name in parts[0]}
        filled = {
            name: np.concatenate([array, *[_last(array, axes[name])] * (self.least - count)], axis=axes[name])
            if name in axes
            else array
            for name, array in batch.items()
        }
        outputs = compute(filled)
        return {name: a[:count] if a.shape[:1] == (self.least,) else a for name, a in outputs.items()}


def _cut(batch: Tensors, axes: dict[str, int], begin: int, end: int) -> Tensors:
    return {
        name: array[(slice(None),) * axes[name] + (slice(begin, end),)] if name in axes else array
        for name, array in batch.items()
    }


def _last(array: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    return np.take(array, [-1], axis=axis)


def _joined(name: str, parts: list[np.ndarray[Any, Any]], sizes: list[int]) -> np.ndarray[Any, Any]:
    if any(part.shape[:1] != (size,) for part, size in zip(parts, sizes, strict=True)):
        raise InvalidInput(
            f"The model takes at most {max(sizes)} rows at once, and its output {name!r} is not made row by row; send "
            "fewer.",
            field="input",
        )
    return np.concatenate(parts)
