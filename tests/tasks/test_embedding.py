"""Tests of the embedding task: texts to vectors in every form, fewer dimensions, and counts of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.base import TRUNCATE, InvalidInput, InvalidOption, ModelInfo, Tensors, TensorSpec
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters
from engine.tasks.embedding import EmbeddingTask

TEXT = TensorSpec("text", "string", ("batch",))
VECTORS = TensorSpec("embedding", "float32", ("batch", 3))
TOKENS = TensorSpec("tokens", "int32", ("batch",))
RAW = np.array([[3.0, 4.0, 12.0], [0.0, 5.0, 12.0]], np.float32)
UNIT = RAW / 13


def task(*outputs: TensorSpec, inputs: tuple[TensorSpec, ...] = (TEXT,)) -> EmbeddingTask:
    info = ModelInfo(task="embedding", inputs=inputs, outputs=outputs or (VECTORS, TOKENS))
    return EmbeddingTask(info, ModelOptions())


def answer(form: Any = "input", single: bool = False, vectors: np.ndarray[Any, Any] = UNIT, **parameters: Any) -> Any:
    outputs: Tensors = {"embedding": vectors, "tokens": np.array([4, 5], np.int32)}
    return task().encode(form, outputs, single, Parameters(**parameters))


def test_texts_in_every_form() -> None:
    for form, value, single in (
        ("input", "a", True), ("input", ["a"], False), ("instances", ["a"], False), ("inputs", {"text": ["a"]}, False)
    ):  # fmt: skip
        decoded = task().decode(form, value)
        assert (decoded.tensors["text"].tolist(), decoded.single) == (["a"], single)


def test_a_plain_text_body() -> None:
    decoded = task().decode_bytes(memoryview("né".encode()), "text/plain; charset=utf-8")
    assert (decoded.tensors["text"].tolist(), decoded.single) == (["né"], True)
    for body, kind in ((b"\xff", "text/plain"), (b"", "text/plain"), (b"a", "image/png")):
        with pytest.raises(InvalidInput):
            task().decode_bytes(memoryview(body), kind)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("", "input"),
        (["a", ""], "input[1]"),
        ([], "input"),
        (["a", 1], "input"),
        ({"x": "a"}, "input"),
        (None, "input"),
    ],
)
def test_what_is_no_text(value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        task().decode("input", value)
    assert caught.value.field == field


def test_vectors_in_every_form() -> None:
    rows = UNIT.tolist()
    assert answer(single=True) == rows[0]
    assert answer() == answer("instances") == answer("inputs") == rows


def test_fewer_dimensions_have_length_1_again() -> None:
    assert answer(dimensions=2) == [pytest.approx([0.6, 0.8]), pytest.approx([0, 1])]
    assert answer(dimensions=3) == [pytest.approx(row) for row in UNIT.tolist()]
    assert answer(dimensions=1) == [[1], [0]]  # the second is 0 in all that is left


def test_vectors_that_were_not_of_length_1_are_only_cut() -> None:
    assert answer(vectors=RAW, dimensions=2) == [[3, 4], [0, 5]]


@pytest.mark.parametrize("dimensions", [0, -1, 4])
def test_dimensions_out_of_range(dimensions: int) -> None:
    with pytest.raises(InvalidInput, match=f"from 1 to 3, .* got {dimensions}") as caught:
        answer(dimensions=dimensions)
    assert caught.value.field == "parameters.dimensions"


def test_usage() -> None:
    expected = {"embeddings": UNIT.tolist(), "tokens": [4, 5]}
    assert answer(usage=True) == expected == answer(single=True, usage=True)
    assert answer(usage=False) == UNIT.tolist()
    with pytest.raises(InvalidInput, match="does not tell how many tokens"):
        task(VECTORS).encode("input", {"embedding": UNIT}, False, Parameters(usage=True))


def test_the_vectors_are_found_among_the_outputs() -> None:
    other = TensorSpec("states", "float32", ("batch", 7))
    assert (
        task(other, VECTORS).encode("input", {"states": RAW, "embedding": UNIT}, True, Parameters()) == UNIT[0].tolist()
    )
    assert task(other).encode("input", {"states": RAW}, True, Parameters()) == [3, 4, 12]
    for outputs in ((TOKENS,), (other, TensorSpec("more", "float32", ("batch", 7)))):
        with pytest.raises(InvalidOption, match="one output of vectors; this one has"):
            task(*outputs)


def test_a_model_that_takes_no_texts_is_refused() -> None:
    for inputs in ((TEXT, TEXT), (TensorSpec("text", "float32", ("batch",)),)):
        with pytest.raises(InvalidOption, match="one input, a list of strings"):
            task(inputs=inputs)


def test_parameters_of_other_tasks_are_refused() -> None:
    task().check(Parameters(dimensions=1, usage=True))
    for name in ("top_k", "top_n"):
        with pytest.raises(InvalidInput) as caught:
            task().check(Parameters(**{name: 1}))
        assert caught.value.field == f"parameters.{name}"


def test_the_example_is_a_text() -> None:
    assert task().example({"text": np.array(["a"], dtype=object)}) == "a"


def test_whether_a_text_is_cut_is_for_models_that_can_be_told() -> None:
    info = ModelInfo(task="embedding", inputs=(TEXT,), outputs=(VECTORS,), optional=(TRUNCATE,))
    told = EmbeddingTask(info, ModelOptions())
    tensors: Tensors = {"text": np.array(["a", "b"], dtype=object)}
    for truncate in (True, False):
        told.check(Parameters(truncate=truncate))
        assert told.complete(tensors, 2, Parameters(truncate=truncate))["truncate"].tolist() == [truncate] * 2
    assert told.complete(tensors, 2, Parameters()) == tensors
    with pytest.raises(InvalidInput) as e:
        task().check(Parameters(truncate=True))
    assert e.value.field == "parameters.truncate"
