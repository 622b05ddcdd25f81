"""Finds what a fitted estimator takes: texts, a matrix, or columns of different kinds; with names or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from backends.base import InvalidInput, InvalidOption, MissingRuntime, ModelFileError, Tensors, TensorSpec
from backends.sklearn import boosted
from backends.sklearn.estimators import parts, steps

MISSING_TEXT = "\uffff"
"""Stands for a missing value in a column of strings (a noncharacter, so no text has it); `ModelInfo.metadata` tells
the task so. In numbers it is NaN."""

EXAMPLE_TEXT = "This is an example."

Cell = float | str


class Column(NamedTuple):
    """One feature: its kind, and a value that the estimator has seen."""

    dtype: Literal["float64", "string"]
    example: Cell


NUMBER = Column("float64", 0.0)


class _Kinds(NamedTuple):
    """What an estimator wants of a column beyond its values."""

    categories: tuple[int, ...] = ()
    """Places of columns that must be of pandas' kind for categories."""
    whole: Mapping[int, str] = {}
    """Of these, those that are whole numbers, and NumPy's name of their type."""
    missing: Any = np.nan
    """A missing text."""

    @classmethod
    def of(cls, model: Any) -> _Kinds:
        last = steps(model)[-1]
        if boosted.library(last) == "catboost":
            return cls(missing="nan")  # what it makes of a missing category
        return cls(tuple(boosted.categories(model)), boosted.whole(model))


@dataclass(frozen=True)
class Inputs:
    """What an estimator takes, and how the tensors of a request become it."""

    specs: tuple[TensorSpec, ...]
    example: Tensors
    assemble: Callable[[Tensors], Any]
    names: tuple[str, ...] | None = None
    """The columns' names, if it was fitted on a data frame."""
    is_text: bool = False
    unused: tuple[str, ...] = ()
    """Names of columns that the estimator was fitted with and drops."""


def find(model: Any, example: Mapping[str, Cell] | Sequence[Cell] | None) -> Inputs:
    """The inputs of `model`; `example` is the user's row, which settles the kinds of the columns.

    Numbers are float64 throughout: JSON numbers are doubles, and scikit-learn then answers exactly as it did where the
    model was trained. (Trees cast to float32 themselves.) Columns are one tensor when they are of one kind, else one
    tensor each.
    """
    if is_text(model):
        return _text()
    names = _names(model)
    columns = _columns_of_example(example, names) if example is not None else _columns_of_model(model)
    kinds = _Kinds.of(model)
    frame = names is not None and (needs_frame(model) or any(c.dtype == "string" for c in columns))
    if names is not None and not frame:
        forget_names(model)
    if len({column.dtype for column in columns}) == 1:
        found = _matrix(columns, names, frame, kinds)
    else:
        found = _separate(columns, names, kinds)
    return replace(found, unused=_unused(model, names))


def is_text(model: Any) -> bool:
    """Whether `model` takes a list of strings. Raises `ModelFileError` for input that cannot be a request."""
    from sklearn.feature_extraction import DictVectorizer, FeatureHasher
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
    from sklearn.pipeline import FeatureUnion
    from sklearn.preprocessing import FunctionTransformer

    for step in steps(model):
        if isinstance(step, DictVectorizer | FeatureHasher):
            raise ModelFileError(
                f"The model starts with a {type(step).__name__}, whose input is neither a table nor text; wrap it in a "
                "Python plugin."
            )
        if isinstance(step, CountVectorizer | HashingVectorizer):
            if step.input != "content":
                raise ModelFileError(
                    f"The model's {type(step).__name__} reads the files that its input names (input={step.input!r}), "
                    "which a server must not; set input='content' and save it again."
                )
            return True
        if isinstance(step, FeatureUnion):
            return all(is_text(part) for _, part in step.transformer_list if part not in ("drop", "passthrough"))
        if not isinstance(step, FunctionTransformer):
            return any(is_text(part) for part in _delegates(step))
    return False


def needs_frame(model: Any) -> bool:
    """Whether some part of `model` picks columns by name, so that it needs a data frame and not just an array."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import FunctionTransformer

    return any(
        isinstance(part, ColumnTransformer | FunctionTransformer)
        or not type(part).__module__.startswith("sklearn.")
        or getattr(part, "_sklearn_output_config", None)
        for part in parts(model)
    )


def _unused(model: Any, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The columns that no part of a leading column transformer is given."""
    from sklearn.compose import ColumnTransformer

    first = steps(model)[0]
    if names is None or not isinstance(first, ColumnTransformer):
        return ()
    indices = first._transformer_to_input_indices
    used = {index for name, part, _ in first.transformers_ if not _is_drop(part) for index in indices[name]}
    return tuple(name for index, name in enumerate(names) if index not in used)


