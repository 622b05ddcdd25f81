"""A model's signature, found by running it: for the backends whose files tell too little of it.

What a file declares of its shapes is often less than the truth (dimensions without a name) and sometimes wrong (a
batch of 1 declared, any taken). So the model is run on a made-up row, on two of them, and with each free dimension
changed, and the shapes that come back tell which axis is the batch and which output dimension follows which input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import BackendError, Dim, Finding, InvalidOption, ModelFileError, OutOfMemory, Tensors, TensorSpec

_MADE_UP = re.compile(r"\?|unk_.*|.*_dim_\d+|None|p2o\.DynamicDimension\.\d+")
"""Names that exporters give to dimensions of which they know nothing."""
_LONGEST_NAME = 40
"""Of a dimension; exporters also write whole formulas there, which tell a user nothing."""
_NOT_BATCH = re.compile(r"^(?!.*batch).*(seq|len|time|token|height|width|frame|chunk|step)", re.IGNORECASE)
_SAMPLE_RATE = re.compile(r"sr|sample_?rate|sampling_?rate", re.IGNORECASE)

_OTHER_TEXT = "Some other words, and 1.5 of them:\nhere, there."
_LENGTHS = (16, 64, 512, 8, 32, 128, 256, 1024, 2048, 4096, 16000, 4, 2, 1)
_PIXELS = (224, 256, 320, 640, 32, 64, 28, 512, 299, 384, 16, 1)
"""Sizes tried for a free dimension, the likeliest first."""
_MOST_ELEMENTS = 1 << 24
"""Of a made-up tensor. Where several dimensions are free, sizes that make a larger one are not tried."""

Run = Callable[[Tensors], Tensors]


@dataclass(slots=True)
class Input:
    """An input while its shape is being found out. `dims` are sizes, or the keys of free dimensions."""

    name: str
    dtype: str
    dims: list[Dim]
    batch_axis: int | None = None


@dataclass(slots=True)
class Signature:
    """What was found out."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: Tensors
    unbatched_reason: str | None


def probe(
    inputs: Sequence[Input],
    run: Run,
    sizes: Mapping[str, int],
    outputs: Sequence[tuple[str, Sequence[Any]]] | None = None,
    *,
    filled: bool = False,
) -> Signature:
    """Runs the model and tells its signature.

    `sizes` are the user's sizes of free dimensions; `outputs` are names and declared shapes, where the file has them.
    `filled` is whether rows of outputs that are shorter than others of their batch end in values that say so.
    Raises `ModelFileError` when no made-up row makes the model run, `OutOfMemory`.
    """
    for tensor in inputs:
        _name_dims(tensor)
    batch = _find_batch(inputs)
    trial = _Trial(inputs, batch, run)
    row, one = trial.search(sizes)
    two, refusal = trial.twice(row) if batch is not None else (None, None)
    if batch is not None and two is None:
        _fix(inputs, batch)
    others = trial.follow()
    shapes = _Shapes(batch, one, two, others, trial.vary(row), all_varied=len(others) == len(trial.sizes))
    found = tuple(shapes.spec(name, declared) for name, declared in outputs or [(name, ()) for name in one])
    specs = tuple(TensorSpec(t.name, t.dtype, tuple(t.dims), t.batch_axis) for t in inputs)
    specs, found = _fixed_batch(specs, found) if two is None else (specs, found)
    reason = _unbatched_reason(specs, found, refusal)
    if reason is None and not filled and (own := [name for name in one if shapes.vary(name)]):
        reason = f"The size of the output {_listed(own)} depends on what is in a row."
    return Signature(specs, found, row, reason)


# --- inputs ---------------------------------------------------------------------------------------------------------


def _name_dims(tensor: Input) -> None:
    """Gives a key of its own to every dimension that the file leaves free and unnamed."""
    for axis, dim in enumerate(tensor.dims):
        if not dim or (isinstance(dim, int) and dim < 0):
            tensor.dims[axis] = _own_key(tensor, axis)


def _own_key(tensor: Input, axis: int) -> str:
    return f"{tensor.name}_{axis}"


