"""Generated answers in Ollama's shape: whole, and in lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from backends.generation import TokenLogprob, Usage
from engine.api.http import encode_json
from engine.api.ollama.bodies import (
    OllamaAnswerMessage,
    OllamaChatResponse,
    OllamaFunction,
    OllamaGenerateResponse,
    OllamaLogprob,
    OllamaToolCall,
)
from engine.generation.completion import Completion
from engine.transport.generation import Delta, FinishReason, ToolCall

UNSET = msgspec.UNSET

_LEAST = -9999.0
"""Stands for the logarithm of 0, which JSON cannot say."""

Ending = Literal["stop", "length", "load", "unload"]


@dataclass(slots=True)
class Said:
    """A part of an answer, or all of it."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] | None = None
    logprobs: list[TokenLogprob] | None = None
    first_call: int = 0
    """The place of the first of `tool_calls` among all of the answer."""


@dataclass(slots=True)
class Clock:
    """When a request came, and how long its model was loading."""

    now: Callable[[], float]
    begin: float
    load_seconds: float = 0.0

    def numbers(self, usage: Usage) -> dict[str, int]:
        """The durations and counts of an answer."""
        return {
            "total_duration": nanoseconds(self.now() - self.begin),
            "load_duration": nanoseconds(self.load_seconds),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": nanoseconds(usage.prompt_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": nanoseconds(usage.generation_seconds),
        }


def chat(model: str, said: Said, done: bool, **end: Any) -> OllamaChatResponse:
    """One object of a chat's answer."""
    message = OllamaAnswerMessage(content=said.content, thinking=said.thinking or UNSET)
    if said.tool_calls:
        calls = enumerate(said.tool_calls, said.first_call)
        message.tool_calls = [_call(c, i) for i, c in calls if _is_whole(c)] or UNSET
    logprobs = logprobs_of(said.logprobs) if said.logprobs else UNSET
    return OllamaChatResponse(
        model=model, created_at=datetime.now(UTC), message=message, done=done, logprobs=logprobs, **end
    )


def generate(model: str, said: Said, done: bool, **end: Any) -> OllamaGenerateResponse:
    """One object of the answer to a generate."""
    return OllamaGenerateResponse(
        model=model,
        created_at=datetime.now(UTC),
        response=said.content,
        thinking=said.thinking or UNSET,
        done=done,
        logprobs=logprobs_of(said.logprobs) if said.logprobs else UNSET,
        **end,
    )


Response = OllamaChatResponse | OllamaGenerateResponse
Shape = Callable[..., Response]
"""`chat` or `generate`."""


def whole(shape: Shape, model: str, completion: Completion, clock: Clock) -> Response:
    """An answer that is not streamed."""
    said = Said(completion.content, completion.reasoning, completion.tool_calls, completion.logprobs)
    return shape(model, said, True, **_end(completion.finish, completion.usage, completion.context, clock))


def _end(finish: FinishReason, usage: Usage, context: list[int], clock: Clock) -> dict[str, Any]:
    """What the last object of an answer has, beside all others."""
    end: dict[str, Any] = {"done_reason": "length" if finish == "length" else "stop", **clock.numbers(usage)}
    return {**end, "context": context} if context else end


class Lines:
    """Turns the deltas of one answer into lines. A call of a tool is one line, when it is whole."""

    def __init__(self, shape: Shape, model: str, clock: Clock) -> None:
        self._shape = shape
        self._model = model
        self._clock = clock
        self._calls: list[ToolCall] = []
        self._sent = 0
        """Calls that have been written."""

    def of(self, delta: Delta) -> bytes:
        """The lines of one delta; with its `finish`, the last."""
        self._collect(delta)
        ended = len(self._calls) if delta.finish is not None else max(self._sent, len(self._calls) - 1)
        said = Said(delta.content, delta.reasoning, self._calls[self._sent : ended], delta.logprobs, self._sent)
        self._sent = ended
        lines = b""
        if said.content or said.thinking or said.logprobs or any(map(_is_whole, said.tool_calls or ())):
            lines += self._line(said, False)
        if delta.finish is not None:
            usage = delta.usage or Usage(prompt_tokens=0)
            lines += self._line(Said(), True, **_end(delta.finish, usage, delta.context, self._clock))
        return lines

    def _collect(self, delta: Delta) -> None:
        for part in delta.tool_calls:
            if part.index == len(self._calls):
                self._calls.append(ToolCall(id=part.id or "", name=part.name or "", arguments=""))
            self._calls[part.index].arguments += part.arguments

    def _line(self, said: Said, done: bool, **end: Any) -> bytes:
        return encode_json(self._shape(self._model, said, done, **end)) + b"\n"


def _is_whole(call: ToolCall) -> bool:
    """Whether a call's arguments are an object. Those of a call that the end of the answer cut off are not: it is left
    out, and ``done_reason`` is ``length``."""
    return _arguments(call) is not None


def _arguments(call: ToolCall) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        return None
    return value if isinstance(value, dict) else None


def _call(call: ToolCall, index: int) -> OllamaToolCall:
    function = OllamaFunction(name=call.name, arguments=_arguments(call) or {}, index=index)
    return OllamaToolCall(function=function, id=call.id or UNSET)


def logprobs_of(tokens: Iterable[TokenLogprob]) -> list[OllamaLogprob]:
    """Tokens with their probabilities, and those of the alternatives."""
    return [
        OllamaLogprob(
            token=_text(t),
            logprob=max(t.logprob, _LEAST),
            bytes=list(t.text),
            top_logprobs=logprobs_of(t.top) if t.top else UNSET,
        )
        for t in tokens
    ]


def _text(token: TokenLogprob) -> str:
    return token.text.decode(errors="replace")


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama counts it."""
    return round(seconds * 1e9)
