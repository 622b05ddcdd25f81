"""Tools that the model may call, and whether it must, in the forms of both of OpenAI's APIs for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import msgspec

from engine.api.parts import crossing
from engine.errors import InvalidInput
from engine.transport.generation import Tool, ToolChoice

Mode = Literal["none", "auto", "required"]


class FunctionDefinition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of its arguments; without one, it has none."""
    strict: bool | None = None
    """Whether a call must fit the schema exactly."""


class ChatTool(msgspec.Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    """A tool of a chat."""

    function: FunctionDefinition


class FunctionName(msgspec.Struct, forbid_unknown_fields=True):
    """The name of a function."""

    name: str


class NamedToolChoice(msgspec.Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    """The one tool that the model must call."""

    function: FunctionName


class AllowedTools(msgspec.Struct, forbid_unknown_fields=True):
    """The tools that the model may, or must, choose from."""

    mode: Literal["auto", "required"]
    tools: list[NamedToolChoice]


class AllowedToolsChoice(msgspec.Struct, tag="allowed_tools", tag_field="type", forbid_unknown_fields=True):
    """A choice from some of the tools."""

    allowed_tools: AllowedTools


ChatToolChoice = Mode | NamedToolChoice | AllowedToolsChoice


def translate_tool(function: FunctionDefinition, field: str) -> Tool:
    """A tool as the engine has it. Raises `InvalidInput`."""
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=crossing(function.parameters or {}, f"{field}.parameters"),
        strict=bool(function.strict),
    )


def translate_chat_tools(
    tools: list[ChatTool] | None, choice: ChatToolChoice | None, parallel: bool | None
) -> tuple[list[Tool], ToolChoice]:
    """The tools that the model is shown, and whether it calls them. Raises `InvalidInput`."""
    translated = [translate_tool(t.function, f"tools[{i}].function") for i, t in enumerate(tools or ())]
    match choice:
        case NamedToolChoice(function=function):
            return choose_tools(translated, "required", parallel, name=function.name)
        case AllowedToolsChoice(allowed_tools=allowed):
            return choose_tools(translated, allowed.mode, parallel, only=[t.function.name for t in allowed.tools])
        case _:
            return choose_tools(translated, choice or "auto", parallel)


def choose_tools(
    tools: list[Tool],
    mode: Mode,
    parallel: bool | None,
    *,
    name: str | None = None,
    only: Sequence[str] | None = None,
) -> tuple[list[Tool], ToolChoice]:
    """The tools that the model is shown, and whether it calls them. Raises `InvalidInput`.

    `name` is the one that it must call; `only` are the names of those that it may choose from.
    """
    known = {tool.name for tool in tools}
    if len(known) < len(tools):
        raise InvalidInput("Two tools have the same name.", field="tools")
    for wanted in [name] if name is not None else only or ():
        _check_known(wanted, known)
    if only is not None:
        tools = [tool for tool in tools if tool.name in only]
    if mode == "required" and not tools:
        raise InvalidInput("tool_choice asks for the call of a tool, but there are no tools.", field="tool_choice")
    return tools, ToolChoice(mode=mode, name=name, parallel=parallel is not False)


def _check_known(name: str, known: Collection[str]) -> None:
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidInput(f"tool_choice names {name!r}, which is none of the tools: {names}.", field="tool_choice")
