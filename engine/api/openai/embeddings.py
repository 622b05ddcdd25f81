"""``POST /v1/embeddings``."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from engine.api.dialect import Call, Reply
from engine.api.http import encode_json
from engine.api.openai.common import wrong_model
from engine.api.openai.sampling import LARGEST
from engine.errors import InvalidInput
from engine.types import JsonAnswer, JsonInput


class EmbeddingRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/embeddings``."""

    model: str
    input: str | list[Any]
    """A text, or a list of texts."""
    encoding_format: Literal["float", "base64"] | None = None
    """``base64`` gives the bytes of little-endian float32 numbers."""
    dimensions: Annotated[int, Meta(ge=1, le=LARGEST)] | None = None
    """Numbers in a vector, for models whose vectors may be cut."""
    user: str | None = None
    """Accepted; does nothing."""


class Embedding(msgspec.Struct, kw_only=True):
    """The vector of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct, kw_only=True):
    """What a request cost."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(msgspec.Struct, kw_only=True):
    """The answer of ``POST /v1/embeddings``."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class _Vectors(msgspec.Struct):
    """What the task answers."""

    embeddings: list[list[float]]
    usage: EmbeddingUsage


_decode = msgspec.json.Decoder(_Vectors).decode


async def create_embedding(call: Call) -> Reply:
    """Turns texts into vectors."""
    body = call.decode(EmbeddingRequest)
    texts = _texts(body.input)
    entry = await call.entry(body.model)
    if entry.spec.task != "embedding":
        raise wrong_model(entry, "embeddings")
    wishes = {"usage": True} if body.dimensions is None else {"usage": True, "dimensions": body.dimensions}
    answer = await call.predict(entry, JsonInput(encode_json(texts), rows=len(texts)), encode_json(wishes))
    assert isinstance(answer, JsonAnswer)
    vectors = _decode(answer.data)
    encode = _base64 if body.encoding_format == "base64" else list
    return Reply(
        EmbeddingAnswer(
            data=[Embedding(index=i, embedding=encode(v)) for i, v in enumerate(vectors.embeddings)],
            model=body.model,
            usage=vectors.usage,
        )
    )


def _texts(given: str | list[Any]) -> list[str]:
    """The texts. Raises `InvalidInput` for tokens, and for nothing."""
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise InvalidInput("input must not be empty.", field="input")
    if not all(isinstance(text, str) for text in texts):
        raise InvalidInput("input must be a text or a list of texts; tokens are not taken.", field="input")
    return texts


def _base64(vector: list[float]) -> str:
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
