"""Messages of a chat, as OpenAI has them, and their translation."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from engine.api.parts import decode_image
from engine.errors import InvalidInput
from engine.transport.generation import ImagePart, Message, TextPart, ToolCall


class ChatTextPart(msgspec.Struct, tag="text", tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """A text in a message."""

    text: str


class ImageUrl(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Where an image is."""

    url: str
    """``data:image/png;base64,…``; the server fetches nothing from the network."""
    detail: Literal["auto", "low", "high", "original"] | None = None
    """Accepted; the model has one way to look at images."""


class ChatImagePart(msgspec.Struct, tag="image_url", tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """An image in a message."""

    image_url: ImageUrl


class ChatRefusalPart(msgspec.Struct, tag="refusal", tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """What the assistant said instead of an answer."""

    refusal: str


class ChatFunctionCall(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The function that a call is for."""

    name: str
    arguments: str
    """JSON of an object."""


class ChatToolCall(
    msgspec.Struct, tag="function", tag_field="type", kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A call of a tool that the assistant made."""

    id: str
    function: ChatFunctionCall
    index: int | None = None
    """Of its place in a stream; does nothing."""


class SystemMessage(
    msgspec.Struct, tag="system", tag_field="role", kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What the model is told about its task."""

    content: str | list[ChatTextPart]
    name: str | None = None


class DeveloperMessage(
    msgspec.Struct, tag="developer", tag_field="role", kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The newer name of a system message."""

    content: str | list[ChatTextPart]
    name: str | None = None


class UserMessage(
    msgspec.Struct, tag="user", tag_field="role", kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What the user says."""

    content: str | list[ChatTextPart | ChatImagePart]
    name: str | None = None


class AssistantMessage(
    msgspec.Struct, tag="assistant", tag_field="role", kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What the model said. An answer's message may be sent back as it came."""

    content: str | list[ChatTextPart | ChatRefusalPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """Another name of `reasoning_content`."""
    refusal: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    annotations: list[Any] | None = None
    """Of an answer that is sent back; does nothing."""
    audio: None = None
    function_call: None = None


class ToolMessage(
    msgspec.Struct, tag="tool", tag_field="role", kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a tool answered."""

    content: str | list[ChatTextPart]
    tool_call_id: str
    name: str | None = None


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


def translate_messages(messages: list[ChatMessage]) -> list[Message]:
    """The messages as the engine has them. Raises `InvalidInput`."""
    if not messages:
        raise InvalidInput("messages must not be empty.", field="messages")
    return [_translate(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _translate(message: ChatMessage, field: str) -> Message:
    name = message.name
    match message:
        case SystemMessage(content=content):
            return Message(role="system", content=text_of(content), name=name)
        case DeveloperMessage(content=content):
            return Message(role="developer", content=text_of(content), name=name)
        case UserMessage(content=content):
            return Message(role="user", content=_parts(content, f"{field}.content"), name=name)
        case ToolMessage(content=content):
            return Message(role="tool", content=text_of(content), name=name, tool_call_id=message.tool_call_id)
        case AssistantMessage():
            return Message(
                role="assistant",
                content=text_of(message.content or message.refusal or ""),
                name=name,
                reasoning=message.reasoning_content or message.reasoning or "",
                tool_calls=[
                    ToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments)
                    for c in message.tool_calls or ()
                ],
            )


def text_of(content: str | list[ChatTextPart] | list[ChatTextPart | ChatRefusalPart]) -> str:
    """The text of a content that has no images."""
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, ChatRefusalPart) else part.text for part in content)


def _parts(content: str | list[ChatTextPart | ChatImagePart], field: str) -> str | list[TextPart | ImagePart]:
    if isinstance(content, str):
        return content
    return [
        TextPart(part.text)
        if isinstance(part, ChatTextPart)
        else ImagePart(image_bytes(part.image_url.url, f"{field}[{i}].image_url.url"))
        for i, part in enumerate(content)
    ]


def image_bytes(url: str, field: str) -> bytes:
    """The encoded image of a ``data:`` URL. Raises `InvalidInput` for any other URL: nothing is fetched."""
    head, comma, data = url.partition(",")
    if url[:5].lower() != "data:":
        raise InvalidInput(
            "The server does not fetch images from the network; send the image itself as a URL of the form "
            f"'data:image/png;base64,…' instead of {url[:60]!r}.",
            field=field,
        )
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidInput("A data: URL of an image must be like 'data:image/png;base64,…'.", field=field)
    return decode_image(data, field)
