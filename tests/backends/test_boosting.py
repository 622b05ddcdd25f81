"""XGBoost, LightGBM and CatBoost in their own formats: their answers are those of the libraries themselves."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from backends.base import Device, InvalidInput, InvalidOption, ModelFileError, ModelInfo
from backends.boosting import CatBoostBackend, LightGbmBackend, XgboostBackend
from backends.boosting.backend import BoostingOptions
from backends.boosting.columns import MISSING_TEXT
from engine.model_options import ModelOptions
from engine.tasks.tabular import TabularTask
from tests import models_boosting

CPU = Device("cpu", threads=2)
BACKENDS: dict[str, Any] = {"xgboost": XgboostBackend, "lightgbm": LightGbmBackend, "catboost": CatBoostBackend}
IRIS = load_iris(return_X_y=True)[0][::10]
DIABETES = load_diabetes(return_X_y=True)[0][::30]
CANCER = load_breast_cancer(return_X_y=True)[0][::30]
MIXED = [("length", "float64"), ("shade", "string"), ("garden", "string")]
FLOWERS = models_boosting.flowers().drop(columns="kind")[::10]


def load(name: str, suffix: str = "") -> tuple[Any, ModelInfo]:
    backend = BACKENDS[name.partition("_")[0]]()
    return backend, backend.load(models_boosting.path(name, suffix), CPU, BoostingOptions())


def flowers() -> dict[str, Any]:
    return {
        "length": FLOWERS["length"].to_numpy(),
        "shade": FLOWERS["shade"].to_numpy(object),
        "garden": FLOWERS["garden"].to_numpy(object),
    }


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".ubj"])
def test_xgboost_of_several_classes(suffix: str) -> None:
    backend, info = load("xgboost_iris", suffix)
    wanted = xgboost.XGBClassifier()
    wanted.load_model(models_boosting.path("xgboost_iris", suffix))
    answer = backend.predict({"input": IRIS})
    np.testing.assert_array_equal(answer["probabilities"], wanted.predict_proba(IRIS))
    np.testing.assert_array_equal(answer["label"], wanted.predict(IRIS))
    assert info.labels == ("0", "1", "2")
    assert info.metadata == {"objective": "multi:softprob"}
    assert info.runtime.startswith("xgboost ")


def test_xgboost_of_two_classes_knows_its_columns() -> None:
    backend, info = load("xgboost_cancer")
    wanted = xgboost.XGBClassifier()
    wanted.load_model(models_boosting.path("xgboost_cancer"))
    frame = load_breast_cancer(as_frame=True).data[::30]
    answer = backend.predict({"input": frame.to_numpy()})
    np.testing.assert_allclose(answer["probabilities"], wanted.predict_proba(frame), atol=1e-6)
    np.testing.assert_array_equal(answer["label"], wanted.predict(frame))
    assert json.loads(info.metadata["columns"]) == list(frame.columns)


@pytest.mark.parametrize(
    ("objective", "more", "outputs"),
    [
        ("binary:hinge", {}, ["label"]),
        ("binary:logitraw", {}, ["label", "scores"]),
        ("multi:softmax", {"num_class": 3}, ["label"]),
        ("count:poisson", {}, ["output"]),
        ("reg:quantileerror", {"quantile_alpha": [0.1, 0.9]}, ["output"]),
    ],
)
def test_xgboost_of_other_objectives(objective: str, more: dict[str, Any], outputs: list[str], tmp_path: Path) -> None:
    features, target = load_iris(return_X_y=True)
    target = target if "multi" in objective else (target > 0).astype(int)
    booster = xgboost.train({"objective": objective, "nthread": 1, **more}, xgboost.DMatrix(features, target), 3)
    booster.save_model(tmp_path / "m.ubj")
    backend = XgboostBackend()
    info = backend.load(tmp_path / "m.ubj", CPU, BoostingOptions())
    answer = backend.predict({"input": IRIS})
    assert [spec.name for spec in info.outputs] == list(answer) == outputs
    wanted = booster.predict(xgboost.DMatrix(IRIS))
    np.testing.assert_array_equal(answer[outputs[-1]], wanted)
    if outputs == ["label", "scores"]:
        np.testing.assert_array_equal(answer["label"], wanted > 0)
    if "quantile" in objective:
        assert answer["output"].shape == (len(IRIS), 2)


def categories() -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """Categories that were texts and numbers, and one of no use, whose columns stand between numbers; and an answer."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "n": random.uniform(size=200),
            "text": pd.Categorical(random.choice(["a", "b", "c"], 200)),
            "number": pd.Categorical(random.choice([10, 20, 30], 200)),
            "same": pd.Categorical(["s"] * 200),
        }
    )
    return frame, ((frame["text"] == "b") ^ (frame["number"] == 20)).to_numpy(np.int64)


