"""Checks of models that map tensors to tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.base import ModelInfo, TensorBackend, Tensors, TensorSpec
from engine.kit.contract.model import Broken, Check, Model

_CLOSE = {"rtol": 1e-3, "atol": 1e-4}
_ROWS = 3


def the_example_is_one_row_of_the_signature(model: Model) -> None:
    """`example` gives every input, as declared."""
    backend, info = model.loaded
    row = backend.example()
    if row.keys() != {spec.name for spec in info.inputs}:
        raise Broken(f"example() gives {sorted(row)}, and the inputs are {sorted(s.name for s in info.inputs)}.")
    for spec in info.inputs:
        _fits(spec, row[spec.name], "example()")


def the_answer_is_one_row_of_the_signature(model: Model) -> None:
    """`predict` gives every output, as declared and in order."""
    backend, info = model.loaded
    result = backend.predict(backend.example())
    if list(result) != [spec.name for spec in info.outputs]:
        raise Broken(f"predict() gives {list(result)}, and the outputs are {[s.name for s in info.outputs]}.")
    for spec in info.outputs:
        _fits(spec, result[spec.name], "predict()")


def rows_in_a_batch_are_answered_as_alone(model: Model) -> str | None:
    """A caller must not notice that others were computed with him."""
    backend, info = model.loaded
    if not info.batchable:
        return info.unbatched_reason
    row = backend.example()
    alone = backend.predict(row)
    together = backend.predict(_repeated(info, row, _ROWS))
    for spec in info.outputs:
        if spec.batch_axis is None:
            continue
        array = together[spec.name]
        if array.shape[spec.batch_axis] != _ROWS:
            raise Broken(
                f"Output {spec.name} of {_ROWS} rows has the shape {list(array.shape)}; it needs a row for each."
            )
        for one in np.split(array, _ROWS, axis=spec.batch_axis):
            if spec.dtype.startswith("float"):
                equal = np.allclose(one, alone[spec.name], **_CLOSE, equal_nan=True)
            else:
                equal = np.array_equal(one, alone[spec.name])
            if not equal:
                raise Broken(
                    f"Output {spec.name} of a row in a batch differs from that of the same row alone; if the model "
                    "cannot be batched, say so with ModelInfo.batchable and unbatched_reason."
                )
    return None


def answers_are_the_models_own_memory(model: Model) -> None:
    """The inputs may be a view of memory that is reused for the next batch: they are neither kept nor changed."""
    backend, info = model.loaded
    batch = _repeated(info, backend.example(), 1)
    before = {name: array.copy() for name, array in batch.items()}
    answer = backend.predict(batch)
    kept = {name: array.copy() for name, array in answer.items()}
    for name, array in batch.items():
        if not _same(array, before[name]):
            raise Broken(f"predict() changes its input {name}; let it work on a copy.")
        if array.dtype != object:
            array[...] = 0
    for name, array in answer.items():
        if not _same(array, kept[name]):
            raise Broken(f"Output {name} is a view of the inputs, whose memory is reused; return a copy.")


def _fits(spec: TensorSpec, array: np.ndarray[Any, Any], source: str) -> None:
    """Raises `Broken` unless `array` is a row of what `spec` says."""
    if spec.dtype == "string":
        if array.dtype != object or not all(isinstance(text, str) for text in array.flat):
            raise Broken(
                f"{source} gives {spec.name} as {array.dtype}; texts are arrays of dtype object that hold str."
            )
    elif array.dtype != np.dtype(spec.dtype):
        raise Broken(f"{source} gives {spec.name} as {array.dtype}, and its signature says {spec.dtype}.")
    fits = len(array.shape) == len(spec.shape) and all(
        isinstance(want, str) or got == want for got, want in zip(array.shape, spec.shape, strict=True)
    )
    if not fits or (spec.batch_axis is not None and array.shape[spec.batch_axis] != 1):
        raise Broken(f"{source} gives {spec.name} the shape {list(array.shape)}; one row of {list(spec.shape)} is due.")


def _repeated(info: ModelInfo, row: Tensors, count: int) -> Tensors:
    """A batch of `count` rows, each the same."""
    return {
        s.name: row[s.name] if s.batch_axis is None else np.concatenate([row[s.name]] * count, axis=s.batch_axis)
        for s in info.inputs
    }


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


CHECKS = (
    Check("the example is one row of the signature", TensorBackend, the_example_is_one_row_of_the_signature),
    Check("the answer is one row of the signature", TensorBackend, the_answer_is_one_row_of_the_signature),
    Check("rows in a batch are answered as alone", TensorBackend, rows_in_a_batch_are_answered_as_alone),
    Check("answers are the model's own memory", TensorBackend, answers_are_the_models_own_memory),
)
