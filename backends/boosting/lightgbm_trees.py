"""LightGBM's own files: text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import MissingRuntime, ModelFileError, Tensors
from backends.boosting.backend import BoostingBackend, Trees, both, classified
from backends.boosting.columns import Codes, Columns, are_texts, codes_of

_BEGIN = re.compile(r"tree\r?\nversion=v\d+\r?\n")
_DEFAULT_NAMES = re.compile(r"Column_\d+")
_PROBABLE = ("binary", "multiclass", "softmax", "multiclassova", "cross_entropy", "xentropy")


class LightGbmBackend(BoostingBackend):
    """A booster of LightGBM."""

    name = "lightgbm"
    summary = "LightGBM models: .txt"
    package = "lightgbm"
    extra = "lightgbm"
    library = "LightGBM"

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return bool(_BEGIN.match(head.decode("utf-8", "replace")))

    def check(self, path: Path) -> None:
        _check(path, path.read_text("utf-8", "replace"))
        _runtime()

    def read(self, path: Path) -> Trees:
        text = path.read_text("utf-8", "replace")
        header = _pairs(text.replace("\r\n", "\n").partition("\n\n")[0])
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
        codes, self.notes = _categories(booster, header)
        self.columns = Columns(
            tuple(are_texts(codes.get(i, {})) for i in range(len(names))),
            None if all(map(_DEFAULT_NAMES.fullmatch, names)) else tuple(names),
            codes,
        )
        classes = int(header["num_class"])
        self._probable = self.objective in _PROBABLE
        if self._probable:
            self._classes = np.arange(max(classes, 2), dtype=np.int64)
            self.labels = tuple(map(str, self._classes))

    def predict(self, batch: Tensors) -> Tensors:
        values = np.asarray(self._booster.predict(self.columns.matrix(batch), num_threads=self._threads))
        if not self._probable:
            return {"output": values}
        return classified(both(values) if values.ndim == 1 else values, self._classes)


def _categories(booster: Any, header: dict[str, str]) -> tuple[dict[int, Codes], tuple[str, ...]]:
    """The numbers of the categories by the places of their columns, and a note if the file does not tell the places.

    A data frame's categories stand in the file in the order of its columns, but not which columns these are.
    """
    known: list[list[Any]] = booster.pandas_categorical or []
    if not known:
        return {}, ()
    infos = header["feature_infos"].split()
    by_use = [i for i, info in enumerate(infos) if not info.startswith("[") and info != "none"]  # which is: of no use
    for places in (sorted(booster.params.get("categorical_feature") or ()), by_use):
        if len(places) == len(known):
            return {place: codes_of(values) for place, values in zip(places, known, strict=True)}, ()
    shown = " and ".join(f"[{', '.join(map(str, values[:5]))}{', …' if values[5:] else ''}]" for values in known)
    return {}, (
        f"The file has categories ({shown}), but does not say of which columns: give their numbers, 0 for the first of "
        "its list and so on.",
    )


def _pairs(lines: str) -> dict[str, str]:
    """The values by their keys."""
    return dict(line.partition("=")[::2] for line in lines.splitlines() if "=" in line)


def _check(path: Path, text: str) -> None:
    """Raises `ModelFileError` unless a file is whole: of most that are not, LightGBM would not say what is wrong."""
    try:
        if not _BEGIN.match(text):
            raise ValueError
        head, _, rest = text.replace("\r\n", "\n").partition("\n\n")
        header = _pairs(head)
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
    except (ValueError, KeyError):
        raise ModelFileError(
            f"{path.name} is not a LightGBM model, or is truncated or corrupt. Save it again with save_model.",
            field="model_path",
        ) from None


def _check_tree(block: str) -> None:
    """Raises `ValueError` or `KeyError` unless a tree has the nodes and leaves that it says, and leads nowhere else."""
    tree = _pairs(block)
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
