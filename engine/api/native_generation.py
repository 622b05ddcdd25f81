"""``:predict`` of a model that generates text: the body's keys are the native names of what can be asked.

``{"input": "What is AI?", "max_tokens": 100}`` asks a chat model a question, and has a base model go on with the text;
``input`` may also be a list of messages. The answer is ``{"output": "...", "finish_reason": "stop", "usage": {...}}``
beside ``model`` and ``version``; as a stream, pieces of ``output`` and then the rest.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from backends.generation import Sampling, Usage
from engine.api.dialect import Call
from engine.api.http import Receive, Send, encode_json, error_body, send_body
from engine.api.parts import decode_image, encoded_in
from engine.api.streaming import EVENT_STREAM, send_events, while_connected
from engine.errors import InvalidInput, UniModelError
from engine.generation.completion import Completion, collect
from engine.pool import Entry
from engine.transport.generation import Delta, Format, GenerateRequest, ImagePart, Message, TextPart


class NativeMessage(msgspec.Struct, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: str
    content: str
    images: list[str] = []
    """Base64, of a message of the user, for a model that sees."""


class GenerateBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a prediction with a model that generates text."""

    input: str | list[NativeMessage]
    system: str | None = None
    images: list[str] = []
    """Base64, for a model that sees; they belong to the last message of the user."""
    raw: bool = False
    """Whether the text is the whole prompt, to which no chat template is applied."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] = {}
    seed: int | None = None
    stop: str | list[str] = []
    ignore_eos: bool = False
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
    regex: str | None = None
    truncate: bool = False
    adapters: dict[str, float] = {}
    stream: bool = False


def request_of(body: GenerateBody, *, chats: bool) -> GenerateRequest:
    """What is asked of the model; `chats`: whether it has a chat template. Raises `InvalidInput`."""
    formats = {"json_schema": body.json_schema, "grammar": body.grammar, "regex": body.regex}
    given = [name for name, value in formats.items() if value is not None]
    if len(given) > 1:
        raise InvalidInput(f"Only one of {', '.join(formats)} can be given; got {' and '.join(given)}.", field=given[1])
    request = GenerateRequest(
        format=_format(body),
        sampling=_sampling(body),
        max_tokens=body.max_tokens,
        stop=[body.stop] if isinstance(body.stop, str) else body.stop,
        ignore_eos=body.ignore_eos,
        truncate=body.truncate,
        adapters=body.adapters,
        stream=body.stream,
    )
    images = _decoded(body.images, "images")
    if isinstance(body.input, str) and (body.raw or not chats):
        if body.system is not None:
            raise InvalidInput("A raw prompt has no system message; put it into the input.", field="system")
        request.prompt, request.images = body.input, images
    else:
        request.messages = _messages(body, images)
    return request


def _messages(body: GenerateBody, images: list[bytes]) -> list[Message]:
    messages = [] if body.system is None else [Message(role="system", content=body.system)]
    if isinstance(body.input, str):
        messages.append(Message(role="user", content=body.input))
    else:
        for i, m in enumerate(body.input):
            try:
                messages.append(msgspec.convert({"role": m.role, "content": m.content}, Message))
            except msgspec.ValidationError:
                raise InvalidInput(
                    f"A role is system, user, assistant or tool; got {m.role!r}.", field=f"input[{i}].role"
                ) from None
            if m.images and m.role != "user":
                raise InvalidInput("Only messages of the user may have images.", field=f"input[{i}].images")
            if m.images:
                messages[-1].content = _with_images(m.content, _decoded(m.images, f"input[{i}].images"))
    if images:
        last = next((m for m in reversed(messages) if m.role == "user"), None)
        if last is None:
            raise InvalidInput("There is no message of the user that the images could belong to.", field="images")
        last.content = _with_images(last.content, images)
    return messages


def _with_images(content: str | list[TextPart | ImagePart], images: list[bytes]) -> list[TextPart | ImagePart]:
    """What a message says, behind the images that go with it."""
    said = [TextPart(content)] if isinstance(content, str) else content
    return [*(ImagePart(image) for image in images), *said]


def _decoded(images: list[str], field: str) -> list[bytes]:
    return [decode_image(encoded_in(text), f"{field}[{i}]") for i, text in enumerate(images)]


def _format(body: GenerateBody) -> Format:
    if body.json_schema is not None:
        return Format(kind="json_schema", json_schema=body.json_schema)
    if body.grammar is not None:
        return Format(kind="grammar", source=body.grammar)
    if body.regex is not None:
        return Format(kind="regex", source=body.regex)
    return Format()


def _sampling(body: GenerateBody) -> Sampling:
    try:
        bias = {int(token): value for token, value in body.logit_bias.items()}
    except ValueError:
        raise InvalidInput("The keys of logit_bias are numbers of tokens.", field="logit_bias") from None
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "repeat_last_n")
    penalties = ("presence_penalty", "frequency_penalty", "seed")
    return Sampling(logit_bias=bias, **{name: getattr(body, name) for name in (*names, *penalties)})


async def answer(call: Call, entry: Entry, receive: Receive, send: Send) -> None:
    """Answers one request. What is wrong with it is raised before anything was sent."""
    try:
        await _answer(call, entry, receive, send)
    except UniModelError as e:
        if e.field is not None:
            e.field = e.field.removeprefix("response_format.")  # as the field is called in this dialect
        raise


async def _answer(call: Call, entry: Entry, receive: Receive, send: Send) -> None:
    body = call.decode(GenerateBody)
    request = request_of(body, chats=entry.spec.task == "chat")
    identity = {"model": entry.spec.name, "version": entry.spec.version}
    if body.stream:
        deltas = await while_connected(call.generate(entry, request), receive)
        if deltas is not None:
            await send_events(_events(deltas, identity), EVENT_STREAM, error_event, call.request_id, receive, send)
        return
    completions = await while_connected(_whole(call, entry, request), receive)
    if completions is not None:
        headers = [(b"content-type", b"application/json"), (b"x-request-id", call.request_id.encode())]
        await send_body(
            send, 200, headers, encode_json({**identity, "output": completions[0].content, **_end(completions[0])})
        )


async def _whole(call: Call, entry: Entry, request: GenerateRequest) -> list[Completion]:
    return await collect(await call.generate(entry, request), 1)


def _end(completion: Completion) -> dict[str, Any]:
    reasoning = {"reasoning": completion.reasoning} if completion.reasoning else {}
    return {**reasoning, "finish_reason": completion.finish, "usage": _usage(completion.usage)}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _event(delta: Delta, identity: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = {"output": delta.content}
    if delta.reasoning:
        event["reasoning"] = delta.reasoning
    if delta.finish is not None:
        usage = _usage(delta.usage or Usage(prompt_tokens=0))
        event |= {**identity, "finish_reason": delta.finish, "usage": usage}
    return event


async def _events(deltas: AsyncGenerator[list[Delta], None], identity: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    try:
        async for group in deltas:
            yield b"".join(b"data: %s\n\n" % encode_json(_event(delta, identity)) for delta in group)
        yield b"data: [DONE]\n\n"
    finally:
        await deltas.aclose()


def error_event(error: UniModelError, rid: str) -> bytes:
    """An error in the middle of a stream, in the native shape."""
    return b"event: error\ndata: %s\n\n" % encode_json(error_body(error, rid))
