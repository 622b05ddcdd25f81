"""Rows of different lengths: padded on the way in, cut on the way out, and nothing of it seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import ModelInfo, Tensors, TensorSpec
from engine.model_options import PaddingOptions
from engine.worker.padding import Padding, bucket, concatenate, free_dims, paddable

TOKENS = TensorSpec("tokens", "int64", ("batch", "length"))
MASK = TensorSpec("mask", "bool", ("batch", "length"))
IMAGE = TensorSpec("image", "float32", ("batch", "height", 2, "width"))
HIDDEN = TensorSpec("hidden", "float32", ("batch", "length", 4))
POOLED = TensorSpec("pooled", "float32", ("batch", 4))


def info(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> ModelInfo:
    return ModelInfo(task="tensor", inputs=tuple(inputs), outputs=tuple(outputs))


def padding(inputs: list[TensorSpec], outputs: list[TensorSpec], **options: PaddingOptions) -> Padding:
    return Padding(info(inputs, outputs), options)


@pytest.mark.parametrize(
    ("spec", "free"),
    [
        (TOKENS, [(1, "length")]),
        (POOLED, []),
        (IMAGE, [(1, "height"), (3, "width")]),
        (TensorSpec("state", "float32", (2, "batch", "n"), 1), [(2, "n")]),
        (TensorSpec("rate", "int64", (), None), []),
        (TensorSpec("free", "int64", ("n",), None), [(0, "n")]),
    ],
)
def test_free_dimensions(spec: TensorSpec, free: list[tuple[int, str]]) -> None:
    assert free_dims(spec) == free


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([TOKENS], [HIDDEN], None),
        ([TOKENS, MASK], [POOLED], None),
        ([POOLED], [POOLED], "its rows have a fixed shape"),
        ([TensorSpec("words", "string", ("batch", "n"))], [POOLED], "its inputs are strings"),
        (
            [TOKENS],
            [TensorSpec("found", "int64", ("batch", "objects"))],
            "output 'found' has a free dimension that no input names",
        ),
    ],
)
def test_what_can_be_padded(inputs: list[TensorSpec], outputs: list[TensorSpec], reason: str | None) -> None:
    assert paddable(info(inputs, outputs)) == reason


@pytest.mark.parametrize(
    ("length", "buckets", "padded"),
    [(5, (), 5), (5, (8, 16), 8), (8, (8, 16), 8), (9, (16, 8), 16), (17, (8, 16), 17), (0, (8,), 8)],
)
def test_buckets(length: int, buckets: tuple[int, ...], padded: int) -> None:
    assert bucket(length, buckets) == padded


def test_rows_are_padded_to_the_longest() -> None:
    pad = padding([TOKENS], [POOLED], tokens=PaddingOptions(value=-1))
    parts: list[Tensors] = [{"tokens": np.array([[1, 2], [3, 4]])}, {"tokens": np.array([[5, 6, 7]])}]
    stacked = pad.stack(parts)["tokens"]
    assert stacked.dtype == np.int64
    assert stacked.tolist() == [[1, 2, -1], [3, 4, -1], [5, 6, 7]]
    assert stacked.flags.c_contiguous


def test_each_input_has_its_own_value_and_its_own_axes() -> None:
    pad = padding([TOKENS, MASK, IMAGE], [POOLED], tokens=PaddingOptions(value=9), image=PaddingOptions(value=0.5))
    parts: list[Tensors] = [
        {"tokens": np.ones((1, n), np.int64), "mask": np.ones((1, n), bool), "image": np.ones((1, h, 2, w), np.float32)}
        for n, h, w in ((1, 2, 1), (2, 1, 3))
    ]
    stacked = pad.stack(parts)
    assert stacked["tokens"].tolist() == [[1, 9], [1, 1]]
    assert stacked["mask"].tolist() == [[True, False], [True, True]]
    assert stacked["image"].shape == (2, 2, 2, 3)
    assert stacked["image"][0, :, :, 1:].tolist() == np.full((2, 2, 2), 0.5).tolist()
    assert stacked["image"][1, 1].tolist() == np.full((2, 3), 0.5).tolist()
    assert stacked["image"].sum() == 2 * 2 * 1 + 1 * 2 * 3 + 0.5 * (24 - 4 - 6)


def test_rows_are_padded_to_the_next_bucket() -> None:
    pad = padding([TOKENS], [POOLED], tokens=PaddingOptions(buckets=(4, 8)))
    assert pad.stack([{"tokens": np.ones((1, 2), np.int64)}])["tokens"].shape == (1, 4)
    assert pad.stack([{"tokens": np.ones((1, n), np.int64)} for n in (2, 5)])["tokens"].shape == (2, 8)


def test_outputs_are_cut_to_the_size_of_their_request() -> None:
    pad = padding([TOKENS], [HIDDEN, POOLED])
    sizes = pad.sizes({"tokens": np.ones((1, 2), np.int64)})
    assert sizes == {"length": 2}
    outputs: Tensors = {"hidden": np.ones((1, 5, 4)), "pooled": np.ones((1, 4)), "unheard_of": np.ones((1, 5))}
    shapes = {name: a.shape for name, a in pad.unpad(outputs, sizes).items()}
    assert shapes == {"hidden": (1, 2, 4), "pooled": (1, 4), "unheard_of": (1, 5)}


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=6),
    st.lists(st.integers(1, 12), max_size=3),
    st.sampled_from(["int8", "int64", "float16", "float32", "bool"]),
)
def test_what_is_stacked_comes_apart_again(requests: list[tuple[int, int]], buckets: list[int], dtype: str) -> None:
    """Pairs of (rows, length)."""
    spec = TensorSpec("x", dtype, ("batch", "length"))
    pad = padding([spec], [spec], x=PaddingOptions(value=1, buckets=tuple(buckets)))
    parts: list[Tensors] = [{"x": np.arange(r * n).reshape(r, n).astype(dtype)} for r, n in requests]
    stacked = pad.stack(parts)["x"]
    longest = max(n for _, n in requests)
    assert stacked.shape == (sum(r for r, _ in requests), bucket(longest, buckets))
    row = 0
    for part, (rows, length) in zip(parts, requests, strict=True):
        own = {"x": stacked[row : row + rows]}
        np.testing.assert_array_equal(pad.unpad(own, pad.sizes(part))["x"], part["x"], strict=True)
        assert (own["x"][:, length:] == np.array(1, dtype)).all()
        row += rows


def test_rows_of_one_shape_are_put_together() -> None:
    parts: list[dict[str, Any]] = [{"x": np.ones((n, 2)), "s": np.array(["a"] * n, object)} for n in (1, 2)]
    joined = concatenate(parts)
    assert joined["x"].shape == (3, 2)
    assert joined["s"].tolist() == ["a"] * 3


def test_a_model_that_is_told_lengths_is_not_tried() -> None:
    free = (TensorSpec("x", "float32", ("batch", "n")),)
    assert paddable(ModelInfo(task="tensor", inputs=free)) is None
    assert (
        paddable(ModelInfo(task="tensor", inputs=free, unpadded_reason="its rows are ragged")) == "its rows are ragged"
    )
