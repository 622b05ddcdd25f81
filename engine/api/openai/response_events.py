"""The events of a streamed response.

A response is a list of items: what the model thought, what it said, which tools it calls. Each is opened, added to and
closed before the next one, and every event carries its number. An event with more text is written for every token of
every reader, so its bytes are put together from parts that were encoded once.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.generation import Usage
from engine.api.http import encode_json
from engine.api.openai.common import ChoiceLogprob, choice_logprobs
from engine.api.openai.response_object import (
    AnswerCall,
    AnswerItem,
    AnswerMessage,
    AnswerReasoning,
    AnswerText,
    AnswerThought,
    ItemStatus,
    ResponseObject,
    finish,
    new_call,
    new_message,
    new_reasoning,
)
from engine.transport.generation import Delta, ToolCallDelta


class ResponseEvents:
    """Turns the deltas of one response into server-sent events. `response` is one to which nothing was added yet."""

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._number = 0
        self._output: list[AnswerItem] = []
        """The last one is open while `_texts` is not `None`."""
        self._texts: list[str] | None = None
        """What was added to the open item."""
        self._logprobs: list[ChoiceLogprob] = []
        self._call = -1
        """Index of the open call among the calls."""
        self._delta_head = b""
        """The beginning of an event that adds text to the open item."""

    def begin(self) -> bytes:
        """The events before the first delta."""
        parts: list[bytes] = []
        self._emit(parts, "response.created", response=self._response)
        self._emit(parts, "response.in_progress", response=self._response)
        return b"".join(parts)

    def of(self, deltas: list[Delta]) -> bytes:
        """The events of some deltas, in one piece."""
        parts: list[bytes] = []
        for delta in deltas:
            if delta.reasoning:
                self._open_reasoning(parts)
                self._add(parts, delta.reasoning)
            if delta.content or (delta.logprobs and not delta.reasoning and not delta.tool_calls):
                self._open_message(parts)
                self._add(parts, delta.content, choice_logprobs(delta.logprobs))
            for call in delta.tool_calls:
                self._open_call(parts, call)
                if call.arguments:
                    self._add(parts, call.arguments)
            if delta.finish is not None:
                self._end(parts, delta.finish != "length", delta.usage or Usage(prompt_tokens=0))
        return b"".join(parts)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _open_reasoning(self, parts: list[bytes]) -> None:
        if not self._is_open(AnswerReasoning):
            self._open(parts, new_reasoning("", "in_progress"), "response.reasoning_text.delta")

    def _open_message(self, parts: list[bytes]) -> None:
        if not self._is_open(AnswerMessage):
            self._open(parts, new_message("", "in_progress"), "response.output_text.delta")

    def _open_call(self, parts: list[bytes], call: ToolCallDelta) -> None:
        if not self._is_open(AnswerCall) or self._call != call.index:
            self._call = call.index
            item = new_call(call.id or "", call.name or "", "", "in_progress")
            self._open(parts, item, "response.function_call_arguments.delta")

    def _is_open(self, kind: type[AnswerItem]) -> bool:
        return self._texts is not None and isinstance(self._output[-1], kind)

    def _open(self, parts: list[bytes], item: AnswerItem, delta_event: str) -> None:
        """Adds an item, having closed the one before."""
        self._close(parts, "completed")
        self._output.append(item)
        self._texts = []
        index = len(self._output) - 1
        shown: AnswerItem = item
        place = {"item_id": item.id, "output_index": index}
        if not isinstance(item, AnswerCall):
            shown = msgspec.structs.replace(item, content=[])
            place["content_index"] = 0
        self._emit(parts, "response.output_item.added", output_index=index, item=shown)
        if not isinstance(item, AnswerCall):
            self._emit(parts, "response.content_part.added", **place, part=item.content[0])
        head = encode_json({"type": delta_event, **place})[:-1]
        self._delta_head = b"event: %s\ndata: %s" % (delta_event.encode(), head)

    # --- adding and closing ------------------------------------------------------------------------------------------

    def _add(self, parts: list[bytes], text: str, logprobs: list[ChoiceLogprob] | None = None) -> None:
        """Adds text to the open item; `logprobs` when the item has them."""
        assert self._texts is not None
        self._texts.append(text)
        parts += self._delta_head, b',"sequence_number":%d,"delta":' % self._number, encode_json(text)
        self._number += 1
        if logprobs is not None:
            self._logprobs += logprobs
            parts += b',"logprobs":', encode_json(logprobs) if logprobs else b"[]"
        parts.append(b"}\n\n")

    def _close(self, parts: list[bytes], status: ItemStatus) -> None:
        """Closes the open item, if there is one."""
        if self._texts is None:
            return
        item, index = self._output[-1], len(self._output) - 1
        text, self._texts = "".join(self._texts), None
        item.status = status
        place = {"item_id": item.id, "output_index": index}
        match item:
            case AnswerCall():
                item.arguments = text
                self._emit(parts, "response.function_call_arguments.done", **place, name=item.name, arguments=text)
            case AnswerReasoning():
                item.content = [AnswerThought(text)]
                self._emit(parts, "response.reasoning_text.done", **place, content_index=0, text=text)
            case AnswerMessage():
                item.content = [AnswerText(text=text, logprobs=self._logprobs)]
                self._emit(
                    parts, "response.output_text.done", **place, content_index=0, text=text, logprobs=self._logprobs
                )
                self._logprobs = []
        if not isinstance(item, AnswerCall):
            self._emit(parts, "response.content_part.done", **place, content_index=0, part=item.content[0])
        self._emit(parts, "response.output_item.done", output_index=index, item=item)

    def _end(self, parts: list[bytes], complete: bool, usage: Usage) -> None:
        """Closes the response. One in which nothing was said or called has an empty message."""
        if all(isinstance(item, AnswerReasoning) for item in self._output):
            self._open_message(parts)
        self._close(parts, "completed" if complete else "incomplete")
        finish(self._response, self._output, complete, usage)
        self._emit(parts, f"response.{self._response.status}", response=self._response)

    def _emit(self, parts: list[bytes], kind: str, **fields: Any) -> None:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        parts.append(b"event: %s\ndata: %s\n\n" % (kind.encode(), encode_json(event)))
