"""Tests of engine.api.openai.tools: tools, and the forms of tool_choice."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from engine.api.openai.tools import ChatTool, ChatToolChoice, translate_chat_tools
from engine.errors import InvalidInput
from engine.transport.generation import Tool, ToolChoice

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}, "strict": True},
}
TIME = {"type": "function", "function": {"name": "time"}}
TOOLS = [Tool(name="weather", description="d", parameters={"type": "object"}, strict=True), Tool(name="time")]


def translated(tools: Any, choice: Any = None, parallel: bool | None = None) -> tuple[list[Tool], ToolChoice]:
    return translate_chat_tools(
        msgspec.json.decode(json.dumps(tools), type=list[ChatTool] | None),
        msgspec.json.decode(json.dumps(choice), type=ChatToolChoice | None),
        parallel,
    )


def name(of: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": of}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(mode="none")),
        ("required", ToolChoice(mode="required")),
        (name("time"), ToolChoice(mode="required", name="time")),
    ],
)
def test_choices(choice: Any, expected: ToolChoice) -> None:
    assert translated([WEATHER, TIME], choice) == (TOOLS, expected)


def test_some_tools_alone_may_be_allowed() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [name("time")]}}
    assert translated([WEATHER, TIME], allowed) == ([Tool(name="time")], ToolChoice(mode="required"))


def test_one_call_at_a_time() -> None:
    assert translated([TIME], None, False)[1].parallel is False
    assert translated([TIME], None, True)[1].parallel is True


def test_no_tools_are_no_tools() -> None:
    assert translated(None) == ([], ToolChoice())
    assert translated([], "none") == ([], ToolChoice(mode="none"))


@pytest.mark.parametrize(
    ("tools", "choice", "reason"),
    [
        ([], "required", "there are no tools"),
        (None, name("time"), "none of the tools: none"),
        ([WEATHER], name("time"), "none of the tools: weather"),
        ([TIME], {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [name("x")]}}, "names 'x'"),
        ([TIME], {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}, "there are no tools"),
        ([TIME, TIME], None, "same name"),
    ],
)
def test_choices_that_cannot_be(tools: Any, choice: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        translated(tools, choice)


def test_parameters_must_be_able_to_cross() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"maximum": 10**40}}}
    with pytest.raises(InvalidInput) as error:
        translated([TIME, tool])
    assert error.value.field == "tools[1].function.parameters"


@pytest.mark.parametrize("tool", [{"type": "custom", "custom": {"name": "x"}}, {"type": "web_search"}, {}])
def test_other_tools_are_refused(tool: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        translated([tool])