def _find_batch(inputs: Sequence[Input]) -> str | None:
    """The key of the batch dimension, after setting each input's batch axis; `None` when no dimension is free for it.

    It is the first free leading dimension whose name does not speak of something else. Leading dimensions without a
    telling name are the batch too. An input that has the batch elsewhere (a state of [layers, batch, width]) has it on
    the axis of that name, or on its only free and unnamed one.
    """
    leading = [str(t.dims[0]) for t in inputs if t.dims and isinstance(t.dims[0], str)]
    nameless = {_own_key(t, 0) for t in inputs} | {key for key in leading if _MADE_UP.fullmatch(key)}
    named = [key for key in leading if key not in nameless and not _NOT_BATCH.match(key)]
    if not named and not nameless.intersection(leading):
        return None
    batch = next((key for key in named if "batch" in key.lower()), named[0] if named else "batch")
    for tensor in inputs:
        tensor.dims = [batch if dim in nameless else dim for dim in tensor.dims]
        own = [axis for axis, dim in enumerate(tensor.dims) if dim == _own_key(tensor, axis)]
        if batch not in tensor.dims and len(own) == 1:
            tensor.dims[own[0]] = batch
        tensor.batch_axis = tensor.dims.index(batch) if batch in tensor.dims else None
    return batch


def _fix(inputs: Sequence[Input], batch: str) -> None:
    """The model runs on one row only, whatever its file says."""
    for tensor in inputs:
        tensor.dims = [1 if dim == batch else dim for dim in tensor.dims]


# --- trial runs -----------------------------------------------------------------------------------------------------