def cells(frame: pd.DataFrame, *texts: str) -> dict[str, Any]:
    """The columns as a request has them."""
    return {n: frame[n].to_numpy(object if n in texts else np.float64) for n in frame}


def test_xgboost_takes_categories_as_they_were_in_training(tmp_path: Path) -> None:
    frame, target = categories()
    model = xgboost.XGBClassifier(n_estimators=8, enable_categorical=True, n_jobs=1).fit(frame, target)
    model.save_model(tmp_path / "m.ubj")
    backend = XgboostBackend()
    info = backend.load(tmp_path / "m.ubj", CPU, BoostingOptions())
    assert [spec.dtype for spec in info.inputs] == ["float64", "string", "float64", "string"]
    assert not info.notes
    answer = backend.predict(cells(frame, "text", "same"))
    np.testing.assert_array_equal(answer["probabilities"][:, 1], model.predict_proba(frame)[:, 1])
    np.testing.assert_array_equal(answer["label"], target)
    odd = backend.predict(cells(frame, "text", "same") | {"number": np.full(200, 15.0)})
    gaps = backend.predict(cells(frame, "text", "same") | {"number": np.full(200, np.nan)})
    np.testing.assert_array_equal(odd["probabilities"], gaps["probabilities"])


def test_xgboost_of_categories_that_its_file_cuts_wrongly_says_how_they_are_given(tmp_path: Path) -> None:
    frame, target = categories()
    frame["text"] = frame["text"].cat.rename_categories({"a": "ä"})
    model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True, n_jobs=1).fit(frame, target)
    model.save_model(tmp_path / "m.json")
    info = XgboostBackend().load(tmp_path / "m.json", CPU, BoostingOptions())
    assert [spec.dtype for spec in info.inputs] == ["float64", "float64", "float64", "string"]
    assert info.notes == ("The categories of text are given by their numbers: 0 for the first, and so on.",)


def test_xgboost_of_a_file_without_its_categories_says_how_they_are_given(tmp_path: Path) -> None:
    frame, target = categories()
    codes = frame.assign(**{name: frame[name].cat.codes for name in ("text", "number", "same")})
    data = xgboost.DMatrix(codes.to_numpy(), target, feature_names=list(frame), feature_types=["float", "c", "c", "c"])
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 3)
    booster.save_model(tmp_path / "m.json")
    backend = XgboostBackend()
    info = backend.load(tmp_path / "m.json", CPU, BoostingOptions())
    assert info.notes == (
        "The categories of text, number, same are given by their numbers: 0 for the first, and so on.",
    )
    answer = backend.predict({"input": codes.to_numpy(np.float64)})
    np.testing.assert_array_equal(answer["probabilities"][:, 1], booster.predict(data))


@pytest.mark.parametrize("suffix", [".json", ".ubj"])
def test_xgboost_that_stopped_early_answers_as_the_library_does(suffix: str, tmp_path: Path) -> None:
    features, target = load_breast_cancer(return_X_y=True)
    model = xgboost.XGBClassifier(n_estimators=100, early_stopping_rounds=3, learning_rate=0.9, n_jobs=1)
    model.fit(features[::2], target[::2], eval_set=[(features[1::2], target[1::2])], verbose=False)
    rounds = model.get_booster().num_boosted_rounds()
    assert model.best_iteration + 1 < rounds
    model.save_model(tmp_path / f"m{suffix}")
    backend = XgboostBackend()
    info = backend.load(tmp_path / f"m{suffix}", CPU, BoostingOptions())
    answer = backend.predict({"input": CANCER})
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(CANCER), atol=1e-7)
    assert f"the first {model.best_iteration + 1} of {rounds} rounds" in info.notes[0]

    model.get_booster().set_attr(scikit_learn=None)  # as xgboost.train leaves it, whose predict uses all rounds
    model.get_booster().save_model(tmp_path / f"n{suffix}")
    info = backend.load(tmp_path / f"n{suffix}", CPU, BoostingOptions())
    answer = backend.predict({"input": CANCER})
    wanted = model.get_booster().predict(xgboost.DMatrix(CANCER))
    np.testing.assert_allclose(answer["probabilities"][:, 1], wanted, atol=1e-7)
    assert f"all {rounds} rounds" in info.notes[0]


