"""JSON ↔ tensors, by a model's signature. One implementation for the server (small bodies) and the worker (large ones).

Three request forms are understood: ``input`` (ours: a row or a batch of rows, by rank), ``instances`` (TensorFlow
Serving's row form) and ``inputs`` (its column form). Each has its own answer form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from backends.base import InvalidInput, Tensors, TensorSpec

Form = Literal["input", "instances", "inputs"]

ANSWER_KEY: dict[Form, str] = {"input": "output", "instances": "predictions", "inputs": "outputs"}
"""The key of the answer for each form of the question."""


class Decoded(NamedTuple):
    """Tensors of one request, all with a batch axis, and whether the client sent one bare row."""

    tensors: Tensors
    single: bool
    origin: Any = None
    """What else the task must know of the request to encode its answer; its own affair."""


def decode(form: Form, value: Any, specs: Sequence[TensorSpec]) -> Decoded:
    """`value` (parsed JSON) as the tensors of `specs`. Raises `InvalidInput`: where, what was expected, what came."""
    if form == "instances":
        return _from_rows(value, specs)
    if len(specs) == 1 and not (isinstance(value, dict) and specs[0].name in value):
        if isinstance(value, dict):
            raise _wrong_names(form, value, specs)
        array, single = to_array(value, specs[0], form)
        return Decoded({specs[0].name: array}, single and form == "input")
    if not isinstance(value, dict):
        names = ", ".join(repr(s.name) for s in specs)
        raise InvalidInput(f"{form} must be an object with the inputs {names}; got {kind_of(value)}.", field=form)
    if value.keys() != {s.name for s in specs}:
        raise _wrong_names(form, value, specs)
    tensors: Tensors = {}
    singles = set()
    rows = set()
    for spec in specs:
        tensors[spec.name], single = to_array(value[spec.name], spec, f"{form}.{spec.name}")
        if spec.batch_axis is not None:
            singles.add(single)
            rows.add(tensors[spec.name].shape[spec.batch_axis])
    if len(singles) > 1:
        raise InvalidInput(
            f"{form}: some inputs have a batch axis and others do not; give all of them one.", field=form
        )
    if len(rows) > 1:
        counts = ", ".join(map(str, sorted(rows)))
        raise InvalidInput(f"{form}: the inputs must have the same number of rows; got {counts}.", field=form)
    return Decoded(tensors, singles == {True} and form == "input")


def _from_rows(value: Any, specs: Sequence[TensorSpec]) -> Decoded:
    if not isinstance(value, list) or not value:
        raise InvalidInput(f"instances must be a non-empty list of rows; got {kind_of(value)}.", field="instances")
    if any(s.batch_axis != 0 for s in specs):
        raise InvalidInput(
            "This model has inputs without a leading batch axis; use 'input' or 'inputs'.", field="instances"
        )
    if len(specs) == 1 and not isinstance(value[0], dict):
        array, single = to_array(value, specs[0], "instances")
        if single:
            raise InvalidInput("instances must be a list of rows; this looks like one bare row.", field="instances")
        return Decoded({specs[0].name: array}, False)
    for i, row in enumerate(value):
        if not isinstance(row, dict) or row.keys() != {s.name for s in specs}:
            raise _wrong_names(f"instances[{i}]", row, specs)
    columns: Tensors = {}
    for spec in specs:
        where = f"instances.{spec.name}"
        columns[spec.name], single = to_array([row[spec.name] for row in value], spec, where)
        if single:  # a list of numbers that only looks like one row
            raise InvalidInput(f"{where} must be one row of shape {_row_shape(spec)} in each instance.", field=where)
    return Decoded(columns, False)


def _row_shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(str(d) for i, d in enumerate(spec.shape) if i != spec.batch_axis) + "]"


def _wrong_names(where: str, value: Any, specs: Sequence[TensorSpec]) -> InvalidInput:
    expected = ", ".join(repr(s.name) for s in specs)
    got = ", ".join(repr(k) for k in value) if isinstance(value, dict) else kind_of(value)
    return InvalidInput(f"{where} must have exactly the inputs {expected}; got {got or 'none'}.", field=where)


def kind_of(value: Any) -> str:
    """What a JSON value is, for people."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def to_array(value: Any, spec: TensorSpec, where: str) -> tuple[np.ndarray[Any, Any], bool]:
    """`value` as an array of `spec`, with its batch axis added if it is one bare row (then the second item is True)."""
    if spec.dtype == "string":
        if isinstance(value, str) and _is_of_texts(spec):  # what most requests hold
            return np.array([value], dtype=object), True
        array = np.array(value, dtype=object)
        bad = [x for x in array.ravel() if not isinstance(x, str)]
        if bad:
            raise InvalidInput(f"{where} must hold strings; got {kind_of(bad[0])}.", field=where)
    else:
        array = _numbers(value, np.dtype(spec.dtype), where)
    rank = len(spec.shape)
    single = spec.batch_axis is not None and array.ndim == rank - 1
    if single:
        array = np.expand_dims(array, spec.batch_axis or 0)
    check_shape(array.shape, spec, where)
    return array, single


