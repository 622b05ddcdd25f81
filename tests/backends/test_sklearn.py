"""Tests of the sklearn backend: formats, what is found by probing, answers equal to scikit-learn's own, errors."""

from __future__ import annotations

import contextlib
import gzip
import json
import pickle
import random
import subprocess
import sys
import threading
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import sklearn
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_info

from backends.base import BackendError, Device, InvalidInput, InvalidOption, ModelFileError, ModelInfo
from backends.sklearn import SklearnBackend
from backends.sklearn.inputs import MISSING_TEXT
from engine.model_options import ModelOptions
from engine.tasks.tabular import TabularTask
from tests import models_boosting, models_sklearn

X, Y = load_iris(return_X_y=True)
FRAME = load_iris(as_frame=True).data
WORDS = ["good film", "nice story", "bad film", "awful story"]
MOODS = ["good", "good", "bad", "bad"]


def load(path: Path, *, trusted: bool = False, cores: int = 2, **options: Any) -> tuple[SklearnBackend, ModelInfo]:
    backend = SklearnBackend()
    backend.trusted = trusted
    return backend, backend.load(path, Device("cpu", threads=cores), SklearnBackend.Options(**options))


def serve(model: Any, folder: Path, suffix: str = ".joblib", **options: Any) -> tuple[SklearnBackend, ModelInfo]:
    return load(models_sklearn.save(model, folder / f"model{suffix}"), **options)


def refused(path: Path, **options: Any) -> BackendError:
    with pytest.raises(BackendError) as caught:
        load(path, **options)
    return caught.value


def shapes(specs: tuple[Any, ...]) -> dict[str, tuple[str, tuple[Any, ...]]]:
    return {spec.name: (spec.dtype, spec.shape) for spec in specs}


# --- formats --------------------------------------------------------------------------------------------------------


def pickled(protocol: int) -> Any:
    return lambda model, file: file.write_bytes(pickle.dumps(model, protocol=protocol))


def dumped(compress: Any) -> Any:
    return lambda model, file: joblib.dump(model, file, compress=compress)


FORMATS = {
    "joblib": (dumped(0), 0.95),
    "joblib zlib": (dumped(("zlib", 3)), 0.95),
    "joblib gzip": (dumped(("gzip", 3)), 0.95),
    "joblib bz2": (dumped(("bz2", 3)), 0.95),
    "joblib xz": (dumped(("xz", 3)), 0.95),
    "joblib lzma": (dumped(("lzma", 3)), 0.95),
    "pickle 2": (pickled(2), 0.95),
    "pickle 4": (pickled(4), 0.95),
    "pickle 5": (pickled(5), 0.95),
}


@pytest.mark.parametrize("suffix", [".joblib", ".bin"])
@pytest.mark.parametrize("form", FORMATS)
def test_pickles_are_recognised_by_their_content(tmp_path: Path, form: str, suffix: str) -> None:
    write, confidence = FORMATS[form]
    file = tmp_path / f"m{suffix}"
    write(models_sklearn.iris(), file)
    match = SklearnBackend.sniff(file)
    assert match.confidence == confidence
    assert match.runs_code == f"m{suffix} is a pickle: loading it runs whatever code its author put in."
    backend, _ = load(file)
    np.testing.assert_array_equal(backend.predict({"input": X})["label"], models_sklearn.iris().predict(X))


def test_old_pickles_are_recognised_by_their_name(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(models_sklearn.iris(), protocol=0))
    assert SklearnBackend.sniff(tmp_path / "m.pkl").confidence == 0.5
    assert load(tmp_path / "m.pkl")[1].labels == ("0", "1", "2")


def test_skops_is_safe() -> None:
    file = models_sklearn.path("iris_frame", ".skops")
    match = SklearnBackend.sniff(file)
    assert (match.confidence, match.runs_code) == (0.95, None)
    backend, info = load(file)
    assert info.labels == ("setosa", "versicolor", "virginica")
    np.testing.assert_array_equal(backend.predict({"input": X})["label"], models_sklearn.iris_frame().predict(FRAME))


def test_untrusted_types_in_skops_are_listed_and_need_trust() -> None:
    file = models_sklearn.path("cancer", ".skops")
    error = refused(file)
    assert error.code == "untrusted_model"
    assert "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor" in error.message
    assert "--trust" in error.message
    assert load(file, trusted=True)[1].labels == ("benign", "malignant")


