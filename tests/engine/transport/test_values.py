"""Values with tensors in them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from engine.transport.values import decode_values, encode_json, encode_values

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.zeros((0, 4), np.int8),
    np.array([[True, False]]),
    np.array(2.5),
    np.arange(10, dtype=np.int64)[::2],
    np.full((1, 2), np.nan, np.float16),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_an_array_comes_back_as_it_was(array: Any) -> None:
    value = {"a": [array, {"b": array}], "c": "text", "d": None, "e": 1.5, "f": 3}
    back = decode_values(encode_values(value))
    for found in (back["a"][0], back["a"][1]["b"]):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        assert found.flags.writeable
    assert (back["c"], back["d"], back["e"], back["f"]) == ("text", None, 1.5, 3)


def test_in_json_it_is_a_list() -> None:
    assert json.loads(encode_json({"a": ARRAYS[0], "b": ARRAYS[5]})) == {
        "a": [[0, 1, 2], [3, 4, 5]],
        "b": [[None, None]],
    }


@pytest.mark.parametrize("value", [object(), np.array(["x"], object), {1, object()}])
def test_what_is_neither_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        encode_values({"a": value})


def test_bytes_of_another_kind_are_refused() -> None:
    import msgspec

    with pytest.raises(ValueError, match="extension 7"):
        decode_values(msgspec.msgpack.encode(msgspec.msgpack.Ext(7, b"x")))