def _is_of_texts(spec: TensorSpec) -> bool:
    """Whether a tensor holds a text for each row, of any number of rows."""
    return len(spec.shape) == 1 and spec.batch_axis == 0 and isinstance(spec.shape[0], str)


def _numbers(value: Any, dtype: np.dtype[Any], where: str) -> np.ndarray[Any, Any]:
    try:
        raw = np.asarray(value)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{where} is ragged: its inner lists differ in length or depth. Send rows of different lengths in requests "
            "of their own, which are batched.",
            field=where,
        ) from None
    kind, want = raw.dtype.kind, dtype.kind
    if raw.dtype == dtype:
        return raw
    if not raw.size:
        return raw.astype(dtype)
    if kind not in "biuf" or (want in "iu" and kind == "f" and abs(raw).max() >= 2**53):
        items = np.asarray(value, dtype=object).ravel()
        bad = [x for x in items if not isinstance(x, bool | int | float)]
        if bad:
            raise InvalidInput(f"{where} must hold numbers ({dtype.name}); got {kind_of(bad[0])}.", field=where)
        if want in "iu":  # large integers, which NumPy made objects or inexact floats of
            return _large_integers(items, dtype, where).reshape(raw.shape)
    if want == "f":
        try:
            with np.errstate(over="ignore"):
                out = raw.astype(dtype)
        except OverflowError:
            raise _misfit(dtype, where) from None
        if not np.isfinite(out).all():
            raise _misfit(dtype, where)
        return out
    if want in "iu" and kind == "f" and (raw == np.trunc(raw)).all():
        raw, kind = raw.astype(np.int64), "i"
    if want in "iu" and kind in "iu":
        limits = np.iinfo(dtype)
        if raw.min() < limits.min or raw.max() > limits.max:
            raise _misfit(dtype, where)
        return raw.astype(dtype)
    raise InvalidInput(f"{where} must be {dtype.name}; got {raw.dtype.name} values.", field=where)


def _large_integers(items: np.ndarray[Any, Any], dtype: np.dtype[Any], where: str) -> np.ndarray[Any, Any]:
    limits = np.iinfo(dtype)
    if not all(type(x) is int for x in items):
        raise InvalidInput(f"{where} must be {dtype.name}; got float64 values.", field=where)
    if not all(limits.min <= x <= limits.max for x in items):
        raise _misfit(dtype, where)
    return items.astype(dtype)


def _misfit(dtype: np.dtype[Any], where: str) -> InvalidInput:
    limits = f" ({np.iinfo(dtype).min} to {np.iinfo(dtype).max})" if dtype.kind in "iu" else ""
    return InvalidInput(f"{where} holds a number that does not fit {dtype.name}{limits}.", field=where)


def check_shape(shape: tuple[int, ...], spec: TensorSpec, where: str) -> None:
    """Raises `InvalidInput` unless `shape` fits `spec`."""
    fits = len(shape) == len(spec.shape) and all(
        isinstance(want, str) or got == want for got, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        want = ", ".join(str(d) for d in spec.shape)
        got = ", ".join(str(d) for d in shape)
        raise InvalidInput(f"{where} must have shape [{want}]; got [{got}].", field=where)
    if spec.batch_axis is not None and shape[spec.batch_axis] == 0:
        raise InvalidInput(f"{where} has no rows.", field=where)


def encode(form: Form, outputs: Tensors, single: bool, specs: Sequence[TensorSpec] = ()) -> Any:
    """The JSON value under `ANSWER_KEY[form]`. NaN and infinities become null, since JSON has none.

    `specs` say which axis of an output is its batch axis; without one of its name it is the first. Raises
    `InvalidInput` when ``instances`` were asked of a model with an output that has no batch axis.
    """
    axes = {s.name: s.batch_axis for s in specs}
    if form == "instances":
        columns = {name: _rows(form, name, array, axes.get(name, 0)) for name, array in outputs.items()}
        if len(columns) == 1:
            return next(iter(columns.values()))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    values = {
        name: _rows(form, name, array, axes.get(name, 0))[0]
        if single and axes.get(name, 0) is not None
        else array.tolist()
        for name, array in outputs.items()
    }
    return next(iter(values.values())) if len(values) == 1 else values


def _rows(form: Form, name: str, array: np.ndarray[Any, Any], axis: int | None) -> list[Any]:
    if axis is None:
        raise InvalidInput(
            f"Output {name!r} has no batch axis; use 'input' or 'inputs' instead of {form!r}.", field=form
        )
    rows: list[Any] = np.moveaxis(array, axis, 0).tolist()
    return rows
