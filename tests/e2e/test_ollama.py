"""Ollama's own client, unmodified, against a real server with a real LLM."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from serving import Server, doubler, wait_until

from tests.hub_stand_in import Repo, serving
from tests.models import model

GREEDY = {"temperature": 0, "num_predict": 12}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "available": {"type": "boolean"}},
    "required": ["age", "available"],
    "additionalProperties": False,
}
CONTEXT = 1024


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[ollama.Client]:
    """A client of a server that has an LLM, ``chat``, an ``embedder``, and a model that is neither, ``double``."""
    config = {"max_context_length": CONTEXT, "sequences": 4}
    server.register("chat", model("smollm2", "model.gguf"), config=config)
    server.register("embedder", model("minilm-gguf", "model.gguf"))
    server.register("double", doubler(server.home.parent / "double.onnx"))
    with ollama.Client(host=server.url) as client:
        yield client


@pytest.fixture(scope="module")
def whole(client: ollama.Client) -> str:
    """What the model answers to the question, always."""
    content = client.chat("chat", QUESTION, options=GREEDY).message.content
    assert content
    return content


def refused(call: Callable[[], Any]) -> ollama.ResponseError:
    with pytest.raises(ollama.ResponseError) as e:
        call()
    assert "Traceback" not in e.value.error
    return e.value


def cancelled(server: Server) -> float:
    """How many requests to the LLM were cancelled."""
    line = re.search(
        r'unimodel_requests_total{model="chat",outcome="cancelled",version="1"} (.*)', server.http.get("/metrics").text
    )
    return float(line[1]) if line else 0.0


def loaded(client: ollama.Client) -> dict[str, Any]:
    """The loaded models, by name."""
    return {str(m.model): m for m in client.ps().models}


# --- chat and generate -----------------------------------------------------------------------------------------------


def test_a_chat_is_answered_with_its_numbers(client: ollama.Client, whole: str) -> None:
    answer = client.chat("chat:latest", QUESTION, options=GREEDY)
    assert answer.message.role == "assistant"
    assert answer.message.content == whole
    assert answer.model == "chat:latest"
    assert answer.done
    assert answer.done_reason in ("stop", "length")
    assert answer.eval_count is not None
    assert 0 < answer.eval_count <= 12
    assert answer.prompt_eval_count is not None
    assert answer.prompt_eval_count > len(QUESTION[0]["content"].split())
    assert answer.total_duration is not None
    assert answer.total_duration >= (answer.prompt_eval_duration or 0) + (answer.eval_duration or 0) > 0
    assert answer.created_at is not None
    assert abs(datetime.fromisoformat(answer.created_at) - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_streamed_chat_says_the_same(client: ollama.Client, whole: str) -> None:
    *pieces, last = client.chat("chat", QUESTION, options=GREEDY, stream=True)
    assert "".join(p.message.content or "" for p in pieces) == whole
    assert len(pieces) > 1
    assert not any(p.done for p in pieces)
    assert last.done
    assert (last.message.content, last.eval_count) == ("", 12)
    assert last.done_reason == "length"


async def test_the_asynchronous_client_streams_too(client: ollama.Client, whole: str, server: Server) -> None:
    async with ollama.AsyncClient(host=server.url) as many:
        stream = await many.chat("chat", QUESTION, options=GREEDY, stream=True)
        assert "".join([p.message.content or "" async for p in stream]) == whole


def test_streaming_is_what_happens_when_nothing_is_said(server: Server, client: ollama.Client) -> None:
    for path, body in {"chat": {"messages": QUESTION}, "generate": {"prompt": "Hi"}}.items():
        answer = server.http.post(f"/api/{path}", json={"model": "chat", "options": GREEDY, **body})
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_a_prompt_is_a_users_message(client: ollama.Client, whole: str) -> None:
    prompt = QUESTION[0]["content"]
    assert client.generate("chat", prompt, options=GREEDY).response == whole
    *pieces, last = client.generate("chat", prompt, options=GREEDY, stream=True)
    assert "".join(p.response for p in pieces) == whole
    assert last.done


def test_a_raw_prompt_is_not(client: ollama.Client, whole: str) -> None:
    raw = client.generate("chat", "The capital of France is", raw=True, options=GREEDY)
    assert raw.response != whole
    assert (raw.prompt_eval_count or 0) < 8


def test_a_conversation_goes_on_by_its_context(client: ollama.Client) -> None:
    first = client.generate("chat", "My name is Ada.", options=GREEDY)
    assert first.context
    fresh = client.generate("chat", "What is my name?", options=GREEDY)
    second = client.generate("chat", "What is my name?", options=GREEDY, context=first.context)
    assert second.prompt_eval_count == len(first.context) + (fresh.prompt_eval_count or 0)
    assert list(second.context or ())[: len(first.context)] == list(first.context)
    *_, last = client.generate("chat", "What is my name?", options=GREEDY, context=first.context, stream=True)
    assert last.context == second.context
    assert second.response != fresh.response
    assert client.generate("chat", "Hi", raw=True, options=GREEDY).context is None


def test_a_system_message_makes_the_prompt_longer(client: ollama.Client) -> None:
    numbers = [
        client.generate("chat", "Hi", system=system, options={"num_predict": 1}).prompt_eval_count
        for system in ("Be brief.", "Be brief. Be kind. Be true.")
    ]
    assert (numbers[0] or 0) < (numbers[1] or 0)


def test_the_assistants_last_message_is_gone_on_with(client: ollama.Client) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    content = client.chat("chat", begun, options=GREEDY).message.content or ""
    assert "Paris" in content
    assert not content.startswith("The capital")


def test_an_answer_fits_its_schema(client: ollama.Client) -> None:
    prompt = "Ollama is 22 years old and busy. Answer in JSON."
    for answer in (
        client.generate("chat", prompt, format=SCHEMA, options={"temperature": 0}).response,
        client.chat("chat", [{"role": "user", "content": prompt}], format=SCHEMA, options={"seed": 1}).message.content,
    ):
        value = json.loads(answer or "")
        assert set(value) == {"age", "available"}
        assert type(value["age"]) is int
        assert type(value["available"]) is bool


def test_json_is_json(client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 200}
    answer = client.chat("chat", [{"role": "user", "content": "Name a city, in JSON."}], format="json", options=options)
    if answer.done_reason == "stop":
        assert isinstance(json.loads(answer.message.content or ""), dict)
    else:
        assert (answer.message.content or "").lstrip().startswith("{")


def test_a_seed_makes_an_answer_come_again(client: ollama.Client) -> None:
    answers = [
        client.chat("chat", QUESTION, options={"seed": seed, "temperature": 1.5, "num_predict": 12}).message.content
        for seed in (7, 7, 8)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_a_stop_text_ends_the_answer(client: ollama.Client, whole: str) -> None:
    word = whole.split()[2]
    answer = client.chat("chat", QUESTION, options={**GREEDY, "stop": [word]})
    assert answer.message.content == whole[: whole.index(word)]
    assert answer.done_reason == "stop"


def test_log_probabilities(server: Server, client: ollama.Client, whole: str) -> None:
    body = {"model": "chat", "messages": QUESTION, "options": GREEDY, "logprobs": True, "top_logprobs": 2}
    answer = server.http.post("/api/chat", json={**body, "stream": False}).json()
    assert len(answer["logprobs"]) == answer["eval_count"]
    assert b"".join(bytes(t["bytes"]) for t in answer["logprobs"]).decode().startswith(whole)
    for token in answer["logprobs"]:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"]), "greedy takes the likeliest"


def current_time(zone: int) -> str:
    """Tells the time.

    Args:
        zone: Hours from Greenwich
    """
    return f"12:00 in zone {zone}"


def test_tools_and_their_results_are_part_of_a_chat(client: ollama.Client) -> None:
    without = client.chat("chat", QUESTION, options={"num_predict": 1})
    offered = client.chat("chat", QUESTION, tools=[current_time], options={"num_predict": 1})
    assert (offered.prompt_eval_count or 0) > (without.prompt_eval_count or 0), "the model reads of its tools"
    call = {"function": {"name": "current_time", "arguments": {"zone": 1}}}
    history = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": current_time(1), "tool_name": "current_time"},
    ]
    answer = client.chat("chat", history, tools=[current_time], options={"num_predict": 4})
    assert answer.message.content or answer.message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(server: Server, client: ollama.Client, stream: bool) -> None:
    before = cancelled(server)
    options = {"num_predict": 900, "seed": 1, "repeat_penalty": 1.3}
    if stream:
        answer = client.chat("chat", QUESTION, options=options, stream=True)
        next(answer)
        answer.close()
    else:
        with ollama.Client(host=server.url, timeout=0.5) as impatient, pytest.raises(httpx.ReadTimeout):
            impatient.chat("chat", QUESTION, options=options)
    wait_until(lambda: cancelled(server) == before + 1)
    assert client.chat("chat", QUESTION, options={"num_predict": 1}).done


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": {"num_ctx": 99_999}}, f"99999.*{CONTEXT}"),
        ({"options": {"num_gpu": 1}}, "num_gpu.*unimodel register"),
        ({"options": {"mirostat": 2}}, "mirostat"),
        ({"options": {"temperature": "hot"}}, "temperature"),
        ({"think": True}, "does not think"),
        ({"context": [10**9]}, "token 1000000000"),
        ({"context": [1, 2, 3], "raw": True}, "raw"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"suffix": "end"}, "suffix|fill"),
        ({"images": [b"\x89PNG"]}, "image"),
        ({"format": {"type": "no-such-type"}}, "format|schema|type"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"prompt": "word " * 2000}, f"{CONTEXT}"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_a_400(client: ollama.Client, fields: dict[str, Any], words: str, stream: bool) -> None:
    def ask() -> None:
        answer = client.generate("chat", **{"prompt": "Hi", **fields}, stream=stream)
        for _ in answer if stream else ():
            pass

    error = refused(ask)
    assert error.status_code == 400
    assert re.search(words, error.error), error.error


def test_a_field_that_is_none_is_named(server: Server) -> None:
    answer = server.http.post("/api/chat", json={"model": "chat", "messages": QUESTION, "temperature": 0})
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert "temperature" in answer.json()["error"]
    assert server.http.post("/api/chat", content="{").status_code == 400


def test_models_that_are_not_there_or_do_not_talk(client: ollama.Client) -> None:
    for name in ("nobody", "chat:7b", "chat:99"):
        assert refused(lambda name=name: client.chat(name, QUESTION)).status_code == 404  # type: ignore[misc]
    error = refused(lambda: client.chat("double", QUESTION))
    assert error.status_code == 400
    assert "tensor" in error.error


def test_a_prompt_that_is_too_long_can_be_cut(server: Server, client: ollama.Client) -> None:
    client.create("short", from_="chat", parameters={"num_ctx": 64})
    body = {"model": "short", "prompt": "word " * 100, "raw": True, "stream": False}
    assert server.http.post("/api/generate", json=body).status_code == 400
    answer = server.http.post("/api/generate", json={**body, "truncate": True, "options": {"num_predict": 1}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["prompt_eval_count"] < 64
    client.delete("short")


# --- embeddings ------------------------------------------------------------------------------------------------------


def test_texts_become_vectors(client: ollama.Client) -> None:
    texts = ["A cat sleeps.", "A kitten naps.", "The stock market fell."]
    answer = client.embed("embedder", texts)
    cat, kitten, market = answer.embeddings
    assert sum(x * x for x in cat) == pytest.approx(1, abs=1e-3)
    assert sum(map(float.__mul__, cat, kitten)) > sum(map(float.__mul__, cat, market)), "by what they mean"
    assert (answer.prompt_eval_count or 0) > len(texts)
    assert (answer.total_duration or 0) > 0
    (alone,) = client.embed("embedder", texts[0]).embeddings
    assert alone == pytest.approx(cat, abs=1e-3)
    assert client.embeddings("embedder", texts[0]).embedding == pytest.approx(cat, abs=1e-3)
    assert len(client.embed("embedder", texts[0], dimensions=8).embeddings[0]) == 8
    assert client.embed("embedder", []).embeddings == client.embeddings("embedder", "").embedding == []
    assert client.show("embedder").capabilities == ["embedding"]


def test_a_text_that_is_too_long_is_cut_unless_that_is_refused(server: Server, client: ollama.Client) -> None:
    text = "word " * 600
    for asked in ({}, {"truncate": True}):
        assert client.embed("embedder", [text, "word"], **asked).prompt_eval_count == 512 + 3
    error = refused(lambda: client.embed("embedder", text, truncate=False))
    assert error.status_code == 400
    assert re.search("602 tokens.*512", error.error)
    server.register("cutter", model("minilm-gguf", "model.gguf"), config={"truncate": True})
    assert refused(lambda: client.embed("cutter", text, truncate=False)).status_code == 400
    client.delete("cutter")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "chat"}, "embeds nothing"),
        ({"input": ["x", ""]}, "empty"),
        ({"dimensions": 0}, "dimensions"),
        ({"options": {"temperature": 0}}, "temperature"),
    ],
)
def test_what_cannot_be_embedded_is_a_400(client: ollama.Client, fields: dict[str, Any], words: str) -> None:
    error = refused(lambda: client.embed(**{"model": "embedder", "input": "x", **fields}))
    assert error.status_code == 400
    assert words in error.error


def test_a_chat_is_not_for_what_embeds(client: ollama.Client) -> None:
    assert refused(lambda: client.chat("embedder", QUESTION)).status_code == 400


# --- models ----------------------------------------------------------------------------------------------------------


def test_the_list_has_what_talks(client: ollama.Client) -> None:
    models = {m.model: m for m in client.list().models}
    assert "double:latest" not in models
    chat = models["chat:latest"]
    assert chat.digest is not None
    assert len(chat.digest) == 64
    assert (chat.size or 0) > 50_000_000
    assert chat.details is not None
    assert (chat.details.format, chat.details.family) == ("gguf", "llama")
    assert (chat.details.parameter_size, chat.details.quantization_level) == ("134.52M", "Q4_1")


def test_a_model_is_described(client: ollama.Client) -> None:
    shown = client.show("chat")
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == CONTEXT
    assert "<|im_start|>" in (shown.template or "")
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    assert client.show("double").capabilities == []
    assert refused(lambda: client.show("nobody")).status_code == 404


def test_a_version_says_what_it_is_like(server: Server) -> None:
    assert server.http.get("/api/version").json() == {"version": "0.12.11"}


def test_a_copy_lives_on_without_its_source(client: ollama.Client, whole: str) -> None:
    assert client.copy("chat", "twin").status == "success"
    assert client.copy("chat", "heir").status == "success"
    assert client.copy("twin", "heir:latest").status == "success", "a name that is there gets a new version"
    assert client.delete("twin").status == "success"
    assert client.chat("heir", QUESTION, options=GREEDY).message.content == whole
    assert client.chat("heir:1", QUESTION, options=GREEDY).message.content == whole
    assert client.delete("heir:1").status == "success"
    assert client.delete("heir").status == "success"
    assert refused(lambda: client.delete("heir")).status_code == 404
    assert refused(lambda: client.copy("nobody", "heir")).status_code == 404
    assert refused(lambda: client.copy("chat", "heir:2")).status_code == 400
    assert refused(lambda: client.copy("chat", "no/name")).status_code == 400


def test_an_alias_is_a_name_like_any_other(server: Server, client: ollama.Client, whole: str) -> None:
    server.http.put("/v1/aliases/best", json={"model": "chat"}).raise_for_status()
    assert "best:latest" in {m.model for m in client.list().models}
    assert client.chat("best", QUESTION, options=GREEDY).message.content == whole
    assert refused(lambda: client.delete("best:1")).status_code == 404
    assert client.delete("best").status == "success"
    assert client.show("chat").capabilities


def test_a_model_is_created_from_another(client: ollama.Client) -> None:
    template = "{{ messages[0].content }} and"
    *_, last = client.create(
        "calm", from_="chat", parameters={"temperature": 0, "num_ctx": 256}, template=template, stream=True
    )
    assert last.status == "success"
    shown = client.show("calm")
    assert shown.template == template
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 256
    parameters = [line.split() for line in (shown.parameters or "").splitlines()]
    assert parameters == [["temperature", "0.0"], ["num_ctx", "256"]]
    answers = {client.generate("calm", "Salt", options={"num_predict": 5}).response for _ in range(3)}
    assert len(answers) == 1, "greedy, as its parameters say"
    assert client.create("calm", from_="chat", parameters={"top_k": 3}).status == "success"
    assert client.delete("calm").status == "success"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "from"),
        ({"from_": "nobody"}, "nobody"),
        ({"from_": "chat", "system": "Be brief."}, "system"),
        ({"from_": "chat", "quantize": "q4_0"}, "quantize"),
        ({"from_": "chat", "files": {"a.gguf": "sha256:0"}}, "either"),
        ({"from_": "chat", "parameters": {"stop": ["a"]}}, "stop"),
        ({"from_": "chat", "parameters": {"warmth": 1}}, "warmth"),
        ({"from_": "chat", "template": "{{ .Prompt }}"}, "Jinja"),
        ({"from_": "chat", "template": "/etc/hostname"}, "Jinja"),
    ],
)
def test_what_cannot_be_created_is_said(client: ollama.Client, fields: dict[str, Any], words: str) -> None:
    error = refused(lambda: client.create("new", **fields))
    assert error.status_code == (404 if words == "nobody" else 400)
    assert words in error.error


def test_nothing_is_pushed(client: ollama.Client) -> None:
    assert refused(lambda: client.push("chat")).status_code == 400


# --- keep_alive ------------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_and_unloaded_without_a_question(server: Server, client: ollama.Client) -> None:
    client.generate("chat", keep_alive=0)
    wait_until(lambda: "chat:latest" not in loaded(client))
    answer = client.generate("chat", keep_alive="5m")
    assert (answer.response, answer.done, answer.done_reason) == ("", True, "load")
    running = loaded(client)["chat:latest"]
    assert running.context_length == CONTEXT
    assert timedelta(minutes=4) < running.expires_at - datetime.now(UTC) <= timedelta(minutes=5)
    assert client.chat("chat", [], keep_alive=-1).done_reason == "load"
    assert loaded(client)["chat:latest"].expires_at.year == 9999
    assert client.chat("chat", [], keep_alive=0).done_reason == "unload"
    wait_until(lambda: server.status("chat")["state"] == "unloaded")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("keep_alive", [0, "200ms"])
def test_a_model_goes_when_its_time_is_over(client: ollama.Client, stream: bool, keep_alive: Any) -> None:
    answer = client.chat("chat", QUESTION, options=GREEDY, keep_alive=keep_alive, stream=stream)
    last = list(answer)[-1] if stream else answer
    assert last.done
    wait_until(lambda: "chat:latest" not in loaded(client))
    again = client.chat("chat", QUESTION, options=GREEDY)
    assert (again.load_duration or 0) > 0
    assert "chat:latest" in loaded(client), "and stays, when nobody says for how long"


def test_a_use_puts_the_end_off(client: ollama.Client) -> None:
    client.chat("chat", [], keep_alive="1h")
    first = loaded(client)["chat:latest"].expires_at
    client.chat("chat", QUESTION, options=GREEDY)
    assert loaded(client)["chat:latest"].expires_at > first


# --- pull ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pulling(tmp_path: Path) -> Iterator[ollama.Client]:
    """A client of a server whose hub has the LLM."""
    pytest.importorskip("huggingface_hub")
    repos = {
        "acme/tiny-GGUF": Repo({"tiny-Q4_1.gguf": model("smollm2", "model.gguf").read_bytes()}),
        "acme/broken": Repo({"broken.gguf": os.urandom(1000)}),
    }
    with serving(repos) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}
        with Server(tmp_path / "home", env=env) as server, ollama.Client(host=server.url) as client:
            yield client


def test_a_model_is_pulled_and_talks_under_the_name_it_was_pulled_by(pulling: ollama.Client) -> None:
    name = "hf.co/acme/tiny-GGUF:Q4_1"
    first, *steps, last = pulling.pull(name, stream=True)
    assert (first.status, last.status) == ("pulling manifest", "success")
    total = model("smollm2", "model.gguf").stat().st_size
    assert [s for s in steps if s.completed == s.total == total and (s.digest or "").startswith("sha256:")]
    assert pulling.chat(name, QUESTION, options=GREEDY).message.content
    assert pulling.pull(name).status == "success"
    assert [m.model for m in pulling.list().models] == ["acme-tiny-GGUF-Q4_1:latest"]
    assert refused(lambda: pulling.show("acme-tiny-GGUF-Q4_1:2")).status_code == 404, "it was there already"


def test_what_cannot_be_pulled_is_said(pulling: ollama.Client) -> None:
    assert "hf.co/ORG/REPO" in refused(lambda: pulling.pull("llama3.2")).error
    for stream in (False, True):
        error = refused(lambda stream=stream: list(pulling.pull("hf.co/acme/nothing", stream=stream)))  # type: ignore[misc]
        assert error.status_code == 404
    assert refused(lambda: pulling.pull("hf.co/acme/tiny-GGUF:Q8_0")).status_code == 400
    broken = refused(lambda: list(pulling.pull("hf.co/acme/broken", stream=True)))
    assert broken.status_code == -1, "a line of the stream"
    assert broken.error
    assert pulling.list().models == []


# --- many ------------------------------------------------------------------------------------------------------------


async def test_many_at_once_answer_as_alone(server: Server, client: ollama.Client) -> None:
    questions = [[{"role": "user", "content": f"What is {i} plus {i}?"}] for i in range(8)]
    alone = [client.chat("chat", q, options=GREEDY).message.content for q in questions]

    async def streamed(many: ollama.AsyncClient, question: Any) -> str:
        stream = await many.chat("chat", question, options=GREEDY, stream=True)
        return "".join([p.message.content or "" async for p in stream])

    async with ollama.AsyncClient(host=server.url) as many:
        assert await asyncio.gather(*(streamed(many, q) for q in questions)) == alone


def test_a_stream_whose_worker_dies_ends_with_an_error(server: Server, client: ollama.Client, whole: str) -> None:
    stream = client.chat("chat", QUESTION, options={"num_predict": 900, "seed": 1, "temperature": 2}, stream=True)
    next(iter(stream))
    server.kill_workers()
    error = refused(lambda: list(stream))
    assert error.status_code == -1, "a line of the stream"
    assert "worker" in error.error
    assert client.chat("chat", QUESTION, options=GREEDY).message.content == whole, "another one has taken its place"


def test_nothing_is_left_behind(server: Server, client: ollama.Client) -> None:
    wait_until(lambda: server.status("chat")["in_flight"] == 0)
    assert httpx.get(f"{server.url}/healthz").json()["status"] == "ok"
