"""The fast way of reading a body agrees with the general one, or leaves the body to it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import InvalidInput, TensorSpec
from engine import codec
from engine.api.predict_body import PredictBody
from engine.codec import Form
from engine.plain_decoder import PlainDecoder

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
SPECS = [
    *(TensorSpec("x", dtype, ("batch", 3)) for dtype in DTYPES),
    TensorSpec("x", "float32", ("batch", "n")),
    TensorSpec("x", "int64", ("batch", "n")),
    TensorSpec("x", "float32", ("batch", 2, "n")),
    TensorSpec("x", "float32", (2, 3)),
]


def general(body: bytes, spec: TensorSpec) -> tuple[Form, np.ndarray[Any, Any], bool, bytes, bool] | None:
    """What the general way makes of a body; `None` when it refuses it."""
    try:
        envelope = msgspec.json.decode(body, type=PredictBody)
        given = {f: getattr(envelope, f) for f in codec.ANSWER_KEY if getattr(envelope, f) is not msgspec.UNSET}
        if len(given) != 1:
            return None
        ((form, raw),) = given.items()
        tensors, single, _ = codec.decode(form, msgspec.json.decode(raw), [spec])
    except (msgspec.DecodeError, RecursionError, InvalidInput):
        return None
    return form, tensors[spec.name], single, bytes(envelope.parameters), envelope.stream


def agrees(body: bytes, spec: TensorSpec) -> bool:
    """Whether the fast way read it; then as the general way does."""
    plain = PlainDecoder(spec).decode(body)
    if plain is None:
        return False
    expected = general(body, spec)
    assert expected is not None, "the general way refuses what the fast one took"
    form, array, single, parameters, stream = expected
    assert (plain.form, plain.single, plain.parameters, plain.stream) == (form, single, parameters, stream)
    np.testing.assert_array_equal(plain.array, array, strict=True)
    return True


EXACT = 2**53
"""Beyond it, whole numbers become floats by two roundings here and by one there."""

floats = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-10, 10) | st.integers(-EXACT, EXACT).map(float)
numbers = st.one_of(
    floats,
    st.integers(-130, 260),
    st.integers(-EXACT, EXACT),
    st.integers(2**63 - 2, 2**64 + 2),
    st.integers(-(2**64), -(2**63) + 2),
)
odd = st.none() | st.booleans() | st.text(max_size=3)
any_json = st.recursive(
    numbers | odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "input"]), inner, max_size=2),
    max_leaves=10,
)


def nested(depth: int, least: int = 0) -> st.SearchStrategy[Any]:
    """Lists of numbers, mostly rectangular."""
    element: st.SearchStrategy[Any] = st.integers(0, 5) | st.floats(-5, 5) | numbers
    if depth == 1:
        return st.lists(element, min_size=least, max_size=4) | st.lists(element, min_size=3, max_size=3)
    return st.lists(nested(depth - 1), min_size=least, max_size=3)


values = any_json | nested(1) | nested(2) | nested(3)
spaces = st.sampled_from(["", " ", "\n\t "])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Envelopes as clients write them, and as they should not."""
    fields: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from(["input", "instances"]), min_size=1, max_size=2)):
        fields[key] = draw(values)
    if draw(st.integers(0, 3)) == 0:
        key = draw(st.sampled_from(["parameters", "stream", "inputs", "unknown"]))
        fields[key] = draw(st.sampled_from([{}, {"a": [[1]]}, True, False, None, 1]))
    text = json.dumps(fields, separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])))
    return (draw(spaces) + text + draw(spaces)).encode()


@given(bodies(), st.sampled_from(SPECS))
def test_the_two_ways_agree(body: bytes, spec: TensorSpec) -> None:
    agrees(body, spec)


