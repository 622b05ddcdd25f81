"""Hugging Face folders through a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI
from serving import Server

from tests import models_transformers
from tests.models_transformers import bert, edit

HAPPY = ["That is a happy person", "That is a very happy person", "Today is a sunny day"]


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


# --- embedding ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm(server: Server) -> Server:
    server.register("minilm", models_transformers.minilm())
    return server


def test_the_backend_is_found_by_the_folder(minilm: Server) -> None:
    minilm.predict("minilm", {"input": "hello"})
    view = minilm.get("/v1/models/minilm")
    assert (view["backend"], view["task"]) == ("transformers-embedding", "embedding")


def test_many_vectors_at_once(minilm: Server) -> None:
    texts = [f"{text} {'again ' * (i % 7)}" for i in range(12) for text in HAPPY]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda text: minilm.predict("minilm", {"input": text})["output"], texts))
    together = minilm.predict("minilm", {"input": texts})["output"]
    assert np.array(answers) == pytest.approx(np.array(together), abs=1e-5)


def test_vectors_for_openais_client(minilm: Server, client: OpenAI) -> None:
    answer = client.embeddings.create(model="minilm", input=HAPPY)
    vectors = np.array([row.embedding for row in answer.data])
    assert vectors[0] @ vectors[1] == pytest.approx(0.943, abs=5e-4)
    assert vectors[0] @ vectors[2] == pytest.approx(0.257, abs=5e-4)
    assert answer.usage.prompt_tokens == 22


def test_a_text_that_is_too_long(minilm: Server) -> None:
    error = minilm.predict("minilm", {"input": ["a", "a " * 300]}, status=400)["error"]
    assert "Text 1 has 302 tokens; the model takes at most 256." in error["message"]
    body = {"input": "a " * 300, "parameters": {"truncate": True, "usage": True}}
    assert minilm.predict("minilm", body)["output"]["tokens"] == [256]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_code_in_a_folder_needs_trust(server: Server, tmp_path: Path) -> None:
    folder = bert(tmp_path / "odd")
    edit(folder / "config.json", auto_map={"AutoModel": "code.Model"})
    body = {"name": "odd", "model_path": str(folder)}
    error = server.http.post("/v1/models", json=body).json()["error"]
    assert error["code"] == "untrusted_model"
    assert "brings Python code of its own" in error["message"]
