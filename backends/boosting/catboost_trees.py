"""CatBoost's own files: .cbm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from backends.base import InvalidInput, MissingRuntime, ModelFileError, Tensors
from backends.boosting.backend import BoostingBackend, Trees, classified, head_of
from backends.boosting.columns import MISSING_TEXT, Columns

_MAGIC = b"CBM1"
_KINDS = {"Poisson": "Exponent", "Tweedie": "Exponent", "RMSEWithUncertainty": "RMSEWithUncertainty"}
"""What `CatBoostRegressor.predict` gives for a loss, where it is not the plain value of the trees."""


class CatBoostBackend(BoostingBackend):
    """A model of CatBoost."""

    name = "catboost"
    summary = "CatBoost models: .cbm"
    package = "catboost"
    extra = "catboost"
    library = "CatBoost"

    suffix = ".cbm"

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return head.startswith(_MAGIC)

    def check(self, path: Path) -> None:
        if not self.begins(head_of(path)):
            raise ModelFileError(f"{path.name} is not a CatBoost model, or is truncated.", field="model_path")
        _runtime()

    def read(self, path: Path) -> Trees:
        model = _runtime().CatBoost()
        model.load_model(str(path))
        return _CatBoostTrees(model, self.threads, path)

    @classmethod
    def version(cls) -> str:
        return str(_runtime().__version__)


class _CatBoostTrees(Trees):
    integers = True  # to CatBoost they are the same, and the file does not tell what they were

    def __init__(self, model: Any, threads: int, path: Path) -> None:
        self._model = model
        self._threads = threads
        if model.get_embedding_feature_indices():
            raise ModelFileError(
                f"{path.name} takes columns of embeddings, which are not served; wrap it in a Python plugin.",
                field="model_path",
            )
        names = tuple(model.feature_names_)
        self._categorical = frozenset(model.get_cat_feature_indices())
        self._texts = frozenset(model.get_text_feature_indices())
        given = None if names == tuple(map(str, range(len(names)))) else names
        self.columns = Columns(tuple(i in self._categorical | self._texts for i in range(len(names))), given)
        self.objective = str(model.get_all_params().get("loss_function", "custom")).partition(":")[0]
        classes = np.asarray(model.classes_)
        self._classes = classes.astype(object) if classes.dtype.kind in "OU" else classes
        self._several = self.objective in ("MultiLogloss", "MultiCrossEntropy")
        if len(self._classes):
            self.labels = tuple(map(str, self._classes.tolist()))

    def predict(self, batch: Tensors) -> Tensors:
        rows = self._rows(batch)
        if not len(self._classes):
            return {"output": self._computed(rows, _KINDS.get(self.objective, "RawFormulaVal"))}
        probabilities = self._computed(rows, "Probability")
        if self._several:
            return {"label": (probabilities > 0.5).astype(np.int64), "probabilities": probabilities}
        return classified(probabilities, self._classes)

    def _computed(self, rows: Any, kind: str) -> Any:
        values = self._model.predict(rows, prediction_type=kind, thread_count=self._threads)
        return np.ascontiguousarray(values, np.float64)

    def _rows(self, batch: Tensors) -> Any:
        if not self._categorical and not self._texts:
            return self.columns.matrix(batch)
        columns = self.columns.of(batch)
        rows = np.empty((len(columns[0]), len(columns)), object)
        for i, column in enumerate(columns):
            rows[:, i] = column
            if i in self._texts and (column == MISSING_TEXT).any():
                raise InvalidInput(
                    f"The column {self.columns.keys[i]!r} holds texts, of which none may be missing.", field="input"
                )
            if i in self._categorical:
                rows[:, i][rows[:, i] == MISSING_TEXT] = "nan"  # what CatBoost makes of a missing category in a frame
        return rows


def _runtime() -> Any:
    try:
        import catboost
    except ImportError:
        raise MissingRuntime("CatBoost", "catboost") from None
    return catboost
