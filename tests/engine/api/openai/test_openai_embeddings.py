"""Tests of embeddings and reranking: the answers of their tasks to OpenAI's, vLLM's and Jina's."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import numpy as np
from openai.types import CreateEmbeddingResponse

from engine.api.openai import embeddings, rerank
from engine.api.openai.embeddings import EmbeddingRequest
from engine.api.openai.rerank import RerankRequest

VECTORS = [[0.1, -0.25], [1e-7, 3.0]]


def embedded(data: Any, encoding: Any = None) -> dict[str, Any]:
    body = EmbeddingRequest(model="m", input="x", encoding_format=encoding)
    encoded = msgspec.json.encode(embeddings.answered(body, json.dumps(data).encode()))
    answer: dict[str, Any] = json.loads(encoded)
    return answer


def test_vectors_as_numbers() -> None:
    answer = embedded({"embeddings": VECTORS, "tokens": [3, 4]})
    assert answer == {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(VECTORS)],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    CreateEmbeddingResponse.model_validate(answer)


def test_vectors_as_bytes() -> None:
    answer = embedded({"embeddings": VECTORS, "tokens": [3, 4]}, "base64")
    for item, vector in zip(answer["data"], VECTORS, strict=True):
        got = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        assert got.tolist() == np.array(vector, np.float32).tolist()


def test_a_model_that_counts_no_tokens_has_no_usage() -> None:
    answer = embedded(VECTORS)
    assert [item["embedding"] for item in answer["data"]] == VECTORS
    assert answer["usage"] is None


def ranked(data: Any, **fields: Any) -> dict[str, Any]:
    body = RerankRequest(model="m", query="q", documents=["a", "b"], **fields)
    answer: dict[str, Any] = json.loads(
        msgspec.json.encode(rerank.answered(body, ["a", "b"], json.dumps(data).encode()))
    )
    assert answer.pop("id").startswith("rerank-")
    return answer


def test_a_ranking() -> None:
    results = [{"index": 1, "score": 2.5}, {"index": 0, "score": -1.0}]
    assert ranked({"results": results, "tokens": [5, 6]}) == {
        "model": "m",
        "usage": {"prompt_tokens": 11, "total_tokens": 11},
        "results": [
            {"index": 1, "document": {"text": "b"}, "relevance_score": 2.5},
            {"index": 0, "document": {"text": "a"}, "relevance_score": -1.0},
        ],
    }
    assert ranked(results[:1], return_documents=False) == {
        "model": "m",
        "usage": None,
        "results": [{"index": 1, "relevance_score": 2.5}],
    }
