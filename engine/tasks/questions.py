"""Question answering: a question and a text in, the part of the text that answers it out."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.base import InvalidInput, InvalidOption, ModelInfo, Tensors
from engine.codec import Decoded, Form, kind_of
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters, TensorTask

_INPUTS = ("question", "context")
_FIELDS = ("answer", "score", "start", "end")


class QuestionTask(TensorTask):
    """Takes ``{"question": "…", "context": "…"}``, or a list of them.

    The answer to each is a part of its context::

        {"answer": "in the forest", "score": 0.87, "start": 11, "end": 24}

    `start` and `end` count characters of the context.
    """

    name = "question-answering"
    plain_answers = False

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        if {s.name for s in info.inputs} != set(_INPUTS) or not {s.name for s in info.outputs} >= set(_FIELDS):
            raise InvalidOption(
                f"The task {self.name} needs a model with the inputs question and context, and the outputs "
                f"{', '.join(_FIELDS)}; this one has others.",
                field="task",
            )

    def decode(self, form: Form, value: Any) -> Decoded:
        """A row for each question."""
        if form == "inputs":
            return super().decode(form, value)
        several = isinstance(value, list)
        if form == "instances" and not several:
            raise InvalidInput("instances must be a list of questions with their contexts.", field=form)
        items = value if several else [value]
        if not items:
            raise InvalidInput(f"{form} has no questions.", field=form)
        pairs = [self._pair(item, f"{form}[{i}]" if several else form) for i, item in enumerate(items)]
        columns = zip(_INPUTS, zip(*pairs, strict=True), strict=True)
        return Decoded({name: np.array(column, dtype=object) for name, column in columns}, not several)

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:  # noqa: ARG002
        """The answer to each question."""
        columns = [outputs[name].tolist() for name in _FIELDS]
        rows = [dict(zip(_FIELDS, row, strict=True)) for row in zip(*columns, strict=True)]
        return rows[0] if single and form == "input" else rows

    def example(self, row: Tensors) -> Any:
        """A single question."""
        return {name: row[name].tolist()[0] for name in _INPUTS}

    @staticmethod
    def _pair(item: Any, where: str) -> tuple[str, ...]:
        if not isinstance(item, dict) or item.keys() != set(_INPUTS):
            got = ", ".join(map(repr, item)) if isinstance(item, dict) else kind_of(item)
            raise InvalidInput(
                f"{where} must be an object with 'question' and 'context'; got {got or 'none'}.", field=where
            )
        for name in _INPUTS:
            if not isinstance(item[name], str):
                raise InvalidInput(
                    f"{where}.{name} must be a text; got {kind_of(item[name])}.", field=f"{where}.{name}"
                )
        return tuple(item[name] for name in _INPUTS)
