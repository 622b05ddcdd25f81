"""vLLM through a real server, in an environment that ``TEST_VLLM_ENVIRONMENT`` names, with UniModel in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from openai import BadRequestError, OpenAI
from serving import Server

from tests import models_transformers

ENVIRONMENT = os.environ.get("TEST_VLLM_ENVIRONMENT")
pytestmark = pytest.mark.skipif(ENVIRONMENT is None, reason="TEST_VLLM_ENVIRONMENT names no environment with vLLM")
SUM = [{"role": "user", "content": "What is 2+2? Answer with just the number."}]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    options = {"isolated": True, "python": ENVIRONMENT, "cache_mb": 256}
    body = {"name": "chat", "model_path": str(models_transformers.smollm2()), "backend": "vllm", "trust": True}
    answer = server.http.post("/v1/models", json={**body, "config": options}, timeout=300)
    assert answer.status_code == 201, answer.text
    yield OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300)
    server.http.delete("/v1/models/chat", timeout=60)
    assert not engines()


def engines() -> list[psutil.Process]:
    """vLLM's processes that this test's server has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.name().startswith("VLLM::EngineCor"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_chat_that_is_streamed(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model="chat", messages=SUM, temperature=0, max_tokens=20, stream=True)  # type: ignore[arg-type]
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == "2 + 2 = 4"
    assert len([text for text in texts if text]) > 3


def test_a_schema(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    answer = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "How old is Anna, who is 7?"}],
        temperature=0,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["age"], int)


def test_what_it_cannot_do_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="has no typical_p"):
        client.chat.completions.create(model="chat", messages=SUM, extra_body={"typical_p": 0.5})  # type: ignore[arg-type]


def test_an_engine_that_dies_is_started_again(client: OpenAI, server: Server) -> None:
    (engine,) = engines()
    engine.kill()
    answer = client.completions.create(model="chat", prompt="The capital of France is", temperature=0, max_tokens=1)
    assert answer.choices[0].text == " Paris"
    assert Path(f"/proc/{engine.pid}/exe").exists() is False
