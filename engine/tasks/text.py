"""Text classification: a text or a list of texts in, ranked labels out."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.base import PAIR, InvalidInput, ModelInfo, Tensors, TensorSpec
from engine import codec
from engine.codec import Decoded, Form
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters, TensorTask
from engine.tasks.labels import load_labels, probabilities, ranked, told
from engine.tasks.text_input import decode_text, only_input


class TextTask(TensorTask):
    """Takes a string or a list of strings; of models that judge pairs also ``{"text": …, "text_pair": …}``, or a list.

    The answer is, for each text, the `top_k` likeliest labels, best first::

        [{"label": "spam", "index": 1, "score": 0.98}, {"label": "ham", "index": 0, "score": 0.02}]

    `score` is a probability where the model gives one, else the score of its decision function, else null.
    """

    name = "text-classification"
    takes = frozenset({"top_k"})
    plain_answers = False

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        self._input = only_input(info, self.name)
        self._scores = _scores_output(info.outputs)
        classes = _classes(self._scores)
        self._labels = load_labels(options.labels, info.labels, classes)
        self.findings = (told(self._labels, options.labels, classes),)

    def decode(self, form: Form, value: Any) -> Decoded:
        """Texts, or pairs of them."""
        items = value if isinstance(value, list) else [value]
        if PAIR not in self.info.optional or not any(isinstance(item, dict) for item in items):
            return super().decode(form, value)
        specs = (*self.info.inputs, PAIR)
        names = [spec.name for spec in specs]
        if form == "input" and isinstance(value, list):
            for i, item in enumerate(items):
                if not isinstance(item, dict) or item.keys() != set(names):
                    raise InvalidInput(
                        f"input[{i}] must be an object with {names[0]!r} and {names[1]!r}, as pairs of texts are.",
                        field=f"input[{i}]",
                    )
            value = {name: [item[name] for item in items] for name in names}
        elif form != "instances" and PAIR.name not in value:
            return super().decode(form, value)
        return codec.decode(form, value, specs)

    def decode_bytes(self, data: memoryview, content_type: str) -> Decoded:
        """A ``text/plain`` body as one text."""
        text = decode_text(data, content_type)
        return Decoded({self._input.name: np.array([text], dtype=object)}, True)

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """For each text the best labels with their scores, best first."""
        top_k = self.options.top_k if parameters.top_k is None else parameters.top_k
        if self._scores is None:
            answers = self._bare(outputs)
        else:
            answers = [ranked(row, self._labels, top_k) for row in self._rows(outputs[self._scores.name])]
        return answers[0] if single and form == "input" else answers

    def example(self, row: Tensors) -> Any:
        """A single text."""
        return row[self._input.name].tolist()[0]

    def _rows(self, scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The scores as [batch, classes]."""
        if scores.ndim == 1:  # the decision function of two classes: how much it speaks for the second
            scores = np.stack([-scores, scores], axis=1)
        assert self._scores is not None
        known = self._scores.name in _SCORES  # these are no logits
        return probabilities(scores, bool(self.options.softmax) if known else self.options.softmax)

    def _bare(self, outputs: Tensors) -> list[list[dict[str, Any]]]:
        """Answers of a model that gives labels alone."""
        names = next(iter(outputs.values())).tolist()
        index = {name: i for i, name in enumerate(self._labels or ())}
        return [[{"label": str(name), "index": index.get(str(name)), "score": None}] for name in names]


_SCORES = ("probabilities", "scores")
"""Names of outputs that hold a score for each class, as backends give them that know."""


def _scores_output(outputs: tuple[TensorSpec, ...]) -> TensorSpec | None:
    """The output that holds a score for each class: by its name, else the only matrix of floats."""
    by_name = {spec.name: spec for spec in outputs}
    named = [by_name[name] for name in _SCORES if name in by_name]
    floats = [spec for spec in outputs if spec.dtype.startswith("float") and len(spec.shape) == 2]
    return named[0] if named else floats[0] if len(floats) == 1 else None


def _classes(scores: TensorSpec | None) -> int | None:
    """How many classes are scored; `None` when the model does not say."""
    if scores is None:
        return None
    if len(scores.shape) == 1:
        return 2
    return scores.shape[1] if isinstance(scores.shape[1], int) else None
