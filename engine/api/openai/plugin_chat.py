"""Chat with a plugin that answers text: the conversation goes to its code as it is, and its text is the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from engine.api.dialect import Call
from engine.api.http import encode_json
from engine.api.openai.chat_request import ChatCompletionRequest
from engine.api.openai.messages import UserMessage
from engine.api.openai.sampling import TextFormat
from engine.errors import InvalidInput, InvalidRequest
from engine.generation.completion import Completion
from engine.pool import Entry
from engine.transport.generation import Delta
from engine.types import JsonAnswer, JsonInput

_PASSED_ON = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
)
"""Fields that a plugin gets under their own names when they are given; what it makes of them is its own affair."""

_REFUSED = (
    "logit_bias",
    "stop_token_ids",
    "ignore_eos",
    "grammar",
    "regex",
    "truncate",
    "adapters",
    "logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "reasoning_effort",
    "reasoning_format",
    "chat_template_kwargs",
    "continue_final_message",
)
"""Fields that only a model which generates tokens can honour."""

_TEXT_KEYS = ("output", "text", "content")


def is_plugin(entry: Entry) -> bool:
    """Whether a model is code that takes whole bodies."""
    loaded = entry.dispatcher.loaded
    return loaded is not None and loaded.accepts_values and entry.spec.task == "custom"


async def plugin_completion(call: Call, entry: Entry, body: ChatCompletionRequest) -> Completion:
    """A plugin's whole answer. Raises `InvalidRequest` when it is no text."""
    answer = await call.predict(entry, JsonInput(encode_json(plugin_body(entry.spec.name, body))))
    assert isinstance(answer, JsonAnswer)
    return Completion(content=_text(entry.spec.name, answer.data))


async def plugin_deltas(call: Call, entry: Entry, body: ChatCompletionRequest) -> AsyncGenerator[list[Delta], None]:
    """A plugin's answer in the pieces that it streams, or in one if it does not stream."""
    name, loaded = entry.spec.name, entry.dispatcher.loaded
    if loaded is not None and loaded.info.streams:
        data = encode_json({**plugin_body(name, body), "stream": True})
        chunks = call.engine.stream(name, entry.spec.version, data, call.request_id, call.deadline(entry))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield [Delta(content=_text(name, chunk))]
    else:
        completion = await plugin_completion(call, entry, body)
        yield [Delta(content=completion.content)]
    yield [Delta(finish="stop")]


def plugin_body(name: str, body: ChatCompletionRequest) -> dict[str, Any]:
    """What a plugin is given. Raises `InvalidInput` for what no plugin can honour."""
    wishes = [f for f in _REFUSED if getattr(body, f) not in (None, False) and not _is_text(getattr(body, f))]
    if body.n not in (None, 1):
        wishes.append("n")
    if wishes:
        raise InvalidInput(f"Model {name!r} is a plugin, which cannot honour {wishes[0]}.", field=wishes[0])
    texts = [m.content for m in body.messages if isinstance(m, UserMessage)]
    given = {f: getattr(body, f) for f in _PASSED_ON}
    return {
        "messages": msgspec.to_builtins(body.messages),
        "input": _joined(texts[-1]) if texts else "",
        **{f: value for f, value in given.items() if value is not None},
    }


def _is_text(value: Any) -> bool:
    return isinstance(value, TextFormat)


def _joined(content: str | list[Any]) -> str:
    """The text of a user's message, without its images, which are among the messages."""
    return content if isinstance(content, str) else "".join(getattr(part, "text", "") for part in content)


def _text(name: str, data: bytes) -> str:
    """The text in an answer of a plugin."""
    answer = msgspec.json.decode(data)
    if isinstance(answer, dict):
        for key in _TEXT_KEYS:
            if isinstance(answer.get(key), str):
                text: str = answer[key]
                return text
    raise InvalidRequest(
        f"Model {name!r} answered without a text in {', '.join(_TEXT_KEYS[:-1])} or {_TEXT_KEYS[-1]}, so it cannot "
        f"chat; use POST /v1/models/{name}:predict.",
        field="model",
    )
