"""A version in the name of a model, ``NAME@2``, in every dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import ollama
import openai
import pytest
from serving import Server

from tests import models_gguf

TEMPLATES = ("{{ messages[0].content }}", "well, {{ messages[0].content }}")
MESSAGES: Any = [{"role": "user", "content": "hello"}]
NAMES = {"chat@1": 0, "best@1": 0, "chat@2": 1, "best@2": 1, "chat": 1, "best": 1}
"""Which of the templates each name stands for."""


@pytest.fixture(scope="module")
def served(server: Server) -> Server:
    """A model of two versions, which differ in the length of their prompts, and an alias."""
    for template in TEMPLATES:
        server.register("chat", models_gguf.llama(), config={"chat_template": template, "sampling": {"temperature": 0}})
    server.register("embedder", models_gguf.embedder())
    server.http.put("/v1/aliases/best", json={"model": "chat"}).raise_for_status()
    return server


def by_openai(server: Server, name: str) -> tuple[int, str]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        answer = client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=1)
        assert answer.usage is not None
        return answer.usage.prompt_tokens, answer.model


def by_responses(server: Server, name: str) -> tuple[int, str]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        answer = client.responses.create(model=name, input="hello", max_output_tokens=16)
        assert answer.usage is not None
        return answer.usage.input_tokens, answer.model


def by_ollama(server: Server, name: str) -> tuple[int, str]:
    with ollama.Client(host=server.url) as client:
        answer = client.chat(name, MESSAGES, options={"num_predict": 1})
        return answer.prompt_eval_count or 0, answer.model or ""


def by_anthropic(server: Server, name: str) -> tuple[int, str]:
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as client:
        answer = client.messages.create(model=name, messages=MESSAGES, max_tokens=1)
        return answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0), answer.model


def natively(server: Server, name: str) -> tuple[int, str]:
    answer = server.predict(name, {"input": "hello", "max_tokens": 1})
    return answer["usage"]["prompt_tokens"], name


DIALECTS = [by_openai, by_responses, by_ollama, by_anthropic, natively]


@pytest.mark.parametrize("ask", DIALECTS)
def test_a_version_is_part_of_the_name(served: Server, ask: Callable[[Server, str], tuple[int, str]]) -> None:
    tokens = {}
    for name, template in NAMES.items():
        count, called = ask(served, name)
        assert called == name
        tokens.setdefault(template, count)
        assert count == tokens[template]
    assert tokens[1] > tokens[0]


@pytest.mark.parametrize("ask", DIALECTS)
@pytest.mark.parametrize("name", ["chat@3", "best@3", "nobody@1", "chat@one"])
def test_a_version_that_is_not_there_is_a_404(
    served: Server, ask: Callable[[Server, str], tuple[int, str]], name: str
) -> None:
    if ask is natively:
        assert served.predict(name, {"input": "hello"}, 404)["error"]["code"] == "model_not_found"
        return
    with pytest.raises((openai.NotFoundError, anthropic.NotFoundError, ollama.ResponseError)) as e:
        ask(served, name)
    assert getattr(e.value, "status_code", None) == 404
    assert name.partition("@")[0] in str(e.value)


def test_other_routes_know_versions_too(served: Server) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
        assert [m.id for m in client.models.list()] == ["chat", "embedder"]
        ids = [client.models.retrieve(name).id for name in NAMES]
        assert ids == ["chat@1", "chat@1", "chat", "chat", "chat", "chat"]
        assert client.embeddings.create(model="embedder@1", input="hello").data
        assert client.completions.create(model="chat@1", prompt="hello", max_tokens=1).model == "chat@1"
    assert served.status("chat@1")["version"] == 1
    with ollama.Client(host=served.url) as ollama_client:
        assert ollama_client.show("best@1").template == TEMPLATES[0]
        assert {m.model for m in ollama_client.list().models} == {"best:latest", "chat:latest", "embedder:latest"}


def test_one_version_is_unregistered_by_its_name(served: Server) -> None:
    for _ in range(2):
        served.register("spare", models_gguf.embedder())
    assert served.http.delete("/v1/models/spare@1").json() == {"name": "spare", "versions": [1]}
    assert served.get("/v1/models/spare")["versions"] == [2]
    with ollama.Client(host=served.url) as client:
        assert client.delete("spare@2").status == "success"
    served.get("/v1/models/spare", 404)
