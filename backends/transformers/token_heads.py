"""Heads that say something of single tokens: what they are, which word belongs in a gap, where an answer is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from backends.base import InvalidInput, ModelFileError, Tensors, TensorSpec
from backends.transformers.heads import COUNTS, Array, TextHead, ragged, softmax
from backends.transformers.tokens import Encoded

_OUTSIDE = "O"
"""The label of tokens that are part of no entity."""
_WINDOW = 384
_STRIDE = 128
"""Tokens of a window that a long context is read through, and of those that neighbours have in common."""
_LONGEST_ANSWER = 15
"""Tokens."""


class Entity(NamedTuple):
    """Something that a text names."""

    label: str
    score: float
    start: int
    """In characters."""
    end: int


class TokenHead(TextHead):
    """Base of the heads that need an output for each token alone."""

    for_each_token = True


class EntityHead(TokenHead):
    """Input ``text``; outputs of [batch, entities]: ``label``, ``word``, ``score``, ``start`` and ``end`` in
    characters; a row with fewer entities than others ends in empty labels. And ``tokens``."""

    task = "token-classification"
    loader = "AutoModelForTokenClassification"
    outputs = (
        TensorSpec("label", "string", ("batch", "entities"), fill=""),
        TensorSpec("word", "string", ("batch", "entities"), fill=""),
        TensorSpec("score", "float32", ("batch", "entities"), fill=0),
        TensorSpec("start", "int32", ("batch", "entities"), fill=-1),
        TensorSpec("end", "int32", ("batch", "entities"), fill=-1),
        COUNTS,
    )

    def prepare(self) -> None:
        super().prepare()
        self.reader.tokenizer.check_places(self.folder)
        self.labels = self.folder.labels
        if len(self.labels) != int(self.network.config.num_labels):
            raise ModelFileError(f"{self.folder.name} is corrupt: its labels are not as many as its classes.")

    def predict(self, batch: Tensors) -> Tensors:
        encoded = self.encoded(batch, places=True)
        assert self.labels is not None
        found = []
        for row, (logits,) in zip(encoded, self.rows(encoded, "logits"), strict=True):
            found.append(list(entities(row, softmax(logits), self.labels, self.options.aggregation)))
        words = [[text[e.start : e.end] for e in row] for text, row in zip(batch["text"].tolist(), found, strict=True)]
        return {
            "label": ragged([[e.label for e in row] for row in found], object, ""),
            "word": ragged(words, object, ""),
            "score": ragged([[e.score for e in row] for row in found], np.float32, 0),
            "start": ragged([[e.start for e in row] for row in found], np.int32, -1),
            "end": ragged([[e.end for e in row] for row in found], np.int32, -1),
            "tokens": self.counts(encoded),
        }


def entities(text: Encoded, scores: Array, labels: Sequence[str], aggregation: str) -> Iterator[Entity]:
    """The entities of a text, by the probabilities [tokens, classes] of its tokens."""
    pieces = _pieces(text, scores, aggregation)
    if aggregation == "none":
        named = (Entity(labels[int(s.argmax())], float(s.max()), start, end) for s, start, end in pieces)
        yield from (each for each in named if each.label != _OUTSIDE)
        return
    group: list[Entity] = []
    for s, start, end in pieces:
        piece = Entity(labels[int(s.argmax())], float(s.max()), start, end)
        if group and (piece.label.startswith("B-") or _kind(piece.label) != _kind(group[-1].label)):
            yield from _joined(group)
            group = []
        group.append(piece)
    yield from _joined(group)


def _pieces(text: Encoded, scores: Array, aggregation: str) -> Iterator[tuple[Array, int, int]]:
    """Probabilities and place of each token that is no special one, or of each word."""
    assert text.offsets is not None
    assert text.words is not None
    places = [i for i, word in enumerate(text.words) if word is not None]
    if aggregation in ("none", "simple"):
        yield from ((scores[i], *text.offsets[i]) for i in places)
        return
    for _, tokens in groupby(places, key=lambda i: text.words[i] if text.words else None):
        word = list(tokens)
        own = scores[word]
        if aggregation == "average":
            chances = own.mean(axis=0)
        else:
            chances = own[0] if aggregation == "first" else own[int(own.max(axis=1).argmax())]
        yield chances, text.offsets[word[0]][0], text.offsets[word[-1]][1]


def _kind(label: str) -> str:
    """A label without the mark of what begins and what goes on."""
    return label[2:] if label.startswith(("B-", "I-")) else label


def _joined(group: Sequence[Entity]) -> Iterator[Entity]:
    if group and _kind(group[0].label) != _OUTSIDE:
        score = float(np.mean([each.score for each in group]))
        yield Entity(_kind(group[0].label), score, group[0].start, group[-1].end)


class GapHead(TokenHead):
    """Input ``text``, which has the mask token in each gap; outputs of [batch, gaps, candidates], best first: ``word``,
    ``index`` (its token) and ``score``. A row with fewer gaps than others ends in empty words. And ``tokens``."""

    task = "fill-mask"
    loader = "AutoModelForMaskedLM"

    def prepare(self) -> None:
        super().prepare()
        inner = self.reader.tokenizer.inner
        if inner.mask_token_id is None:
            raise ModelFileError(f"The tokenizer of {self.folder.name} has no token for gaps.")
        self._mask, self._mask_text = int(inner.mask_token_id), str(inner.mask_token)
        self._count = min(self.options.candidates, int(self.network.config.vocab_size))
        shape = ("batch", "gaps", self._count)
        self.outputs = (
            TensorSpec("word", "string", shape, fill=""),
            TensorSpec("index", "int32", shape, fill=-1),
            TensorSpec("score", "float32", shape, fill=0),
            COUNTS,
        )
        self.metadata = {**self.metadata, "mask": self._mask_text}

    def example(self) -> Tensors:
        return {"text": np.array([f"The quick {self._mask_text} fox."], dtype=object)}

    def predict(self, batch: Tensors) -> Tensors:
        encoded = self.encoded(batch)
        places = [[i for i, token in enumerate(row.ids) if token == self._mask] for row in encoded]
        for i, gaps in enumerate(places):
            if not gaps:
                name = self.called(i, len(encoded))
                raise InvalidInput(f"{name} has no gap; mark one with {self._mask_text}.", field="input")
        shape = (len(encoded), max(map(len, places)), self._count)
        words, index = np.full(shape, "", object), np.full(shape, -1, np.int32)
        scores = np.zeros(shape, np.float32)
        decode = self.reader.tokenizer.inner.decode
        for i, (logits,) in enumerate(self.rows(encoded, "logits")):
            chances = softmax(logits[places[i]])
            best = np.argsort(-chances, axis=1, kind="stable")[:, : self._count]
            gaps_here = slice(0, len(best))
            index[i, gaps_here] = best
            scores[i, gaps_here] = np.take_along_axis(chances, best, axis=1)
            words[i, gaps_here] = [[decode([token]).strip() for token in row] for row in best.tolist()]
        return {"word": words, "index": index, "score": scores, "tokens": self.counts(encoded)}


@dataclass(frozen=True)
class _Window:
    """A part of a context, as the network reads it behind the question."""

    row: int
    encoded: Encoded


class AnswerHead(TokenHead):
    """Inputs ``question`` and ``context``; outputs of [batch]: ``answer``, ``score``, ``start`` and ``end`` in
    characters of the context, and ``tokens``. A context that is too long is read through windows that overlap."""

    task = "question-answering"
    loader = "AutoModelForQuestionAnswering"
    inputs = (TensorSpec("question", "string", ("batch",)), TensorSpec("context", "string", ("batch",)))
    outputs = (
        TensorSpec("answer", "string", ("batch",)),
        TensorSpec("score", "float32", ("batch",)),
        TensorSpec("start", "int32", ("batch",)),
        TensorSpec("end", "int32", ("batch",)),
        COUNTS,
    )
    optional = ()

    def prepare(self) -> None:
        super().prepare()
        self.reader.tokenizer.check_places(self.folder)
        self._window = min(self.reader.length, _WINDOW)

    def example(self) -> Tensors:
        texts = {"question": "Where is the fox?", "context": "The fox is in the forest."}
        return {name: np.array([text], dtype=object) for name, text in texts.items()}

    def predict(self, batch: Tensors) -> Tensors:
        questions, contexts = batch["question"].tolist(), batch["context"].tolist()
        windows = [
            _Window(row, encoded)
            for row, pair in enumerate(zip(questions, contexts, strict=True))
            for encoded in self._windows(*pair)
        ]
        outputs = self.rows([window.encoded for window in windows], "start_logits", "end_logits")
        best: list[tuple[float, int, int]] = [(-1.0, 0, 0)] * len(questions)
        counts = np.zeros(len(questions), np.int32)
        for window, (starts, ends) in zip(windows, outputs, strict=True):
            best[window.row] = max(best[window.row], _span(window.encoded, starts, ends), key=lambda each: each[0])
            counts[window.row] += len(window.encoded)
        return {
            "answer": np.array([c[s:e] for c, (_, s, e) in zip(contexts, best, strict=True)] + [None], object)[:-1],
            "score": np.array([score for score, _, _ in best], np.float32),
            "start": np.array([start for _, start, _ in best], np.int32),
            "end": np.array([end for _, _, end in best], np.int32),
            "tokens": counts,
        }

    def _windows(self, question: str, context: str) -> list[Encoded]:
        """A context in parts that fit behind the question. Raises `InvalidInput`."""
        for name, text in (("question", question), ("context", context)):
            if not text.strip():
                raise InvalidInput(f"The {name} is empty.", field=f"input.{name}")
        whole = self.reader.tokenizer.encode(question, context, places=True)
        if len(whole) <= self._window:
            return [whole]
        room = self._window - (len(whole) - sum(each == 1 for each in whole.sequences or ()))
        if room < 2 * 8:
            raise InvalidInput(
                f"The question takes up {self._window - room} of the {self._window} tokens that are read at once; "
                "shorten it.",
                field="input.question",
            )
        return list(self._cut(whole, room))

    @staticmethod
    def _cut(whole: Encoded, room: int) -> Iterator[Encoded]:
        """Windows on a pair whose second text is too long, with so many tokens of that in each."""
        assert whole.sequences is not None
        own = [i for i, each in enumerate(whole.sequences) if each == 1]
        first, last = own[0], own[-1] + 1
        step = max(1, room - min(_STRIDE, room // 2))
        begin = first
        while True:
            end = min(begin + room, last)
            kept = [*range(first), *range(begin, end), *range(last, len(whole))]
            yield Encoded(
                *(_taken(part, kept) for part in (whole.ids, whole.types, whole.offsets, whole.sequences, whole.words))
            )
            if end == last:
                return
            begin += step


def _taken(part: Sequence[Any] | None, kept: Sequence[int]) -> Any:
    return None if part is None else [part[i] for i in kept]


def _span(text: Encoded, starts: Array, ends: Array) -> tuple[float, int, int]:
    """The likeliest answer in a window: its score, and where it begins and ends in the context, at whole words."""
    assert text.sequences is not None
    assert text.offsets is not None
    assert text.words is not None
    context = np.array([each == 1 for each in text.sequences])
    begin, end = (softmax(np.where(context, logits, -np.inf)) for logits in (starts, ends))
    chances = np.tril(np.triu(np.outer(begin, end)), _LONGEST_ANSWER - 1)
    first, last = np.unravel_index(int(chances.argmax()), chances.shape)
    words = {text.words[first], text.words[last]}
    inside = [
        text.offsets[i]
        for i, each in enumerate(text.sequences)
        if each == 1 and (first <= i <= last or text.words[i] in words)
    ]
    return float(chances[first, last]), min(o[0] for o in inside), max(o[1] for o in inside)
