"""Fill-mask: a text with gaps in, the likeliest words for each gap out."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.base import InvalidInput, InvalidOption, ModelInfo, Tensors
from engine.codec import Decoded, Form
from engine.model_options import ModelOptions
from engine.tasks.base import Parameters, TensorTask
from engine.tasks.text_input import decode_text, only_input

_FIELDS = ("word", "index", "score")


class FillMaskTask(TensorTask):
    """Takes a string or a list of strings, in which the model's own token for it marks each gap.

    The answer is, for each text and each of its gaps, the `top_k` likeliest words, best first::

        [[{"word": "paris", "index": 3000, "score": 0.92}, …]]
    """

    name = "fill-mask"
    takes = frozenset({"top_k"})
    plain_answers = False

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        self._input = only_input(info, self.name)
        shapes = {spec.name: spec.shape for spec in info.outputs}
        if not all(len(shapes.get(name, ())) == 3 for name in _FIELDS):
            raise InvalidOption(
                f"The task {self.name} needs a model with the outputs {', '.join(_FIELDS)} of three dimensions; this "
                "one has others.",
                field="task",
            )
        self._most = shapes["word"][2]

    def decode_bytes(self, data: memoryview, content_type: str) -> Decoded:
        """A ``text/plain`` body as one text."""
        text = decode_text(data, content_type)
        return Decoded({self._input.name: np.array([text], dtype=object)}, True)

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """For each text and gap the best words."""
        top_k = self._top_k(parameters)
        columns = [outputs[name][:, :, :top_k].tolist() for name in _FIELDS]
        rows = [
            [
                [dict(zip(_FIELDS, word, strict=True)) for word in zip(*gap, strict=True)]
                for gap in zip(*row, strict=True)
                if gap[1][0] >= 0  # else another text of the batch has more gaps
            ]
            for row in zip(*columns, strict=True)
        ]
        return rows[0] if single and form == "input" else rows

    def example(self, row: Tensors) -> Any:
        """A single text."""
        return row[self._input.name].tolist()[0]

    def _top_k(self, parameters: Parameters) -> int:
        if parameters.top_k is None:
            return self.options.top_k
        if parameters.top_k < 1 or (isinstance(self._most, int) and parameters.top_k > self._most):
            raise InvalidInput(
                f"top_k must be from 1 to {self._most}, as many words as the model proposes; got {parameters.top_k}. "
                "More are set at registration, with --set candidates=N.",
                field="parameters.top_k",
            )
        return parameters.top_k