def test_xgboost_of_lines_instead_of_trees(tmp_path: Path) -> None:
    features, target = load_iris(return_X_y=True)
    model = xgboost.XGBClassifier(booster="gblinear", n_estimators=5, n_jobs=1).fit(features, target)
    model.save_model(tmp_path / "m.json")
    backend = XgboostBackend()
    backend.load(tmp_path / "m.json", CPU, BoostingOptions())
    np.testing.assert_array_equal(backend.predict({"input": IRIS})["probabilities"], model.predict_proba(IRIS))


def test_lightgbm_of_several_classes() -> None:
    backend, info = load("lightgbm_iris")
    wanted = lightgbm.Booster(model_file=models_boosting.path("lightgbm_iris")).predict(IRIS)
    answer = backend.predict({"input": IRIS})
    np.testing.assert_array_equal(answer["probabilities"], wanted)
    np.testing.assert_array_equal(answer["label"], wanted.argmax(axis=1))
    assert info.labels == ("0", "1", "2")
    assert "columns" not in info.metadata, "Column_0 … are no names"


def test_lightgbm_of_two_classes() -> None:
    backend, info = load("lightgbm_cancer")
    wanted = lightgbm.Booster(model_file=models_boosting.path("lightgbm_cancer")).predict(CANCER)
    answer = backend.predict({"input": CANCER})
    np.testing.assert_array_equal(answer["probabilities"][:, 1], wanted)
    np.testing.assert_array_equal(answer["label"], wanted > 0.5)
    assert info.labels == ("0", "1")


def test_lightgbm_takes_categories_as_the_texts_that_they_are() -> None:
    backend, info = load("lightgbm_flowers")
    assert [(s.name, s.dtype) for s in info.inputs] == [
        ("length", "float64"),
        ("shade", "string"),
        ("garden", "string"),
    ]
    whole = models_boosting.flowers().drop(columns="kind").astype({"shade": "category", "garden": "category"})
    wanted = lightgbm.Booster(model_file=models_boosting.path("lightgbm_flowers")).predict(whole)[::10]
    np.testing.assert_array_equal(backend.predict(flowers())["probabilities"], wanted)
    odd = flowers() | {"shade": np.array([MISSING_TEXT] * len(FLOWERS), object)}
    unseen = flowers() | {"shade": np.array(["purple"] * len(FLOWERS), object)}
    np.testing.assert_array_equal(backend.predict(odd)["probabilities"], backend.predict(unseen)["probabilities"])


def test_lightgbm_takes_categories_that_were_numbers_or_of_no_use(tmp_path: Path) -> None:
    frame, target = categories()
    model = lightgbm.LGBMClassifier(n_estimators=8, verbose=-1, n_jobs=1, min_child_samples=2).fit(frame, target)
    model.booster_.save_model(tmp_path / "m.txt")
    backend = LightGbmBackend()
    info = backend.load(tmp_path / "m.txt", CPU, BoostingOptions())
    assert [spec.dtype for spec in info.inputs] == ["float64", "string", "float64", "string"]
    assert not info.notes
    answer = backend.predict(cells(frame, "text", "same"))
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(frame))
    np.testing.assert_array_equal(answer["label"], target)


