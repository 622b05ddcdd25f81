"""What is made of a network's outputs: the common part of all heads, and those that classify a text or rank a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from backends.base import PAIR, TRUNCATE, ModelFileError, Tensors, TensorSpec
from backends.transformers.folder import Folder
from backends.transformers.library import Network
from backends.transformers.options import TextOptions, at_least
from backends.transformers.tokens import Encoded, Reader, Tokenizer, length_of

Array = NDArray[Any]
COUNTS = TensorSpec("tokens", "int32", ("batch",))
SENTENCE = "The quick brown fox."


class ClassifyOptions(TextOptions, frozen=True, forbid_unknown_fields=True):
    """The options of a Hugging Face folder that classifies."""

    candidates: int = 20
    """How many words a model that fills gaps proposes for each."""
    aggregation: Literal["simple", "first", "average", "max", "none"] = "simple"
    """How tokens become entities: ``simple`` joins neighbours of one kind; ``first``, ``average`` and ``max`` decide of
    which kind a word is before; ``none`` gives each token alone."""

    def check(self) -> None:
        """Raises `InvalidOption` for a value that is out of range."""
        super().check()
        at_least("candidates", self.candidates, 1)


class Head(ABC):
    """One way to use a network. Made once its folder is loaded."""

    task: ClassVar[str]
    loader: ClassVar[str]
    """The class of the library that loads the network."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("text", "string", ("batch",)),)
    outputs: tuple[TensorSpec, ...] = ()
    optional: tuple[TensorSpec, ...] = (TRUNCATE,)
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, folder: Folder, network: Network, options: ClassifyOptions, *, trusted: bool) -> None:
        self.folder = folder
        self.network = network
        self.options = options
        self.trusted = trusted
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Reads what else the folder has. Raises `ModelFileError`."""

    @abstractmethod
    def example(self) -> Tensors:
        """One valid row."""

    @abstractmethod
    def predict(self, batch: Tensors) -> Tensors:
        """As `TensorBackend.predict`."""

    def settle(self) -> None:  # noqa: B027 - not every head has to
        """Finds out how rows can be computed together, once the head has been found to work."""


class TextHead(Head):
    """Base of the heads that read texts."""

    reader: Reader
    for_each_token: ClassVar[bool] = False
    """Whether the network's outputs are for each token, instead of for each text."""

    def prepare(self) -> None:
        """Makes the reader."""
        self.network.config.use_cache = False
        tokenizer = Tokenizer(self.network.library, self.folder, trusted=self.trusted)
        length = length_of(self.network, tokenizer, self.options.max_context_length)
        self.reader = Reader(tokenizer, self.network, length, self.options.truncate)
        self.metadata = {"context_length": str(length)}

    def settle(self) -> None:
        """Joins texts or pads them."""
        self.reader.settle(self.predict, self.example(), join=self.for_each_token)

    def example(self) -> Tensors:
        """A short sentence."""
        return {"text": np.array([SENTENCE], dtype=object)}

    def encoded(self, batch: Tensors, *, places: bool = False) -> list[Encoded]:
        """The tokens of all texts of a batch, or of all pairs. Raises `InvalidInput`."""
        texts = batch["text"].tolist()
        pairs = batch[PAIR.name].tolist() if PAIR.name in batch else [None] * len(texts)
        wishes = self.wishes(batch, len(texts))
        return [
            self.reader.encode(text, self.called(i, len(texts)), wishes[i], pair=pairs[i], places=places)
            for i, text in enumerate(texts)
        ]

    @staticmethod
    def wishes(batch: Tensors, rows: int) -> list[bool | None]:
        """Of each text, whether it may be cut; `None` where its request does not say."""
        return batch[TRUNCATE.name].tolist() if TRUNCATE.name in batch else [None] * rows

    @staticmethod
    def called(i: int, rows: int) -> str:
        """What errors call a text."""
        return f"Text {i}" if rows > 1 else "The text"

    def rows(self, encoded: Sequence[Encoded], *names: str) -> list[tuple[Array, ...]]:
        """For each text the outputs of these names, of its own tokens where they have a row for each."""
        found: list[tuple[Array, ...]] = [()] * len(encoded)
        for group, mask, outputs in self.reader.compute(encoded, *names):
            arrays = [output.float().cpu().numpy() for output in outputs]
            width = mask.shape[1]
            for row, i in enumerate(group):
                own = (array[row] for array in arrays)
                found[i] = tuple(a[: len(encoded[i])] if a.ndim and len(a) == width else a for a in own)
        return found

    @staticmethod
    def counts(encoded: Sequence[Encoded]) -> NDArray[np.int32]:
        """The output `COUNTS`."""
        return np.array([len(each) for each in encoded], np.int32)


