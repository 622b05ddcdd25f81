"""LightGBM's own files: text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import MissingRuntime, ModelFileError, Tensors
from backends.boosting.backend import BoostingBackend, Trees, both, classified
from backends.boosting.columns import MISSING_TEXT, Array, Columns

_BEGIN = re.compile(r"tree\r?\nversion=v\d+\r?\n")
_DEFAULT_NAMES = re.compile(r"Column_\d+")
_PROBABLE = ("binary", "multiclass", "softmax", "multiclassova", "cross_entropy", "xentropy")


class LightGbmBackend(BoostingBackend):
    """A booster of LightGBM."""

    name = "lightgbm"
    summary = "LightGBM models: .txt"
    package = "lightgbm"
    extra = "lightgbm"

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return bool(_BEGIN.match(head.decode("utf-8", "replace")))

    def read(self, path: Path) -> Trees:
        text = path.read_text("utf-8", "replace")
        header = _checked(path, text)
        _silence()
        booster = _runtime().Booster(model_str=text, params={"num_threads": self.threads, "verbosity": -1})
        return _LightGbmTrees(booster, header, self.threads)

    @classmethod
    def version(cls) -> str:
        return str(_runtime().__version__)


class _LightGbmTrees(Trees):
    def __init__(self, booster: Any, header: dict[str, str], threads: int) -> None:
        self._booster = booster
        self._threads = threads
        self.objective = header.get("objective", "").partition(" ")[0] or "custom"
        names = header["feature_names"].split()
        self._codes = _categories(booster, header, names)
        texts = tuple(name in self._codes for name in names)
        self.columns = Columns(texts, None if all(map(_DEFAULT_NAMES.fullmatch, names)) else tuple(names))
        classes = int(header["num_class"])
        self._probable = self.objective in _PROBABLE
        if self._probable:
            self._classes = np.arange(max(classes, 2), dtype=np.int64)
            self.labels = tuple(map(str, self._classes))

    def example(self) -> list[float | str]:
        return [next(iter(self._codes[name]), "") if name in self._codes else 0.0 for name in self.columns.keys]

    def predict(self, batch: Tensors) -> Tensors:
        values = np.asarray(self._booster.predict(self._rows(batch), num_threads=self._threads))
        if not self._probable:
            return {"output": values}
        return classified(both(values) if values.ndim == 1 else values, self._classes)

    def _rows(self, batch: Tensors) -> Array:
        if not self._codes:
            return self.columns.matrix(batch)
        columns = zip(self.columns.keys, self.columns.of(batch), strict=True)
        return np.stack([self._numbers(name, column) for name, column in columns], axis=1)

    def _numbers(self, name: str, column: Array) -> Array:
        codes = self._codes.get(name)
        if codes is None:
            return np.asarray(column, np.float64)
        # One that was not seen in training is missing, as it is for LightGBM with a data frame.
        return np.array([np.nan if text == MISSING_TEXT else codes.get(text, np.nan) for text in column], np.float64)


def _categories(booster: Any, header: dict[str, str], names: list[str]) -> dict[str, dict[str, int]]:
    """The numbers of the categories of the columns that were strings in training, by their names."""
    known: list[list[Any]] = booster.pandas_categorical or []
    infos = header["feature_infos"].split()
    # A data frame's categories stand in the order of its columns; a column that was of no use is "none".
    columns = [name for name, info in zip(names, infos, strict=True) if not info.startswith("[") and info != "none"]
    if len(columns) != len(known):
        return {}
    return {
        name: {text: number for number, text in enumerate(values)}
        for name, values in zip(columns, known, strict=True)
        if all(isinstance(value, str) for value in values)
    }


def _checked(path: Path, text: str) -> dict[str, str]:
    """The header's values, of a file that is whole: LightGBM ends the process on one that is not."""
    try:
        if not _BEGIN.match(text):
            raise ValueError
        head, _, rest = text.replace("\r\n", "\n").partition("\n\n")
        header = dict(line.partition("=")[::2] for line in head.splitlines() if "=" in line)
        sizes = [int(size) for size in header["tree_sizes"].split()]
        data = rest.encode("utf-8", "replace")
        at = 0
        for number, size in enumerate(sizes):
            if size <= 0 or not data.startswith(b"Tree=%d\n" % number, at):
                raise ValueError
            _check_tree(data[at : at + size].decode("utf-8", "replace"))
            at += size
        if not data.startswith(b"end of trees", at) or "pandas_categorical:" not in text[-(1 << 20) :]:
            raise ValueError
        json.loads(text.rpartition("pandas_categorical:")[2] or "null")
        count = int(header["max_feature_idx"]) + 1
        if not len(header["feature_names"].split()) == len(header["feature_infos"].split()) == count:
            raise ValueError
        int(header["num_class"])
        return header
    except (ValueError, KeyError):
        raise ModelFileError(
            f"{path.name} is not a LightGBM model, or is truncated or corrupt. Save it again with save_model.",
            field="model_path",
        ) from None


def _check_tree(block: str) -> None:
    """Raises `ValueError` or `KeyError` unless a tree has the nodes and leaves that it says, and leads nowhere else."""
    tree = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
    leaves = int(tree["num_leaves"])
    if leaves < 1 or len(tree["leaf_value"].split()) != leaves:
        raise ValueError
    if leaves == 1:
        return
    inner = leaves - 1
    for key in ("left_child", "right_child"):
        children = [int(child) for child in tree[key].split()]
        if len(children) != inner or not all(-leaves <= child < inner for child in children):
            raise ValueError
    for key in ("split_feature", "threshold", "decision_type"):
        if len(tree[key].split()) != inner:
            raise ValueError


class _Silent:
    """A logger that says nothing: LightGBM prints by default."""

    def info(self, message: str) -> None:
        """Drops it."""

    warning = info


def _silence() -> None:
    _runtime().register_logger(_Silent())


def _runtime() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise MissingRuntime("LightGBM", "lightgbm") from None
    return lightgbm
