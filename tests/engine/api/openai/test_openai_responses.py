"""Tests of responses: items to messages, bodies to requests, and completions and deltas to OpenAI's answers.

The types of OpenAI's own client say what a response and each of its events must look like.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backends.generation import Sampling, TokenLogprob, Usage
from engine.api.openai.common import Head
from engine.api.openai.response_events import ResponseEvents
from engine.api.openai.response_input import translate_input
from engine.api.openai.response_object import begun, completed
from engine.api.openai.response_request import ResponseRequest, translate_response
from engine.errors import InvalidInput
from engine.generation.completion import Completion
from engine.transport.generation import (
    Delta,
    Format,
    GenerateRequest,
    ImagePart,
    Message,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
)

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
HEAD = Head("resp_1", 1700000000, "m", "fp_1")
USAGE = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=3, reasoning_tokens=2)
PNG = base64.b64encode(b"png").decode()


def body(**fields: Any) -> ResponseRequest:
    return msgspec.json.decode(json.dumps({"model": "m", "input": "hello", **fields}), type=ResponseRequest)


def translated(**fields: Any) -> GenerateRequest:
    return translate_response(body(**fields))


# --- input ----------------------------------------------------------------------------------------------------------


def test_a_text_is_what_the_user_says() -> None:
    assert translate_input("hello", None) == [Message(role="user", content="hello")]
    assert translate_input("hello", "be kind") == [
        Message(role="system", content="be kind"),
        Message(role="user", content="hello"),
    ]


def test_items_of_all_kinds() -> None:
    assert translate_input(
        [
            {"role": "developer", "content": "d"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "what"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "phase": None,
                "content": [
                    {"type": "output_text", "text": "let me see", "annotations": [], "logprobs": [], "parsed": None}
                ],
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "c1",
                "name": "f",
                "arguments": "{}",
                "status": "completed",
                "namespace": None,
            },
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
            {"role": "assistant", "content": "three"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "four"}]},
        ],
        None,
    ) == [
        Message(role="developer", content="d"),
        Message(role="user", content=[TextPart("what"), ImagePart(b"png")]),
        Message(
            role="assistant",
            reasoning="hm",
            content="let me see",
            tool_calls=[ToolCall(id="c1", name="f", arguments="{}"), ToolCall(id="c2", name="g", arguments="{}")],
        ),
        Message(role="tool", content="1", tool_call_id="c1"),
        Message(role="tool", content="2", tool_call_id="c2"),
        Message(role="assistant", content="three"),
        Message(role="assistant", content="four"),
    ]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"type": "item_reference", "id": "x"}, "input[1].type"),
        ({"type": "web_search_call", "id": "x"}, "input[1].type"),
        ({"role": "user"}, "input[1]"),
        ({"role": "narrator", "content": "x"}, "input[1].role"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}, "input[1].content[0].type"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]},
            "input[1].content[0].image_url",
        ),
        (
            {"role": "system", "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}]},
            "input[1].content[0]",
        ),
    ],
)
def test_other_items_are_errors_that_name_the_place(item: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        translated(input=[{"role": "user", "content": "x"}, item])
    assert error.value.field == field


# --- requests -------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_the_least_request() -> None:
    assert translated() == GenerateRequest(messages=[Message(role="user", content="hello")])


def test_every_field_arrives() -> None:
    assert translated(
        instructions="be kind",
        max_output_tokens=20,
        tools=[{"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
        reasoning={"effort": "none", "summary": "auto"},
        truncation="auto",
        top_logprobs=2,
        stream=True,
        stream_options={"include_obfuscation": False},
        temperature=0.5,
        top_p=0.9,
    ) == GenerateRequest(
        messages=[Message(role="system", content="be kind"), Message(role="user", content="hello")],
        max_tokens=20,
        tools=[Tool(name="f", description="d", parameters=SCHEMA, strict=True)],
        tool_choice=ToolChoice(mode="required", name="f", parallel=False),
        format=Format(kind="json_schema", json_schema=SCHEMA),
        template_options={"reasoning_effort": "none", "enable_thinking": False},
        truncate=True,
        logprobs=2,
        stream=True,
        sampling=Sampling(temperature=0.5, top_p=0.9),
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", ToolChoice(mode="none")),
        ("required", ToolChoice(mode="required")),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            ToolChoice(mode="required"),
        ),
    ],
)
def test_choices_of_tools(choice: Any, expected: ToolChoice) -> None:
    tools = [{"type": "function", "name": "f", "parameters": None}]
    request = translated(tools=tools, tool_choice=choice)
    assert request.tools == [Tool(name="f")]
    assert request.tool_choice == expected


def test_log_probabilities_are_asked_for_in_two_ways() -> None:
    assert translated(include=["message.output_text.logprobs"]).logprobs == 0
    assert translated(include=["reasoning.encrypted_content"]).logprobs is None
    assert translated(text={"format": {"type": "json_object"}}).format == Format(kind="json_object")


def test_what_changes_no_answer_is_accepted() -> None:
    assert translated(store=True, metadata={"a": "b"}, user="u", max_tool_calls=3, background=False) == translated()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"conversation": "conv_0"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"stream_options": {}}, "stream_options"),
        ({"input": []}, "input"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_object"}}, "grammar": "x"}, "grammar"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        translated(**fields)
    assert error.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search"}]},
        {"include": ["file_search_call.results"]},
        {"reasoning": {"summary": "detailed"}},
        {"max_output_tokens": 0},
        {"n": 2},
        {"messages": []},
    ],
)
def test_what_is_unknown_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        translated(**fields)


# --- whole responses ------------------------------------------------------------------------------------------------


def answered(completion: Completion, **fields: Any) -> Response:
    return Response.model_validate_json(msgspec.json.encode(completed(HEAD, body(**fields), completion)))


def test_a_response() -> None:
    response = answered(Completion(content="hi", usage=USAGE), instructions="be kind", metadata={"a": "b"})
    assert (response.id, response.status, response.output_text) == ("resp_1", "completed", "hi")
    assert response.usage is not None
    assert response.usage.model_dump(exclude_unset=True) == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 13,
    }
    assert (response.instructions, response.metadata, response.tool_choice) == ("be kind", {"a": "b"}, "auto")
    assert response.parallel_tool_calls is True


def test_a_response_that_was_cut() -> None:
    response = answered(Completion(content="hi", finish="length", usage=USAGE))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_items_of_a_response() -> None:
    calls = [ToolCall(id="c1", name="f", arguments="{}"), ToolCall(id="c2", name="g", arguments="{}")]
    response = answered(Completion(reasoning="hm", tool_calls=calls, finish="tool_calls"))
    assert [item.type for item in response.output] == ["reasoning", "function_call", "function_call"]
    assert [getattr(item, "call_id", None) for item in response.output] == [None, "c1", "c2"]
    response = answered(Completion(reasoning="hm", content="x", tool_calls=calls, finish="tool_calls"))
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item.type for item in answered(Completion()).output] == ["message"]


def test_a_response_says_what_was_asked() -> None:
    tools = [{"type": "function", "name": "f", "parameters": SCHEMA}]
    wish = {"type": "json_schema", "name": "n", "schema": SCHEMA}
    response = answered(
        Completion(content="{}"), tools=tools, tool_choice={"type": "function", "name": "f"}, text={"format": wish}
    )
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.model_dump(by_alias=True, exclude_none=True) == wish
    assert response.tool_choice.model_dump() == {"type": "function", "name": "f"}  # type: ignore[union-attr]
    assert response.tools[0].model_dump(exclude_none=True) == tools[0]


# --- streams --------------------------------------------------------------------------------------------------------


def streamed(*groups: list[Delta]) -> list[dict[str, Any]]:
    """The events, each checked against OpenAI's type and its number."""
    writer = ResponseEvents(begun(HEAD, body()))
    text = (writer.begin() + b"".join(writer.of(group) for group in groups)).decode()
    events = []
    for number, event in enumerate(text.removesuffix("\n\n").split("\n\n")):
        kind, data = event.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {value['type']}"
        assert value["sequence_number"] == number
        EVENT.validate_python(value)
        events.append(value)
    return events


