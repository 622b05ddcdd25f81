"""The fast way from JSON to a table: it gives what the general way gives, or nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from backends.base import TensorSpec
from engine.tasks.plain_table import PlainTable

NUMBERS = (TensorSpec("input", "float64", ("batch", 2)),)
MIXED = (TensorSpec("size", "float32", ("batch",)), TensorSpec("shade", "string", ("batch",)))
NAMES = ("size", "shade")


def table(
    inputs: Any = NUMBERS, names: Any = NAMES, *, has_names: bool = True, missing: str | None = None
) -> PlainTable:
    return PlainTable(inputs, names, has_names=has_names, missing=missing)


def read(plain: PlainTable, value: Any, form: Any = "input") -> Any:
    """What it makes of a value; ``(rows, single)`` of a matrix."""
    decoded = plain.decode(form, value if isinstance(value, bytes) else json.dumps(value).encode())
    if decoded is None:
        return None
    (array,) = decoded.tensors.values()
    assert array.flags.c_contiguous
    return array.tolist(), decoded.single


@pytest.mark.parametrize(
    ("value", "rows", "single"),
    [
        ([1, 2.5], [[1, 2.5]], True),
        ([[1, 2.5]], [[1, 2.5]], False),
        ([[1, 2.5], [3, 4]], [[1, 2.5], [3, 4]], False),
        ({"shade": 2.5, "size": 1}, [[1, 2.5]], True),
        ([{"shade": 2.5, "size": 1}, {"size": 3, "shade": 4}], [[1, 2.5], [3, 4]], False),
        ({"size": [1, 3], "shade": [2.5, 4]}, [[1, 2.5], [3, 4]], False),
        (b" [\n [1, 2.5] ]", [[1, 2.5]], False),
    ],
)
def test_every_form(value: Any, rows: list[list[float]], single: bool) -> None:
    assert read(table(), value) == (rows, single)


def test_a_null_is_nan() -> None:
    ((row,), _) = read(table(), [[None, 1]])
    assert np.isnan(row[0])


@pytest.mark.parametrize(
    "value", [[[1, 2], [3]], [[1, "2"]], [[1, True]], [], [[]], {}, [{}], b"[[1, 2]", b"[[1, 1e999]]", b'{"\xff": 1}']
)
def test_what_it_does_not_know_is_left_to_the_general_way(value: Any) -> None:
    assert read(table(), value) is None


@pytest.mark.parametrize(
    "value",
    [{"size": 1}, {"size": 1, "shade": 2, "more": 3}, {"size": [1], "shade": [1, 2]}, {"size": [], "shade": []}],
)
def test_columns_that_do_not_fit(value: Any) -> None:
    assert read(table(), value) is None


def test_forms_of_tensorflow_serving() -> None:
    record, columns = {"size": 1, "shade": 2}, {"size": [1], "shade": [2]}
    assert read(table(), [record], "instances") == ([[1, 2]], False)
    assert read(table(), columns, "instances") is None
    assert read(table(), columns, "inputs") == ([[1, 2]], False)
    assert read(table(), [record], "inputs") is None
    assert read(table(), [1, 2], "instances") is None  # one bare row, which is an error


@pytest.mark.parametrize("plain", [table(has_names=False), table(names=("same", "same"))])
def test_columns_without_names_of_their_own(plain: PlainTable) -> None:
    assert read(plain, [[1, 2]]) == ([[1, 2]], False)
    assert read(plain, {"size": 1, "shade": 2}) is None
    assert read(plain, [{"size": 1, "shade": 2}]) is None


@pytest.mark.parametrize("value", [[[1, "dark"]], [{"size": 1, "shade": "dark"}], {"size": [1], "shade": ["dark"]}])
def test_columns_of_several_kinds(value: Any) -> None:
    decoded = table(MIXED).decode("input", json.dumps(value).encode())
    assert decoded is not None
    assert decoded.tensors["size"].dtype == np.float32
    assert decoded.tensors["size"].tolist() == [1]
    assert decoded.tensors["shade"].dtype == object
    assert decoded.tensors["shade"].tolist() == ["dark"]
    assert not decoded.single


def test_a_missing_text() -> None:
    value = json.dumps([1, None]).encode()
    decoded = table(MIXED, missing="?").decode("input", value)
    assert decoded is not None
    assert decoded.tensors["shade"].tolist() == ["?"]
    assert decoded.single
    assert table(MIXED).decode("input", value) is None


def test_a_number_that_float32_has_not() -> None:
    assert table(MIXED).decode("input", b'[[1e300, "dark"]]') is None


def test_suits() -> None:
    assert PlainTable.suits(MIXED, NAMES)
    assert not PlainTable.suits(NUMBERS, ())
    assert not PlainTable.suits((TensorSpec("n", "int64", ("batch",)),), ("n",))