def test_other_content(tmp_path: Path) -> None:
    samples = {
        "list.dat": (pickle.dumps([1, 2]), 0.6),
        "list.pkl": (pickle.dumps([1, 2]), 0.9),
        "torch.pt": (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 0.0),
        "text.txt": (b"hello", 0.0),
        "zlib.dat": (b"\x78\x9cnonsense", 0.0),
        "x.zip": (b"PK\x03\x04", 0.0),
    }
    for name, (content, confidence) in samples.items():
        (tmp_path / name).write_bytes(content)
        assert SklearnBackend.sniff(tmp_path / name).confidence == confidence, name
    assert SklearnBackend.sniff(tmp_path).confidence == 0
    assert SklearnBackend.sniff(tmp_path / "missing.joblib").confidence == 0


def test_what_would_be_unpickled_is_never_called_safe(tmp_path: Path) -> None:
    for name in ("a.bin", "a.joblib", "a.skops"):
        (tmp_path / name).write_bytes(pickle.dumps([1], protocol=0))
        match = SklearnBackend.sniff(tmp_path / name)
        assert match.runs_code or match.confidence == 0
        if not match.confidence:
            assert "it is not a pickle, joblib or skops file" in refused(tmp_path / name).message


# --- files that do not load -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".joblib", ".skops"])
def test_a_truncated_file(tmp_path: Path, suffix: str) -> None:
    data = models_sklearn.path("iris", suffix).read_bytes()
    file = tmp_path / f"half{suffix}"
    file.write_bytes(data[: len(data) // 2])
    error = refused(file)
    assert isinstance(error, ModelFileError)
    assert "truncated or corrupt" in error.message or "not a pickle, joblib or skops file" in error.message


@pytest.mark.parametrize("part", ["schema.json", "weights.npy"])
def test_an_archive_that_would_unpack_to_too_much(tmp_path: Path, part: str) -> None:
    file = tmp_path / "bomb.skops"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(part, bytes(100 << 20))
        if part != "schema.json":
            archive.writestr("schema.json", "{}")
    assert refused(file).message == f"bomb.skops is refused: {part} in it would unpack to 100 MiB from 99 KiB."
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("schema.json", bytes(65 << 20))
    assert refused(file).message == "bomb.skops is damaged or malicious: its schema.json is larger than 64 MiB."


def test_an_archive_that_would_unpack_elsewhere(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.skops", "w") as archive:
        archive.writestr("schema.json", "{}")
        archive.writestr("../up.npy", b"")
    assert "would unpack outside its folder" in refused(tmp_path / "m.skops").message


def test_flipped_bits_never_do_more_than_fail(tmp_path: Path) -> None:
    data = models_sklearn.path("iris", ".skops").read_bytes()
    pick = random.Random(0)
    file = tmp_path / "m.skops"
    for _ in range(60):
        damaged = bytearray(data)
        damaged[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
        file.write_bytes(damaged)
        if not SklearnBackend.sniff(file).confidence:
            continue
        with contextlib.suppress(BackendError):  # or it is a model that computes something else
            load(file)


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.joblib").message.endswith("there is no such file.")


def test_a_module_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_secret_features")
    exec("class Extra:\n    def predict(self, x): return x", module.__dict__)
    module.Extra.__module__ = "my_secret_features"
    monkeypatch.setitem(sys.modules, "my_secret_features", module)
    joblib.dump(module.Extra(), tmp_path / "m.joblib")
    monkeypatch.delitem(sys.modules, "my_secret_features")
    assert refused(tmp_path / "m.joblib").message == (
        "m.joblib needs the Python module 'my_secret_features', which is not installed beside the server; install the "
        "package that has it."
    )


def test_a_class_of_a_notebook_is_explained(tmp_path: Path) -> None:
    code = "import joblib, sys\nclass Mine:\n    def predict(self, x): return x\njoblib.dump(Mine(), sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path / "m.joblib"], check=True)
    message = refused(tmp_path / "m.joblib").message
    assert "saved by a script or notebook that defined its own class or function" in message
    assert "Mine" in message


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ({"model": 1}, "holds a dict, which is no estimator"),
        (LogisticRegression, "holds the class LogisticRegression, which is no estimator"),
        (LogisticRegression(), "holds a LogisticRegression that was never fitted; call fit, then save it."),
        (make_pipeline(StandardScaler(), Ridge()), "never fitted"),
        (DBSCAN().fit(X), "holds a DBSCAN, which is no estimator"),
    ],
)
def test_objects_that_are_no_models(tmp_path: Path, thing: Any, message: str) -> None:
    joblib.dump(thing, tmp_path / "m.joblib")
    assert message in refused(tmp_path / "m.joblib").message


def test_an_older_version_is_a_note(tmp_path: Path) -> None:
    data = pickle.dumps(make_pipeline(StandardScaler(), Ridge()).fit(X, Y))
    version = sklearn.__version__.encode()
    older = b"0" * (len(version) - 4) + b"0.99"
    (tmp_path / "m.pkl").write_bytes(data.replace(version, older))
    _, info = load(tmp_path / "m.pkl")
    assert info.notes == (
        f"The file was saved with scikit-learn {older.decode()} and is read by {sklearn.__version__}; its answers may "
        f"differ. Save it again, or install scikit-learn=={older.decode()}.",
    )


# --- what is found --------------------------------------------------------------------------------------------------


def test_the_signature_of_a_classifier() -> None:
    _, info = load(models_sklearn.path("iris"))
    assert info.task == "tabular"
    assert shapes(info.inputs) == {"input": ("float64", ("batch", 4))}
    assert shapes(info.outputs) == {"label": ("int64", ("batch",)), "probabilities": ("float64", ("batch", 3))}
    assert info.labels == ("0", "1", "2")
    assert info.metadata == {"estimator": "StandardScaler → LogisticRegression"}
    assert info.runtime == f"scikit-learn {sklearn.__version__}"
    assert info.batchable
    assert info.notes == ()


def test_the_signature_of_named_columns() -> None:
    _, info = load(models_sklearn.path("iris_frame"))
    assert shapes(info.inputs) == {"input": ("float64", ("batch", 4))}
    assert json.loads(info.metadata["columns"]) == list(FRAME.columns)
    assert shapes(info.outputs)["label"] == ("string", ("batch",))


def test_the_signature_of_mixed_columns() -> None:
    backend, info = load(models_sklearn.path("mixed"))
    assert shapes(info.inputs) == {
        "length": ("float64", ("batch",)),
        "shade": ("string", ("batch",)),
        "garden": ("string", ("batch",)),
    }
    example = {name: array.tolist() for name, array in backend.example().items()}
    assert example["shade"] == ["dark"]
    assert example["garden"][0] in ("north", "south", "east")
    assert example["length"] == [float(f"{models_sklearn.table()['length'].mean():.4g}")]


def test_the_signature_of_a_text_pipeline() -> None:
    backend, info = load(models_sklearn.path("profanity"))
    assert info.task == "text-classification"
    assert shapes(info.inputs) == {"text": ("string", ("batch",))}
    assert backend.predict({"text": np.array(["you shithead", "lovely day"], dtype=object)})["label"].tolist() == [1, 0]


# --- answers are scikit-learn's own ---------------------------------------------------------------------------------

MULTI = np.stack([Y, Y % 2], axis=1)
LABELS = (MULTI > 0).astype(int)

MATRIX_MODELS: dict[str, Any] = {
    "logistic": lambda: LogisticRegression(max_iter=500).fit(X, Y),
    "logistic binary": lambda: LogisticRegression().fit(X, Y > 0),
    "one-vs-rest liblinear": lambda: OneVsRestClassifier(LogisticRegression(solver="liblinear")).fit(X * 100, Y),
    "svc": lambda: SVC().fit(X, Y),
    "svc binary": lambda: SVC().fit(X, Y > 0),
    "forest": lambda: RandomForestClassifier(10, random_state=0).fit(X, Y.astype(str)),
    "tree": lambda: DecisionTreeClassifier(random_state=0).fit(X, Y.astype(float)),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=5).fit(X, Y),
    "knn": lambda: KNeighborsClassifier(n_jobs=-1).fit(X, Y),
    "bayes": lambda: GaussianNB().fit(X, Y),
    "mlp": lambda: MLPClassifier((4,), max_iter=3000, random_state=0).fit(X, Y),
    "calibrated": lambda: CalibratedClassifierCV(SVC()).fit(X, Y),
    "voting": lambda: VotingClassifier([("a", GaussianNB()), ("b", LogisticRegression(max_iter=500))]).fit(X, Y),
    "search": lambda: GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [1, 2]}).fit(X, Y),
    "linear": lambda: LinearRegression().fit(X, Y),
    "linear of two": lambda: LinearRegression().fit(X, MULTI),
    "target": lambda: TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1).fit(X, Y),
    "kmeans": lambda: KMeans(3, n_init=1, random_state=0).fit(X),
    "mixture": lambda: GaussianMixture(2, random_state=0).fit(X),
    "pca": lambda: make_pipeline(StandardScaler(), PCA(2)).fit(X),
    "identity": lambda: FunctionTransformer().fit(X),
}


