"""The chunks of a streamed chat completion.

A chunk is written for every token of every reader, so its bytes are put together from parts that were encoded once.
"""

from __future__ import annotations

from typing import Any

from backends.generation import Usage
from engine.api.http import encode_json
from engine.api.openai.common import DONE, Head, choice_logprobs, usage_of
from engine.transport.generation import Delta


class ChatChunks:
    """Turns the deltas of one request into server-sent events."""

    def __init__(self, head: Head, choices: int, logprobs: bool, include_usage: bool) -> None:
        common = {"id": head.id, "object": "chat.completion.chunk", "created": head.created, "model": head.model}
        start = b"data: " + encode_json({**common, "system_fingerprint": head.fingerprint})[:-1]
        self._start = start
        self._opens = [b'%s,"choices":[{"index":%d,"delta":' % (start, index) for index in range(choices)]
        self._end = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._close = b',"logprobs":null,"finish_reason":null}]' + self._end
        self._logprobs = logprobs
        self._include_usage = include_usage
        self._begun = [False] * choices
        self._usages: list[Usage] = []
        self._left = choices

    def of(self, deltas: list[Delta]) -> bytes:
        """The chunks of some deltas, in one piece; with the last one's, the end of the stream."""
        parts: list[bytes] = []
        for delta in deltas:
            self._write(delta, parts)
        return b"".join(parts)

    def _write(self, delta: Delta, parts: list[bytes]) -> None:
        start = self._opens[delta.choice]
        if not self._begun[delta.choice]:
            self._begun[delta.choice] = True
            content = b"null" if delta.tool_calls and not delta.content else b'""'
            parts += start, b'{"role":"assistant","content":', content, b',"refusal":null}', self._close
        if delta.content and not (self._logprobs or delta.reasoning or delta.tool_calls):
            parts += start, b'{"content":', encode_json(delta.content), b"}", self._close
        elif delta.content or delta.reasoning or delta.tool_calls or delta.logprobs:
            parts += start, encode_json(_fields(delta)), self._closing(delta)
        if delta.finish is not None:
            parts += start, b'{},"logprobs":null,"finish_reason":"%s"}]' % delta.finish.encode(), self._end
            self._finish(delta.usage, parts)

    def _closing(self, delta: Delta) -> bytes:
        if not (self._logprobs and delta.logprobs):
            return self._close
        logprobs = encode_json({"content": choice_logprobs(delta.logprobs), "refusal": None})
        return b',"logprobs":%s,"finish_reason":null}]%s' % (logprobs, self._end)

    def _finish(self, usage: Usage | None, parts: list[bytes]) -> None:
        """One choice is whole; with the last one, so is the answer. Code that is no model of tokens has no usage."""
        self._left -= 1
        if usage is not None:
            self._usages.append(usage)
        if self._left:
            return
        if self._include_usage:
            total = encode_json(usage_of([self._usages]) if self._usages else None)
            parts += self._start, b',"choices":[],"usage":', total, b"}\n\n"
        parts.append(DONE)


def _fields(delta: Delta) -> dict[str, Any]:
    """The ``delta`` of a chunk."""
    fields: dict[str, Any] = {}
    if delta.reasoning:
        fields["reasoning_content"] = delta.reasoning
    if delta.content or not (delta.reasoning or delta.tool_calls):
        fields["content"] = delta.content
    if delta.tool_calls:
        fields["tool_calls"] = [
            {
                "index": call.index,
                **({} if call.id is None else {"id": call.id, "type": "function"}),
                "function": {**({} if call.name is None else {"name": call.name}), "arguments": call.arguments},
            }
            for call in delta.tool_calls
        ]
    return fields
