"""The columns that a model of boosted trees takes, and how the tensors of a request become its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.base import Tensors, TensorSpec

MISSING_TEXT = "\uffff"
"""Stands for a missing value in a column of strings (a noncharacter, so no text has it); `ModelInfo.metadata` tells
the task so. In numbers it is NaN."""

Array = np.ndarray[Any, Any]
Codes = Mapping[str | float, int]
"""The numbers that a model knows the categories of a column by."""


def codes_of(categories: Iterable[Any]) -> Codes:
    """The numbers of categories that were texts or numbers in training, in their order."""
    values = list(categories)
    texts = any(isinstance(value, str) for value in values)
    return {str(value) if texts else float(value): number for number, value in enumerate(values)}


def are_texts(codes: Codes) -> bool:
    """Whether the categories of a column were texts in training."""
    return any(isinstance(value, str) for value in codes)


@dataclass(frozen=True)
class Columns:
    """The features, in their order. `texts` says which are strings; all others are numbers."""

    texts: tuple[bool, ...]
    names: tuple[str, ...] | None = None
    codes: Mapping[int, Codes] = field(default_factory=dict)
    """Of the columns, by their places, whose categories the model wants the numbers of."""

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

    def first(self) -> list[float | str]:
        """A row that the model takes: of a column whose categories are known, the first one."""
        return [next(iter(self.codes.get(i, ())), "" if text else 0.0) for i, text in enumerate(self.texts)]

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
        """The rows of a batch, with the numbers of categories in their place: [rows, columns] float64."""
        if not self.codes:
            return np.array(batch["input"], np.float64)
        return np.stack([self._numbers(i, column) for i, column in enumerate(self.of(batch))], axis=1)

    def _numbers(self, place: int, column: Array) -> Array:
        codes = self.codes.get(place)
        if codes is None:
            return np.asarray(column, np.float64)
        # One that was not seen in training is missing, as it is for LightGBM with a data frame. So is MISSING_TEXT.
        return np.array([codes.get(value, np.nan) for value in column.tolist()], np.float64)