@pytest.mark.parametrize("name", MATRIX_MODELS)
def test_answers_of_matrix_models(tmp_path: Path, name: str) -> None:
    model = MATRIX_MODELS[name]()
    backend, info = serve(model, tmp_path)
    result = backend.predict({"input": X})
    first = next(iter(result))
    expected = model.predict(X) if hasattr(model, "predict") else model.transform(X)
    np.testing.assert_array_equal(result[first], expected)
    for scores, method in (("probabilities", "predict_proba"), ("scores", "decision_function")):
        if scores in result:
            np.testing.assert_allclose(result[scores], getattr(model, method)(X))
    assert {s.name: (s.dtype, s.shape[1:]) for s in info.outputs} == {
        key: ("string" if array.dtype == object else array.dtype.name, array.shape[1:]) for key, array in result.items()
    }
    assert not any(np.shares_memory(array, X) for array in result.values())
    if info.labels:
        assert info.labels == tuple(str(c) for c in model.classes_.tolist())


def test_outputs_by_kind(tmp_path: Path) -> None:
    kinds = {
        "logistic": ["label", "probabilities"],
        "svc": ["label", "scores"],
        "linear": ["output"],
        "kmeans": ["label"],
        "mixture": ["label", "probabilities"],
        "pca": ["output"],
    }
    for name, outputs in kinds.items():
        _, info = serve(MATRIX_MODELS[name](), tmp_path)
        assert [spec.name for spec in info.outputs] == outputs, name
    backend, info = load(models_sklearn.path("outliers"))
    assert [spec.name for spec in info.outputs] == ["label", "scores"]
    assert set(backend.predict({"input": X})["label"].tolist()) == {1, -1}


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(5, random_state=0).fit(X, MULTI),
        MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, MULTI),
        KNeighborsClassifier().fit(X, MULTI),
    ],
    ids=["forest", "multi-output", "knn"],
)
def test_several_outputs(tmp_path: Path, model: Any) -> None:
    backend, info = serve(model, tmp_path)
    result = backend.predict({"input": X})
    assert list(result) == ["label", "probabilities_0", "probabilities_1"]
    np.testing.assert_array_equal(result["label"], model.predict(X))
    np.testing.assert_allclose(result["probabilities_1"], model.predict_proba(X)[1])
    assert info.labels is None


