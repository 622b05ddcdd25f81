"""Ollama's requests for text as the engine's."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from backends.base import GenerationInfo
from backends.generation import IMAGE, Sampling
from engine.api.ollama.bodies import OllamaChatRequest, OllamaGenerateRequest
from engine.api.ollama.requests import of_chat, of_generate
from engine.errors import InvalidInput
from engine.transport.generation import Format, GenerateRequest, ImagePart, Message, TextPart, Tool, ToolCall

PLAIN = GenerationInfo(context_length=2048, sequences=4, chat_template="{{ messages }}")
THINKER = msgspec.structs.replace(PLAIN, chat_template="{% if enable_thinking %}<think>{% endif %}")
BASE = msgspec.structs.replace(PLAIN, chat_template=None)
PICTURE = b"\x89PNG picture"
ENCODED = base64.b64encode(PICTURE).decode()
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}}


def chat(info: GenerationInfo = PLAIN, **fields: Any) -> GenerateRequest:
    fields.setdefault("messages", [{"role": "user", "content": "Hi"}])
    return of_chat(msgspec.convert({"model": "m", **fields}, OllamaChatRequest), info)


def generate(info: GenerationInfo = PLAIN, **fields: Any) -> GenerateRequest:
    return of_generate(msgspec.convert({"model": "m", "prompt": "Hi", **fields}, OllamaGenerateRequest), info)


# --- chat ------------------------------------------------------------------------------------------------------------


def test_a_chat_is_streamed_unless_it_says_no() -> None:
    assert chat() == GenerateRequest(messages=[Message(role="user", content="Hi")], stream=True)
    assert chat(stream=True).stream
    assert not chat(stream=False).stream


def test_messages_keep_their_roles_and_images() -> None:
    request = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is this?", "images": [ENCODED]},
            {"role": "assistant", "content": "A picture.", "thinking": "Hm."},
            {"role": "user", "images": [ENCODED, ENCODED]},
        ]
    )
    assert request.messages == [
        Message(role="system", content="Be brief."),
        Message(role="user", content=[ImagePart(PICTURE), TextPart("What is this?")]),
        Message(role="assistant", content="A picture.", reasoning="Hm."),
        Message(role="user", content=[ImagePart(PICTURE), ImagePart(PICTURE)]),
    ]
    assert not request.continue_message


def test_an_answer_goes_on_with_the_assistants_last_message() -> None:
    begun = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two,"}]
    assert chat(messages=begun).continue_message


def called(*names: str) -> dict[str, Any]:
    calls = [{"function": {"name": name, "arguments": {"city": "Rome"}}} for name in names]
    return {"role": "assistant", "tool_calls": calls}


def test_calls_have_ids_that_their_results_find() -> None:
    request = chat(
        messages=[
            {"role": "user", "content": "Weather and time?"},
            called("weather", "time"),
            {"role": "tool", "content": "noon", "tool_name": "time"},
            {"role": "tool", "content": "rain"},
            called("weather"),
            {"role": "tool", "content": "sun", "tool_name": "weather"},
        ]
    )
    assert request.messages is not None
    _, first, noon, rain, second, sun = request.messages
    arguments = '{"city":"Rome"}'
    assert first.tool_calls == [
        ToolCall(id="call_0", name="weather", arguments=arguments),
        ToolCall(id="call_1", name="time", arguments=arguments),
    ]
    assert second.tool_calls == [ToolCall(id="call_2", name="weather", arguments=arguments)]
    assert noon == Message(role="tool", content="noon", name="time", tool_call_id="call_1")
    assert rain == Message(role="tool", content="rain", name="weather", tool_call_id="call_0")
    assert sun == Message(role="tool", content="sun", name="weather", tool_call_id="call_2")


def test_ids_of_the_client_are_kept() -> None:
    call = {"id": "x1", "type": "function", "function": {"name": "time", "arguments": {}, "index": 0}}
    request = chat(
        messages=[
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "noon", "tool_call_id": "x1"},
            {"role": "tool", "content": "late", "tool_name": "date"},
        ]
    )
    assert request.messages is not None
    assert request.messages[0].tool_calls == [ToolCall(id="x1", name="time", arguments="{}")]
    assert request.messages[1] == Message(role="tool", content="noon", name="time", tool_call_id="x1")
    assert request.messages[2] == Message(role="tool", content="late", name="date")


def test_tools_are_functions_with_a_schema() -> None:
    function = {"name": "time", "description": "Tells the time.", "parameters": SCHEMA}
    request = chat(tools=[{"type": "function", "function": function}, {"function": {"name": "date"}}])
    assert request.tools == [Tool(name="time", description="Tells the time.", parameters=SCHEMA), Tool(name="date")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Format()),
        ("", Format()),
        ("json", Format(kind="json_object")),
        (SCHEMA, Format(kind="json_schema", json_schema=SCHEMA)),
    ],
)
def test_the_format_is_json_or_a_schema(given: Any, expected: Format) -> None:
    assert chat(format=given).format == generate(format=given).format == expected


def test_options_and_log_probabilities_are_passed_on() -> None:
    for request in (
        chat(options={"temperature": 0, "num_predict": 3}, logprobs=True, top_logprobs=2, truncate=True),
        generate(options={"temperature": 0, "num_predict": 3}, logprobs=True, top_logprobs=2, truncate=True),
    ):
        assert request.sampling == Sampling(temperature=0)
        assert request.max_tokens == 3
        assert request.logprobs == 2
        assert request.truncate
    assert chat(logprobs=True).logprobs == 0
    assert chat(logprobs=False).logprobs is None


def test_thinking_is_turned_on_and_off() -> None:
    assert chat(THINKER).template_options == {}
    assert chat(THINKER, think=True).template_options == {"enable_thinking": True}
    assert generate(THINKER, think=False).template_options == {"enable_thinking": False}
    assert chat(PLAIN, think=False).template_options == {}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"think": True}, "think"),
        ({"shift": True}, "shift"),
        ({"format": "xml"}, "format"),
        ({"format": {"maximum": 2**70}}, "format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"options": {"num_ctx": 4096}}, "options.num_ctx"),
        ({"messages": [{"role": "user", "images": ["no base64!"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "images": [""]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "tool_name": "time"}]}, "messages[0].role"),
        ({"messages": [{**called("time"), "role": "user"}]}, "messages[0].tool_calls"),
        ({"tools": [{"function": {"name": "f", "parameters": {"maximum": -(2**70)}}}]}, "tools[0].function.parameters"),
    ],
)
def test_what_a_chat_cannot_have_is_an_error(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as e:
        chat(**fields)
    assert e.value.field == field


# --- generate --------------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_users_message() -> None:
    messages = [Message(role="user", content="Hi")]
    assert generate() == GenerateRequest(messages=messages, return_context=True, stream=True)
    assert generate(system="Be brief.", images=[ENCODED], stream=False) == GenerateRequest(
        messages=[
            Message(role="system", content="Be brief."),
            Message(role="user", content=[ImagePart(PICTURE), TextPart("Hi")]),
        ]
    )


def test_a_raw_prompt_is_used_as_it_is() -> None:
    assert generate(raw=True, stream=False) == GenerateRequest(prompt="Hi", raw=True)
    assert generate(raw=True, images=[ENCODED], stream=False) == GenerateRequest(
        prompt=f"{IMAGE}Hi", images=[PICTURE], raw=True
    )


def test_a_base_model_goes_on_with_the_prompt() -> None:
    assert generate(BASE, stream=False) == GenerateRequest(prompt="Hi", return_context=True)


def test_a_gap_is_between_prompt_and_suffix() -> None:
    assert generate(suffix="end", stream=False) == GenerateRequest(prompt="Hi", suffix="end")


@pytest.mark.parametrize(
    ("info", "fields", "field"),
    [
        (PLAIN, {"template": "{{ .Prompt }}"}, "template"),
        (PLAIN, {"context": [1, 2], "raw": True}, "context"),
        (PLAIN, {"context": [1, 2], "images": [ENCODED]}, "context"),
        (PLAIN, {"context": [1, 2], "suffix": "end"}, "context"),
        (PLAIN, {"raw": True, "system": "Be brief."}, "system"),
        (BASE, {"system": "Be brief."}, "system"),
        (PLAIN, {"suffix": "end", "raw": True}, "suffix"),
        (PLAIN, {"suffix": "end", "images": [ENCODED]}, "suffix"),
        (PLAIN, {"images": ["?"]}, "images[0]"),
        (BASE, {"think": True}, "think"),
    ],
)
def test_what_a_prompt_cannot_have_is_an_error(info: GenerationInfo, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as e:
        generate(info, **fields)
    assert e.value.field == field


@pytest.mark.parametrize("info", [PLAIN, BASE])
def test_a_context_is_gone_on_with(info: GenerationInfo) -> None:
    request = generate(info, context=[1, 2])
    assert (request.context, request.return_context) == ([1, 2], True)
    assert generate(info, context=[]) == generate(info)
