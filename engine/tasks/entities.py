"""Token classification: a text or a list of texts in, what they name and where out."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.base import InvalidOption, ModelInfo, Tensors
from engine.codec import Decoded, Form
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters, TensorTask
from engine.tasks.text_input import decode_text, only_input

_FIELDS = ("label", "word", "score", "start", "end")


class TokenTask(TensorTask):
    """Takes a string or a list of strings.

    The answer is, for each text, the entities in their order::

        [{"label": "PER", "word": "Ada Lovelace", "score": 0.99, "start": 0, "end": 12}]

    `start` and `end` count characters of the text.
    """

    name = "token-classification"
    plain_answers = False

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        self._input = only_input(info, self.name)
        if not {spec.name for spec in info.outputs} >= set(_FIELDS):
            raise InvalidOption(
                f"The task {self.name} needs a model with the outputs {', '.join(_FIELDS)}; this one has others.",
                field="task",
            )

    def decode_bytes(self, data: memoryview, content_type: str) -> Decoded:
        """A ``text/plain`` body as one text."""
        text = decode_text(data, content_type)
        return Decoded({self._input.name: np.array([text], dtype=object)}, True)

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:  # noqa: ARG002
        """For each text its entities."""
        columns = [outputs[name].tolist() for name in _FIELDS]
        rows = [
            [dict(zip(_FIELDS, entity, strict=True)) for entity in zip(*row, strict=True) if entity[0]]
            for row in zip(*columns, strict=True)
        ]
        return rows[0] if single and form == "input" else rows

    def example(self, row: Tensors) -> Any:
        """A single text."""
        return row[self._input.name].tolist()[0]