def test_several_labels_at_once(tmp_path: Path) -> None:
    model = OneVsRestClassifier(LogisticRegression()).fit(X, LABELS)
    backend, info = serve(model, tmp_path)
    np.testing.assert_array_equal(backend.predict({"input": X})["label"], model.predict(X))
    assert shapes(info.outputs)["label"][1] == ("batch", 2)
    assert info.labels is None


TEXT_MODELS: dict[str, Any] = {
    "count": lambda: make_pipeline(CountVectorizer(), LogisticRegression()),
    "hashing": lambda: make_pipeline(HashingVectorizer(n_features=64), LogisticRegression()),
    "union": lambda: make_pipeline(
        FeatureUnion([("w", TfidfVectorizer()), ("c", CountVectorizer(analyzer="char"))]), LogisticRegression()
    ),
    "lower first": lambda: make_pipeline(FunctionTransformer(), TfidfVectorizer(), LogisticRegression()),
    "search": lambda: GridSearchCV(make_pipeline(TfidfVectorizer(), LogisticRegression()), {}, cv=2),
    "nested": lambda: make_pipeline(make_pipeline(TfidfVectorizer()), LogisticRegression()),
    "inside one-vs-rest": lambda: OneVsRestClassifier(make_pipeline(TfidfVectorizer(), LogisticRegression())),
}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_models(tmp_path: Path, name: str) -> None:
    model = TEXT_MODELS[name]().fit(WORDS, MOODS)
    backend, info = serve(model, tmp_path)
    assert info.task == "text-classification"
    assert shapes(info.inputs) == {"text": ("string", ("batch",))}
    result = backend.predict({"text": np.array(WORDS, dtype=object)})
    assert result["label"].tolist() == model.predict(WORDS).tolist()
    np.testing.assert_allclose(result["probabilities"], model.predict_proba(WORDS))


def test_a_text_model_that_does_not_classify_is_a_tensor_model(tmp_path: Path) -> None:
    _, info = serve(make_pipeline(TfidfVectorizer(), Ridge()).fit(WORDS, [1.0, 1, 0, 0]), tmp_path)
    assert info.task == "tensor"
    backend, info = serve(TfidfVectorizer().fit(WORDS), tmp_path)
    assert info.task == "tensor"
    assert backend.predict({"text": np.array(WORDS, dtype=object)})["output"].shape == (4, 6)


def test_a_vectorizer_that_reads_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words")
    model = CountVectorizer(input="filename").fit([tmp_path / "a.txt"])
    error = refused(models_sklearn.save(model, tmp_path / "m.joblib"))
    assert "reads the files that its input names (input='filename'), which a server must not" in error.message


def test_a_vectorizer_of_dicts_is_refused(tmp_path: Path) -> None:
    model = make_pipeline(DictVectorizer(), LogisticRegression()).fit([{"a": 1}, {"a": 2}], [0, 1])
    assert "starts with a DictVectorizer" in refused(models_sklearn.save(model, tmp_path / "m.joblib")).message