def test_lightgbm_says_when_its_file_does_not_tell_where_its_categories_are(tmp_path: Path) -> None:
    frame, target = categories()
    frame["number"] = frame["number"].cat.as_ordered()  # which is no category to LightGBM, but is in the file
    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(frame, target)
    model.booster_.save_model(tmp_path / "m.txt")
    backend = LightGbmBackend()
    info = backend.load(tmp_path / "m.txt", CPU, BoostingOptions())
    assert "[a, b, c] and [10, 20, 30] and [s]" in info.notes[0]
    codes = frame.assign(**{name: frame[name].cat.codes for name in ("text", "number", "same")})
    answer = backend.predict({"input": codes.to_numpy(np.float64)})
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(frame))


def test_catboost_of_several_classes_has_their_names() -> None:
    backend, info = load("catboost_iris")
    wanted = catboost.CatBoostClassifier().load_model(str(models_boosting.path("catboost_iris")))
    answer = backend.predict({"input": IRIS})
    np.testing.assert_array_equal(answer["probabilities"], wanted.predict_proba(IRIS))
    np.testing.assert_array_equal(answer["label"], wanted.predict(IRIS)[:, 0])
    assert info.labels == ("setosa", "versicolor", "virginica")
    assert "columns" not in info.metadata, "0, 1, 2 … are no names"


def test_catboost_takes_categories_as_the_texts_that_they_are() -> None:
    backend, info = load("catboost_flowers")
    assert [(s.name, s.dtype) for s in info.inputs] == [
        ("length", "float64"),
        ("shade", "string"),
        ("garden", "string"),
    ]
    wanted = catboost.CatBoostClassifier().load_model(str(models_boosting.path("catboost_flowers")))
    np.testing.assert_allclose(backend.predict(flowers())["probabilities"], wanted.predict_proba(FLOWERS))
    gaps = flowers() | {"shade": np.array([MISSING_TEXT] * len(FLOWERS), object)}
    frame = FLOWERS.assign(shade="nan")
    np.testing.assert_allclose(backend.predict(gaps)["probabilities"], wanted.predict_proba(frame))


def test_catboost_takes_columns_of_texts() -> None:
    backend, info = load("catboost_reviews")
    assert [(s.name, s.dtype) for s in info.inputs] == [("text", "string"), ("stars", "float64"), ("town", "string")]
    wanted = catboost.CatBoostClassifier().load_model(str(models_boosting.path("catboost_reviews")))
    frame, kinds = models_boosting.reviews()
    task = TabularTask(info, ModelOptions())
    answer = backend.predict(task.decode("input", frame.to_dict("records")).tensors)
    np.testing.assert_allclose(answer["probabilities"], wanted.predict_proba(frame))
    assert answer["label"].tolist() == kinds
    other = frame.assign(text="bad and slow food")
    changed = backend.predict(task.decode("input", other.to_dict("records")).tensors)["probabilities"]
    np.testing.assert_allclose(changed, wanted.predict_proba(other))
    assert not np.allclose(changed, answer["probabilities"])
    rows = task.decode("input", [{"text": None, "stars": 3, "town": None}]).tensors
    with pytest.raises(InvalidInput, match="The column 'text' holds texts, of which none may be missing"):
        backend.predict(rows)


def test_catboost_takes_integers_that_were_categories(tmp_path: Path) -> None:
    frame, target = categories()
    frame = frame.astype({"text": str, "number": int, "same": str})
    model = catboost.CatBoostClassifier(
        iterations=5, cat_features=["text", "number", "same"], **models_boosting.QUIET
    ).fit(frame, target)
    model.save_model(str(tmp_path / "m.cbm"))
    backend = CatBoostBackend()
    info = backend.load(tmp_path / "m.cbm", CPU, BoostingOptions())
    task = TabularTask(info, ModelOptions())
    for number in (int, str):
        rows = frame.astype({"number": number}).to_dict("records")
        answer = backend.predict(task.decode("input", rows).tensors)
        np.testing.assert_allclose(answer["probabilities"], model.predict_proba(frame))
    with pytest.raises(InvalidInput, match=r"input\[0\]\.number must be text"):
        task.decode("input", [{**rows[0], "number": 1.5}])


