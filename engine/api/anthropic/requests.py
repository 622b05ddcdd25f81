"""Requests from Anthropic's shape to the engine's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backends.base import GenerationInfo
from backends.generation import Sampling
from engine.api import thinking
from engine.api.anthropic.bodies import (
    AnthropicBlock,
    AnthropicCountRequest,
    AnthropicImage,
    AnthropicMessage,
    AnthropicRequest,
    AnthropicText,
    AnthropicThinking,
    AnthropicTool,
    AnthropicToolChoice,
    AnthropicToolResult,
    AnthropicToolUse,
    AnthropicUrl,
)
from engine.api.http import encode_json
from engine.api.parts import crossing, decode_image
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

_BUDGET = "thinking_budget"


def of_messages(body: AnthropicRequest, info: GenerationInfo) -> GenerateRequest:
    """What a request asks of the model. Raises `InvalidInput`."""
    config = body.thinking
    if config is not None and config.budget_tokens is not None and config.budget_tokens >= body.max_tokens:
        raise InvalidInput(
            f"The budget of thinking is {config.budget_tokens} tokens, and must be less than max_tokens, which is "
            f"{body.max_tokens}.",
            field="thinking.budget_tokens",
        )
    request = of_count(body, info)
    request.count_only = False
    request.max_tokens = body.max_tokens
    request.sampling = Sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k)
    request.stop = body.stop_sequences
    request.stream = body.stream
    return request


def of_count(body: AnthropicCountRequest, info: GenerationInfo) -> GenerateRequest:
    """What a request is counted for: all that makes its prompt. Raises `InvalidInput`."""
    messages = translate_messages(body.messages)
    last = messages[-1]
    if last.tool_calls:
        raise InvalidInput(
            "The last message calls a tool; send the result of the call after it.", field=_at(len(body.messages) - 1)
        )
    system = body.system if isinstance(body.system, str) else "\n\n".join(block.text for block in body.system)
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools)]
    return GenerateRequest(
        messages=[*([Message(role="system", content=system)] if system else []), *messages],
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice, {tool.name for tool in tools}),
        template_options=_template_options(body, info.chat_template),
        continue_message=last.role == "assistant",
        format=_format(body),
        count_only=True,
    )


def _format(body: AnthropicCountRequest) -> Format:
    form = body.output_config.format if body.output_config is not None else None
    if form is None:
        return Format()
    return Format(kind="json_schema", json_schema=crossing(form.schema, "output_config.format.schema"))


def _template_options(body: AnthropicCountRequest, template: str | None) -> dict[str, Any]:
    """The template's variables about thinking."""
    config = body.thinking
    if config is None:
        options = thinking.quiet(template)
    elif config.type == "adaptive":
        options = {}
    else:
        options = thinking.turned(template, config.type == "enabled", "thinking")
    if config is not None and config.budget_tokens is not None:
        if config.type != "enabled":
            raise InvalidInput("budget_tokens goes with thinking that is enabled.", field="thinking.budget_tokens")
        if _BUDGET in (template or ""):
            options[_BUDGET] = config.budget_tokens
    effort = body.output_config.effort if body.output_config is not None else None
    return options if effort is None else options | thinking.turned(template, effort, "output_config.effort")


# --- tools -----------------------------------------------------------------------------------------------------------