# --- columns --------------------------------------------------------------------------------------------------------


def frame_columns(frame: pd.DataFrame, info: ModelInfo) -> dict[str, np.ndarray[Any, Any]]:
    """The rows of `frame` as the tensors of the signature."""
    if len(info.inputs) == 1:
        dtype = object if info.inputs[0].dtype == "string" else info.inputs[0].dtype
        return {info.inputs[0].name: frame.to_numpy(dtype=dtype)}
    return {
        spec.name: frame[spec.name].to_numpy(dtype=object if spec.dtype == "string" else spec.dtype, copy=True)
        for spec in info.inputs
    }


def text_frame() -> pd.DataFrame:
    return pd.DataFrame({"city": ["Rome", "Oslo", "Rome", "Bern"], "trade": ["baker", "smith", "smith", "baker"]})


def test_columns_by_name_of_numbers_only_are_one_matrix(tmp_path: Path) -> None:
    columns = make_column_transformer((StandardScaler(), [FRAME.columns[2]]), ("passthrough", [FRAME.columns[0]]))
    model = make_pipeline(columns, LogisticRegression()).fit(FRAME, Y)
    backend, info = serve(model, tmp_path)
    assert shapes(info.inputs) == {"input": ("float64", ("batch", 4))}
    np.testing.assert_allclose(backend.predict({"input": X})["probabilities"], model.predict_proba(FRAME))


def test_mixed_columns_with_missing_values() -> None:
    backend, info = load(models_sklearn.path("mixed"))
    frame = models_sklearn.table().drop(columns="blooms")
    tensors = frame_columns(frame, info)
    missing = frame["shade"].isna().to_numpy()
    assert missing.any()
    tensors["shade"][missing] = MISSING_TEXT
    np.testing.assert_allclose(
        backend.predict(tensors)["probabilities"], models_sklearn.mixed().predict_proba(frame), rtol=1e-12
    )


def test_text_beside_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [1.0, 2, 3, 4], "words": WORDS, "k": [1, 0, 1, 0]})
    columns = ColumnTransformer(
        [("t", TfidfVectorizer(), "words"), ("n", StandardScaler(), ["n"])], remainder="passthrough"
    )
    model = make_pipeline(columns, LogisticRegression()).fit(frame, MOODS)
    backend, info = serve(model, tmp_path)
    assert shapes(info.inputs) == {
        "n": ("float64", ("batch",)),
        "words": ("string", ("batch",)),
        "k": ("float64", ("batch",)),
    }
    np.testing.assert_allclose(backend.predict(frame_columns(frame, info))["probabilities"], model.predict_proba(frame))


def test_columns_of_text_only_are_one_matrix_of_strings(tmp_path: Path) -> None:
    frame = text_frame()
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, MOODS)
    backend, info = serve(model, tmp_path)
    assert shapes(info.inputs) == {"input": ("string", ("batch", 2))}
    assert json.loads(info.metadata["columns"]) == ["city", "trade"]
    np.testing.assert_allclose(backend.predict(frame_columns(frame, info))["probabilities"], model.predict_proba(frame))


def test_columns_without_names(tmp_path: Path) -> None:
    rows = np.array([["Rome", 1.5], ["Oslo", 2.5], ["Rome", 3.5], ["Bern", 0.5]], dtype=object)
    columns = make_column_transformer((OneHotEncoder(), [0]), (StandardScaler(), [1]))
    model = make_pipeline(columns, LogisticRegression()).fit(rows, MOODS)
    backend, info = serve(model, tmp_path)
    assert shapes(info.inputs) == {"x0": ("string", ("batch",)), "x1": ("float64", ("batch",))}
    result = backend.predict({"x0": rows[:, 0], "x1": rows[:, 1].astype(float)})
    np.testing.assert_allclose(result["probabilities"], model.predict_proba(rows))


def test_columns_inside_meta_estimators(tmp_path: Path) -> None:
    frame = pd.concat([text_frame()] * 5, ignore_index=True)
    pipeline = make_pipeline(OrdinalEncoder(), DecisionTreeClassifier(random_state=0))
    for model in (
        GridSearchCV(pipeline, {}, cv=2),
        CalibratedClassifierCV(pipeline, cv=2),
        VotingClassifier([("a", pipeline)], voting="soft"),
    ):
        model.fit(frame, MOODS * 5)
        backend, info = serve(model, tmp_path)
        assert info.inputs[0].dtype == "string", model
        assert backend.predict(frame_columns(frame, info))["label"].tolist() == model.predict(frame).tolist()