@pytest.mark.parametrize("name", ["xgboost_diabetes", "lightgbm_diabetes", "catboost_diabetes", "catboost_counts"])
def test_numbers(name: str) -> None:
    file = str(models_boosting.path(name))
    wanted = {
        "xgboost": lambda: xgboost.Booster(model_file=file).predict(xgboost.DMatrix(DIABETES)),
        "lightgbm": lambda: lightgbm.Booster(model_file=file).predict(DIABETES),
        "catboost": lambda: catboost.CatBoostRegressor().load_model(file).predict(DIABETES),
    }[name.partition("_")[0]]()
    backend, info = load(name)
    np.testing.assert_allclose(backend.predict({"input": DIABETES})["output"], wanted)
    assert info.labels is None


def test_missing_numbers() -> None:
    backend, _ = load("xgboost_iris")
    gaps = IRIS.copy()
    gaps[:, 2] = np.nan
    wanted = xgboost.XGBClassifier()
    wanted.load_model(models_boosting.path("xgboost_iris"))
    np.testing.assert_array_equal(backend.predict({"input": gaps})["probabilities"], wanted.predict_proba(gaps))


# --- files that are not as they should be ----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_that_make_no_sense(threads: int) -> None:
    with pytest.raises(InvalidOption, match="threads"):
        XgboostBackend().load(models_boosting.path("xgboost_iris"), CPU, BoostingOptions(threads=threads))


@pytest.mark.parametrize(
    ("name", "suffix", "seeds"),
    [
        ("xgboost_iris", ".ubj", range(4)),
        ("xgboost_iris", ".json", range(2)),
        ("lightgbm_iris", ".txt", (0, 5, 37, 41)),
        ("catboost_flowers", ".cbm", (0, 1, 24, 100)),
    ],
)
def test_flipped_bits_end_no_process(name: str, suffix: str, seeds: Iterable[int], tmp_path: Path) -> None:
    """It is refused in a sentence, or a model that computes something else."""
    file = tmp_path / f"m{suffix}"
    refused = 0
    for seed in seeds:
        file.write_bytes(flipped(models_boosting.path(name, suffix).read_bytes(), random.Random(seed)))
        backend = BACKENDS[name.partition("_")[0]]()
        try:
            backend.load(file, CPU, BoostingOptions())
            backend.predict(backend.example())
        except ModelFileError as e:
            refused += 1
            assert file.name in e.message
            assert e.message.endswith(".")
    assert refused


@pytest.mark.parametrize(
    ("library", "name", "suffix", "whole", "damaged"),
    [
        ("XGBoost", "xgboost_iris", ".json", rb'"left_children":\[1', b'"left_children":[99999999'),
        ("LightGBM", "lightgbm_iris", ".txt", rb"internal_weight=\d", b"internal_weight=x"),
        ("CatBoost", "catboost_flowers", ".cbm", rb"CBM1.", b"CBM1T"),  # the size of what follows
    ],
)
def test_files_on_which_the_library_ends_the_process(
    library: str, name: str, suffix: str, whole: bytes, damaged: bytes, tmp_path: Path
) -> None:
    content, count = re.subn(whole, damaged, models_boosting.path(name, suffix).read_bytes(), count=1, flags=re.DOTALL)
    assert count
    file = tmp_path / f"m{suffix}"
    file.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        BACKENDS[library.lower()]().load(file, CPU, BoostingOptions())
    assert caught.value.message == f"{file} is damaged: it crashes {library}. Save it again, or copy it again."


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Three bits of `data` flipped."""
    damaged = bytearray(data)
    for _ in range(3):
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text('{"learner": []}')
    with pytest.raises(ModelFileError, match=r"m\.json"):
        XgboostBackend().load(file, CPU, BoostingOptions())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("left_child=1", "left_child=9"),
        ("num_leaves=", "num_leaves=1"),
        ("tree_sizes=", "tree_sizes=1"),
        ("\nend of", "\nof"),
    ],
)
def test_lightgbm_files_on_which_the_library_would_end_the_process(before: str, after: str, tmp_path: Path) -> None:
    text = models_boosting.path("lightgbm_iris").read_text()
    assert before in text
    (tmp_path / "m.txt").write_text(text.replace(before, after, 1))
    with pytest.raises(ModelFileError, match=r"m\.txt .* truncated or corrupt"):
        LightGbmBackend().load(tmp_path / "m.txt", CPU, BoostingOptions())
