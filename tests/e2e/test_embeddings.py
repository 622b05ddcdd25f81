"""Vectors and rankings of GGUF models through a real server, in the native dialect."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving import Server

from tests import models_gguf

HAPPY = ["That is a happy person", "That is a very happy person", "Today is a sunny day"]


@pytest.fixture(scope="module")
def served(server: Server) -> Server:
    server.register("minilm", models_gguf.minilm())
    server.register("ranker", models_gguf.reranker())
    server.predict("minilm", {"input": "hello"})
    server.predict("ranker", {"input": {"query": "a", "documents": ["cat"]}})
    return server


def test_the_backends_are_found_by_the_file(served: Server) -> None:
    for name, backend, task in (("minilm", "gguf-embedding", "embedding"), ("ranker", "gguf-rerank", "rerank")):
        view = served.get(f"/v1/models/{name}")
        assert (view["backend"], view["task"]) == (backend, task)


def test_vectors(served: Server) -> None:
    vectors = np.array(served.predict("minilm", {"input": HAPPY})["output"])
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] == pytest.approx(0.943, abs=2e-3)
    assert vectors[0] @ vectors[2] == pytest.approx(0.257, abs=2e-3)
    one = served.predict("minilm", {"input": HAPPY[0]})["output"]
    assert one == pytest.approx(vectors[0].tolist(), abs=2e-3)


def test_many_at_once_get_their_own(served: Server) -> None:
    texts = [f"{text} {i}" for i in range(20) for text in HAPPY]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda text: served.predict("minilm", {"input": text})["output"], texts))
    together = served.predict("minilm", {"instances": texts})["predictions"]
    assert np.array(answers) == pytest.approx(np.array(together), abs=2e-3)


def test_parameters(served: Server) -> None:
    body = {"input": HAPPY[0], "parameters": {"dimensions": 2, "usage": True}}
    answer = served.predict("minilm", body)["output"]
    assert (np.linalg.norm(answer["embeddings"]), answer["tokens"]) == (pytest.approx(1), [7])
    for parameter in ("dimensions", "top_k", "top_n"):
        error = served.predict("minilm", {"input": "a", "parameters": {parameter: 0}}, status=400)["error"]
        assert error["param"] == f"parameters.{parameter}"


def test_a_text_that_is_too_long_fails_alone(served: Server) -> None:
    error = served.predict("minilm", {"input": ["a", "a " * 600]}, status=400)["error"]
    assert "Text 1 has 602 tokens; the model takes at most 512." in error["message"]
    assert error["param"] == "input"


def test_a_text_that_is_too_long_can_be_cut(served: Server) -> None:
    body = {"input": ["a", "a " * 600], "parameters": {"truncate": True, "usage": True}}
    assert served.predict("minilm", body)["output"]["tokens"] == [3, 512]
    served.predict("minilm", {**body, "parameters": {"truncate": False}}, status=400)
    pair = {"input": {"query": "a cat", "documents": ["cat " * 80]}, "parameters": {"truncate": True, "usage": True}}
    assert served.predict("ranker", pair)["output"]["tokens"] == [64]
    error = served.predict("ranker", {**pair, "parameters": {"usage": True}}, status=400)["error"]
    assert "at most 64" in error["message"]


def test_the_tokens_of_texts_are_counted(served: Server) -> None:
    def counted(name: str) -> float:
        found = re.search(rf'unimodel_prompt_tokens_total{{model="{name}",.*}} (.*)', served.http.get("/metrics").text)
        assert found is not None
        return float(found[1])

    before = counted("minilm"), counted("ranker")
    tokens = served.predict("minilm", {"input": HAPPY, "parameters": {"usage": True}})["output"]["tokens"]
    pair = {"input": {"query": "a", "documents": ["cat", "a dog"]}, "parameters": {"usage": True}}
    pairs = served.predict("ranker", pair)["output"]["tokens"]
    assert (counted("minilm") - before[0], counted("ranker") - before[1]) == (sum(tokens), sum(pairs))


def test_a_ranking(served: Server) -> None:
    documents = ["the cat sat on the mat", "a dog", "paris"]
    body = {"input": {"query": "what is the capital of france ?", "documents": documents}}
    ranking = served.predict("ranker", body)["output"]
    assert sorted(r["index"] for r in ranking) == [0, 1, 2]
    scores = [r["score"] for r in ranking]
    assert scores == sorted(scores, reverse=True)
    best = served.predict("ranker", {**body, "parameters": {"top_n": 1, "usage": True}})["output"]
    assert [r["index"] for r in best["results"]] == [ranking[0]["index"]]
    assert len(best["tokens"]) == 3
    error = served.predict("ranker", {"input": {"query": "a", "documents": ["b", ""]}}, status=400)["error"]
    assert error["param"] == "input.documents[1]"


def test_damaged_files_leave_the_server_up(served: Server, tmp_path: Path) -> None:
    whole = models_gguf.minilm().read_bytes()
    for name, data in (("cut", whole[:-1000]), ("header", whole[:1000])):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        for backend in ({}, {"backend": "gguf-embedding"}):
            error = served.register(name, path, status=422, **backend)["error"]
            assert (error["code"], "is truncated" in error["message"]) == ("model_file_error", True)
    assert len(served.predict("minilm", {"input": "still here"})["output"]) == 384