def test_categories_that_are_numbers_stay_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"year": [1990, 2000, 1990, 2010], "open": [True, False, True, True]})
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, MOODS)
    backend, info = serve(model, tmp_path)
    assert shapes(info.inputs) == {"input": ("float64", ("batch", 2))}
    np.testing.assert_allclose(
        backend.predict({"input": frame.to_numpy(dtype=float)})["probabilities"], model.predict_proba(frame)
    )


def test_boosted_trees_with_categories(tmp_path: Path) -> None:
    frame = pd.concat([text_frame()] * 10, ignore_index=True).assign(n=range(40))
    model = HistGradientBoostingClassifier(categorical_features=["city", "trade"], min_samples_leaf=2, max_iter=5)
    model.fit(frame, MOODS * 10)
    backend, info = serve(model, tmp_path)
    assert [spec.dtype for spec in info.inputs] == ["string", "string", "float64"]
    np.testing.assert_allclose(backend.predict(frame_columns(frame, info))["probabilities"], model.predict_proba(frame))


def test_pandas_output_between_steps(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).set_output(transform="pandas").fit(FRAME, Y)
    backend, _ = serve(model, tmp_path)
    np.testing.assert_allclose(backend.predict({"input": X})["probabilities"], model.predict_proba(FRAME))


def test_imputed_text_alone(tmp_path: Path) -> None:
    frame = text_frame()
    model = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(), LogisticRegression()).fit(
        frame, MOODS
    )
    backend, info = serve(model, tmp_path)
    assert info.inputs[0].dtype == "string"
    assert backend.predict({"input": np.array([[MISSING_TEXT, "smith"]], dtype=object)})["label"][0] in MOODS


# --- what probing cannot tell ---------------------------------------------------------------------------------------


def year_of(frame: Any) -> Any:
    """A step of the user's own, which no probing can see through."""
    return pd.DataFrame({"year": [int(day[:4]) for day in frame["day"]], "n": frame["n"]})


@pytest.fixture
def dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = types.ModuleType("steps_of_a_user")
    module.year_of = year_of  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "steps_of_a_user", module)
    monkeypatch.setattr(year_of, "__module__", "steps_of_a_user")
    frame = pd.DataFrame({"day": ["1990-01-01", "2001-05-05"], "n": [1.0, 2.0]})
    model = make_pipeline(FunctionTransformer(year_of), LogisticRegression()).fit(frame, [0, 1])
    return models_sklearn.save(model, tmp_path / "dates.joblib")


