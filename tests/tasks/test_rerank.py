"""Tests of the rerank task: a query and documents to rows, scores to a ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.base import InvalidInput, InvalidOption, ModelInfo, TensorSpec
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters
from engine.tasks.rerank import RerankTask

QUERY = TensorSpec("query", "string", ("batch",))
TEXT = TensorSpec("text", "string", ("batch",))
SCORE = TensorSpec("score", "float32", ("batch",))
TOKENS = TensorSpec("tokens", "int32", ("batch",))
OUTPUTS = {"score": np.array([0.5, 2.0, -1.0, 2.0], np.float32), "tokens": np.array([4, 5, 6, 7], np.int32)}
RANKED = [
    {"index": 1, "score": 2.0},
    {"index": 3, "score": 2.0},
    {"index": 0, "score": 0.5},
    {"index": 2, "score": -1.0},
]


def task(*specs: TensorSpec, outputs: tuple[TensorSpec, ...] = (SCORE, TOKENS)) -> RerankTask:
    return RerankTask(ModelInfo(task="rerank", inputs=specs or (QUERY, TEXT), outputs=outputs), ModelOptions())


def answer(form: Any = "input", single: bool = True, **parameters: Any) -> Any:
    return task().encode(form, OUTPUTS, single, Parameters(**parameters))


def test_a_row_for_each_document() -> None:
    decoded = task().decode("input", {"query": "q", "documents": ["a", "b"]})
    assert {k: v.tolist() for k, v in decoded.tensors.items()} == {"query": ["q", "q"], "text": ["a", "b"]}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("q", "input"),
        ({"query": "q"}, "input"),
        ({}, "input"),
        ({"query": "q", "documents": ["a"], "top_n": 1}, "input"),
        ({"query": "", "documents": ["a"]}, "input.query"),
        ({"query": 1, "documents": ["a"]}, "input.query"),
        ({"query": "q", "documents": []}, "input.documents"),
        ({"query": "q", "documents": "a"}, "input.documents"),
        ({"query": "q", "documents": ["a", ""]}, "input.documents[1]"),
        ({"query": "q", "documents": [None]}, "input.documents[0]"),
    ],
)
def test_what_is_no_query_with_documents(value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        task().decode("input", value)
    assert caught.value.field == field


def test_best_first_and_equal_ones_in_their_order() -> None:
    assert answer() == RANKED


def test_the_best_alone() -> None:
    assert answer(top_n=2) == RANKED[:2]
    assert answer(top_n=9) == RANKED
    with pytest.raises(InvalidInput, match="top_n must be at least 1; got 0") as caught:
        answer(top_n=0)
    assert caught.value.field == "parameters.top_n"


def test_usage() -> None:
    assert answer(top_n=1, usage=True) == {"results": RANKED[:1], "tokens": [4, 5, 6, 7]}
    with pytest.raises(InvalidInput, match="does not tell how many tokens"):
        task(outputs=(SCORE,)).encode("input", {"score": OUTPUTS["score"]}, True, Parameters(usage=True))


def test_pairs_as_plain_tensors() -> None:
    columns = {"query": ["q", "r"], "text": ["a", "b"]}
    decoded = task().decode("inputs", columns)
    assert {k: v.tolist() for k, v in decoded.tensors.items()} == columns
    rows = task().decode("instances", [{"query": "q", "text": "a"}, {"query": "r", "text": "b"}])
    assert {k: v.tolist() for k, v in rows.tensors.items()} == columns
    assert answer("inputs", False) == {"score": [0.5, 2.0, -1.0, 2.0], "tokens": [4, 5, 6, 7]}
    assert answer("instances", False)[1] == {"score": 2.0, "tokens": 5}
    for name in ("top_n", "usage"):
        with pytest.raises(InvalidInput) as caught:
            answer("inputs", False, **{name: 1})
        assert caught.value.field == f"parameters.{name}"


def test_the_example_is_a_request() -> None:
    row = {"query": np.array(["q"], dtype=object), "text": np.array(["a"], dtype=object)}
    assert task().example(row) == {"query": "q", "documents": ["a"]}
    assert task().decode("input", task().example(row)).tensors.keys() == row.keys()


def test_parameters_of_other_tasks_are_refused() -> None:
    task().check(Parameters(top_n=1, usage=True))
    with pytest.raises(InvalidInput, match="dimensions means nothing"):
        task().check(Parameters(dimensions=1))


def test_models_of_other_shapes_are_refused() -> None:
    matrix = TensorSpec("score", "float32", ("batch", 2))
    number = TensorSpec("n", "int32", ("batch",))
    for inputs, outputs in (
        ((TEXT,), (SCORE,)), ((QUERY, TEXT, number), (SCORE,)), ((QUERY, TEXT), (matrix,)), ((QUERY, TEXT), ())
    ):  # fmt: skip
        with pytest.raises(InvalidOption, match="two inputs, queries and texts, and one output of scores"):
            task(*inputs, outputs=outputs)
