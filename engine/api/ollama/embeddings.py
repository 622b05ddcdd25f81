"""Texts to vectors, by models of the task ``embedding``."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.api.dialect import Call
from engine.api.http import encode_json
from engine.api.ollama import options
from engine.errors import InvalidInput
from engine.pool import Entry
from engine.tasks.embedding import TOKENS
from engine.types import JsonAnswer, JsonInput, ModelSpec

TASK = "embedding"


class _Vectors(msgspec.Struct):
    """What the task answers."""

    embeddings: list[list[float]]
    tokens: list[int]
    """Of each text."""


_decode = msgspec.json.Decoder(_Vectors).decode
_decode_vectors = msgspec.json.Decoder(list[list[float]]).decode


def check(spec: ModelSpec, given: dict[str, Any] | None, truncate: bool | None = None) -> None:
    """Raises `InvalidInput` for a model of another task, or that cuts texts otherwise, and for options: none means
    anything here."""
    if spec.task != TASK:
        raise InvalidInput(f"Model {spec.name!r} is for the task {spec.task}, and embeds nothing.", field="model")
    if truncate is not None and truncate != bool(spec.config.get("truncate")):
        raise InvalidInput(
            "Whether texts that are too long are cut is set when a model is registered: unimodel register --set "
            f"truncate={'true' if truncate else 'false'}.",
            field="truncate",
        )
    wishes = options.read(given)
    named = [f for f in options.Options.__struct_fields__ if getattr(wishes, f) is not None]
    if named:
        raise InvalidInput(f"{named[0]} means nothing to an embedding.", field=f"options.{named[0]}")


async def embed(
    call: Call, entry: Entry, texts: list[str], dimensions: int | None = None
) -> tuple[list[list[float]], int | None]:
    """The vectors of some texts, and how many tokens they have together, if the model tells."""
    if not texts:
        return [], None
    counts = any(output.name == TOKENS for output in entry.spec.info.outputs)
    wishes: dict[str, Any] = {"usage": True} if counts else {}
    if dimensions is not None:
        wishes["dimensions"] = dimensions
    answer = await call.predict(entry, JsonInput(encode_json(texts), rows=len(texts)), encode_json(wishes))
    assert isinstance(answer, JsonAnswer)
    if not counts:
        return _decode_vectors(answer.data), None
    vectors = _decode(answer.data)
    return vectors.embeddings, sum(vectors.tokens)