def categories() -> tuple[pd.DataFrame, pd.Series]:
    """Numbers, and categories that were texts and numbers, and which rows hold."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "n": random.uniform(size=200),
            "text": random.choice(["a", "b", "c"], 200),
            "number": random.choice([10, 20, 30], 200),
        }
    )
    return frame, (frame["text"] == "a") ^ (frame["number"] == 20)


def test_categories_of_lightgbm(tmp_path: Path) -> None:
    frame, target = categories()
    frame = frame.astype({"text": "category", "number": "category"})
    model = lightgbm.LGBMClassifier(n_estimators=8, min_child_samples=2, verbose=-1, n_jobs=1).fit(frame, target)
    backend, info = serve(model, tmp_path)
    assert {spec.name: spec.dtype for spec in info.inputs} == {"n": "float64", "text": "string", "number": "float64"}
    rows = {name: frame[name].to_numpy(object if name == "text" else np.float64) for name in frame}
    np.testing.assert_array_equal(backend.predict(rows)["probabilities"], model.predict_proba(frame))
    unseen = rows | {"text": np.full(200, "purple", object)}
    gaps = rows | {"text": np.full(200, MISSING_TEXT, object)}
    np.testing.assert_array_equal(backend.predict(unseen)["probabilities"], backend.predict(gaps)["probabilities"])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_categories_of_xgboost_that_are_whole_numbers(tmp_path: Path, dtype: str) -> None:
    frame, target = categories()
    frame = frame.astype({"number": dtype}).astype({"text": "category", "number": "category"})
    model = xgboost.XGBClassifier(n_estimators=8, enable_categorical=True, n_jobs=1).fit(frame, target)
    backend, info = serve(model, tmp_path)
    assert {spec.name: spec.dtype for spec in info.inputs} == {"n": "float64", "text": "string", "number": "float64"}
    assert backend.example()["number"].tolist() == [10]
    rows = {name: frame[name].to_numpy(object if name == "text" else np.float64) for name in frame}
    np.testing.assert_array_equal(backend.predict(rows)["probabilities"], model.predict_proba(frame))
    part = {name: column[3:5] for name, column in rows.items()}  # not all of the categories, as in most requests
    np.testing.assert_array_equal(backend.predict(part)["probabilities"], model.predict_proba(frame)[3:5])
    gap = part | {"number": np.array([np.nan, 20.0])}
    wanted = model.predict_proba(frame[3:5].assign(number=pd.Categorical([np.nan, 20], np.array([20], dtype))))
    np.testing.assert_array_equal(backend.predict(gap)["probabilities"], wanted)
    with pytest.raises(InvalidInput, match=r"'number' holds categories, which are whole numbers here; got 10\.5\.$"):
        backend.predict(part | {"number": np.array([10.5, 20.0])})
    with pytest.raises(InvalidInput, match="Found a category not in the training set"):
        backend.predict(part | {"number": np.array([99.0, 20.0])})


@pytest.mark.parametrize("named", [True, False])
def test_categories_of_xgboost_by_their_numbers(tmp_path: Path, named: bool) -> None:
    frame, target = categories()
    frame = frame[["n", "number"]].assign(number=frame["number"] // 10 - 1)
    given = frame if named else frame.to_numpy()
    model = xgboost.XGBClassifier(n_estimators=8, enable_categorical=True, feature_types=["q", "c"], n_jobs=1)
    model.fit(given, target)
    backend, info = serve(model, tmp_path)
    assert shapes(info.inputs) == {"input": ("float64", ("batch", 2))}
    answer = backend.predict({"input": frame.to_numpy(float)})
    np.testing.assert_array_equal(answer["probabilities"], model.predict_proba(given))


@pytest.mark.parametrize("named", [True, False])
def test_categories_of_catboost(tmp_path: Path, named: bool) -> None:
    frame, target = categories()
    model = catboost.CatBoostClassifier(iterations=5, cat_features=[1, 2], **models_boosting.QUIET)
    model.fit(frame if named else frame.to_numpy(object), target.astype(int))
    backend, info = serve(model, tmp_path)
    assert [spec.name for spec in info.inputs] == (list(frame) if named else ["x0", "x1", "x2"])
    assert [spec.dtype for spec in info.inputs] == ["float64", "string", "string"]
    task = TabularTask(info, ModelOptions())
    wanted = model.predict_proba(frame)
    np.testing.assert_array_equal(
        backend.predict(task.decode("input", frame.to_numpy().tolist()).tensors)["probabilities"], wanted
    )
    gap = backend.predict(task.decode("input", [0.5, None, 10]).tensors)["probabilities"]
    np.testing.assert_array_equal(gap, model.predict_proba([[0.5, "nan", 10]]))


def test_columns_that_the_model_drops_may_hold_anything_or_be_left_out(tmp_path: Path) -> None:
    frame, target = categories()
    frame.insert(1, "name", "Mr. Smith")
    transformer = make_column_transformer((OneHotEncoder(), ["text", "number"]), ("drop", ["n"]))
    model = make_pipeline(transformer, LogisticRegression()).fit(frame, target)
    backend, info = serve(model, tmp_path)
    task = TabularTask(info, ModelOptions())
    assert task.example(backend.example()).keys() == {"text", "number"}
    wanted = model.predict_proba(frame[:3])
    records = frame[:3].to_dict("records")
    short = [{"text": record["text"], "number": record["number"]} for record in records]
    for value in (records, short, frame[:3].to_numpy().tolist(), {n: [r[n] for r in short] for n in short[0]}):
        answer = backend.predict(task.decode("input", value).tensors)
        np.testing.assert_array_equal(answer["probabilities"], wanted)
    with pytest.raises(InvalidInput, match="lacks the column 'text'"):
        task.decode("input", [{"number": 10}])
    with pytest.raises(InvalidInput, match="unknown column 'nam'"):
        task.decode("input", [short[0] | {"nam": "x"}])


def test_an_example_settles_the_columns(dates: Path) -> None:
    message = refused(dates).message
    assert "dates.joblib cannot compute the row {'input': [0.0, 0.0]}" in message
    assert "--set example=" in message
    backend, info = load(dates, example={"day": "1999-01-01", "n": 1})
    assert shapes(info.inputs) == {"day": ("string", ("batch",)), "n": ("float64", ("batch",))}
    assert load(dates, example=["1999-01-01", 1])[1] == info
    assert backend.predict(backend.example())["label"].tolist() in ([0], [1])


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"day": "x"}, "Option example must be the columns day, n; got day."),
        (["1999-01-01"], "Option example must have 2 values; got 1."),
    ],
)
def test_a_bad_example(dates: Path, example: Any, message: str) -> None:
    error = refused(dates, example=example)
    assert isinstance(error, InvalidOption)
    assert error.message == message


def test_a_model_that_does_not_know_its_width(tmp_path: Path) -> None:
    class_code = types.ModuleType("width_free")
    exec("class Sum:\n    def predict(self, rows): return rows.sum(axis=1)", class_code.__dict__)
    class_code.Sum.__module__ = "width_free"
    sys.modules["width_free"] = class_code
    try:
        joblib.dump(class_code.Sum(), tmp_path / "m.joblib")
        assert "does not say how many features it takes" in refused(tmp_path / "m.joblib").message
        backend, _ = load(tmp_path / "m.joblib", example=[1, 2])
        assert backend.predict({"input": np.array([[3.0, 4.0]])})["output"].tolist() == [7.0]
    finally:
        del sys.modules["width_free"]


# --- requests -------------------------------------------------------------------------------------------------------


def test_values_that_the_model_refuses_are_the_clients_error() -> None:
    backend, _ = load(models_sklearn.path("iris"))
    with pytest.raises(InvalidInput, match="The model refuses these values: Input X contains NaN") as caught:
        backend.predict({"input": np.array([[np.nan, 1, 1, 1]])})
    assert caught.value.field == "input"


def test_an_unknown_category_is_the_clients_error(tmp_path: Path) -> None:
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(text_frame(), MOODS)
    backend, _ = serve(model, tmp_path)
    with pytest.raises(InvalidInput, match="Paris"):
        backend.predict({"input": np.array([["Paris", "smith"]], dtype=object)})


def test_a_request_is_not_changed(tmp_path: Path) -> None:
    backend, _ = serve(make_pipeline(StandardScaler(copy=False), Ridge()).fit(X.copy(), Y), tmp_path)
    rows = X.copy()
    rows.flags.writeable = False
    backend.predict({"input": rows})
    np.testing.assert_array_equal(rows, X)


# --- threads and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "cores", "given"), [(1, 2, 1), (2, 2, 2), (8, 2, 2)])
def test_threads_are_bounded_by_the_workers_share(asked: int, cores: int, given: int) -> None:
    backend, _ = load(models_sklearn.path("digits"), threads=asked, cores=cores)
    assert backend._model.n_jobs == given
    assert all(pool["num_threads"] <= given for pool in threadpool_info())


def test_threads_are_bounded_in_the_thread_that_predicts() -> None:
    backend, _ = load(models_sklearn.path("cancer"), threads=1)
    seen: list[int] = []

    def run() -> None:
        backend.predict(backend.example())
        seen.extend(pool["num_threads"] for pool in threadpool_info())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen
    assert set(seen) == {1}


def test_no_part_starts_processes(tmp_path: Path) -> None:
    voting = VotingClassifier([("a", KNeighborsClassifier(n_jobs=4)), ("b", GaussianNB())], n_jobs=4).fit(X, Y)
    backend, _ = serve(
        make_pipeline(FeatureUnion([("s", StandardScaler())], n_jobs=4), voting).fit(X, Y), tmp_path, threads=2
    )
    union, vote = (step for _, step in backend._model.steps)
    assert (union.n_jobs, vote.n_jobs, vote.estimators_[0].n_jobs) == (1, 1, 1)


@pytest.mark.parametrize("threads", [0, -1])
def test_a_bad_number_of_threads(threads: int) -> None:
    error = refused(models_sklearn.path("iris"), threads=threads)
    assert isinstance(error, InvalidOption)
    assert error.field == "config.threads"


def test_memory_is_the_size_of_the_weights(tmp_path: Path) -> None:
    features, target = load_digits(return_X_y=True)
    backend, _ = serve(KNeighborsClassifier().fit(features, target), tmp_path)
    assert features.nbytes < backend.memory() < 2 * features.nbytes
    small, _ = load(models_sklearn.path("iris"))
    assert 0 < small.memory() < 10_000


def test_loading_and_predicting_warn_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_wine(as_frame=True)
        model = VotingClassifier([("a", GaussianNB()), ("b", make_pipeline(StandardScaler(), SVC()))])
        backend, info = serve(model.fit(data.data, data.target), tmp_path)
        backend.predict({"input": data.data.to_numpy()})
    assert info.notes == ()


def test_sniffing_imports_no_runtime() -> None:
    code = (
        "import sys; from pathlib import Path; from backends.sklearn import SklearnBackend\n"
        f"assert SklearnBackend.sniff(Path({str(models_sklearn.path('iris'))!r})).confidence > 0.9\n"
        "print(sorted({'sklearn', 'joblib', 'scipy', 'pandas', 'skops'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_gzipped_text_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.gz").write_bytes(gzip.compress(b"notes"))
    assert SklearnBackend.sniff(tmp_path / "notes.gz").confidence == 0


def test_cancer_agrees_with_scikit_learn() -> None:
    data = load_breast_cancer(as_frame=True).data
    backend, _ = load(models_sklearn.path("cancer"))
    assert (
        backend.predict({"input": data.to_numpy()})["label"].tolist() == models_sklearn.cancer().predict(data).tolist()
    )
