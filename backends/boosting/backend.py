"""What the backends of boosted trees share: options, signature, errors, threads."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from backends.base import (
    NO_MATCH,
    BackendError,
    Device,
    InvalidInput,
    InvalidOption,
    Match,
    ModelFileError,
    ModelInfo,
    TensorBackend,
    Tensors,
    TensorSpec,
)
from backends.boosting import rehearsal
from backends.boosting.columns import MISSING_TEXT, Array, Columns

_HEAD = 4096


class BoostingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of boosted trees."""

    threads: int = 1
    """CPU threads for one batch, at most the worker's. One is fastest for the few rows of a request."""


class Trees:
    """A model that was read: what it takes, and what it gives."""

    columns: Columns
    labels: tuple[str, ...] | None = None
    """The names of the classes, of a classifier."""
    notes: tuple[str, ...] = ()
    integers: bool = False
    """Whether integers may be given in columns of texts, and mean their digits."""
    objective: str = ""

    @abstractmethod
    def predict(self, batch: Tensors) -> Tensors:
        """`label` and `probabilities` of a classifier, else `output`."""


class BoostingBackend(TensorBackend):
    """Owns a model of boosted trees."""

    Options: ClassVar[type[msgspec.Struct]] = BoostingOptions
    rows_at_once = 1024

    library: ClassVar[str]
    """Its name, for messages."""
    suffix: ClassVar[str] = ""
    """What alone lets a file be taken for one of these, though it does not begin like one."""

    _trees: Trees | None = None
    _bytes = 0

    @classmethod
    def sniff(cls, path: Path) -> Match:
        """By how the file begins."""
        try:
            if not path.is_file():
                return NO_MATCH
            head = head_of(path)
        except (OSError, ValueError):
            return NO_MATCH
        if cls.begins(head):
            return Match(0.95)
        return Match(0.5) if cls.suffix and path.suffix.lower() == cls.suffix else NO_MATCH

    @classmethod
    @abstractmethod
    def begins(cls, head: bytes) -> bool:
        """Whether `head` is the beginning of a file of the library."""

    @abstractmethod
    def check(self, path: Path) -> None:
        """Raises `MissingRuntime`, and `ModelFileError` for what can be told of a bad file without the library."""

    @abstractmethod
    def read(self, path: Path) -> Trees:
        """Reads a model for `self.threads` threads. What it raises besides `BackendError` is about the file."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Of the library."""

    def load(self, path: Path, device: Device, options: BoostingOptions) -> ModelInfo:
        if options.threads < 1:
            raise InvalidOption(f"Option threads must be at least 1; got {options.threads}.", field="config.threads")
        if not path.is_file():
            raise ModelFileError(f"{path} is not a file.", field="model_path")
        self.check(path)
        rehearsal.check(path, type(self))
        answer = self.open(path, min(options.threads, device.threads))
        trees = self.trees
        self._bytes = path.stat().st_size
        metadata = {"objective": trees.objective}
        if trees.columns.names is not None:
            metadata["columns"] = json.dumps(trees.columns.names, ensure_ascii=False)
        if any(trees.columns.texts):
            metadata["missing"] = MISSING_TEXT
        if trees.integers:
            metadata["integers"] = "texts"
        return ModelInfo(
            task="tabular",
            inputs=trees.columns.specs,
            outputs=tuple(
                TensorSpec(name, "string" if array.dtype == object else array.dtype.name, ("batch", *array.shape[1:]))
                for name, array in answer.items()
            ),
            labels=trees.labels,
            runtime=f"{self.name} {self.version()}",
            device="cpu",
            metadata=metadata,
            notes=trees.notes,
        )

    def open(self, path: Path, threads: int) -> Tensors:
        """Reads the file and computes a row of it. Damaged files may end the process."""
        self.threads = threads
        try:
            self._trees = self.read(path)
            return self._trees.predict(self.example())
        except BackendError:
            raise
        except Exception as e:
            raise ModelFileError(f"{path.name} is truncated or corrupt: {first_sentence(e)}", field="model_path") from e

    @property
    def trees(self) -> Trees:
        """The model, after `load`."""
        assert self._trees is not None
        return self._trees

    def example(self) -> Tensors:
        columns = self.trees.columns
        return columns.example(columns.first())

    def predict(self, batch: Tensors) -> Tensors:
        try:
            return self.trees.predict(batch)
        except BackendError:
            raise
        except Exception as e:  # the model computed its example, so the values of this request are at fault
            raise InvalidInput(f"The model refuses these values: {first_sentence(e)}", field="input") from e

    def memory(self) -> int:
        """The size of the file: the libraries do not tell, and their trees are about as large."""
        return self._bytes

    def close(self) -> None:
        self._trees = None


def head_of(path: Path) -> bytes:
    """The beginning of a file."""
    with path.open("rb") as file:
        return file.read(_HEAD)


def classified(probabilities: Array, classes: Array) -> Tensors:
    """The answer of a classifier: the likeliest of `classes` for each row, and the probability of each."""
    return {"label": classes.take(probabilities.argmax(axis=1)), "probabilities": np.ascontiguousarray(probabilities)}


def both(positive: Array) -> Array:
    """The probabilities of two classes, from that of the second: [rows] to [rows, 2]."""
    return np.stack((1 - positive, positive), axis=1)


def first_sentence(error: BaseException) -> str:
    """The start of a library's message, without what it says of its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    head, at, tail = text.partition(": ")
    if at and any(mark in head for mark in (".cc", ".cpp", ".cu", ".h")):
        text = tail
    return f"{text[:300].rstrip('.')}."
