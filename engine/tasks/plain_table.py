"""The fast way from JSON to the tensors of a table. `engine.tasks.tabular` has the general one, and the errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from backends.base import Tensors, TensorSpec
from engine.codec import Decoded, Form

Array = np.ndarray[Any, Any]
Cells = Sequence[Any]
Decode = Callable[[bytes | memoryview], Any]
_SPACE = b" \t\r\n"


class PlainTable:
    """Reads rows, records and columns whose cells are of the right types, in one pass of msgspec that checks them.

    It knows no errors: where it returns `None`, the general way must be gone, which accepts more and says what is
    wrong.
    """

    def __init__(
        self, inputs: Sequence[TensorSpec], names: Sequence[str], *, has_names: bool, missing: str | None
    ) -> None:
        """`names` are those of the columns in order, by which they can be given if the model `has_names`; `missing` is
        what a null in a column of texts stands for, if it may be there."""
        self._inputs = inputs
        self._record: Decode
        self._records: Decode
        self._columns: Decode
        self._matrix = inputs[0] if len(inputs[0].shape) == 2 else None
        self._width = len(names)
        self._missing = missing
        dtypes = [self._matrix.dtype] * self._width if self._matrix is not None else [spec.dtype for spec in inputs]
        cells = [_cell(dtype, missing) for dtype in dtypes]
        row: Any = tuple[tuple(cells)]  # type: ignore[misc]  # a type that is made at run time
        self._row, self._rows = _decoder(row), _decoder(_list(row))
        if not has_names or len(set(names)) < len(names):
            self._record = self._records = self._columns = _no_decoder
            return
        record = _struct(names, cells)
        self._record, self._records = _decoder(record), _decoder(_list(record))
        self._columns = _decoder(_struct(names, list(map(_list, cells))))

    @staticmethod
    def suits(inputs: Sequence[TensorSpec], names: Sequence[str]) -> bool:
        """Whether the columns are known, and hold floats or texts alone."""
        return bool(names) and all(spec.dtype == "string" or spec.dtype.startswith("float") for spec in inputs)

    def decode(self, form: Form, data: bytes | memoryview) -> Decoded | None:
        """The tensors of a request, or `None` when this is not the case it knows."""
        begin = bytes(data[:64]).translate(None, _SPACE)[:2]
        if begin[:1] == b"{":
            record = self._record(data) if form == "input" else None
            if record is not None:
                return self._of_rows([msgspec.structs.astuple(record)], single=True)
            table = self._columns(data) if form != "instances" else None
            return None if table is None else self._of_columns(msgspec.structs.astuple(table))
        if begin == b"[{":
            records = self._records(data) if form != "inputs" else None
            return self._of_rows(list(map(msgspec.structs.astuple, records or ())), single=False)
        if begin == b"[[":
            return self._of_rows(self._rows(data), single=False)
        row = self._row(data) if form == "input" else None
        return None if row is None else self._of_rows([row], single=True)

    def _of_rows(self, rows: Sequence[Cells] | None, *, single: bool) -> Decoded | None:
        if not rows:
            return None
        if self._matrix is None:
            return self._of_columns(list(zip(*rows, strict=True)), single=single)
        matrix = self._array(chain.from_iterable(rows), len(rows) * self._width, self._matrix.dtype)
        return None if matrix is None else Decoded({self._matrix.name: matrix.reshape(len(rows), self._width)}, single)

    def _of_columns(self, columns: Sequence[Cells], *, single: bool = False) -> Decoded | None:
        count = len(columns[0])
        if not count or any(len(column) != count for column in columns):
            return None
        if self._matrix is not None:
            matrix = self._array(chain.from_iterable(columns), self._width * count, self._matrix.dtype)
            if matrix is None:
                return None
            rows = np.ascontiguousarray(matrix.reshape(self._width, count).T)
            return Decoded({self._matrix.name: rows}, single)
        tensors: Tensors = {}
        for spec, cells in zip(self._inputs, columns, strict=True):
            array = self._array(cells, count, spec.dtype)
            if array is None:
                return None
            tensors[spec.name] = array
        return Decoded(tensors, single)

    def _array(self, cells: Iterable[Any], count: int, dtype: str) -> Array | None:
        """So many cells that were checked, as an array; `None` for a number that does not fit the dtype."""
        if dtype == "string":
            return np.array([self._missing if cell is None else cell for cell in cells], dtype=object)
        numbers = np.fromiter(cells, np.float64, count)  # a null becomes NaN
        if dtype == "float64":
            return numbers
        with np.errstate(over="ignore"):
            array = numbers.astype(dtype)
        return None if np.isinf(array).any() else array


def _cell(dtype: str, missing: str | None) -> Any:
    if dtype != "string":
        return float | None
    return str if missing is None else str | None


def _struct(names: Sequence[str], types: Sequence[Any]) -> type[msgspec.Struct]:
    fields = [(f"c{i}", kind) for i, kind in enumerate(types)]
    renamed = {f"c{i}": name for i, name in enumerate(names)}
    return msgspec.defstruct("Columns", fields, rename=renamed, forbid_unknown_fields=True)


def _list(kind: Any) -> Any:
    return list[kind]


def _decoder(kind: Any) -> Decode:
    decode = msgspec.json.Decoder(kind).decode

    def read(data: bytes | memoryview) -> Any:
        try:
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    return read


def _no_decoder(_: bytes | memoryview) -> Any:
    """For what a table without names cannot be."""
    return None
