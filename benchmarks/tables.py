"""Models of tables as they are common: 30 columns of numbers, 300 trees of up to 31 leaves; and requests to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.dialects import JSON, OCTETS, Call, Headers
from benchmarks.models import Array, Model

COLUMNS = tuple(f"x{i}" for i in range(30))
TREES, LEAVES = 300, 31
Form = Literal["rows", "columns", "binary"]
FORMS: dict[Form, str] = {"rows": "JSON", "columns": "JSON columns", "binary": "binary"}
"""Lists of rows in JSON, a list for each column in JSON, or raw numbers there and back."""


def forest() -> Model:
    """A random forest of scikit-learn, fitted on a data frame, in a joblib file."""
    return Model("forest", "forest.joblib", (len(COLUMNS),), _write_forest, trust=True)


def xgboost() -> Model:
    """Boosted trees in XGBoost's own format."""
    return Model("xgboost", "trees.ubj", (len(COLUMNS),), _write_xgboost)


def lightgbm() -> Model:
    """Boosted trees in LightGBM's own format."""
    return Model("lightgbm", "trees.txt", (len(COLUMNS),), _write_lightgbm)


def catboost() -> Model:
    """Boosted trees in CatBoost's own format."""
    return Model("catboost", "trees.cbm", (len(COLUMNS),), _write_catboost)


def rows(count: int) -> Array:
    """[count, 30] float64, no two of the first 4000 alike."""
    known, _ = _data()
    return np.resize(known, (count, known.shape[1]))


def call(path: str, form: Form, count: int) -> Call:
    """A request of so many rows. Its answer is read as the probabilities, [count, 2]."""
    table = rows(count)
    if form == "binary":
        shape = ",".join(map(str, table.shape))
        wanted = {"accept": OCTETS["content-type"], "x-tensor-output": "probabilities"}
        headers = {**OCTETS, **wanted, "x-tensor-dtype": "float64", "x-tensor-shape": shape}
        return Call(path, headers, table.tobytes(), _raw)
    value = table.tolist() if form == "rows" else dict(zip(COLUMNS, table.T.tolist(), strict=True))
    return Call(path, JSON, json.dumps({"input": value}, separators=(",", ":")).encode(), _named)


def _raw(body: bytes, headers: Headers) -> Array:
    return np.frombuffer(body, headers["x-tensor-dtype"]).reshape(-1, 2)


def _named(body: bytes, _: Headers) -> Array:
    return np.array([list(row["probabilities"].values()) for row in json.loads(body)["output"]])


# --- training -------------------------------------------------------------------------------------------------------


@cache
def _data() -> tuple[Array, Array]:
    """Rows and their classes, a tenth of which are wrong, so that trees go on growing."""
    from sklearn.datasets import make_classification

    features, classes = make_classification(4000, len(COLUMNS), n_informative=15, flip_y=0.1, random_state=0)
    return features.round(4), classes


def _frame() -> tuple[Any, Array]:
    import pandas as pd

    features, classes = _data()
    return pd.DataFrame(features, columns=list(COLUMNS)), classes


def _write_forest(path: Path) -> None:
    import joblib
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(TREES, max_leaf_nodes=LEAVES, n_jobs=-1, random_state=0).fit(*_frame())
    joblib.dump(model, path)


def _write_xgboost(path: Path) -> None:
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=TREES, max_depth=0, max_leaves=LEAVES, grow_policy="lossguide", random_state=0)
    path.write_bytes(model.fit(*_frame()).get_booster().save_raw("ubj"))


def _write_lightgbm(path: Path) -> None:
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(n_estimators=TREES, num_leaves=LEAVES, random_state=0, verbose=-1).fit(*_frame())
    model.booster_.save_model(path)


def _write_catboost(path: Path) -> None:
    from catboost import CatBoostClassifier

    quiet: dict[str, Any] = {"verbose": 0, "allow_writing_files": False, "random_seed": 0}
    model = CatBoostClassifier(iterations=TREES, grow_policy="Lossguide", max_leaves=LEAVES, **quiet).fit(*_frame())
    model.save_model(str(path))


MODELS: dict[str, Callable[[], Model]] = {m.__name__: m for m in (forest, xgboost, lightgbm, catboost)}
"""By the names of their loops in `benchmarks.bare_loops`."""