def _tool(tool: AnthropicTool, field: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise InvalidInput(
            f"Tools of the type {tool.type[:40]!r} run on Anthropic's servers; give your own, of the type 'custom'.",
            field=f"{field}.type",
        )
    return Tool(
        name=tool.name,
        description=tool.description,
        parameters=crossing(tool.input_schema, f"{field}.input_schema"),
        strict=tool.strict,
    )


def _tool_choice(choice: AnthropicToolChoice | None, known: set[str]) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    parallel = not choice.disable_parallel_tool_use
    if (choice.type == "tool") != (choice.name is not None):
        raise InvalidInput("tool_choice has a name when its type is 'tool', and only then.", field="tool_choice.name")
    if choice.type in ("any", "tool") and not known:
        raise InvalidInput("tool_choice asks for the call of a tool, but there are no tools.", field="tool_choice")
    if choice.name is not None and choice.name not in known:
        raise InvalidInput(
            f"tool_choice names {choice.name!r}, which is none of the tools: {', '.join(sorted(known))}.",
            field="tool_choice.name",
        )
    if choice.type in ("any", "tool"):
        return ToolChoice(mode="required", name=choice.name, parallel=parallel)
    return ToolChoice(mode="none" if choice.type == "none" else "auto", parallel=parallel)


# --- messages --------------------------------------------------------------------------------------------------------


def translate_messages(messages: Iterable[AnthropicMessage]) -> list[Message]:
    """A conversation: results of tools are messages of their own, and turns of one role in a row are one.

    Raises `InvalidInput`.
    """
    translated: list[Message] = []
    names: dict[str, str] = {}
    for i, message in enumerate(messages):
        content = message.content
        blocks: list[AnthropicBlock] = [AnthropicText(text=content)] if isinstance(content, str) else content
        turns = _TURNS[message.role](blocks, i, names)
        for turn in turns:
            if translated and translated[-1].role == turn.role != "tool":
                _join(translated[-1], turn)
            else:
                translated.append(turn)
    return translated


def _assistant(blocks: list[AnthropicBlock], position: int, names: dict[str, str]) -> list[Message]:
    message = Message(role="assistant")
    text = ""
    for j, block in enumerate(blocks):
        match block:
            case AnthropicText():
                text += block.text
            case AnthropicThinking():
                message.reasoning += block.thinking
            case AnthropicToolUse():
                arguments = encode_json(crossing(block.input, _at(position, j))).decode()
                message.tool_calls = [
                    *message.tool_calls,
                    ToolCall(id=block.id, name=block.name, arguments=arguments),
                ]
                names[block.id] = block.name
            case _:
                raise InvalidInput(
                    "The assistant's content is text, thinking and tool_use.", field=f"{_at(position, j)}.type"
                )
    message.content = text
    return [message]


def _user(blocks: list[AnthropicBlock], position: int, names: dict[str, str]) -> list[Message]:
    turns: list[Message] = []
    parts: list[TextPart | ImagePart] = []
    for j, block in enumerate(blocks):
        match block:
            case AnthropicText() | AnthropicImage():
                parts.append(_part(block, _at(position, j)))
            case AnthropicToolResult():
                if parts:
                    raise InvalidInput(
                        "Results of tools come before everything else in a message.", field=_at(position, j)
                    )
                turns.append(_result(block, _at(position, j), names))
            case _:
                raise InvalidInput(
                    "The user's content is text, image and tool_result.", field=f"{_at(position, j)}.type"
                )
    if parts or not turns:
        turns.append(Message(role="user", content=_plain(parts)))
    return turns


def _system(blocks: list[AnthropicBlock], position: int, names: dict[str, str]) -> list[Message]:  # noqa: ARG001
    for j, block in enumerate(blocks):
        if not isinstance(block, AnthropicText):
            raise InvalidInput("The system's content is text.", field=f"{_at(position, j)}.type")
    return [Message(role="system", content="".join(b.text for b in blocks if isinstance(b, AnthropicText)))]


_TURNS = {"user": _user, "assistant": _assistant, "system": _system}


def _result(block: AnthropicToolResult, field: str, names: dict[str, str]) -> Message:
    if block.tool_use_id not in names:
        raise InvalidInput(
            f"No message before calls a tool with the id {block.tool_use_id[:60]!r}.", field=f"{field}.tool_use_id"
        )
    parts: list[TextPart | ImagePart] = [TextPart("Error: ")] if block.is_error else []
    if isinstance(block.content, str):
        parts.append(TextPart(block.content))
    else:
        parts += [_part(part, f"{field}.content[{k}]") for k, part in enumerate(block.content)]
    return Message(role="tool", content=_plain(parts), tool_call_id=block.tool_use_id, name=names[block.tool_use_id])


def _part(block: AnthropicText | AnthropicImage, field: str) -> TextPart | ImagePart:
    if isinstance(block, AnthropicText):
        return TextPart(block.text)
    if isinstance(block.source, AnthropicUrl):
        raise InvalidInput("The server fetches no images; send the image itself in base64.", field=f"{field}.source")
    return ImagePart(decode_image(block.source.data, f"{field}.source.data"))


def _plain(parts: list[TextPart | ImagePart]) -> str | list[TextPart | ImagePart]:
    """The parts as one text, where no image is among them."""
    if any(isinstance(part, ImagePart) for part in parts):
        return parts
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def _join(into: Message, more: Message) -> None:
    """Makes one turn of two."""
    into.reasoning += more.reasoning
    into.tool_calls = [*into.tool_calls, *more.tool_calls]
    if isinstance(into.content, str) and isinstance(more.content, str):
        into.content += ("\n\n" if into.role != "assistant" and into.content and more.content else "") + more.content
    else:
        into.content = [*_parts(into.content), *_parts(more.content)]


def _parts(content: str | list[TextPart | ImagePart]) -> list[TextPart | ImagePart]:
    return content if isinstance(content, list) else [TextPart(content)] if content else []


def _at(message: int, block: int | None = None) -> str:
    """The place of a message, or of a block in it."""
    return f"messages[{message}]" + ("" if block is None else f".content[{block}]")
