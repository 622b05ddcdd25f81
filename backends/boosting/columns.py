"""The columns that a model of boosted trees takes, and how the tensors of a request become its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import Tensors, TensorSpec

MISSING_TEXT = "\uffff"
"""Stands for a missing value in a column of strings (a noncharacter, so no text has it); `ModelInfo.metadata` tells
the task so. In numbers it is NaN."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Columns:
    """The features, in their order. `texts` says which are strings; all others are numbers."""

    texts: tuple[bool, ...]
    names: tuple[str, ...] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """A name for each column."""
        return self.names or tuple(f"x{i}" for i in range(len(self.texts)))

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """One matrix [batch, columns] if all are of one kind, else a list for each column."""
        kinds = ["string" if text else "float64" for text in self.texts]
        if len(set(kinds)) == 1:
            return (TensorSpec("input", kinds[0], ("batch", len(kinds))),)
        return tuple(TensorSpec(key, kind, ("batch",)) for key, kind in zip(self.keys, kinds, strict=True))

    def example(self, values: Sequence[float | str]) -> Tensors:
        """A row of these values as tensors."""
        specs = self.specs
        if len(specs) == 1:
            dtype = object if specs[0].dtype == "string" else np.float64
            return {"input": np.array([values], dtype)}
        return {
            spec.name: np.array([value], object if spec.dtype == "string" else np.float64)
            for spec, value in zip(specs, values, strict=True)
        }

    def of(self, batch: Tensors) -> list[Array]:
        """The columns of a batch, [rows] each."""
        if len(batch) == 1 and "input" in batch:
            return list(batch["input"].T)
        return [batch[key] for key in self.keys]

    def matrix(self, batch: Tensors) -> Array:
        """The rows of a batch that has numbers only: [rows, columns] float64."""
        return np.array(batch["input"], np.float64)