def _is_drop(part: Any) -> bool:
    return isinstance(part, str) and part == "drop"


def forget_names(model: Any) -> None:
    """Lets `model` take arrays without a warning; they cost a third of a data frame's time on one row."""
    for part in parts(model):
        vars(part).pop("feature_names_in_", None)


def _delegates(estimator: Any) -> list[Any]:
    """The fitted estimators to which a meta-estimator hands its whole input; one of several alike."""
    calibrated = getattr(estimator, "calibrated_classifiers_", None)
    if calibrated:
        return [calibrated[0].estimator]
    found = [
        getattr(estimator, name, None) for name in ("estimator_", "regressor_", "best_estimator_", "_preprocessor")
    ]
    several = getattr(estimator, "estimators_", None)
    if isinstance(several, list) and several:
        found.append(several[0])
    return [inner for inner in found if hasattr(inner, "get_params")]


def _names(model: Any) -> tuple[str, ...] | None:
    names = boosted.names(model) or getattr(model, "feature_names_in_", None)
    return None if names is None else tuple(str(name) for name in names)


def _columns_of_example(example: Mapping[str, Cell] | Sequence[Cell], names: tuple[str, ...] | None) -> list[Column]:
    if isinstance(example, Mapping):
        if names is None or set(example) != set(names):
            expected = f"the columns {', '.join(names)}" if names else "a list, since the model has no column names"
            raise InvalidOption(f"Option example must be {expected}; got {', '.join(example)}.", field="config.example")
        example = [example[name] for name in names]
    if names is not None and len(example) != len(names):
        raise InvalidOption(
            f"Option example must have {len(names)} values; got {len(example)}.", field="config.example"
        )
    return [Column("string", cell) if isinstance(cell, str) else Column("float64", float(cell)) for cell in example]


def _columns_of_model(model: Any) -> list[Column]:
    count = boosted.count(model) or getattr(model, "n_features_in_", None)
    if count is None:
        count = next((n for step in steps(model) if (n := getattr(step, "n_features_in_", None)) is not None), None)
    if count is None:
        raise ModelFileError(
            "The model does not say how many features it takes; give a row that it accepts, such as --set "
            "example='[5.1, 3.5]'."
        )
    return [column or NUMBER for column in _probe(model, count)]