class ClassHead(TextHead):
    """Input ``text``, and `PAIR` for two texts; outputs ``probabilities`` f32 [batch, classes] and ``tokens``. A model
    whose problem is a regression gives ``scores``, as they are, instead of the former.
    """

    task = "text-classification"
    optional = (TRUNCATE, PAIR)
    loader = "AutoModelForSequenceClassification"

    def prepare(self) -> None:
        super().prepare()
        self.labels = self.folder.labels
        count = int(self.network.config.num_labels)
        if len(self.labels) != count:
            raise ModelFileError(
                f"{self.folder.name} is corrupt: it has {len(self.labels)} labels for {count} classes."
            )
        self._activation, name, self.notes = activation_of(self.folder.config)
        self.outputs = (TensorSpec(name, "float32", ("batch", count)), COUNTS)

    def predict(self, batch: Tensors) -> Tensors:
        encoded = self.encoded(batch)
        logits = np.stack([row for (row,) in self.rows(encoded, "logits")])
        return {self.outputs[0].name: self._activation(logits), "tokens": self.counts(encoded)}


class RankHead(TextHead):
    """Inputs ``query`` and ``text``; outputs ``score`` f32 [batch], higher for a better answer, and ``tokens``."""

    task = "rerank"
    loader = "AutoModelForSequenceClassification"
    inputs = (TensorSpec("query", "string", ("batch",)), TensorSpec("text", "string", ("batch",)))
    outputs = (TensorSpec("score", "float32", ("batch",)), COUNTS)

    def prepare(self) -> None:
        super().prepare()
        own = self.folder.config.get("sentence_transformers")
        function = own.get("activation_fn") if isinstance(own, dict) else None
        function = function or self.folder.config.get("sbert_ce_default_activation_function")
        self._raw = str(function).endswith("Identity")  # else a sigmoid, as sentence-transformers does

    def example(self) -> Tensors:
        texts = ("capital of France", "It is Paris.")
        return {name: np.array([text], dtype=object) for name, text in zip(("query", "text"), texts, strict=True)}

    def predict(self, batch: Tensors) -> Tensors:
        queries, texts = batch["query"].tolist(), batch["text"].tolist()
        wishes = self.wishes(batch, len(texts))
        encoded = [
            self.reader.encode(
                query,
                f"Pair {i} of query and text" if len(texts) > 1 else "The pair of query and text",
                wishes[i],
                pair=text,
            )
            for i, (query, text) in enumerate(zip(queries, texts, strict=True))
        ]
        logits = np.array([row[0] for (row,) in self.rows(encoded, "logits")], np.float32)
        return {"score": logits if self._raw else sigmoid(logits), "tokens": self.counts(encoded)}


def activation_of(config: Mapping[str, Any]) -> tuple[Callable[[Array], Array], str, tuple[str, ...]]:
    """What the library makes of the logits of a model that classifies, by ``problem_type``; the name of what comes out;
    notes."""
    problem = config.get("problem_type")
    if problem == "multi_label_classification":
        note = "Each class has a probability of its own (problem_type), so they do not sum to 1."
        return sigmoid, "probabilities", (note,)
    if problem == "regression":
        return _unchanged, "scores", ("The scores are numbers and no probabilities (problem_type).",)
    return softmax, "probabilities", ()


def _unchanged(logits: Array) -> Array:
    return logits.astype(np.float32)


def softmax(logits: Array) -> Array:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    chances: Array = powers / powers.sum(axis=-1, keepdims=True)
    return chances


def sigmoid(logits: Array) -> Array:
    """A probability for each logit."""
    with np.errstate(over="ignore"):
        chances: Array = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return chances


def ragged(rows: Sequence[Sequence[Any]], dtype: Any, fill: Any) -> Array:
    """Rows of different lengths as one array [rows, longest], `fill` where a row has nothing."""
    array = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array
