"""``POST /v1/rerank``, in the shape that vLLM and Jina have."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.api.dialect import Call, Reply
from engine.api.http import encode_json
from engine.api.openai.common import naming, new_id, wrong_model
from engine.api.openai.embeddings import PromptUsage, prompt_usage
from engine.api.openai.sampling import LARGEST
from engine.errors import InvalidInput
from engine.tasks.base import counts_tokens
from engine.types import JsonAnswer, JsonInput


class RerankText(msgspec.Struct, forbid_unknown_fields=True):
    """A document."""

    text: str


class RerankRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/rerank``."""

    model: str
    query: str
    documents: list[str | RerankText]
    top_n: Annotated[int, Meta(ge=0, le=LARGEST)] | None = None
    """Results wanted, the best ones; 0 or nothing gives all."""
    return_documents: bool | None = None
    """Whether results repeat their documents; so unless false."""
    user: str | None = None
    """Accepted; does nothing."""


class RerankResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A document and how well it answers the query."""

    index: int
    """Among the documents of the request."""
    document: RerankText | None = None
    relevance_score: float


class RerankAnswer(msgspec.Struct, kw_only=True):
    """The answer of ``POST /v1/rerank``."""

    id: str
    model: str
    usage: PromptUsage | None
    """Null when the model does not tell how many tokens a text has."""
    results: list[RerankResult]
    """Best first."""


class _Scored(msgspec.Struct):
    """A result as the task answers it."""

    index: int
    score: float


class _Ranking(msgspec.Struct):
    """What the task answers."""

    results: list[_Scored]
    tokens: list[int] | None = None


_decode = msgspec.json.Decoder(_Ranking).decode
_decode_results = msgspec.json.Decoder(list[_Scored]).decode


async def create_ranking(call: Call) -> Reply:
    """Orders documents by how well they answer a query."""
    body = call.decode(RerankRequest)
    if not body.documents:
        raise InvalidInput("documents must not be empty.", field="documents")
    texts = [d if isinstance(d, str) else d.text for d in body.documents]
    entry = await call.entry(body.model)
    if entry.spec.task != "rerank":
        raise wrong_model(entry, "reranking")
    wishes = {
        **({"usage": True} if counts_tokens(entry.spec.info) else {}),
        **({"top_n": body.top_n} if body.top_n else {}),
    }
    pairs = encode_json({"query": body.query, "documents": texts})
    with naming({r"(parameters|input)\.": ""}):
        answer = await call.predict(entry, JsonInput(pairs, rows=len(texts)), encode_json(wishes))
    return Reply(answered(body, texts, answer.data if isinstance(answer, JsonAnswer) else b""))


def answered(body: RerankRequest, texts: list[str], data: bytes) -> RerankAnswer:
    """The answer, from that of the task."""
    ranking = _decode(data) if data[:1] == b"{" else _Ranking(_decode_results(data))
    return RerankAnswer(
        id=f"rerank-{new_id()}",
        model=body.model,
        usage=None if ranking.tokens is None else prompt_usage(ranking.tokens),
        results=[
            RerankResult(
                index=r.index,
                document=None if body.return_documents is False else RerankText(texts[r.index]),
                relevance_score=r.score,
            )
            for r in ranking.results
        ],
    )
