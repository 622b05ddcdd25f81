"""Real scikit-learn models for the tests, trained on the data that scikit-learn brings, or made of a trained package.

A model is trained once and kept in the cache of the fetched ones, under scikit-learn's version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import sklearn
import skops.io
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from scripts import fetch_models
from tests import models

REVISION = 1
"""Raise it when a builder changes, so that models in the cache are trained anew."""


def iris() -> Any:
    """Four numbers → one of three classes."""
    features, target = load_iris(return_X_y=True)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(features, target)


def iris_frame() -> Any:
    """Four named columns → the species by its name."""
    data = load_iris(as_frame=True)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(
        data.data, data.target_names.take(data.target.to_numpy())
    )


def digits() -> Any:
    """64 pixels → a digit, by a forest that wants every core."""
    features, target = load_digits(return_X_y=True)
    return RandomForestClassifier(30, random_state=0, n_jobs=-1).fit(features, target)


def cancer() -> Any:
    """30 named columns → malignant or benign, by boosted trees."""
    data = load_breast_cancer(as_frame=True)
    return HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(
        data.data, data.target_names.take(data.target.to_numpy())
    )


def diabetes() -> Any:
    """Ten numbers → the progression of the disease."""
    return Ridge().fit(*load_diabetes(return_X_y=True))


def margin() -> Any:
    """Four numbers → a class, with the scores of a decision function instead of probabilities."""
    return LinearSVC(random_state=0).fit(*load_iris(return_X_y=True))


def clusters() -> Any:
    """Four numbers → one of three clusters."""
    return KMeans(3, random_state=0, n_init=1).fit(load_iris(return_X_y=True)[0])


def outliers() -> Any:
    """Four numbers → 1 or -1, and a score."""
    return IsolationForest(n_estimators=20, random_state=0).fit(load_iris(return_X_y=True)[0])


def table() -> pd.DataFrame:
    """A table of numbers and texts with gaps, and the answer in its last column."""
    data = load_iris(as_frame=True).frame
    frame = pd.DataFrame(
        {
            "length": data["petal length (cm)"],
            "shade": ["dark" if width > 1.0 else "light" for width in data["petal width (cm)"]],
            "garden": ["north", "south", "east"] * 50,
            "blooms": data["target"] > 0,
        }
    )
    frame.loc[::7, "length"] = None
    frame.loc[::11, "shade"] = None
    return frame


def mixed() -> Any:
    """Numbers and texts by name, missing values allowed → true or false."""
    frame = table()
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((numbers, ["length"]), (texts, ["shade", "garden"]))
    return make_pipeline(columns, LogisticRegression()).fit(frame.drop(columns="blooms"), frame["blooms"])


def profanity() -> Any:
    """Texts → whether they swear: the vectorizer and the classifier of alt-profanity-check, in one pipeline."""
    classifier, vectorizer = models.profanity()
    return Pipeline([("words", joblib.load(vectorizer)), ("classes", joblib.load(classifier))])


BUILDERS: dict[str, Callable[[], Any]] = {
    build.__name__: build
    for build in (iris, iris_frame, digits, cancer, diabetes, margin, clusters, outliers, mixed, profanity)
}


def path(name: str, suffix: str = ".joblib") -> Path:
    """The file of a model, trained now unless it is in the cache. `suffix` is ``.joblib`` or ``.skops``."""
    folder = fetch_models.cache_folder() / f"sklearn-{sklearn.__version__}-{REVISION}"
    file = folder / f"{name}{suffix}"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save(BUILDERS[name](), file)
    return file


def save(model: Any, file: Path) -> Path:
    """Writes `model` so that other processes see the whole file or none."""
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=file.suffix, delete=False) as unfinished:
        dump = skops.io.dump if file.suffix == ".skops" else joblib.dump
        dump(model, unfinished.name)
    return Path(unfinished.name).replace(file)
