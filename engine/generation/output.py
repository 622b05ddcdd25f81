"""From the text that a model generates to what it means: the answer, the thoughts before it, and calls of tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.generation.calls import CallParser, new_call_id
from engine.generation.harmony import HarmonyParser
from engine.generation.reader import Event
from engine.generation.reasoning import HARMONY_REASONING, ReasoningFormat, ReasoningSplitter
from engine.generation.tools import HARMONY, ToolFormat
from engine.transport.generation import Tool, ToolCallDelta


@dataclass(slots=True)
class Parsed:
    """What a piece of generated text adds to a choice."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)


class OutputParser:
    """Reads one choice. Text in which nothing is looked for passes through as it is."""

    def __init__(
        self,
        tool_format: ToolFormat | None = None,
        reasoning: ReasoningFormat | None = None,
        *,
        reasoning_open: bool = False,
        tools: Sequence[Tool] = (),
        whole_calls: bool = False,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        """
        `tool_format` is that of calls, `None` when none are expected of the known `tools`; calls of others are text.
        `reasoning_open` says that the prompt ends inside the thoughts. `whole_calls` makes each call come in one piece
        with valid arguments, and as text when it is cut off; otherwise its arguments come as they are written.
        """
        self.called = False
        """Whether the choice calls a tool."""
        self._harmony: HarmonyParser | None = None
        self._splitter: ReasoningSplitter | None = None
        self._calls: CallParser | None = None
        if reasoning is HARMONY_REASONING or tool_format is HARMONY:
            self._harmony = HarmonyParser(tools, whole_calls, new_id)
            return
        if reasoning is not None:
            self._splitter = ReasoningSplitter(reasoning, reasoning_open)
        if tool_format is not None and tools:
            self._calls = CallParser(tool_format, tools, whole_calls, new_id)

    @property
    def thinks(self) -> bool:
        """Whether the answer is among its thoughts: behind the mark that begins them, before the one that ends them."""
        if self._harmony is not None:
            return self._harmony.thinks
        return self._splitter is not None and self._splitter.thinks

    def feed(self, text: str) -> Parsed:
        """Takes in more text, and returns what is known by it; the rest comes later."""
        if self._harmony is not None:
            reasoning, events = self._harmony.feed(text)
            return self._parsed(reasoning, events)
        reasoning = ""
        if self._splitter is not None:
            reasoning, text = self._splitter.feed(text)
        if self._calls is None:
            return Parsed(text, reasoning)
        return self._parsed(reasoning, self._calls.feed(text) if text else [])

    def finish(self) -> Parsed:
        """What was held back. To be called once, at the end of the choice."""
        if self._harmony is not None:
            return self._parsed(*self._harmony.finish())
        reasoning, text = self._splitter.finish() if self._splitter is not None else ("", "")
        if self._calls is None:
            return Parsed(text, reasoning)
        return self._parsed(reasoning, (self._calls.feed(text) if text else []) + self._calls.finish())

    def _parsed(self, reasoning: str, events: list[Event]) -> Parsed:
        parsed = Parsed(reasoning=reasoning)
        for event in events:
            if isinstance(event, str):
                parsed.content += event
            else:
                parsed.tool_calls.append(event)
                self.called = True
        return parsed