@given(st.data(), st.sampled_from(SPECS))
def test_well_formed_bodies_go_the_fast_way(data: st.DataObject, spec: TensorSpec) -> None:
    rows = 2 if spec.shape[0] == 2 else data.draw(st.integers(1, 3))
    shape = [d if isinstance(d, int) else data.draw(st.integers(1, 3)) for d in spec.shape[1:]]
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        element: st.SearchStrategy[Any] = st.floats(-limit, limit) | st.integers(-9, 9)
    else:
        limits = np.iinfo(dtype)
        element = st.integers(int(limits.min), int(limits.max))

    def rectangle(dims: list[int]) -> Any:
        return data.draw(element) if not dims else [rectangle(dims[1:]) for _ in range(dims[0])]

    single = rows == 1 and data.draw(st.booleans())
    key = "input" if single else data.draw(st.sampled_from(["input", "instances"]))
    value = rectangle(shape) if single else rectangle([rows, *shape])
    assert agrees(json.dumps({key: value}, separators=(",", ":")).encode(), spec)


@pytest.mark.parametrize(
    ("body", "fast"),
    [
        (b'{"input":[1,2,3]}', True),
        (b'{"input":[[1,2,3]]}', True),
        (b'{"input": [[1, 2, 3], [4, 5, 6]]}', True),
        (b'{"instances":[[1,2,3]]}', True),
        (b'{"input":[1,2,3],"parameters":{"top_k":1},"stream":true}', True),
        (b'{"input":[1,2,3],"parameters":{"a":[["["]]}}', False),
        (b'{"input":[ [1,2,3]]}', False),
        (b'{"instances":[1,2,3]}', False),
        (b'{"inputs":[[1,2,3]]}', False),
        (b'{"input":[[1,2,3]],"instances":null}', False),
        (b'{"input":null}', False),
        (b'{"input":[]}', False),
        (b'{"input":[[]]}', False),
        (b'{"input":[[1,2,3],[4,5]]}', False),
        (b'{"input":[true,2,3]}', False),
        (b'{"input":["1",2,3]}', False),
        (b'{"input":[1,2,1e39]}', False),
        (b'{"input":[1,2,NaN]}', False),
        (b'{"input":[1,2,3]', False),
        (b'{"input":' + b"[" * 100_000, False),
        (b"", False),
    ],
)
def test_which_bodies_go_the_fast_way(body: bytes, fast: bool) -> None:
    assert agrees(body, TensorSpec("x", "float32", ("batch", 3))) == fast


@pytest.mark.parametrize("dtype", [d for d in DTYPES if "int" in d])
def test_whole_numbers_that_do_not_fit_never_wrap(dtype: str) -> None:
    limits = np.iinfo(dtype)
    decoder = PlainDecoder(TensorSpec("x", dtype, ("batch", 1)))
    for n in (int(limits.min), int(limits.max)):
        plain = decoder.decode(b'{"input":[%d]}' % n)
        assert plain is not None
        assert plain.array.tolist() == [[n]]
    for n in (int(limits.min) - 1, int(limits.max) + 1, 2**64, -(2**64), 10**30):
        assert decoder.decode(b'{"input":[%d]}' % n) is None
    assert decoder.decode(b'{"input":[0.5]}') is None


@pytest.mark.parametrize(
    ("specs", "suits"),
    [
        ([TensorSpec("x", "float32", ("n", 3))], True),
        ([TensorSpec("x", "uint8", ("n", "h", "w", 3))], True),
        ([TensorSpec("x", "float32", ("n",))], False),
        ([TensorSpec("x", "float32", (3, "n"), 1)], False),
        ([TensorSpec("x", "float32", (3, 3), None)], False),
        ([TensorSpec("x", "string", ("n", 3))], False),
        ([TensorSpec("x", "bool", ("n", 3))], False),
        ([TensorSpec("x", "complex64", ("n", 3))], False),
        ([TensorSpec("x", "float32", ("n", 3)), TensorSpec("y", "float32", ("n", 3))], False),
        ([], False),
    ],
)
def test_which_signatures_it_knows(specs: list[TensorSpec], suits: bool) -> None:
    assert PlainDecoder.suits(specs) == suits
