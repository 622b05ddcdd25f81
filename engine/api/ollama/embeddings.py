"""Texts to vectors, by models of the task ``embedding``."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import TRUNCATE
from engine.api.dialect import Call
from engine.api.http import encode_json
from engine.api.ollama import options
from engine.errors import InvalidInput
from engine.pool import Entry
from engine.tasks.base import counts_tokens
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
    """Raises `InvalidInput` for a model of another task, or that cannot be told whether to cut texts, and for options:
    none means anything here."""
    if spec.task != TASK:
        raise InvalidInput(f"Model {spec.name!r} is for the task {spec.task}, and embeds nothing.", field="model")
    if truncate is not None and TRUNCATE not in spec.info.optional:
        raise InvalidInput(f"Model {spec.name!r} cannot be told whether to cut texts.", field="truncate")
    wishes = options.read(given)
    named = [f for f in options.Options.__struct_fields__ if getattr(wishes, f) is not None]
    if named:
        raise InvalidInput(f"{named[0]} means nothing to an embedding.", field=f"options.{named[0]}")


async def embed(
    call: Call, entry: Entry, texts: list[str], dimensions: int | None = None, truncate: bool | None = None
) -> tuple[list[list[float]], int | None]:
    """The vectors of some texts, and how many tokens they have together, if the model tells."""
    if not texts:
        return [], None
    counts = counts_tokens(entry.spec.info)
    wishes: dict[str, Any] = {"usage": True} if counts else {}
    if dimensions is not None:
        wishes["dimensions"] = dimensions
    if TRUNCATE in entry.spec.info.optional and truncate is not None:
        wishes["truncate"] = truncate
    answer = await call.predict(entry, JsonInput(encode_json(texts), rows=len(texts)), encode_json(wishes))
    assert isinstance(answer, JsonAnswer)
    if not counts:
        return _decode_vectors(answer.data), None
    vectors = _decode(answer.data)
    return vectors.embeddings, sum(vectors.tokens)
