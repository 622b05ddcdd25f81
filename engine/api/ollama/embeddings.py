"""Texts to vectors, by models of the task ``embedding``."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.api.dialect import Call
from engine.api.http import encode_json
from engine.api.ollama import options
from engine.errors import InvalidInput
from engine.pool import Entry
from engine.types import JsonAnswer, JsonInput, ModelSpec

TASK = "embedding"


class _Usage(msgspec.Struct):
    """What the task counts."""

    prompt_tokens: int


class _Vectors(msgspec.Struct):
    """What the task answers."""

    embeddings: list[list[float]]
    usage: _Usage


_decode = msgspec.json.Decoder(_Vectors).decode


def check(spec: ModelSpec, given: dict[str, Any] | None) -> None:
    """Raises `InvalidInput` for a model of another task, and for options: none means anything here."""
    if spec.task != TASK:
        raise InvalidInput(f"Model {spec.name!r} is for the task {spec.task}, and embeds nothing.", field="model")
    wishes = options.read(given)
    named = [f for f in options.Options.__struct_fields__ if getattr(wishes, f) is not None]
    if named:
        raise InvalidInput(f"{named[0]} means nothing to an embedding.", field=f"options.{named[0]}")


async def embed(
    call: Call, entry: Entry, texts: list[str], *, truncate: bool = False, dimensions: int | None = None
) -> tuple[list[list[float]], int]:
    """The vectors of some texts, and how many tokens they have together."""
    if not texts:
        return [], 0
    wishes: dict[str, Any] = {"usage": True}
    if truncate:
        wishes["truncate"] = True
    if dimensions is not None:
        wishes["dimensions"] = dimensions
    answer = await call.predict(entry, JsonInput(encode_json(texts), rows=len(texts)), encode_json(wishes))
    assert isinstance(answer, JsonAnswer)
    vectors = _decode(answer.data)
    return vectors.embeddings, vectors.usage.prompt_tokens
