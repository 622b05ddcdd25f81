"""Boosted trees of XGBoost, LightGBM and CatBoost that speak scikit-learn's interface: their columns, and which of them
hold categories."""

from __future__ import annotations

from typing import Any

from backends.categories import Categories, of_xgboost


def library(estimator: Any) -> str:
    """The library that `estimator` is of."""
    return type(estimator).__module__.partition(".")[0]


def names(estimator: Any) -> tuple[str, ...] | None:
    """The columns' names, of a model of CatBoost, which tells them in its own way."""
    if library(estimator) != "catboost":
        return None
    own = tuple(estimator.feature_names_)
    return None if own == tuple(map(str, range(len(own)))) else own


def count(estimator: Any) -> int | None:
    """The number of columns, of a model of CatBoost."""
    return len(estimator.feature_names_) if library(estimator) == "catboost" else None


def categories(estimator: Any) -> dict[int, Any]:
    """A category of each column that has some, by its place; `None` where none is known."""
    kind = library(estimator)
    if kind == "catboost":
        return dict.fromkeys(estimator.get_cat_feature_indices())
    if kind == "xgboost":
        # Without the categories that it was trained with, it wants their numbers, and not a column of categories.
        return {place: next(iter(each.values), None) for place, each in _xgboost(estimator).items()}
    if kind == "lightgbm" and hasattr(estimator, "booster_"):
        known = estimator.booster_.pandas_categorical or []
        places = sorted(estimator.booster_.params.get("categorical_column") or ())
        if len(places) == len(known):
            return {place: values[0] for place, values in zip(places, known, strict=True) if values}
    return {}


def whole(estimator: Any) -> dict[int, str]:
    """The columns of categories that must be whole numbers, by their places, and NumPy's name of their type."""
    if library(estimator) != "xgboost":
        return {}
    return {place: each.dtype for place, each in _xgboost(estimator).items() if each.dtype != "object"}


def _xgboost(estimator: Any) -> dict[int, Categories]:
    return of_xgboost(estimator.get_booster()) if hasattr(estimator, "get_booster") else {}
