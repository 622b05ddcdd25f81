"""Computes what a fitted estimator gives, as named tensors, without doing its work twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backends.base import ModelFileError, Tensors, TensorSpec
from backends.sklearn.estimators import is_forest, steps


class Outputs:
    """The outputs of `model`, by what it is:

    ============== =====================================================================================
    classifier     `label`, and `probabilities` [batch, classes] or else `scores` of its decision function
    several labels `label` [batch, outputs], and `probabilities_0` … when it gives one set for each output
    clusterer      `label`
    outlier finder `label` (1 or -1) and `scores`
    regressor      `output`
    transformer    `output`
    ============== =====================================================================================

    Numbers keep the estimator's dtype, float64 as a rule: as float32, 0.97 would read 0.9700000286102295 in JSON.
    """

    def __init__(self, model: Any) -> None:
        *before, last = steps(model)
        self._transforms: list[Callable[[Any], Any]] = [step.transform for step in before]
        self._last = last
        self._scorer = _scorer(last)
        self._labels_by_argmax = _labels_are_likeliest(last)
        if not hasattr(last, "predict") and not hasattr(last, "transform"):
            raise ModelFileError(
                f"A {type(last).__name__} has neither predict nor transform, so it has no answer for new rows."
            )
        self._name = "label" if _sorts_rows(last) else "output"

    def __call__(self, rows: Any) -> Tensors:
        for transform in self._transforms:
            rows = transform(rows)
        if not hasattr(self._last, "predict"):
            return {"output": _plain(self._last.transform(rows))}
        scores = self._scorer[1](rows) if self._scorer else None
        if scores is not None and self._labels_by_argmax:
            label = self._last.classes_.take(scores.argmax(axis=1))
        else:
            label = self._last.predict(rows)
        tensors = {self._name: _plain(label)}
        if self._scorer and isinstance(scores, list):
            tensors |= {f"{self._scorer[0]}_{i}": _plain(each) for i, each in enumerate(scores)}
        elif self._scorer:
            tensors[self._scorer[0]] = _plain(scores)
        return tensors

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes, when there is one set of them."""
        classes = getattr(self._last, "classes_", None)
        if not isinstance(classes, np.ndarray) or classes.ndim != 1 or getattr(self._last, "multilabel_", False):
            return None
        return tuple(str(name) for name in classes.tolist())


def specs(tensors: Tensors) -> tuple[TensorSpec, ...]:
    """The signature of outputs like these."""
    return tuple(
        TensorSpec(name, "string" if array.dtype == object else array.dtype.name, ("batch", *array.shape[1:]))
        for name, array in tensors.items()
    )


def _scorer(estimator: Any) -> tuple[str, Callable[[Any], Any]] | None:
    """The name and method of the scores that come beside the labels."""
    if hasattr(estimator, "predict_proba"):
        return "probabilities", estimator.predict_proba
    if hasattr(estimator, "decision_function") and _sorts_rows(estimator):
        return "scores", estimator.decision_function
    return None


def _labels_are_likeliest(estimator: Any) -> bool:
    """Whether `predict` would only compute the probabilities again and take the greatest.

    That is so for fewer classifiers than one would think (not for support vectors, nor for one-versus-rest, where
    several probabilities may saturate at 1), so only known ones are trusted to it.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression

    classes = getattr(estimator, "classes_", None)
    if not isinstance(classes, np.ndarray):
        return False
    if isinstance(estimator, LogisticRegression):
        joint = estimator.solver != "liblinear" and getattr(estimator, "multi_class", "auto") != "ovr"
        return joint or len(classes) == 2
    return is_forest(estimator) or isinstance(estimator, CalibratedClassifierCV)


def _sorts_rows(estimator: Any) -> bool:
    """Whether `estimator` sorts rows into kinds, instead of computing a value for each."""
    import sklearn.base

    kinds = (sklearn.base.is_classifier, sklearn.base.is_outlier_detector, getattr(sklearn.base, "is_clusterer", None))
    try:
        known = any(kind(estimator) for kind in kinds if kind)
    except AttributeError:  # it speaks the interface without inheriting from scikit-learn
        known = hasattr(estimator, "classes_")
    return known or hasattr(estimator, "predict_proba")


def _plain(values: Any) -> np.ndarray[Any, Any]:
    """A contiguous array; sparse matrices are made dense, strings become `str` objects."""
    if hasattr(values, "toarray"):
        values = values.toarray()
    array = np.ascontiguousarray(values)
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype == object and not all(isinstance(value, str) for value in array.flat):
        return np.array([str(value) for value in array.flat], dtype=object).reshape(array.shape)
    return array
