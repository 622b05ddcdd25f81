"""XGBoost's own files: JSON and UBJSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from backends import categories
from backends.base import MissingRuntime, ModelFileError, Tensors
from backends.boosting.backend import BoostingBackend, Trees, both, classified, head_of
from backends.boosting.columns import Columns, are_texts, codes_of

_JSON = re.compile(rb'\s*\{\s*"(learner|version)"\s*:')
_UBJSON = re.compile(rb"\{(L.{8}|l.{4}|I.{2}|[iU].)(learner|version)[\[{]", re.DOTALL)
_OLD = re.compile(rb"(bs64|binf).|.{0,200}(binary:logistic|reg:squarederror|multi:softprob)", re.DOTALL)


class XgboostBackend(BoostingBackend):
    """A booster of XGBoost."""

    name = "xgboost"
    summary = "XGBoost models: .json, .ubj"
    package = "xgboost"
    extra = "xgboost"
    library = "XGBoost"

    suffix = ".ubj"

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return bool(_UBJSON.match(head) or (_JSON.match(head) and b"learner" in head))

    def check(self, path: Path) -> None:
        head = head_of(path)
        if not self.begins(head):
            old = ""
            if _OLD.match(head):
                old = " If it is in the old binary format, read it with XGBoost below 3.1, and save it as .ubj."
            raise ModelFileError(f"{path.name} is not an XGBoost model, or is truncated.{old}", field="model_path")
        _runtime()

    def read(self, path: Path) -> Trees:
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
        codes = {i: codes_of(each.values) for i, each in categories.of_xgboost(booster).items() if each.values}
        self.columns = Columns(
            tuple(are_texts(codes.get(i, {})) for i in range(count)), tuple(names) if names else None, codes
        )
        places = [i for i, kind in enumerate(booster.feature_types or ()) if kind == "c" and i not in codes]
        if unknown := [self.columns.keys[i] for i in places]:
            self.notes = (
                f"The categories of {', '.join(unknown)} are given by their numbers: 0 for the first, and so on.",
            )
        self._linear = learner["gradient_booster"]["name"] == "gblinear"
        self._rounds = self._rounds_used(int(booster.num_boosted_rounds()))
        self._classes = np.arange(self._class_count(learner), dtype=np.int64)
        if len(self._classes):
            self.labels = tuple(map(str, self._classes))

    def _class_count(self, learner: dict[str, Any]) -> int:
        """Of a classifier; 0 for anything else."""
        if self.objective.startswith("multi:"):
            return int(learner["learner_model_param"]["num_class"])
        return 2 if self.objective in ("binary:logistic", "binary:logitraw", "binary:hinge") else 0

    def _rounds_used(self, count: int) -> tuple[int, int]:
        """Which of the rounds answer, (0, 0) for all: of a model that stopped early, as the library itself does it."""
        attributes = self._booster.attributes()
        if "best_iteration" not in attributes:
            return 0, 0
        best = int(attributes["best_iteration"]) + 1
        if "scikit_learn" in attributes:
            self.notes += (f"Training was stopped early: the first {best} of {count} rounds are used, up to the best.",)
            return 0, best
        self.notes += (
            f"Training was stopped early, and all {count} rounds are used, as Booster.predict does; to serve the best "
            f"ones alone, save booster[: {best}].",
        )
        return 0, 0

    def _computed(self, batch: Tensors) -> Any:
        rows = self.columns.matrix(batch)
        if self._linear:  # which computes from XGBoost's own matrices only
            return self._booster.predict(_runtime().DMatrix(rows), validate_features=False)
        return self._booster.inplace_predict(rows, iteration_range=self._rounds, validate_features=False)

    def predict(self, batch: Tensors) -> Tensors:
        values = self._computed(batch)
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
