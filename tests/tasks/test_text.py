"""Tests of text classification and of the ranking of labels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline

from backends.base import Device, InvalidInput, InvalidOption, ModelInfo, TensorSpec
from backends.sklearn import SklearnBackend
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters
from engine.tasks.labels import load_labels, probabilities, ranked, softmax
from engine.tasks.text import TextTask
from tests import models_sklearn

RUDE = "you are a stupid piece of shit"
POLITE = "thank you for the lovely flowers"


def load(path: Path) -> tuple[SklearnBackend, ModelInfo]:
    backend = SklearnBackend()
    return backend, backend.load(path, Device("cpu"), SklearnBackend.Options())


@cache
def profanity() -> tuple[SklearnBackend, ModelInfo]:
    return load(models_sklearn.path("profanity"))


def ask(model: tuple[SklearnBackend, ModelInfo], value: Any, form: Any = "input", **options: Any) -> Any:
    task = TextTask(model[1], ModelOptions(**options))
    tensors, single, _ = task.decode(form, value)
    return task.encode(form, model[0].predict(tensors), single, Parameters())


def test_a_text() -> None:
    best, other = ask(profanity(), RUDE)
    assert (best["label"], best["index"], other["label"], other["index"]) == ("1", 1, "0", 0)
    assert best["score"] > 0.9
    assert best["score"] + other["score"] == pytest.approx(1)


def test_several_texts_in_every_form() -> None:
    answers = ask(profanity(), [RUDE, POLITE], labels=("fine", "rude"))
    assert [answer[0]["label"] for answer in answers] == ["rude", "fine"]
    assert ask(profanity(), [RUDE, POLITE], form="instances", labels=("fine", "rude")) == answers
    assert ask(profanity(), {"text": [RUDE, POLITE]}, form="inputs", labels=("fine", "rude")) == answers
    assert ask(profanity(), [RUDE], labels=("fine", "rude")) == answers[:1]


def test_top_k_by_option_and_by_request() -> None:
    assert len(ask(profanity(), RUDE, top_k=1)) == 1
    task = TextTask(profanity()[1], ModelOptions(top_k=1))
    outputs = profanity()[0].predict(profanity()[0].example())
    assert len(task.encode("input", outputs, True, Parameters(top_k=2))) == 2
    with pytest.raises(InvalidInput, match="top_k must be at least 1; got 0") as caught:
        task.encode("input", outputs, True, Parameters(top_k=0))
    assert caught.value.field == "parameters.top_k"


def test_the_example_is_one_text() -> None:
    task = TextTask(profanity()[1], ModelOptions())
    value = task.example(profanity()[0].example())
    assert value == "This is an example."
    assert task.decode("input", value).single


def test_a_plain_text_body() -> None:
    task = TextTask(profanity()[1], ModelOptions())
    tensors, single, _ = task.decode_bytes(memoryview("grüß dich".encode()), "text/plain; charset=utf-8")
    assert (tensors["text"].tolist(), single) == (["grüß dich"], True)
    with pytest.raises(InvalidInput, match="not UTF-8"):
        task.decode_bytes(memoryview(b"\xff\xfe"), "text/plain")
    with pytest.raises(InvalidInput, match="image/png"):
        task.decode_bytes(memoryview(b"x"), "image/png")


@pytest.mark.parametrize("value", [3, None, [1], ["a", None], [["a"]], {"wrong": "a"}, []])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        TextTask(profanity()[1], ModelOptions()).decode("input", value)
    assert caught.value.field == "input"


TEXTS = ["good film", "nice story", "bad film", "awful story", "so so film", "mediocre story"]


@pytest.mark.parametrize(
    "moods", [["good", "good", "bad", "bad", "bad", "bad"], ["good", "good", "bad", "bad", "so", "so"]]
)
def test_the_scores_of_a_decision_function(tmp_path: Path, moods: list[str]) -> None:
    model = make_pipeline(TfidfVectorizer(), SGDClassifier(random_state=0)).fit(TEXTS, moods)
    loaded = load(models_sklearn.save(model, tmp_path / "moods.joblib"))
    answers = ask(loaded, TEXTS)
    assert [answer[0]["label"] for answer in answers] == model.predict(TEXTS).tolist() == moods
    assert {each["label"] for each in answers[0]} == set(moods)
    scores = model.decision_function(TEXTS[:1])[0]
    assert answers[0][0]["score"] == pytest.approx(np.max(scores) if np.ndim(scores) else abs(scores))
    (soft,) = ask(loaded, TEXTS[:1], softmax=True)
    assert sum(each["score"] for each in soft) == pytest.approx(1)


def test_a_model_that_gives_labels_alone() -> None:
    info = ModelInfo(
        task="text-classification",
        inputs=(TensorSpec("text", "string", ("batch",)),),
        outputs=(TensorSpec("label", "string", ("batch",)),),
        labels=("bad", "good"),
    )
    outputs = {"label": np.array(["good"], dtype=object)}
    answer = TextTask(info, ModelOptions()).encode("input", outputs, True, Parameters())
    assert answer == [{"label": "good", "index": 1, "score": None}]


def test_logits_of_other_backends_become_probabilities() -> None:
    info = ModelInfo(
        task="text-classification",
        inputs=(TensorSpec("text", "string", ("batch",)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
    )
    logits = np.array([[2.0, -1.0], [0.75, 0.25]], dtype=np.float32)
    answers = TextTask(info, ModelOptions()).encode("input", {"logits": logits}, False, Parameters())
    assert answers[0][0] == {"label": "0", "index": 0, "score": pytest.approx(1 / (1 + np.exp(-3)))}
    assert answers[1][0]["score"] == 0.75
    raw = TextTask(info, ModelOptions(softmax=False)).encode("input", {"logits": logits}, False, Parameters())
    assert raw[0][0]["score"] == 2.0


def test_models_that_take_no_text() -> None:
    with pytest.raises(InvalidOption, match="one input, a list of strings"):
        TextTask(load(models_sklearn.path("iris"))[1], ModelOptions())


def test_ranked_breaks_ties_by_index_and_puts_nan_last() -> None:
    rows = ranked(np.array([0.2, np.nan, 0.4, 0.4, 0.0]), None, 10)
    assert [row["index"] for row in rows] == [2, 3, 0, 4, 1]
    assert [row["label"] for row in rows] == ["2", "3", "0", "4", "1"]
    assert [row["label"] for row in ranked(np.array([0.1, 0.9]), ("a", "b"), 1)] == ["b"]


def test_softmax_of_large_numbers() -> None:
    assert softmax(np.array([[1e4, 1e4]], dtype=np.float32)).tolist() == [[0.5, 0.5]]


def test_probabilities_are_found_row_by_row() -> None:
    mixed = np.array([[0.25, 0.75], [3.0, 1.0]])
    np.testing.assert_array_equal(probabilities(mixed, None)[0], mixed[0])
    np.testing.assert_array_equal(probabilities(mixed, None)[1], softmax(mixed[1]))
    np.testing.assert_array_equal(probabilities(mixed, True), softmax(mixed))


def test_labels_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("cat\n dog \n\n", encoding="utf-8")
    assert load_labels(str(file), ("x", "y"), 2) == ("cat", "dog")
    assert load_labels(str(file), None, None) == ("cat", "dog")
    with pytest.raises(InvalidOption, match=r"labels\.txt holds 2 labels, but the model has 3 classes"):
        load_labels(str(file), None, 3)
    with pytest.raises(InvalidOption, match="Cannot read the labels file"):
        load_labels(str(tmp_path / "none.txt"), None, 3)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidOption, match="UTF-8"):
        load_labels(str(file), None, 3)


def test_labels_of_the_model_are_used_when_they_fit() -> None:
    assert load_labels(None, ("a", "b"), 2) == ("a", "b")
    assert load_labels(None, ("a", "b"), None) == ("a", "b")
    assert load_labels(None, ("a", "b"), 3) is None
    assert load_labels(None, None, 3) is None
