"""vLLM through a real server, in an environment that ``TEST_VLLM_ENVIRONMENT`` names, with UniModel in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from openai import BadRequestError, OpenAI
from serving import Server, wait_until

from tests import models_transformers

ENVIRONMENT = os.environ.get("TEST_VLLM_ENVIRONMENT")
pytestmark = pytest.mark.skipif(ENVIRONMENT is None, reason="TEST_VLLM_ENVIRONMENT names no environment with vLLM")
SUM = [{"role": "user", "content": "What is 2+2? Answer with just the number."}]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    yield register(server)
    server.http.delete("/v1/models/chat", timeout=60)
    assert not engines(server)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for which what is silent for ten seconds hangs. The model is there before."""
    with Server(tmp_path_factory.mktemp("impatient") / "home", "--hang-timeout-s", "10") as running:
        register(running)
        yield running


def register(server: Server) -> OpenAI:
    """Has a model in a process of its own, and its client."""
    options = {"isolated": True, "python": ENVIRONMENT, "cache_mb": 256}
    body = {"name": "chat", "model_path": str(models_transformers.smollm2()), "backend": "vllm", "trust": True}
    answer = server.http.post("/v1/models", json={**body, "config": options}, timeout=300)
    assert answer.status_code == 201, answer.text
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300)


def engines(server: Server) -> list[psutil.Process]:
    """vLLM's processes that a server has started."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.name().startswith("VLLM::EngineCor"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def complete(server: Server, prompt: str = "The capital of France is") -> str:
    """A token that follows a prompt."""
    body = {"model": "chat", "prompt": prompt, "temperature": 0, "max_tokens": 1}
    patient = {"x-request-timeout-ms": "300000"}  # a model that is started anew takes long, too
    answer = server.http.post("/v1/completions", json=body, headers=patient, timeout=300)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def worker(server: Server) -> psutil.Process:
    """The process that serves the model."""
    wait_until(lambda: server.status("chat")["instances"], 120)
    return psutil.Process(server.status("chat")["instances"][0]["pid"])


def named_memory(server: Server) -> list[Path]:
    """What the model's processes share under a name."""
    maps = [Path(f"/proc/{process.pid}/maps").read_text() for process in (worker(server), *engines(server))]
    return [Path(path) for path in set(re.findall(r"/dev/shm/psm_\w+$", "\n".join(maps), re.MULTILINE))]


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


@pytest.mark.usefixtures("client")
def test_an_engine_that_dies_is_started_again(server: Server) -> None:
    (engine,) = engines(server)
    engine.kill()
    assert complete(server) == " Paris"
    assert Path(f"/proc/{engine.pid}/exe").exists() is False


def test_an_engine_that_hangs_is_replaced(impatient: Server) -> None:
    assert complete(impatient) == " Paris"
    (engine,) = engines(impatient)
    engine.suspend()
    assert complete(impatient) == " Paris"
    assert not engine.is_running()
    assert "model hangs, its worker is replaced" in impatient.log.read_text()


@pytest.mark.parametrize("whose", ["worker", "server"])
def test_no_named_memory_is_left(impatient: Server, whose: str) -> None:
    """The server comes last, as the others need it."""
    assert complete(impatient) == " Paris"
    victim = worker(impatient)
    memory = named_memory(impatient)
    processes = [victim, *victim.children(recursive=True)]
    assert memory
    assert all(each.exists() for each in memory)
    if whose == "worker":
        victim.kill()
    else:
        assert impatient.process is not None
        impatient.process.kill()
        impatient.process.wait()
    wait_until(lambda: not any(each.exists() for each in memory))
    wait_until(lambda: not any(process.is_running() for process in processes))