def _probe(estimator: Any, count: int) -> list[Column | None]:
    """What is known of the `count` columns that `estimator` takes; `None` for a column of which nothing is."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion, Pipeline

    found: list[Column | None] = [None] * count
    if isinstance(estimator, str) or estimator is None:
        return found
    if isinstance(estimator, Pipeline):
        for step in steps(estimator):
            if getattr(step, "n_features_in_", count) != count:
                break
            found = _merged(found, _probe(step, count))
        return found
    if isinstance(estimator, FeatureUnion):
        for _, part in estimator.transformer_list:
            found = _merged(found, _probe(part, count))
        return found
    if isinstance(estimator, ColumnTransformer):
        for name, part, _ in estimator.transformers_:
            indices = list(estimator._transformer_to_input_indices[name])
            for index, column in zip(indices, _probe(part, len(indices)), strict=True):
                found[index] = _merged([found[index]], [column])[0]
        return found
    for inner in _delegates(estimator):
        if getattr(inner, "n_features_in_", None) == count:
            found = _merged(found, _probe(inner, count))
    return _merged(_seen_values(estimator, count), found)


def _seen_values(estimator: Any, count: int) -> list[Column | None]:
    """What one estimator without parts remembers of the data that it was fitted on."""
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

    if isinstance(estimator, CountVectorizer | HashingVectorizer):
        return [Column("string", EXAMPLE_TEXT)] * count
    if known := boosted.categories(estimator):
        return [_category(known[place]) if place in known else None for place in range(count)]
    categories = getattr(estimator, "categories_", None)
    if isinstance(categories, list) and len(categories) == count:
        return [_column(values) for values in categories]
    for name in ("statistics_", "mean_", "center_"):
        values = getattr(estimator, name, None)
        if isinstance(values, np.ndarray) and values.shape == (count,):
            exact = getattr(estimator, "strategy", None) in ("most_frequent", "constant")
            return [_column([value if exact else float(f"{value:.4g}")]) for value in values]
    return [None] * count


def _category(value: Any) -> Column:
    """The column that has this category, or unknown ones."""
    return (None if value is None else _column([value])) or Column("string", "")


def _column(values: Any) -> Column | None:
    """The column that has these values."""
    text = next((value for value in values if isinstance(value, str)), None)
    if text is not None:
        return Column("string", str(text))
    try:
        numbers = [float(value) for value in values if value is not None]
    except (TypeError, ValueError):
        return None
    return next((Column("float64", number) for number in numbers if np.isfinite(number)), None)


def _merged(first: list[Column | None], second: list[Column | None]) -> list[Column | None]:
    """Column by column the one that is known; strings win over numbers."""
    return [
        b if a is None or (b is not None and b.dtype == "string") else a for a, b in zip(first, second, strict=True)
    ]


def _text() -> Inputs:
    return Inputs(
        specs=(TensorSpec("text", "string", ("batch",)),),
        example={"text": np.array([EXAMPLE_TEXT], dtype=object)},
        assemble=lambda tensors: tensors["text"],
        is_text=True,
    )


def _matrix(columns: list[Column], names: tuple[str, ...] | None, frame: bool, kinds: _Kinds) -> Inputs:
    """One tensor [batch, columns]."""
    dtype = columns[0].dtype
    row = np.array([[column.example for column in columns]], dtype=object if dtype == "string" else dtype)

    def assemble(tensors: Tensors) -> Any:
        # A copy: some estimators work in place, and an identity step would hand out the shared memory of the request.
        matrix = _with_missing(tensors["input"], kinds) if dtype == "string" else np.array(tensors["input"])
        return _frame(matrix, names, kinds) if frame else matrix

    return Inputs((TensorSpec("input", dtype, ("batch", len(columns))),), {"input": row}, assemble, names)


def _separate(columns: list[Column], names: tuple[str, ...] | None, kinds: _Kinds) -> Inputs:
    """One tensor [batch] a column. Columns without a name are called ``x0``, ``x1`` …, as scikit-learn does."""
    keys = names or tuple(f"x{i}" for i in range(len(columns)))
    specs = tuple(TensorSpec(key, column.dtype, ("batch",)) for key, column in zip(keys, columns, strict=True))
    example = {
        spec.name: np.array([column.example], dtype=object if spec.dtype == "string" else spec.dtype)
        for spec, column in zip(specs, columns, strict=True)
    }

    def assemble(tensors: Tensors) -> Any:
        values = {
            spec.name: _with_missing(tensors[spec.name], kinds)
            if spec.dtype == "string"
            else np.array(tensors[spec.name])
            for spec in specs
        }
        if names is not None:
            return _frame(values, names, kinds)
        rows = np.empty((len(values[keys[0]]), len(keys)), dtype=object)
        for i, key in enumerate(keys):
            rows[:, i] = values[key]
        return rows

    return Inputs(specs, example, assemble, keys)


def _with_missing(strings: np.ndarray[Any, Any], kinds: _Kinds) -> np.ndarray[Any, Any]:
    missing = strings == MISSING_TEXT
    return np.where(missing, kinds.missing, strings) if missing.any() else strings


def _frame(values: Any, names: tuple[str, ...] | None, kinds: _Kinds) -> Any:
    try:
        import pandas as pd
    except ImportError:
        raise MissingRuntime("pandas", "sklearn") from None
    frame = pd.DataFrame(values, columns=list(names or ()))
    for place, dtype in kinds.whole.items():
        frame[frame.columns[place]] = _whole(frame.iloc[:, place], dtype)
    others = [place for place in kinds.categories if place not in kinds.whole]
    return frame.astype({frame.columns[place]: "category" for place in others}) if others else frame


def _whole(column: Any, dtype: str) -> Any:
    """Categories that are whole numbers, as pandas' kind for them. Raises `InvalidInput` for others."""
    import pandas as pd

    present = column.dropna().astype(float)
    limits = np.iinfo(dtype)
    wrong = present[(present % 1 != 0) | (present < limits.min) | (present > limits.max)]
    if len(wrong):
        raise InvalidInput(
            f"The column {column.name!r} holds categories, which are whole numbers here; got {wrong.iloc[0]:g}.",
            field="input",
        )
    return pd.Categorical(column, categories=np.unique(present).astype(dtype))
