"""Serves a fitted scikit-learn estimator."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from backends.base import (
    BackendError,
    Device,
    InvalidInput,
    InvalidOption,
    Match,
    ModelFileError,
    ModelInfo,
    TensorBackend,
    Tensors,
)
from backends.sklearn import boosted, estimators, files, inputs, outputs


class SklearnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of scikit-learn models."""

    threads: int = 1
    """CPU threads for one batch, at most the worker's. One is fastest for the few rows of a request."""
    example: dict[str, float | str] | list[float | str] | None = None
    """A row that the model accepts, where probing cannot tell: it settles the number and kinds of the columns."""


class SklearnBackend(TensorBackend):
    """A fitted estimator or pipeline with `predict` or `transform`."""

    name = "sklearn"
    summary = "scikit-learn estimators and pipelines: .joblib, .pkl, .skops"
    package = "sklearn"
    extra = "sklearn"
    Options: ClassVar[type[msgspec.Struct]] = SklearnOptions
    rows_at_once = 1024

    trusted: bool = False
    """Whether the user allowed code from the file; the engine sets it before `load`."""

    _model: Any = None
    _inputs: inputs.Inputs
    _compute: outputs.Outputs
    _limited: int | None = None
    """The thread in which the limit on native threads is in force (OpenMP keeps it for each thread)."""

    @classmethod
    def sniff(cls, path: Path) -> Match:
        return files.sniff(path)

    def load(self, path: Path, device: Device, options: SklearnOptions) -> ModelInfo:
        if options.threads < 1:
            raise InvalidOption(f"Option threads must be at least 1; got {options.threads}.", field="config.threads")
        model, notes = files.read(path, trusted=self.trusted)
        _check_fitted(model, path)
        self.threads = min(options.threads, device.threads)
        self._limit_native_threads()
        estimators.limit_threads(model, self.threads)
        self._inputs = inputs.find(model, options.example)
        self._compute = outputs.Outputs(model)
        answer = self._compute_example(path, notes)
        self._model = model
        return self._info(answer, notes)

    def example(self) -> Tensors:
        return self._inputs.example

    def predict(self, batch: Tensors) -> Tensors:
        if self._limited != threading.get_ident():
            self._limit_native_threads()
        try:
            return self._compute(self._inputs.assemble(batch))
        except ValueError as e:  # the model computed its example, so the values of this request are at fault
            raise InvalidInput(f"The model refuses these values: {_first_sentence(e)}", field="input") from e

    def memory(self) -> int:
        return estimators.size(self._model)

    def close(self) -> None:
        self._model = None
        vars(self).pop("_compute", None)

    def _limit_native_threads(self) -> None:
        """Bounds BLAS and OpenMP, which take every core by default."""
        from threadpoolctl import threadpool_limits

        threadpool_limits(limits=self.threads)
        self._limited = threading.get_ident()

    def _compute_example(self, path: Path, notes: tuple[str, ...]) -> Tensors:
        try:
            return self._compute(self._inputs.assemble(self._inputs.example))
        except BackendError:
            raise
        except Exception as e:
            row = {name: array.tolist()[0] for name, array in self._inputs.example.items()}
            raise ModelFileError(
                f"{path.name} cannot compute the row {row}: {_first_sentence(e)} If the model takes other values, give "
                f"a row that it accepts with --set example='[...]'.{''.join(f' {note}' for note in notes)}"
            ) from e

    def _info(self, answer: Tensors, notes: tuple[str, ...]) -> ModelInfo:
        import sklearn

        labels = self._compute.labels
        metadata = {"estimator": " → ".join(type(step).__name__ for step in estimators.steps(self._model))}
        if self._inputs.names is not None:
            metadata["columns"] = json.dumps(self._inputs.names, ensure_ascii=False)
        task = "tabular"
        if not self._inputs.is_text and any(spec.dtype == "string" for spec in self._inputs.specs):
            metadata["missing"] = inputs.MISSING_TEXT
            if boosted.library(estimators.steps(self._model)[-1]) == "catboost":
                metadata["integers"] = "texts"
        if self._inputs.unused:
            metadata["unused"] = json.dumps(self._inputs.unused, ensure_ascii=False)
        if self._inputs.is_text:
            task = "text-classification" if labels is not None else "tensor"
        return ModelInfo(
            task=task,
            inputs=self._inputs.specs,
            outputs=outputs.specs(answer),
            labels=labels,
            runtime=f"scikit-learn {sklearn.__version__}",
            device="cpu",
            metadata=metadata,
            notes=notes,
        )


def _check_fitted(model: Any, path: Path) -> None:
    """Raises `ModelFileError` unless `model` is an estimator that was fitted."""
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if isinstance(model, type) or not (hasattr(model, "predict") or hasattr(model, "transform")):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ModelFileError(
            f"{path.name} holds {kind}, which is no estimator: save the fitted estimator or pipeline itself."
        )
    try:
        if isinstance(model, BaseEstimator):
            check_is_fitted(model)
    except NotFittedError:
        kind = type(model).__name__
        raise ModelFileError(f"{path.name} holds a {kind} that was never fitted; call fit, then save it.") from None


def _first_sentence(error: BaseException) -> str:
    """The start of the error's message, up to the advice that scikit-learn appends."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{text.rstrip('.')}."
