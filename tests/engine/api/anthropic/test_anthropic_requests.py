"""Anthropic's requests as the engine's."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from backends.base import GenerationInfo
from backends.generation import Sampling
from engine.api.anthropic.bodies import AnthropicCountRequest, AnthropicRequest
from engine.api.anthropic.requests import of_count, of_messages
from engine.errors import InvalidInput
from engine.transport.generation import (
    Format,
    GenerateRequest,
    ImagePart,
    Message,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)

PLAIN = GenerationInfo(context_length=2048, sequences=4, chat_template="{{ messages }}")
THINKER = msgspec.structs.replace(PLAIN, chat_template="{% if enable_thinking %}{{ thinking_budget }}{% endif %}")
DEGREES = msgspec.structs.replace(PLAIN, chat_template="{{ reasoning_effort }}")
PICTURE = b"\x89PNG picture"
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PICTURE).decode()},
}
LINKED = {"type": "image", "source": {"type": "url", "url": "http://x"}}
TOO_LONG = {"type": "json_schema", "schema": {"maximum": 2**70}}
SCHEMA = {"type": "object", "properties": {"zone": {"type": "integer"}}}
TIME = {"name": "time", "description": "Tells the time.", "input_schema": SCHEMA}
HI = {"role": "user", "content": "Hi"}


def ask(info: GenerationInfo = PLAIN, **fields: Any) -> GenerateRequest:
    body = {"model": "m", "max_tokens": 10, "messages": [HI], **fields}
    return of_messages(msgspec.convert(body, AnthropicRequest), info)


def messages(*given: dict[str, Any]) -> list[Message] | None:
    return ask(messages=list(given)).messages


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def use(call_id: str, name: str = "time", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def result(call_id: str, content: Any = "noon", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def test_the_least_request() -> None:
    assert ask() == GenerateRequest(messages=[Message(role="user", content="Hi")], max_tokens=10)


def test_sampling_stops_and_streaming_are_passed_on() -> None:
    request = ask(temperature=0.5, top_p=0.9, top_k=7, stop_sequences=["END"], stream=True)
    assert request.sampling == Sampling(temperature=0.5, top_p=0.9, top_k=7)
    assert request.stop == ["END"]
    assert request.stream


def test_what_has_no_effect_is_accepted() -> None:
    cache = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert ask(
        messages=[user({**text("Hi"), **cache})],
        tools=[{**TIME, **cache, "type": "custom"}],
        metadata={"user_id": "x"},
        service_tier="auto",
        **cache,
    ) == ask(tools=[TIME])


@pytest.mark.parametrize(
    ("system", "expected"),
    [("", None), ("Be brief.", "Be brief."), ([text("Be brief."), text("Rhyme.")], "Be brief.\n\nRhyme.")],
)
def test_system_is_the_first_message(system: Any, expected: str | None) -> None:
    first = [] if expected is None else [Message(role="system", content=expected)]
    assert ask(system=system).messages == [*first, Message(role="user", content="Hi")]


def test_system_may_speak_in_between() -> None:
    given = [HI, {"role": "system", "content": "Be brief."}, {"role": "system", "content": [text("Rhy"), text("me.")]}]
    assert messages(*given) == [
        Message(role="user", content="Hi"),
        Message(role="system", content="Be brief.\n\nRhyme."),
    ]


def test_text_and_images_keep_their_order() -> None:
    assert messages(user(text("Look: "), IMAGE, text(" What is it?"))) == [
        Message(role="user", content=[TextPart("Look: "), ImagePart(PICTURE), TextPart(" What is it?")])
    ]
    assert messages(user(text("a"), text("b"))) == [Message(role="user", content="ab")]


def test_turns_of_one_role_are_one() -> None:
    given = [HI, HI, user(IMAGE), assistant(text("He")), assistant(text("llo.")), HI]
    assert messages(*given) == [
        Message(role="user", content=[TextPart("Hi\n\nHi"), ImagePart(PICTURE)]),
        Message(role="assistant", content="Hello."),
        Message(role="user", content="Hi"),
    ]


def test_calls_and_their_results() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    given = [
        HI,
        assistant(thought, text("I look."), use("a", zone=1), use("b", "date")),
        user(result("b", [text("Mon"), text("day")]), result("a", is_error=True), text("And?")),
        assistant(use("c")),
        user(result("c", [IMAGE])),
    ]
    assert messages(*given) == [
        Message(role="user", content="Hi"),
        Message(
            role="assistant",
            content="I look.",
            reasoning="Hm.",
            tool_calls=[
                ToolCall(id="a", name="time", arguments='{"zone":1}'),
                ToolCall(id="b", name="date", arguments="{}"),
            ],
        ),
        Message(role="tool", content="Monday", name="date", tool_call_id="b"),
        Message(role="tool", content="Error: noon", name="time", tool_call_id="a"),
        Message(role="user", content="And?"),
        Message(role="assistant", tool_calls=[ToolCall(id="c", name="time", arguments="{}")]),
        Message(role="tool", content=[ImagePart(PICTURE)], name="time", tool_call_id="c"),
    ]


def test_an_answer_goes_on_with_the_assistants_last_message() -> None:
    request = ask(messages=[HI, assistant(text("The answer is ("))])
    assert request.continue_message
    assert not ask().continue_message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "none"}, ToolChoice(mode="none")),
        ({"type": "any"}, ToolChoice(mode="required")),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice(mode="required", parallel=False)),
        ({"type": "tool", "name": "time"}, ToolChoice(mode="required", name="time")),
    ],
)
def test_tools_and_their_choice(given: Any, expected: ToolChoice) -> None:
    request = ask(tools=[{**TIME, "strict": True}], tool_choice=given)
    assert request.tools == [Tool(name="time", description="Tells the time.", parameters=SCHEMA, strict=True)]
    assert request.tool_choice == expected


def test_a_model_thinks_only_if_asked() -> None:
    assert ask(THINKER).template_options == {"enable_thinking": False}
    assert ask(THINKER, thinking={"type": "disabled"}).template_options == {"enable_thinking": False}
    assert ask(THINKER, thinking={"type": "adaptive"}).template_options == {}
    assert ask(THINKER, thinking={"type": "enabled", "budget_tokens": 5}).template_options == {
        "enable_thinking": True,
        "thinking_budget": 5,
    }
    assert ask(PLAIN, thinking={"type": "disabled"}).template_options == {}
    assert ask(DEGREES, output_config={"effort": "low"}).template_options == {"reasoning_effort": "low"}


def test_the_answer_can_have_a_schema() -> None:
    output_config = {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert ask(output_config=output_config).format == Format(kind="json_schema", json_schema=SCHEMA)


def test_counting_takes_what_makes_the_prompt() -> None:
    body = {"model": "m", "messages": [HI], "system": "Be brief.", "tools": [TIME]}
    counted = of_count(msgspec.convert(body, AnthropicCountRequest), PLAIN)
    assert counted.count_only
    asked = ask(system="Be brief.", tools=[TIME])
    assert not asked.count_only
    assert (counted.messages, counted.tools) == (asked.messages, asked.tools)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [user(use("a"))]}, "messages[0].content[0].type"),
        ({"messages": [assistant(IMAGE)]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "system", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        ({"messages": [HI, assistant(use("a"))]}, "messages[1]"),
        ({"messages": [user(result("a"))]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [HI, assistant(use("a")), user(text("x"), result("a"))]}, "messages[2].content[1]"),
        ({"messages": [user(LINKED)]}, "messages[0].content[0].source"),
        ({"messages": [HI, assistant(use("a", zone=2**70)), user(result("a"))]}, "messages[1].content[0]"),
        ({"tools": [{"name": "bash", "type": "bash_20250124"}]}, "tools[0].type"),
        ({"tools": [{"name": "f", "input_schema": {"maximum": 2**70}}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TIME], "tool_choice": {"type": "auto", "name": "time"}}, "tool_choice.name"),
        ({"tools": [TIME], "tool_choice": {"type": "tool", "name": "date"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"output_config": {"format": TOO_LONG}}, "output_config.format.schema"),
    ],
)
def test_what_cannot_be_asked_is_an_error(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as e:
        ask(**fields)
    assert e.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"max_tokens": None},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "Be brief."}]},
        {"messages": [user({"type": "document", "source": {}})]},
        {"messages": [user({**text("Hi"), "citations": [{}]})]},
        {"temperature": 1.5},
        {"top_p": -0.1},
        {"top_k": -1},
        {"stop_sequences": [""]},
        {"container": "x"},
        {"output_config": {"effort": "max"}},
    ],
)
def test_bodies_that_are_none(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        ask(**fields)