def outline(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The kinds of events, with their place and what they add."""
    return [
        (e["type"].removeprefix("response."), *(e[key] for key in ("output_index", "delta") if key in e))
        for e in events
    ]


def test_the_events_of_a_text() -> None:
    events = streamed([Delta(content="Hi")], [Delta(tokens=1)], [Delta(content=" €", finish="stop", usage=USAGE)])
    assert outline(events) == [
        ("created",),
        ("in_progress",),
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("output_text.delta", 0, "Hi"),
        ("output_text.delta", 0, " €"),
        ("output_text.done", 0),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("completed",),
    ]
    part = {"type": "output_text", "text": "Hi €", "annotations": [], "logprobs": []}
    item = {"type": "message", "id": events[2]["item"]["id"], "status": "completed", "role": "assistant"}
    assert events[0]["response"]["output"] == []
    assert events[2]["item"] == {**item, "status": "in_progress", "content": []}
    assert events[3]["part"] == {**part, "text": ""}
    assert events[6]["text"] == "Hi €"
    assert events[7]["part"] == part
    assert events[8]["item"] == {**item, "content": [part]}
    assert events[9]["response"]["output"] == [{**item, "content": [part]}]
    assert events[9]["response"]["usage"]["total_tokens"] == 13
    assert {e["item_id"] for e in events if "item_id" in e} == {item["id"]}


def test_the_events_of_reasoning_and_calls() -> None:
    events = streamed(
        [Delta(reasoning="h")],
        [Delta(reasoning="m", content="x")],
        [Delta(tool_calls=[ToolCallDelta(index=0, id="c0", name="f")])],
        [Delta(tool_calls=[ToolCallDelta(index=0, arguments='{"x"')])],
        [Delta(tool_calls=[ToolCallDelta(index=0, arguments=":1}"), ToolCallDelta(index=1, id="c1", name="g")])],
        [Delta(tool_calls=[ToolCallDelta(index=1, arguments="{}")], finish="tool_calls", usage=USAGE)],
    )
    assert outline(events)[2:] == [
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("reasoning_text.delta", 0, "h"),
        ("reasoning_text.delta", 0, "m"),
        ("reasoning_text.done", 0),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("content_part.added", 1),
        ("output_text.delta", 1, "x"),
        ("output_text.done", 1),
        ("content_part.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 2, '{"x"'),
        ("function_call_arguments.delta", 2, ":1}"),
        ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("output_item.added", 3),
        ("function_call_arguments.delta", 3, "{}"),
        ("function_call_arguments.done", 3),
        ("output_item.done", 3),
        ("completed",),
    ]
    first, second = events[-1]["response"]["output"][2:]
    assert (first["name"], first["call_id"], first["arguments"]) == ("f", "c0", '{"x":1}')
    assert (second["name"], second["call_id"], second["arguments"]) == ("g", "c1", "{}")


def test_a_stream_that_was_cut() -> None:
    events = streamed([Delta(content="x", finish="length", usage=USAGE)])
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("before", [[], [Delta(reasoning="hm")]])
def test_a_stream_that_says_nothing_has_an_empty_message(before: list[Delta]) -> None:
    output = streamed(before, [Delta(finish="stop", usage=USAGE)])[-1]["response"]["output"]
    assert output[-1]["content"][0]["text"] == ""


def test_log_probabilities() -> None:
    tokens = [TokenLogprob(1, b"x", -0.5, (TokenLogprob(2, b"y", -1.0),))]
    expected = [
        {
            "token": "x",
            "logprob": -0.5,
            "bytes": [120],
            "top_logprobs": [{"token": "y", "logprob": -1.0, "bytes": [121]}],
        }
    ]
    events = streamed([Delta(content="x", logprobs=tokens)], [Delta(finish="stop", usage=USAGE)])
    given = {e["type"]: e["logprobs"] for e in events if "logprobs" in e}
    assert given == {"response.output_text.delta": expected, "response.output_text.done": expected}
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == expected
    response = answered(Completion(content="x", logprobs=tokens))
    assert response.output[0].content[0].logprobs[0].bytes == [120]  # type: ignore[union-attr,index]


deltas = st.builds(Delta, content=st.text(max_size=5), reasoning=st.sampled_from(["", "", "hm"]))


@given(st.lists(st.lists(deltas, max_size=4), max_size=6))
def test_nothing_of_any_stream_is_lost(groups: list[list[Delta]]) -> None:
    events = streamed(*groups, [Delta(finish="stop", usage=USAGE)])
    output = events[-1]["response"]["output"]
    for kind, field in (("message", "content"), ("reasoning", "reasoning")):
        sent = "".join(getattr(delta, field) for group in groups for delta in group)
        assert "".join(item["content"][0]["text"] for item in output if item["type"] == kind) == sent
        name = "output_text" if kind == "message" else "reasoning_text"
        assert "".join(e["delta"] for e in events if e["type"] == f"response.{name}.delta") == sent
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == output
