"""Anthropic's Messages API, close enough for its unmodified clients.

``anthropic-version`` and ``x-api-key`` are accepted and not looked at. What it has no place for is refused with a
sentence that says what to do instead; nothing is left out in silence.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from backends.base import GenerationInfo
from engine.api.anthropic import requests
from engine.api.anthropic.answers import Events, event, whole
from engine.api.anthropic.bodies import (
    AnthropicAnswer,
    AnthropicCount,
    AnthropicCountRequest,
    AnthropicError,
    AnthropicErrorDetail,
    AnthropicRequest,
)
from engine.api.dialect import Call, Dialect, EventStream, Reply
from engine.api.parts import sentence
from engine.api.streaming import EVENT_STREAM
from engine.errors import InvalidInput, UniModelError
from engine.operations import ANSWER_ERRORS, Operation
from engine.transport.generation import Delta

_KINDS = {
    403: "permission_error",
    404: "not_found_error",
    405: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Names of errors by status; others are the request's fault below 500, and the server's from there."""

_MESSAGES = Operation(
    "anthropic_messages",
    "POST",
    "/v1/messages",
    "anthropic",
    "Answer a conversation.",
    AnthropicAnswer,
    AnthropicRequest,
    errors=ANSWER_ERRORS,
    response_media=(EVENT_STREAM,),
    description="With `stream`, the answer is server-sent events, from `message_start` to `message_stop`; an error on "
    "the way is an `error` event.",
)
_COUNT = Operation(
    "anthropic_count_tokens",
    "POST",
    "/v1/messages/count_tokens",
    "anthropic",
    "Count the tokens of a conversation.",
    AnthropicCount,
    AnthropicCountRequest,
    errors=ANSWER_ERRORS,
)


async def _messages(call: Call) -> Reply | EventStream:
    body = call.decode(AnthropicRequest)
    request = requests.of_messages(body, _generating(call, body.model))
    entry = await call.entry(body.model)
    message_id = f"msg_{uuid.uuid4().hex[:24]}"
    if body.stream:
        return EventStream(_events(await call.generate(entry, request), Events(message_id, body.model)))
    (completion,) = await call.complete(entry, request)
    return Reply(whole(message_id, body.model, completion))


async def _events(deltas: AsyncGenerator[list[Delta], None], events: Events) -> AsyncGenerator[bytes, None]:
    async with aclosing(deltas):
        async for group in deltas:
            yield b"".join(map(events.of, group))


async def _count_tokens(call: Call) -> Reply:
    body = call.decode(AnthropicCountRequest)
    request = requests.of_count(body, _generating(call, body.model))
    (completion,) = await call.complete(await call.entry(body.model), request)
    return Reply(AnthropicCount(input_tokens=completion.usage.prompt_tokens))


def _generating(call: Call, model: str) -> GenerationInfo:
    """What is known of a model that can converse."""
    spec = call.engine.registry.get(model)
    info = spec.info.generation
    if info is None:
        raise InvalidInput(f"Model {spec.name!r} is for the task {spec.task}, and does not converse.", field="model")
    if info.chat_template is None:
        raise InvalidInput(
            f"Model {spec.name!r} has no chat template, so it only completes texts: send them to /v1/completions or "
            "/api/generate, or register it with --chat-template.",
            field="model",
        )
    return info


def _error(error: UniModelError, rid: str) -> AnthropicError:
    kind = _KINDS.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    return AnthropicError(error=AnthropicErrorDetail(type=kind, message=sentence(error)), request_id=rid)


def _error_event(error: UniModelError, rid: str) -> bytes:
    body = _error(error, rid)
    return event("error", error=body.error, request_id=body.request_id)


DIALECT = Dialect(
    "anthropic",
    (_MESSAGES, _COUNT),
    {_MESSAGES.operation_id: _messages, _COUNT.operation_id: _count_tokens},
    _error,
    _error_event,
    b"request-id",
)

__all__ = ["DIALECT"]
