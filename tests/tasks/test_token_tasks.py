"""Tests of the tasks that say something of the words in a text: entities, gaps, answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.base import InvalidInput, InvalidOption, ModelInfo, TensorSpec
from engine import tasks
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters, TensorTask

TEXT = TensorSpec("text", "string", ("batch",))


def specs(names: str, *dims: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", ("batch", *dims)) for name in names.split())


def task(name: str, inputs: Any, outputs: Any, **options: Any) -> TensorTask:
    return tasks.create(name, ModelInfo(task=name, inputs=inputs, outputs=outputs), ModelOptions(**options))


ENTITIES = specs("label word score start end", "entities")
GAPS = specs("word index score", "gaps", 3)
QUESTION = tuple(TensorSpec(name, "string", ("batch",)) for name in ("question", "context"))
ANSWERS = specs("answer score start end")


def test_entities_end_where_labels_do() -> None:
    entities = task("token-classification", (TEXT,), ENTITIES)
    outputs = {
        "label": np.array([["PER", "LOC"], ["LOC", ""]], dtype=object),
        "word": np.array([["Ada", "Rome"], ["Oslo", ""]], dtype=object),
        "score": np.array([[0.5, 0.25], [1, 0]], np.float32),
        "start": np.array([[0, 5], [3, -1]]),
        "end": np.array([[3, 9], [7, -1]]),
    }
    rows: Any = entities.encode("input", outputs, False, Parameters())
    assert rows[0][1] == {"label": "LOC", "word": "Rome", "score": 0.25, "start": 5, "end": 9}
    assert [len(row) for row in rows] == [2, 1]
    one = {name: array[1:] for name, array in outputs.items()}
    assert entities.encode("input", one, True, Parameters()) == rows[1]
    assert entities.encode("instances", one, False, Parameters()) == rows[1:]
    decoded = entities.decode_bytes(memoryview(b"Ada"), "text/plain")
    assert decoded.tensors["text"].tolist() == ["Ada"]
    assert entities.example({"text": np.array(["a"], dtype=object)}) == "a"


def test_gaps_have_as_many_words_as_wanted() -> None:
    gaps = task("fill-mask", (TEXT,), GAPS, top_k=2)
    outputs = {
        "word": np.array([[["a", "b", "c"], ["d", "e", "f"]], [["g", "h", "i"], ["", "", ""]]], dtype=object),
        "index": np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [-1, -1, -1]]]),
        "score": np.full((2, 2, 3), 0.5, np.float32),
    }
    rows: Any = gaps.encode("input", outputs, False, Parameters())
    assert [[len(gap) for gap in row] for row in rows] == [[2, 2], [2]]
    assert rows[1][0][1] == {"word": "h", "index": 8, "score": 0.5}
    assert [len(gap) for gap in gaps.encode("input", outputs, True, Parameters(top_k=3))] == [3, 3]  # type: ignore[attr-defined]
    for wrong in (0, 4):
        with pytest.raises(InvalidInput, match="top_k must be from 1 to 3"):
            gaps.encode("input", outputs, False, Parameters(top_k=wrong))


def test_questions() -> None:
    questions = task("question-answering", QUESTION, ANSWERS)
    pair = {"question": "Where?", "context": "Here."}
    assert questions.decode("input", pair).single
    several = questions.decode("input", [pair, pair])
    assert (several.single, several.tensors["context"].tolist()) == (False, ["Here."] * 2)
    assert questions.decode("instances", [pair]).tensors["question"].tolist() == ["Where?"]
    assert len(questions.decode("inputs", {"question": ["a"], "context": ["b"]}).tensors) == 2
    outputs = {
        "answer": np.array(["Here"], dtype=object),
        "score": np.ones(1),
        "start": np.zeros(1, int),
        "end": np.full(1, 4),
    }
    answer = {"answer": "Here", "score": 1.0, "start": 0, "end": 4}
    assert questions.encode("input", outputs, True, Parameters()) == answer
    assert questions.encode("input", outputs, False, Parameters()) == [answer]
    assert questions.example({name: np.array([text], dtype=object) for name, text in pair.items()}) == pair


@pytest.mark.parametrize(
    ("form", "value", "field"),
    [
        ("input", "text", "input"),
        ("input", {"question": "a"}, "input"),
        ("input", [{"question": "a", "context": 1}], "input[0].context"),
        ("input", [], "input"),
        ("instances", {"question": "a", "context": "b"}, "instances"),
    ],
)
def test_questions_that_make_no_sense(form: Any, value: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        task("question-answering", QUESTION, ANSWERS).decode(form, value)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["token-classification", "fill-mask", "question-answering"])
def test_models_that_they_do_not_fit(name: str) -> None:
    inputs = QUESTION if name == "question-answering" else (TEXT,)
    with pytest.raises(InvalidOption, match=f"The task {name} needs a model with"):
        task(name, inputs, specs("other"))
