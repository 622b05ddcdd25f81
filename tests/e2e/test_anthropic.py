"""Anthropic's own client, unmodified, against a real server with a real LLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import TextBlock, ToolUseBlock
from serving import Server, doubler, wait_until

from tests.models import model

CONTEXT = 1024
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"model": "chat", "max_tokens": 12, "extra_body": {"temperature": 0}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "weather", "description": "Forecasts the weather.", "input_schema": SCHEMA}
FORCED: Any = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    """A client of a server that has an LLM, ``chat``, and a model that is none, ``double``."""
    config = {"max_context_length": CONTEXT, "sequences": 4}
    server.register("chat", model("smollm2", "model.gguf"), config=config)
    server.register("double", doubler(server.home.parent / "double.onnx"))
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def whole(client: anthropic.Anthropic) -> str:
    """What the model answers to the question, always."""
    return text_of(client.messages.create(messages=QUESTION, **GREEDY))


def text_of(message: anthropic.types.Message) -> str:
    assert [block.type for block in message.content] == ["text"]
    block = message.content[0]
    assert isinstance(block, TextBlock)
    assert block.text
    return block.text


def call_of(message: anthropic.types.Message) -> ToolUseBlock:
    assert message.stop_reason == "tool_use"
    block = message.content[-1]
    assert isinstance(block, ToolUseBlock)
    assert block.name == "weather"
    assert set(block.input) == {"city", "days"}
    return block


def test_a_message_is_answered(client: anthropic.Anthropic, whole: str) -> None:
    answer = client.messages.create(messages=QUESTION, **GREEDY)
    assert text_of(answer) == whole
    assert answer.id.startswith("msg_")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "chat")
    assert (answer.stop_reason, answer.stop_sequence) == ("max_tokens", None)
    assert answer.usage.output_tokens == 12
    assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) > 10


def test_a_streamed_message_says_the_same(client: anthropic.Anthropic, whole: str) -> None:
    with client.messages.stream(messages=QUESTION, **GREEDY) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == text_of(final) == whole
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 12)
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) > 10


def test_the_raw_events_are_in_order(client: anthropic.Anthropic) -> None:
    kinds = [event.type for event in client.messages.create(messages=QUESTION, stream=True, **GREEDY)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


async def test_the_asynchronous_client_streams_too(server: Server, client: anthropic.Anthropic, whole: str) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=server.url, api_key="any", max_retries=0) as many,
        many.messages.stream(messages=QUESTION, **GREEDY) as stream,
    ):
        assert "".join([piece async for piece in stream.text_stream]) == whole


def test_a_stop_sequence_ends_the_answer(client: anthropic.Anthropic, whole: str) -> None:
    word = whole.split()[2]
    answer = client.messages.create(messages=QUESTION, stop_sequences=["<none>", word], **GREEDY)
    assert text_of(answer) == whole[: whole.index(word)]
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", word)


def test_an_answer_goes_on_with_what_the_assistant_began(client: anthropic.Anthropic) -> None:
    begun: Any = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    answer = text_of(client.messages.create(messages=begun, **GREEDY))
    assert "Paris" in answer
    assert not answer.startswith("The capital")


def test_counting_says_what_an_answer_will_cost(client: anthropic.Anthropic) -> None:
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    counted = client.messages.count_tokens(model="chat", messages=QUESTION, system=system, tools=[WEATHER])
    usage = client.messages.create(
        messages=QUESTION, system=system, tools=[WEATHER], tool_choice={"type": "auto"}, **GREEDY
    ).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    fewer = client.messages.count_tokens(model="chat", messages=QUESTION)
    assert 0 < fewer.input_tokens < counted.input_tokens


def test_a_prompt_that_came_before_is_read_from_the_cache(client: anthropic.Anthropic) -> None:
    asked: Any = [{"role": "user", "content": "Tell me all about lighthouses, " * 10}]
    client.messages.create(messages=asked, **GREEDY)
    usage = client.messages.create(messages=asked, **GREEDY).usage
    assert (usage.cache_read_input_tokens or 0) > usage.input_tokens > 0


def test_a_tool_is_called_and_its_result_read(client: anthropic.Anthropic) -> None:
    asked: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    ask: Any = {**GREEDY, "max_tokens": 60, "tools": [WEATHER]}
    answer = client.messages.create(messages=asked, tool_choice=FORCED, **ask)
    call = call_of(answer)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Rain."}]}
    history: Any = [*asked, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(messages=history, tool_choice={"type": "none"}, **ask)
    assert text_of(last)


def test_a_streamed_call_is_put_together_by_the_client(client: anthropic.Anthropic) -> None:
    any_one = {"type": "any", "disable_parallel_tool_use": True}
    ask: Any = {**GREEDY, "max_tokens": 60, "tools": [WEATHER], "tool_choice": any_one}
    with client.messages.stream(messages=QUESTION, **ask) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    whole = client.messages.create(messages=QUESTION, **ask)
    assert call_of(final).input == call_of(whole).input
    assert json.loads("".join(pieces)) == call_of(final).input


def test_an_answer_fits_its_schema(client: anthropic.Anthropic) -> None:
    ask: Any = {**GREEDY, "max_tokens": 60}
    answer = client.messages.create(
        messages=QUESTION,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        **ask,
    )
    assert json.loads(text_of(answer)).keys() == {"city", "days"}


def test_a_client_that_goes_away_frees_its_place(server: Server, client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="chat", max_tokens=900, messages=QUESTION) as stream:
        next(stream.text_stream)
    wait_until(lambda: 'model="chat",outcome="cancelled",version="1"} 1.0' in server.http.get("/metrics").text)
    assert client.messages.create(messages=QUESTION, **GREEDY).content


def test_a_stream_whose_worker_dies_ends_with_an_error(server: Server, client: anthropic.Anthropic, whole: str) -> None:
    with client.messages.stream(model="chat", max_tokens=900, messages=QUESTION) as stream:
        next(stream.text_stream)
        server.kill_workers()
        with pytest.raises(anthropic.APIStatusError) as e:
            stream.until_done()
    body: Any = e.value.body
    assert body["error"]["type"] == "api_error"
    assert "worker" in body["error"]["message"]
    assert text_of(client.messages.create(messages=QUESTION, **GREEDY)) == whole, "another one has taken its place"


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": 1.5}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, str(CONTEXT)),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "image",
                                "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                            }
                        ],
                    }
                ]
            },
            "image",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "does not think"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
        ({"container": "c"}, "container"),
        ({"model": "double"}, "tensor"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_a_400(
    client: anthropic.Anthropic, fields: dict[str, Any], words: str, stream: bool
) -> None:
    ask: Any = {"messages": QUESTION, **GREEDY, "stream": stream, "extra_body": fields}
    with pytest.raises(anthropic.BadRequestError) as e:
        client.messages.create(**ask)
    body: Any = e.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert words in body["error"]["message"]
    assert body["request_id"] == e.value.response.headers["x-request-id"]
    assert e.value.request_id == body["request_id"]


def test_a_model_that_is_not_there(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as e:
        client.messages.count_tokens(model="nobody", messages=QUESTION)
    body: Any = e.value.body
    assert body["error"]["type"] == "not_found_error"
