"""Boosted trees in their libraries' own file formats: XGBoost, LightGBM and CatBoost.

``backend.py`` is what they share, ``columns.py`` what they take; one module a library reads its files and computes.
"""

from backends.boosting.catboost_trees import CatBoostBackend
from backends.boosting.lightgbm_trees import LightGbmBackend
from backends.boosting.xgboost_trees import XgboostBackend

__all__ = ["CatBoostBackend", "LightGbmBackend", "XgboostBackend"]
