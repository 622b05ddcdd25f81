"""Tabular rows: records with column names, rows of values, or columns; a null is a missing value."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from backends.base import InvalidInput, InvalidOption, ModelInfo, Tensors, TensorSpec
from engine import codec
from engine.codec import Decoded, Form, kind_of
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters, TensorTask
from engine.tasks.labels import load_labels, ranked, told
from engine.tasks.plain_table import PlainTable

Array = np.ndarray[Any, Any]
Where = Callable[[int, int], str]
"""Names the cell of a row and a column as the client wrote it, such as ``input[3].age``."""


class TabularTask(TensorTask):
    """One row or several, as values in the order of the columns or as records ``{"column": value}``.

    ============== ==============================================================================
    ``input``      a row, a list of rows, a record, a list of records, or ``{"column": [values]}``
    ``instances``  a list of rows or of records
    ``inputs``     a list of rows, or ``{"column": [values]}``
    ============== ==============================================================================

    A null is a missing value: NaN in a column of numbers, in a column of strings what the backend's metadata names as
    ``missing``. Where its ``integers`` is ``texts``, integers stand for their digits in a column of strings. A missing
    or an unknown column is an error; one that the metadata names as ``unused`` may be left out of records, and hold
    anything.

    The answer to ``input`` is, for each row of a classifier with probabilities, its label and every class by name (the
    greatest ones alone when the request's parameters set `top_k`)::

        {"label": "setosa", "probabilities": {"setosa": 0.98, "versicolor": 0.02, "virginica": 0.0}}

    Other models, and TensorFlow Serving's forms, are answered with the output tensors themselves.
    """

    name = "tabular"
    takes = frozenset({"top_k"})

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        self._matrix = info.inputs[0] if len(info.inputs) == 1 and len(info.inputs[0].shape) == 2 else None
        if self._matrix is None and not (info.inputs and all(len(spec.shape) == 1 for spec in info.inputs)):
            raise InvalidOption(
                "The task tabular needs a model whose input is a matrix [batch, columns], or one list for each column.",
                field="task",
            )
        self._names = _column_names(info, self._matrix)
        self._missing_text = info.metadata.get("missing")
        self._unused = frozenset(json.loads(info.metadata.get("unused", "[]")))
        self._integers = info.metadata.get("integers") == "texts"
        self._classes = _classes(info, options)
        """The names of the classes, when an answer shows the probabilities by name."""
        if self._classes is not None:
            self.findings = (told(self._classes, options.labels, len(self._classes)),)
        self.plain_answers = self._classes is None
        self._answer_of = None if self._classes is None else _answers_of(self._classes)
        self._plain: PlainTable | None = None
        if PlainTable.suits(info.inputs, self._names):
            self._plain = PlainTable(
                info.inputs, self._names, has_names=self._has_real_names, missing=self._missing_text
            )
        self._known = frozenset(self._names)
        self._renamed = dict(zip(info.labels or (), self._classes or (), strict=False)) if options.labels else {}

    # --- requests -------------------------------------------------------------------------------------------------

    def decode_json(self, form: Form, data: bytes | memoryview) -> Decoded:
        """As `decode`; cells that are as they should be take the fast way."""
        decoded = self._plain.decode(form, data) if self._plain is not None else None
        return decoded if decoded is not None else super().decode_json(form, data)

    def decode(self, form: Form, value: Any) -> Decoded:
        """Rows, records or columns as tensors. Raises `InvalidInput` that names the cell or the column at fault."""
        if isinstance(value, dict):
            tensor = self._matrix.name if self._matrix else ""
            if value.keys() == {tensor} and tensor not in self._names:
                return self._from_rows(value[tensor], form, f"{form}.{tensor}")
            if form == "inputs" or any(isinstance(cells, list) for cells in value.values()):
                return self._from_columns(value, form)
            if form == "input":
                self._check_record(value, form)
                columns = [[value.get(name)] for name in self._names]
                return Decoded(self._tensors(columns, lambda _, j: f"input.{self._names[j]}"), True)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            return self._from_records(value, form)
        return self._from_rows(value, form, form)

    def _from_records(self, records: list[Any], form: Form) -> Decoded:
        for i, record in enumerate(records):
            self._check_record(record, f"{form}[{i}]")
        columns = [[record.get(name) for record in records] for name in self._names]
        return Decoded(self._tensors(columns, lambda i, j: f"{form}[{i}].{self._names[j]}"), False)

    def _from_columns(self, value: dict[str, Any], form: Form) -> Decoded:
        self._check_record(value, form)
        some = next((cells for cells in value.values() if isinstance(cells, list)), [])
        columns = [value.get(name, some) for name in self._names]  # what is left out is of no use
        for name, column in zip(self._names, columns, strict=True):
            if not isinstance(column, list) or len(column) != len(columns[0]):
                raise InvalidInput(
                    f"{form}: every column must be a list of the same length; {name!r} is not.", field=f"{form}.{name}"
                )
        return Decoded(self._tensors(columns, lambda i, j: f"{form}.{self._names[j]}[{i}]"), False)

    def _from_rows(self, value: Any, form: Form, where: str) -> Decoded:
        if not isinstance(value, list):
            raise InvalidInput(f"{where} must be {self._wanted(form)}; got {kind_of(value)}.", field=where)
        single = bool(value) and not isinstance(value[0], list)
        if single and form == "instances":
            raise InvalidInput("instances must be a list of rows; this looks like one bare row.", field="instances")
        rows = [value] if single else value
        width = len(self._names) or (len(rows[0]) if rows and isinstance(rows[0], list) else 0)
        for i, row in enumerate(rows):
            place = where if single else f"{where}[{i}]"
            if not isinstance(row, list):
                raise InvalidInput(f"{place} must be a row; got {kind_of(row)}.", field=place)
            if len(row) != width:
                names = f" ({', '.join(self._names)})" if self._has_real_names and width <= 20 else ""
                raise InvalidInput(f"{place} must have {width} values{names}; got {len(row)}.", field=place)
        if not rows or not width:
            raise InvalidInput(f"{where} has no rows.", field=where)
        columns = [list(column) for column in zip(*rows, strict=True)]
        cell: Where = (lambda _, j: f"{where}[{j}]") if single else (lambda i, j: f"{where}[{i}][{j}]")
        return Decoded(self._tensors(columns, cell), single and form == "input")

    def _check_record(self, record: Any, where: str) -> None:
        """Raises `InvalidInput` unless `record` has exactly the model's columns."""
        if isinstance(record, dict) and record.keys() == self._known and self._has_real_names:
            return
        if not isinstance(record, dict):
            raise InvalidInput(f"{where} must be a record, as the first is; got {kind_of(record)}.", field=where)
        if not self._has_real_names:
            wanted = self._wanted("input")
            raise InvalidInput(f"{where}: this model has no column names, so it takes {wanted}.", field=where)
        for name in record:
            if name not in self._known:
                close = difflib.get_close_matches(name, self._names, n=1, cutoff=0.5)
                hint = f"Did you mean {close[0]!r}?" if close else f"The columns are {', '.join(self._names)}."
                raise InvalidInput(f"{where} has an unknown column {name!r}. {hint}", field=f"{where}.{name}")
        missing = [name for name in self._names if name not in record and name not in self._unused]
        if missing:
            names = ", ".join(map(repr, missing))
            raise InvalidInput(
                f"{where} lacks the column{'s' if len(missing) > 1 else ''} {names}; null stands for a missing value.",
                field=f"{where}.{missing[0]}",
            )

    def _tensors(self, columns: Sequence[list[Any]], where: Where) -> Tensors:
        """`columns` (one list of cells for each column, in order) as the model's inputs."""
        if not columns or not columns[0]:
            raise InvalidInput("The request has no rows.", field=where(0, 0))
        if self._unused:
            named = zip(self._names, columns, strict=True)
            columns = [[None] * len(cells) if name in self._unused else cells for name, cells in named]
        dtypes = [self._matrix.dtype] * len(columns) if self._matrix else [spec.dtype for spec in self.info.inputs]
        arrays = [
            self._array(cells, dtype, _in_column(where, j))
            for j, (cells, dtype) in enumerate(zip(columns, dtypes, strict=True))
        ]
        if self._matrix is not None:
            return {self._matrix.name: np.stack(arrays, axis=1)}
        return {spec.name: array for spec, array in zip(self.info.inputs, arrays, strict=True)}

    def _array(self, cells: list[Any], dtype: str, where: Callable[[int], str]) -> Array:
        """One column as an array [batch]."""
        if dtype == "string":
            texts = [str(cell) if type(cell) is int else cell for cell in cells] if self._integers else cells
            return _strings(texts, self._missing_text, where)
        if dtype.startswith("float"):
            return _floats(cells, dtype, where)
        return codec.to_array(cells, TensorSpec("column", dtype, ("batch",)), where(0))[0]

    @property
    def _has_real_names(self) -> bool:
        return self._matrix is None or "columns" in self.info.metadata

    def _wanted(self, form: Form) -> str:
        width = f" of {len(self._names)} values" if self._names else ""
        records = " or a record" if self._has_real_names else ""
        return f"a row{width}{records}, or a list of them" if form == "input" else f"a list of rows{width}"

    # --- answers --------------------------------------------------------------------------------------------------

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """Labels and probabilities by name, or the plain outputs."""
        if form != "input" or self._classes is None:
            return codec.encode(form, outputs, single, self.info.outputs)
        labels, rows = self._labels(outputs), outputs["probabilities"]
        if parameters.top_k is None:
            named = [dict(zip(self._classes, row, strict=True)) for row in rows.tolist()]
        else:
            best = [ranked(row, self._classes, parameters.top_k) for row in rows]
            named = [{each["label"]: each["score"] for each in row} for row in best]
        answers = [{"label": label, "probabilities": row} for label, row in zip(labels, named, strict=True)]
        return answers[0] if single else answers

    def answer_json(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters, origin: Any) -> bytes:
        """The same. Structs take a fraction of the time of dictionaries."""
        if form != "input" or self._answer_of is None or parameters.top_k is not None:
            return super().answer_json(form, outputs, single, parameters, origin)
        answers = self._answer_of(self._labels(outputs), outputs["probabilities"])
        return msgspec.json.encode(answers[0] if single else answers)

    def _labels(self, outputs: Tensors) -> list[Any]:
        labels: list[Any] = outputs["label"].tolist()
        return [self._renamed.get(str(label), label) for label in labels] if self._renamed else labels

    def example(self, row: Tensors) -> Any:
        """A record where the columns have names, else a row."""
        one = {name: array.tolist()[0] for name, array in row.items()}
        cells = one[self._matrix.name] if self._matrix else [one[name] for name in self._names]
        if not self._has_real_names:
            return cells
        return {name: cell for name, cell in zip(self._names, cells, strict=True) if name not in self._unused}


def _column_names(info: ModelInfo, matrix: TensorSpec | None) -> tuple[str, ...]:
    """The columns' names in order; ``0``, ``1`` … where they have none; empty when the model takes any number."""
    if matrix is None:
        return tuple(spec.name for spec in info.inputs)
    if "columns" in info.metadata:
        return tuple(json.loads(info.metadata["columns"]))
    return tuple(map(str, range(matrix.shape[1]))) if isinstance(matrix.shape[1], int) else ()


def _classes(info: ModelInfo, options: ModelOptions) -> tuple[str, ...] | None:
    """The names of the classes of a classifier with one label and a probability for each class."""
    outputs = {spec.name: spec for spec in info.outputs}
    label, scores = outputs.get("label"), outputs.get("probabilities")
    if label is None or scores is None or len(label.shape) != 1 or len(scores.shape) != 2:
        return None
    count = scores.shape[1] if isinstance(scores.shape[1], int) else None
    names = load_labels(options.labels, info.labels, count)
    return tuple(map(str, range(count))) if names is None and count is not None else names


def _answers_of(classes: Sequence[str]) -> Callable[[list[Any], Array], list[Any]] | None:
    """Makes structs of the labels and the probabilities of all classes; `None` for classes that share a name."""
    if len(set(classes)) != len(classes):
        return None
    renamed = {f"c{i}": name for i, name in enumerate(classes)}
    named = msgspec.defstruct("Probabilities", [(name, float) for name in renamed], rename=renamed, gc=False)
    answer = msgspec.defstruct("Answer", [("label", Any), ("probabilities", named)], gc=False)
    return lambda labels, rows: list(map(answer, labels, map(named, *rows.T.tolist())))


def _in_column(where: Where, j: int) -> Callable[[int], str]:
    return lambda i: where(i, j)


def _strings(cells: list[Any], missing: str | None, where: Callable[[int], str]) -> Array:
    if missing is None:
        _check_cells(cells, (str,), "text", where)
    else:
        _check_cells(cells, (str, type(None)), "text or null", where)
    return np.array([missing if cell is None else cell for cell in cells], dtype=object)


def _floats(cells: list[Any], dtype: str, where: Callable[[int], str]) -> Array:
    _check_cells(cells, (float, int, bool, type(None)), "a number or null", where)
    try:
        numbers = np.array(cells, dtype=np.float64)  # None becomes NaN
    except OverflowError:
        numbers = np.array([np.inf])
    with np.errstate(over="ignore"):
        array = numbers.astype(dtype, copy=False)
    if np.isinf(array).any():
        raise InvalidInput(f"{where(0)}: the column holds a number that does not fit {dtype}.", field=where(0))
    return array


def _check_cells(cells: list[Any], types: tuple[type, ...], wanted: str, where: Callable[[int], str]) -> None:
    if not set(map(type, cells)).issubset(types):
        i = next(i for i, cell in enumerate(cells) if type(cell) not in types)
        raise InvalidInput(f"{where(i)} must be {wanted}; got {kind_of(cells[i])}.", field=where(i))
