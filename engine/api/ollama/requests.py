"""Requests for text, from Ollama's shape to the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.base import GenerationInfo
from backends.generation import IMAGE
from engine.api import thinking
from engine.api.http import encode_json
from engine.api.ollama import options
from engine.api.ollama.bodies import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaMessage,
    OllamaTool,
    OllamaToolCall,
)
from engine.api.parts import crossing, decode_image
from engine.errors import InvalidInput
from engine.transport.generation import Format, GenerateRequest, ImagePart, Message, TextPart, Tool, ToolCall


def of_chat(body: OllamaChatRequest, info: GenerationInfo) -> GenerateRequest:
    """What a chat asks of the model. Raises `InvalidInput`."""
    messages = translate_messages(body.messages)
    last = messages[-1]
    request = GenerateRequest(
        messages=messages,
        tools=[_tool(tool, f"tools[{i}].function") for i, tool in enumerate(body.tools or ())],
        continue_message=last.role == "assistant" and not last.tool_calls,
    )
    _fill(request, body, info)
    return request


def of_generate(body: OllamaGenerateRequest, info: GenerationInfo) -> GenerateRequest:
    """What a generate asks of the model. Raises `InvalidInput`.

    The prompt is a user's message where the model has a chat template, unless it is raw or has a suffix.
    """
    _check_generate(body)
    images = [decode_image(text, f"images[{i}]") for i, text in enumerate(body.images or ())]
    if info.chat_template is None or body.raw or body.suffix:
        if body.system:
            raise InvalidInput(
                "A prompt that is used as it is, since it is raw or the model has no chat template, has no system "
                "message; put it into the prompt.",
                field="system",
            )
        request = GenerateRequest(
            prompt=IMAGE * len(images) + body.prompt, images=images, raw=body.raw, suffix=body.suffix or None
        )
    else:
        system = [Message(role="system", content=body.system)] if body.system else []
        request = GenerateRequest(messages=[*system, Message(role="user", content=_content(body.prompt, images))])
    request.context = body.context
    request.return_context = not (body.raw or images or body.suffix)
    _fill(request, body, info)
    return request


def _check_generate(body: OllamaGenerateRequest) -> None:
    if body.template:
        raise InvalidInput(
            "A template is set when a model is registered: unimodel register --chat-template FILE, or the template of "
            "/api/create.",
            field="template",
        )
    if body.context and (body.raw or body.images or body.suffix):
        other = "raw" if body.raw else "images" if body.images else "suffix"
        raise InvalidInput(f"A context does not go with {other}.", field="context")
    if body.suffix and (body.images or body.raw):
        raise InvalidInput(f"A suffix does not go with {'raw' if body.raw else 'images'}.", field="suffix")


def _fill(request: GenerateRequest, body: OllamaChatRequest | OllamaGenerateRequest, info: GenerationInfo) -> None:
    """Puts in what both kinds of request have."""
    if body.shift:
        raise InvalidInput(
            "The context does not slide: leave shift out. An answer ends where it is full.", field="shift"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInput("top_logprobs needs logprobs to be true.", field="top_logprobs")
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= 20:
        raise InvalidInput(f"top_logprobs is from 0 to 20; got {body.top_logprobs}.", field="top_logprobs")
    options.apply(options.read(body.options), request, info.context_length)
    request.format = translate_format(body.format)
    request.logprobs = (body.top_logprobs or 0) if body.logprobs else None
    request.truncate = bool(body.truncate)
    request.stream = body.stream is not False
    if body.think is not None:
        request.template_options = thinking.turned(info.chat_template, body.think, "think")


def translate_format(given: str | dict[str, Any] | None) -> Format:
    """What the answer must look like. Raises `InvalidInput`."""
    if given in (None, ""):
        return Format()
    if given == "json":
        return Format(kind="json_object")
    if isinstance(given, dict):
        return Format(kind="json_schema", json_schema=crossing(given, "format"))
    raise InvalidInput(f"format is 'json' or a JSON Schema; got {str(given)[:40]!r}.", field="format")


def translate_messages(messages: Sequence[OllamaMessage]) -> list[Message]:
    """A conversation. Raises `InvalidInput`."""
    translated: list[Message] = []
    waiting: list[ToolCall] = []
    count = 0
    for i, m in enumerate(messages):
        message = Message(
            role=m.role,
            content=_content(
                m.content or "",
                [decode_image(text, f"messages[{i}].images[{j}]") for j, text in enumerate(m.images or ())],
            ),
            reasoning=m.thinking or "",
        )
        if m.role == "tool":
            _attribute(message, m, waiting)
        elif m.tool_name is not None or m.tool_call_id is not None:
            raise InvalidInput(
                "Only a message of the role 'tool' is the result of a call.", field=f"messages[{i}].role"
            )
        if m.tool_calls:
            if m.role != "assistant":
                raise InvalidInput("Only the assistant calls tools.", field=f"messages[{i}].tool_calls")
            message.tool_calls = [_call(c, count + j, f"messages[{i}]") for j, c in enumerate(m.tool_calls)]
            count += len(m.tool_calls)
            waiting = list(message.tool_calls)
        translated.append(message)
    return translated


def _call(call: OllamaToolCall, number: int, field: str) -> ToolCall:
    arguments = encode_json(crossing(call.function.arguments, f"{field}.tool_calls"))
    return ToolCall(
        id=call.id if isinstance(call.id, str) else f"call_{number}",
        name=call.function.name,
        arguments=arguments.decode(),
    )


def _attribute(message: Message, given: OllamaMessage, waiting: list[ToolCall]) -> None:
    """Finds the call whose result a message is: by its id, else the first of that name, or the first, without one."""
    fitting = [c for c in waiting if given.tool_name in (None, c.name)]
    if given.tool_call_id is not None:
        fitting = [c for c in waiting if c.id == given.tool_call_id]
    call = fitting[0] if fitting else None
    if call is not None:
        waiting.remove(call)
    message.tool_call_id = given.tool_call_id or (call.id if call is not None else None)
    message.name = given.tool_name or (call.name if call is not None else None)


def _content(text: str, images: list[bytes]) -> str | list[TextPart | ImagePart]:
    """Text, behind the images that go with it."""
    if not images:
        return text
    return [*map(ImagePart, images), *([TextPart(text)] if text else [])]


def _tool(tool: OllamaTool, field: str) -> Tool:
    function = tool.function
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=crossing(function.parameters or {}, f"{field}.parameters"),
    )
