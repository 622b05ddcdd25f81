"""OpenAI's own Python client against a real server with a real LLM."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field
from serving import Server, doubler, wait_until

from tests import models_gguf

PLUGIN = '''
from unimodel.plugins import BasePlugin


class Parrot(BasePlugin):
    """Says what it hears, in capitals."""

    def load_model(self, config):
        self.folder = config.folder

    def predict(self, body):
        if body["input"] == "number":
            return {"output": 1}
        return {"output": body["input"].upper() + f" after {len(body['messages']) - 1} at {body.get('temperature')}"}


class Talker(Parrot):
    """Says it word by word; a million is endless."""

    def stream(self, body):
        words = ["x" * 100_000] * 10_000 if body["input"] == "million" else body["input"].split()
        try:
            for word in words:
                yield {"text": word.upper()}
        finally:
            (self.folder / "closed").touch()
'''

QUESTION = [{"role": "user", "content": "What is 1+1?"}]
GREEDY: dict[str, Any] = {"model": "chat", "temperature": 0, "max_tokens": 24}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 2, 3]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}


class Person(BaseModel):
    """What the client parses an answer into."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


@pytest.fixture(scope="module")
def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("models")
    plugin = folder / "parrot.py"
    plugin.write_text(PLUGIN)
    server.register("chat", models_gguf.smollm2(), config={"max_context_length": 2048})
    server.register("short", models_gguf.smollm2(), config={"max_context_length": 256, "sequences": 1})
    server.register("minilm", models_gguf.minilm())
    server.register("ranker", models_gguf.reranker())
    server.register("double", doubler(folder / "double.onnx"))
    server.register("parrot", f"{plugin}:Parrot", trust=True)
    server.register("talker", f"{plugin}:Talker", trust=True)
    return server


@pytest.fixture
def closed(served: Server) -> Path:
    """The file that says that a stream of the talker was closed, not there yet."""
    file = Path(served.get("/v1/models/talker")["path"].rpartition(":")[0]).parent / "closed"
    file.unlink(missing_ok=True)
    return file


@pytest.fixture(scope="module")
def client(served: Server) -> Iterator[OpenAI]:
    patient = {"x-request-timeout-ms": "600000"}
    url = f"{served.url}/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600, default_headers=patient) as one:
        yield one


def ask(client: OpenAI, content: str = "What is the capital of France?", **fields: Any) -> Any:
    """A greedy chat completion."""
    return client.chat.completions.create(messages=[{"role": "user", "content": content}], **{**GREEDY, **fields})


# --- models ---------------------------------------------------------------------------------------------------------


def test_models(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} >= {"chat", "double"}
    model = client.models.retrieve("chat")
    assert (model.id, model.object, model.owned_by) == ("chat", "model", "unimodel")
    assert model.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


# --- chat completions -----------------------------------------------------------------------------------------------


def test_a_chat(client: OpenAI) -> None:
    answer = ask(client)
    (choice,) = answer.choices
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert (answer.object, answer.model) == ("chat.completion", "chat")
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint.startswith("fp_")
    assert answer.usage.prompt_tokens > 5
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_chat_goes_on(client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": [{"type": "text", "text": "My name is "}, {"type": "text", "text": "Bob."}]},
    ]
    first = client.chat.completions.create(messages=messages, **GREEDY)
    messages += [first.choices[0].message, {"role": "user", "content": "Say my name."}]
    second = client.chat.completions.create(messages=messages, **GREEDY)
    assert second.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens > 0
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + first.usage.completion_tokens - 2


