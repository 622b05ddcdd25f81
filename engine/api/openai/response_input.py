"""The input of ``POST /v1/responses``: items of a conversation, and their translation to messages."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from engine.api.openai.common import convert
from engine.api.openai.messages import image_bytes
from engine.errors import InvalidInput
from engine.transport.generation import ImagePart, Message, TextPart, ToolCall


class InputTextPart(msgspec.Struct, tag="input_text", tag_field="type", forbid_unknown_fields=True):
    """A text for the model."""

    text: str


class InputImagePart(msgspec.Struct, tag="input_image", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """An image for the model."""

    image_url: str
    """``data:image/png;base64,…``; the server fetches nothing from the network."""
    detail: Literal["auto", "low", "high", "original"] | None = None


class OutputTextPart(msgspec.Struct, tag="output_text", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """A text of the model, sent back."""

    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class RefusalPart(msgspec.Struct, tag="refusal", tag_field="type", forbid_unknown_fields=True):
    """What the model said instead of an answer, sent back."""

    refusal: str


Part = InputTextPart | InputImagePart | OutputTextPart | RefusalPart


class MessageItem(msgspec.Struct, tag="message", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """A message. Those of the assistant may be sent back as they came."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(msgspec.Struct, tag="function_call", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """A call of a tool that the model made, sent back."""

    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutputItem(
    msgspec.Struct, tag="function_call_output", tag_field="type", kw_only=True, forbid_unknown_fields=True
):
    """What a tool answered."""

    call_id: str
    output: str | list[Part]
    id: str | None = None
    status: str | None = None


class SummaryPart(msgspec.Struct, tag="summary_text", tag_field="type", forbid_unknown_fields=True):
    """A part of a summary of reasoning."""

    text: str


class ReasoningPart(msgspec.Struct, tag="reasoning_text", tag_field="type", forbid_unknown_fields=True):
    """A part of the model's reasoning."""

    text: str


class ReasoningItem(msgspec.Struct, tag="reasoning", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """What the model thought, sent back."""

    summary: list[SummaryPart] = []
    content: list[ReasoningPart] = []
    id: str | None = None
    status: str | None = None


Item = MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningItem


def translate_input(given: str | list[dict[str, Any]], instructions: str | None) -> list[Message]:
    """The conversation as the engine has it. Raises `InvalidInput`."""
    messages = [] if instructions is None else [Message(role="system", content=instructions)]
    if isinstance(given, str):
        return [*messages, Message(role="user", content=given)]
    if not given:
        raise InvalidInput("input must not be empty.", field="input")
    for i, raw in enumerate(given):
        field = f"input[{i}]"
        item: Item = convert({"type": "message", **_without_nulls(raw)}, Item, field)
        _add(messages, item, field)
    return messages


def _without_nulls(value: Any, depth: int = 3) -> Any:
    """An item in which null is the same as nothing, down to its parts: clients send items back with all their empty
    fields."""
    if isinstance(value, dict) and depth:
        return {key: _without_nulls(v, depth - 1) for key, v in value.items() if v is not None}
    return [_without_nulls(v, depth - 1) for v in value] if isinstance(value, list) and depth else value


def _add(messages: list[Message], item: Item, field: str) -> None:
    """Adds an item. What the model thought, said and called in one turn is one message."""
    match item:
        case FunctionOutputItem():
            text = _text(item.output, f"{field}.output")
            messages.append(Message(role="tool", content=text, tool_call_id=item.call_id))
        case FunctionCallItem():
            call = ToolCall(id=item.call_id, name=item.name, arguments=item.arguments)
            _turn(messages).tool_calls.append(call)
        case ReasoningItem():
            text = "".join(part.text for part in item.content or item.summary)
            messages.append(Message(role="assistant", reasoning=text, tool_calls=[]))
        case MessageItem(role="assistant"):
            text = _text(item.content, f"{field}.content")
            last = _turn(messages)
            if last.content or last.tool_calls:
                messages.append(Message(role="assistant", content=text, tool_calls=[]))
            else:
                last.content = text
        case MessageItem(role="user"):
            messages.append(Message(role="user", content=_parts(item.content, f"{field}.content")))
        case MessageItem():
            messages.append(Message(role=item.role, content=_text(item.content, f"{field}.content")))


def _turn(messages: list[Message]) -> Message:
    """The assistant's message that the conversation ends with, or a new one."""
    if not messages or messages[-1].role != "assistant":
        messages.append(Message(role="assistant", tool_calls=[]))
    return messages[-1]


def _parts(content: str | list[Part], field: str) -> str | list[TextPart | ImagePart]:
    if isinstance(content, str):
        return content
    return [
        ImagePart(image_bytes(part.image_url, f"{field}[{i}].image_url"))
        if isinstance(part, InputImagePart)
        else TextPart(part.refusal if isinstance(part, RefusalPart) else part.text)
        for i, part in enumerate(content)
    ]


def _text(content: str | list[Part], field: str) -> str:
    """The text of a content that has no images. Raises `InvalidInput` if it has."""
    parts = _parts(content, field)
    if isinstance(parts, str):
        return parts
    for i, part in enumerate(parts):
        if isinstance(part, ImagePart):
            raise InvalidInput("Only messages of the user may have images.", field=f"{field}[{i}]")
    return "".join(part.text for part in parts if isinstance(part, TextPart))
