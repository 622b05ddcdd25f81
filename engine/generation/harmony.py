"""Reads the answers of gpt-oss, which have channels: thoughts, calls of tools, and what is for the user.

An answer is a sequence of messages ``<|start|>assistant<|channel|>NAME<|message|>TEXT<|end|>``, of which the prompt has
written the beginning of the first. A call's message is addressed: ``… to=functions.NAME …``, and its text is the
arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from engine.generation.reader import Event
from engine.generation.reasoning import ends_with_part_of
from engine.transport.generation import Tool, ToolCallDelta

_MESSAGE = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
_END = re.compile("|".join(map(re.escape, _ENDS)))
_BEGIN = re.compile(r"\s*(?:<\|start\|>)?(?:assistant)?\s*(?:to=\S+\s*)?<\|channel\|>")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([\w.:/-]+)")
_LONGEST_HEAD = 200


class HarmonyParser:
    """Reads one answer. See `engine.generation.calls.CallParser` for `whole`."""

    def __init__(self, tools: Sequence[Tool], whole: bool, new_id: Callable[[], str]) -> None:
        self._tools = {tool.name for tool in tools}
        self._whole = whole
        self._new_id = new_id
        self._text = ""
        self._kind = "head"
        """What is being read: ``head``, ``reasoning``, ``content`` or ``call``."""
        self._name = ""
        self._calls = 0
        self._pending = ""
        """Arguments of a call that comes as a whole."""
        self._ended = False

    @property
    def thinks(self) -> bool:
        """Whether the answer is among its thoughts."""
        return self._kind == "reasoning"

    def feed(self, text: str) -> tuple[str, list[Event]]:
        """More reasoning, and more of the answer and its calls."""
        self._text += text
        return self._read()

    def finish(self) -> tuple[str, list[Event]]:
        """What was held back, at the end of the answer."""
        self._ended = True
        reasoning, events = self._read()
        if self._kind == "call" and self._pending:
            events.append(self._whole_call())
        return reasoning, events

    def _read(self) -> tuple[str, list[Event]]:
        reasoning: list[str] = []
        events: list[Event] = []
        while self._text:
            if self._kind == "head":
                if not self._head(events):
                    break
                continue
            end = _END.search(self._text)
            held = 0 if end or self._ended else max(ends_with_part_of(self._text, mark) for mark in _ENDS)
            body = self._text[: end.start() if end else len(self._text) - held]
            self._text = self._text[end.end() if end else len(body) :]
            if self._kind == "reasoning":
                reasoning.append(body)
            elif self._kind == "content":
                events.append(body)
            elif self._whole:
                self._pending += body
            else:
                events.append(ToolCallDelta(index=self._calls - 1, arguments=body))
            if end is None:
                break
            if self._pending:
                events.append(self._whole_call())
            self._kind = "head"
        return "".join(reasoning), [event for event in events if event]

    def _head(self, events: list[Event]) -> bool:
        """Reads the beginning of a message, if it is there; what does not look like one is the answer's text."""
        head, found, rest = self._text.partition(_MESSAGE)
        found = found if len(head) <= _LONGEST_HEAD else ""
        begins = _BEGIN.match(head) is not None
        if not found:
            start = self._text.lstrip()
            may_begin = begins or any(m.startswith(start[: len(m)]) for m in ("<|start|>", "<|channel|>", "assistant"))
            if (
                not self._ended
                and len(self._text) < _LONGEST_HEAD + len(_MESSAGE)
                and (may_begin or start.startswith("to="))
            ):
                return False
            if self._ended and begins:
                self._text = ""
                return False
        if not (found and begins):
            self._kind = "content"
            return True
        self._text = rest
        channel = head[head.index("<|channel|>") + len("<|channel|>") :].strip()
        recipient = _RECIPIENT.search(head)
        if recipient and recipient[1] in self._tools:
            self._kind, self._name = "call", recipient[1]
            if not self._whole:
                events.append(ToolCallDelta(index=self._calls, id=self._new_id(), name=self._name))
                self._calls += 1
        else:
            self._kind = "reasoning" if channel.startswith("analysis") else "content"
        return True

    def _whole_call(self) -> Event:
        """The call that was read, or its text when its arguments are not an object."""
        text, self._pending = self._pending.strip(), ""
        try:
            msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            return text
        self._calls += 1
        return ToolCallDelta(index=self._calls - 1, id=self._new_id(), name=self._name, arguments=text)
