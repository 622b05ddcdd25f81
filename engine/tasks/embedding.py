"""Embedding: a text or a list of texts in, a vector or a list of vectors out."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.base import InvalidInput, InvalidOption, ModelInfo, Tensors, TensorSpec
from engine.codec import Decoded, Form
from engine.model_options import ModelOptions
from engine.tasks.base import TOKENS, Parameters, TensorTask, counts_tokens
from engine.tasks.text_input import decode_text, only_input


class EmbeddingTask(TensorTask):
    """Takes a string or a list of strings.

    The answer is a vector for each text. The request's parameters may ask for its first `dimensions` elements alone,
    scaled back to length 1 where the whole had it, and for the count of tokens with `usage`, which makes the answer ::

        {"embeddings": [[0.03, -0.01, …], …], "tokens": [7, …]}

    with lists even for a single text.
    """

    name = "embedding"
    takes = frozenset({"dimensions", "usage"})
    plain_answers = False

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        self._input = only_input(info, self.name).name
        self._output = _vectors(info.outputs)
        self.counts_tokens = counts_tokens(info)

    def decode(self, form: Form, value: Any) -> Decoded:
        """Texts, none of which is empty."""
        decoded = super().decode(form, value)
        for i, text in enumerate(decoded.tensors[self._input].tolist()):
            if not text:
                place = form if decoded.single else f"{form}[{i}]"
                raise InvalidInput(f"{place} is an empty text.", field=place)
        return decoded

    def decode_bytes(self, data: memoryview, content_type: str) -> Decoded:
        """A ``text/plain`` body as one text."""
        return self.decode("input", decode_text(data, content_type))

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """The vectors, and with `usage` the tokens of each text."""
        vectors = _cut(outputs[self._output], parameters.dimensions)
        if parameters.usage:
            if not self.counts_tokens:
                raise InvalidInput("This model does not tell how many tokens a text has.", field="parameters.usage")
            return {"embeddings": vectors.tolist(), "tokens": outputs[TOKENS].tolist()}
        return vectors[0].tolist() if single and form == "input" else vectors.tolist()

    def example(self, row: Tensors) -> Any:
        """A single text."""
        return row[self._input].tolist()[0]


def _vectors(outputs: tuple[TensorSpec, ...]) -> str:
    """The name of the output that holds the vectors: ``embedding``, else the only matrix of floats."""
    matrices = [s.name for s in outputs if s.dtype.startswith("float") and len(s.shape) == 2]
    if "embedding" in matrices:
        return "embedding"
    if len(matrices) != 1 or any(s.dtype == "string" for s in outputs):  # scores of what else is told are no vectors
        raise InvalidOption(
            "The task embedding needs a model with one output of vectors; this one has others.", field="task"
        )
    return matrices[0]


def _cut(vectors: np.ndarray[Any, Any], dimensions: int | None) -> np.ndarray[Any, Any]:
    """The first `dimensions` elements of each vector, of length 1 again if the vectors were."""
    if dimensions is None:
        return vectors
    size = vectors.shape[1]
    if not 1 <= dimensions <= size:
        raise InvalidInput(
            f"dimensions must be from 1 to {size}, the size of this model's vectors; got {dimensions}.",
            field="parameters.dimensions",
        )
    cut = vectors[:, :dimensions]
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        return cut
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    return cut / np.where(norms > 0, norms, 1)
