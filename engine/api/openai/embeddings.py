"""``POST /v1/embeddings``."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from engine.api.dialect import Call, Reply
from engine.api.http import encode_json
from engine.api.openai.common import naming, wrong_model
from engine.api.openai.sampling import LARGEST
from engine.errors import InvalidInput
from engine.tasks.base import counts_tokens
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


class PromptUsage(msgspec.Struct, kw_only=True):
    """What a request cost."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(msgspec.Struct, kw_only=True):
    """The answer of ``POST /v1/embeddings``."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: PromptUsage | None
    """Null when the model does not tell how many tokens a text has."""


class _Vectors(msgspec.Struct):
    """What the task answers. Vectors stay JSON, which is what most of them become again."""

    embeddings: list[msgspec.Raw]
    tokens: list[int] | None = None


_decode = msgspec.json.Decoder(_Vectors).decode
_decode_vectors = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_vector = msgspec.json.Decoder(list[float]).decode


async def create_embedding(call: Call) -> Reply:
    """Turns texts into vectors."""
    body = call.decode(EmbeddingRequest)
    texts = _texts(body.input)
    entry = await call.entry(body.model)
    if entry.spec.task != "embedding":
        raise wrong_model(entry, "embeddings")
    wishes: dict[str, Any] = {"usage": True} if counts_tokens(entry.spec.info) else {}
    if body.dimensions is not None:
        wishes["dimensions"] = body.dimensions
    with naming({r"parameters\.": ""}):
        answer = await call.predict(entry, JsonInput(encode_json(texts), rows=len(texts)), encode_json(wishes))
    return Reply(answered(body, answer.data if isinstance(answer, JsonAnswer) else b""))


def answered(body: EmbeddingRequest, data: bytes) -> EmbeddingAnswer:
    """The answer, from that of the task."""
    vectors = _decode(data) if data[:1] == b"{" else _Vectors(_decode_vectors(data))
    encode = _base64 if body.encoding_format == "base64" else _same
    return EmbeddingAnswer(
        data=[Embedding(index=i, embedding=encode(vector)) for i, vector in enumerate(vectors.embeddings)],
        model=body.model,
        usage=None if vectors.tokens is None else prompt_usage(vectors.tokens),
    )


def prompt_usage(tokens: list[int]) -> PromptUsage:
    """The usage of texts that have so many tokens."""
    return PromptUsage(prompt_tokens=sum(tokens), total_tokens=sum(tokens))


def _texts(given: str | list[Any]) -> list[str]:
    """The texts. Raises `InvalidInput` for tokens, and for nothing."""
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise InvalidInput("input must not be empty.", field="input")
    if not all(isinstance(text, str) for text in texts):
        raise InvalidInput("input must be a text or a list of texts; tokens are not taken.", field="input")
    return texts


def _same(vector: msgspec.Raw) -> Any:
    return vector


def _base64(vector: msgspec.Raw) -> str:
    return base64.b64encode(np.array(_decode_vector(vector), "<f4").tobytes()).decode()
