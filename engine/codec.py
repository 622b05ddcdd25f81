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


def decode(form: Form, value: Any, specs: Sequence[TensorSpec]) -> Decoded:
    """`value` (parsed JSON) as the tensors of `specs`. Raises `InvalidInput` that names the field and what was expected."""
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
    for spec in specs:
        tensors[spec.name], single = to_array(value[spec.name], spec, f"{form}.{spec.name}")
        if spec.batch_axis is not None:
            singles.add(single)
    if len(singles) > 1:
        raise InvalidInput(f"{form}: some inputs have a batch axis and others do not; give all of them one.", field=form)
    return Decoded(tensors, singles == {True})


def _from_rows(value: Any, specs: Sequence[TensorSpec]) -> Decoded:
    if not isinstance(value, list) or not value:
        raise InvalidInput(f"instances must be a non-empty list of rows; got {kind_of(value)}.", field="instances")
    if any(s.batch_axis != 0 for s in specs):
        raise InvalidInput("This model has inputs without a leading batch axis; use 'input' or 'inputs'.", field="instances")
    if len(specs) == 1 and not isinstance(value[0], dict):
        array, single = to_array(value, specs[0], "instances")
        if single:
            raise InvalidInput("instances must be a list of rows; this looks like one bare row.", field="instances")
        return Decoded({specs[0].name: array}, False)
    for i, row in enumerate(value):
        if not isinstance(row, dict) or row.keys() != {s.name for s in specs}:
            raise _wrong_names(f"instances[{i}]", row, specs)
    columns = {s.name: to_array([row[s.name] for row in value], s, f"instances.{s.name}")[0] for s in specs}
    return Decoded(columns, False)


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
        array = np.array(value, dtype=object)
        if not all(isinstance(x, str) for x in array.flat):
            bad = next(x for x in array.flat if not isinstance(x, str))
            raise InvalidInput(f"{where} must hold strings; got {kind_of(bad)}.", field=where)
    else:
        array = _numbers(value, np.dtype(spec.dtype), where)
    rank = len(spec.shape)
    single = spec.batch_axis is not None and array.ndim == rank - 1
    if single:
        array = np.expand_dims(array, spec.batch_axis or 0)
    check_shape(array.shape, spec, where)
    return array, single


def _numbers(value: Any, dtype: np.dtype[Any], where: str) -> np.ndarray[Any, Any]:
    try:
        raw = np.asarray(value)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{where} is ragged: its inner lists differ in length.", field=where) from None
    kind = raw.dtype.kind
    if kind not in "biuf" and raw.size:
        bad = next((x for x in np.asarray(value, dtype=object).flat if not isinstance(x, bool | int | float)), value)
        raise InvalidInput(f"{where} must hold numbers ({dtype.name}); got {kind_of(bad)}.", field=where)
    want = dtype.kind
    if raw.dtype == dtype:
        return raw
    if want == "f":
        out = raw.astype(dtype)
        if raw.size and not np.isfinite(out).all():
            raise InvalidInput(f"{where} holds a number that does not fit {dtype.name}.", field=where)
        return out
    if want in "iu" and kind in "iu":
        limits = np.iinfo(dtype)
        if raw.size and (raw.min() < limits.min or raw.max() > limits.max):
            raise InvalidInput(f"{where} must fit {dtype.name} ({limits.min} to {limits.max}).", field=where)
        return raw.astype(dtype)
    if want in "iu" and kind == "f" and raw.size and (raw == np.trunc(raw)).all() and abs(raw).max() < 2**53:
        return _numbers(raw.astype(np.int64), dtype, where)
    if not raw.size:
        return raw.astype(dtype)
    raise InvalidInput(f"{where} must be {dtype.name}; got {raw.dtype.name} values.", field=where)


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


def encode(form: Form, outputs: Tensors, single: bool) -> Any:
    """The JSON value under `ANSWER_KEY[form]`. NaN and infinities become null, since JSON has none."""
    if form == "instances":
        columns = {name: array.tolist() for name, array in outputs.items()}
        if len(columns) == 1:
            return next(iter(columns.values()))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    values = {name: (array[0] if single else array).tolist() for name, array in outputs.items()}
    return next(iter(values.values())) if len(values) == 1 else values
