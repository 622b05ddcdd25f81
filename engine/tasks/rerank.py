"""Reranking: a query and documents in, the documents by how well they answer it out."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.base import InvalidInput, InvalidOption, ModelInfo, Tensors
from engine.codec import Decoded, Form, kind_of
from engine.model_options import ModelOptions
from engine.tasks.base import TOKENS, Parameters, TensorTask, counts_tokens


class RerankTask(TensorTask):
    """Takes ``{"query": "…", "documents": ["…", …]}``.

    The answer is a score for each document, best first, of which the request's parameters may ask for the `top_n` best
    alone::

        [{"index": 2, "score": 4.1}, {"index": 0, "score": -1.7}, …]

    `index` is the document's place in the request, `score` is the model's own: higher is better, and its scale is
    whatever the model was trained for. With `usage` the answer is ::

        {"results": [{"index": 2, "score": 4.1}, …], "tokens": [31, 28, 40]}

    where `tokens` has the length of each pair of query and document, in the order of the request.

    Pairs are taken as plain tensors, too: ``{"inputs": {"query": […], "text": […]}}``.
    """

    name = "rerank"
    takes = frozenset({"top_n", "usage"})
    plain_answers = False

    def __init__(self, info: ModelInfo, options: ModelOptions) -> None:
        super().__init__(info, options)
        names = [spec.name for spec in info.inputs if spec.dtype == "string" and len(spec.shape) == 1]
        scores = [spec.name for spec in info.outputs if spec.dtype.startswith("float") and len(spec.shape) == 1]
        if len(names) != 2 or len(info.inputs) != 2 or len(scores) != 1:
            raise InvalidOption(
                "The task rerank needs a model with two inputs, queries and texts, and one output of scores; "
                "this one has others.",
                field="task",
            )
        self._query, self._text = ("query", "text") if set(names) == {"query", "text"} else names
        (self._scores,) = scores
        self.counts_tokens = counts_tokens(info)

    def decode(self, form: Form, value: Any) -> Decoded:
        """A row for each document."""
        if form != "input":
            return super().decode(form, value)
        if not isinstance(value, dict) or value.keys() != {"query", "documents"}:
            got = ", ".join(map(repr, value)) if isinstance(value, dict) else kind_of(value)
            raise InvalidInput(
                f"input must be an object with 'query' and 'documents'; got {got or 'none'}.", field=form
            )
        documents = value["documents"]
        if not isinstance(documents, list) or not documents:
            raise InvalidInput(
                f"input.documents must be a list of texts; got {kind_of(documents) if documents != [] else 'none'}.",
                field="input.documents",
            )
        query = _text(value["query"], "input.query")
        texts = [_text(text, f"input.documents[{i}]") for i, text in enumerate(documents)]
        columns = {self._query: [query] * len(texts), self._text: texts}
        return Decoded({name: np.array(column, dtype=object) for name, column in columns.items()}, True)

    def encode(self, form: Form, outputs: Tensors, single: bool, parameters: Parameters) -> Any:
        """The documents of the query, best first."""
        if form != "input":
            self._check_plain(parameters)
            return super().encode(form, outputs, single, parameters)
        scores = outputs[self._scores]
        best = np.argsort(-scores, kind="stable")[: _top_n(parameters, len(scores))]
        results = [{"index": i, "score": s} for i, s in zip(best.tolist(), scores[best].tolist(), strict=True)]
        if not parameters.usage:
            return results
        if not self.counts_tokens:
            raise InvalidInput("This model does not tell how many tokens a text has.", field="parameters.usage")
        return {"results": results, "tokens": outputs[TOKENS].tolist()}

    def example(self, row: Tensors) -> Any:
        """A query and one document."""
        return {"query": row[self._query].tolist()[0], "documents": row[self._text].tolist()}

    @staticmethod
    def _check_plain(parameters: Parameters) -> None:
        for name in ("top_n", "usage"):
            if getattr(parameters, name) is not None:
                raise InvalidInput(f"{name} needs 'input' with a query and documents.", field=f"parameters.{name}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{where} must be a text; got {kind_of(value)}.", field=where)
    if not value:
        raise InvalidInput(f"{where} is an empty text.", field=where)
    return value


def _top_n(parameters: Parameters, documents: int) -> int:
    if parameters.top_n is None:
        return documents
    if parameters.top_n < 1:
        raise InvalidInput(f"top_n must be at least 1; got {parameters.top_n}.", field="parameters.top_n")
    return parameters.top_n