def test_a_streamed_chat_is_the_same(client: OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    *deltas, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in deltas) == whole.choices[0].message.content
    assert [c.choices[0].delta.role for c in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    reasons = [c.choices[0].finish_reason for c in deltas]
    assert reasons == [None] * (len(deltas) - 1) + [whole.choices[0].finish_reason]
    assert last.choices == []
    assert last.usage.total_tokens == whole.usage.total_tokens
    assert all(c.usage is None for c in deltas)
    assert len({c.id for c in chunks}) == 1


def test_the_clients_stream_helper(client: OpenAI) -> None:
    whole = ask(client, "What is 1+1?", stop=".")
    with client.chat.completions.stream(messages=QUESTION, stop=".", **GREEDY) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_lengths_and_stops(client: OpenAI) -> None:
    cut = ask(client, "Count from one to twenty.", max_tokens=5)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)
    whole = ask(client).choices[0].message.content
    word = whole.split()[3]
    for stop in (word, ["nothing like it", word]):
        stopped = ask(client, stop=stop).choices[0]
        assert stopped.finish_reason == "stop"
        assert stopped.message.content == whole.partition(word)[0]
        streamed = list(ask(client, stop=stop, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in streamed) == whole.partition(word)[0]


def test_choices_and_seeds(client: OpenAI) -> None:
    def texts(**fields: Any) -> list[str]:
        answer = ask(client, "Tell me a story.", n=2, temperature=1.5, extra_body={"top_k": 0}, **fields)
        assert [c.index for c in answer.choices] == [0, 1]
        return [c.message.content for c in answer.choices]

    one, two = texts(seed=7)
    assert one != two
    assert texts(seed=7) == [one, two]
    assert texts(seed=8) != [one, two]


def test_choices_stream_side_by_side(client: OpenAI) -> None:
    chunks = list(ask(client, "Tell me a story.", n=2, stream=True, stream_options={"include_usage": True}))
    texts = ["", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts[0] == texts[1] == ask(client, "Tell me a story.").choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 48


def test_log_probabilities(client: OpenAI) -> None:
    (choice,) = ask(client, logprobs=True, top_logprobs=3, max_tokens=8).choices
    tokens = choice.logprobs.content
    assert b"".join(bytes(t.bytes) for t in tokens).decode().startswith(choice.message.content)
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0  # it is greedy
        assert [t.logprob for t in token.top_logprobs] == sorted((t.logprob for t in token.top_logprobs), reverse=True)
    streamed = [
        t
        for c in ask(client, logprobs=True, max_tokens=8, stream=True)
        if c.choices[0].logprobs
        for t in c.choices[0].logprobs.content
    ]
    assert [t.token for t in streamed] == [t.token for t in tokens]
    assert all(t.top_logprobs == [] for t in streamed)


def test_a_biased_token_is_all_there_is(client: OpenAI) -> None:
    (choice,) = ask(client, logit_bias={"44": 100}, max_tokens=3, logprobs=True).choices
    assert len({t.token for t in choice.logprobs.content}) == 1
    assert len(choice.logprobs.content) == 3


def test_structured_answers(client: OpenAI) -> None:
    wish = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    for extra in ({}, {"temperature": 1.2, "seed": 3}):
        answer = ask(client, "Describe a person.", response_format=wish, max_tokens=100, **extra)
        jsonschema.validate(json.loads(answer.choices[0].message.content), PERSON)
    answer = ask(client, "Describe a person.", extra_body={"regex": "(yes|no), [0-9]{3}"}, max_tokens=100)
    assert answer.choices[0].message.content.partition(", ")[0] in ("yes", "no")
    answer = ask(client, "Which colour?", extra_body={"grammar": 'root ::= "red" | "blue"'})
    assert answer.choices[0].message.content in ("red", "blue")


def test_an_answer_as_an_object(client: OpenAI) -> None:
    wish = {"type": "json_object", "schema": PERSON}
    answer = ask(client, "Describe a person as JSON.", response_format=wish, max_tokens=100)
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_the_client_parses_answers(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Describe Bob, who is 42."}]
    wishes = {**GREEDY, "max_tokens": 200}
    answer = client.chat.completions.parse(messages=messages, response_format=Person, stop=None, **wishes)
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"]
)
def test_a_forced_call_of_a_tool(client: OpenAI, choice: Any) -> None:
    wish = {"tools": [{"type": "function", "function": WEATHER}], "tool_choice": choice, "max_tokens": 200}
    question = "What is the weather in Paris?"
    (whole,) = ask(client, question, parallel_tool_calls=False, **wish).choices
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["parameters"])

    chunks = list(ask(client, question, parallel_tool_calls=False, stream=True, **wish))
    pieces = [p for c in chunks for p in c.choices[0].delta.tool_calls or ()]
    assert pieces[0].function.name == "get_weather"
    assert pieces[0].id
    assert {(p.index, p.id, p.function.name) for p in pieces[1:]} <= {(0, None, None)}
    assert "".join(p.function.arguments for p in pieces) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"

    messages: Any = [
        {"role": "user", "content": question},
        whole.message,
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 25 degrees."},
    ]
    answer = client.chat.completions.create(
        messages=messages, tools=[{"type": "function", "function": WEATHER}], tool_choice="none", **GREEDY
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_the_last_message_goes_on(client: OpenAI) -> None:
    begun: Any = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    answer = client.chat.completions.create(messages=begun, extra_body=extra, **GREEDY)
    assert answer.choices[0].message.content.startswith(" Paris")


def test_the_tokens_of_thoughts_are_in_the_usage(server: Server, client: OpenAI) -> None:
    template = "{% if false %}<think></think>{% endif %}{{ messages[0].content }}<think>"
    server.register("thinker", models_gguf.llama(), config={"chat_template": template})  # it never comes to an answer
    asked: Any = {"model": "thinker", "messages": QUESTION, "max_tokens": 8}
    usage = client.chat.completions.create(**asked).usage
    *_, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    for found in (usage, last.usage):
        assert found is not None
        assert found.completion_tokens_details is not None
        assert found.completion_tokens_details.reasoning_tokens == found.completion_tokens > 0
    answer = client.responses.create(model="thinker", input="hello", max_output_tokens=16).usage
    assert answer is not None
    assert answer.output_tokens_details.reasoning_tokens == answer.output_tokens > 0
    plain = client.chat.completions.create(messages=QUESTION, **GREEDY).usage
    assert plain is not None
    assert plain.completion_tokens_details is not None
    assert plain.completion_tokens_details.reasoning_tokens == 0
    server.http.delete("/v1/models/thinker").raise_for_status()


# --- completions ----------------------------------------------------------------------------------------------------


def go_on(client: OpenAI, prompt: Any, **fields: Any) -> Any:
    """A greedy text completion."""
    return client.completions.create(model="chat", prompt=prompt, temperature=0, **fields)


def test_a_completion(client: OpenAI) -> None:
    answer = go_on(client, "The capital of France is")
    assert answer.choices[0].text.startswith(" Paris")
    assert (answer.object, answer.usage.completion_tokens) == ("text_completion", 16)
    assert answer.choices[0].finish_reason == "length"
    streamed = list(go_on(client, "The capital of France is", stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in streamed[:-1]) == answer.choices[0].text
    assert streamed[-1].usage == answer.usage or streamed[-1].usage.completion_tokens == 16


def test_several_prompts(client: OpenAI) -> None:
    prompts = ["The capital of France is", "One, two, three,", "Once upon a"]
    alone = [p + go_on(client, p, max_tokens=6).choices[0].text for p in prompts]
    answer = go_on(client, prompts, max_tokens=6, n=2, echo=True)
    assert [c.index for c in answer.choices] == list(range(6))
    assert [c.text for c in answer.choices] == [text for text in alone for _ in range(2)]
    texts = [""] * 6
    for chunk in go_on(client, prompts, max_tokens=6, n=2, echo=True, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [text for text in alone for _ in range(2)]


def test_prompts_of_tokens(client: OpenAI) -> None:
    tokens = [504, 3575, 282, 4649, 314]
    one = go_on(client, tokens, max_tokens=4).choices[0].text
    answer = go_on(client, [tokens, tokens[:-1]], max_tokens=4)
    assert answer.choices[0].text == one
    assert answer.usage.prompt_tokens == 9


def test_log_probabilities_of_a_completion(client: OpenAI) -> None:
    choice = go_on(client, "One, two,", max_tokens=5, logprobs=2).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs)
    for at, token, logprob, top in zip(
        logprobs.text_offset, logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert choice.text[at:].startswith(token)
        assert top[token] == logprob


# --- responses ------------------------------------------------------------------------------------------------------


def respond(client: OpenAI, given: Any = "What is the capital of France?", **fields: Any) -> Any:
    """A greedy response."""
    wishes = {"model": "chat", "temperature": 0, "max_output_tokens": 24, **fields}
    return client.responses.create(input=given, **wishes)


def test_a_response(client: OpenAI) -> None:
    response = respond(client)
    assert response.output_text == ask(client).choices[0].message.content
    assert response.status in ("completed", "incomplete")
    assert response.usage.output_tokens <= 24
    short = respond(client, "Count from one to twenty.", max_output_tokens=4)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    told = respond(client, [{"role": "user", "content": "Hello."}], instructions="You are a pirate.")
    assert told.instructions == "You are a pirate."
    answered = respond(client, [{"role": "user", "content": "Hello."}, *told.output, {"role": "user", "content": "?"}])
    assert answered.output_text


def test_a_streamed_response(client: OpenAI) -> None:
    wishes = {"max_output_tokens": 60}
    whole = respond(client, "Say hello.", **wishes)
    events = list(respond(client, "Say hello.", stream=True, **wishes))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [e.type for e in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == f"response.{whole.status}"
    assert events[-1].response.output_text == whole.output_text


def test_the_clients_response_helpers(client: OpenAI) -> None:
    wishes: Any = {"model": "chat", "temperature": 0, "max_output_tokens": 200}
    with client.responses.stream(input="Describe Bob, who is 42.", text_format=Person, **wishes) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == text
    assert isinstance(final.output_parsed, Person)
    parsed = client.responses.parse(input="Describe Bob, who is 42.", text_format=Person, **wishes)
    assert parsed.output_parsed == final.output_parsed


def test_a_response_calls_a_tool(client: OpenAI) -> None:
    wishes = {"tools": [{"type": "function", **WEATHER}], "max_output_tokens": 200}
    forced = {**wishes, "tool_choice": {"type": "function", "name": "get_weather"}, "parallel_tool_calls": False}
    question = {"role": "user", "content": "What is the weather in Paris?"}
    (call,) = [item for item in respond(client, [question], **forced).output if item.type == "function_call"]
    assert call.name == "get_weather"
    jsonschema.validate(json.loads(call.arguments), WEATHER["parameters"])
    events = list(respond(client, [question], stream=True, **forced))
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert "".join(pieces) == done.arguments == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    assert respond(client, [question, call, output], tool_choice="none", **wishes).output_text


# --- embeddings and reranking ---------------------------------------------------------------------------------------


def test_embeddings(client: OpenAI) -> None:
    texts = ["A cat sat on the mat.", "A kitten lay on the rug.", "The stock market fell."]
    answer = client.embeddings.create(model="minilm", input=texts)
    cat, kitten, market = (item.embedding for item in answer.data)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert len(cat) == 384
    assert sum(x * x for x in cat) == pytest.approx(1, abs=1e-3)
    assert sum(a * b for a, b in zip(cat, kitten, strict=True)) > sum(a * b for a, b in zip(cat, market, strict=True))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 20
    plain = client.embeddings.create(model="minilm", input=texts[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(cat, abs=1e-3)
    short = client.embeddings.create(model="minilm", input=texts, dimensions=64)
    assert [len(item.embedding) for item in short.data] == [64] * 3
    assert sum(x * x for x in short.data[0].embedding) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": "a", "dimensions": 400}, "dimensions"),
    ],
)
def test_what_cannot_be_embedded_is_refused(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model="minilm", **fields)
    assert error.value.param == param


def rerank(client: OpenAI, **fields: Any) -> Any:
    """The client has no method for it, but sends any request."""
    body = {"model": "ranker", "query": "what is the capital of france", **fields}
    return client.post("/rerank", cast_to=object, body=body)


def test_reranking(client: OpenAI) -> None:
    documents = ["a cat sat on the mat", {"text": "paris is the capital of france"}, "a dog"]
    answer = rerank(client, documents=documents)
    assert answer["model"] == "ranker"
    assert answer["usage"]["total_tokens"] > 20
    results = answer["results"]
    assert sorted(r["index"] for r in results) == [0, 1, 2]
    scores = [r["relevance_score"] for r in results]
    assert scores == sorted(scores, reverse=True)
    texts = [d["text"] if isinstance(d, dict) else d for d in documents]
    assert all(r["document"] == {"text": texts[r["index"]]} for r in results)
    best = rerank(client, documents=documents, top_n=1, return_documents=False)["results"]
    assert best == [{key: results[0][key] for key in ("index", "relevance_score")}]
    with pytest.raises(openai.BadRequestError) as error:
        rerank(client, documents=["a", ""])
    assert error.value.param == "documents[1]"


# --- errors ---------------------------------------------------------------------------------------------------------


def test_errors_name_what_is_wrong(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ask(client, model="nobody")
    assert missing.value.code == "model_not_found"
    for fields, param in (
        ({"temperature": -1}, "temperature"),
        ({"extra_body": {"min_tokens": 3}}, "min_tokens"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"regex": "(("}}, "regex"),
        ({"extra_body": {"stop_token_ids": [10**6]}}, "stop_token_ids"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ):
        with pytest.raises(openai.BadRequestError) as bad:
            ask(client, **fields)
        assert bad.value.param == param
        assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="data:image/png;base64"):
        part = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
        client.chat.completions.create(messages=[{"role": "user", "content": [part]}], **GREEDY)
    with pytest.raises(openai.BadRequestError, match="keeps no responses"):
        respond(client, previous_response_id="resp_1")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="256") as error:
        ask(client, "word " * 300, model="short", stream=stream)
    assert "33" in error.value.message
    assert ask(client, "word " * 300, model="short", extra_body={"truncate": True}, max_tokens=4).choices[0].message


def test_a_model_for_something_else_says_which_route_serves_it(client: OpenAI) -> None:
    for call in (
        lambda: ask(client, model="double"),
        lambda: client.completions.create(model="double", prompt="x"),
        lambda: client.responses.create(model="double", input="x"),
        lambda: client.embeddings.create(model="double", input="x"),
    ):
        with pytest.raises(openai.BadRequestError, match="/v1/models/double:predict") as error:
            call()
        assert error.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="POST /v1/chat/completions"):
        client.embeddings.create(model="chat", input="x")


def test_a_deadline_ends_a_stream_with_an_error(client: OpenAI) -> None:
    headers = {"x-request-timeout-ms": "1500"}
    stream = ask(client, stream=True, max_tokens=2000, extra_headers=headers, extra_body={"ignore_eos": True})
    with pytest.raises(openai.APIError, match="deadline"):
        list(stream)


# --- many at once ---------------------------------------------------------------------------------------------------


def test_a_stream_that_is_closed_frees_its_place(start: Callable[..., Server]) -> None:
    server = start()
    server.register("chat", models_gguf.smollm2(), config={"sequences": 1})
    endless = {"max_tokens": 8000, "extra_body": {"ignore_eos": True}}
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        for _ in range(3):
            stream = ask(client, stream=True, **endless)
            next(iter(stream))
            stream.close()
            wait_until(lambda: server.status("chat")["in_flight"] == 0)
        with pytest.raises(openai.APITimeoutError):
            ask(client, timeout=1, **endless)  # not streamed: the client hangs up
        wait_until(lambda: server.status("chat")["in_flight"] == 0)
        assert ask(client, max_tokens=3).usage.completion_tokens == 3


def mixed(client: OpenAI, number: int) -> str:
    """One of several kinds of greedy requests; its text."""
    animal = ("cat", "dog", "horse", "whale")[number // 4 % 4]
    match number % 4:
        case 0:
            return str(ask(client, f"What is a {animal}?", max_tokens=16).choices[0].message.content)
        case 1:
            chunks = ask(client, f"Tell me about the {animal}.", stream=True, max_tokens=20)
            return "".join(c.choices[0].delta.content or "" for c in chunks)
        case 2:
            return str(go_on(client, f"The {animal} is", max_tokens=12).choices[0].text)
        case _:
            wish = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
            answer = ask(client, f"Describe a {animal}.", response_format=wish, max_tokens=40)
            return str(answer.choices[0].message.content)


def test_answers_among_many_are_those_alone(client: OpenAI) -> None:
    alone = [mixed(client, i) for i in range(16)]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda i: mixed(client, i), range(64)))
    assert together == alone * 4


async def test_two_hundred_streams_at_once(served: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=600) as client:

        async def read(number: int) -> int:
            stream = await client.chat.completions.create(
                model="chat",
                messages=[{"role": "user", "content": f"Count on from {number}."}],
                max_tokens=4,
                stream=True,
                stream_options={"include_usage": True},
                extra_headers={"x-request-timeout-ms": "600000"},
                extra_body={"ignore_eos": True},
            )
            chunks = [chunk async for chunk in stream]
            assert chunks[-2].choices[0].finish_reason == "length"
            return chunks[-1].usage.completion_tokens

        assert await asyncio.gather(*(read(i) for i in range(200))) == [4] * 200
    wait_until(lambda: served.status("chat")["in_flight"] == 0)


def test_a_slow_reader_slows_nobody(client: OpenAI) -> None:
    expected = ask(client, "Tell me a story.", max_tokens=60).choices[0].message.content
    with ask(client, "Tell me a story.", max_tokens=60, stream=True) as slow:
        chunks = iter(slow)
        text = next(chunks).choices[0].delta.content
        for number in range(4):
            assert mixed(client, number)
        text += "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == expected


# --- plugins --------------------------------------------------------------------------------------------------------


def test_a_plugin_that_answers_text_chats(client: OpenAI) -> None:
    answer = ask(client, "hello", model="parrot", temperature=0.5)
    assert answer.choices[0].message.content == "HELLO after 0 at 0.5"
    assert answer.usage is None
    streamed = list(ask(client, "hello", model="parrot", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == "HELLO after 0 at 0.0"
    words = [c.choices[0].delta.content for c in ask(client, "one two", model="talker", stream=True)]
    assert words == ["", "ONE", "TWO", None]
    with pytest.raises(openai.BadRequestError, match="POST /v1/models/parrot:predict"):
        ask(client, "number", model="parrot")
    with pytest.raises(openai.BadRequestError, match="cannot honour n"):
        ask(client, "x", model="parrot", n=2)


def test_a_reader_that_does_not_read_is_cut_off(served: Server, closed: Path) -> None:
    body = {"model": "talker", "messages": [{"role": "user", "content": "million"}], "stream": True}
    with (
        httpx.Client(base_url=served.url, timeout=60) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        pieces = response.iter_bytes()
        next(pieces)
        wait_until(closed.exists, 60)  # long before its end, which would be a gigabyte away
        rest = b"".join(pieces)
    assert b"too slowly" in rest
    assert b"[DONE]" not in rest