class _Trial:
    """Runs the model on made-up rows; remembers the sizes and values with which it ran."""

    def __init__(self, inputs: Sequence[Input], batch: str | None, run: Run) -> None:
        self.inputs = inputs
        self.batch = batch
        self.run = run
        self.sizes: dict[str, int] = {}
        self.fill = 0

    def search(self, given: Mapping[str, int]) -> tuple[Tensors, Tensors]:
        """A row on which the model runs, and its outputs."""
        options = {key: (given[key],) if key in given else sizes for key, sizes in self._free().items()}
        unknown = set(given) - options.keys()
        if unknown:
            known = ", ".join(options) or "none"
            raise InvalidOption(
                f"dims.{min(unknown)} is no free dimension of this model; it has: {known}.",
                field=f"config.dims.{min(unknown)}",
            )
        error: BackendError | None = None
        for attempt in self._attempts(options):
            self.fill, self.sizes = attempt
            if error is not None and self._elements(self.sizes) > _MOST_ELEMENTS:
                continue
            row = self._row(self.sizes)
            try:
                return row, self.run(row)
            except OutOfMemory:
                raise
            except BackendError as e:
                error = error or e
        hint = (
            f" If it needs certain sizes, set them: {', '.join(f'dims.{key}=N' for key in options)}." if options else ""
        )
        raise ModelFileError(f"The model does not run on any example that was tried: {error}{hint}")

    def _attempts(self, options: Mapping[str, Sequence[int]]) -> Iterator[tuple[int, dict[str, int]]]:
        """Ways to fill integers, and for each the sizes to try, the likeliest first."""
        integers = any(t.dtype.startswith(("int", "uint")) for t in self.inputs)
        for fill in range(3 if integers else 1):
            for i in range(max((len(sizes) for sizes in options.values()), default=1)):
                yield fill, {key: sizes[min(i, len(sizes) - 1)] for key, sizes in options.items()}

    def twice(self, row: Tensors) -> tuple[Tensors | None, BackendError | None]:
        """The outputs for the same row two times, or why there are none."""
        axes = {t.name: t.batch_axis for t in self.inputs}
        rows = {n: a if (axis := axes[n]) is None else np.concatenate([a, a], axis=axis) for n, a in row.items()}
        try:
            return self.run(rows), None
        except BackendError as e:
            return None, e

    def follow(self) -> dict[str, tuple[int, Tensors]]:
        """For each free dimension: another size at which the model runs, and the outputs there."""
        found = {}
        for key, size in self.sizes.items():
            for other in (size * 2, max(1, size // 2), size + 1):
                try:
                    found[key] = other, self.run(self._row({**self.sizes, key: other}))
                except BackendError:
                    continue
                break
        return found

    def vary(self, row: Tensors) -> list[Tensors]:
        """The outputs for rows of the same shape with other values: in all inputs, or else in one after the other."""
        together = self._runs({name: _other(values) for name, values in row.items()})
        if together is not None:
            return [together]
        found = []
        for name, values in row.items():
            for other in (_other(values), _larger(values)):
                outputs = None if other is None else self._runs({**row, name: other})
                if outputs is not None:
                    found.append(outputs)
                    break
        return found

    def _runs(self, row: Tensors) -> Tensors | None:
        try:
            return self.run(row)
        except BackendError:
            return None

    def _free(self) -> dict[str, tuple[int, ...]]:
        """The free dimensions besides the batch, and the sizes to try for each."""
        free: dict[str, tuple[int, ...]] = {}
        for tensor in self.inputs:
            image = len(tensor.dims) == 4
            for axis, dim in enumerate(tensor.dims):
                if isinstance(dim, str) and dim != self.batch:
                    sizes: tuple[int, ...] = _LENGTHS
                    if image:
                        sizes = (3, 1) if axis == 1 and isinstance(tensor.dims[2], str) else _PIXELS
                    free.setdefault(dim, sizes)
        return free

    def _row(self, sizes: Mapping[str, int]) -> Tensors:
        return {t.name: self._values(t, self._shape(t, sizes)) for t in self.inputs}

    def _elements(self, sizes: Mapping[str, int]) -> int:
        """Of the largest input."""
        return max(math.prod(self._shape(t, sizes)) for t in self.inputs)

    def _shape(self, tensor: Input, sizes: Mapping[str, int]) -> list[int]:
        return [d if isinstance(d, int) else 1 if d == self.batch else sizes[d] for d in tensor.dims]

    def _values(self, tensor: Input, shape: list[int]) -> np.ndarray[Any, Any]:
        """Made-up values, the same ones every time."""
        dtype = np.dtype(_numpy(tensor.dtype))
        if tensor.dtype == "string":
            return np.full(shape, "example", dtype)
        if dtype.kind == "f":
            return np.random.default_rng(0).random(shape).astype(dtype)
        if dtype.kind in "iu" and not shape and _SAMPLE_RATE.fullmatch(tensor.name):
            return np.array(16000).astype(dtype)
        if self.fill == 0:  # ones and zeros in turn: small enough for an index, not all the same, and a count is 1
            return (np.arange(1, 1 + np.prod(shape, dtype=np.int64)) % 2).reshape(shape).astype(dtype)
        return np.full(shape, self.fill - 1, dtype)


def _other(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Other values of the same kind: texts with more words and lines, negative numbers, zeros for other integers, and
    ones for zeros."""
    if values.dtype.kind == "O":
        return np.full(values.shape, _OTHER_TEXT, object)
    if values.dtype.kind == "f":
        return (0.5 - values).astype(values.dtype)
    zeros: np.ndarray[Any, Any] = values == 0
    return zeros.astype(values.dtype)


def _larger(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Larger integers, for lengths of which none is 0. The last to be tried: they may be no index, and on a GPU that
    ends the process."""
    return values + 1 if values.dtype.kind in "iu" else None


def _numpy(dtype: str) -> str:
    return "object" if dtype == "string" else dtype


# --- outputs --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Shapes:
    """Output shapes: of one row, of two, and of one row with another size of each free dimension."""

    batch: str | None
    one: Tensors
    two: Tensors | None
    others: dict[str, tuple[int, Tensors]]
    varied: list[Tensors]
    """Of rows with other values."""
    all_varied: bool
    """Whether `others` has every free dimension, so that what did not change there never will."""

    def spec(self, name: str, declared: Sequence[Any]) -> TensorSpec:
        """What is known of one output."""
        array = self.one[name]
        dtype = "string" if array.dtype.kind in "OU" else array.dtype.name
        axis = self._batch_axis(name)
        dims = tuple(self.batch or "" if i == axis else self._dim(name, i, declared) for i in range(array.ndim))
        return TensorSpec(name, dtype, dims, axis)

    def vary(self, name: str) -> bool:
        """Whether the shape of an output depends on what is in a row."""
        return any(outputs[name].shape != self.one[name].shape for outputs in self.varied)

    def _batch_axis(self, name: str) -> int | None:
        one, two = self.one[name].shape, self.two[name].shape if self.two is not None else ()
        if len(one) != len(two):
            return None
        return next((i for i, sizes in enumerate(zip(one, two, strict=True)) if sizes == (1, 2)), None)

    def _dim(self, name: str, axis: int, declared: Sequence[Any]) -> Dim:
        """The size of a dimension, or the key of the free dimension that it follows, or a name of its own."""
        size: int = self.one[name].shape[axis]
        said = declared[axis] if len(declared) == self.one[name].ndim else None
        named = isinstance(said, str) and said not in self.others and not _MADE_UP.fullmatch(said)
        named = named and len(str(said)) <= _LONGEST_NAME
        own_name = str(said) if named else f"{name}_{axis}"
        for key, (other, outputs) in self.others.items():
            now = outputs[name].shape[axis] if outputs[name].ndim > axis else None
            if now == other:
                return key
            if now != size:
                return own_name
        if any(outputs[name].shape[axis : axis + 1] != (size,) for outputs in self.varied):
            return own_name
        if isinstance(said, int) and said > 0:
            return size
        per_row = self.two is None or self._batch_axis(name) is not None
        return size if per_row and not named and self.all_varied else own_name


# --- whether rows may share a call ----------------------------------------------------------------------------------


def _fixed_batch(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Batch axes of a model that runs on a fixed count of rows: axis 0 where all tensors lead with the same size."""
    leading = {s.shape[0] for s in inputs if s.shape}
    if len(leading) != 1:
        return inputs, outputs
    (rows,) = leading
    if not isinstance(rows, int) or (rows != 1 and not all(s.shape and s.shape[0] == rows for s in outputs)):
        return inputs, outputs

    def lead(spec: TensorSpec) -> TensorSpec:
        axis = 0 if spec.shape and spec.shape[0] == rows else None
        return TensorSpec(spec.name, spec.dtype, spec.shape, axis)

    return tuple(map(lead, inputs)), tuple(map(lead, outputs))


def _unbatched_reason(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], refusal: BackendError | None
) -> str | None:
    """Why rows of several requests cannot share a call; `None` when they can."""
    if refusal is not None:
        return f"The model fails on two rows at once: {refusal}"
    if all(isinstance(dim, int) for s in inputs for dim in s.shape):
        rows = next((s.shape[0] for s in inputs if s.batch_axis == 0), None)
        return f"The file fixes {'every dimension' if rows is None else f'the batch dimension at {rows}'}."
    without = [s.name for s in inputs if s.batch_axis is None]
    if without:
        return f"There is no batch axis in the input {_listed(without)}."
    elsewhere = [s.name for s in (*inputs, *outputs) if s.batch_axis not in (0, None)]
    if elsewhere:
        return f"The batch is not the first axis of {_listed(elsewhere)}."
    without = [s.name for s in outputs if s.batch_axis is None]
    if without:
        return f"The output {_listed(without)} does not have one row for each row of the input."
    return None


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


# --- what a signature looks like ------------------------------------------------------------------------------------


def looks_like(task: str, source: str) -> Finding:
    """What to tell a user of a model whose task was told by what it looks like."""
    return Finding("task", task, "likely", source, "--task tensor")


def signature_finding(name: str, all_names: Sequence[str], given: bool, usual: bool) -> Finding:
    """What to tell a user of the signature that is served, of those that a file has."""
    others = [other for other in all_names if other != name]
    value = f"{name} (there {'is' if len(others) == 1 else 'are'} {', '.join(others)}, too)" if others else name
    option = "--set signature=NAME"
    if given:
        return Finding("signature", value, "given", "your options", option)
    if usual:
        return Finding("signature", value, "certain", "the only one" if not others else "the file's default", option)
    return Finding("signature", value, "guess", "the file names no default", option)


def pooling_finding(pooling: str, given: bool) -> Finding:
    """What to tell a user of how the vectors of tokens become one, where that is no guess."""
    option = "--set pooling=NAME"
    if given:
        return Finding("pooling", pooling, "given", "your options", option)
    return Finding("pooling", pooling, "certain", "its files", option)


def looks_like_images(classes: int) -> Finding:
    """What to tell a user of a model that was taken for an image classifier by its shapes."""
    return looks_like("image-classification", f"its shapes: an image in, {classes} scores out")


def image_classes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> int | None:
    """How many classes an image classifier has, judged by its shapes alone; `None` when it is none."""
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    image, scores = inputs[0], outputs[0]
    if len(image.shape) != 4 or not image.dtype.startswith(("float", "uint8")):
        return None
    channels = (image.shape[1], image.shape[3])
    if not any(c in (1, 3) for c in channels) or not scores.dtype.startswith("float"):
        return None
    if len(scores.shape) < 2 or any(d != 1 for d in scores.shape[2:]):
        return None
    classes = scores.shape[1]
    return classes if isinstance(classes, int) and classes >= 2 else None
