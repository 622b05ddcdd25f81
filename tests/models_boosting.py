"""Real models of boosted trees, trained on the data that scikit-learn brings, in their libraries' own formats.

A model is trained once and kept in the cache of the fetched ones, under the versions of the libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from tests import models

REVISION = 1
"""Raise it when a builder changes, so that models in the cache are trained anew."""
QUIET: dict[str, Any] = {"verbose": 0, "allow_writing_files": False, "random_seed": 0, "thread_count": 1}


def flowers() -> pd.DataFrame:
    """Numbers and texts, and which flower it is in the last column."""
    frame = load_iris(as_frame=True).frame
    return pd.DataFrame(
        {
            "length": frame["petal length (cm)"],
            "shade": ["dark" if width > 1.0 else "light" for width in frame["petal width (cm)"]],
            "garden": ["north", "south", "east"] * 50,
            "kind": frame["target"],
        }
    )


def _categories(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({"shade": "category", "garden": "category"})


def xgboost_iris() -> Any:
    """Four numbers → one of three classes."""
    return xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(*load_iris(return_X_y=True))


def xgboost_cancer() -> Any:
    """30 named columns → one of two classes."""
    data = load_breast_cancer(as_frame=True)
    return xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(data.data, data.target)


def xgboost_diabetes() -> Any:
    """Ten numbers → a number."""
    return xgboost.XGBRegressor(n_estimators=10, n_jobs=1).fit(*load_diabetes(return_X_y=True))


def lightgbm_iris() -> Any:
    """Four numbers → one of three classes."""
    return lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(*load_iris(return_X_y=True)).booster_


def lightgbm_flowers() -> Any:
    """Numbers and categories by name → one of three classes."""
    frame = _categories(flowers())
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1)
    return model.fit(frame.drop(columns="kind"), frame["kind"]).booster_


def lightgbm_cancer() -> Any:
    """30 numbers → one of two classes."""
    data = load_breast_cancer(return_X_y=True)
    return lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(*data).booster_


def lightgbm_diabetes() -> Any:
    """Ten numbers → a number."""
    return lightgbm.LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1).fit(*load_diabetes(return_X_y=True)).booster_


def catboost_iris() -> Any:
    """Four numbers → the name of one of three classes."""
    data = load_iris()
    return catboost.CatBoostClassifier(iterations=10, **QUIET).fit(data.data, data.target_names.take(data.target))


def catboost_flowers() -> Any:
    """Numbers and categories by name → one of three classes."""
    frame = flowers()
    model = catboost.CatBoostClassifier(iterations=10, cat_features=["shade", "garden"], **QUIET)
    return model.fit(frame.drop(columns="kind"), frame["kind"])


def reviews() -> tuple[pd.DataFrame, list[str]]:
    """What guests wrote, how many stars they gave and where, and whether they came back."""
    words = {"back": ("good food", "very good", "a fine place"), "gone": ("bad food", "very slow", "a bad place")}
    rows = [
        (text, float(stars), town, kind)
        for kind, texts in words.items()
        for text in texts
        for stars in ((4, 5, 3) if kind == "back" else (1, 2, 3))
        for town in ("Bern", "Chur")
    ]
    frame = pd.DataFrame(rows, columns=["text", "stars", "town", "kind"])
    return frame.drop(columns="kind"), frame["kind"].tolist()


def catboost_reviews() -> Any:
    """Texts, numbers and categories by name → one of two classes."""
    frame, kinds = reviews()
    return catboost.CatBoostClassifier(iterations=20, text_features=["text"], cat_features=["town"], **QUIET).fit(
        frame, kinds
    )


def catboost_diabetes() -> Any:
    """Ten numbers → a number."""
    return catboost.CatBoostRegressor(iterations=10, **QUIET).fit(*load_diabetes(return_X_y=True))


def catboost_counts() -> Any:
    """Ten numbers → a count."""
    features, target = load_diabetes(return_X_y=True)
    return catboost.CatBoostRegressor(iterations=10, loss_function="Poisson", **QUIET).fit(features, np.rint(target))


BUILDERS: dict[str, Callable[[], Any]] = {
    build.__name__: build
    for build in (
        xgboost_iris,
        xgboost_cancer,
        xgboost_diabetes,
        lightgbm_iris,
        lightgbm_flowers,
        lightgbm_cancer,
        lightgbm_diabetes,
        catboost_iris,
        catboost_flowers,
        catboost_reviews,
        catboost_diabetes,
        catboost_counts,
    )
}
SUFFIXES = {"xgboost": ".ubj", "lightgbm": ".txt", "catboost": ".cbm"}


def path(name: str, suffix: str = "") -> Path:
    """The file of a model, trained now unless it is in the cache. `suffix` may be ``.json`` for XGBoost."""
    versions = "-".join(version(package) for package in ("xgboost-cpu", "lightgbm", "catboost"))
    file = f"{name}{suffix or SUFFIXES[name.partition('_')[0]]}"
    return models.built(f"boosting-{versions}-{REVISION}", file, lambda path: BUILDERS[name]().save_model(str(path)))
