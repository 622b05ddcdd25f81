"""Tests of the tabular task, over models that were really trained."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from backends.base import Device, InvalidInput, InvalidOption, ModelInfo, TensorSpec
from backends.sklearn import SklearnBackend
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters
from engine.tasks.tabular import TabularTask
from tests import models_sklearn

NAMES = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
SETOSA = [5.1, 3.5, 1.4, 0.2]
VIRGINICA = [6.3, 3.3, 6.0, 2.5]


@cache
def loaded(name: str) -> tuple[SklearnBackend, ModelInfo]:
    backend = SklearnBackend()
    return backend, backend.load(models_sklearn.path(name), Device("cpu"), SklearnBackend.Options())


def task(name: str, **options: Any) -> TabularTask:
    return TabularTask(loaded(name)[1], ModelOptions(**options))


def answer(name: str, value: Any, form: Any = "input", top_k: int | None = None, **options: Any) -> Any:
    """The whole way of a request: decoded, computed, encoded. The fast ways must come to the same."""
    asked, parameters = task(name, **options), Parameters(top_k=top_k)
    tensors, single, _ = asked.decode(form, value)
    fast = asked.decode_json(form, json.dumps(value).encode())
    assert fast.single == single
    assert fast.tensors.keys() == tensors.keys()
    for key, array in tensors.items():
        np.testing.assert_array_equal(fast.tensors[key], array)
        assert fast.tensors[key].dtype == array.dtype
        assert fast.tensors[key].flags.c_contiguous
    outputs = loaded(name)[0].predict(tensors)
    found = asked.encode(form, outputs, single, parameters)
    assert json.loads(asked.answer_json(form, outputs, single, parameters, None)) == json.loads(json.dumps(found))
    return found


def refused(name: str, value: Any, form: Any = "input") -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        task(name).decode(form, value)
    with pytest.raises(InvalidInput) as fast:
        task(name).decode_json(form, json.dumps(value).encode())
    assert (fast.value.message, fast.value.field) == (caught.value.message, caught.value.field)
    return caught.value


def record(row: list[float]) -> dict[str, float]:
    return dict(zip(NAMES, row, strict=True))


def test_a_row_of_a_classifier() -> None:
    result = answer("iris_frame", SETOSA)
    assert result["label"] == "setosa"
    assert list(result["probabilities"]) == ["setosa", "versicolor", "virginica"]
    assert result["probabilities"]["setosa"] > 0.95
    assert sum(result["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "value",
    [
        [SETOSA, VIRGINICA],
        [record(SETOSA), record(VIRGINICA)],
        {name: [a, b] for name, a, b in zip(NAMES, SETOSA, VIRGINICA, strict=True)},
        {"input": [SETOSA, VIRGINICA]},
        [dict(reversed(record(SETOSA).items())), record(VIRGINICA)],
    ],
    ids=["rows", "records", "columns", "tensor", "any order"],
)
def test_every_way_to_write_two_rows(value: Any) -> None:
    results = answer("iris_frame", value)
    assert [result["label"] for result in results] == ["setosa", "virginica"]
    assert results[0] == answer("iris_frame", SETOSA)


def test_one_record_is_answered_like_one_row() -> None:
    assert answer("iris_frame", record(SETOSA)) == answer("iris_frame", SETOSA)


def test_a_batch_of_one_is_a_list() -> None:
    assert answer("iris_frame", [SETOSA]) == [answer("iris_frame", SETOSA)]


def test_top_k_keeps_the_greatest() -> None:
    result = answer("iris_frame", VIRGINICA, top_k=1)
    assert list(result["probabilities"]) == ["virginica"]


def test_labels_of_the_user_replace_the_classes() -> None:
    result = answer("iris", SETOSA, labels=("a", "b", "c"))
    assert result["label"] == "a"
    assert list(result["probabilities"]) == ["a", "b", "c"]


def test_labels_without_an_option_keep_their_type() -> None:
    assert answer("iris", SETOSA)["label"] == 0


def test_the_wrong_number_of_labels() -> None:
    with pytest.raises(InvalidOption, match="2 labels, but the model has 3 classes"):
        task("iris", labels=("a", "b"))


def test_tensorflow_servings_forms_have_its_answers() -> None:
    rows = answer("iris_frame", [SETOSA, VIRGINICA], form="instances")
    assert [row["label"] for row in rows] == ["setosa", "virginica"]
    assert len(rows[0]["probabilities"]) == 3
    columns = answer("iris_frame", {name: [value] for name, value in record(SETOSA).items()}, form="inputs")
    assert columns["label"] == ["setosa"]
    assert len(columns["probabilities"][0]) == 3
    assert answer("iris_frame", [record(SETOSA)], form="instances")[0]["label"] == "setosa"


def test_regressors_scores_and_clusters_are_answered_plainly() -> None:
    row = loaded("diabetes")[0].example()["input"][0].tolist()
    assert answer("diabetes", row) == pytest.approx(152.13, abs=0.1)
    assert answer("diabetes", [row, row]) == [answer("diabetes", row)] * 2
    assert answer("margin", SETOSA).keys() == {"label", "scores"}
    assert isinstance(answer("clusters", SETOSA), int)


def test_mixed_columns_and_missing_values() -> None:
    rows = [
        {"length": 6.0, "shade": "dark", "garden": "north"},
        {"length": 1.2, "shade": "light", "garden": "south"},
        {"length": None, "shade": None, "garden": "east"},
    ]
    results = answer("mixed", rows)
    assert [result["label"] for result in results] == [True, False, True]
    expected = models_sklearn.mixed().predict_proba(models_sklearn.pd.DataFrame(rows))[:, 1]
    np.testing.assert_allclose([result["probabilities"]["True"] for result in results], expected)
    assert answer("mixed", [6.0, "dark", "north"]) == results[0]


def test_a_null_is_nan_for_a_model_that_knows_missing_values() -> None:
    row = loaded("cancer")[0].example()["input"][0].tolist()
    assert 0 <= answer("cancer", [None, *row[1:]])["probabilities"]["benign"] <= 1
    (tensor,) = task("cancer").decode("input", [None, *row[1:]]).tensors.values()
    assert np.isnan(tensor[0, 0])


def test_a_null_for_a_model_that_does_not_is_the_clients_error() -> None:
    with pytest.raises(InvalidInput, match="NaN"):
        answer("iris", [None, 1, 1, 1])


def test_an_unknown_column_names_the_nearest() -> None:
    wrong = record(SETOSA)
    wrong["petal widht (cm)"] = wrong.pop("petal width (cm)")
    error = refused("iris_frame", wrong)
    assert error.message == "input has an unknown column 'petal widht (cm)'. Did you mean 'petal width (cm)'?"
    assert error.field == "input.petal widht (cm)"


def test_a_missing_column_names_the_row() -> None:
    short = record(SETOSA)
    del short["petal width (cm)"]
    error = refused("iris_frame", [record(SETOSA), short])
    assert error.message == "input[1] lacks the column 'petal width (cm)'; null stands for a missing value."
    assert error.field == "input[1].petal width (cm)"


@pytest.mark.parametrize(
    ("name", "value", "form", "field", "message"),
    [
        ("iris", [1, 2, 3], "input", "input", "must have 4 values; got 3"),
        ("iris_frame", [[1, 2, 3, 4], [1, 2, 3]], "input", "input[1]", "got 3"),
        ("iris", [[1, 2, 3, 4], 5], "input", "input[1]", "must be a row; got a number"),
        ("iris", [1, "2", 3, 4], "input", "input[1]", "must be a number or null; got a string"),
        ("iris", [[1, 2, 3, 4], [1, 2, [3], 4]], "input", "input[1][2]", "got a list"),
        ("iris_frame", record([1, 2, 3, 4]) | {NAMES[2]: "x"}, "input", f"input.{NAMES[2]}", "got a string"),
        ("iris_frame", [record(SETOSA), 5], "input", "input[1]", "must be a record, as the first is; got a number"),
        ("iris_frame", record([1, 2, 3, 4]) | {NAMES[0]: [1], NAMES[1]: [2, 2]}, "input", f"input.{NAMES[1]}", "same"),
        ("iris", {"a": 1}, "input", "input", "no column names, so it takes a row of 4 values, or a list of them"),
        ("iris", [], "input", "input", "has no rows"),
        ("iris", [[]], "input", "input[0]", "must have 4 values; got 0"),
        ("iris_frame", {name: [] for name in NAMES}, "input", f"input.{NAMES[0]}[0]", "no rows"),
        ("iris", "text", "input", "input", "must be a row of 4 values, or a list of them; got a string"),
        ("iris", None, "input", "input", "got null"),
        ("iris", SETOSA, "instances", "instances", "looks like one bare row"),
        ("iris", {"x": 1}, "instances", "instances", "must be a list of rows of 4 values; got an object"),
        ("iris", [1e300 * 10, 10**400, 1, 1], "input", "input[1]", "does not fit float64"),
        ("mixed", {"length": "long", "shade": "dark", "garden": "east"}, "input", "input.length", "must be a number"),
        ("mixed", [{"length": 1, "shade": 3, "garden": "east"}], "input", "input[0].shade", "must be text or null"),
    ],
)  # fmt: skip
def test_bad_input_names_its_place(name: str, value: Any, form: Any, field: str, message: str) -> None:
    error = refused(name, value, form)
    assert message in error.message
    assert error.field == field


def test_columns_of_other_dtypes_go_by_the_signature() -> None:
    specs = (TensorSpec("age", "int64", ("batch",)), TensorSpec("size", "float32", ("batch",)))
    other = TabularTask(ModelInfo(task="tabular", inputs=specs), ModelOptions())
    tensors = other.decode("input", [{"age": 3, "size": None}, {"age": 4.0, "size": 0.5}]).tensors
    assert tensors["age"].dtype == np.int64
    assert tensors["age"].tolist() == [3, 4]
    assert tensors["size"].dtype == np.float32
    assert np.isnan(tensors["size"][0])
    for row, message in (([None, 1], "got null"), ([3, 1e300], "does not fit float32"), ([2.5, 1], "must be int64")):
        with pytest.raises(InvalidInput, match=message):
            other.decode("input", row)


def test_a_missing_text_needs_a_backend_that_knows_it() -> None:
    specs = (TensorSpec("city", "string", ("batch",)),)
    other = TabularTask(ModelInfo(task="tabular", inputs=specs), ModelOptions())
    with pytest.raises(InvalidInput, match=r"input\.city must be text; got null"):
        other.decode("input", {"city": None})
    knows = TabularTask(ModelInfo(task="tabular", inputs=specs, metadata={"missing": "?"}), ModelOptions())
    assert knows.decode("input", {"city": None}).tensors["city"].tolist() == ["?"]


def test_a_matrix_of_any_width() -> None:
    other = TabularTask(ModelInfo(task="tabular", inputs=(TensorSpec("x", "float32", ("batch", "n")),)), ModelOptions())
    assert other.decode("input", [[1, 2], [3, None]]).tensors["x"].shape == (2, 2)
    with pytest.raises(InvalidInput, match="must have 2 values; got 1"):
        other.decode("input", [[1, 2], [3]])


def test_models_that_are_not_tabular() -> None:
    image = ModelInfo(task="tensor", inputs=(TensorSpec("x", "float32", ("batch", 3, 8, 8)),))
    for info in (image, ModelInfo(task="custom")):
        with pytest.raises(InvalidOption, match="tabular needs a model whose input is a matrix"):
            TabularTask(info, ModelOptions())


@pytest.mark.parametrize("name", ["iris", "iris_frame", "mixed", "cancer", "diabetes"])
def test_the_example_is_accepted(name: str) -> None:
    row = loaded(name)[0].example()
    value = task(name).example(row)
    assert isinstance(value, dict) == ("columns" in loaded(name)[1].metadata)
    tensors, single, _ = task(name).decode("input", value)
    assert single
    assert all(np.array_equal(tensors[key], row[key]) for key in row)
