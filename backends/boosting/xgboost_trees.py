"""XGBoost's own files: JSON and UBJSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import MissingRuntime, ModelFileError, Tensors
from backends.boosting.backend import BoostingBackend, Trees, both, classified, head_of
from backends.boosting.columns import Columns

_JSON = re.compile(rb'\s*\{\s*"(learner|version)"\s*:')
_UBJSON = re.compile(rb"\{(L.{8}|l.{4}|I.{2}|[iU].)(learner|version)[\[{]", re.DOTALL)
_OLD = re.compile(rb"(bs64|binf).|.{0,200}(binary:logistic|reg:squarederror|multi:softprob)", re.DOTALL)


class XgboostBackend(BoostingBackend):
    """A booster of XGBoost."""

    name = "xgboost"
    summary = "XGBoost models: .json, .ubj"
    package = "xgboost"
    extra = "xgboost"

    suffix = ".ubj"

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return bool(_UBJSON.match(head) or (_JSON.match(head) and b"learner" in head))

    def read(self, path: Path) -> Trees:
        head = head_of(path)
        if not self.begins(head):
            old = ""
            if _OLD.match(head):
                old = " If it is in the old binary format, read it with XGBoost below 3.1, and save it as .ubj."
            raise ModelFileError(f"{path.name} is not an XGBoost model, or is truncated.{old}", field="model_path")
        return _XgboostTrees(_runtime().Booster({"nthread": self.threads}, model_file=str(path)))

    @classmethod
    def version(cls) -> str:
        return str(_runtime().__version__)


class _XgboostTrees(Trees):
    def __init__(self, booster: Any) -> None:
        self._booster = booster
        learner = json.loads(booster.save_config())["learner"]
        self.objective = str(learner["objective"]["name"])
        count = int(booster.num_features())
        names = booster.feature_names
        self.columns = Columns((False,) * count, tuple(names) if names else None)
        types = booster.feature_types or ()
        if categorical := [name for name, kind in zip(self.columns.keys, types, strict=False) if kind == "c"]:
            self.notes = (
                f"The categories of {', '.join(categorical)} are given by their numbers: 0 for the first, and so on.",
            )
        self._classes = np.arange(self._class_count(learner), dtype=np.int64)
        if len(self._classes):
            self.labels = tuple(map(str, self._classes))

    def _class_count(self, learner: dict[str, Any]) -> int:
        """Of a classifier; 0 for anything else."""
        if self.objective.startswith("multi:"):
            return int(learner["learner_model_param"]["num_class"])
        return 2 if self.objective in ("binary:logistic", "binary:logitraw", "binary:hinge") else 0

    def example(self) -> list[float | str]:
        return [0.0] * len(self.columns.texts)

    def predict(self, batch: Tensors) -> Tensors:
        values = self._booster.inplace_predict(self.columns.matrix(batch), validate_features=False)
        if self.objective == "binary:logistic" and values.ndim == 1:
            return classified(both(values), self._classes)
        if self.objective == "binary:logistic":  # several targets, each of which may hold
            return {"label": (values > 0.5).astype(np.int64), "probabilities": values}
        if self.objective == "multi:softprob":
            return classified(values, self._classes)
        if self.objective == "binary:logitraw":
            return {"label": (values > 0).astype(np.int64), "scores": values}
        if len(self._classes):
            return {"label": values.astype(np.int64)}
        return {"output": values}


def _runtime() -> Any:
    try:
        import xgboost
    except ImportError:
        raise MissingRuntime("XGBoost", "xgboost") from None
    return xgboost
