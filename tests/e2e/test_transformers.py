"""Hugging Face folders through a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from openai import OpenAI
from serving import Server

from tests import models_transformers, models_transformers_heads
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


# --- generating text ------------------------------------------------------------------------------------------------

SUM = [{"role": "user", "content": "What is 2+2? Answer with just the number."}]


@pytest.fixture(scope="module")
def smollm2(server: Server) -> Server:
    server.register("chat", models_transformers.smollm2())
    return server


def test_a_chat_that_is_streamed(smollm2: Server, client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model="chat", messages=SUM, temperature=0, max_tokens=20, stream=True)  # type: ignore[arg-type]
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == "2 + 2 = 4"
    assert len([text for text in texts if text]) > 3
    assert chunks[-1].choices[0].finish_reason == "stop"
    view = smollm2.get("/v1/models/chat")
    assert (view["backend"], view["task"]) == ("transformers", "chat")


def test_completions_in_company(smollm2: Server, client: OpenAI) -> None:
    prompts = ["The capital of France is", "The capital of Italy is", "1, 2, 3, 4, 5, 6,"] * 2

    def complete(prompt: str) -> str:
        return client.completions.create(model="chat", prompt=prompt, temperature=0, max_tokens=4).choices[0].text

    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(complete, prompts))
    assert answers[:3] == answers[3:]
    assert [answer.split()[0].rstrip(".,") for answer in answers[:3]] == ["Paris", "Rome", "7"]


def test_a_system_prompt_is_computed_once(smollm2: Server) -> None:
    system = "You are brief. " * 30
    asked = [{"input": f"Tell me of town {n}.", "system": system, "temperature": 0, "max_tokens": 2} for n in (1, 2)]
    first, second = (smollm2.predict("chat", body)["usage"] for body in asked)
    assert second["cached_tokens"] > 100
    assert second["cached_tokens"] > first["cached_tokens"]


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_answers_that_fit_a_schema(smollm2: Server, client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    wish: Any = {"model": "chat", "messages": [{"role": "user", "content": "Describe a person."}], "max_tokens": 100}

    def describe(seed: int) -> Any:
        answer = client.chat.completions.create(**wish, response_format=form, seed=seed, temperature=1.2)
        return json.loads(answer.choices[0].message.content or "")

    with ThreadPoolExecutor(4) as clients:
        for person in clients.map(describe, range(4)):
            jsonschema.validate(person, PERSON)
    chunks = list(client.chat.completions.create(**wish, response_format=form, temperature=0, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    jsonschema.validate(json.loads(text), PERSON)
    assert chunks[-1].choices[0].finish_reason == "stop"
    body = {"model": "chat", "prompt": "A person:", "format": PERSON, "stream": False, "options": {"temperature": 0}}
    jsonschema.validate(json.loads(smollm2.http.post("/api/generate", json=body).json()["response"]), PERSON)


def test_a_forced_call_of_a_tool(smollm2: Server, client: OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "add_person", "parameters": PERSON}}
    answer = client.chat.completions.create(
        model="chat",
        messages=SUM,
        tools=[tool],
        tool_choice="required",
        max_tokens=100,
        temperature=0,  # type: ignore[arg-type]
        parallel_tool_calls=False,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "add_person")  # type: ignore[union-attr]
    jsonschema.validate(json.loads(call.function.arguments), PERSON)  # type: ignore[union-attr]


def test_a_grammar_that_cannot_be_followed(smollm2: Server) -> None:
    deep = "root ::= " + "(" * 190 + '"a"' + ")" * 190
    assert smollm2.predict("chat", {"input": "A", "grammar": deep})["output"] == "a"
    wild = {"input": "A", "temperature": 3, "seed": 1, "max_tokens": 200}  # the grammar is asked for what it allows
    blow = 'root ::= a a a a\na ::= b*\nb ::= ("x" | "xx" | "xxx" | c)*\nc ::= "y" c "z" | [a-z]*'
    error = smollm2.predict("chat", {**wild, "grammar": blow}, status=400)["error"]
    assert "cannot be followed" in error["message"]


# --- classifying ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("topics", "Heavy rain and thunder", lambda answer: answer[0]["label"] == "weather"),
        ("names", "Laura lives in London.", lambda answer: [e["word"] for e in answer] == ["Laura", "London"]),
        ("capitals", "the capital of france is [MASK].", lambda answer: answer[0][0]["word"] == "paris"),
        (
            "answers",
            {"question": "Where is the wallet?", "context": "The wallet is under the chair since Monday."},
            lambda answer: answer["answer"] == "under the chair",
        ),
        ("ranker", {"query": "a", "documents": ["b", "c d"]}, lambda answer: len(answer) == 2),
    ],
)
def test_heads(name: str, body: Any, expected: Callable[[Any], bool], server: Server) -> None:
    server.register(name, models_transformers_heads.path(name))
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: server.predict(name, {"input": body})["output"], range(8)))
    assert all(expected(answer) for answer in answers)
    view = server.get(f"/v1/models/{name}")
    assert view["backend"] == "transformers-classify"
    assert view["example"]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_code_and_damage(server: Server, tmp_path: Path) -> None:
    folder = bert(tmp_path / "odd")
    edit(folder / "config.json", auto_map={"AutoModel": "code.Model"})
    body = {"name": "odd", "model_path": str(folder)}
    error = server.http.post("/v1/models", json=body).json()["error"]
    assert error["code"] == "untrusted_model"
    assert "brings Python code of its own" in error["message"]
    edit(folder / "config.json", auto_map=None)
    edit(folder / "config.json", architectures=["DPTForDepthEstimation"])
    answer = server.http.post("/v1/models", json=body)
    assert answer.status_code in (201, 422)
    if answer.status_code == 201:  # it is looked at closer when it is loaded
        answer = server.http.post("/v1/models/odd:predict", json={"input": "a"})
    assert answer.status_code == 422
    assert "estimates depth in pictures; that is not served" in answer.json()["error"]["message"]


def test_pairs_of_texts(server: Server, tmp_path: Path) -> None:
    """Answers are those of the library's own pipeline, and depend on both texts and their order."""
    import torch
    import transformers

    labels = {"id2label": {0: "entails", 1: "neutral", 2: "contradicts"}, "num_labels": 3}
    folder = bert(tmp_path / "nli", "BertForSequenceClassification", **labels)
    server.register("nli", folder)
    pairs = [
        {"text": "A man sleeps.", "text_pair": "A person rests."},
        {"text": "A person rests.", "text_pair": "A man sleeps."},
        {"text": "A man sleeps.", "text_pair": "He is awake, and has been so since the morning."},
    ]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        features = (tokenizer(pair["text"], pair["text_pair"], return_tensors="pt") for pair in pairs)
        expected = [model(**each).logits.softmax(-1)[0].numpy() for each in features]

    def scores(answer: Any) -> list[float]:
        return [each["score"] for each in sorted(answer, key=lambda each: each["index"])]

    with ThreadPoolExecutor(4) as clients:
        alone = list(clients.map(lambda pair: scores(server.predict("nli", {"input": pair})["output"]), pairs * 3))
    assert np.array(alone) == pytest.approx(np.array(expected * 3), abs=1e-5)
    assert np.abs(np.array(alone[0]) - alone[1]).max() > 1e-3
    columns = {name: [pair[name] for pair in pairs] for name in ("text", "text_pair")}
    for body, key in (
        ({"input": pairs}, "output"),
        ({"instances": pairs}, "predictions"),
        ({"inputs": columns}, "outputs"),
    ):
        assert np.array([scores(row) for row in server.predict("nli", body)[key]]) == pytest.approx(
            np.array(expected), abs=1e-5
        )
    plain = scores(server.predict("nli", {"input": pairs[0]["text"]})["output"])
    assert np.abs(np.array(plain) - alone[0]).max() > 1e-3
    for wrong in ([pairs[0], "A text."], [{"text": "a"}], {"text_pair": "a"}, {"text": "a", "text_pair": 7}):
        error = server.predict("nli", {"input": wrong}, status=400)["error"]
        assert "text" in error["message"]


def test_a_folder_that_finds_names_gives_no_vectors(server: Server) -> None:
    path = models_transformers_heads.path("names")
    error = server.register("no-vectors", path, status=400, task="embedding")["error"]
    assert "The task embedding needs a model with one output of vectors" in error["message"]
