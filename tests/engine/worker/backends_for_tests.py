"""Backends written for the tests of the worker: small numeric models with one peculiarity each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Device, InvalidInput, Match, ModelInfo, TensorBackend, Tensors, TensorSpec, ValueBackend


class Numeric(TensorBackend):
    """``x`` float32 [batch, 3] → what `compute` makes of it. Records the inputs of every call."""

    name = "numeric"
    summary = "for tests"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "float32", ("batch", 3)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "float32", ("batch", 3)),)

    def __init__(self, compute: Callable[[Tensors], Tensors] | None = None) -> None:
        self.calls: list[Tensors] = []
        if compute is not None:
            self.compute = compute  # type: ignore[method-assign, assignment]

    @classmethod
    def sniff(cls, path: Path) -> Match:
        return Match(0.0)

    @property
    def info(self) -> ModelInfo:
        """What `load` would return."""
        return ModelInfo(task="tensor", inputs=self.inputs, outputs=self.outputs)

    def load(self, path: Path, device: Device, options: Any) -> ModelInfo:
        return self.info

    def example(self) -> Tensors:
        return {"x": np.array([[1, 2, 3]], np.float32)}

    def predict(self, batch: Tensors) -> Tensors:
        self.calls.append({n: np.array(a) for n, a in batch.items()})
        return self.compute(batch)

    def compute(self, batch: Tensors) -> Tensors:
        """Row by row, as a model should."""
        return {"y": batch["x"] * 2}


class Ragged(Numeric):
    """``tokens`` int64 [batch, length] → a sum and an echo of the row; padding with zeros changes neither."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("tokens", "int64", ("batch", "length")),)
    outputs: tuple[TensorSpec, ...] = (
        TensorSpec("total", "int64", ("batch",)),
        TensorSpec("echo", "int64", ("batch", "length")),
    )

    def example(self) -> Tensors:
        return {"tokens": np.array([[5, 6, 7, 8]])}

    def compute(self, batch: Tensors) -> Tensors:
        return {"total": batch["tokens"].sum(axis=1), "echo": batch["tokens"] + 0}


class Values(ValueBackend):
    """Doubles the number under ``n``; 13 is bad luck for its own request, 666 for the whole batch."""

    name = "values"
    summary = "for tests"

    def __init__(self) -> None:
        self.calls: list[Sequence[dict[str, Any]]] = []

    @classmethod
    def sniff(cls, path: Path) -> Match:
        return Match(0.0)

    def load(self, path: Path, device: Device, options: Any) -> ModelInfo:
        return ModelInfo(task="custom")

    def predict_values(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
        self.calls.append(inputs)
        if any(i.get("n") == 666 for i in inputs):
            raise RuntimeError("all of you")
        return [InvalidInput("bad luck", field="n") if i.get("n") == 13 else {"n": i["n"] * 2} for i in inputs]
