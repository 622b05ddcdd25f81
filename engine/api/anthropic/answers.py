"""Generated answers in Anthropic's shape: whole, and as events."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.generation import Usage
from engine.api.anthropic.bodies import (
    AnswerBlock,
    AnthropicAnswer,
    AnthropicTextAnswer,
    AnthropicThinkingAnswer,
    AnthropicToolUseAnswer,
    AnthropicUsage,
    StopReason,
)
from engine.api.http import encode_json
from engine.generation.completion import Completion
from engine.transport.generation import Delta, FinishReason, ToolCall, ToolCallDelta


def whole(message_id: str, model: str, completion: Completion) -> AnthropicAnswer:
    """An answer that is not streamed."""
    content: list[AnswerBlock] = []
    if completion.reasoning:
        content.append(AnthropicThinkingAnswer(thinking=completion.reasoning))
    if completion.content:
        content.append(AnthropicTextAnswer(text=completion.content))
    content += [_tool_use(c) for c in completion.tool_calls]
    return AnthropicAnswer(
        id=message_id,
        model=model,
        content=content,
        stop_reason=_reason(completion.finish, completion.stop_text),
        stop_sequence=completion.stop_text,
        usage=_usage(completion.usage),
    )


class Events:
    """Turns the deltas of one answer into server-sent events. Owns which block is open."""

    def __init__(self, message_id: str, model: str) -> None:
        self._start = AnthropicAnswer(id=message_id, model=model, content=[], stop_reason=None, usage=AnthropicUsage())
        self._begun = False
        self._index = -1
        self._open: str | None = None
        """What the open block is for."""

    def of(self, delta: Delta) -> bytes:
        """The events of one delta; with its `finish`, the last."""
        events: list[bytes] = []
        if not self._begun:
            self._begun = True
            events.append(event("message_start", message=self._start))
        if delta.reasoning:
            self._enter("thinking", AnthropicThinkingAnswer(thinking=""), events)
            events.append(self._more({"type": "thinking_delta", "thinking": delta.reasoning}))
        if delta.content:
            self._enter("text", AnthropicTextAnswer(text=""), events)
            events.append(self._more({"type": "text_delta", "text": delta.content}))
        for call in delta.tool_calls:
            self._call(call, events)
        if delta.finish is not None:
            self._leave(events)
            reason = {"stop_reason": _reason(delta.finish, delta.stop_text), "stop_sequence": delta.stop_text}
            usage = _usage(delta.usage or Usage(prompt_tokens=0))
            events += [event("message_delta", delta=reason, usage=usage), event("message_stop")]
        return b"".join(events)

    def _call(self, call: ToolCallDelta, events: list[bytes]) -> None:
        begin = AnthropicToolUseAnswer(id=call.id or "", name=call.name or "", input={})
        self._enter(f"call {call.index}", begin, events)
        if call.arguments:
            events.append(self._more({"type": "input_json_delta", "partial_json": call.arguments}))

    def _enter(self, purpose: str, block: AnswerBlock, events: list[bytes]) -> None:
        """Opens a block, unless it is the one that is open."""
        if self._open == purpose:
            return
        self._leave(events)
        self._open = purpose
        self._index += 1
        events.append(event("content_block_start", index=self._index, content_block=block))

    def _leave(self, events: list[bytes]) -> None:
        if self._open is not None:
            events.append(event("content_block_stop", index=self._index))
            self._open = None

    def _more(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", index=self._index, delta=delta)


def event(kind: str, **fields: Any) -> bytes:
    """A server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encode_json({"type": kind, **fields}))


def _reason(finish: FinishReason, stop_text: str | None) -> StopReason:
    if finish == "tool_calls":
        return "tool_use"
    if finish == "length":
        return "max_tokens"
    return "end_turn" if stop_text is None else "stop_sequence"


def _usage(usage: Usage) -> AnthropicUsage:
    return AnthropicUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
    )


def _tool_use(call: ToolCall) -> AnthropicToolUseAnswer:
    """A call. The arguments of one that the end of the answer cut off are no object yet, and left out."""
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        arguments = {}
    return AnthropicToolUseAnswer(id=call.id, name=call.name, input=arguments)
