"""Tests of engine.codec: JSON and tensors, there and back, and what the errors say."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.base import InvalidInput, Tensors, TensorSpec
from engine.codec import ANSWER_KEY, Form, decode, encode

IDS = TensorSpec("ids", "int64", ("batch", "sequence"))
ROW = TensorSpec("x", "float32", ("batch", 3))
SCALE = TensorSpec("scale", "float32", (), None)
TEXT = TensorSpec("text", "string", ("batch",))
WORDS = TensorSpec("words", "string", ("batch", "n"))
FLAG = TensorSpec("flag", "bool", ("batch",))
BYTES = TensorSpec("bytes", "uint8", ("batch",))
TIMED = TensorSpec("timed", "float32", ("time", "batch"), 1)


def refused(form: Form, value: Any, *specs: TensorSpec) -> InvalidInput:
    with pytest.raises(InvalidInput) as e:
        decode(form, value, specs)
    return e.value


def same(got: Tensors, want: dict[str, Any]) -> bool:
    return got.keys() == want.keys() and all(
        np.array_equal(got[n], np.asarray(want[n], got[n].dtype)) and got[n].shape == np.shape(want[n]) for n in want
    )


# -- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "value", "specs", "tensors", "single"),
    [
        ("input", [1, 2, 3], [ROW], {"x": [[1, 2, 3]]}, True),
        ("input", [[1, 2, 3], [4, 5, 6]], [ROW], {"x": [[1, 2, 3], [4, 5, 6]]}, False),
        ("input", {"x": [1, 2, 3]}, [ROW], {"x": [[1, 2, 3]]}, True),
        ("input", "hello", [TEXT], {"text": ["hello"]}, True),
        ("input", ["a", "b"], [TEXT], {"text": ["a", "b"]}, False),
        ("input", True, [FLAG], {"flag": [True]}, True),
        ("input", 0.5, [SCALE], {"scale": 0.5}, False),
        ("input", [1.0, 2.0], [TIMED], {"timed": [[1], [2]]}, True),
        ("input", {"ids": [1], "x": [1, 2, 3]}, [IDS, ROW], {"ids": [[1]], "x": [[1, 2, 3]]}, True),
        ("input", {"x": [[1, 2, 3]], "scale": 2}, [ROW, SCALE], {"x": [[1, 2, 3]], "scale": 2}, False),
        ("inputs", [1, 2, 3], [ROW], {"x": [[1, 2, 3]]}, False),
        ("inputs", {"ids": [1], "x": [1, 2, 3]}, [IDS, ROW], {"ids": [[1]], "x": [[1, 2, 3]]}, False),
        ("instances", [[1, 2, 3]], [ROW], {"x": [[1, 2, 3]]}, False),
        ("instances", [{"x": [1, 2, 3]}], [ROW], {"x": [[1, 2, 3]]}, False),
        ("instances", [{"ids": [1], "flag": True}] * 2, [IDS, FLAG], {"ids": [[1], [1]], "flag": [True, True]}, False),
        ("instances", ["a", "b"], [TEXT], {"text": ["a", "b"]}, False),
    ],
)
def test_forms(form: Form, value: Any, specs: list[TensorSpec], tensors: dict[str, Any], single: bool) -> None:
    decoded = decode(form, value, specs)
    assert same(decoded.tensors, tensors)
    assert {n: a.dtype for n, a in decoded.tensors.items()} == {
        s.name: np.dtype("O" if s.dtype == "string" else s.dtype) for s in specs
    }
    assert decoded.single is single


@pytest.mark.parametrize(
    ("form", "value", "specs", "field", "message"),
    [
        ("input", [1, 2], [ROW], "input", "input must have shape [batch, 3]; got [1, 2]."),
        ("input", [[[1, 2, 3]]], [ROW], "input", "input must have shape [batch, 3]; got [1, 1, 3]."),
        ("input", [], [TEXT], "input", "input has no rows."),
        (
            "input",
            [[1, 2, 3], [4]],
            [ROW],
            "input",
            "input is ragged: its inner lists differ in length or depth. Send rows of different lengths in requests of "
            "their own, which are batched.",
        ),
        ("input", [1, "b", 3], [ROW], "input", "input must hold numbers (float32); got a string."),
        ("input", [1, None, 3], [ROW], "input", "input must hold numbers (float32); got null."),
        ("input", [1, {}, 3], [ROW], "input", "input must hold numbers (float32); got an object."),
        ("input", None, [ROW], "input", "input must hold numbers (float32); got null."),
        ("input", {"y": 1}, [ROW], "input", "input must have exactly the inputs 'x'; got 'y'."),
        ("input", {}, [ROW], "input", "input must have exactly the inputs 'x'; got none."),
        ("input", {"x": [1, 2, 3], "y": 1}, [ROW], "input", "input must have exactly the inputs 'x'; got 'x', 'y'."),
        ("input", [1], [IDS, ROW], "input", "input must be an object with the inputs 'ids', 'x'; got a list."),
        ("input", {"ids": [1]}, [IDS, ROW], "input", "input must have exactly the inputs 'ids', 'x'; got 'ids'."),
        ("input", {"ids": "a", "x": 1}, [IDS, ROW], "input.ids", "input.ids must hold numbers (int64); got a string."),
        (
            "input",
            {"ids": [[1]], "x": [1, 2, 3]},
            [IDS, ROW],
            "input",
            "input: some inputs have a batch axis and others do not; give all of them one.",
        ),
        (
            "input",
            {"ids": [[1], [2]], "x": [[1, 2, 3]]},
            [IDS, ROW],
            "input",
            "input: the inputs must have the same number of rows; got 1, 2.",
        ),
        ("input", [1e39, 0, 0], [ROW], "input", "input holds a number that does not fit float32."),
        ("input", [10**400, 0, 0], [ROW], "input", "input holds a number that does not fit float32."),
        ("input", [1.5], [IDS], "input", "input must be int64; got float64 values."),
        ("input", [True], [IDS], "input", "input must be int64; got bool values."),
        ("input", [1], [FLAG], "input", "input must be bool; got int64 values."),
        (
            "input",
            [2**64],
            [IDS],
            "input",
            f"input holds a number that does not fit int64 ({-(2**63)} to {2**63 - 1}).",
        ),
        ("input", [-1], [BYTES], "input", "input holds a number that does not fit uint8 (0 to 255)."),
        ("input", [1e17], [IDS], "input", "input must be int64; got float64 values."),
        ("input", 5, [TEXT], "input", "input must hold strings; got a number."),
        ("input", ["a", None], [TEXT], "input", "input must hold strings; got null."),
        ("input", [["a"], ["b", "c"]], [WORDS], "input", "input must hold strings; got a list."),
        ("instances", [1, 2, 3], [ROW], "instances", "instances must be a list of rows; this looks like one bare row."),
        ("instances", {}, [ROW], "instances", "instances must be a non-empty list of rows; got an object."),
        ("instances", [], [ROW], "instances", "instances must be a non-empty list of rows; got a list."),
        ("instances", [{"y": 1}], [ROW], "instances[0]", "instances[0] must have exactly the inputs 'x'; got 'y'."),
        (
            "instances",
            [{"x": [1, 2, 3]}, 5],
            [ROW],
            "instances[1]",
            "instances[1] must have exactly the inputs 'x'; got a number.",
        ),
        (
            "instances",
            [{"x": 1}, {"x": 2}, {"x": 3}],
            [ROW],
            "instances.x",
            "instances.x must be one row of shape [3] in each instance.",
        ),
        (
            "instances",
            [[1]],
            [TIMED],
            "instances",
            "This model has inputs without a leading batch axis; use 'input' or 'inputs'.",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(form: Form, value: Any, specs: list[TensorSpec], field: str, message: str) -> None:
    error = refused(form, value, *specs)
    assert (error.message, error.field) == (message, field)


def test_numbers_that_mean_the_same_are_taken() -> None:
    assert same(decode("input", [1.0, 2.0], [IDS]).tensors, {"ids": [[1, 2]]})
    assert same(decode("input", [10**30, 1, True], [ROW]).tensors, {"x": [[1e30, 1, 1]]})
    assert decode("input", [10**30], [TensorSpec("d", "float64", ("n",))]).tensors["d"].tolist() == [1e30]


# -- encoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "outputs", "single", "value"),
    [
        ("input", {"y": [[1, 2]]}, True, [1, 2]),
        ("input", {"y": [[1, 2]]}, False, [[1, 2]]),
        ("input", {"y": [[1, 2]], "z": [3]}, True, {"y": [1, 2], "z": 3}),
        ("inputs", {"y": [[1, 2]], "z": [3]}, False, {"y": [[1, 2]], "z": [3]}),
        ("instances", {"y": [[1], [2]]}, False, [[1], [2]]),
        ("instances", {"y": [[1], [2]], "z": [3, 4]}, False, [{"y": [1], "z": 3}, {"y": [2], "z": 4}]),
    ],
)
def test_answers(form: Form, outputs: dict[str, Any], single: bool, value: Any) -> None:
    assert encode(form, {n: np.array(v) for n, v in outputs.items()}, single) == value


def test_one_string_for_one_row() -> None:
    assert encode("input", {"label": np.array(["cat"], object)}, True) == "cat"


def test_the_batch_axis_of_an_output_is_respected() -> None:
    outputs = {"timed": np.array([[1, 2], [3, 4], [5, 6]]), "scale": np.array(7), "x": np.array([[1], [2]])}
    specs = [TIMED, SCALE, ROW]
    assert encode("inputs", outputs, False, specs) == {"timed": [[1, 2], [3, 4], [5, 6]], "scale": 7, "x": [[1], [2]]}
    one = {"timed": outputs["timed"][:, :1], "scale": outputs["scale"], "x": outputs["x"][:1]}
    assert encode("input", one, True, specs) == {"timed": [1, 3, 5], "scale": 7, "x": [1]}
    del outputs["scale"]
    assert encode("instances", outputs, False, specs) == [
        {"timed": [1, 3, 5], "x": [1]},
        {"timed": [2, 4, 6], "x": [2]},
    ]
    with pytest.raises(
        InvalidInput, match="Output 'scale' has no batch axis; use 'input' or 'inputs' instead of 'instances'"
    ):
        encode("instances", {"scale": np.array(7)}, False, specs)


def test_nan_and_infinity_become_null() -> None:
    value = encode("input", {"y": np.array([np.nan, np.inf, 1], np.float32)}, False)
    assert msgspec.json.encode(value) == b"[null,null,1.0]"


# -- properties -----------------------------------------------------------------------------------------------------

DTYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint64", "bool", "string"]


@st.composite
def models(draw: st.DrawFn) -> tuple[list[TensorSpec], Tensors]:
    """A signature of up to three tensors, batch first, and values that fit it."""
    rows = draw(st.integers(1, 3))
    specs, tensors = [], {}
    for name in draw(st.lists(st.text("abc", min_size=1), min_size=1, max_size=3, unique=True)):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
        if dtype == "string":
            elements = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
            flat = draw(
                st.lists(elements, min_size=int(np.prod((rows, *shape))), max_size=int(np.prod((rows, *shape))))
            )
            array = np.array(flat, object).reshape((rows, *shape))
        else:
            finite = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None
            array = draw(hnp.arrays(np.dtype(dtype), (rows, *shape), elements=finite))
        free = tuple(draw(st.sampled_from([n, f"d{i}"])) for i, n in enumerate(shape))
        specs.append(TensorSpec(name, dtype, ("batch", *free)))
        tensors[name] = array
    return specs, tensors


def through_json(value: Any) -> Any:
    encoded = msgspec.json.encode(value)
    assert json.loads(encoded) == value
    return msgspec.json.decode(encoded)


@given(models(), st.sampled_from(list(ANSWER_KEY)))
def test_a_batch_comes_back_as_it_was(model: tuple[list[TensorSpec], Tensors], form: Form) -> None:
    specs, tensors = model
    decoded = decode(form, through_json(encode(form, tensors, False, specs)), specs)
    assert not decoded.single
    for spec in specs:
        assert decoded.tensors[spec.name].dtype == tensors[spec.name].dtype
        np.testing.assert_array_equal(decoded.tensors[spec.name], tensors[spec.name], strict=True)


@given(models())
def test_a_bare_row_comes_back_as_it_was(model: tuple[list[TensorSpec], Tensors]) -> None:
    specs, tensors = model
    row = {name: array[:1] for name, array in tensors.items()}
    decoded = decode("input", through_json(encode("input", row, True, specs)), specs)
    assert decoded.single
    for spec in specs:
        np.testing.assert_array_equal(decoded.tensors[spec.name], row[spec.name], strict=True)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "ids", "y"]), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.sampled_from(list(ANSWER_KEY)),
    ANY_JSON,
    st.lists(st.sampled_from([IDS, ROW, SCALE, TEXT, WORDS, FLAG, TIMED]), min_size=1, max_size=3, unique=True),
)
def test_any_json_is_taken_or_refused_with_a_field(form: Form, value: Any, specs: list[TensorSpec]) -> None:
    try:
        tensors = decode(form, value, specs).tensors
    except InvalidInput as e:
        assert e.field is not None
        assert e.field.startswith(form)
    else:
        assert tensors.keys() == {s.name for s in specs}
        rows = {tensors[s.name].shape[s.batch_axis] for s in specs if s.batch_axis is not None}
        assert len(rows) <= 1
        assert 0 not in rows


def test_lists_nested_beyond_reason_are_refused() -> None:
    value: Any = 1
    for _ in range(500):
        value = [value]
    for spec in (ROW, TEXT):
        assert refused("input", value, spec).field == "input"
